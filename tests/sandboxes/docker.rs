//! What only containers do: images, warmth, loss, sweeping; and the images that all tests with docker use.
//!
//! Images are made from programs of this machine (a static busybox; perl and bash with their libraries), so that no
//! registry is needed. A machine without a docker daemon or without busybox-static fails these tests.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveImageOptionsBuilder,
};
use devo::sandboxes::docker::description::Build;
use devo::sandboxes::docker::image::SourceFile;
use devo::sandboxes::docker::{Described, HOME_LABEL, RUN_LABEL, Settings, Source, sweep};
use devo::sandboxes::{
    Command, Exit, Finished, LimitHit, Network, OutputSink, Sandbox, SandboxError, SandboxKind, open,
};
use futures_util::StreamExt as _;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::{HANGS, Place, alive, escape, exec, marker, stdout, wait_until};

/// A busybox and nothing else: no libc, no bash, no init.
const BARE: &str = "devo-test-bare:1";
/// The same with bash and perl, for attacks.
const TOOLS: &str = "devo-test-tools:1";

/// Files of a repository that is none.
struct Files(Vec<(&'static str, String)>);

impl Source for Files {
    fn files(&self, folder: &str) -> Result<Vec<SourceFile>, String> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let file = |(path, content): &(&str, String)| {
            let path = path.strip_prefix(&prefix)?.to_owned();
            Some(SourceFile { path, content: content.clone().into_bytes(), executable: false, link: false })
        };
        Ok(self.0.iter().filter_map(file).collect())
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        let found = self.0.iter().find(|(known, _)| *known == path);
        found.map(|(_, content)| content.clone().into_bytes()).ok_or_else(|| "there is no such file".to_owned())
    }
}

/// For the bare image; each call is a run of its own.
pub fn settings() -> Settings {
    Settings {
        home: format!("/devo-test/{}", std::process::id()),
        run: std::env::var("DEVO_TEST_RUN").unwrap_or_else(|_| marker()),
        described: Described::Image(BARE.to_owned()),
        source: Arc::new(Files(Vec::new())),
        yaml: Arc::new(|file, bytes| match devo::yaml::parse_foreign(file, bytes) {
            Ok(document) => Ok(document.root.to_json()),
            Err(wrong) => Err(devo::yaml::render(&wrong, &String::from_utf8_lossy(bytes), false)),
        }),
        logs: std::env::temp_dir().join("devo-test-logs"),
        masker: devo::secrets::Masker::default(),
        writable: false,
        runtime: None,
        cpus: None,
    }
}

fn sandbox(own: Settings) -> Arc<dyn Sandbox> {
    let mut settings = super::settings();
    settings.docker = Some(own);
    open(SandboxKind::Docker, &settings).expect("it can be made on this machine")
}

fn docker() -> Docker {
    Docker::connect_with_defaults().expect("a docker daemon is needed")
}

/// Makes an image unless it is there.
async fn image(name: &str, extra: &[&str]) {
    let docker = docker();
    if docker.inspect_image(name).await.is_ok() {
        return;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.is_file());
    let busybox = busybox.expect("apt-get install busybox-static");
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: Vec<u8>, mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path.trim_start_matches('/'), content.as_slice()).expect("memory");
    };
    add("bin/busybox", fs::read(busybox).expect("readable"), 0o755);
    add("secret-of-the-image", b"x".to_vec(), 0o600);
    for path in extra.iter().flat_map(|program| needed(Path::new(program))).collect::<BTreeSet<_>>() {
        let mode = path.metadata().expect("it is there").permissions().mode();
        add(path.to_str().expect("plain"), fs::read(&path).expect("readable"), mode);
    }
    let applets = std::process::Command::new(busybox).arg("--list").output().expect("it runs").stdout;
    for applet in String::from_utf8_lossy(&applets).lines().filter(|applet| *applet != "busybox") {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "/bin/busybox").expect("memory");
    }
    let (repo, tag) = name.split_once(':').expect("it has a tag");
    let options = CreateImageOptionsBuilder::default().from_src("-").repo(repo).tag(tag).build();
    let tar = tar.into_inner().expect("memory").into();
    let mut said = docker.create_image(Some(options), Some(bollard::body_full(tar)), None);
    while let Some(step) = said.next().await {
        step.expect("the image can be made");
    }
}

/// A program of this machine with its libraries; a folder with all that is in it.
fn needed(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("readable").flatten().map(|entry| entry.path());
        return entries.flat_map(|path| if path.is_dir() { needed(&path) } else { vec![path] }).collect();
    }
    let libraries = std::process::Command::new("ldd").arg(path).output().expect("ldd is part of libc-bin").stdout;
    let libraries = String::from_utf8_lossy(&libraries).into_owned();
    let mut found: Vec<PathBuf> =
        libraries.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect();
    found.push(path.to_owned());
    found
}

/// Both images; whoever runs a command with docker waits for them.
pub async fn images() {
    static MADE: OnceCell<()> = OnceCell::const_new();
    MADE.get_or_init(|| async {
        image(BARE, &[]).await;
        image(TOOLS, &["/bin/bash", "/usr/bin/perl", "/usr/lib/x86_64-linux-gnu/perl-base"]).await;
    })
    .await;
}

/// Ids of the containers of a run, whatever their state.
pub async fn containers_of(run: &str) -> Vec<String> {
    let filters = HashMap::from([("label", vec![format!("{RUN_LABEL}={run}")])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let found = docker().list_containers(Some(options)).await.expect("the daemon answers");
    found.into_iter().filter_map(|container| container.id).collect()
}

pub async fn wait_until_gone(run: &str, within: Duration) {
    let start = Instant::now();
    while !containers_of(run).await.is_empty() {
        assert!(start.elapsed() < within, "a container of the run is left after {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// For the image with tools.
pub fn with_tools() -> Settings {
    Settings { described: Described::Image(TOOLS.to_owned()), ..settings() }
}

/// What a command could do to the machine or to the container's own first process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_container_is_bare_and_cannot_be_grown() {
    images().await;
    let (place, tools) = (Place::new(), sandbox(with_tools()));
    for script in [
        "touch /x",
        "touch /bin/x",
        "touch /etc/x",
        "touch /.devo/x",
        "rm -f /.devo/devo",
        "echo x >> /.devo/devo",
        "bash -c 'exec 3>> /proc/sys/kernel/core_pattern'",
        "bash -c 'exec 3>> /proc/sys/vm/drop_caches'",
        "bash -c 'exec 3>> /proc/sysrq-trigger'",
        "ls /var/run/docker.sock /run/docker.sock",
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /",
        "unshare -U true",
        "unshare -n true",
        "mknod n c 1 3",
        "mknod n b 8 0",
        "chroot / true",
        "chown 12345 /workspace",
        "cat /dev/mem",
        "kill -9 1; kill -0 1 && cat /proc/1/environ",
        "cat /proc/1/mem",
        "echo x > /proc/1/oom_score_adj",
        "ls /proc/1/root/",
        "bash -c 'echo x > /proc/1/fd/1'",
        "hostname other",
        "ip link add x type dummy",
    ] {
        let finished = exec(&*tools, &place.command(script)).await;
        assert!(!finished.exit.is_success(), "`{script}` went through: {}", finished.stdout.text());
    }
    let status = "grep -E '^(Cap(Prm|Eff|Bnd|Amb|Inh)|NoNewPrivs|Seccomp):' /proc/self/status";
    let text = stdout(&*tools, &place.command(status)).await;
    let is_none =
        |line: &str| line.ends_with("\t0000000000000000") || ["NoNewPrivs:\t1", "Seccomp:\t2"].contains(&line);
    assert!(text.lines().count() == 7 && text.lines().all(is_none), "{text}");
    let interfaces = stdout(&*tools, &place.command("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '")).await;
    assert_eq!(
        interfaces.lines().filter(|name| !["tunl0", "sit0", "ip6tnl0"].contains(name)).collect::<Vec<_>>(),
        ["lo"]
    );
    assert_eq!(stdout(&*tools, &place.command("hostname")).await, "sandbox\n");
    tools.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_share_a_container_and_nothing_of_one_lives_into_the_next() {
    images().await;
    let own = settings();
    let (place, marker, docker) = (Place::new(), marker(), sandbox(own.clone()));
    let first =
        stdout(&*docker, &place.command("echo kept > /tmp/x; echo home > ~/x; cat /proc/sys/kernel/random/boot_id"))
            .await;
    let containers = containers_of(&own.run).await;
    assert_eq!(containers.len(), 1);
    assert_eq!(stdout(&*docker, &place.command("cat /tmp/x ~/x")).await, "kept\nhome\n");
    exec(&*docker, &place.command(&format!("{} exit 0", escape(&marker)))).await;
    assert_eq!(stdout(&*docker, &place.command("ps | grep -c '[s]leep'; true")).await, "0\n");
    let second = stdout(&*docker, &place.command("cat /proc/sys/kernel/random/boot_id")).await;
    assert_eq!((containers_of(&own.run).await, second), (containers, first));
    docker.close().await;
    assert!(containers_of(&own.run).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_side_by_side() {
    images().await;
    let own = settings();
    let (place, docker) = (Place::new(), sandbox(own.clone()));
    // Each waits for the other.
    let meet = |mine: &str, other: &str| {
        place.command(&format!("touch {mine}; while [ ! -e {other} ]; do sleep 0.05; done; echo met"))
    };
    let (one, two) = (meet("one", "two"), meet("two", "one"));
    let (one, two) = tokio::join!(stdout(&*docker, &one), stdout(&*docker, &two));
    assert_eq!((one.as_str(), two.as_str()), ("met\n", "met\n"));
    assert_eq!(containers_of(&own.run).await.len(), 2);
    docker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_was_replaced_is_seen_as_it_is_now() {
    images().await;
    let own = settings();
    let (place, docker) = (Place::new(), sandbox(own.clone()));
    for content in ["first", "second", "third"] {
        fs::remove_dir_all(&place.workspace).expect("ours");
        fs::create_dir(&place.workspace).expect("ours");
        fs::write(place.workspace.join("file"), content).expect("ours");
        assert_eq!(stdout(&*docker, &place.command("cat file; touch new")).await, content);
        assert!(place.workspace.join("new").exists());
    }
    wait_for_count(&own.run, 1).await;
    docker.close().await;
}

async fn wait_for_count(run: &str, count: usize) {
    let start = Instant::now();
    while containers_of(run).await.len() != count {
        assert!(start.elapsed() < HANGS, "there never were {count} containers");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_is_killed_is_told_and_replaced() {
    images().await;
    let own = settings();
    let (place, docker_sandbox) = (Place::new(), sandbox(own.clone()));
    let ready = place.workspace.join("ready");
    let killer = {
        let run = own.run.clone();
        tokio::spawn(async move {
            tokio::task::spawn_blocking(move || wait_until("the command's start", HANGS, || ready.exists()))
                .await
                .expect("it started");
            let id = containers_of(&run).await.remove(0);
            let options = KillContainerOptionsBuilder::default().signal("KILL").build();
            docker().kill_container(&id, Some(options)).await.expect("it lives");
        })
    };
    let command = place.command("touch ready; sleep 1000");
    let result = docker_sandbox.exec(&command, &(), &CancellationToken::new()).await;
    killer.await.expect("it was killed");
    let error = result.expect_err("its container is gone");
    assert!(matches!(error, SandboxError::Container { gone: true, .. }), "{error}");
    assert!(error.to_string().contains("is gone") && error.hint().is_some(), "{error}");
    assert_eq!(stdout(&*docker_sandbox, &place.command("echo again")).await, "again\n");
    // One that was killed while nobody used it is noticed at the next command.
    let id = containers_of(&own.run).await.remove(0);
    super::docker::docker().kill_container(&id, None).await.expect("it lives");
    wait_for_count(&own.run, 0).await;
    assert_eq!(stdout(&*docker_sandbox, &place.command("echo again")).await, "again\n");
    docker_sandbox.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_engine_left_is_swept() {
    images().await;
    let own = Settings { home: format!("/devo-test/{}", marker()), ..settings() };
    let (place, docker_sandbox) = (Place::new(), sandbox(own.clone()));
    stdout(&*docker_sandbox, &place.command("true")).await;
    let network = format!("devo-test-{}", fastrand::u64(..));
    let labels = HashMap::from([(HOME_LABEL.to_owned(), own.home.clone()), (RUN_LABEL.to_owned(), own.run.clone())]);
    let body = bollard::models::NetworkCreateRequest {
        name: network.clone(),
        internal: Some(true),
        labels: Some(labels),
        ..Default::default()
    };
    docker().create_network(body).await.expect("a network");
    let kept = sweep(&own.home, &|run| run == own.run).await.expect("the daemon answers");
    assert_eq!((kept, containers_of(&own.run).await.len()), (0, 1));
    assert_eq!(sweep("/devo-test/another", &|_| false).await.expect("the daemon answers"), 0);
    assert_eq!(sweep(&own.home, &|_| false).await.expect("the daemon answers"), 2);
    assert!(containers_of(&own.run).await.is_empty());
    assert!(docker().inspect_network(&network, None).await.is_err());
}

#[derive(Default)]
struct Notes(std::sync::Mutex<Vec<String>>);

impl OutputSink for Notes {
    fn chunk(&self, _: devo::sandboxes::Stream, _: &[u8]) {}

    fn note(&self, text: &str) {
        self.0.lock().expect("no holder panics").push(text.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_built_once_from_the_files_it_was_approved_with() {
    images().await;
    let stamp = marker();
    let dockerfile = format!(
        "FROM {BARE} AS base\nARG WORD\nENV LD_PRELOAD=/x.so SAID=$WORD\nCOPY file /copied\nRUN echo built-{stamp}\nFROM base AS other\n"
    );
    let build = Build {
        context: String::new(),
        dockerfile: "docker/Dockerfile".to_owned(),
        target: Some("base".to_owned()),
        args: [("WORD".to_owned(), "hello".to_owned())].into(),
    };
    let source = Arc::new(Files(vec![("docker/Dockerfile", dockerfile), ("file", "content".to_owned())]));
    let own = Settings { described: Described::Build(build.clone()), source, ..settings() };
    let place = Place::new();
    let command = place.command("cat /copied; echo \" $SAID $LD_PRELOAD\"");
    let mut ids = Vec::new();
    for round in 0..2 {
        let (docker_sandbox, notes) = (sandbox(own.clone()), Notes::default());
        let finished = docker_sandbox.exec(&command, &notes, &CancellationToken::new()).await.expect("it can be run");
        // The image's variables are the commands', and not our own program's.
        assert_eq!(finished.stdout.text(), "content hello /x.so\n", "{}", finished.stderr.text());
        let notes = notes.0.into_inner().expect("no holder panics").join("\n");
        assert_eq!(notes.contains(&format!("built-{stamp}")), round == 0, "{notes}");
        let id = containers_of(&own.run).await.remove(0);
        ids.push(docker().inspect_container(&id, None).await.expect("it is there").image.expect("it has one"));
        docker_sandbox.close().await;
    }
    assert_eq!(ids[0], ids[1]);
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    docker().remove_image(&ids[0], Some(options), None).await.expect("ours");
    // A step that fails is told with what it said.
    let source = Arc::new(Files(vec![("docker/Dockerfile", format!("FROM {BARE}\nRUN false\n"))]));
    let failing = Build { target: None, args: Default::default(), ..build };
    let docker_sandbox = sandbox(Settings { described: Described::Build(failing), source, ..own });
    let error = docker_sandbox.exec(&command, &(), &CancellationToken::new()).await.expect_err("it cannot be built");
    assert!(error.to_string().contains("RUN false") && error.hint().is_some(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_had_is_an_error_with_a_remedy() {
    let place = Place::new();
    for name in ["127.0.0.1:1/devo-test/absent:1", "Not A Name"] {
        let absent = sandbox(Settings { described: Described::Image(name.to_owned()), ..settings() });
        let error =
            absent.exec(&place.command("true"), &(), &CancellationToken::new()).await.expect_err("no such image");
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_is_there_when_it_is_granted() {
    images().await;
    let (place, tools) = (Place::new(), sandbox(with_tools()));
    let command = place.command("tail -n +3 /proc/net/dev | grep -c eth0");
    assert_eq!(exec(&*tools, &command).await.stdout.text(), "0\n");
    let full = Command { network: Network::Full, ..command };
    assert_eq!(exec(&*tools, &full).await.stdout.text(), "1\n");
    tools.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allow_list_is_kept_per_command_and_refusals_are_told() {
    images().await;
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = [0; 1000];
            let _ = std::io::Read::read(&mut client, &mut request);
            let _ = std::io::Write::write_all(&mut client, b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        }
    });
    let docker_sandbox = sandbox(settings());
    // A busybox asks the proxy for every host, its own loopback included.
    let get = |host: &str| format!("wget -q -O - http://{host}/;");
    let here = format!("127.0.0.1:{port}");
    let mut command = place.command(&format!("{} {} echo; echo $http_proxy", get(&here), get("other.example")));
    command.network = Network::Domains([here.parse().expect("a domain")].into());
    let notes = Notes::default();
    let finished = docker_sandbox.exec(&command, &notes, &CancellationToken::new()).await.expect("it can be run");
    let text = finished.stdout.text();
    assert!(text.starts_with("hello") && text.ends_with("\nhttp://127.0.0.1:3128\n"), "{text}");
    let told = notes.0.into_inner().expect("no holder panics").join("\n");
    assert!(told.contains("refused other.example") && !told.contains(&here), "{told}");
    // Beside the proxy there is no way out, and what one command may reach the next may not.
    command.script = format!("nc -w 2 127.0.0.1 {port} < /dev/null || nc -w 2 10.0.0.1 80 < /dev/null");
    assert!(!exec(&*docker_sandbox, &command).await.exit.is_success());
    command.network = Network::Domains(["other.example".parse().expect("a domain")].into());
    command.script = get(&here);
    let finished = exec(&*docker_sandbox, &command).await;
    assert!(!finished.exit.is_success() && !finished.stdout.text().contains("hello"), "{finished:?}");
    command.network = Network::None;
    command.script = "nc -w 2 127.0.0.1 3128 < /dev/null".to_owned();
    assert!(!exec(&*docker_sandbox, &command).await.exit.is_success());
    docker_sandbox.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_found_by_name_and_end_with_their_scope() {
    images().await;
    let (place, own) = (Place::new(), settings());
    let docker_sandbox = sandbox(own.clone());
    let service = devo::core::service::Service {
        image: BARE.to_owned(),
        env: Default::default(),
        command: Some("nc -ll -p 5432 -e echo hello".to_owned()),
        ready: Some("nc 127.0.0.1 5432 < /dev/null".to_owned()),
        ready_within_s: None,
    };
    let mut command = place.command("nc db 5432 < /dev/null; ip addr | grep -c 'inet .*eth'");
    command.services = Arc::new([("db".to_owned(), service)].into());
    command.scope = "test.1".to_owned();
    assert_eq!(stdout(&*docker_sandbox, &command).await, "hello\n1\n");
    assert_eq!(containers_of(&own.run).await.len(), 2);
    assert_eq!(stdout(&*docker_sandbox, &command).await, "hello\n1\n");
    assert_eq!(containers_of(&own.run).await.len(), 2, "they are kept for the scope");
    // Together with the world, if that is granted.
    let full = Command { network: Network::Full, ..command.clone() };
    assert_eq!(stdout(&*docker_sandbox, &full).await, "hello\n2\n");
    let plain = place.command("nc db 5432 < /dev/null");
    assert!(!exec(&*docker_sandbox, &plain).await.exit.is_success(), "they are not for everybody");
    docker_sandbox.release("test.1").await;
    assert_eq!(containers_of(&own.run).await.len(), 1, "the one without services stays");
    docker_sandbox.close().await;
    assert!(containers_of(&own.run).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_repository_says_what_the_container_is() {
    images().await;
    let place = Place::new();
    let devcontainer =
        format!("{{ // comment\n\"image\": \"{BARE}\", \"containerEnv\": {{\"A\": \"1\"}}, \"remoteUser\": \"dev\"}}");
    let compose = format!(
        "services:\n  app: {{image: '{BARE}', environment: {{A: '2'}}, depends_on: [db]}}\n  db: {{image: '{BARE}', \
         command: nc -ll -p 5432 -e echo hello, healthcheck: {{test: 'nc 127.0.0.1 5432 < /dev/null'}}}}\n"
    );
    let wrong = "services: {app: {image: x, privileged: true}}".to_owned();
    let source: Arc<dyn Source> = Arc::new(Files(vec![
        (".devcontainer/devcontainer.json", devcontainer),
        ("compose.yaml", compose),
        ("wrong.yaml", wrong),
    ]));
    let described = |described| sandbox(Settings { described, source: source.clone(), ..settings() });
    let docker_sandbox = described(Described::Devcontainer(".devcontainer/devcontainer.json".to_owned()));
    let notes = Notes::default();
    let command = place.command("echo $A $USER");
    let finished = docker_sandbox.exec(&command, &notes, &CancellationToken::new()).await.expect("it can be run");
    assert_eq!(finished.stdout.text(), "1 dev\n");
    assert!(notes.0.into_inner().expect("no holder panics").iter().any(|note| note.contains("`dev`")));
    docker_sandbox.close().await;
    let docker_sandbox = described(Described::Compose("compose.yaml".to_owned(), Some("app".to_owned())));
    assert_eq!(stdout(&*docker_sandbox, &place.command("echo $A; nc db 5432 < /dev/null")).await, "2\nhello\n");
    docker_sandbox.close().await;
    for (file, wanted) in [("wrong.yaml", "privileged"), ("absent.yaml", "absent.yaml")] {
        let docker_sandbox = described(Described::Compose(file.to_owned(), None));
        let error = docker_sandbox.exec(&command, &(), &CancellationToken::new()).await.expect_err("it is refused");
        assert!(error.to_string().contains(wanted) && error.hint().is_some(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_folders_are_bounded_and_the_root_is_writable_on_demand() {
    images().await;
    let place = Place::new();
    let docker_sandbox = sandbox(settings());
    let mut command = place.command("");
    command.limits.scratch_bytes = 4 << 20;
    for folder in ["/tmp", "~", "/dev/shm"] {
        command.script = format!("head -c 20000000 /dev/zero > {folder}/x 2> /dev/null || wc -c < {folder}/x");
        assert_eq!(stdout(&*docker_sandbox, &command).await, "4194304\n", "{folder}");
    }
    docker_sandbox.close().await;
    let writable = sandbox(Settings { writable: true, ..settings() });
    let script = "[ \"$(id -u)\" != 0 ] || touch /x; touch /workspace/x";
    assert!(exec(&*writable, &place.command(script)).await.exit.is_success());
    writable.close().await;
}

/// A daemon that is not there, one that is elsewhere. The environment is the process's, so each gets its own.
#[test]
fn a_daemon_that_cannot_be_used_is_an_error_with_a_remedy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dead = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("a socket"));
    for (host, wanted) in [
        (format!("unix://{}", dead.display()), "nobody listens"),
        ("unix:///nonexistent/docker.sock".to_owned(), "does not run"),
        ("tcp://192.0.2.1:2375".to_owned(), "another machine"),
        ("ssh://user@host".to_owned(), "another machine"),
    ] {
        let output = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "docker::without_daemon", "--ignored", "--nocapture"])
            .env("DOCKER_HOST", &host)
            .output()
            .expect("this test runs as a program");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains(wanted), "{host}: {text}");
    }
}

/// Not a test by itself: see [`a_daemon_that_cannot_be_used_is_an_error_with_a_remedy`].
#[tokio::test]
#[ignore = "a process that another test starts"]
async fn without_daemon() {
    let place = Place::new();
    let error = sandbox(settings())
        .exec(&place.command("true"), &(), &CancellationToken::new())
        .await
        .expect_err("there is no daemon");
    assert!(matches!(error, SandboxError::Unavailable { .. }), "{error}");
    println!("{error}\n{}", error.hint().expect("it has a remedy"));
    assert!(sweep("/devo-test/none", &|_| false).await.is_err());
}

/// A worktree that belongs to somebody else than the engine: commands are that somebody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_whoever_owns_the_workspace() {
    images().await;
    let (place, own) = (Place::new(), settings());
    let is_root = fs::metadata("/proc/self").expect("a Linux machine").uid() == 0;
    let owner = if is_root { (12345, 23456) } else { (place_owner(&place), 0) };
    if is_root {
        std::os::unix::fs::chown(&place.workspace, Some(owner.0), Some(owner.1)).expect("root may");
    }
    let (docker_sandbox, marker) = (sandbox(own), marker());
    let text = stdout(&*docker_sandbox, &place.command("id -u; touch file; touch ~/x /tmp/x; stat -c %u ~ file")).await;
    assert_eq!(text, format!("{0}\n{0}\n{0}\n", owner.0));
    assert_eq!(fs::metadata(place.workspace.join("file")).expect("it was made").uid(), owner.0);
    for script in [
        "cat /secret-of-the-image",
        "ls /proc/1/fd/",
        "cat /proc/1/environ",
        "kill -9 1; kill -0 1 && cat /proc/1/fd/0",
    ] {
        assert!(!exec(&*docker_sandbox, &place.command(script)).await.exit.is_success() || owner.0 == 0, "{script}");
    }
    let mut command = place.command(&format!("{} sleep {marker}", escape(&marker)));
    command.timeout = Some(Duration::from_secs(1));
    assert_eq!(exec(&*docker_sandbox, &command).await.exit, Exit::TimedOut);
    assert_eq!(alive(&marker), 0);
    let mut greedy = place.command("head -c 2000000000 /dev/zero | tail -n 1 | wc -c");
    greedy.limits.memory_bytes = 64 << 20;
    let finished: Finished = exec(&*docker_sandbox, &greedy).await;
    assert!(finished.limits_hit.contains(&LimitHit::Memory), "{finished:?}");
    docker_sandbox.close().await;
}

fn place_owner(place: &Place) -> u32 {
    fs::metadata(&place.workspace).expect("it is there").uid()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protected_paths_cannot_be_changed_or_moved_away() {
    images().await;
    let own = with_tools();
    let tools = sandbox(own.clone());
    super::keeps_protected_paths(&*tools).await;
    // They are the same for all commands, so one container does; it is another one where the host changed one of them.
    assert_eq!(containers_of(&own.run).await.len(), 1);
    let place = Place::new();
    fs::write(place.workspace.join("kept"), "first").expect("a file");
    let mut command = place.command("cat kept; echo x > kept");
    command.read_only = vec!["kept".into()];
    for content in ["first", "second"] {
        fs::write(place.workspace.join("new"), content).expect("a file");
        fs::rename(place.workspace.join("new"), place.workspace.join("kept")).expect("ours");
        let finished = exec(&*tools, &command).await;
        assert_eq!((finished.stdout.text().as_str(), finished.exit.is_success()), (content, false));
    }
    // As many as there may be, in as many folders.
    command.read_only.clear();
    for number in 0..256 {
        let path = PathBuf::from(format!("d{}/t{number}", number % 32));
        fs::create_dir_all(place.workspace.join(&path).parent().expect("it has one")).expect("a folder");
        fs::write(place.workspace.join(&path), "").expect("a file");
        command.read_only.push(path);
    }
    command.script = "for f in d*/t*; do ( : >> $f ) 2> /dev/null && echo $f; done".to_owned();
    let start = Instant::now();
    assert_eq!(exec(&*tools, &command).await.stdout.text(), "");
    println!("a container with 256 protected files took {:?}", start.elapsed());
    tools.close().await;
}

/// A run of the real program with one step in a container, which waits for a file `go` and tells each of its tries.
struct Waiting {
    folder: tempfile::TempDir,
    child: std::process::Child,
}

impl Waiting {
    fn start() -> Self {
        Self::start_with("")
    }

    /// With another socket of the daemon, if one is given.
    fn start_with(daemon: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let devo = |args: &[&str]| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_devo"));
            command.arg("--home").arg(folder.path().join("home")).args(args).current_dir(folder.path());
            command.stdin(std::process::Stdio::null());
            if !daemon.is_empty() {
                command.env("DOCKER_HOST", daemon);
            }
            command
        };
        let home = folder.path().join("home");
        let made = devo(&["init"]).arg(&home).output().expect("it starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(home.join("devo.yaml"), format!("sandbox: {{type: docker, image: '{BARE}'}}\n")).expect("ours");
        let pipeline = "name: wait\nsteps:\n  wait:\n    type: shell\n    run: |\n      \
                        echo $DEVO_ATTEMPT $DEVO_IDEMPOTENCY_KEY >> log\n      \
                        until [ -e go ]; do sleep 0.05; done\n";
        fs::write(home.join("pipelines/wait.yaml"), pipeline).expect("ours");
        let out = fs::File::create(folder.path().join("out")).expect("ours");
        let child = devo(&["run", "--pipeline", "wait", "--json"])
            .stdout(out)
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        Self { folder, child }
    }

    fn events(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.folder.path().join("out")).expect("it is there");
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn of(&self, name: &str) -> Vec<serde_json::Value> {
        self.events().into_iter().filter(|event| event["event"] == name).collect()
    }

    fn run(&self) -> String {
        wait_until("the run", HANGS, || !self.of("accepted").is_empty());
        self.of("accepted")[0]["task_id"].as_str().expect("it has an id").to_owned()
    }

    fn scratch(&self) -> PathBuf {
        self.folder.path().join("home/runs").join(self.run()).join("scratch")
    }

    /// What its tries told of themselves, when there are so many.
    fn tries(&self, count: usize) -> Vec<String> {
        let log = self.scratch().join("log");
        let lines = || fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
        wait_until("a try", HANGS, || lines().len() == count);
        lines()
    }

    async fn kill_container(&self) {
        let ids = containers_of(&self.run()).await;
        assert_eq!(ids.len(), 1, "what is lost is removed before anything runs again");
        docker().kill_container(&ids[0], None).await.expect("it lives");
    }

    fn exit(&mut self) -> Option<i32> {
        wait_until("the end", HANGS, || self.child.try_wait().expect("ours").is_some());
        self.child.wait().expect("ours").code()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_container_is_killed_runs_again_by_itself() {
    images().await;
    let mut waiting = Waiting::start();
    waiting.tries(1);
    waiting.kill_container().await;
    let killed = Instant::now();
    wait_until("the loss is recorded", Duration::from_secs(10), || waiting.of("step_interrupted").len() == 1);
    let tries = waiting.tries(2);
    println!("killed, told and run again within {:?}", killed.elapsed());
    assert_eq!(containers_of(&waiting.run()).await.len(), 1);
    let (first, second) = (tries[0].split_once(' ').expect("two"), tries[1].split_once(' ').expect("two"));
    assert_eq!((first.0, second.0, first.1), ("1", "2", second.1), "another attempt with the same key");
    let reason = waiting.of("step_interrupted")[0]["reason"].to_string();
    assert!(reason.contains("container is gone"), "{reason}");
    fs::write(waiting.scratch().join("go"), "").expect("ours");
    assert_eq!(waiting.exit(), Some(0));
    assert_eq!(waiting.of("step_interrupted").len(), 1);
    assert!(containers_of(&waiting.run()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_container_is_killed_twice_in_a_row_fails() {
    images().await;
    let mut waiting = Waiting::start();
    for count in 1..=2 {
        waiting.tries(count);
        waiting.kill_container().await;
    }
    assert_eq!(waiting.exit(), Some(1));
    let failed = waiting.of("step_failed");
    assert_eq!((failed.len(), &failed[0]["error"]["code"]), (1, &"container_lost".into()));
    assert_eq!(waiting.tries(2).len(), 2, "no third try");
    assert!(containers_of(&waiting.run()).await.is_empty());
}

/// A way to the daemon that can be cut: to whoever uses it the daemon then is gone, as when it restarts, and the daemon
/// ends what hangs on its connections.
struct Relay {
    path: PathBuf,
    streams: Arc<std::sync::Mutex<Vec<UnixStream>>>,
}

impl Relay {
    fn open(path: PathBuf) -> Self {
        let relay = Self { path, streams: Arc::default() };
        relay.listen();
        relay
    }

    fn listen(&self) {
        let listener = UnixListener::bind(&self.path).expect("a socket");
        let streams = self.streams.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let daemon = UnixStream::connect("/var/run/docker.sock").expect("a docker daemon");
                let both = || [&client, &daemon].map(|stream| stream.try_clone().expect("a descriptor"));
                streams.lock().expect("no holder panics").extend(both());
                let [[client_in, daemon_out], [client_out, daemon_in]] = [both(), both()];
                for (mut from, mut to) in [(client_in, daemon_out), (daemon_in, client_out)] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
    }

    fn cut(&self) {
        fs::remove_file(&self.path).expect("it was open");
        for stream in self.streams.lock().expect("no holder panics").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_runs_again_when_the_daemon_is_back() {
    images().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let relay = Relay::open(folder.path().join("docker.sock"));
    let mut waiting = Waiting::start_with(&format!("unix://{}", relay.path.display()));
    waiting.tries(1);
    relay.cut();
    std::thread::sleep(Duration::from_secs(2));
    assert!(waiting.of("step_interrupted").is_empty(), "nobody knows yet whether the command lives");
    relay.listen();
    let back = Instant::now();
    assert_eq!(waiting.tries(2).len(), 2);
    println!("run again {:?} after the daemon was back", back.elapsed());
    assert_eq!((waiting.of("step_interrupted").len(), containers_of(&waiting.run()).await.len()), (1, 1));
    fs::write(waiting.scratch().join("go"), "").expect("ours");
    assert_eq!(waiting.exit(), Some(0));
    assert!(containers_of(&waiting.run()).await.is_empty());
}
