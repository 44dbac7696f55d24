//! Services for real: what starts, what is waited for, what they reach, and that nothing is left.
//!
//! A machine without Docker fails these tests. Images are made here, of busybox alone: no registry is asked.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::Docker;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateImageOptionsBuilder, ListContainersOptionsBuilder, ListNetworksOptionsBuilder};
use devo::core::service::Service;
use devo::sandboxes::docker::compose::{self, Beside};
use devo::sandboxes::docker::description::{Copied, Origin, Ready, ServiceDescription};
use devo::sandboxes::docker::image::{Source, SourceFile};
use devo::sandboxes::docker::services::{Ground, ServiceSet, remove_labelled};
use devo::sandboxes::docker::{HOME_LABEL, RUN_LABEL};
use devo::sandboxes::{OutputSink, SandboxError, Stream};
use devo::secrets::Masker;
use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here needs: what waits for longer hangs.
const HANGS: Duration = Duration::from_secs(60);
/// An image of busybox and nothing else.
const IMAGE: &str = "devo-test-services:plain";
/// The same, with a health check that Docker itself would run for the first time after an hour.
const CHECKED: &str = "devo-test-services:checked";
const CHECK: &str = "HEALTHCHECK --interval=1h CMD test -f /tmp/up";

async fn docker() -> Docker {
    let docker = Docker::connect_with_defaults().expect("a socket").negotiate_version().await.expect("a Docker engine");
    static MADE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let make = async || {
        image(&docker, IMAGE, &[]).await;
        image(&docker, CHECKED, &[CHECK]).await;
    };
    MADE.get_or_init(make).await;
    docker
}

async fn image(docker: &Docker, name: &str, changes: &[&str]) {
    let mut archive = tar::Builder::new(Vec::new());
    let mut file = |path: &str, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content).expect("memory");
    };
    file("bin/busybox", 0o755, &std::fs::read("/bin/busybox").expect("apt install busybox-static"));
    file("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\nother:x:1234:1234::/:/bin/sh\n");
    for applet in ["sh", "cat", "sleep", "nc", "nslookup", "test", "touch", "grep", "chown", "mknod", "su", "seq", "df"]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("memory");
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o777);
    header.set_size(0);
    archive.append_data(&mut header, "tmp/", std::io::empty()).expect("memory");
    let body = bollard::body_full(archive.into_inner().expect("memory").into());
    let (repo, tag) = name.split_once(':').expect("a tag");
    let mut lines = vec!["ENV PATH=/bin".to_owned()];
    lines.extend(changes.iter().map(|line| (*line).to_owned()));
    let options = CreateImageOptionsBuilder::default().from_src("-").repo(repo).tag(tag).changes(lines).build();
    let mut told = docker.create_image(Some(options), Some(body), None);
    while let Some(step) = told.next().await {
        step.expect("an image from an archive");
    }
}

#[derive(Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Source for Files {
    fn files(&self, folder: &str) -> Result<Vec<SourceFile>, String> {
        let prefix = format!("{folder}/");
        let below = self.0.iter().filter_map(|(path, content)| {
            let path = path.strip_prefix(&prefix)?.to_owned();
            Some(SourceFile { path, content: content.clone(), executable: false, link: false })
        });
        Ok(below.collect())
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        self.0.get(path).cloned().ok_or_else(|| "there is no such file".to_owned())
    }
}

/// A run of its own: nothing it makes is another test's.
struct World {
    docker: Docker,
    home: String,
    labels: HashMap<String, String>,
    logs: tempfile::TempDir,
    masker: Masker,
    source: Files,
}

impl World {
    async fn new() -> Self {
        let home = format!("/test/{:016x}", fastrand::u64(..));
        let labels = [(HOME_LABEL, home.as_str()), (RUN_LABEL, "run")];
        Self {
            docker: docker().await,
            labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            home,
            logs: tempfile::tempdir().expect("a temporary folder"),
            masker: Masker::default(),
            source: Files::default(),
        }
    }

    fn ground(&self) -> Ground<'_> {
        Ground {
            docker: &self.docker,
            labels: &self.labels,
            prefix: "devo-test",
            logs: self.logs.path(),
            masker: &self.masker,
            source: &self.source,
        }
    }

    async fn start(&self, services: &[ServiceDescription]) -> Result<ServiceSet, SandboxError> {
        let set = ServiceSet::start(&self.ground(), services, &(), &CancellationToken::new()).await?;
        Ok(set.expect("nobody cancels"))
    }

    fn label(&self) -> String {
        format!("{HOME_LABEL}={}", self.home)
    }

    fn filter(&self) -> HashMap<String, Vec<String>> {
        [("label".to_owned(), vec![self.label()])].into()
    }

    /// Names of the containers and networks that carry the run's labels.
    async fn there(&self) -> Vec<String> {
        let options = ListContainersOptionsBuilder::default().all(true).filters(&self.filter()).build();
        let containers = self.docker.list_containers(Some(options)).await.expect("a list");
        let options = ListNetworksOptionsBuilder::default().filters(&self.filter()).build();
        let networks = self.docker.list_networks(Some(options)).await.expect("a list");
        let names = containers.into_iter().flat_map(|one| one.names.unwrap_or_default());
        names.chain(networks.into_iter().filter_map(|one| one.name)).collect()
    }

    async fn until_there_are(&self, wanted: impl Fn(usize) -> bool) {
        let reached = async {
            while !wanted(self.there().await.len()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(HANGS, reached).await.expect("it comes to that");
    }

    fn log(&self, service: &str) -> String {
        std::fs::read_to_string(self.logs.path().join(format!("{service}.log"))).expect("the log was kept")
    }

    /// Runs a script in a service; gives its code and output.
    async fn run(&self, set: &ServiceSet, service: &str, script: &str) -> (i64, String) {
        run(&self.docker, &format!("{}-{service}", set.network()), script).await
    }
}

impl Drop for World {
    /// A test that fails leaves nothing either.
    fn drop(&mut self) {
        let label = self.label();
        let clean = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let docker = Docker::connect_with_defaults().expect("a socket");
                let docker = docker.negotiate_version().await.expect("a Docker engine");
                remove_labelled(&docker, &[&label]).await
            })
        };
        let _ = std::thread::spawn(clean).join();
    }
}

async fn run(docker: &Docker, container: &str, script: &str) -> (i64, String) {
    let options = CreateExecOptions {
        cmd: Some(vec!["/bin/sh", "-c", script]),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let id = docker.create_exec(container, options).await.expect("an exec").id;
    let StartExecResults::Attached { mut output, .. } = docker.start_exec(&id, None).await.expect("it starts") else {
        panic!("it is attached");
    };
    let mut text = Vec::new();
    let read = async {
        while let Some(chunk) = output.next().await {
            text.extend_from_slice(chunk.expect("output").as_ref());
        }
    };
    tokio::time::timeout(HANGS, read).await.unwrap_or_else(|_| panic!("`{script}` hangs"));
    let code = docker.inspect_exec(&id).await.expect("its end").exit_code.expect("a code");
    (code, String::from_utf8_lossy(&text).into_owned())
}

fn service(name: &str, script: &str) -> ServiceDescription {
    ServiceDescription {
        command: Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
        ..ServiceDescription::new(name, Origin::Image(IMAGE.to_owned()))
    }
}

fn ready(script: &str) -> Ready {
    Ready::Command(["/bin/sh", "-c", script].map(str::to_owned).to_vec())
}

/// Answers everyone who connects to port 7000 with its name.
fn echo(name: &str) -> ServiceDescription {
    let script = format!("while true; do echo {name} | nc -l -p 7000; done");
    ServiceDescription { ready: ready("grep -q ':1B58 ' /proc/net/tcp /proc/net/tcp6"), ..service(name, &script) }
}

#[tokio::test]
async fn services_find_each_other_by_name() {
    let world = World::new().await;
    let mut b = echo("b-two");
    b.aliases = vec!["other_name".to_owned()];
    let set = world.start(&[echo("a"), b]).await.expect("they start");
    for (from, to, wanted) in [("a", "b-two", "b-two"), ("b-two", "a", "a"), ("a", "other_name", "b-two")] {
        assert_eq!(world.run(&set, from, &format!("nc -w 5 {to} 7000 < /dev/null")).await, (0, format!("{wanted}\n")));
    }
    set.stop().await;
    assert_eq!(world.there().await, Vec::<String>::new());
}

#[tokio::test]
async fn neither_the_host_nor_the_world_is_reached() {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let six = TcpListener::bind(("::", 0));
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let seen = accepted.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            seen.lock().unwrap().push(stream.peer_addr().map(|peer| peer.ip()));
        }
    });
    std::net::TcpStream::connect(("127.0.0.1", port)).expect("the host reaches itself");

    let world = World::new().await;
    let set = world.start(&[echo("a"), echo("b")]).await.expect("they start");
    // A command's container, as the sandbox makes it.
    let command = format!("{}-command", set.network());
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(vec!["sleep".to_owned(), "1000".to_owned()]),
        labels: Some(world.labels.clone()),
        host_config: Some(HostConfig {
            network_mode: Some(set.network().to_owned()),
            dns: Some(ServiceSet::dns()),
            dns_search: Some(ServiceSet::dns_search()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let options = bollard::query_parameters::CreateContainerOptionsBuilder::default().name(&command).build();
    world.docker.create_container(Some(options), body).await.expect("a container");
    world.docker.start_container(&command, None).await.expect("it starts");
    let joined = run(&world.docker, &command, "nc -w 5 a 7000 < /dev/null").await;
    assert_eq!(joined, (0, "a\n".to_owned()), "the way it reaches services is the way it tries the host");

    let network = world.docker.inspect_network(set.network(), None).await.expect("the network");
    assert_eq!((network.internal, network.enable_ipv6), (Some(true), Some(false)));
    let subnets = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    let mut hosts: Vec<String> = subnets.into_iter().filter_map(|subnet| subnet.gateway).collect();
    assert!(!hosts.is_empty(), "the network has a gateway's address, which nobody has");
    let own = local_addresses();
    assert!(own.len() >= 2, "{own:?}");
    let reaching = hosts.iter().any(|gateway| own.contains(gateway));
    assert!(!reaching, "the bridge has an address of the host: {hosts:?} {own:?}");
    hosts.extend(own.into_iter().filter(|address| !address.starts_with("127.")));
    hosts.extend(["host.docker.internal", "gateway.docker.internal"].map(str::to_owned));
    for container in [command.as_str(), &format!("{}-a", set.network())] {
        for host in &hosts {
            let (code, text) = run(&world.docker, container, &format!("nc -w 2 {host} {port} < /dev/null")).await;
            assert_ne!(code, 0, "{container} reached {host}: {text}");
        }
        if let Ok(six) = &six {
            let port = six.local_addr().expect("an address").port();
            for host in link_local_addresses() {
                let script = format!("nc -w 2 {host}%eth0 {port} < /dev/null || nc -w 2 {host} {port} < /dev/null");
                assert_ne!(run(&world.docker, container, &script).await.0, 0, "{container} reached {host}");
            }
        }
        let (code, text) = run(&world.docker, container, "nslookup -type=a b").await;
        assert_eq!(code, 0, "names of the set are resolved: {text}");
        let (code, text) = run(&world.docker, container, "nslookup -type=a secret.example.org").await;
        assert_ne!(code, 0, "and no others: {text}");
        let inspected = world.docker.inspect_container(container, None).await.expect("it is there");
        let dns = inspected.host_config.and_then(|config| config.dns);
        assert_eq!(dns, Some(vec!["127.0.0.1".to_owned()]), "the resolver has nobody to ask");
    }
    let peers = accepted.lock().unwrap().len();
    assert_eq!(peers, 1, "only the host itself was heard");
    set.stop().await;
    // The network went although a container of somebody else was in it.
    assert_eq!(world.there().await, [format!("/{command}")]);
    assert_eq!(remove_labelled(&world.docker, &[&world.label()]).await.expect("it goes"), 1);
}

/// IPv4 addresses of the host.
fn local_addresses() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/fib_trie").expect("Linux");
    let mut found: Vec<String> = Vec::new();
    let mut last = "";
    for line in text.lines() {
        if line.contains("/32 host LOCAL") {
            found.push(last.to_owned());
        } else if let Some((_, address)) = line.split_once("|-- ") {
            last = address;
        }
    }
    found.sort();
    found.dedup();
    found
}

/// IPv6 addresses of the host but its loopback.
fn link_local_addresses() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let parse = |line: &str| {
        let bits = u128::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        Some(std::net::Ipv6Addr::from_bits(bits)).filter(|address| !address.is_loopback())
    };
    text.lines().filter_map(parse).map(|address| address.to_string()).collect()
}

#[tokio::test]
async fn a_ready_command_is_awaited_and_needs_start_first() {
    let world = World::new().await;
    let slow = service("slow", "sleep 1; touch /tmp/up; nc -l -p 7000; sleep 1000");
    let slow = ServiceDescription { ready: ready("test -f /tmp/up"), ..slow };
    // It would end at once if `slow` were not there before it.
    let later = ServiceDescription {
        needs: vec!["slow".to_owned()],
        ready: ready("test -f /tmp/met"),
        ..service("later", "nslookup -type=a slow && touch /tmp/met && sleep 1000")
    };
    let set = world.start(&[later, slow]).await.expect("they start");
    assert_eq!(world.run(&set, "slow", "test -f /tmp/up").await.0, 0);
    set.stop().await;
    assert!(world.there().await.is_empty());
}

#[tokio::test]
async fn an_image_with_a_health_check_is_asked_at_once() {
    let world = World::new().await;
    let mut checked = service("checked", "sleep 1; touch /tmp/up; sleep 1000");
    checked.origin = Origin::Image(CHECKED.to_owned());
    let set =
        tokio::time::timeout(HANGS, world.start(&[checked])).await.expect("not after an hour").expect("it starts");
    assert_eq!(world.run(&set, "checked", "test -f /tmp/up").await.0, 0);
    set.stop().await;
    let mut never = service("never", "echo began; sleep 1000");
    never.origin = Origin::Image(CHECKED.to_owned());
    never.ready_within_s = 2;
    let error = world.start(&[never]).await.err().expect("it is never ready").to_string();
    assert!(error.contains("`test -f /tmp/up` ended with code 1"), "{error}");
}

#[tokio::test]
async fn what_ends_well_may_be_needed() {
    let world = World::new().await;
    let migrate = ServiceDescription { ready: Ready::Completed, ..service("migrate", "sleep 1; echo migrated") };
    let app = ServiceDescription { needs: vec!["migrate".to_owned()], ..service("app", "sleep 1000") };
    world.start(&[app.clone(), migrate]).await.expect("both").stop().await;
    assert_eq!(world.log("migrate"), "migrated\n");
    let migrate = ServiceDescription { ready: Ready::Completed, ..service("migrate", "echo no table; exit 4") };
    let error = world.start(&[app, migrate]).await.err().expect("it fails");
    assert!(error.to_string().contains("`migrate` ended with code 4"), "{error}");
    assert!(world.there().await.is_empty());
}

#[tokio::test]
async fn one_that_is_never_ready_fails_with_its_log() {
    let world = World::new().await;
    let never = ServiceDescription {
        ready: ready("echo cannot connect; exit 3"),
        ready_within_s: 1,
        ..service("db", "seq 1 100; printf 'waiting \\033[31mfor godot\\n'; sleep 1000")
    };
    let error = world.start(&[echo("a"), never]).await.err().expect("it is never ready");
    let text = error.to_string();
    for part in ["`db`", "within 1 s", "code 3", "cannot connect", "  100\n  waiting for godot"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("  10\n") && !text.contains('\u{1b}'), "{text}");
    assert!(error.hint().expect("what to do").contains("ready_within_s"));
    assert!(world.there().await.is_empty(), "the other one went too");
    assert!(world.log("db").contains("for godot"));
}

#[tokio::test]
async fn one_that_dies_or_cannot_start_fails_with_why() {
    let world = World::new().await;
    let dies = ServiceDescription { ready: ready("test -f /never"), ..service("db", "echo bad password >&2; exit 7") };
    let error = world.start(&[dies]).await.err().expect("it dies").to_string();
    assert!(error.contains("`db` ended with code 7") && error.contains("bad password"), "{error}");
    let mut missing = service("db", "");
    missing.command = Some(vec!["/no/such/program".to_owned()]);
    let error = world.start(&[missing]).await.err().expect("there is no such program").to_string();
    assert!(error.contains("`db`") && error.contains("/no/such/program"), "{error}");
    assert!(world.there().await.is_empty());
}

#[tokio::test]
async fn services_that_need_each_other_are_refused() {
    let world = World::new().await;
    let a = ServiceDescription { needs: vec!["b".to_owned()], ..service("a", "sleep 1000") };
    let b = ServiceDescription { needs: vec!["a".to_owned()], ..service("b", "sleep 1000") };
    let error = world.start(&[a, b]).await.err().expect("a circle").to_string();
    assert!(error.contains("`a`, `b`"), "{error}");
    for name in ["", "-a", "a/b", "a b", "../x", "é"] {
        assert!(world.start(&[service(name, "sleep 1000")]).await.is_err(), "{name}");
    }
    assert!(world.there().await.is_empty());
}

#[tokio::test]
async fn a_cancellation_at_any_point_leaves_nothing() {
    let world = World::new().await;
    let never = |name: &str| ServiceDescription {
        ready: ready("test -f /never"),
        ready_within_s: 3600,
        ..service(name, "sleep 1000")
    };
    let services = [never("a"), never("b")];
    // From before the network to when both are being asked.
    for objects in 0..=3 {
        let cancel = CancellationToken::new();
        let ground = world.ground();
        let starting = ServiceSet::start(&ground, &services, &(), &cancel);
        let watch = async {
            world.until_there_are(|count| count >= objects).await;
            cancel.cancel();
        };
        let (started, ()) = tokio::join!(starting, watch);
        assert!(started.expect("no failure").is_none(), "{objects}");
        assert_eq!(world.there().await, Vec::<String>::new(), "{objects}");
    }
}

#[tokio::test]
async fn a_lost_future_and_a_lost_set_leave_nothing() {
    let world = World::new().await;
    let never =
        ServiceDescription { ready: ready("test -f /never"), ready_within_s: 3600, ..service("a", "sleep 1000") };
    for objects in 0..=2 {
        {
            let (ground, cancel, services) = (world.ground(), CancellationToken::new(), [never.clone()]);
            let starting = ServiceSet::start(&ground, &services, &(), &cancel);
            tokio::select! {
                _ = starting => panic!("it is never ready"),
                () = world.until_there_are(|count| count >= objects) => {}
            }
        }
        world.until_there_are(|count| count == 0).await;
    }
    drop(world.start(&[echo("a")]).await.expect("it starts"));
    world.until_there_are(|count| count == 0).await;
}

#[tokio::test]
async fn what_is_gone_already_is_fine() {
    let world = World::new().await;
    let set = world.start(&[service("a", "sleep 1000"), service("b", "sleep 1000")]).await.expect("they start");
    let label = world.label();
    let labels = [label.as_str()];
    let (one, two) = tokio::join!(remove_labelled(&world.docker, &labels), remove_labelled(&world.docker, &labels));
    assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
    set.stop().await;
    assert!(world.there().await.is_empty());
    assert_eq!(remove_labelled(&world.docker, &[&label]).await.expect("nothing to do"), 0);
}

/// Started again by the test below, and killed.
const CHILD: &str = "DEVO_TEST_SERVICES_CHILD";

#[tokio::test]
async fn what_a_killed_process_leaves_is_found_by_its_label() {
    if let Ok(home) = std::env::var(CHILD) {
        let mut world = World::new().await;
        world.labels.insert(HOME_LABEL.to_owned(), home);
        let set = world.start(&[echo("a"), echo("b")]).await.expect("they start");
        eprintln!("up: {}", set.network());
        return std::future::pending().await;
    }
    let world = World::new().await;
    let mut child = tokio::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "what_a_killed_process_leaves_is_found_by_its_label", "--nocapture"])
        .env(CHILD, &world.home)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    world.until_there_are(|count| count == 3).await;
    child.kill().await.expect("it dies");
    assert_eq!(world.there().await.len(), 3, "nobody was there to remove them");
    assert_eq!(remove_labelled(&world.docker, &[&world.label()]).await.expect("they go"), 3);
    assert!(world.there().await.is_empty());
}

#[tokio::test]
async fn logs_are_kept_masked_and_bounded() {
    let world = World::new().await;
    world.masker.add(&"hunter2hunter2".to_owned().into());
    let lines = "x=$(seq 1 2000); for i in $(seq 1 400); do echo $x; done; echo the end hunter2hunter2; touch /tmp/up";
    let loud =
        ServiceDescription { ready: ready("test -f /tmp/up"), ..service("loud", &format!("{lines}; sleep 1000")) };
    let set = world.start(&[loud]).await.expect("it starts");
    set.stop().await;
    let log = world.log("loud");
    assert!(log.len() > 1 << 19 && log.len() <= 1 << 20, "{}", log.len());
    assert!(log.ends_with("\nthe end ***\n"), "{}", &log[log.len() - 40..]);
}

#[tokio::test]
async fn a_service_is_confined() {
    let world = World::new().await;
    let mut confined = service("db", "sleep 1000");
    confined.tmpfs = [("/fast".to_owned(), Some(8 << 20))].into();
    confined.volumes = vec!["/data".to_owned()];
    confined.env = [("A".to_owned(), "b c".to_owned())].into();
    let set = world.start(&[confined]).await.expect("it starts");
    let name = format!("{}-db", set.network());
    let script = "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; echo \"$A\"; grep -c . /proc/self/mountinfo";
    let (_, status) = world.run(&set, "db", script).await;
    // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, SETGID 6, SETUID 7.
    for line in ["CapEff:\t00000000000000cb", "CapBnd:\t00000000000000cb", "NoNewPrivs:\t1", "b c"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    // What images of databases do at their start.
    let dropped =
        "touch /data/x && chown 1234 /data /data/x && su other -s /bin/sh -c 'touch /data/y' && test -f /data/y";
    let (code, text) = world.run(&set, "db", dropped).await;
    assert_eq!(code, 0, "{text}");
    for script in
        ["mknod /tmp/disk b 8 0", "chown 0 /proc/1/mem && cat /proc/kcore > /dev/null", "test -S /var/run/docker.sock"]
    {
        assert_ne!(world.run(&set, "db", script).await.0, 0, "{script}");
    }
    assert!(world.run(&set, "db", "df -k /fast").await.1.contains(" 8192 "));
    let found = world.docker.inspect_container(&name, None).await.expect("it is there");
    let host = found.host_config.expect("a host part");
    assert_eq!((host.privileged, host.publish_all_ports), (Some(false), Some(false)));
    assert!(host.binds.unwrap_or_default().is_empty() && host.port_bindings.unwrap_or_default().is_empty());
    assert!(host.memory.is_some_and(|bytes| bytes > 0) && host.pids_limit.is_some_and(|pids| pids > 0));
    let volume = found.mounts.expect("mounts").into_iter().find_map(|mount| mount.name).expect("its volume");
    set.stop().await;
    assert!(world.docker.inspect_volume(&volume).await.is_err(), "the volume went with it");
}

#[tokio::test]
async fn files_of_the_base_commit_are_copied() {
    let mut world = World::new().await;
    let files = [("db/init/1.sql", "one"), ("db/init/deep/2.sql", "two"), ("my.cnf", "three")];
    let files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
    world.source = Files(files.into());
    let copied = |from: &str, to: &str| Copied { from: from.to_owned(), to: to.to_owned() };
    let mut db = service("db", "cat /init/1.sql /init/deep/2.sql /etc/my.cnf > /tmp/all; touch /tmp/up; sleep 1000");
    db.copies = vec![copied("db/init", "/init"), copied("my.cnf", "/etc/my.cnf")];
    db.ready = ready("test -f /tmp/up");
    let set = world.start(&[db.clone()]).await.expect("it starts");
    assert_eq!(world.run(&set, "db", "cat /tmp/all").await, (0, "onetwothree".to_owned()));
    set.stop().await;
    db.copies = vec![copied("nowhere", "/init")];
    let error = world.start(&[db]).await.err().expect("there is no such file").to_string();
    assert!(error.contains("`nowhere`"), "{error}");
    assert!(world.there().await.is_empty());
}

/// Remembers what was told.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl OutputSink for Notes {
    fn chunk(&self, _: Stream, _: &[u8]) {}

    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

#[tokio::test]
async fn a_compose_file_and_devo_yaml_become_services() {
    let text = r#"
x-common: &common
  image: ${IMAGE:-devo-test-services:plain}
  environment: &env {GREETING: hello}
services:
  app:
    build: .
    depends_on: {cache: {condition: service_healthy}, setup: {condition: service_completed_successfully}}
  cache:
    <<: *common
    command: /bin/sh -c 'echo "$$GREETING $$WHO" > /tmp/up; sleep 1000'
    environment: {<<: *env, WHO: you}
    ports: ["8080:80"]
    healthcheck: {test: "test -f /tmp/up", interval: 1s, retries: 3}
  setup:
    <<: *common
    command: [sh, -c, "exit 0"]
    depends_on: [cache]
  unused: {image: nowhere}
"#;
    let document = devo::yaml::parse_foreign("compose.yaml", text.as_bytes()).expect("it is YAML").root.to_json();
    let files = Files::default();
    let described = compose::read(&document, "compose.yaml", Some("app"), Beside::Needed, &files).expect("it is fit");
    let world = World::new().await;
    let notes = Notes::default();
    let set = ServiceSet::start(&world.ground(), &described.services, &notes, &CancellationToken::new()).await;
    let set = set.expect("they start").expect("nobody cancels");
    assert_eq!(world.run(&set, "cache", "cat /tmp/up").await, (0, "hello you\n".to_owned()));
    set.stop().await;
    let said = described.said.join("\n");
    assert!(said.contains("`ports` is left out") && said.contains("`unused` is not started"), "{said}");
    let notes = notes.0.lock().unwrap().join("\n");
    assert!(notes.contains("`cache` is ready") && notes.contains("`setup` is ready"), "{notes}");

    let configured = Service {
        image: IMAGE.to_owned(),
        env: [("A".to_owned(), "b".to_owned())].into(),
        command: Some("sh -c 'touch /tmp/$A; sleep 1000'".to_owned()),
        ready: Some("test -f /tmp/b".to_owned()),
        ready_within_s: Some(30),
    };
    let described = ServiceDescription::configured("db", &configured).expect("its quotes match");
    world.start(&[described]).await.expect("it starts").stop().await;
    let unclosed = Service { command: Some("sh 'x".to_owned()), ..configured };
    assert!(ServiceDescription::configured("db", &unclosed).is_err());
    assert!(world.there().await.is_empty());
}

/// Where a test may not leave anything: the folder of logs is the only one that is written.
#[tokio::test]
async fn a_folder_of_logs_that_cannot_be_made_keeps_nothing_back() {
    let world = World::new().await;
    let file = world.logs.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let below: PathBuf = file.join("logs");
    let ground = Ground { logs: &below, ..world.ground() };
    let set = ServiceSet::start(&ground, &[service("a", "sleep 1000")], &(), &CancellationToken::new()).await;
    set.expect("it starts").expect("nobody cancels").stop().await;
    assert!(world.there().await.is_empty());
}
