//! The inbox folder of a running daemon: what is dropped is answered, whatever it is.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Daemon, configure, quick, runs, until};
use crate::world::World;

const GOOD: &str = "pipeline: {steps: {a: {type: shell, run: echo hola}}}\n";

fn inbox(world: &World) -> std::path::PathBuf {
    world.home().join("inbox")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_lies_among_the_claimed_is_neither_followed_nor_waited_for() {
    let world = quick();
    let claimed = inbox(&world).join("claimed");
    std::fs::create_dir_all(&claimed).unwrap();
    let secret = world.write("elsewhere.yaml", "pipeline: from-elsewhere\ntask: not to be read\n");
    let (link, pipe) = ("0193b2c0-7e1f-7abc-8def-000000000001", "0193b2c0-7e1f-7abc-8def-000000000002");
    symlink(secret, claimed.join(format!("{link}.yaml"))).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, claimed.join(format!("{pipe}.yaml")), 0o600.into()).unwrap();
    // A pipe would make it wait for ever.
    let ends = |args: &[&str]| {
        let mut child = world.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                child.kill().unwrap();
                panic!("{args:?} hangs");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        crate::world::ran(child.wait_with_output().unwrap())
    };
    let listed = ends(&["status", "--json"]).code(0);
    assert!(listed.stdout.contains(link) && listed.stdout.contains(pipe), "{}", listed.stdout);
    assert!(
        !listed.stdout.contains("from-elsewhere") && !listed.stdout.contains("not to be read"),
        "{}",
        listed.stdout
    );
    for run in [link, pipe] {
        let refused = ends(&["resume", run]).code(2);
        assert!(!refused.stderr.contains("from-elsewhere"), "{}", refused.stderr);
        assert!(inbox(&world).join(format!("rejected/{run}.yaml.error.txt")).exists(), "{}", refused.stderr);
    }
}

#[test]
fn whatever_is_dropped_is_answered_or_left_alone() {
    let world = quick();
    let inbox = inbox(&world);
    let drop = |name: &str, bytes: &[u8]| std::fs::write(inbox.join(name), bytes).unwrap();
    // Some are there before the daemon, the others come while it runs.
    drop("early.yaml", GOOD.as_bytes());
    let daemon = Daemon::start(&world);
    drop("good.yml", GOOD.as_bytes());
    drop("mistakes.yaml", b"pipeline: {steps: {a: {type: shel}}}\ntsk: x\n");
    drop("latin1.yaml", b"task: \xe9\n");
    drop("huge.yaml", &vec![b'#'; 3 * 1024 * 1024]);
    // Small enough for the folder, and too large for an event: what comes behind it is answered all the same.
    let wordy = format!(
        "task: {}\npipeline: {{inputs: {{task: {{type: string}}}}, steps: {{a: {{type: shell, run: 'true'}}}}}}\n",
        "x".repeat(600_000)
    );
    drop("a-wordy.yaml", wordy.as_bytes());
    drop("path.yaml", b"pipeline: /etc/passwd\n");
    drop("target.yaml", b"notify: [smtp:a@b]\npipeline: {steps: {a: {type: shell, run: 'true'}}}\n");
    symlink("/etc/passwd", inbox.join("link.yaml")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, inbox.join("pipe.yaml"), 0o600.into()).unwrap();
    std::fs::create_dir(inbox.join("folder.yaml")).unwrap();
    for left in [".hidden.yaml", "backup.yaml~", "half.yaml.tmp", "notes.txt"] {
        drop(left, b"pipeline: nope\n");
    }
    until(|| (names(&inbox.join("done")).len() + names(&inbox.join("rejected")).len() / 2 >= 10).then_some(()));
    assert_eq!(names(&inbox.join("done")), ["early.yaml", "good.yml"]);
    let rejected = [
        "a-wordy.yaml",
        "huge.yaml",
        "latin1.yaml",
        "link.yaml",
        "mistakes.yaml",
        "path.yaml",
        "pipe.yaml",
        "target.yaml",
    ];
    let with_reasons: Vec<String> =
        rejected.iter().flat_map(|name| [(*name).to_owned(), format!("{name}.error.txt")]).collect();
    assert_eq!(names(&inbox.join("rejected")), with_reasons);
    let reason = |name: &str| std::fs::read_to_string(inbox.join(format!("rejected/{name}.error.txt"))).unwrap();
    let mistakes = reason("mistakes.yaml");
    for wanted in ["mistakes.yaml:1:30", "did you mean `shell`?", "mistakes.yaml:2:1", "did you mean `task`?"] {
        assert!(mistakes.contains(wanted), "{wanted:?} is missing in {mistakes}");
    }
    assert!(reason("a-wordy.yaml").contains("too large") && reason("a-wordy.yaml").contains("make it smaller"));
    assert!(reason("huge.yaml").contains("larger than"));
    assert!(reason("latin1.yaml").contains("UTF-8"));
    assert!(!reason("path.yaml").contains("root:"), "no line of a file that was named is shown");
    assert!(reason("target.yaml").contains("write `mailto:ADDRESS`"));
    let mut left = names(&inbox);
    left.retain(|name| !["claimed", "done", "rejected"].contains(&name.as_str()));
    assert_eq!(left, [".hidden.yaml", "backup.yaml~", "folder.yaml", "half.yaml.tmp", "notes.txt"]);
    let all = runs(&world);
    assert_eq!(all.len(), 2);
    daemon.stop();
    let run = world.status(all[0]["task_id"].as_str().unwrap());
    assert_eq!(run["status"], "COMPLETED");
}

#[test]
fn a_file_is_taken_only_when_its_writer_is_done() {
    let world = quick();
    let inbox = inbox(&world);
    let mut early = std::fs::File::create(inbox.join("early.yaml")).unwrap();
    early.write_all(GOOD.as_bytes()).unwrap();
    let daemon = Daemon::start(&world);
    let mut slow = std::fs::File::create(inbox.join("slow.yaml")).unwrap();
    // Valid by itself, and not all of it.
    slow.write_all(GOOD.as_bytes()).unwrap();
    slow.sync_all().unwrap();
    for n in 0..3 {
        std::fs::write(inbox.join(format!("other{n}.yaml")), GOOD).unwrap();
        until(|| inbox.join(format!("done/other{n}.yaml")).exists().then_some(()));
        // Longer than any look at an unchanged file.
        std::thread::sleep(std::time::Duration::from_millis(700));
        assert!(inbox.join("slow.yaml").exists() && inbox.join("early.yaml").exists());
    }
    for mut file in [early, slow] {
        file.write_all(b"task: the second half\n").unwrap();
    }
    until(|| (inbox.join("done/slow.yaml").exists() && inbox.join("done/early.yaml").exists()).then_some(()));
    let halves = runs(&world).iter().filter(|run| run["task"] == "the second half").count();
    assert_eq!((halves, runs(&world).len()), (2, 5));
    daemon.stop();
}

#[test]
fn the_same_key_or_id_is_one_run_and_names_never_collide() {
    let world = quick();
    let inbox = inbox(&world);
    let daemon = Daemon::start(&world);
    let done = |count: usize| until(|| (names(&inbox.join("done")).len() == count).then_some(()));
    for round in 1..=3 {
        std::fs::write(inbox.join("task.yaml"), format!("key: once\n{GOOD}")).unwrap();
        done(round);
    }
    assert_eq!(names(&inbox.join("done")), ["task-1.yaml", "task-2.yaml", "task.yaml"]);
    assert_eq!(runs(&world).len(), 1);
    let id = uuid::Uuid::now_v7();
    for round in 4..=5 {
        std::fs::write(inbox.join(format!("{id}.yaml")), GOOD).unwrap();
        done(round);
    }
    assert_eq!(runs(&world).len(), 2);
    assert_eq!(world.status(&id.to_string())["task_id"], id.to_string());
    let file = world.write("keyed.yaml", &format!("key: once\n{GOOD}"));
    let other = world.devo(&["submit", file.to_str().unwrap()]).code(0).stdout.trim().to_owned();
    done(6);
    assert_eq!(world.status(&other)["short_id"], runs(&world)[1]["short_id"], "the id leads to the run with the key");
    daemon.stop();
}

#[test]
fn what_was_claimed_before_a_crash_is_taken_up_once() {
    let world = quick();
    let inbox = inbox(&world);
    let file = world.write("t.yaml", GOOD);
    let known = world.devo(&["run", file.to_str().unwrap(), "--json"]).code(0).lines()[0]["task_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let fresh = uuid::Uuid::now_v7();
    // Accepted and not moved; claimed and not accepted.
    std::fs::write(inbox.join(format!("claimed/first.{known}.yaml")), "pipeline: gone-since\n").unwrap();
    std::fs::write(inbox.join(format!("claimed/second.{fresh}.yml")), GOOD).unwrap();
    let daemon = Daemon::start(&world);
    until(|| (names(&inbox.join("done")) == ["first.yaml", "second.yml"]).then_some(()));
    assert!(names(&inbox.join("claimed")).is_empty() && names(&inbox.join("rejected")).is_empty());
    assert_eq!(runs(&world).len(), 2);
    until(|| (world.status(&fresh.to_string())["status"] == "COMPLETED").then_some(()));
    daemon.stop();
}

/// Bodies with their signatures.
type Told = Arc<Mutex<Vec<(Value, String)>>>;

/// A receiver that keeps the bodies and the signatures; the first of each event is answered only when the gate opens.
fn receiver(gate: Arc<Mutex<()>>, stumbles: &'static str) -> (String, Told) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/told", listener.local_addr().unwrap());
    let told = Told::default();
    let shared = told.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (shared, gate) = (shared.clone(), gate.clone());
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let mut buffer = [0; 4096];
                let (head, body) = loop {
                    let Ok(size @ 1..) = stream.read(&mut buffer) else { return };
                    bytes.extend_from_slice(&buffer[..size]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let head = head.to_ascii_lowercase();
                    let length: usize =
                        head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
                    if body.len() >= length {
                        break (head.clone(), body.to_owned());
                    }
                };
                let signature = head.lines().find_map(|line| line.strip_prefix("x-devo-signature-256: ")).unwrap();
                let told: Value = serde_json::from_str(&body).unwrap();
                if told["run"]["task"] == stumbles {
                    let _ = stream.write_all(b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    return;
                }
                shared.lock().unwrap().push((told, signature.to_owned()));
                drop(gate.lock().unwrap());
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
            });
        }
    });
    (url, told)
}

#[test]
fn a_webhook_is_told_once_and_after_a_kill_at_most_once_more() {
    let world = quick();
    let gate = Arc::new(Mutex::new(()));
    let (url, told) = receiver(gate.clone(), "stumble");
    configure(&world, &format!("notify: {{webhook: {{url: '{url}', secret: HOOK}}}}"));
    let refused = world.devo(&["serve"]).code(2);
    assert!(refused.stderr.contains("HOOK"), "{}", refused.stderr);
    let start = || Daemon::start_with(&world, &[("HOOK", "a secret between two")]);
    let daemon = start();
    let good = world.write("good.yaml", GOOD);
    let bad = world.write("bad.yaml", "pipeline: {steps: {a: {type: shell, run: exit 1}}}\n");
    // It stumbles over one, always: the others are told all the same.
    let odd = world.write("odd.yaml", &format!("task: stumble\n{GOOD}"));
    world.devo(&["run", odd.to_str().unwrap()]).code(0);
    let count = |wanted: usize| until(|| (told.lock().unwrap().len() >= wanted).then_some(()));
    world.devo(&["run", good.to_str().unwrap()]).code(0);
    count(1);
    world.devo(&["run", bad.to_str().unwrap()]).code(1);
    count(2);
    // Killed while the receiver has it and has not answered.
    let held = gate.lock().unwrap();
    world.devo(&["run", good.to_str().unwrap()]).code(0);
    count(3);
    daemon.kill();
    drop(held);
    let daemon = start();
    count(4);
    world.devo(&["run", bad.to_str().unwrap()]).code(1);
    count(5);
    daemon.stop();
    let told = told.lock().unwrap();
    let events: Vec<_> =
        told.iter().map(|(body, _)| (body["event"].as_str().unwrap(), body["repeat"].as_bool().unwrap())).collect();
    assert_eq!(events, [("done", false), ("failed", false), ("done", false), ("done", true), ("failed", false)]);
    assert_eq!(told[2].0["id"], told[3].0["id"], "a repeat has the id of the first");
    assert_eq!(told[1].0["run"]["status"], "FAILED");
    assert!(told.iter().all(|(_, signature)| signature.len() == 71 && signature.starts_with("sha256=")));
}
