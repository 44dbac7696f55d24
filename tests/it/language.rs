//! The language at work: order, conditions, failures, ways back, retries, clean-up, environment, quoting, limits.

use serde_json::Value;

use crate::world::{Ran, World};

fn run(world: &World, text: &str, more: &[&str]) -> (Ran, Value) {
    let file = world.write("pipeline.yaml", text);
    let ran = world.devo(&[&["run", "--pipeline", file.to_str().unwrap(), "--json"], more].concat());
    let last = ran.lines().pop().unwrap_or_else(|| panic!("{}", ran.stderr));
    (ran, last["run"].clone())
}

fn step<'v>(run: &'v Value, id: &str) -> &'v Value {
    run["steps"].as_array().unwrap().iter().find(|step| step["id"] == id).unwrap()
}

fn states(run: &Value) -> Vec<(&str, &str)> {
    let steps = run["steps"].as_array().unwrap();
    steps.iter().map(|step| (step["id"].as_str().unwrap(), step["state"].as_str().unwrap())).collect()
}

#[test]
fn outputs_conditions_inputs_and_environment_reach_the_steps() {
    let world = World::bare();
    let text = r#"
name: words
inputs:
  name: {type: string, default: ana}
  level: {type: integer, enum: [1, 2, 3], default: 1}
steps:
  make: {type: shell, run: 'echo "{\"n\": 7}"', outputs: json}
  use: {type: shell, needs: make, run: 'printf "%s %s %s" {{ inputs.name }} {{ steps.make.output.n + inputs.level }} "$GREETING"', env: {GREETING: 'hola {{ inputs.name }}'}}
  never: {type: shell, needs: make, if: inputs.level > 2, run: exit 1}
  after: {type: shell, needs: never, if: steps.never.state == 'skipped', run: env}
"#;
    let mut command_env = std::collections::HashMap::new();
    command_env.insert("FAKE_SECRET", "s3cr3t-value");
    let file = world.write("pipeline.yaml", text);
    let hostile = "'; touch pwned; $(id) \"";
    let mut command = world.command(&[
        "run",
        "--pipeline",
        file.to_str().unwrap(),
        "--json",
        "--input",
        &format!("name={hostile}"),
        "--input",
        "level=2",
    ]);
    let ran = crate::world::ran(command.envs(command_env).output().unwrap()).code(0);
    let run = ran.lines().pop().unwrap()["run"].clone();
    assert_eq!(step(&run, "use")["output"]["stdout"], format!("{hostile} 9 hola {hostile}"));
    assert_eq!(step(&run, "never")["state"], "skipped");
    let env = step(&run, "after")["output"]["stdout"].as_str().unwrap();
    let mut names: Vec<&str> = env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.retain(|name| !["PWD", "SHLVL", "_", "OLDPWD", "TZ"].contains(name));
    assert_eq!(
        names,
        ["DEVO_ATTEMPT", "DEVO_IDEMPOTENCY_KEY", "DEVO_ROUND", "DEVO_RUN_ID", "DEVO_STEP", "HOME", "LANG", "PATH"]
    );
    let bad = world.devo(&["run", "--pipeline", file.to_str().unwrap(), "--input", "level=9"]).code(2);
    assert!(bad.stderr.contains("one of"), "{}", bad.stderr);
    let wrong = world.devo(&["run", "--pipeline", file.to_str().unwrap(), "--input", "level=high"]).code(2);
    assert!(wrong.stderr.contains("integer"), "{}", wrong.stderr);
}

#[test]
fn a_failure_cancels_what_needs_it_and_clean_up_runs_all_the_same() {
    let world = World::bare();
    let text = "steps:\n  bad: {type: shell, run: 'echo broken >&2; exit 3'}\n  then: {type: shell, needs: bad, run: 'true'}\n  beside: {type: shell, run: 'true'}\n  clean: {type: shell, needs: then, always: true, run: echo swept}\n  soft: {type: shell, run: exit 1, on_failure: continue}\n  goes: {type: shell, needs: soft, run: 'true'}\n";
    let (ran, run) = run(&world, text, &[]);
    let ran = ran.code(1);
    assert_eq!(
        states(&run),
        [
            ("bad", "failed"),
            ("then", "cancelled"),
            ("beside", "succeeded"),
            ("clean", "succeeded"),
            ("soft", "failed"),
            ("goes", "succeeded")
        ]
    );
    assert_eq!(run["status"], "FAILED");
    let error = &run["error"];
    assert!(
        error["message"].as_str().unwrap().contains("`bad`") && error["message"].as_str().unwrap().contains("broken"),
        "{error}"
    );
    assert!(!ran.stdout.is_empty());
}

#[test]
fn failures_handled_by_the_graph_do_not_fail_the_run() {
    let world = World::bare();
    let text = "steps:\n  count: {type: shell, run: 'echo x >> tries'}\n  check: {type: shell, needs: count, run: 'test $(wc -l < tries) -ge 3', on_failure: {rewind: count, rounds: 3}}\n  flaky: {type: shell, run: 'echo y >> again; test $(wc -l < again) -ge 2', retry: {attempts: 3, delay: 10ms}}\n";
    let (ran, run) = run(&world, text, &[]);
    ran.code(0);
    assert_eq!(run["status"], "COMPLETED");
    assert_eq!(step(&run, "check")["round"], 3);
    assert_eq!(step(&run, "flaky")["attempt"], 2);
}

#[test]
fn time_limits_end_steps_and_runs() {
    let world = World::bare();
    let (ran, ended) = run(&world, "steps:\n  slow: {type: shell, run: sleep 60, timeout: 200ms}\n", &[]);
    ran.code(1);
    assert_eq!(step(&ended, "slow")["error"]["code"], "timeout");
    let (ran, ended) = run(
        &world,
        "limits: {wall: 300ms}\nsteps:\n  slow: {type: shell, run: sleep 60}\n  clean: {type: shell, needs: slow, always: true, run: 'true'}\n",
        &[],
    );
    ran.code(1);
    assert_eq!(ended["error"]["code"], "wall_limit");
    assert_eq!(states(&ended), [("slow", "cancelled"), ("clean", "succeeded")]);
}

#[test]
fn a_dry_run_writes_nothing() {
    let world = World::bare();
    let file = world.write("p.yaml", "steps:\n  a: {type: shell, run: touch here}\n");
    let ran = world.devo(&["run", "--pipeline", file.to_str().unwrap(), "--dry-run"]).code(0);
    assert!(ran.stdout.contains("shell"));
    let all = world.devo(&["status", "--json"]).code(0).json();
    assert!(all["runs"].as_array().or(all.as_array()).unwrap().is_empty());
}

#[test]
fn the_committed_schemas_are_fresh() {
    let world = World::bare();
    world.devo(&["schema", "--write"]).code(0);
    for name in ["devo", "pipeline", "task"] {
        let file = format!("schemas/{name}.schema.json");
        let committed = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).unwrap();
        let written = std::fs::read_to_string(world.home().join(&file)).unwrap();
        assert!(committed == written, "{file} is stale: `devo schema --write` and commit it");
    }
}

#[test]
fn a_run_has_more_steps_than_a_process_may_have_files() {
    let world = World::bare();
    let steps: String = (0..200).map(|n| format!("  s{n}: {{type: shell, run: echo {n}}}\n")).collect();
    let file = world.write("pipeline.yaml", &format!("name: many\nsteps:\n{steps}"));
    let plain = world.command(&["run", "--pipeline", file.to_str().unwrap(), "--json"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    limited.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.current_dir(plain.get_current_dir().unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let last = String::from_utf8_lossy(&output.stdout).lines().next_back().unwrap().to_owned();
    let run: Value = serde_json::from_str(&last).unwrap();
    let logs = world.home().join("runs").join(run["run"]["task_id"].as_str().unwrap()).join("logs");
    assert_eq!(std::fs::read_dir(logs).unwrap().count(), 200, "each step has its log");
}
