//! What every sandbox must do, run for each of them, and what an isolating one must keep a hostile command from.
//!
//! Everything here runs for real: a machine without bubblewrap, or without a docker daemon, fails these tests.

#[path = "sandboxes/docker.rs"]
mod docker;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devo::sandboxes::{
    Command, Exit, Finished, LimitHit, Network, OutputSink, Sandbox, SandboxError, SandboxKind, Settings, Stream,
    Supervisor, Surroundings, WORKSPACE, open,
};
use tokio_util::sync::CancellationToken;

#[path = "sandboxes/escapes.rs"]
mod escapes;
#[path = "sandboxes/network.rs"]
mod network;
#[path = "sandboxes/walls.rs"]
mod walls;

/// Far beyond what anything here needs: what waits for longer hangs.
const HANGS: Duration = Duration::from_secs(60);
/// The promise: after the death of the engine nothing lives longer.
const DEATH: Duration = Duration::from_secs(2);

/// The program; where a normal user may read it, if this is one.
fn devo() -> String {
    std::env::var("DEVO_TEST_SUPERVISOR").unwrap_or_else(|_| env!("CARGO_BIN_EXE_devo").to_owned())
}

fn settings() -> Settings {
    let mut settings = Settings::new(Supervisor::at(devo()), &Surroundings::from_env());
    settings.host_allowed = Some("a test".to_owned());
    settings.docker = Some(docker::settings());
    settings
}

fn sandbox(name: &str) -> Arc<dyn Sandbox> {
    open(name.parse().expect("a known sandbox"), &settings()).expect("it can be made on this machine")
}

/// A workspace, and a folder beside it that is none of a command's business.
struct Place {
    _folder: tempfile::TempDir,
    workspace: PathBuf,
    outside: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let real = folder.path().canonicalize().expect("it exists");
        let (workspace, outside) = (real.join("workspace"), real.join("outside"));
        fs::create_dir(&workspace).expect("a folder");
        fs::create_dir(&outside).expect("a folder");
        Self { _folder: folder, workspace, outside }
    }

    fn command(&self, script: &str) -> Command {
        Command { timeout: Some(HANGS), ..Command::new(script, &self.workspace) }
    }
}

async fn exec(sandbox: &dyn Sandbox, command: &Command) -> Finished {
    sandbox.exec(command, &(), &CancellationToken::new()).await.expect("the command can be run")
}

async fn stdout(sandbox: &dyn Sandbox, command: &Command) -> String {
    let finished = exec(sandbox, command).await;
    assert_eq!(finished.exit, Exit::Code(0), "{}\n{}", finished.stdout.text(), finished.stderr.text());
    finished.stdout.text()
}

/// A number of seconds that no other process sleeps.
fn marker() -> String {
    format!("31536000.{:016}", fastrand::u64(..10_000_000_000_000_000))
}

/// Processes of this machine with that text among their arguments, zombies aside.
fn alive(marker: &str) -> usize {
    let processes = fs::read_dir("/proc").expect("a Linux machine").flatten();
    let arguments = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    arguments.filter(|arguments| String::from_utf8_lossy(arguments).contains(marker)).count()
}

fn wait_until(what: &str, within: Duration, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < within, "{what} did not come true within {within:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts processes that try to outlive the command in every way a shell knows, then says so by a file `ready`.
fn escape(marker: &str) -> String {
    format!(
        "sleep {marker} &
         setsid sleep {marker} &
         nohup sleep {marker} > /dev/null 2>&1 &
         (setsid sh -c 'trap \"\" TERM INT HUP; sleep {marker} & sleep {marker}' &)
         sh -c '(setsid sh -c \"(sleep {marker} &) ; sleep {marker}\" > /dev/null 2>&1 &) &'
         setsid setsid nohup sh -c 'sleep {marker}; true' &
         echo started; touch ready; "
    )
}

macro_rules! conformance {
    ($($sandbox:ident)*: $names:tt) => { $( conformance! { @ $sandbox $names } )* };
    (@ $sandbox:ident { $($name:ident)* }) => {
        mod $sandbox { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let sandbox = crate::sandbox(stringify!($sandbox));
                if sandbox.name() == "docker" {
                    crate::docker::images().await;
                }
                crate::$name(&*sandbox).await;
                sandbox.close().await;
            }
        )* }
    };
}

mod conformance {
    conformance! { host bubblewrap docker: {
        works_here
        tells_streams_and_codes
        tells_signals
        ends_with_its_main_process
        ends_at_its_time_limit
        ends_when_cancelled
        ends_when_dropped
        ends_when_the_engine_is_killed
        does_not_start_when_cancelled_before
        bounds_a_flood
        passes_any_bytes
        shows_an_allow_list_of_variables
        has_a_home_of_its_own
        starts_where_it_is_told
        leaves_files_that_are_ours
        refuses_what_cannot_be_passed
        limits_processes
        survives_a_fork_bomb
        limits_memory
        limits_files
        stops_before_the_disk_is_full
        inherits_no_descriptors
        hides_variables_from_other_users
    } }
}

/// What only those can do that show the host's own tools.
mod tools {
    conformance! { host bubblewrap: {
        runs_cargo
        shows_the_tools_of_path
    } }
}

async fn works_here(sandbox: &dyn Sandbox) {
    sandbox.probe().await.expect("it works on this machine");
}

#[derive(Default)]
struct Log {
    out: Mutex<Vec<u8>>,
    err: Mutex<Vec<u8>>,
    cuts: Mutex<Vec<Stream>>,
}

impl OutputSink for Log {
    fn chunk(&self, stream: Stream, bytes: &[u8]) {
        let log = if stream == Stream::Stdout { &self.out } else { &self.err };
        log.lock().expect("no holder panics").extend_from_slice(bytes);
    }

    fn cut(&self, stream: Stream) {
        self.cuts.lock().expect("no holder panics").push(stream);
    }
}

async fn tells_streams_and_codes(sandbox: &dyn Sandbox) {
    let (place, log) = (Place::new(), Log::default());
    let command = place.command("echo out; echo err >&2; exit 7");
    let finished = sandbox.exec(&command, &log, &CancellationToken::new()).await.expect("it can be run");
    assert_eq!(finished.exit, Exit::Code(7));
    assert_eq!((finished.stdout.text().as_str(), finished.stderr.text().as_str()), ("out\n", "err\n"));
    assert_eq!(*log.out.lock().expect("no holder panics"), b"out\n");
    assert_eq!(*log.err.lock().expect("no holder panics"), b"err\n");
    assert!(finished.limits_hit.is_empty());
    // Standard input is there, and empty.
    assert_eq!(stdout(sandbox, &place.command("cat; echo done")).await, "done\n");
}

async fn tells_signals(sandbox: &dyn Sandbox) {
    let place = Place::new();
    for (script, signal) in [("kill -9 $$", 9), ("kill -TERM $$", 15), ("sh -c 'kill -SEGV $$'; exit $?", 11)] {
        let exit = exec(sandbox, &place.command(script)).await.exit;
        assert_eq!((exit, exit.code()), (Exit::Signal(signal), Some(128 + signal)), "{script}");
    }
}

async fn ends_with_its_main_process(sandbox: &dyn Sandbox) {
    let (place, marker) = (Place::new(), marker());
    let finished = exec(sandbox, &place.command(&format!("{} exit 3", escape(&marker)))).await;
    assert_eq!(alive(&marker), 0);
    assert_eq!(finished.exit, Exit::Code(3), "a child that holds stdout open holds the command");
    assert_eq!(finished.stdout.text(), "started\n");
}

async fn ends_at_its_time_limit(sandbox: &dyn Sandbox) {
    let (place, marker) = (Place::new(), marker());
    let mut command = place.command(&format!("{} sleep {marker}", escape(&marker)));
    command.timeout = Some(Duration::from_secs(2));
    let finished = exec(sandbox, &command).await;
    assert_eq!(alive(&marker), 0);
    assert_eq!(finished.exit, Exit::TimedOut);
    assert_eq!(finished.stdout.text(), "started\n");
}

async fn ends_when_cancelled(sandbox: &dyn Sandbox) {
    let (place, marker, cancel) = (Place::new(), marker(), CancellationToken::new());
    let ready = place.workspace.join("ready");
    let command = place.command(&format!("{} sleep {marker}", escape(&marker)));
    let canceller = {
        let (cancel, marker) = (cancel.clone(), marker.clone());
        tokio::task::spawn_blocking(move || {
            wait_until("the command's start", HANGS, || ready.exists());
            assert!(alive(&marker) > 0);
            cancel.cancel();
        })
    };
    let finished = sandbox.exec(&command, &(), &cancel).await.expect("it can be run");
    assert_eq!(alive(&marker), 0);
    assert_eq!(finished.exit, Exit::Cancelled);
    canceller.await.expect("it started");
}

async fn ends_when_dropped(sandbox: &dyn Sandbox) {
    let (place, marker) = (Place::new(), marker());
    let ready = place.workspace.join("ready");
    let command = place.command(&format!("{} sleep {marker}", escape(&marker)));
    let waited = tokio::task::spawn_blocking(move || wait_until("the command's start", HANGS, || ready.exists()));
    let cancel = CancellationToken::new();
    tokio::select! {
        finished = sandbox.exec(&command, &(), &cancel) => panic!("it ended by itself: {finished:?}"),
        started = waited => started.expect("it started"),
    }
    wait_until("the death of all", DEATH, || alive(&marker) == 0);
}

/// Not a test by itself: the engine that [`ends_when_the_engine_is_killed`] kills.
#[tokio::test]
#[ignore = "a process that another test starts"]
async fn engine() {
    let [name, workspace, script] =
        ["DEVO_TEST_SANDBOX", "DEVO_TEST_WORKSPACE", "DEVO_TEST_SCRIPT"].map(|name| std::env::var(name).expect("set"));
    let command = Command::new(script, workspace);
    let finished = sandbox(&name).exec(&command, &(), &CancellationToken::new()).await;
    panic!("it was to be killed: {finished:?}");
}

async fn ends_when_the_engine_is_killed(sandbox: &dyn Sandbox) {
    let (place, marker) = (Place::new(), marker());
    let mut engine = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "engine", "--ignored"])
        .env("DEVO_TEST_SANDBOX", sandbox.name())
        .env("DEVO_TEST_RUN", &marker)
        .env("DEVO_TEST_WORKSPACE", &place.workspace)
        .env("DEVO_TEST_SCRIPT", format!("{} sleep {marker}", escape(&marker)))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("this test runs as a program");
    let ready = place.workspace.join("ready");
    wait_until("the command's start", HANGS, || ready.exists());
    // The containers of docker are the daemon's children, not ours.
    let in_docker = sandbox.name() == "docker";
    let below = children(engine.id());
    assert!(below.is_empty() == in_docker && alive(&marker) > 0);
    engine.kill().expect("it is ours");
    engine.wait().expect("it is ours");
    wait_until("the death of all", DEATH, || {
        // The script is among the arguments of the sandbox's own processes, so this counts them too.
        alive(&marker) == 0 && below.iter().all(|pid| !Path::new("/proc").join(pid).join("exe").exists())
    });
    if in_docker {
        docker::wait_until_gone(&marker, DEATH).await;
    }
}

fn children(of: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{of}/task")).expect("it lives").flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

async fn does_not_start_when_cancelled_before(sandbox: &dyn Sandbox) {
    let (place, cancel) = (Place::new(), CancellationToken::new());
    cancel.cancel();
    let finished = sandbox.exec(&place.command("touch ran"), &(), &cancel).await.expect("no error");
    assert_eq!(finished.exit, Exit::Cancelled);
    assert!(!place.workspace.join("ran").exists());
}

async fn bounds_a_flood(sandbox: &dyn Sandbox) {
    const FLOOD: u64 = 300_000_000;
    let (place, log) = (Place::new(), Log::default());
    let mut command = place.command(&format!(
        "echo first; head -c {FLOOD} /dev/zero | tr '\\0' x; echo last; head -c 3000000 /dev/zero >&2; exit 4"
    ));
    command.limits.output_bytes = 1 << 20;
    command.limits.live_bytes = 2 << 20;
    let finished = sandbox.exec(&command, &log, &CancellationToken::new()).await.expect("it can be run");
    assert_eq!(finished.exit, Exit::Code(4));
    assert_eq!(finished.stdout.cut_bytes(), FLOOD + 11 - (1 << 20));
    let text = finished.stdout.text();
    assert!(text.starts_with("first\nxxx") && text.ends_with("xxxlast\n") && text.contains("bytes cut"));
    assert!(text.contains(&format!("of {} bytes", FLOOD + 11)), "all were counted");
    assert!(text.len() < (1 << 20) + 100);
    assert!(finished.stderr.text().contains("of 3000000 bytes"));
    assert_eq!(log.out.lock().expect("no holder panics").len(), 2 << 20);
    let mut cuts = log.cuts.lock().expect("no holder panics").clone();
    cuts.sort_by_key(|stream| *stream as u8);
    assert_eq!(cuts, [Stream::Stdout, Stream::Stderr]);
    let status = fs::read_to_string("/proc/self/status").expect("a Linux machine");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    // Other tests of this process need some, too.
    assert!(peak.is_some_and(|kib: u64| kib * 1024 < FLOOD * 2 / 3), "peak memory: {peak:?} KiB");
}

async fn passes_any_bytes(sandbox: &dyn Sandbox) {
    let place = Place::new();
    let finished = exec(sandbox, &place.command("printf 'a\\377\\000\\033[31mb'")).await;
    assert_eq!(finished.stdout.whole().as_deref(), Some(&b"a\xff\0\x1b[31mb"[..]));
    assert_eq!(finished.stdout.text(), "a\u{fffd}\0\u{1b}[31mb");
}

async fn shows_an_allow_list_of_variables(sandbox: &dyn Sandbox) {
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "this process has a variable to leak");
    let place = Place::new();
    let mut command = place.command("env -0 | tr '\\n\\0' '~\\n'");
    command.env = vec![("DEVO_RUN_ID".into(), "r1".into()), ("TEXT".into(), "a b\n$(c) 'd".into())];
    let text = stdout(sandbox, &command).await;
    let variables: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let allowed = ["PATH", "HOME", "LANG", "TZ", "DEVO_RUN_ID", "TEXT", "PWD", "OLDPWD", "SHLVL", "_"];
    for (name, _) in &variables {
        assert!(allowed.contains(name), "{name} of {text}");
    }
    for wanted in [("DEVO_RUN_ID", "r1"), ("TEXT", "a b~$(c) 'd")] {
        assert!(variables.contains(&wanted), "{text}");
    }
    for name in ["PATH", "HOME", "LANG"] {
        assert!(variables.iter().any(|(known, value)| *known == name && !value.is_empty()), "{text}");
    }
}

async fn has_a_home_of_its_own(sandbox: &dyn Sandbox) {
    let place = Place::new();
    let script = "cd \"$HOME\" && ls -A && stat -c %a . && mkdir -p a/b && touch a/b/c && chmod 000 a/b && pwd";
    let text = stdout(sandbox, &place.command(script)).await;
    let lines: Vec<&str> = text.lines().collect();
    assert!(matches!(lines[..], ["700", _]), "{text}");
    assert_ne!(Some(lines[1].as_ref()), std::env::var_os("HOME").as_deref());
    assert!(!Path::new(lines[1]).exists(), "it is left behind");
    assert!(fs::read_dir(&place.workspace).expect("a folder").next().is_none());
}

async fn starts_where_it_is_told(sandbox: &dyn Sandbox) {
    let place = Place::new();
    fs::create_dir_all(place.workspace.join("a b/c")).expect("folders");
    let shown = if sandbox.isolates() { PathBuf::from(WORKSPACE) } else { place.workspace.clone() };
    for dir in [PathBuf::from("a b/c"), place.workspace.join("a b/c")] {
        let command = Command { dir, ..place.command("pwd -P") };
        assert_eq!(stdout(sandbox, &command).await.trim_end(), shown.join("a b/c").to_str().expect("plain"));
    }
    std::os::unix::fs::symlink(&place.outside, place.workspace.join("link")).expect("a link");
    for dir in [PathBuf::from("link"), "..".into(), place.outside.clone(), "/".into(), "absent".into()] {
        let command = Command { dir, ..place.command("touch ran") };
        let result = sandbox.exec(&command, &(), &CancellationToken::new()).await;
        let error = result.expect_err("it must not start there");
        assert!(matches!(error, SandboxError::Path { .. } | SandboxError::Setup { .. }), "{error}");
        assert!(!place.outside.join("ran").exists());
    }
}

async fn leaves_files_that_are_ours(sandbox: &dyn Sandbox) {
    let place = Place::new();
    stdout(sandbox, &place.command("mkdir d && echo text > d/f")).await;
    let file = place.workspace.join("d/f");
    assert_eq!(fs::read_to_string(&file).expect("it was written"), "text\n");
    let owner = fs::metadata(&file).expect("it is there");
    let ours = fs::metadata(&place.workspace).expect("it is there");
    assert_eq!((owner.uid(), owner.gid()), (ours.uid(), ours.gid()));
}

async fn refuses_what_cannot_be_passed(sandbox: &dyn Sandbox) {
    let place = Place::new();
    let long = "x".repeat(1 << 17);
    let mut commands = vec![place.command("a\0b"), place.command(&long)];
    for (name, value) in [("A", "\0"), ("A=B", "x"), ("", "x"), ("A", long.as_str())] {
        commands.push(Command { env: vec![(name.into(), value.into())], ..place.command("true") });
    }
    commands.push(Command { workspace: place.outside.join("absent"), dir: "".into(), ..place.command("true") });
    for command in commands {
        let error = sandbox.exec(&command, &(), &CancellationToken::new()).await.expect_err("it must be refused");
        assert!(matches!(error, SandboxError::Unpassable { .. } | SandboxError::Path { .. }), "{error}");
    }
    // The longest that a program can be given does pass.
    let almost = "x".repeat((1 << 17) - 10);
    let command = Command { env: vec![("A".into(), almost)], ..place.command("echo ${#A}") };
    assert_eq!(stdout(sandbox, &command).await, "131062\n");
}

async fn limits_processes(sandbox: &dyn Sandbox) {
    let (place, marker) = (Place::new(), marker());
    let mut command =
        place.command(&format!("i=0; while [ $i -lt 400 ]; do sleep {marker} & i=$((i + 1)); done; sleep {marker}"));
    command.limits.pids = 64;
    let finished = exec(sandbox, &command).await;
    assert!(!finished.exit.is_success() && finished.exit != Exit::TimedOut, "{finished:?}");
    assert_eq!(alive(&marker), 0);
}

async fn survives_a_fork_bomb(sandbox: &dyn Sandbox) {
    let place = Place::new();
    let mut command = place.command("bomb() { bomb | bomb & }; bomb 2> /dev/null; sleep 1000");
    command.limits.pids = 128;
    command.timeout = Some(Duration::from_secs(3));
    // An error would say that something outlived the command.
    let finished = exec(sandbox, &command).await;
    assert!(!finished.exit.is_success(), "{finished:?}");
}

async fn limits_memory(sandbox: &dyn Sandbox) {
    let place = Place::new();
    // A line that does not end has to be kept whole.
    let mut command = place.command("head -c 2000000000 /dev/zero | tail -n 1 | wc -c");
    command.limits.memory_bytes = 64 << 20;
    let finished = exec(sandbox, &command).await;
    assert!(finished.limits_hit.contains(&LimitHit::Memory), "{finished:?}");
    assert_ne!(finished.stdout.text().trim(), "2000000000");
}

async fn limits_files(sandbox: &dyn Sandbox) {
    let place = Place::new();
    let mut command = place.command("exec head -c 20000000 /dev/zero > big");
    command.limits.file_bytes = 1_000_000;
    let finished = exec(sandbox, &command).await;
    assert_eq!((finished.exit, &finished.limits_hit[..]), (Exit::Signal(25), &[LimitHit::FileSize][..]));
    assert_eq!(fs::metadata(place.workspace.join("big")).expect("it began").len(), 1_000_000);
    assert_eq!(stdout(sandbox, &place.command("ulimit -c")).await, "0\n", "no core files");
}

async fn stops_before_the_disk_is_full(sandbox: &dyn Sandbox) {
    let (place, marker) = (Place::new(), marker());
    let mut command = place.command(&format!("sleep {marker}"));
    command.limits.disk_free_bytes = u64::MAX;
    let finished = exec(sandbox, &command).await;
    assert_eq!((finished.exit, &finished.limits_hit[..]), (Exit::Signal(9), &[LimitHit::Disk][..]));
    assert_eq!(alive(&marker), 0);
}

async fn runs_cargo(sandbox: &dyn Sandbox) {
    let place = Place::new();
    fs::create_dir(place.workspace.join("src")).expect("a folder");
    fs::write(place.workspace.join("Cargo.toml"), "[package]\nname = \"tiny\"\nedition = \"2021\"\n[workspace]\n")
        .expect("a file");
    fs::write(place.workspace.join("src/lib.rs"), "#[test]\nfn two() { assert_eq!(1 + 1, 2); }\n").expect("a file");
    let finished = exec(sandbox, &place.command("cargo test --offline --lib")).await;
    assert_eq!(finished.exit, Exit::Code(0), "{}\n{}", finished.stdout.text(), finished.stderr.text());
    assert!(finished.stdout.text().contains("1 passed"), "{}", finished.stdout.text());
}

async fn shows_the_tools_of_path(sandbox: &dyn Sandbox) {
    let place = Place::new();
    let tools = settings().toolchains;
    let on_path = |tool: &str| tools.path.iter().any(|folder| folder.join(tool).is_file());
    // What the build of this project needs is here; of the rest, whatever this machine has must work inside too.
    let mut scripts = vec!["cargo --version", "rustc --version", "cc --version", "git --version", "perl -e 'print 1'"];
    for (tool, script) in [
        ("python3", "python3 -c 'import ssl, ctypes, subprocess; print(subprocess.check_output([\"true\"]), 6 * 7)'"),
        ("node", "node -e 'require(\"crypto\"); console.log(6 * 7)'"),
        ("go", "go version"),
        ("java", "java -version"),
        ("ruby", "ruby -e 'puts 42'"),
    ] {
        if on_path(tool) {
            scripts.push(script);
        }
    }
    for script in scripts {
        let finished = exec(sandbox, &place.command(script)).await;
        assert_eq!(finished.exit, Exit::Code(0), "{script}: {}", finished.stderr.text());
    }
    let compiled = "printf 'int main(void) { return 6; }' > m.c && cc m.c -o m && ./m";
    assert_eq!(exec(sandbox, &place.command(compiled)).await.exit, Exit::Code(6));
}

async fn hides_variables_from_other_users(sandbox: &dyn Sandbox) {
    let place = Place::new();
    let secret = format!("secret-{}", marker());
    let mut command = place.command("touch ready; sleep 1000");
    command.env = vec![("TOKEN".into(), secret.clone())];
    let (ready, cancel) = (place.workspace.join("ready"), CancellationToken::new());
    let look = {
        let cancel = cancel.clone();
        tokio::task::spawn_blocking(move || {
            wait_until("the command's start", HANGS, || ready.exists());
            let seen = alive(&secret);
            cancel.cancel();
            seen
        })
    };
    sandbox.exec(&command, &(), &cancel).await.expect("it can be run");
    assert_eq!(look.await.expect("it started"), 0, "a variable is among its arguments");
}

async fn inherits_no_descriptors(sandbox: &dyn Sandbox) {
    let place = Place::new();
    // The fourth is that of the folder which is being listed.
    assert_eq!(stdout(sandbox, &place.command("ls /proc/self/fd | tr '\\n' ' '")).await, "0 1 2 3 ");
    // No terminal to ask questions on.
    assert_ne!(exec(sandbox, &place.command("exec 3<> /dev/tty")).await.exit, Exit::Code(0));
}

// From here on: what only an isolating sandbox does.

/// A process that ends with the test, whatever the test's end.
struct Victim(std::process::Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a command could do to the machine itself; run by root, only the sandbox stands between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_of_bubblewrap_is_bare_and_read_only() {
    let place = Place::new();
    let bubblewrap = sandbox("bubblewrap");
    for script in [
        // Opened, never written: were it open, this machine's settings must survive the test.
        "exec 3>> /proc/sys/kernel/core_pattern",
        "exec 3>> /proc/sys/vm/drop_caches",
        "exec 3>> /proc/sysrq-trigger",
        "touch /x",
        "touch /usr/x",
        "touch /etc/x",
        "touch /dev/x",
        "mkdir /home/other",
        "cat /etc/shadow",
        "ls /sys/kernel",
        "ls /run/docker.sock /var/run/docker.sock",
        "mount -t tmpfs none /mnt",
        "unshare -U true",
        "unshare -n true",
        "mknod n c 1 3",
        "chroot / true",
        "ls /root/.ssh /home/*/.ssh",
    ] {
        let finished = exec(&*bubblewrap, &place.command(script)).await;
        assert!(!finished.exit.is_success(), "`{script}` went through: {}", finished.stdout.text());
    }
    let text =
        stdout(&*bubblewrap, &place.command("grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status")).await;
    assert!(text.lines().all(|line| line.ends_with("\t0000000000000000") || line == "NoNewPrivs:\t1"), "{text}");
    assert_eq!(stdout(&*bubblewrap, &place.command("hostname; ls /home; id -un")).await.lines().count(), 3);
    // It has no interface but its own loopback, and that works.
    let interfaces = stdout(&*bubblewrap, &place.command("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '")).await;
    assert_eq!(interfaces, "lo\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_is_there_when_it_is_granted() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let command = place.command(&format!("bash -c 'exec 3<> /dev/tcp/127.0.0.1/{port}'"));
    let bubblewrap = sandbox("bubblewrap");
    assert!(!exec(&*bubblewrap, &command).await.exit.is_success());
    assert!(exec(&*bubblewrap, &Command { network: Network::Full, ..command }).await.exit.is_success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protected_paths_cannot_be_changed_or_moved_away() {
    keeps_protected_paths(&*sandbox("bubblewrap")).await;
}

async fn keeps_protected_paths(sandboxed: &dyn Sandbox) {
    let place = Place::new();
    fs::create_dir_all(place.workspace.join("tests/unit/data")).expect("folders");
    for file in ["tests/unit/t.py", "tests/unit/data/d", "tests/free.py", "top.py"] {
        fs::write(place.workspace.join(file), "original").expect("a file");
    }
    let mut command = place.command("");
    command.read_only = ["tests/unit/t.py", "tests/unit/data", "top.py", "tests/absent.py"].map(PathBuf::from).to_vec();
    for script in [
        "echo x > tests/unit/t.py",
        "echo x >> top.py",
        "rm -f top.py",
        "rm -rf tests",
        "mv tests/unit/t.py elsewhere",
        "mv tests/unit elsewhere",
        "mv tests elsewhere",
        "mv top.py elsewhere",
        "ln top.py other && echo x > other",
        "echo x > new && mv -f new top.py",
        "touch tests/unit/data/new",
        "chmod 777 tests/unit/t.py",
        "perl -e 'truncate(\"top.py\", 0) or exit 1'",
        "umount tests/unit/t.py",
    ] {
        command.script = script.to_owned();
        let finished = exec(sandboxed, &command).await;
        assert!(!finished.exit.is_success(), "`{script}` went through");
        assert_eq!(finished.unprotected, [PathBuf::from("tests/absent.py")]);
        for file in ["tests/unit/t.py", "tests/unit/data/d", "top.py"] {
            assert_eq!(fs::read_to_string(place.workspace.join(file)).expect(script), "original", "{script}");
        }
    }
    command.script = "echo changed > tests/free.py; touch tests/new src.py; rm tests/new".to_owned();
    fs::write(place.workspace.join("tests/free.py"), "original").expect("a file");
    assert!(exec(sandboxed, &command).await.exit.is_success(), "the rest stays writable");
    assert_eq!(fs::read_to_string(place.workspace.join("tests/free.py")).expect("it is there"), "changed\n");
    // Where nothing can be protected, that is said.
    command.script = "true".to_owned();
    assert_eq!(exec(&*sandbox("host"), &command).await.unprotected, command.read_only);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_folders_are_bounded_and_shared_ones_are_readable() {
    let place = Place::new();
    fs::create_dir(place.outside.join("hidden")).expect("a folder");
    fs::write(place.outside.join("hidden/key"), "key").expect("a file");
    fs::write(place.outside.join("readable"), "text").expect("a file");
    let mut settings = settings();
    settings.read = vec![place.outside.clone()];
    settings.hide = vec![place.outside.join("hidden")];
    let bubblewrap = open(SandboxKind::Bubblewrap, &settings).expect("it can be made");
    let outside = place.outside.display();
    let command = place.command(&format!("cat {outside}/readable; ls -A {outside}/hidden; touch {outside}/x"));
    let finished = exec(&*bubblewrap, &command).await;
    assert_eq!((finished.stdout.text().as_str(), finished.exit.is_success()), ("text", false));
    let mut command = place.command("head -c 20000000 /dev/zero > \"$0\"");
    command.limits.scratch_bytes = 4 << 20;
    for folder in ["/tmp", "$HOME", "/dev/shm"] {
        command.script = format!("head -c 20000000 /dev/zero > {folder}/x");
        let finished = exec(&*bubblewrap, &command).await;
        assert!(finished.stderr.text().contains("No space left"), "{folder}: {finished:?}");
    }
}

/// The supervisor is no single point of failure: what it watches dies with it, and the engine is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bubblewrap_dies_with_its_supervisor() {
    let (place, marker) = (Place::new(), marker());
    let ready = place.workspace.join("ready");
    let me = std::process::id();
    let killer = {
        let marker = marker.clone();
        tokio::task::spawn_blocking(move || {
            wait_until("the command's start", HANGS, || ready.exists());
            // Ours among those of the tests that run beside this one: below it the script is an argument.
            let below = |pid: &String| children_of(pid).iter().any(|pid| arguments(pid).contains(&marker));
            let supervisor = children(me).into_iter().find(below).expect("it is a child of the engine");
            let killed = std::process::Command::new("sh").args(["-c", &format!("kill -9 {supervisor}")]).status();
            assert!(killed.expect("sh runs").success());
        })
    };
    let command = place.command(&format!("{} sleep {marker}", escape(&marker)));
    let result = sandbox("bubblewrap").exec(&command, &(), &CancellationToken::new()).await;
    killer.await.expect("it was found");
    assert!(matches!(result, Err(SandboxError::Supervisor { .. })), "{result:?}");
    wait_until("the death of all", DEATH, || alive(&marker) == 0);
}

fn arguments(pid: &str) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

fn children_of(pid: &str) -> Vec<String> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}

/// Root and a normal user get their walls and limits from different places in the kernel: where this test is root, it
/// becomes somebody else and tries again what depends on it.
#[test]
fn a_normal_user_gets_the_same() {
    let place = Place::new();
    let test = std::env::current_exe().expect("this test");
    // Should a fork bomb get through, it shall not take the machine with it.
    let mut process = std::process::Command::new("prlimit");
    process.arg("--nproc=3000");
    if fs::metadata("/proc/self").expect("a Linux machine").uid() == 0 {
        // Copies where the other user may read them.
        let folder = place.workspace.parent().expect("it has one").to_owned();
        let (copy, devo) = (folder.join("test"), folder.join("devo"));
        fs::copy(&test, &copy).expect("room for a copy");
        fs::copy(env!("CARGO_BIN_EXE_devo"), &devo).expect("room for a copy");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("ours");
        process.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]).arg(&copy);
        process.env("DEVO_TEST_SUPERVISOR", devo);
    } else {
        process.arg(&test);
    }
    let output = process
        .args(["--exact", "normal_user", "--ignored", "--nocapture"])
        .env("HOME", "/nonexistent")
        .output()
        .expect("prlimit and setpriv are part of every Debian");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Not a test by itself: see [`a_normal_user_gets_the_same`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that another test starts"]
async fn normal_user() {
    assert_ne!(fs::metadata("/proc/self").expect("a Linux machine").uid(), 0);
    for name in ["host", "bubblewrap"] {
        let sandbox = &*sandbox(name);
        works_here(sandbox).await;
        has_a_home_of_its_own(sandbox).await;
        leaves_files_that_are_ours(sandbox).await;
        ends_with_its_main_process(sandbox).await;
        ends_when_cancelled(sandbox).await;
        ends_when_the_engine_is_killed(sandbox).await;
        limits_processes(sandbox).await;
        survives_a_fork_bomb(sandbox).await;
        limits_memory(sandbox).await;
        eprintln!("{name} as a normal user: all held");
    }
    // Each brings a runtime of its own.
    let others: [fn(); 4] = [
        escapes::none_gets_out_of_bubblewrap,
        walls::calls_that_no_test_suite_makes_are_denied,
        walls::a_command_reaches_its_own_processes_and_no_other,
        network::what_is_listed_is_reached_and_nothing_else,
    ];
    for other in others {
        std::thread::spawn(other).join().expect("it holds for a normal user too");
    }
}
