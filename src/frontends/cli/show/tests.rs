//! Screens from documents made by hand.

use serde_json::json;

use super::*;

const PLAIN: Screen = Screen { color: false, width: 80 };
const NOW: Timestamp = Timestamp(1_764_000_600_000);

fn sample_plan() -> Value {
    json!({
        "title": "Validar stock negativo en ventas",
        "summary": "Las ventas no comprueban el stock. Se añade la comprobación en `vender` y se devuelve un error \
                    propio, sin tocar la firma pública.\u{1b}[31m",
        "steps": [
            {"id": "s1", "title": "Añadir el error", "intent": "Un error `SinStock` con lo que falta.", "depends_on": [],
             "files": [{"path": "src/inventario.rs", "action": "modify", "why": "allí viven los errores"}], "verify": []},
            {"id": "s2", "title": "Comprobar antes de vender", "intent": "Sin efectos si no alcanza.",
             "depends_on": ["s1"],
             "files": [{"path": "src/ventas.rs", "action": "modify", "why": "la regla es de la venta"},
                       {"path": "tests/stock.rs", "action": "create", "why": "cubre el caso"}],
             "verify": [{"check": "test", "selector": "stock"}]},
        ],
        "criteria": [{"id": "c1", "text": "Vender más de lo que hay falla", "check": {"kind": "test", "ref": "test"}},
                     {"id": "c2", "text": "La firma no cambia", "check": {"kind": "manual"}}],
        "tests_may_change": ["tests/stock.rs"],
        "assumptions": ["El stock es un entero"],
        "questions": ["¿Debe registrarse el intento?"],
        "out_of_scope": ["Reservas"],
        "risks": ["Otros módulos venden sin pasar por `vender`"],
        "files": ["src/inventario.rs", "src/ventas.rs", "tests/stock.rs"],
        "estimate": {"usd": 0.0421, "tokens": 41_200, "minutes": 6},
        "revision": 2, "base_commit": "0123456789abcdef0123456789abcdef01234567",
        "hash": "sha256:9d41c07e52ab3344556677889900aabbccddeeff00112233445566778899aabb",
    })
}

fn doc(status: &str) -> Value {
    json!({
        "task_id": "0193b2c0-7e1f-7abc-8def-0123456789ab", "short_id": "456789ab", "pipeline": "dev-task",
        "task": "Validar stock negativo en ventas", "status": status, "waiting_for": null, "repo": "shop",
        "base": "development", "branch": null, "plan": null, "approval": null, "steps": [],
        "usage": {"input_tokens": 0, "cached_tokens": 0, "output_tokens": 0, "calls": 0, "usd": 0.0, "by_role": {}},
        "commit": null, "links": {}, "created_at": "2025-11-24T16:00:00.000Z",
        "updated_at": "2025-11-24T16:05:00.000Z", "error": null, "logs": [], "sandbox": "bubblewrap",
    })
}

fn step(id: &str, kind: &str, state: &str) -> Value {
    json!({"id": id, "type": kind, "state": state, "attempt": 1, "round": 1, "started_at": "2025-11-24T16:00:00.000Z",
           "finished_at": "2025-11-24T16:00:12.300Z", "duration_ms": 12_300, "output": {}, "prompt": null, "error": null,
           "reason": null, "usage": {"input_tokens": 0, "output_tokens": 0, "calls": 0, "usd": 0.0}})
}

#[test]
fn a_plan_reads_from_title_to_estimate() {
    let plan: PlanRecord = serde_json::from_value(sample_plan()).unwrap();
    let text = super::plan(&PLAIN, &plan);
    assert!(!text.contains('\u{1b}'));
    insta::assert_snapshot!(text);
}

#[test]
fn a_run_that_waits_says_for_what_and_how_to_answer() {
    let mut doc = doc("PLANNED");
    doc["plan"] = sample_plan();
    doc["waiting_for"] =
        json!({"step": "approve", "kind": "approval", "question": "Approve?", "since": "2025-11-24T16:05:00.000Z"});
    doc["usage"] = json!({"input_tokens": 30_000, "output_tokens": 1_200, "calls": 4, "usd": 0.0312});
    let mut planning = step("plan", "plan", "succeeded");
    planning["usage"] = json!({"input_tokens": 30_000, "output_tokens": 1_200, "calls": 4, "usd": 0.0312});
    let mut pending = step("build", "execute-loop", "pending");
    pending["started_at"] = Value::Null;
    doc["steps"] = json!([planning, step("approve", "approve", "waiting"), pending]);
    insta::assert_snapshot!(status(&PLAIN, "devo", &doc, None, NOW));
}

#[test]
fn a_failed_run_shows_the_failure_first_then_the_next_command() {
    let mut doc = doc("FAILED");
    let mut failed = step("test", "test", "failed");
    failed["round"] = json!(3);
    failed["error"] = json!({"code": "exit_code", "message": "2 of 41 tests fail\nventas::stock_negativo: left 1, right 2",
                             "hint": "devo logs 456789ab --step test"});
    doc["error"] = json!({"code": "exit_code", "message": "step `test` failed", "hint": null});
    doc["steps"] = json!([step("plan", "plan", "succeeded"), failed, step("push", "push", "cancelled")]);
    let text = status(&PLAIN, "devo", &doc, None, NOW);
    insta::assert_snapshot!(text);
    assert!(text.find("2 of 41").unwrap() < text.find("succeeded").unwrap());
    assert!(result(&PLAIN, "devo", &doc, false).contains("devo retry 456789ab"));
}

#[test]
fn a_completed_run_ends_with_branch_size_link_and_cost() {
    let mut doc = doc("COMPLETED");
    doc["branch"] = json!("task/456789ab-validar-stock");
    doc["commit"] = json!("89abcdef0123456789abcdef0123456789abcdef");
    doc["links"] = json!({"branch": "https://forge/x", "compare": "https://forge/compare/development...task"});
    doc["usage"] = json!({"input_tokens": 130_000, "output_tokens": 6_200, "calls": 14, "usd": 0.2312});
    let mut commit = step("commit", "commit", "succeeded");
    commit["output"] = json!({"diffstat": {"files": 3, "insertions": 41, "deletions": 2}});
    doc["steps"] = json!([commit]);
    insta::assert_snapshot!(result(&PLAIN, "devo", &doc, false));
    assert!(!result(&PLAIN, "devo", &doc, true).contains("next:"));
}

#[test]
fn the_table_puts_what_needs_a_person_first() {
    let row = |short: &str, status: &str, kind: Option<&str>, minute: u32, task: &str| {
        let mut row = doc(status);
        row["short_id"] = json!(short);
        row["task"] = json!(task);
        row["waiting_for"] = kind.map_or(Value::Null, |kind| json!({"kind": kind}));
        row["updated_at"] = json!(format!("2025-11-24T16:{minute:02}:00.000Z"));
        row
    };
    let rows = [
        row("00000001", "COMPLETED", None, 9, "done"),
        row("00000002", "QUEUED", None, 1, "later"),
        row("00000003", "EXECUTING", None, 8, "work \u{1b}]0;x\u{7}in\nprogress"),
        row(
            "00000004",
            "PLANNED",
            Some("approval"),
            2,
            "a plan with a very long text that does not fit into the line that is left for it",
        ),
        row("00000005", "FAILED", None, 7, "broken"),
    ];
    let text = table(&PLAIN, &rows, NOW);
    assert!(text.lines().all(|line| unicode_width::UnicodeWidthStr::width(line) <= 80), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn colours_change_nothing_but_colours() {
    let mut doc = doc("FAILED");
    doc["steps"] = json!([step("plan", "plan", "failed")]);
    let color = Screen { color: true, ..PLAIN };
    let colored = status(&color, "devo", &doc, None, NOW);
    assert!(colored.contains("\u{1b}[31m"), "{colored:?}");
    let bare: Vec<String> = colored.lines().map(printable).collect();
    assert_eq!(bare.join("\n"), status(&PLAIN, "devo", &doc, None, NOW).trim_end());
}
