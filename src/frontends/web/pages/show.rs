//! Figures and words as pages show them. It reads documents; it does not fetch them.

use serde::Serialize;
use serde_json::Value;

use crate::core::plan::PlanRecord;
use crate::core::time::Timestamp;
use crate::frontends::doc::word;
use crate::frontends::figures::{dollars, duration};
use crate::frontends::plain::line;
use crate::frontends::words::Words;
use crate::journal::RunRow;
use crate::secrets::printable;

/// The word for how a run stands.
pub fn status_word(w: &Words, status: &str) -> &'static str {
    match status {
        "QUEUED" => w.status_queued,
        "PLANNING" => w.status_planning,
        "PLANNED" => w.status_planned,
        "EXECUTING" => w.status_executing,
        "COMPLETED" => w.status_completed,
        "FAILED" => w.status_failed,
        _ => w.status_aborted,
    }
}

/// The word for where a step stands.
pub fn state_word(w: &Words, state: &str) -> &'static str {
    match state {
        "ready" | "pending" => w.state_pending,
        "running" => w.state_running,
        "waiting" => w.state_waiting,
        "succeeded" => w.state_succeeded,
        "failed" => w.state_failed,
        "skipped" => w.state_skipped,
        _ => w.state_cancelled,
    }
}

/// What someone should do about a run, in a word; empty where nothing.
pub fn need_word(w: &Words, waiting_for: Option<&str>, status: &str) -> &'static str {
    match (waiting_for, status) {
        (Some("approval"), _) => w.need_approval,
        (Some("budget"), _) => w.need_budget,
        (Some(_), _) => w.need_answer,
        (None, "FAILED") => w.need_look,
        _ => "",
    }
}

/// A run in a list.
#[derive(Serialize)]
pub struct Line {
    id: String,
    short: String,
    title: String,
    repo: String,
    pipeline: String,
    status: String,
    status_word: &'static str,
    need: &'static str,
    at: String,
    age: String,
}

impl Line {
    /// Of a row, as of now.
    pub fn of(w: &Words, row: &RunRow, now: Timestamp) -> Self {
        let summary = &row.summary;
        let title = line(&summary.task, 120);
        Self {
            id: row.id.to_string(),
            short: row.id.short(),
            title: if title.is_empty() { summary.pipeline.clone() } else { title },
            repo: summary.repo.clone().unwrap_or_default(),
            pipeline: summary.pipeline.clone(),
            status: summary.status.clone(),
            status_word: status_word(w, &summary.status),
            need: need_word(w, summary.waiting_for.as_deref(), &summary.status),
            at: row.updated_at.to_string(),
            age: duration(now.since(row.updated_at)),
        }
    }
}

/// A step in the list of a run's steps.
#[derive(Serialize)]
pub struct StepLine {
    pub id: String,
    kind: String,
    state: String,
    word: &'static str,
    time: String,
    attempt: u64,
    round: u64,
    note: String,
    error: String,
    hint: String,
    cost: String,
}

/// The steps of a document, as lines.
pub fn steps(w: &Words, doc: &Value) -> Vec<StepLine> {
    let all = doc["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .map(|step| {
            let ms = step["duration_ms"].as_u64().unwrap_or(0);
            let usd = step["usage"]["usd"].as_f64().unwrap_or(0.0);
            StepLine {
                id: word(step, "/id").to_owned(),
                kind: word(step, "/type").to_owned(),
                state: word(step, "/state").to_owned(),
                word: state_word(w, word(step, "/state")),
                time: if ms > 0 { duration(ms) } else { String::new() },
                attempt: step["attempt"].as_u64().unwrap_or(0),
                round: step["round"].as_u64().unwrap_or(1),
                note: line(word(step, "/reason"), 200),
                error: word(step, "/error/message").to_owned(),
                hint: word(step, "/error/hint").to_owned(),
                cost: if usd > 0.0 { dollars(usd) } else { String::new() },
            }
        })
        .collect()
}

/// A line of a comparison.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct DiffLine {
    /// `add`, `del`, `hunk` or `same`.
    pub kind: &'static str,
    /// Its text, without control codes.
    pub text: String,
}

/// The lines of a patch.
pub fn patch_lines(text: &str) -> Vec<DiffLine> {
    let line = |line: &str| {
        let kind = match line.as_bytes().first() {
            Some(b'+') => "add",
            Some(b'-') => "del",
            Some(b'@') => "hunk",
            _ => "same",
        };
        DiffLine { kind, text: printable(line) }
    };
    text.lines().map(line).collect()
}

/// What changed from one revision of a plan to the next.
pub fn plan_changes(old: &PlanRecord, new: &PlanRecord) -> Vec<DiffLine> {
    let (old, new) = (plan_text(old), plan_text(new));
    let diff = similar::TextDiff::from_lines(&old, &new);
    patch_lines(&diff.unified_diff().context_radius(2).to_string())
}

/// A plan as lines, for comparing.
fn plan_text(record: &PlanRecord) -> String {
    let plan = &record.plan;
    let mut lines = vec![plan.title.clone(), plan.summary.clone()];
    for step in &plan.steps {
        lines.push(format!("{}. {}", step.id, step.title));
        lines.push(format!("   {}", step.intent));
        for file in &step.files {
            let action = serde_json::to_value(file.action).ok();
            let action = action.as_ref().and_then(Value::as_str).unwrap_or_default();
            lines.push(format!("   {action} {}: {}", file.path, file.why));
        }
    }
    lines.extend(plan.criteria.iter().map(|criterion| format!("✓ {}", criterion.text)));
    for list in [&plan.assumptions, &plan.questions, &plan.out_of_scope, &plan.risks, &plan.tests_may_change] {
        lines.extend(list.iter().map(|line| format!("- {line}")));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A link that a browser may follow; nothing for any other text.
pub fn link(text: &str) -> Option<&str> {
    (text.starts_with("https://") || text.starts_with("http://")).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_addresses_are_links() {
        assert_eq!(link("javascript:alert(1)"), None);
        assert_eq!(link("/srv/remote.git"), None);
        assert!(link("https://example.org/x").is_some());
    }
}
