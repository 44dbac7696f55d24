//! People's words from other processes, and what is refused.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::daemon::{runs, until};
use crate::fake::{Answer, claude, gemini};
use crate::main_job::{executor, plan, script};
use crate::world::{KEY, World};

const TASK: &[&str] = &["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Validar stock", "--no-watch"];

/// A run that waits for its approval, left by the engine.
fn waiting(world: &World) -> String {
    let ran = world.devo(&[TASK, &["--json"]].concat()).code(3);
    ran.lines()[0]["task_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_revision_makes_another_plan_and_voids_the_first() {
    let world = World::shop();
    world.fake.planner(claude(&[("submit_plan", plan("Primer plan"))]));
    let run = waiting(&world);
    let status = world.status(&run);
    assert_eq!(
        (status["status"].as_str(), status["waiting_for"]["kind"].as_str()),
        (Some("PLANNED"), Some("approval"))
    );
    assert!(status["branch"].is_null() && world.remote_branches().len() == 2, "nothing was done yet");
    let first = world.devo(&["plan", &run, "--json"]).code(0).json();

    world.devo(&["revise", &run, "también en devoluciones"]).code(0);
    world.fake.planner(claude(&[("submit_plan", plan("Segundo plan"))]));
    world.devo(&["resume", &run, "--no-watch"]).code(3);
    let second = world.devo(&["plan", &run, "--json"]).code(0).json();
    assert_eq!((first["revision"].as_u64(), second["revision"].as_u64()), (Some(1), Some(2)));
    assert_eq!(second["title"], "Segundo plan");
    let asked = world.fake.asked().last().unwrap().body.to_string();
    assert!(asked.contains("también en devoluciones") && asked.contains("Primer plan"), "the planner saw both");

    // `status` names the plan and does not show it; with --json it is a program's food.
    std::fs::remove_file(world.home().join("runs").join(&run).join("shown.json")).unwrap();
    world.status(&run);
    let named = world.devo(&["status", &run]).code(0);
    assert!(named.stdout.contains("Segundo plan"), "{}", named.stdout);
    let unseen = world.devo(&["approve", &run]).code(2);
    assert!(unseen.stderr.contains("no plan of this run was shown here yet"), "{}", unseen.stderr);

    let late = world.devo(&["approve", &run, "--hash", first["hash"].as_str().unwrap()]).code(2);
    assert!(late.stderr.contains("revision 2"), "{}", late.stderr);
    let recorded = world.devo(&["approve", &run, "--hash", second["hash"].as_str().unwrap()]).code(0);
    assert!((recorded.stdout + &recorded.stderr).contains("devo resume"), "nobody drives it, and it says what does");
    executor(&world.fake);
    world.devo(&["resume", &run]).code(0);
    assert_eq!(world.status(&run)["approval"]["revision"], 2);
    world.devo(&["approve", &run, "--hash", second["hash"].as_str().unwrap()]).code(2);
}

#[test]
fn what_is_typed_while_the_planner_works_approves_nothing() {
    let world = World::shop();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    world.fake.planner(claude(&[("submit_plan", plan("Primer plan"))]));
    world.fake.planner(Answer::Held(gate.clone(), Box::new(claude(&[("submit_plan", plan("Segundo plan"))]))));
    let devo = world.command(&TASK[..TASK.len() - 1]);
    let words: Vec<_> =
        std::iter::once(devo.get_program()).chain(devo.get_args()).map(|word| word.to_str().unwrap()).collect();
    let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    // A real terminal.
    let mut terminal = Command::new("script")
        .args(["-qfec", &line, "/dev/null"])
        .current_dir(world.dir.path())
        .env_clear()
        .envs(devo.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = terminal.stdin.take().unwrap();
    let shown = Arc::new(Mutex::new(String::new()));
    let reader = std::thread::spawn({
        let (mut output, shown) = (terminal.stdout.take().unwrap(), shown.clone());
        move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        }
    });
    let see = |wanted: &str| until(|| shown.lock().unwrap().contains(wanted).then_some(()));
    see("leave it waiting > ");
    let run = runs(&world)[0]["short_id"].as_str().unwrap().to_owned();
    world.devo(&["revise", &run, "también en devoluciones"]).code(0);
    see("answered elsewhere; going on");
    // A line that is finished, another one, and the beginning of a third.
    keys.write_all(b"a\na\na").unwrap();
    until(|| (world.fake.asked().len() == 2).then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    drop(held);
    see("Segundo plan");
    until(|| (shown.lock().unwrap().matches("leave it waiting > ").count() == 2).then_some(()));
    std::thread::sleep(Duration::from_millis(500));
    let status = world.status(&run);
    assert_eq!((&status["status"], &status["approval"]), (&json!("PLANNED"), &json!(null)));
    // What is typed now counts, the first time.
    keys.write_all(b"q\n").unwrap();
    assert_eq!(terminal.wait().unwrap().code(), Some(3), "{}", shown.lock().unwrap());
    reader.join().unwrap();
    assert!(!shown.lock().unwrap().contains("type a, r, j or q"));
}

#[test]
fn rejecting_and_aborting_end_the_run_and_touch_nothing() {
    for word in ["reject", "abort"] {
        let world = World::shop();
        let before = world.remote_branches();
        world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
        let run = waiting(&world);
        world.devo(&[word, &run]).code(0);
        world.devo(&["resume", &run]).code(4);
        assert_eq!(world.status(&run)["status"], "ABORTED");
        assert_eq!(world.remote_branches(), before);
    }
}

#[test]
fn a_refused_push_is_reported_and_retried_without_redoing_the_work() {
    let world = World::shop();
    script(&world.fake);
    let hook = world.path("remote.git/hooks/pre-receive");
    std::fs::write(&hook, "#!/bin/sh\necho 'not on Fridays' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let args = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Validar stock", "--yes", "--json"];
    let ran = world.devo(&args).code(1);
    let run = ran.lines()[0]["task_id"].as_str().unwrap().to_owned();
    let status = world.status(&run);
    assert_eq!(status["status"], "FAILED");
    assert!(status["error"]["message"].as_str().unwrap().contains("not on Fridays"), "{}", status["error"]);
    assert!(status["commit"].is_string(), "the commit is kept");
    let calls = world.fake.asked().len();
    let failed_with = |code: &str| {
        world.devo(&["retry", &run, "--from", "push"]).code(1);
        let now = world.status(&run);
        assert_eq!((now["error"]["code"].as_str(), &now["commit"]), (Some(code), &status["commit"]));
        assert!(now["error"]["hint"].is_string(), "{}", now["error"]);
    };
    failed_with("push_rejected");
    std::fs::remove_file(hook).unwrap();
    let (remote, away) = (world.path("remote.git"), world.path("away.git"));
    std::fs::rename(&remote, &away).unwrap();
    failed_with("repo_not_found");
    std::fs::rename(&away, &remote).unwrap();
    let branch = status["branch"].as_str().unwrap();
    world.git(&remote, &["branch", branch, "main"]);
    failed_with("remote_moved");
    world.git(&remote, &["branch", "-D", branch]);
    // What devo.yaml protects by now is refused as well.
    world.configure("    protected: [\"task/*\"]");
    failed_with("protected_branch");
    world.configure("");
    world.devo(&["retry", &run, "--from", "push"]).code(0);
    assert_eq!(world.fake.asked().len(), calls, "no model was asked again");
    assert_eq!(world.remote_branches().len(), 3);
    assert!(
        world
            .remote_branches()
            .iter()
            .any(|(name, id)| name == branch && Some(id.as_str()) == status["commit"].as_str())
    );
}

#[test]
fn a_secret_of_the_engine_is_not_committed() {
    let world = World::shop();
    world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    // The model cannot know the key; a command that found it elsewhere could write it down.
    let halves = (&KEY[..9], &KEY[9..]);
    let leak = format!("printf '\n// %s%s\n' {} {} >> src/ventas.rs", halves.0, halves.1);
    world.fake.executor(gemini(&[("run_shell_command", json!({"command": leak}))]));
    for _ in 0..3 {
        world.fake.executor(gemini(&[("finish", json!({"status": "done", "summary": "Hecho.", "evidence": []}))]));
    }
    let args = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Validar stock", "--yes", "--json"];
    let ran = world.devo(&args).code(1);
    let last = ran.lines().pop().unwrap();
    let error = &last["run"]["error"];
    assert_eq!(error["code"], "secret", "{error:#}");
    assert!(error["message"].as_str().unwrap().contains("src/ventas.rs:"), "{error:#}");
    assert!(!(ran.stdout + &ran.stderr).contains(KEY));
    assert_eq!(world.remote_branches().len(), 2, "nothing was pushed");
}

#[test]
fn a_key_names_one_run_and_a_submitted_task_waits_for_its_engine() {
    let world = World::bare();
    let file = world.write("task.yaml", "pipeline: {steps: {a: {type: shell, run: echo one}}}\nkey: only-once\n");
    let file = file.to_str().unwrap();
    let one = world.devo(&["run", file, "--json"]).code(0).lines()[0]["task_id"].clone();
    world.devo(&["run", file]).code(0);
    let all = world.devo(&["status", "--json"]).code(0).json();
    let runs = all["runs"].as_array().or(all.as_array()).unwrap();
    assert_eq!((runs.len(), &runs[0]["task_id"]), (1, &one));

    let other = world.write("other.yaml", "pipeline: {steps: {a: {type: shell, run: echo two}}}\n");
    let ran = world.devo(&["submit", other.to_str().unwrap(), "--json"]).code(0);
    let id = ran.json()["task_id"].as_str().unwrap().to_owned();
    assert_eq!(world.status(&id)["status"], "QUEUED");
    world.devo(&["resume", &id]).code(0);
    assert_eq!(world.status(&id)["status"], "COMPLETED");
    assert!(world.devo(&["logs", &id]).code(0).stdout.contains("two"));
}

#[test]
fn protected_tests_and_false_claims_do_not_pass() {
    let world = World::shop();
    world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    let cheat = json!({"file_path": "tests/ventas.rs", "old_string": "fn una_venta", "new_string": "fn otra"});
    let sneak = json!({"command": "rm -f tests/ventas.rs; echo '[x]' >> Cargo.toml; touch .gitattributes; true"});
    let red = json!({"file_path": "src/ventas.rs", "old_string": "unidades * precio_centimos", "new_string": "0"});
    world.fake.executor(gemini(&[
        ("read_file", json!({"file_path": "tests/ventas.rs"})),
        ("replace", cheat),
        ("run_shell_command", sneak),
    ]));
    world.fake.executor(gemini(&[("replace", red)]));
    for _ in 0..3 {
        world.fake.executor(gemini(&[("finish", json!({"status": "done", "summary": "Hecho."}))]));
    }
    let args = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Validar stock", "--yes", "--json"];
    let ran = world.devo(&args).code(1);
    let last = ran.lines().pop().unwrap();
    assert_eq!(last["run"]["error"]["code"], "gate_failed", "{:#}", last["run"]["error"]);
    let said = world.fake.asked().last().unwrap().body.to_string();
    assert!(said.contains("protected"), "the refusal was said");
    let run = last["run"]["task_id"].as_str().unwrap();
    let diff = world.devo(&["diff", run]).code(0).stdout;
    assert!(diff.contains("src/ventas.rs"), "{diff}");
    for untouched in ["tests/ventas.rs", "Cargo.toml", ".gitattributes"] {
        assert!(!diff.contains(untouched), "{untouched} was changed:\n{diff}");
    }
    assert_eq!(world.remote_branches().len(), 2, "nothing was pushed");
}

#[test]
fn an_abort_from_another_terminal_stops_a_call_that_is_under_way() {
    let world = World::shop();
    world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    world.fake.executor(Answer::Held(gate.clone(), Box::new(gemini(&[]))));
    let args = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Validar stock", "--yes"];
    let mut child = world.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while world.fake.asked().len() < 2 {
        assert!(Instant::now() < patience, "the executor was never asked");
        std::thread::sleep(Duration::from_millis(5));
    }
    let all = world.devo(&["status", "--json"]).code(0).json();
    let run = all["runs"].as_array().or(all.as_array()).unwrap()[0]["task_id"].as_str().unwrap().to_owned();
    // One engine per home: a second one is told who is first.
    let second = world.devo(&["resume", &run]).code(2);
    assert!(second.stderr.contains("devo run"), "{}", second.stderr);
    world.devo(&["abort", &run]).code(0);
    assert_eq!(child.wait().unwrap().code(), Some(4));
    drop(held);
    assert_eq!(world.status(&run)["status"], "ABORTED");
    assert_eq!(world.remote_branches().len(), 2);
}

/// A run of a pipeline that sleeps, whose engine was killed in the middle of it.
fn killed(world: &World, steps: &str) -> String {
    let file =
        world.write("killed.yaml", &format!("steps:\n  slow: {{type: shell, run: 'touch here; sleep 60'}}\n{steps}"));
    let mut child = world
        .command(&["run", "--pipeline", file.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let run = crate::daemon::until(|| {
        let all = world.devo(&["status", "--json"]).code(0).json();
        let open = all.as_array().unwrap().iter().find(|row| row["status"] == "EXECUTING")?;
        let run = open["task_id"].as_str().unwrap().to_owned();
        (world.status(&run)["steps"][0]["state"] == "running").then_some(run)
    });
    let driven = world.devo(&["status", &run]).code(0).stdout;
    assert!(!driven.contains("nobody drives"), "{driven}");
    child.kill().unwrap();
    child.wait().unwrap();
    run
}

#[test]
fn an_abort_is_carried_out_at_once_where_only_the_record_of_it_is_missing() {
    let world = crate::daemon::quick();
    let run = killed(&world, "");
    let said = world.devo(&["status", &run]).code(0).stdout;
    assert!(said.contains(&format!("nobody drives it: devo resume {}", &run[run.len() - 8..])), "{said}");
    let ran = world.devo(&["abort", &run]).code(0);
    assert!(ran.stdout.starts_with("aborted ") && !ran.stderr.contains("resume"), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(world.status(&run)["status"], "ABORTED");
}

#[test]
fn an_abort_that_leaves_clean_up_says_that_it_is_only_recorded() {
    let world = crate::daemon::quick();
    let run = killed(&world, "  clean: {type: shell, always: true, needs: slow, run: touch swept}\n");
    let ran = world.devo(&["abort", &run]).code(0);
    assert!(ran.stdout.starts_with("abort recorded for "), "{}", ran.stdout);
    assert!(ran.stderr.contains("nobody drives this run now") && ran.stderr.contains("devo resume"), "{}", ran.stderr);
    assert_eq!(world.status(&run)["status"], "EXECUTING");
    world.devo(&["resume", &run]).code(4);
    assert_eq!(world.status(&run)["steps"][1]["state"], "succeeded");

    // A second abort ends the clean-up too: nothing is left that would be work.
    let run = killed(&world, "  clean: {type: shell, always: true, needs: slow, run: touch swept}\n");
    world.devo(&["abort", &run]).code(0);
    let ran = world.devo(&["abort", &run]).code(0);
    assert!(ran.stdout.starts_with("aborted "), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(world.status(&run)["status"], "ABORTED");
}

#[test]
fn whoever_follows_the_logs_of_a_run_that_nobody_drives_is_told() {
    let world = crate::daemon::quick();
    let run = killed(&world, "");
    let log = world.path("follow.log");
    let mut child = world
        .command(&["logs", &run, "--follow"])
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    crate::daemon::until(|| {
        std::thread::sleep(Duration::from_millis(20));
        std::fs::read_to_string(&log).unwrap().contains("nobody drives it: devo resume").then_some(())
    });
    assert!(child.try_wait().unwrap().is_none(), "it still follows: somebody may resume the run");
    world.devo(&["abort", &run]).code(0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_to_string(&log).unwrap().matches("nobody drives").count(), 1);
}

#[test]
fn a_plan_that_waits_is_listed_before_newer_runs_whatever_the_limit() {
    let world = World::shop();
    world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    let waits = waiting(&world);
    let file = world.write("task.yaml", "pipeline: {steps: {a: {type: shell, run: 'true'}}}\n");
    let mut newest = String::new();
    for _ in 0..3 {
        let ran = world.devo(&["run", file.to_str().unwrap(), "--json"]).code(0);
        newest = ran.lines()[0]["task_id"].as_str().unwrap().to_owned();
    }
    for (limit, wanted) in [("1", vec![&waits]), ("2", vec![&waits, &newest])] {
        let rows = world.devo(&["status", "--json", "--limit", limit]).code(0).json();
        let ids: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["task_id"].as_str().unwrap()).collect();
        assert_eq!(ids, wanted, "limit {limit}");
    }
    let cut = world.devo(&["status", "--limit", "2"]).code(0);
    assert!(cut.stdout.lines().nth(1).unwrap().contains("PLANNED"), "{}", cut.stdout);
    assert!(cut.stderr.contains("left out"), "{}", cut.stderr);
    assert!(!world.devo(&["status", "--limit", "4"]).code(0).stderr.contains("left out"));
}

#[test]
fn a_run_that_has_changed_nothing_shows_no_change_and_offers_none() {
    let world = World::shop();
    world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    let planned = waiting(&world);
    let ran = world.devo(&["diff", &planned]).code(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.trim()), ("", "nothing has changed yet"));
    let file = world.write("task.yaml", "pipeline: {steps: {a: {type: shell, run: 'true'}}}\n");
    let ran = world.devo(&["run", file.to_str().unwrap()]).code(0);
    assert!(!ran.stdout.contains("devo diff") && ran.stdout.contains("devo logs"), "{}", ran.stdout);
    let rows = world.devo(&["status", "--json"]).code(0).json();
    let done = rows.as_array().unwrap().iter().find(|row| row["status"] == "COMPLETED").unwrap();
    let ran = world.devo(&["diff", done["task_id"].as_str().unwrap()]).code(0);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("works on no repository"), "{}", ran.stderr);
}

#[test]
fn a_command_that_drives_another_run_records_an_abort_and_does_not_claim_to_carry_it_out() {
    let world = crate::daemon::quick();
    let run = killed(&world, "");
    let file = world.write("other.yaml", "pipeline: {steps: {a: {type: shell, run: sleep 60}}}\n");
    let mut other =
        world.command(&["run", file.to_str().unwrap()]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    crate::daemon::until(|| {
        let said = world.devo(&["status", &run]).code(0).stdout;
        said.contains("nobody drives it while devo run").then_some(())
    });
    let ran = world.devo(&["abort", &run]).code(0);
    assert!(ran.stdout.starts_with("abort recorded for "), "{}", ran.stdout);
    assert!(ran.stderr.contains("nobody drives this run now"), "{}", ran.stderr);
    assert_eq!(world.status(&run)["status"], "EXECUTING");
    other.kill().unwrap();
    other.wait().unwrap();
    world.devo(&["resume", &run]).code(4);
}
