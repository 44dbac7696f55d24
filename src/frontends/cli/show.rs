//! A run's document, a plan and the table of runs as text for people. It reads documents; it does not fetch them.

use std::fmt::Write as _;

use serde_json::Value;

use super::screen::{Ink, Screen, clip, pad};
use crate::core::plan::{CheckKind, FileAction, PlanRecord};
use crate::core::time::Timestamp;
use crate::frontends::doc::{number, plan_of, time, waits_for, word};
use crate::frontends::figures::{age, dollars, duration, tokens};
use crate::secrets::printable;

/// A hash without the name of its kind.
pub fn bare(hash: &str) -> &str {
    hash.strip_prefix("sha256:").unwrap_or(hash)
}

/// The beginning of a hash, enough to tell revisions apart.
pub fn short_hash(hash: &str) -> &str {
    bare(hash).get(..12).unwrap_or(hash)
}

fn section(out: &mut String, screen: &Screen, title: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}", screen.paint(Ink::Bold, title));
    for item in items {
        out.push_str(&screen.paragraph("  - ", "    ", item));
    }
}

/// The whole plan.
pub fn plan(screen: &Screen, plan: &PlanRecord) -> String {
    let mut out = String::new();
    let PlanRecord { plan: proposed, estimate, .. } = plan;
    let title = screen.paragraph("Plan: ", "      ", &proposed.title);
    out.push_str(&screen.paint(Ink::Bold, title.trim_end()));
    let base = plan.base_commit.get(..12).unwrap_or(&plan.base_commit);
    let line = format!("revision {} · {} · on {}", plan.revision, short_hash(&plan.hash), printable(base));
    let _ = writeln!(out, "\n{}\n", screen.paint(Ink::Dim, &line));
    out.push_str(&screen.paragraph("", "", &proposed.summary));
    let _ = writeln!(out, "\n{}", screen.paint(Ink::Bold, "Steps"));
    for step in &proposed.steps {
        let after = match step.depends_on.as_slice() {
            [] => String::new(),
            ids => format!(" (after {})", ids.join(", ")),
        };
        out.push_str(&screen.paragraph("  ", "     ", &format!("{}  {}{after}", step.id, step.title)));
        out.push_str(&screen.paragraph("      ", "      ", &step.intent));
        for file in &step.files {
            let action = match file.action {
                FileAction::Create => "create",
                FileAction::Modify => "modify",
                FileAction::Delete => "delete",
            };
            out.push_str(&screen.paragraph("      ", "        ", &format!("{action}  {} — {}", file.path, file.why)));
        }
        for verify in &step.verify {
            let selector = verify.selector.as_deref().map(|text| format!(" {text}")).unwrap_or_default();
            out.push_str(&screen.paragraph("      ", "        ", &format!("check   {}{selector}", verify.check)));
        }
    }
    let criteria: Vec<String> = proposed
        .criteria
        .iter()
        .map(|criterion| {
            let kind = match criterion.check.kind {
                CheckKind::Test => "test",
                CheckKind::Command => "command",
                CheckKind::Diff => "diff",
                CheckKind::Manual => "by hand",
            };
            let name = criterion.check.reference.as_deref().map(|name| format!(": {name}")).unwrap_or_default();
            format!("{}  {} [{kind}{name}]", criterion.id, criterion.text)
        })
        .collect();
    section(&mut out, screen, "Done when", &criteria);
    section(&mut out, screen, "Test files that may change", &proposed.tests_may_change);
    section(&mut out, screen, "Questions (answered by a revision)", &proposed.questions);
    section(&mut out, screen, "Taken for granted", &proposed.assumptions);
    section(&mut out, screen, "Risks", &proposed.risks);
    section(&mut out, screen, "Left out", &proposed.out_of_scope);
    let files = plan.files.len();
    let _ = writeln!(
        out,
        "\n{} {}, {} tokens, {} min · {files} {}",
        screen.paint(Ink::Bold, "Estimate"),
        dollars(estimate.usd),
        tokens(estimate.tokens),
        estimate.minutes,
        if files == 1 { "file" } else { "files" },
    );
    out
}

fn status_ink(status: &str, waiting: bool) -> Ink {
    match status {
        _ if waiting => Ink::Yellow,
        "COMPLETED" => Ink::Green,
        "FAILED" => Ink::Red,
        "ABORTED" | "QUEUED" => Ink::Dim,
        _ => Ink::Cyan,
    }
}

/// The mark and the colour of a step's state.
pub fn step_mark(state: &str) -> (&'static str, Ink) {
    match state {
        "succeeded" => ("✓", Ink::Green),
        "failed" => ("✗", Ink::Red),
        "running" => ("●", Ink::Cyan),
        "waiting" => ("?", Ink::Yellow),
        "skipped" => ("-", Ink::Dim),
        "cancelled" => ("×", Ink::Dim),
        _ => ("·", Ink::Dim),
    }
}

/// What a person can do now, as commands.
pub fn next_commands(devo: &str, doc: &Value) -> Vec<String> {
    let id = word(doc, "/short_id");
    let revisable = plan_of(doc).is_some();
    match (word(doc, "/status"), waits_for(doc)) {
        ("QUEUED", _) => vec![format!("{devo} resume {id}")],
        // A pipeline may do its work without changing a repository.
        ("COMPLETED", _) if word(doc, "/branch").is_empty() => vec![format!("{devo} logs {id}")],
        ("COMPLETED", _) => vec![format!("{devo} diff {id}"), format!("{devo} logs {id}")],
        ("FAILED", _) => vec![format!("{devo} logs {id}"), format!("{devo} retry {id}")],
        ("ABORTED", _) => vec![format!("{devo} logs {id}")],
        (_, Some("approval")) if revisable => vec![
            format!("{devo} plan {id}"),
            format!("{devo} approve {id}"),
            format!("{devo} revise {id} \"what to change\""),
            format!("{devo} reject {id}"),
        ],
        (_, Some("budget")) => vec![format!("{devo} answer {id} 2"), format!("{devo} abort {id}")],
        (_, Some(_)) => vec![format!("{devo} answer {id} \"…\""), format!("{devo} abort {id}")],
        _ => vec![format!("{devo} resume {id}"), format!("{devo} logs {id} --follow")],
    }
}

fn error_lines(out: &mut String, screen: &Screen, error: &Value) {
    out.push_str(&screen.paragraph("    ", "    ", word(error, "/message")));
    let hint = word(error, "/hint");
    if !hint.is_empty() {
        out.push_str(&screen.paragraph("    hint: ", "          ", hint));
    }
}

/// `$0.03 · 12.3k tokens · 4 calls`; empty for a run without model calls.
pub fn spending(doc: &Value) -> String {
    let calls = number(doc, "/usage/calls");
    if calls == 0 {
        return String::new();
    }
    let used = number(doc, "/usage/input_tokens") + number(doc, "/usage/output_tokens");
    let usd = doc.pointer("/usage/usd").and_then(Value::as_f64).unwrap_or(0.0);
    format!("{} · {} tokens · {calls} {}", dollars(usd), tokens(used), if calls == 1 { "call" } else { "calls" })
}

/// `3 files, +20 −4`, from whichever step says so.
fn diffstat(doc: &Value) -> String {
    let steps = doc["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    for step in steps.iter().rev() {
        match &step["output"]["diffstat"] {
            Value::String(text) => return printable(text.lines().last().unwrap_or_default().trim()),
            stat @ Value::Object(_) => {
                let (files, plus, minus) =
                    (number(stat, "/files"), number(stat, "/insertions"), number(stat, "/deletions"));
                return format!("{files} {}, +{plus} −{minus}", if files == 1 { "file" } else { "files" });
            }
            _ => {}
        }
    }
    String::new()
}

fn facts(out: &mut String, screen: &Screen, facts: &[(&str, String)]) {
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        let name = screen.paint(Ink::Dim, &pad(name, 9));
        let _ = writeln!(out, "  {name}{}", printable(value));
    }
}

/// What came of a run, or where it stands: branch, size, links, cost.
fn outcome(doc: &Value) -> Vec<(&'static str, String)> {
    let link = |name: &str| word(doc, &format!("/links/{name}")).to_owned();
    vec![
        ("branch", word(doc, "/branch").to_owned()),
        ("commit", word(doc, "/commit").to_owned()),
        ("changes", diffstat(doc)),
        ("see", link("branch")),
        // A plain path has one link only.
        ("compare", Some(link("compare")).filter(|compare| *compare != link("branch")).unwrap_or_default()),
        ("cost", spending(doc)),
    ]
}

fn headline(screen: &Screen, doc: &Value, now: Option<Timestamp>) -> String {
    let status = word(doc, "/status");
    let waiting = waits_for(doc);
    let shown = match waiting {
        Some(kind) => format!("{status} (waits for {})", thing(kind)),
        None => status.to_owned(),
    };
    let span = match (time(doc, "/created_at"), time(doc, "/updated_at"), now) {
        (Some(start), _, Some(now)) => format!(" · {} ago", age(now.since(start))),
        (Some(start), Some(end), None) => format!(" · {}", duration(end.since(start))),
        _ => String::new(),
    };
    let pipeline = screen.clip(word(doc, "/pipeline"), 40);
    let shown = screen.paint(status_ink(status, waiting.is_some()), &shown);
    format!("{shown}  {} {pipeline}{span}\n", screen.paint(Ink::Bold, word(doc, "/short_id")))
}

fn thing(kind: &str) -> &str {
    match kind {
        "approval" => "an approval",
        "answer" => "an answer",
        "budget" => "more budget",
        other => other,
    }
}

fn commands(out: &mut String, screen: &Screen, devo: &str, doc: &Value) {
    let next = next_commands(devo, doc);
    let _ = writeln!(out, "\n{}", screen.paint(Ink::Dim, "next:"));
    for command in next {
        let _ = writeln!(out, "  {command}");
    }
}

/// The end of `run`, `resume` and `retry`; `quiet` leaves out what could come next.
pub fn result(screen: &Screen, devo: &str, doc: &Value, quiet: bool) -> String {
    let mut out = headline(screen, doc, None);
    failure(&mut out, screen, doc);
    question(&mut out, screen, doc);
    facts(&mut out, screen, &outcome(doc));
    if !quiet {
        commands(&mut out, screen, devo, doc);
    }
    out
}

fn failure(out: &mut String, screen: &Screen, doc: &Value) {
    let steps = doc["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let failed: Vec<&Value> = steps.iter().filter(|step| step["state"] == "failed").collect();
    for step in failed.iter().take(5) {
        let name = format!("✗ {} ({})", word(step, "/id"), word(step, "/type"));
        let _ = writeln!(out, "  {}", screen.paint(Ink::Red, &printable(&name)));
        error_lines(out, screen, &step["error"]);
    }
    if failed.len() > 5 {
        let _ = writeln!(out, "  … and {} more steps failed", failed.len() - 5);
    }
    // The run's own error repeats a step's unless it has another cause (a limit, an abort).
    let own = &doc["error"];
    let repeated = failed.iter().any(|step| word(&step["error"], "/code") == word(own, "/code"));
    if own.is_object() && !repeated {
        error_lines(out, screen, own);
    }
}

fn question(out: &mut String, screen: &Screen, doc: &Value) {
    if let Some(kind) = waits_for(doc) {
        let lead = format!("  {} ", screen.paint(Ink::Yellow, "?"));
        if kind == "approval"
            && let Some(plan) = plan_of(doc)
        {
            let text = format!("revision {} of the plan ({})", plan.revision, short_hash(&plan.hash));
            let _ = writeln!(out, "{lead}{text}: {}", screen.clip(&plan.plan.title, 60));
        } else {
            out.push_str(&screen.paragraph(&lead, "    ", word(doc, "/waiting_for/question")));
        }
    }
}

/// One run in detail: what failed or waits comes first. `idle` is why nobody drives it, where it is open and nobody does.
pub fn status(screen: &Screen, devo: &str, doc: &Value, idle: Option<&str>, now: Timestamp) -> String {
    let mut out = headline(screen, doc, Some(now));
    out.push_str(&screen.paragraph("  ", "  ", word(doc, "/task")));
    failure(&mut out, screen, doc);
    question(&mut out, screen, doc);
    let short = word(doc, "/short_id");
    let idle = match (idle, word(doc, "/standing")) {
        (Some(why), _) => format!("{why}: {devo} resume {short}"),
        (None, "") => String::new(),
        (None, why) => format!("it stands still: {why}"),
    };
    for line in idle.lines() {
        let _ = writeln!(out, "  {}", screen.paint(Ink::Yellow, &printable(line)));
    }
    let steps = doc["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !steps.is_empty() {
        out.push('\n');
        let name = steps.iter().map(|step| word(step, "/id").len()).max().unwrap_or(0).min(30);
        let kind = steps.iter().map(|step| word(step, "/type").len()).max().unwrap_or(0).min(16);
        for step in steps {
            let _ = writeln!(out, "{}", step_line(screen, step, name, kind, now));
        }
    }
    out.push('\n');
    let mut lines = vec![
        ("id", word(doc, "/task_id").to_owned()),
        ("repo", word(doc, "/repo").to_owned()),
        ("base", word(doc, "/base").to_owned()),
        ("sandbox", word(doc, "/sandbox").to_owned()),
    ];
    if !word(doc, "/approval/by").is_empty() {
        let by = format!("by {} ({})", word(doc, "/approval/by"), word(doc, "/approval/channel"));
        lines.push(("approved", format!("revision {} {by}", number(doc, "/approval/revision"))));
    }
    lines.extend(outcome(doc));
    facts(&mut out, screen, &lines);
    commands(&mut out, screen, devo, doc);
    out
}

/// How a step stands, on one line.
fn step_line(screen: &Screen, step: &Value, name: usize, kind: usize, now: Timestamp) -> String {
    let state = word(step, "/state");
    let (mark, ink) = step_mark(state);
    let mut notes = Vec::new();
    let took = match (time(step, "/started_at"), state) {
        (Some(start), "running") => now.since(start),
        _ => number(step, "/duration_ms"),
    };
    if step["started_at"].is_string() {
        notes.push(duration(took));
    }
    for (pointer, label) in [("/round", "round"), ("/attempt", "attempt")] {
        if number(step, pointer) > 1 {
            notes.push(format!("{label} {}", number(step, pointer)));
        }
    }
    let usd = step.pointer("/usage/usd").and_then(Value::as_f64).unwrap_or(0.0);
    if number(step, "/usage/calls") > 0 {
        let used = number(step, "/usage/input_tokens") + number(step, "/usage/output_tokens");
        notes.push(format!("{} tokens", tokens(used)));
        notes.push(dollars(usd));
    }
    if !word(step, "/reason").is_empty() {
        notes.push(screen.clip(word(step, "/reason"), 60));
    }
    let id = pad(&clip(word(step, "/id"), name), name);
    let kind = screen.paint(Ink::Dim, &pad(word(step, "/type"), kind));
    let state = screen.paint(ink, &pad(state, 9));
    let line = format!("  {} {id}  {kind}  {state}  {}", screen.paint(ink, mark), notes.join(" · "));
    line.trim_end().to_owned()
}

/// The table of runs: what needs a person first, then what works, then what waits in the inbox, then what is over.
pub fn table(screen: &Screen, rows: &[Value], now: Timestamp) -> String {
    let mut sorted: Vec<&Value> = rows.iter().collect();
    sorted.sort_by_key(|row| {
        let rank = match (word(row, "/status"), waits_for(row)) {
            ("COMPLETED" | "FAILED" | "ABORTED", _) => 3,
            (_, Some(_)) => 0,
            ("QUEUED", _) => 2,
            _ => 1,
        };
        (rank, std::cmp::Reverse(time(row, "/updated_at")))
    });
    let header = ["ID", "STATUS", "AGE", "PIPELINE", "REPO", "TASK"].map(str::to_owned);
    let mut lines = vec![header];
    for row in &sorted {
        let status = match waits_for(row) {
            Some(kind) => format!("{} ({kind}?)", word(row, "/status")),
            None => word(row, "/status").to_owned(),
        };
        let age = time(row, "/updated_at").map(|at| age(now.since(at))).unwrap_or_default();
        lines.push([
            word(row, "/short_id").to_owned(),
            status,
            age,
            screen.clip(word(row, "/pipeline"), 24),
            screen.clip(word(row, "/repo"), 24),
            screen.clip(word(row, "/task"), 200),
        ]);
    }
    let widths: Vec<usize> = (0..5)
        .map(|column| {
            let width = |line: &[String; 6]| unicode_width::UnicodeWidthStr::width(line[column].as_str());
            lines.iter().map(width).max().unwrap_or(0)
        })
        .collect();
    let room = screen.width.saturating_sub(widths.iter().sum::<usize>() + 10).max(20);
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        let mut cells: Vec<String> =
            widths.iter().enumerate().map(|(column, width)| pad(&line[column], *width)).collect();
        cells.push(clip(&line[5], room));
        if number == 0 {
            cells.iter_mut().for_each(|cell| *cell = screen.paint(Ink::Dim, cell));
        } else {
            let row = sorted[number - 1];
            let ink = status_ink(word(row, "/status"), waits_for(row).is_some());
            cells[1] = screen.paint(ink, &cells[1]);
        }
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

#[cfg(test)]
mod tests;
