//! `devo gc`: what goes, what stays, and what a run can still do after it.

use std::path::PathBuf;

use serde_json::Value;

use crate::world::World;

/// Runs a pipeline to its end; its id and its folder.
fn ended(world: &World, script: &str, code: i32, more: &[&str]) -> (String, PathBuf) {
    let file = world.write("p.yaml", &format!("steps:\n  a: {{type: shell, run: {script:?}}}\n"));
    let ran = world.devo(&[&["run", "--pipeline", file.to_str().unwrap(), "--json"], more].concat()).code(code);
    let id = ran.lines()[0]["task_id"].as_str().unwrap().to_owned();
    let folder = world.home().join("runs").join(&id);
    (id, folder)
}

fn found(world: &World, args: &[&str]) -> Vec<(String, PathBuf)> {
    let said: Value = world.devo(&[&["gc", "--json"], args].concat()).code(0).json();
    assert_eq!(said["dry_run"], args.contains(&"--dry-run"));
    let found = said["found"].as_array().unwrap().iter();
    found.map(|one| (one["kind"].as_str().unwrap().to_owned(), one["path"].as_str().unwrap().into())).collect()
}

#[test]
fn files_of_old_runs_go_and_the_runs_are_still_known() {
    let world = World::bare();
    let outside = world.write("outside/precious", "x");
    let script = format!(
        "ln -s {} link; mkdir -p a/b; echo x >a/b/file; chmod 0 a/b a; dd if=/dev/zero of=big bs=1024 count=2048 2>&1; exit 3",
        outside.parent().unwrap().display()
    );
    let (id, folder) = ended(&world, &script, 1, &[]);
    let orphan = world.home().join("runs/0193b2c0-7e1f-7abc-8def-000000000001");
    std::fs::create_dir_all(orphan.join("workspace")).unwrap();
    std::fs::create_dir(world.home().join("runs/notes")).unwrap();
    assert_eq!(found(&world, &["--dry-run"]), [], "nothing is two weeks old");
    let mut all = found(&world, &["--dry-run", "--older-than", "0s"]);
    all.sort();
    assert_eq!(all, [("orphan".to_owned(), orphan.clone()), ("workspace".to_owned(), folder.clone())]);
    assert!(folder.join("scratch/big").exists(), "only told");
    let told = world.devo(&["gc", "--older-than", "0s"]).code(0).stdout;
    assert!(told.contains("MiB  files of run") && told.contains("removed"), "{told}");
    assert!(!orphan.exists() && world.home().join("runs/notes").exists() && outside.exists());
    let mut left: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["cleared", "logs"]);
    assert_eq!(world.status(&id)["status"], "FAILED");
    assert!(world.devo(&["logs", &id]).code(0).stdout.contains("2048"));
    let refused = world.devo(&["retry", &id]).code(2);
    assert!(refused.stderr.contains("removed by `devo gc`"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("devo resume") && refused.stderr.contains("devo status"), "{}", refused.stderr);
    assert_eq!(found(&world, &["--older-than", "0s"]), [], "once is enough");
    assert!(world.devo(&["gc", "--older-than", "soon"]).code(2).stderr.contains("is not an age"));
}

#[test]
fn runs_that_have_not_ended_stay_and_an_engine_is_not_disturbed() {
    let world = World::bare();
    let file =
        world.write("p.yaml", "steps:\n  a: {type: shell, run: 'touch here; until [ -e go ]; do sleep 0.02; done'}\n");
    let mut engine = world.command(&["run", "--pipeline", file.to_str().unwrap()]);
    let mut engine = engine.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let scratch = loop {
        let runs = std::fs::read_dir(world.home().join("runs")).unwrap().flatten().next();
        match runs.map(|run| run.path().join("scratch")).filter(|scratch| scratch.join("here").exists()) {
            Some(scratch) => break scratch,
            None => std::thread::yield_now(),
        }
    };
    let refused = world.devo(&["gc", "--older-than", "0s"]).code(2);
    assert!(refused.stderr.contains("devo run"), "it says who owns the home: {}", refused.stderr);
    assert_eq!(found(&world, &["--dry-run", "--older-than", "0s"]), []);
    std::fs::write(scratch.join("go"), "").unwrap();
    engine.wait().unwrap();
}

#[test]
fn a_recording_in_the_home_goes_with_its_run_unless_another_plays_it() {
    let world = World::bare();
    let tape = world.home().join("tape.jsonl");
    let elsewhere = world.path("tape.jsonl");
    ended(&world, "true", 0, &["--record", tape.to_str().unwrap()]);
    ended(&world, "true", 0, &["--record", elsewhere.to_str().unwrap()]);
    if !tape.exists() {
        // Written at the first call, which this pipeline does not make.
        std::fs::write(&tape, "").unwrap();
    }
    let kinds = |found: Vec<(String, PathBuf)>| -> Vec<String> { found.into_iter().map(|(kind, _)| kind).collect() };
    assert_eq!(kinds(found(&world, &["--older-than", "0s"])), ["workspace", "workspace", "cassette"]);
    assert!(!tape.exists());
}

#[test]
fn spare_workspaces_go_that_nothing_will_take() {
    let world = World::shop();
    let repos = world.home().join("repos");
    for name in ["shop.spare", "shop.spare.new", "given-up.spare", "shop.git"] {
        std::fs::create_dir_all(repos.join(name).join("workspace")).unwrap();
    }
    let gone = |args: &[&str]| -> Vec<PathBuf> {
        let mut gone: Vec<_> =
            found(&world, args).into_iter().filter(|one| one.0 == "spare").map(|one| one.1).collect();
        gone.sort();
        gone
    };
    let unused = [repos.join("given-up.spare"), repos.join("shop.spare.new")];
    assert_eq!(gone(&["--dry-run"]), unused);
    assert_eq!(gone(&[]), unused);
    assert!(repos.join("shop.spare").exists() && !unused.iter().any(|path| path.exists()));
    assert_eq!(gone(&["--older-than", "0s"]), [repos.join("shop.spare")]);
    assert!(repos.join("shop.git").exists());
}
