//! Bad input ends with a message, a hint and the right exit code; nothing is lost or half done.

use serde_json::json;

use crate::fake::{Answer, claude};
use crate::main_job::script;
use crate::world::World;

fn task(repo: &str) -> [&str; 8] {
    ["run", "--pipeline", "dev-task", "--repo", repo, "--task", "Validar stock", "--yes"]
}

fn no_runs(world: &World) {
    let all = world.devo(&["status", "--json"]).code(0).json();
    assert!(all["runs"].as_array().or(all.as_array()).unwrap().is_empty(), "{all}");
}

#[test]
fn a_pipeline_with_several_mistakes_lists_all_of_them() {
    let world = World::bare();
    let text = "name: broken\nlimits: {usd: 0}\nsteps:\n  build: {type: shel, run: make}\n  test: {type: shell, run: \"echo '{{ inputs.nam }}'\", needs: buil, tmeout: 5m}\n  a: {type: shell, run: x, needs: b}\n  b: {type: shell, run: x, needs: a}\n  c: {type: shell, run: \"echo {{ steps.a.output }}\", timeout: 5 minutes}\n  d: {type: prompt}\n";
    let file = world.write("broken.yaml", text);
    let ran = world.devo(&["validate", file.to_str().unwrap()]).code(2);
    let said = ran.stdout + &ran.stderr;
    for wanted in [
        "broken.yaml:2:15",
        "did you mean `shell`?",
        "broken.yaml:4:17",
        "did you mean `build`?",
        "did you mean `timeout`?",
        "→",
        "5 minutes",
        "does not come before",
        "`prompt` is not available in this version",
        "the engine quotes",
    ] {
        assert!(said.contains(wanted), "{wanted:?} is missing in:\n{said}");
    }
}

#[test]
fn what_can_be_known_before_is_refused_before() {
    let world = World::shop();
    let ran = world.devo(&task("shp")).code(2);
    assert!(ran.stderr.contains("did you mean `shop`?"), "{}", ran.stderr);

    let mut command = world.command(&task("shop"));
    let ran = crate::world::ran(command.env_remove("GEMINI_API_KEY").output().unwrap()).code(2);
    assert!(ran.stderr.contains("GEMINI_API_KEY"), "{}", ran.stderr);

    world.configure("roles: {executor: {provider: gemini, model: gemini-99}}");
    let ran = world.devo(&task("shop")).code(2);
    assert!(ran.stderr.contains("prices:") && ran.stderr.contains("gemini-99"), "{}", ran.stderr);

    let text = format!("repos: {{shop: {{url: {}}}}}\n", world.path("remote.git").display());
    std::fs::write(world.home().join("devo.yaml"), text).unwrap();
    let ran = world.devo(&task("shop")).code(2);
    assert!(ran.stderr.contains("checks"), "{}", ran.stderr);
    no_runs(&world);
    assert!(world.fake.asked().is_empty(), "no model was asked");
}

#[test]
fn files_that_are_no_tasks_are_refused() {
    let world = World::bare();
    world.write("big.yaml", &"a: b\n".repeat(2_200_000));
    world.write("no.yaml", "steps: [\n");
    std::fs::write(world.path("binary.yaml"), [0xff, 0xfe, 0, 1]).unwrap();
    for (file, wanted) in
        [("big.yaml", "larger than"), ("no.yaml", "no.yaml:"), ("binary.yaml", "UTF-8"), ("none.yaml", "none.yaml")]
    {
        let path = world.path(file);
        let ran = world.devo(&["run", path.to_str().unwrap()]).code(2);
        assert!(ran.stderr.contains(wanted), "{file}: {}", ran.stderr);
    }
    no_runs(&world);
}

#[test]
fn repositories_that_cannot_be_used_fail_with_words() {
    let world = World::shop();
    let set = |url: &str, base: &str| {
        let text = format!("repos:\n  shop:\n    url: {url}\n    base: {base}\n    checks: {{test: 'true'}}\n");
        std::fs::write(world.home().join("devo.yaml"), text).unwrap();
        let _ = std::fs::remove_dir_all(world.home().join("repos"));
    };
    set(world.path("remote.git").to_str().unwrap(), "develpment");
    let ran = world.devo(&task("shop")).code(1);
    assert!((ran.stdout + &ran.stderr).contains("development"), "names the branches that there are");
    world.git(world.dir.path(), &["init", "-q", "--bare", "empty.git"]);
    set(world.path("empty.git").to_str().unwrap(), "main");
    let ran = world.devo(&task("shop")).code(1);
    assert!((ran.stdout + &ran.stderr).contains("empty.git is empty: it has no branch with a commit"));
    set(world.path("nowhere.git").to_str().unwrap(), "main");
    let ran = world.devo(&task("shop")).code(1);
    assert!((ran.stdout + &ran.stderr).contains("nowhere.git"));
    assert!(world.fake.asked().is_empty(), "no model was asked");
}

#[test]
fn a_base_that_is_not_configured_is_said_aloud() {
    let world = World::shop();
    world.git(&world.path("remote.git"), &["branch", "-D", "development"]);
    let text = format!(
        "repos:\n  shop:\n    url: {}\n    checks: {{test: cargo test --offline --lib --tests}}\n",
        world.path("remote.git").display()
    );
    std::fs::write(world.home().join("devo.yaml"), text).unwrap();
    script(&world.fake);
    let ran = world.devo(&[&task("shop")[..], &["-v"]].concat()).code(0);
    assert!(ran.stderr.contains("main"), "{}", ran.stderr);
}

#[test]
fn providers_in_trouble_are_retried_and_wrong_keys_are_not() {
    let world = World::shop();
    let busy = json!({"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}).to_string();
    world.fake.planner(Answer::Status(429, vec![("retry-after", "0".to_owned())], busy));
    world.fake.planner(Answer::Cut(json!({"type": "message"})));
    script(&world.fake);
    world.devo(&task("shop")).code(0);

    let world = World::shop();
    let denied =
        json!({"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}).to_string();
    world.fake.planner(Answer::Status(401, vec![], denied));
    let ran = world.devo(&task("shop")).code(1);
    assert!((ran.stdout + &ran.stderr).contains("ANTHROPIC_API_KEY"));
    let asked = world.fake.asked();
    assert_eq!(asked.len(), 1, "a wrong key is not tried again");
    assert!(asked[0].headers.iter().any(|(name, _)| name == "x-api-key" || name == "authorization"));
}

#[test]
fn a_planner_without_a_valid_plan_gives_up_after_bounded_repairs() {
    let world = World::shop();
    for _ in 0..6 {
        world
            .fake
            .planner(claude(&[("submit_plan", json!({"title": "x", "summary": "y", "steps": [], "criteria": []}))]));
    }
    let ran = world.devo(&[&task("shop")[..], &["--json"]].concat()).code(1);
    assert_eq!(ran.lines().last().unwrap()["run"]["error"]["code"], "invalid_plan");
    assert!(world.fake.asked().len() <= 4);
}

#[test]
fn hostile_text_stays_text() {
    let world = World::shop();
    script(&world.fake);
    let text =
        "'; touch /tmp/pwned-by-task; echo \" $(touch /tmp/pwned-by-task) `id` {{ secret }} \u{1b}[31m rojo \u{202e}";
    let args = ["run", "--pipeline", "dev-task", "--repo", "shop", "--task", text, "--yes"];
    let ran = world.devo(&args).code(0);
    assert!(!std::path::Path::new("/tmp/pwned-by-task").exists());
    assert!(!(ran.stdout + &ran.stderr).contains('\u{1b}'));
    assert!(world.fake.asked()[0].body.to_string().contains("{{ secret }}"), "rendered once");
}

/// Makes devo.yaml one that has a mistake, on top of what it says.
fn spoil(world: &World) {
    let path = world.home().join("devo.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text + "\nlimmits: {runs: 2}\n").unwrap();
}

#[test]
fn with_mistakes_in_devo_yaml_people_see_and_decide_and_nothing_starts() {
    let world = World::shop();
    script(&world.fake);
    let whole = world.devo(&[&task("shop")[..], &["--json"]].concat()).code(0);
    let whole = whole.lines()[0]["task_id"].as_str().unwrap().to_owned();
    let patch = world.devo(&["diff", &whole]).code(0).stdout;
    assert!(patch.contains("src/ventas.rs"));
    let planned = || {
        world.fake.planner(claude(&[("submit_plan", crate::main_job::plan("Un plan"))]));
        let ran = world.devo(&[&task("shop")[..7], &["--no-watch", "--json"]].concat()).code(3);
        ran.lines()[0]["task_id"].as_str().unwrap().to_owned()
    };
    let (approved, revised, rejected, aborted) = (planned(), planned(), planned(), planned());
    spoil(&world);
    let calls = world.fake.asked().len();
    let warned = |args: &[&str]| {
        let ran = world.devo(args).code(0);
        assert!(ran.stderr.contains("warning: devo.yaml has mistakes"), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("limmits") && ran.stderr.contains("devo validate"), "{args:?}: {}", ran.stderr);
        ran.stdout
    };
    assert!(warned(&["status"]).contains("PLANNED"));
    assert!(warned(&["status", &approved]).contains("devo approve"));
    warned(&["logs", &whole]);
    assert!(warned(&["plan", &approved]).contains("Plan"));
    assert_eq!(warned(&["diff", &whole]), patch, "the change is where it was");
    warned(&["approve", &approved]);
    warned(&["plan", &revised]);
    warned(&["revise", &revised, "otherwise"]);
    warned(&["reject", &rejected]);
    warned(&["abort", &aborted]);
    assert!(warned(&["login-link"]).contains("/login?link="));
    assert_eq!(world.status(&approved)["approval"]["revision"], 1);

    let file = world.write("task.yaml", "pipeline: {steps: {a: {type: shell, run: touch here}}}\n");
    let file = file.to_str().unwrap();
    for args in [&["run", file][..], &["submit", file], &["serve"], &["gc"], &["resume", &approved], &["retry", &whole]]
    {
        let ran = world.devo(args).code(2);
        assert!(ran.stderr.contains("error: devo.yaml has mistakes"), "{args:?}: {}", ran.stderr);
    }
    assert_eq!(world.fake.asked().len(), calls, "no model was asked");

    world.configure("");
    world.devo(&["resume", &rejected]).code(4);
    world.devo(&["resume", &aborted]).code(4);
}

#[test]
fn a_daemon_hears_people_while_devo_yaml_has_mistakes() {
    let world = crate::daemon::quick();
    let daemon = crate::daemon::Daemon::start(&world);
    let file = world.write("task.yaml", "pipeline: {steps: {a: {type: shell, run: sleep 60}, clean: {type: shell, always: true, needs: a, run: sleep 3}}}\n");
    let run = world.devo(&["run", file.to_str().unwrap(), "--no-watch"]).code(0).stdout.trim().to_owned();
    spoil(&world);
    let ran = world.devo(&["abort", &run]).code(0);
    assert!(
        ran.stdout.contains("abort recorded") && ran.stderr.contains("being ended"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    crate::daemon::until(|| (world.status(&run)["status"] == "ABORTED").then_some(()));
    let followed = world.devo(&["resume", &run]).code(4);
    assert!(!followed.stderr.contains("error: devo.yaml"), "{}", followed.stderr);
    daemon.stop();
}

#[test]
fn what_a_pipeline_takes_and_that_there_is_no_plan_are_said() {
    let world = World::bare();
    let text = "name: words\ninputs:\n  level: {type: integer, required: true}\n  name: {type: string}\nsteps:\n  a: {type: shell, run: 'true'}\n";
    let file = world.write("words.yaml", text);
    let file = file.to_str().unwrap();
    for args in [&["--input", "levl=1"][..], &[]] {
        let ran = world.devo(&[&["run", "--pipeline", file], args].concat()).code(2);
        assert!(ran.stderr.contains("`words` takes level (integer, required), name (string"), "{}", ran.stderr);
    }
    let ran = world.devo(&["run", "--pipeline", file, "--input", "level=1", "--json"]).code(0);
    let run = ran.lines()[0]["task_id"].as_str().unwrap().to_owned();
    let ran = world.devo(&["approve", &run]).code(2);
    assert!(ran.stderr.contains("has no plan: it is COMPLETED"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("look at it first"), "{}", ran.stderr);
}

#[test]
fn a_result_that_a_full_disk_swallows_is_an_error_and_a_reader_who_left_is_none() {
    let world = World::bare();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = crate::world::ran(world.command(&["schema"]).stdout(full).output().unwrap()).code(1);
    assert!(ran.stderr.contains("error: cannot write the output: No space left"), "{}", ran.stderr);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = crate::world::ran(world.command(&["schema"]).stdout(writer).output().unwrap()).code(0);
    assert_eq!(ran.stderr, "");
}
