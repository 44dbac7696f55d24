//! The main job, end to end: task → plan → approve → branch → execute-loop → test → commit → push.

use serde_json::{Value, json};

use crate::fake::{Fake, claude, gemini};
use crate::world::{KEY, World};

/// A plan that the shop's checks accept.
pub fn plan(title: &str) -> Value {
    json!({
        "title": title, "summary": "Una venta no puede dejar el inventario por debajo de cero.",
        "steps": [{"id": "s1", "title": "Comprobar existencias", "intent": "En vender(), antes de retirar.",
                   "files": [{"path": "src/ventas.rs", "action": "modify", "why": "la regla"},
                             {"path": "tests/stock.rs", "action": "create", "why": "la prueba"}],
                   "verify": [{"check": "test"}]}],
        "criteria": [{"id": "c1", "text": "las pruebas pasan", "check": {"kind": "test", "ref": "test"}}],
        "tests_may_change": ["tests/stock.rs"],
    })
}

pub const TEST: &str = "use tienda::inventario::Inventario;\nuse tienda::ventas::vender;\n\n#[test]\nfn no_baja_de_cero() {\n    let mut inventario = Inventario::nuevo();\n    inventario.reponer(\"café\", 1);\n    assert!(vender(&mut inventario, \"café\", 2, 100).is_err());\n    assert_eq!(inventario.existencias(\"café\"), 1);\n}\n";

pub fn fix() -> Value {
    json!({"file_path": "src/ventas.rs",
           "old_string": "    inventario.retirar(producto, unidades);\n",
           "new_string": "    let quedan = inventario.existencias(producto);\n    if unidades > quedan {\n        return Err(ErrorVenta::SinExistencias { pedidas: unidades, quedan });\n    }\n    inventario.retirar(producto, unidades);\n"})
}

pub fn variant() -> Value {
    json!({"file_path": "src/ventas.rs",
           "old_string": "    CantidadInvalida(i64),\n",
           "new_string": "    CantidadInvalida(i64),\n    /// No quedan tantas unidades.\n    SinExistencias { pedidas: i64, quedan: i64 },\n"})
}

/// Scripts a planner that reads and submits, and an executor that writes a failing test, mends the code and finishes.
pub fn script(fake: &Fake) {
    fake.planner(claude(&[("read_file", json!({"path": "src/ventas.rs"})), ("list_dir", json!({"path": "tests"}))]));
    fake.planner(claude(&[("submit_plan", plan("Validar stock negativo en ventas"))]));
    executor(fake);
}

pub fn executor(fake: &Fake) {
    fake.executor(gemini(&[("read_file", json!({"file_path": "src/ventas.rs"}))]));
    fake.executor(gemini(&[
        ("write_file", json!({"file_path": "tests/stock.rs", "content": TEST})),
        ("run_tests", json!({})),
    ]));
    fake.executor(gemini(&[("replace", fix()), ("replace", variant()), ("run_tests", json!({}))]));
    fake.executor(gemini(&[("finish", json!({"status": "done", "summary": "Hecho.", "evidence": []}))]));
}

const TASK: &[&str] =
    &["run", "--pipeline", "dev-task", "--repo", "shop", "--task", "Validar stock negativo en ventas"];

#[test]
fn a_task_becomes_a_pushed_branch() {
    let world = World::shop();
    script(&world.fake);
    let before = world.remote_branches();
    let ran = world.devo(&[TASK, &["--yes", "--json"]].concat()).code(0);
    let lines = ran.lines();
    assert_eq!(lines[0]["event"], "accepted");
    let run = lines[0]["task_id"].as_str().unwrap().to_owned();
    let result = &lines.last().unwrap()["run"];
    assert_eq!(lines.last().unwrap()["event"], "result");
    assert_eq!(result["status"], "COMPLETED", "{result:#}");
    assert_eq!(result["task_id"], run.as_str());

    let branch = result["branch"].as_str().unwrap();
    assert!(
        branch.starts_with(&format!("task/{}-validar-stock-negativo", result["short_id"].as_str().unwrap())),
        "{branch}"
    );
    let after = world.remote_branches();
    let pushed = after.iter().find(|(name, _)| name == branch).expect("the branch was pushed");
    assert_eq!(result["commit"], pushed.1.as_str());
    let others: Vec<_> = after.iter().filter(|(name, _)| name != branch).cloned().collect();
    assert_eq!(others, before, "no other branch was touched");

    let message = world.git(&world.path("remote.git"), &["log", "-1", "--format=%B", branch]);
    assert!(message.starts_with("feat: Validar stock negativo en ventas\n"), "{message}");
    assert!(message.contains(&format!("Run-Id: {run}")) && message.contains("Plan-Hash: sha256:"), "{message}");
    let files = world.git(&world.path("remote.git"), &["diff", "--name-only", "development", branch]);
    assert_eq!(files, "src/ventas.rs\ntests/stock.rs");

    // The run's document says what the contract promises.
    let status = world.status(&run);
    assert_eq!(status["approval"]["channel"], "cli");
    assert_eq!(status["approval"]["plan_hash"], status["plan"]["hash"]);
    assert_eq!(status["base"], "development");
    assert_eq!(status["usage"]["calls"], 6);
    assert_eq!(status["usage"]["by_role"]["planner"]["calls"], 2);
    assert!(status["usage"]["usd"].as_f64().unwrap() > 0.0);
    let build = &status["steps"][3];
    assert_eq!((build["id"].as_str(), build["state"].as_str()), (Some("build"), Some("succeeded")));
    assert_eq!(build["prompt"]["files"][0]["path"], "ai/system/base.md");
    assert_eq!(build["output"]["iterations"], 2, "{build:#}");
    assert!(status["links"]["branch"].as_str().unwrap().contains("remote.git"));

    // Thought signatures went back as they came, and each call was answered.
    let asked = world.fake.asked();
    let last = &asked.last().unwrap().body["contents"];
    assert_eq!(last[1]["parts"][0]["thoughtSignature"], "dGhvdWdodA==");
    let red = last.to_string();
    assert!(red.contains("no_baja_de_cero"), "the digest named the failing test");

    // No key anywhere.
    for line in [ran.stdout, ran.stderr] {
        assert!(!line.contains(KEY));
    }
    let journal = std::fs::read(world.home().join("state.db")).unwrap();
    assert!(!journal.windows(KEY.len()).any(|window| window == KEY.as_bytes()));
    assert_eq!(world.fake.left(), (0, 0));
}
