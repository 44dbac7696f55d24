//! A run's files: who sees them, and what is committed when a run goes back.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::fake::{claude, gemini};
use crate::main_job::{TEST, plan, script};
use crate::world::World;

const DEV_TASK: &str = "steps:
  plan: {type: plan}
  approve: {type: approve, needs: plan}
  branch: {type: branch, needs: approve}
";

/// Runs a pipeline on the shop and approves its plan; the last line of the stream.
fn run(world: &World, pipeline: &str, code: i32) -> Value {
    std::fs::write(world.home().join("pipelines/p.yaml"), pipeline).unwrap();
    let args = ["run", "--pipeline", "p", "--repo", "shop", "--task", "Validar stock", "--yes", "--json"];
    world.devo(&args).code(code).lines().pop().unwrap()["run"].clone()
}

fn step<'r>(run: &'r Value, id: &str) -> &'r Value {
    run["steps"].as_array().unwrap().iter().find(|step| step["id"] == id).unwrap()
}

/// The run's commits on the remote, newest first.
fn pushed(world: &World, run: &Value) -> Vec<String> {
    let range = format!("development..{}", run["branch"].as_str().unwrap());
    let text = world.git(&world.path("remote.git"), &["log", "--first-parent", "--format=%H", &range]);
    text.lines().map(str::to_owned).collect()
}

/// Another change than that of [`script`], with which the checks pass as well.
fn change_again(world: &World) {
    let content = format!("{TEST}\n// también en devoluciones\n");
    let write = json!({"file_path": "tests/stock.rs", "content": content});
    world.fake.executor(gemini(&[("read_file", json!({"file_path": "tests/stock.rs"}))]));
    world.fake.executor(gemini(&[("write_file", write), ("run_tests", json!({}))]));
    world.fake.executor(gemini(&[("finish", json!({"status": "done", "summary": "Hecho.", "evidence": []}))]));
}

#[test]
fn a_command_after_branch_runs_in_the_working_copy_whatever_its_templates_name() {
    let world = World::shop();
    world.fake.planner(claude(&[("submit_plan", plan("Plan"))]));
    let pipeline = format!(
        "{DEV_TASK}  before: {{type: shell, run: ls}}
  after: {{type: shell, needs: branch, run: pwd; ls}}
  later: {{type: shell, needs: after, run: 'cat Cargo.toml; echo {{{{ steps.before.output.exit }}}}'}}
"
    )
    .replace("needs: after,", "needs: [after, before],");
    let run = run(&world, &pipeline, 0);
    let out = |id: &str| step(&run, id)["output"]["stdout"].as_str().unwrap().to_owned();
    assert_eq!(out("before"), "", "there is no working copy for what does not come after `branch`");
    assert!(out("after").starts_with("/workspace") && out("after").contains("Cargo.toml\n"), "{}", out("after"));
    assert!(out("later").contains("[package]") && out("later").ends_with("\n0\n"), "{}", out("later"));
}

/// A run whose commit the remote refused, which takes everything from now on.
fn refused(world: &World) -> Value {
    script(&world.fake);
    let hook = world.path("remote.git/hooks/pre-receive");
    std::fs::write(&hook, "#!/bin/sh\necho 'a test is missing' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let args = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Validar stock", "--yes", "--json"];
    let run = world.devo(&args).code(1).lines().pop().unwrap()["run"].clone();
    assert_eq!(run["error"]["code"], "push_rejected");
    std::fs::remove_file(hook).unwrap();
    run
}

#[test]
fn other_changes_after_a_refused_push_are_committed_on_top() {
    let world = World::shop();
    let first = refused(&world);
    change_again(&world);
    let id = first["task_id"].as_str().unwrap();
    world.devo(&["retry", id, "--from", "build"]).code(0);
    let second = world.status(id);
    let commits = [&second["commit"], &first["commit"]].map(|commit| commit.as_str().unwrap().to_owned());
    assert_eq!(pushed(&world, &second), commits);
    let remote = world.path("remote.git");
    let shown = world.git(&remote, &["show", &format!("{}:tests/stock.rs", commits[0])]);
    assert!(shown.contains("también en devoluciones"), "{shown}");
    for commit in &commits {
        let message = world.git(&remote, &["log", "-1", "--format=%B", commit]);
        assert!(message.contains(&format!("Run-Id: {id}")), "{message}");
    }
    // The size is that of the whole branch.
    let paths = &step(&second, "commit")["output"]["diffstat"]["paths"];
    assert_eq!(paths.as_array().unwrap().len(), 2, "{paths}");
}

#[test]
fn what_goes_back_after_a_push_is_pushed_as_a_fast_forward() {
    let world = World::shop();
    script(&world.fake);
    change_again(&world);
    let pipeline = format!(
        "{DEV_TASK}  build: {{type: execute-loop, needs: branch}}
  test: {{type: test, needs: build}}
  commit: {{type: commit, needs: test}}
  push: {{type: push, needs: commit}}
  look: {{type: shell, needs: push, run: 'grep devoluciones tests/stock.rs', on_failure: {{rewind: build, rounds: 1}}}}
"
    );
    let run = run(&world, &pipeline, 0);
    let commits = pushed(&world, &run);
    assert_eq!((commits.len(), run["commit"].as_str()), (2, commits.first().map(String::as_str)), "{run:#}");
    assert_eq!(step(&run, "push")["round"], 2);
}

#[test]
fn a_branch_that_somebody_else_moved_is_not_built_upon() {
    let world = World::shop();
    let first = refused(&world);
    let id = first["task_id"].as_str().unwrap();
    let git_dir = world.home().join("runs").join(id).join("git");
    let commit = first["commit"].as_str().unwrap();
    let tree = format!("{commit}^{{tree}}");
    let foreign = world.git(&git_dir, &["commit-tree", &tree, "-p", commit, "-m", "of somebody else"]);
    world.git(&git_dir, &["update-ref", &format!("refs/heads/{}", first["branch"].as_str().unwrap()), &foreign]);
    change_again(&world);
    world.devo(&["retry", id, "--from", "build"]).code(1);
    let error = world.status(id)["error"].clone();
    assert_eq!(error["code"], "branch_moved", "{error}");
    assert!(error["hint"].as_str().unwrap().contains("devo retry RUN --from branch"), "{error}");
    assert_eq!(world.remote_branches().len(), 2, "nothing was pushed");
}
