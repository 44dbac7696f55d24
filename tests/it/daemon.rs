//! `devo serve` as a service: one per home, told by signals, killed at any moment; the command line beside it.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fake::claude;
use crate::main_job::{plan, script};
use crate::world::World;

/// How long a test waits for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A daemon with its service manager.
pub struct Daemon {
    child: Child,
    manager: UnixDatagram,
    log: std::path::PathBuf,
}

impl Daemon {
    /// Starts it and waits until it says that it is ready.
    pub fn start(world: &World) -> Self {
        Self::start_with(world, &[])
    }

    pub fn start_with(world: &World, environment: &[(&str, &str)]) -> Self {
        let path = world.path("notify.sock");
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = world.path("serve.log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = world
            .command(&["serve"])
            .envs(environment.iter().copied())
            .env("NOTIFY_SOCKET", &path)
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        let daemon = Self { child, manager, log };
        daemon.hear("READY=1");
        daemon
    }

    /// Waits for a word to the manager.
    pub fn hear(&self, wanted: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let size = self.manager.recv(&mut buffer).unwrap_or_else(|error| {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten();
                let threads: Vec<_> = threads
                    .flatten()
                    .map(|thread| std::fs::read_to_string(thread.path().join("wchan")).unwrap_or_default())
                    .collect();
                panic!("{wanted} was never said: {error}; threads wait in {threads:?}; the log:\n{log}")
            });
            let text = String::from_utf8_lossy(&buffer[..size]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return text;
            }
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it in peace.
    pub fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }

    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A home whose commands need no sandbox and whose daemon takes any port.
pub fn quick() -> World {
    let world = World::bare();
    configure(&world, "");
    world
}

pub fn configure(world: &World, more: &str) {
    let text = format!("repos: {{}}\nsandbox: {{type: host}}\nweb: {{listen: '127.0.0.1:0'}}\n{more}\n");
    std::fs::write(world.home().join("devo.yaml"), text).unwrap();
}

#[track_caller]
pub fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn runs(world: &World) -> Vec<Value> {
    let all = world.devo(&["status", "--json", "--limit", "100000"]).code(0).json();
    all.as_array().unwrap().clone()
}

fn shell(script: &str) -> String {
    json!({"pipeline": {"steps": {"a": {"type": "shell", "run": script}}}}).to_string()
}

fn ended(world: &World, run: &str) -> Value {
    until(|| {
        let status = world.status(run);
        matches!(status["status"].as_str(), Some("COMPLETED" | "FAILED" | "ABORTED")).then_some(status)
    })
}

#[test]
fn a_second_daemon_is_told_who_is_first_and_the_next_one_starts_at_once() {
    let world = quick();
    let first = Daemon::start(&world);
    let second = world.devo(&["serve"]).code(2);
    assert!(second.stderr.contains("devo serve (process "), "{}", second.stderr);
    first.kill();
    Daemon::start(&world).stop();
}

#[test]
fn the_service_manager_and_the_signals_are_understood() {
    let world = quick();
    let daemon = Daemon::start(&world);
    let sandbox = || {
        let id = world.devo(&["run", world.write("t.yaml", &shell("true")).to_str().unwrap(), "--no-watch"]).code(0);
        world.status(id.stdout.trim())["sandbox"].as_str().unwrap().to_owned()
    };
    assert_eq!(sandbox(), "host");
    let text = std::fs::read_to_string(world.home().join("devo.yaml")).unwrap();
    std::fs::write(world.home().join("devo.yaml"), text.replace("host", "hots")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    assert!(daemon.hear("RELOADING=1").contains("MONOTONIC_USEC="));
    daemon.hear("READY=1");
    let log = std::fs::read_to_string(world.path("serve.log")).unwrap();
    assert!(log.contains("nothing was changed") && log.contains("devo.yaml:2"), "{log}");
    std::fs::write(world.home().join("devo.yaml"), text.replace("host", "bubblewrap")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.hear("RELOADING=1");
    daemon.hear("READY=1");
    assert_eq!(sandbox(), "bubblewrap");
    daemon.signal(rustix::process::Signal::TERM);
    daemon.hear("STOPPING=1");
    assert_eq!(daemon.wait(), Some(0));
    let kept = std::fs::read_to_string(world.home().join("logs/devo.log")).unwrap();
    assert!(kept.contains("serving") && kept.contains("stopped"));
}

#[test]
fn a_stop_lets_running_steps_end_and_starts_no_more() {
    let world = quick();
    let (begun, go, trace) = (world.path("begun"), world.path("go"), world.path("trace"));
    let script = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.01; done; echo a >> {}",
        begun.display(),
        go.display(),
        trace.display()
    );
    let task = json!({"pipeline": {"steps": {
        "a": {"type": "shell", "run": script},
        "b": {"type": "shell", "needs": "a", "run": format!("echo b >> {}", trace.display())},
    }}});
    let file = world.write("t.yaml", &task.to_string());
    let daemon = Daemon::start(&world);
    let run = world.devo(&["run", file.to_str().unwrap(), "--no-watch"]).code(0).stdout.trim().to_owned();
    until(|| begun.exists().then_some(()));
    daemon.signal(rustix::process::Signal::TERM);
    daemon.hear("STOPPING=1");
    std::fs::write(&go, "").unwrap();
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(std::fs::read_to_string(&trace).unwrap(), "a\n");
    assert_eq!(world.status(&run)["steps"][0]["state"], "succeeded");
    let daemon = Daemon::start(&world);
    assert_eq!(ended(&world, &run)["status"], "COMPLETED");
    assert_eq!(std::fs::read_to_string(&trace).unwrap(), "a\nb\n", "each ran once");
    daemon.stop();
}

#[test]
fn a_second_stop_does_not_wait() {
    let world = quick();
    let begun = world.path("begun");
    let file = world.write("t.yaml", &shell(&format!("touch {}; sleep 600", begun.display())));
    let daemon = Daemon::start(&world);
    let run = world.devo(&["run", file.to_str().unwrap(), "--no-watch"]).code(0).stdout.trim().to_owned();
    until(|| begun.exists().then_some(()));
    daemon.signal(rustix::process::Signal::TERM);
    daemon.hear("STOPPING=1");
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.wait(), Some(130));
    assert_eq!(world.status(&run)["status"], "EXECUTING", "it can be resumed");
}

#[test]
fn the_command_line_follows_what_the_daemon_drives() {
    let world = quick();
    let daemon = Daemon::start(&world);
    let good = world.write("good.yaml", &shell("echo hola; echo dos"));
    let ran = world.devo(&["run", good.to_str().unwrap(), "--json", "-vv"]).code(0);
    let lines = ran.lines();
    let run = lines[0]["task_id"].as_str().unwrap().to_owned();
    assert_eq!((lines[0]["event"].as_str(), lines[0]["seq"].as_u64()), (Some("accepted"), Some(1)));
    let seqs: Vec<u64> = lines.iter().filter_map(|line| line["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "every event once, in order");
    assert_eq!(lines.last().unwrap()["run"]["status"], "COMPLETED");
    assert!(ran.stderr.contains("hola") && ran.stderr.contains("driven by the daemon"), "{}", ran.stderr);
    assert_eq!(world.status(&run)["task_id"], run);

    let bad = world.write("bad.yaml", &shell("exit 3"));
    let failed = world.devo(&["run", bad.to_str().unwrap(), "--json"]).code(1);
    let failed = failed.lines()[0]["task_id"].as_str().unwrap().to_owned();
    world.devo(&["retry", &failed]).code(1);
    world.devo(&["resume", &run]).code(0);
    world.devo(&["run", world.write("wrong.yaml", "pipeline: nope\n").to_str().unwrap()]).code(2);
    let yes = world.devo(&["run", good.to_str().unwrap(), "--yes"]).code(2);
    assert!(yes.stderr.contains("devo serve"), "{}", yes.stderr);

    let keyed =
        world.write("keyed.yaml", &format!("key: once\n{}", "pipeline: {steps: {a: {type: shell, run: 'true'}}}\n"));
    let keyed = keyed.to_str().unwrap();
    let one = world.devo(&["run", keyed, "--no-watch"]).code(0).stdout;
    let again = world.devo(&["run", keyed, "--no-watch"]).code(0);
    assert_eq!(again.stdout, one, "the same key is the same run");
    let pipeline =
        world.write("p.yaml", "inputs: {n: {type: integer}}\nsteps: {a: {type: shell, run: 'echo {{ inputs.n }}'}}\n");
    let args = ["run", "--pipeline", pipeline.to_str().unwrap(), "--input", "n=3"];
    world.devo(&args).code(0);
    daemon.stop();
}

#[test]
fn leaving_a_run_that_the_daemon_drives_does_not_end_it() {
    let world = quick();
    let (begun, go) = (world.path("begun"), world.path("go"));
    let script = format!("touch {}; while [ ! -e {} ]; do sleep 0.01; done", begun.display(), go.display());
    let file = world.write("t.yaml", &shell(&script));
    let daemon = Daemon::start(&world);
    let child = world
        .command(&["run", file.to_str().unwrap(), "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until(|| begun.exists().then_some(()));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let left = crate::world::ran(child.wait_with_output().unwrap()).code(130);
    assert!(left.stderr.contains("the daemon goes on"), "{}", left.stderr);
    std::fs::write(&go, "").unwrap();
    let run = left.lines()[0]["task_id"].as_str().unwrap().to_owned();
    assert_eq!(ended(&world, &run)["status"], "COMPLETED");
    daemon.stop();
}

#[test]
fn a_task_from_one_terminal_is_approved_from_another() {
    let world = World::shop();
    world.configure("web: {listen: '127.0.0.1:0'}");
    script(&world.fake);
    let daemon = Daemon::start(&world);
    let args = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Validar stock negativo", "--json"];
    let child = world.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let run = until(|| {
        let planned = runs(&world).into_iter().find(|run| run["status"] == "PLANNED")?;
        Some(planned["task_id"].as_str().unwrap().to_owned())
    });
    let plan = world.devo(&["plan", &run, "--json"]).code(0).json();
    let late = world.devo(&["approve", &run, "--hash", &format!("sha256:{}", "0".repeat(64))]).code(2);
    assert!(late.stderr.contains("revision 1"), "{}", late.stderr);
    world.devo(&["approve", &run, "--hash", plan["hash"].as_str().unwrap()]).code(0);
    let ran = crate::world::ran(child.wait_with_output().unwrap()).code(0);
    let last = ran.lines().pop().unwrap();
    assert_eq!(last["run"]["status"], "COMPLETED");
    assert_eq!(world.remote_branches().len(), 3, "the branch was pushed");
    daemon.stop();
}

#[test]
fn a_run_that_waits_for_a_person_survives_the_daemon() {
    let world = World::shop();
    world.configure("web: {listen: '127.0.0.1:0'}");
    world.fake.planner(claude(&[("submit_plan", plan("Primer plan"))]));
    let daemon = Daemon::start(&world);
    let args = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Validar", "--no-watch"];
    let run = world.devo(&args).code(0).stdout.trim().to_owned();
    until(|| (world.status(&run)["status"] == "PLANNED").then_some(()));
    daemon.kill();
    let daemon = Daemon::start(&world);
    assert_eq!(world.status(&run)["status"], "PLANNED");
    world.devo(&["reject", &run]).code(0);
    assert_eq!(ended(&world, &run)["status"], "ABORTED");
    assert_eq!(world.fake.asked().len(), 1, "no model was asked again");
    daemon.stop();
}

#[test]
fn a_run_that_stands_still_goes_on_when_somebody_asks() {
    let world = quick();
    let with_repos = |repos: &str| {
        let text = format!("repos: {repos}\nsandbox: {{type: host}}\nweb: {{listen: '127.0.0.1:0'}}\n");
        std::fs::write(world.home().join("devo.yaml"), text).unwrap();
    };
    let log = || std::fs::read_to_string(world.path("serve.log")).unwrap();
    let task = world.write("t.yaml", "repo: shop\npipeline: {steps: {a: {type: shell, run: 'test -e go'}}}\n");
    with_repos("{shop: {url: /nowhere, base: main}}");
    let daemon = Daemon::start(&world);
    let run = world.devo(&["run", task.to_str().unwrap(), "--no-watch"]).code(0).stdout.trim().to_owned();
    assert_eq!(ended(&world, &run)["status"], "FAILED");
    // Its repository goes, and comes back: meanwhile the run can be taken up by nobody.
    with_repos("{}");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.hear("RELOADING=1");
    daemon.hear("READY=1");
    world.devo(&["retry", &run, "--no-watch"]).code(0);
    until(|| log().contains("run stands still").then_some(()));
    with_repos("{shop: {url: /nowhere, base: main}}");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.hear("RELOADING=1");
    daemon.hear("READY=1");
    assert_eq!(world.status(&run)["status"], "EXECUTING");
    // Well before the daemon would look by itself, which it does once in a minute.
    let asked = Instant::now();
    world.devo(&["resume", &run]).code(1);
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert_eq!(world.status(&run)["status"], "FAILED", "it was tried again");
    // A second time, by the word that people try first.
    with_repos("{}");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.hear("RELOADING=1");
    daemon.hear("READY=1");
    world.devo(&["retry", &run, "--no-watch"]).code(0);
    until(|| (log().matches("run stands still").count() == 2).then_some(()));
    with_repos("{shop: {url: /nowhere, base: main}}");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.hear("RELOADING=1");
    daemon.hear("READY=1");
    let asked = Instant::now();
    let refused = world.devo(&["retry", &run]).code(2);
    assert!(refused.stderr.contains("has not ended") && refused.stderr.contains("resume"), "{}", refused.stderr);
    assert_eq!(ended(&world, &run)["status"], "FAILED");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    daemon.stop();
}

#[test]
fn a_reload_says_what_it_cannot_do() {
    let world = quick();
    let daemon = Daemon::start(&world);
    let reload = |more: &str| {
        configure(&world, more);
        daemon.signal(rustix::process::Signal::HUP);
        daemon.hear("RELOADING=1");
        daemon.hear("READY=1");
        std::fs::read_to_string(world.path("serve.log")).unwrap()
    };
    assert!(!reload("limits: {runs: 3}").contains("started again"), "limits are in force at once");
    let log = reload("journal: {durability: normal}\nchat: {telegram: {allow: [1]}}");
    assert!(log.contains("journal.durability") && log.contains("started again"), "{log}");
    assert!(log.contains("TELEGRAM_BOT_TOKEN is not set") && log.contains("it is as before"), "{log}");
    daemon.stop();
}

#[test]
fn kills_between_files_lose_nothing_and_do_nothing_twice() {
    let world = quick();
    configure(&world, "limits: {runs: 8}");
    let trace = world.path("trace");
    let inbox = world.home().join("inbox");
    let (files, kills) = (120, 12);
    let drop_one = |n: usize| {
        // Half of them by hand, half as `devo submit` does it.
        let text = shell(&format!("echo {n} >> {}", trace.display()));
        if n.is_multiple_of(2) {
            std::fs::write(inbox.join(format!("t{n}.yaml")), text).unwrap();
        } else {
            let part = inbox.join(format!(".t{n}.part"));
            std::fs::write(&part, text).unwrap();
            std::fs::rename(part, inbox.join(format!("{}.yaml", uuid::Uuid::now_v7()))).unwrap();
        }
    };
    let mut dropped = 0;
    for kill in 0..kills {
        let daemon = Daemon::start(&world);
        while dropped < files * (kill + 1) / kills {
            drop_one(dropped);
            dropped += 1;
        }
        // Somewhere between the claim of the first and the end of the last.
        std::thread::sleep(Duration::from_millis(7 * kill as u64));
        daemon.kill();
    }
    let daemon = Daemon::start(&world);
    let all = until(|| {
        let all = runs(&world);
        let over = all.iter().filter(|run| run["status"] == "COMPLETED").count();
        (over >= files).then_some(all)
    });
    assert_eq!(all.len(), files, "one run for each file");
    let names = |folder: &str| std::fs::read_dir(inbox.join(folder)).unwrap().count();
    until(|| (names("done") == files).then_some(()));
    assert_eq!((names("claimed"), names("rejected")), (0, 0));
    let trace = std::fs::read_to_string(&trace).unwrap();
    let mut seen: Vec<usize> = trace.lines().map(|line| line.parse().unwrap()).collect();
    let repeats = seen.len() - files;
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..files).collect::<Vec<_>>(), "each file's work was done");
    // A step in flight at a kill runs again, and no other: at most as many as may run at once.
    assert!(repeats <= kills * 8, "{repeats} repeats");
    daemon.stop();
}
