//! `kill -9` at many instants, then `devo resume`: nothing is lost, nothing finished runs again, effects happen once.

use std::collections::HashMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::main_job::script;
use crate::world::World;

/// How many events the journal of the only run has; 0 before there is one.
fn events(world: &World) -> i64 {
    let path = world.home().join("state.db");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    rusqlite::Connection::open_with_flags(path, flags)
        .and_then(|db| db.query_row("SELECT count(*) FROM events", [], |row| row.get(0)))
        .unwrap_or(0)
}

fn spawn(world: &World, args: &[&str]) -> Child {
    world.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Lets the process live until the journal has this many events or it ends; then kills it. Says whether it was killed.
fn kill_at(world: &World, child: &mut Child, wanted: i64) -> bool {
    let patience = Instant::now() + Duration::from_secs(60);
    while events(world) < wanted {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if last_event(world) == "step_asked" {
            approve(world);
        }
        assert!(Instant::now() < patience, "the journal does not grow: {} of {wanted}", events(world));
        std::thread::sleep(Duration::from_micros(300));
    }
    if child.try_wait().unwrap().is_some() {
        return false;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

fn last_event(world: &World) -> String {
    let read = |db: rusqlite::Connection| {
        db.query_row("SELECT body ->> 'event' FROM events ORDER BY seq DESC LIMIT 1", [], |row| row.get(0))
    };
    rusqlite::Connection::open(world.home().join("state.db")).and_then(read).unwrap_or_default()
}

/// A person in another terminal.
fn approve(world: &World) {
    let run = only_run(world);
    let plan = world.devo(&["plan", &run, "--json"]).code(0).json();
    world.devo(&["approve", &run, "--hash", plan["hash"].as_str().unwrap()]).code(0);
}

fn only_run(world: &World) -> String {
    let runs = world.devo(&["status", "--json"]).code(0).json();
    runs["runs"].as_array().or(runs.as_array()).unwrap()[0]["task_id"].as_str().unwrap().to_owned()
}

fn journal(world: &World) -> Vec<Value> {
    let db = rusqlite::Connection::open(world.home().join("state.db")).unwrap();
    let mut select = db.prepare("SELECT body FROM events ORDER BY seq").unwrap();
    let rows = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(|row| serde_json::from_str(&row.unwrap()).unwrap()).collect()
}

/// No step starts again after it succeeded, within a round; the counts of starts by step.
fn check_starts(world: &World) -> HashMap<String, u32> {
    let mut done: Vec<String> = Vec::new();
    let mut starts: HashMap<String, u32> = HashMap::new();
    for event in journal(world) {
        let step = event["step"].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str().unwrap() {
            "step_started" => {
                assert!(!done.contains(&step), "{step} ran again after it had succeeded");
                if event["turn"] == 1 {
                    *starts.entry(step).or_default() += 1;
                }
            }
            "step_succeeded" => {
                assert!(!done.contains(&step), "{step} succeeded twice");
                done.push(step);
            }
            _ => {}
        }
    }
    starts
}

#[test]
fn a_chain_of_shell_steps_survives_kills_everywhere() {
    let world = World::bare();
    std::fs::write(world.home().join("devo.yaml"), "repos: {}\nsandbox: {type: host}\n").unwrap();
    let trace = world.path("trace");
    let mut text = String::from("name: chain\nsteps:\n");
    for n in 0..30 {
        let needs = if n == 0 { String::new() } else { format!(", needs: s{}", n - 1) };
        let script = format!(
            "echo begin $DEVO_STEP $DEVO_IDEMPOTENCY_KEY $$ >> {0}; echo end $DEVO_STEP >> {0}",
            trace.display()
        );
        text.push_str(&format!("  s{n}: {{type: shell{needs}, run: '{script}'}}\n"));
    }
    let file = world.write("chain.yaml", &text);
    let mut kills = 0;
    let mut wanted = 1;
    let mut child = spawn(&world, &["run", "--pipeline", file.to_str().unwrap()]);
    while kill_at(&world, &mut child, wanted) {
        kills += 1;
        // Taking the run up again costs up to three events; from there 0 to 4 further: around intents and outcomes.
        wanted = events(&world) + 3 + i64::from(kills % 5);
        let run = only_run(&world);
        child = spawn(&world, &["resume", &run]);
    }
    let run = only_run(&world);
    world.devo(&["resume", &run]);
    let status = world.status(&run);
    assert_eq!(status["status"], "COMPLETED");
    let starts = check_starts(&world);
    assert_eq!(starts.len(), 30);
    let trace = std::fs::read_to_string(trace).unwrap();
    let mut keys: HashMap<&str, &str> = HashMap::new();
    let mut begins = 0;
    for line in trace.lines().filter(|line| line.starts_with("begin")) {
        let words: Vec<&str> = line.split(' ').collect();
        begins += 1;
        assert_eq!(*keys.entry(words[1]).or_insert(words[2]), words[2], "one key for all attempts");
    }
    assert_eq!(keys.len(), 30, "no step was lost");
    let ends = trace.lines().filter(|line| line.starts_with("end")).count();
    assert!(ends >= 30 && begins <= 30 + kills, "{begins} begins, {kills} kills");
    assert!(kills >= 15, "{kills} kills");
    eprintln!("chain: {kills} kills, 30 steps, {begins} begins, {ends} ends");
}

#[test]
fn the_main_job_survives_kills_everywhere() {
    let world = World::shop();
    script(world.fake.by_turn());
    let before = world.remote_branches();
    let task = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Validar stock", "--yes"];
    let mut child = spawn(&world, &task);
    let (mut kills, mut wanted) = (0, 2);
    while kill_at(&world, &mut child, wanted) {
        kills += 1;
        let run = only_run(&world);
        wanted = events(&world) + 3 + kills as i64 % 7;
        child = spawn(&world, &["resume", &run]);
    }
    let run = only_run(&world);
    world.devo(&["resume", &run]);
    let status = world.status(&run);
    assert_eq!(status["status"], "COMPLETED", "{status:#}");
    check_starts(&world);

    let after = world.remote_branches();
    assert_eq!(after.len(), before.len() + 1, "one branch");
    let branch = status["branch"].as_str().unwrap();
    let pushed = &after.iter().find(|(name, _)| name == branch).unwrap().1;
    assert_eq!(status["commit"], pushed.as_str());
    let count = world.git(&world.path("remote.git"), &["rev-list", "--count", &format!("development..{branch}")]);
    assert_eq!(count, "1", "one commit");
    let files = world.git(&world.path("remote.git"), &["diff", "--name-only", "development", branch]);
    assert_eq!(files, "src/ventas.rs\ntests/stock.rs");
    let text = world.git(&world.path("remote.git"), &["show", &format!("{branch}:src/ventas.rs")]);
    assert_eq!(text.matches("SinExistencias").count(), 2, "each edit was made once");

    // 6 calls are needed; each kill repeats one at most.
    let calls = world.fake.asked().len();
    assert!(calls <= 6 + kills, "{calls} calls, {kills} kills");
    assert!(kills >= 10, "{kills} kills");
    eprintln!("main job: {kills} kills, {calls} model calls where 6 are needed");
}
