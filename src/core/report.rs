//! The run's document of the contract (section 6): what `devo status --json` and every other channel show.

use serde_json::{Map, Value, json};

use super::budget::{Usage, Usd};
use super::event::QuestionKind;
use super::failure::Failure;
use super::graph::Graph;
use super::id::StepId;
use super::state::{Phase, RunState, Spending, Status};

/// A run that is submitted and not accepted yet.
pub fn queued(task_id: &str, short_id: &str, pipeline: &str, repo: Option<&str>, task: &str, at: &str) -> Value {
    json!({
        "task_id": task_id, "short_id": short_id, "pipeline": pipeline, "task": task,
        "status": Status::Queued.as_str(), "waiting_for": null, "repo": repo, "base": null, "branch": null,
        "plan": null, "approval": null, "steps": [], "usage": usage(&Spending::default(), Map::new()),
        "commit": null, "links": {}, "created_at": at, "updated_at": at, "error": null, "logs": [],
    })
}

/// The document of an accepted run.
pub fn document(graph: &Graph, state: &RunState) -> Value {
    let spec = state.spec();
    let steps: Vec<Value> = (0..graph.len()).map(|at| step(graph, state, at)).collect();
    let of_kind = |kind: &str, key: &str| -> Value {
        let found = (0..graph.len()).rev().filter(|at| graph.node(*at).kind == kind);
        found.map(|at| state.step(at).output[key].clone()).find(|value| !value.is_null()).unwrap_or(Value::Null)
    };
    let waiting_for = state.waiting().next().filter(|_| !state.going_back()).map(|(at, question)| {
        let kind = match question.kind {
            QuestionKind::Approval => "approval",
            QuestionKind::Answer => "answer",
            QuestionKind::Budget => "budget",
        };
        json!({"step": graph.node(at).id, "kind": kind, "question": question.text, "since": state.waiting_since(at)})
    });
    let by_role: Map<String, Value> = state
        .by_role()
        .iter()
        .map(|(role, spent)| (role.clone(), figures(&spent.usage, spent.calls, spent.usd)))
        .collect();
    let base = match of_kind("branch", "base") {
        Value::Null => spec.base.clone().map_or(Value::Null, Value::String),
        found => found,
    };
    let error = state.ending().and_then(|(_, error)| error.as_ref());
    json!({
        "task_id": spec.task_id.to_string(),
        "short_id": spec.task_id.short(),
        "pipeline": spec.pipeline,
        "task": spec.task,
        "status": state.status(graph).as_str(),
        "waiting_for": waiting_for,
        "repo": spec.repo,
        "base": base,
        "branch": of_kind("branch", "branch"),
        "plan": state.plan(),
        "approval": state.approval().map(|approval| json!({
            "plan_hash": approval.plan_hash, "revision": approval.revision, "by": approval.who.by,
            "channel": approval.who.channel, "at": approval.at, "note": approval.note,
        })),
        "steps": steps,
        "usage": usage(state.spending(), by_role),
        "commit": of_kind("commit", "commit"),
        "links": match of_kind("push", "links") { Value::Null => json!({}), links => links },
        "created_at": state.created_at(),
        "updated_at": state.updated_at(),
        "error": error.map(|error| match state.failed_by() {
            Some(at) => with_step(failure(error), &graph.node(at).id),
            None => failure(error),
        }),
        "logs": [],
        "sandbox": spec.sandbox,
    })
}

fn step(graph: &Graph, state: &RunState, at: usize) -> Value {
    let node = graph.node(at);
    let step = state.step(at);
    let end = step.finished_at.unwrap_or(state.updated_at());
    json!({
        "id": node.id,
        "type": node.kind,
        "state": step.phase.as_str(),
        "attempt": step.attempt,
        "round": step.round,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
        "duration_ms": step.started_at.map_or(0, |start| end.since(start)),
        "output": if step.output.is_null() { json!({}) } else { step.output.clone() },
        "prompt": step.prompt,
        "error": step.error.as_ref().filter(|_| shows_error(&step.phase)).map(failure),
        "reason": step.reason,
        "usage": figures(&step.usage, step.calls, step.usd),
    })
}

/// An error stays visible while the step waits for its next try; a try that follows clears it.
fn shows_error(phase: &Phase) -> bool {
    !matches!(phase, Phase::Succeeded | Phase::Skipped)
}

fn failure(failure: &Failure) -> Value {
    json!({"code": failure.code, "message": failure.message, "hint": failure.hint})
}

fn with_step(mut error: Value, step: &StepId) -> Value {
    error["step"] = json!(step);
    error
}

fn figures(usage: &Usage, calls: u32, usd: Usd) -> Value {
    json!({
        "input_tokens": usage.prompt(), "cached_tokens": usage.cache_read, "output_tokens": usage.output,
        "calls": calls, "usd": usd,
    })
}

fn usage(spent: &Spending, by_role: Map<String, Value>) -> Value {
    let mut all = figures(&spent.usage, spent.calls, spent.usd);
    all["by_role"] = Value::Object(by_role);
    all
}
