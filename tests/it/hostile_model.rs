//! Models that ask for too much at once: the run keeps its limits, and whatever happens, it goes on or says why not.

use serde_json::{Value, json};

use crate::fake::{Answer, claude, gemini};
use crate::main_job::plan;
use crate::world::World;

const PIPELINE: &str = "name: short\ninputs:\n  repo: {type: string, required: true}\n  task: {type: string, required: true}\nsteps:\n  plan: {type: plan}\n  approve: {type: approve, needs: plan}\n  branch: {type: branch, needs: approve}\n  build: {type: execute-loop, needs: branch, limits: {LIMITS}}\n";

/// A run whose executor gives these answers and then says that it is blocked.
fn run(limits: &str, answers: Vec<Answer>) -> (World, Value) {
    let world = World::shop();
    world.write("home/pipelines/short.yaml", &PIPELINE.replace("LIMITS", limits));
    world.fake.planner(claude(&[("submit_plan", plan("Validar stock"))]));
    for answer in answers {
        world.fake.executor(answer);
    }
    world.fake.executor(gemini(&[("finish", json!({"status": "blocked", "summary": "no puedo"}))]));
    let args = ["run", "--pipeline", "short", "--repo", "shop", "--task", "x", "--yes", "--json"];
    let ran = world.devo(&args).code(1);
    let result = ran.lines().last().unwrap()["run"].clone();
    assert_eq!(result["error"]["code"], "blocked", "{result:#}\n{}", ran.stderr);
    assert_eq!(world.fake.left(), (0, 0));
    (world, result)
}

/// The text of all results that the executor was given last.
fn last_results(world: &World) -> String {
    world.fake.asked().last().unwrap().body["contents"].as_array().unwrap().last().unwrap().to_string()
}

#[test]
fn one_reply_cannot_pass_the_limit_of_calls() {
    let commands: Vec<_> =
        (0..60).map(|i| ("run_shell_command", json!({"command": format!("echo {i} >> commands.txt")}))).collect();
    let (world, result) = run("calls: 5, turns: 3", vec![gemini(&commands)]);
    let run = result["task_id"].as_str().unwrap();
    let ran = std::fs::read_to_string(world.home().join("runs").join(run).join("workspace/commands.txt")).unwrap();
    assert_eq!(ran, "0\n1\n2\n3\n4\n");
    let results = last_results(&world);
    assert_eq!(results.matches("refused: the limit is reached").count(), 55, "{results}");
    assert!(results.contains("The limit of 5 calls is reached"), "{results}");
}

#[test]
fn a_planner_reads_no_more_than_its_limit_in_one_reply() {
    let world = World::shop();
    let reads: Vec<_> = (0..100).map(|i| ("search", json!({"pattern": format!("venta{i}")}))).collect();
    world.fake.planner(claude(&reads)).planner(claude(&[("submit_plan", plan("Validar stock"))]));
    world.devo(&["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "x", "--json", "--no-watch"]).code(3);
    let asked = world.fake.asked();
    assert_eq!(asked.len(), 2);
    let results = asked[1].body["messages"].to_string();
    assert_eq!(results.matches("refused: the limit for reading is reached").count(), 40, "{results}");
}

#[test]
fn the_turn_of_grace_is_for_the_end_only() {
    let command = |text: &str| ("run_shell_command", json!({"command": format!("echo {text} >> commands.txt")}));
    let world = World::shop();
    world.write("home/pipelines/short.yaml", &PIPELINE.replace("LIMITS", "calls: 1"));
    world.fake.planner(claude(&[("submit_plan", plan("Validar stock"))]));
    world.fake.executor(gemini(&[command("one")])).executor(gemini(&[command("two"), command("three")]));
    let args = ["run", "--pipeline", "short", "--repo", "shop", "--task", "x", "--yes", "--json"];
    let ran = world.devo(&args).code(1);
    let result = ran.lines().last().unwrap()["run"].clone();
    assert_eq!(result["error"]["code"], "limit", "{result:#}");
    let file = world.home().join("runs").join(result["task_id"].as_str().unwrap()).join("workspace/commands.txt");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "one\n");
}

#[test]
fn a_reply_with_a_megabyte_of_results_is_carried_on() {
    let text: String = (0..500).map(|i| format!("line {i} {}\n", "x".repeat(90))).collect();
    let mut calls = vec![("write_file", json!({"file_path": "notes.txt", "content": text}))];
    calls.extend(
        (1..76).map(|i| ("read_file", json!({"file_path": "notes.txt", "start_line": i, "end_line": i + 300}))),
    );
    calls.push(("run_shell_command", json!({"command": "true"})));
    calls.push(("glob", json!({"pattern": "*.txt"})));
    let (world, _) = run("calls: 200", vec![gemini(&calls)]);
    let results = last_results(&world);
    assert!(results.len() < 100_000 && results.contains("exit code 0"), "{}", results.len());
}

#[test]
fn a_command_that_makes_thousands_of_protected_files_is_undone_in_few_words() {
    let name = "a_long_name_so_that_all_of_them_are_more_than_a_megabyte_together";
    let make = format!("mkdir -p tests/x && cd tests/x && seq 16000 | sed 's/^/{name}_/' | xargs touch");
    let calls = [("run_shell_command", json!({"command": make})), ("glob", json!({"pattern": "tests/**"}))];
    let (world, result) = run("calls: 20", vec![gemini(&calls)]);
    let results = last_results(&world);
    assert!(results.contains("was undone") && results.contains("and 15980 more"), "{results}");
    let workspace = world.home().join("runs").join(result["task_id"].as_str().unwrap()).join("workspace");
    assert_eq!(std::fs::read_dir(workspace.join("tests/x")).map_or(0, Iterator::count), 0);
}

#[test]
fn tokens_that_nobody_can_have_used_are_not_booked() {
    let Answer::Json(mut absurd) = gemini(&[("glob", json!({"pattern": "*"}))]) else { unreachable!() };
    absurd["usageMetadata"]["promptTokenCount"] = json!(u64::MAX);
    absurd["usageMetadata"]["candidatesTokenCount"] = json!(u64::MAX);
    let (world, result) = run("calls: 20", vec![Answer::Json(absurd)]);
    let tokens = result["usage"].to_string();
    assert!(tokens.len() < 2_000 && !tokens.contains("18446744073709551615"), "{tokens}");
    let logs = world.devo(&["logs", result["task_id"].as_str().unwrap()]).code(0).stdout;
    assert!(logs.contains("trying again in") && logs.contains("garbled_reply"), "each retry is told: {logs}");
}
