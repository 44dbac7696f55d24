//! Tests of the messages about runs.

use serde_json::{Value, json};

use super::super::html::MESSAGE_MAX;
use super::*;
use crate::core::id::RunId;

fn doc() -> Value {
    json!({
        "task_id": "0193b2c0-7e1f-7abc-8def-0123456789ab", "short_id": "456789ab", "pipeline": "dev-task",
        "task": "Validar stock <negativo>\nen ventas", "status": "PLANNED", "repo": "shop", "branch": null,
        "waiting_for": {"step": "approve", "kind": "approval", "question": "?", "since": "2026-11-25T10:00:00.000Z"},
        "plan": {
            "title": "Validar <stock>", "summary": "Una venta & más", "steps": [
                {"id": "s1", "title": "Comprobar", "intent": "antes de retirar", "depends_on": [],
                 "files": [{"path": "src/ventas.rs", "action": "modify", "why": "la regla"}], "verify": []}],
            "criteria": [{"id": "c1", "text": "pasan", "check": {"kind": "test", "ref": "test"}}],
            "tests_may_change": [], "assumptions": [], "questions": ["¿También devoluciones?"], "out_of_scope": [],
            "risks": [], "files": ["src/ventas.rs"], "estimate": {"usd": 0.4, "tokens": 1000, "minutes": 5},
            "revision": 2, "base_commit": "abc", "hash": "sha256:aa"},
        "approval": null, "steps": [], "usage": {"calls": 4, "usd": 0.31}, "links": {},
        "created_at": "2026-11-25T10:00:00.000Z", "updated_at": "2026-11-25T10:06:05.000Z", "error": null,
    })
}

fn shown(doc: &Value) -> (Html, bool) {
    plan(doc, &plan_of(doc).unwrap(), Lang::En)
}

#[test]
fn a_plan_has_its_quote_and_every_foreign_sign_is_escaped() {
    let (text, whole) = shown(&doc());
    assert!(whole);
    assert!(
        text.html.starts_with("📋 <b>Validar &lt;stock&gt;</b>\nshop · <code>456789ab</code> · revision 2"),
        "{}",
        text.html
    );
    assert!(text.html.contains("Una venta &amp; más") && text.html.contains("¿También devoluciones?"));
    assert!(text.html.contains("<blockquote expandable>Steps\ns1 Comprobar\n"), "{}", text.html);
    assert!(text.plain.contains("~ src/ventas.rs — la regla"));
}

#[test]
fn a_long_plan_fits_and_says_that_there_is_more() {
    let mut doc = doc();
    doc["plan"]["summary"] = json!("😀<&>".repeat(2000));
    doc["plan"]["steps"][0]["intent"] = json!("ñ".repeat(9000));
    doc["plan"]["questions"] = json!(vec!["<q>".repeat(500); 9]);
    let (text, whole) = shown(&doc);
    assert!(!whole && text.plain.contains("in the file below"));
    assert!(units(&text.plain) <= MESSAGE_MAX - 300, "there is room for what becomes of it");
    let file = plan_file(&plan_of(&doc).unwrap(), Lang::En);
    assert!(file.contains(&"ñ".repeat(9000)) && file.contains("sha256:aa"));
}

#[test]
fn what_became_of_a_plan_is_told_as_it_is() {
    let run: RunId = "0193b2c0-7e1f-7abc-8def-0123456789ab".parse().unwrap();
    let about = |hash: &str| About::Plan { run, hash: hash.to_owned(), revision: 1 };
    let mut doc = doc();
    assert_eq!(truth(&doc, &about("sha256:aa"), Lang::En), None, "it is open");
    assert_eq!(truth(&doc, &about("sha256:00"), Lang::En).unwrap(), "↪️ Superseded by revision 2");
    doc["waiting_for"] = Value::Null;
    doc["status"] = json!("PLANNING");
    doc["steps"] = json!([{"id": "plan", "type": "plan", "state": "succeeded"}]);
    assert_eq!(truth(&doc, &about("sha256:aa"), Lang::Es), None, "what was decided has led to nothing yet");
    doc["steps"][0]["state"] = json!("running");
    assert_eq!(truth(&doc, &about("sha256:aa"), Lang::Es).unwrap(), "✏️ En revisión");
    doc["status"] = json!("EXECUTING");
    doc["approval"] = json!({"plan_hash": "sha256:aa", "revision": 2, "by": "Ana (5)", "channel": "web",
                             "at": "2026-11-25T12:04:59.000Z"});
    let said = truth(&doc, &about("sha256:aa"), Lang::En).unwrap();
    assert_eq!(said, "✅ Revision 2 was approved by Ana (5) (web), 12:04 UTC");
    doc["approval"] = Value::Null;
    doc["status"] = json!("ABORTED");
    assert_eq!(truth(&doc, &about("sha256:aa"), Lang::En).unwrap(), "🛑 The run is over: stopped");
    let question = About::Question { run, since: "2026-11-25T10:00:00.000Z".to_owned() };
    doc["status"] = json!("EXECUTING");
    assert_eq!(truth(&doc, &question, Lang::En).unwrap(), "✅ Answered");
}

#[test]
fn a_result_brings_branch_size_tests_cost_findings_and_links() {
    let mut doc = doc();
    doc["status"] = json!("COMPLETED");
    doc["branch"] = json!("task/456789ab-validar");
    doc["links"] =
        json!({"branch": "https://git.acme.com/shop/tree/x", "compare": "https://git.acme.com/shop/compare/a...b"});
    doc["steps"] = json!([
        {"id": "build", "type": "execute-loop", "state": "succeeded", "output": {
            "diffstat": {"files": 2, "insertions": 20, "deletions": 4},
            "findings": [{"path": "tests/a.rs", "line": 7, "code": "assertion_removed", "text": "assert!(<x>)"}]}},
        {"id": "test", "type": "test", "state": "succeeded", "output": {"passed": 12, "failed": 0, "skipped": 1}},
    ]);
    let text = result(&doc, Lang::En);
    assert_eq!(
        text.html,
        "✅ <b>Validar &lt;stock&gt;</b>\nshop · <code>456789ab</code> · 6m 05s · $0.31\n\n🌿 <code>task/456789ab-validar</code>\n\
         +20 −4 in 2 files\nTests: 12 passed, 0 failed, 1 skipped\n🔎 The guard found 1 to look at:\n\
         • <code>tests/a.rs:7</code> assertion removed: assert!(&lt;x&gt;)\n\n\
         <a href=\"https://git.acme.com/shop/tree/x\">branch</a>\n\
         <a href=\"https://git.acme.com/shop/compare/a...b\">compare, and create the pull request</a>"
    );
    doc["links"] = json!({"branch": "/srv/shop.git", "compare": "/srv/shop.git"});
    doc["steps"][0]["output"]["findings"] = json!([]);
    let text = result(&doc, Lang::Es);
    assert!(
        text.html.contains("El guardián no encontró nada") && text.html.ends_with("rama: <code>/srv/shop.git</code>"),
        "{}",
        text.html
    );
}

#[test]
fn a_failure_names_the_step_and_the_first_line_of_its_error() {
    let mut doc = doc();
    doc["status"] = json!("FAILED");
    doc["error"] = json!({"code": "x", "message": "other", "hint": null, "step": "test"});
    let handled =
        json!({"id": "lint", "state": "failed", "error": {"code": "x", "message": "nobody minds", "hint": null}});
    doc["steps"] = json!([handled, {"id": "test", "type": "test", "state": "failed", "output": {},
        "error": {"code": "tests_failed", "message": "the check `test` is red\nlong <digest>", "hint": "look"}}]);
    let text = result(&doc, Lang::En);
    assert!(text.html.contains("<b>Step test failed</b>\nthe check `test` is red\n→ look"), "{}", text.html);
    assert!(!text.html.contains("digest"));
}

#[test]
fn progress_shows_the_steps_around_the_one_at_work() {
    let mut doc = doc();
    doc["waiting_for"] = Value::Null;
    doc["status"] = json!("EXECUTING");
    let steps = (0..60).map(|n| {
        let state = if n < 40 {
            "succeeded"
        } else if n == 40 {
            "running"
        } else {
            "pending"
        };
        json!({"id": format!("s{n}"), "type": "shell", "state": state, "round": 1, "duration_ms": 61_000})
    });
    doc["steps"] = steps.collect();
    let text = progress(&doc, Lang::En, &[]);
    assert!(text.plain.contains("40/60 · working · 6m 05s · $0.31"), "{}", text.plain);
    assert!(text.plain.contains("✓ s39 1m 01s\n● s40\n· s41") && !text.plain.contains("s3 "), "{}", text.plain);
    doc["steps"] = json!([]);
    doc["plan"] = Value::Null;
    assert!(progress(&doc, Lang::En, &[]).html.starts_with("⚙️ <b>Validar stock &lt;negativo&gt;</b>"));
}
