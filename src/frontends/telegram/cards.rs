//! Runs as messages: the plan, how a run goes, what came of it. It reads a run's document and writes text; it sends nothing.

use serde_json::Value;

use super::book::About;
use super::html::{Html, clean, clip, line, units};
use super::words::words;
use crate::core::plan::{FileAction, PlanRecord};
use crate::frontends::causes::cause;
use crate::frontends::doc::{error_of, failed_step, time};
pub use crate::frontends::doc::{number, plan_of, title, waits_for, word};
use crate::frontends::figures::{dollars, duration};
use crate::frontends::words::{Lang, fill};

/// What a plan's quote may take, in units: a message with more is slow to read on a phone. The rest is in the file.
const QUOTE_MAX: usize = 2800;
/// Steps that a progress message names.
const STEPS_SHOWN: usize = 14;
/// Findings of the guard that a result names.
const FINDINGS_SHOWN: usize = 5;

/// Whether the run is over.
pub fn is_over(doc: &Value) -> bool {
    matches!(word(doc, "/status"), "COMPLETED" | "FAILED" | "ABORTED")
}

/// The contract's status in a person's language.
pub fn status(doc: &Value, lang: Lang) -> &'static str {
    let texts = lang.words();
    match word(doc, "/status") {
        "QUEUED" => texts.status_queued,
        "PLANNING" => texts.status_planning,
        "PLANNED" => texts.status_planned,
        "COMPLETED" => texts.status_completed,
        "FAILED" => texts.status_failed,
        "ABORTED" => texts.status_aborted,
        _ => texts.status_executing,
    }
}

fn took(doc: &Value) -> String {
    match (time(doc, "/created_at"), time(doc, "/updated_at")) {
        (Some(start), Some(end)) => duration(end.since(start)),
        _ => String::new(),
    }
}

fn cost(doc: &Value) -> String {
    let usd = doc.pointer("/usage/usd").and_then(Value::as_f64).unwrap_or(0.0);
    if number(doc, "/usage/calls") == 0 { String::new() } else { dollars(usd) }
}

/// `shop · 3f2a9c1e · …`
fn facts(text: Html, doc: &Value, more: &[String]) -> Html {
    let repo = line(word(doc, "/repo"), 60);
    let mut text = if repo.is_empty() { text } else { text.text(&repo).text(" · ") };
    text = text.code(word(doc, "/short_id"));
    for fact in more.iter().filter(|fact| !fact.is_empty()) {
        text = text.text(" · ").text(fact);
    }
    text
}

/// A plan as one message, and whether all of it is in there.
pub fn plan(doc: &Value, plan: &PlanRecord, lang: Lang) -> (Html, bool) {
    let texts = words(lang);
    let head = plan_head(doc, plan, lang);
    let mut text = head.nl().nl();
    let summary = clean(&plan.plan.summary);
    let shown = clip(&summary, 700);
    let mut whole = shown == summary;
    text = text.text(&shown).nl();
    if !plan.plan.questions.is_empty() {
        let all = list(&plan.plan.questions);
        let shown = clip(&all, 600);
        whole &= shown == all;
        text = text.nl().bold(texts.questions).nl().text(&shown).nl();
    }
    let details = details(plan, lang);
    // Room for the note on the file, and for what is added when it is settled.
    let room = text.room().saturating_sub(400).min(QUOTE_MAX);
    let quoted = clip(&details, room);
    whole &= quoted == details;
    text = text.quote(&quoted);
    if !whole {
        text = text.nl().text(texts.whole_plan);
    }
    (text, whole)
}

/// What stays of a plan's message when it is settled.
pub fn plan_head(doc: &Value, plan: &PlanRecord, lang: Lang) -> Html {
    let texts = words(lang);
    let n = plan.revision.to_string();
    let text = Html::of("📋 ").bold(&line(&plan.plan.title, 200)).nl();
    let more = [
        fill(texts.revision, &[("n", &n)]),
        fill(texts.files, &[("n", &plan.files.len().to_string())]),
        dollars(plan.estimate.usd),
        fill(texts.minutes, &[("n", &plan.estimate.minutes.to_string())]),
    ];
    facts(text, doc, &more)
}

fn list(items: &[String]) -> String {
    items.iter().map(|item| format!("• {}", clean(item))).collect::<Vec<_>>().join("\n")
}

fn details(plan: &PlanRecord, lang: Lang) -> String {
    let texts = words(lang);
    let mut parts = vec![texts.steps.to_owned()];
    for step in &plan.plan.steps {
        parts.push(format!("{} {}", line(&step.id, 20), line(&step.title, 200)));
        parts.push(format!("   {}", clean(&step.intent)));
        for file in &step.files {
            let sign = match file.action {
                FileAction::Create => '+',
                FileAction::Modify => '~',
                FileAction::Delete => '−',
            };
            parts.push(format!("   {sign} {} — {}", line(&file.path, 200), line(&file.why, 200)));
        }
    }
    let criteria: Vec<String> = plan.plan.criteria.iter().map(|criterion| criterion.text.clone()).collect();
    for (title, items) in [
        (texts.done_when, &criteria),
        (texts.may_change, &plan.plan.tests_may_change),
        (texts.assumptions, &plan.plan.assumptions),
        (texts.risks, &plan.plan.risks),
        (texts.left_out, &plan.plan.out_of_scope),
    ] {
        if !items.is_empty() {
            parts.push(format!("\n{title}\n{}", list(items)));
        }
    }
    parts.join("\n")
}

/// The whole plan as a Markdown file.
pub fn plan_file(plan: &PlanRecord, lang: Lang) -> String {
    let texts = words(lang);
    let mut text = format!(
        "# {}\n\n{} {} · {}\n\n{}\n\n",
        line(&plan.plan.title, 400),
        texts.plan,
        fill(texts.revision, &[("n", &plan.revision.to_string())]),
        plan.hash,
        clean(&plan.plan.summary)
    );
    if !plan.plan.questions.is_empty() {
        text.push_str(&format!("{}\n\n", list(&plan.plan.questions)));
    }
    text.push_str(&details(plan, lang));
    text.push('\n');
    text
}

/// A question of a run.
pub fn question(doc: &Value, lang: Lang) -> Html {
    let texts = words(lang);
    let (icon, name) = match waits_for(doc) {
        Some("budget") => ("💰 ", texts.budget),
        _ => ("❓ ", texts.question),
    };
    let text = facts(Html::of(icon).bold(name).text(" · ").text(&title(doc)).nl(), doc, &[]);
    let cause = cause(lang, waits_for(doc).unwrap_or_default());
    let text = if cause.is_empty() { text } else { text.nl().nl().text(cause) };
    let asked = clip(&clean(word(doc, "/waiting_for/question")), 3000);
    text.nl().nl().text(&asked)
}

/// How a run goes, in one message that is edited; `said` is what its steps said last.
pub fn progress(doc: &Value, lang: Lang, said: &[String]) -> Html {
    let texts = words(lang);
    let icon = match (word(doc, "/status"), waits_for(doc)) {
        ("COMPLETED", _) => "✅ ",
        ("FAILED", _) => "❌ ",
        ("ABORTED", _) => "🛑 ",
        (_, Some(_)) => "⏸ ",
        ("QUEUED", _) => "🕓 ",
        _ => "⚙️ ",
    };
    let steps = doc["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let done = steps.iter().filter(|step| matches!(word(step, "/state"), "succeeded" | "skipped")).count();
    let now = match waits_for(doc) {
        Some("approval") => texts.waits_approval,
        Some("budget") => texts.waits_budget,
        Some(_) => texts.waits_answer,
        None => status(doc, lang),
    };
    let more = [format!("{done}/{}", steps.len()), now.to_owned(), took(doc), cost(doc)];
    let mut text = facts(Html::of(icon).bold(&title(doc)).nl(), doc, &more);
    // Of many steps, those around the one that is at work.
    let at = steps.iter().rposition(|step| word(step, "/state") != "pending").unwrap_or(0);
    let first = (at + 3).min(steps.len()).saturating_sub(STEPS_SHOWN);
    // A revision of the plan is a round for all that follows, which says nothing.
    let least = steps.iter().map(|step| number(step, "/round")).min().unwrap_or(1).max(1);
    for step in steps.iter().skip(first).take(STEPS_SHOWN) {
        let mark = match word(step, "/state") {
            "succeeded" => "✓",
            "failed" => "✗",
            "running" => "●",
            "waiting" => "?",
            "skipped" => "–",
            "cancelled" => "×",
            _ => "·",
        };
        let mut shown = format!("{mark} {}", line(word(step, "/id"), 64));
        if number(step, "/round") > least {
            shown.push_str(&format!(" ×{}", number(step, "/round")));
        }
        if number(step, "/duration_ms") >= 1000 && matches!(word(step, "/state"), "succeeded" | "failed") {
            shown.push_str(&format!(" {}", duration(number(step, "/duration_ms"))));
        }
        text = text.nl().text(&shown);
    }
    if !word(doc, "/standing").is_empty() {
        let why = clip(&clean(word(doc, "/standing")), 600);
        text = text.nl().text("⚠️ ").bold(lang.words().stands_still).nl().text(&why);
    }
    if !said.is_empty() && !is_over(doc) {
        let said: Vec<String> = said.iter().map(|text| line(text, 120)).collect();
        text = text.nl().quote(&said.join("\n"));
    }
    text
}

/// What came of a run.
pub fn result(doc: &Value, lang: Lang) -> Html {
    match word(doc, "/status") {
        "COMPLETED" => completed(doc, lang),
        "FAILED" => failed(doc, lang),
        _ => facts(Html::of("🛑 ").bold(&title(doc)).nl(), doc, &[status(doc, lang).to_owned(), cost(doc)]),
    }
}

fn steps_output<'d>(doc: &'d Value, key: &str) -> Option<&'d Value> {
    let steps = doc["steps"].as_array()?;
    steps.iter().rev().map(|step| &step["output"][key]).find(|value| !value.is_null())
}

fn completed(doc: &Value, lang: Lang) -> Html {
    let texts = words(lang);
    let mut text = facts(Html::of("✅ ").bold(&title(doc)).nl(), doc, &[took(doc), cost(doc)]);
    let branch = word(doc, "/branch");
    if !branch.is_empty() {
        text = text.nl().nl().text("🌿 ").code(&line(branch, 200));
    }
    if let Some(stat) = steps_output(doc, "diffstat").filter(|stat| stat.is_object()) {
        let said = fill(
            texts.changes,
            &[
                ("plus", &number(stat, "/insertions").to_string()),
                ("minus", &number(stat, "/deletions").to_string()),
                ("n", &number(stat, "/files").to_string()),
            ],
        );
        text = text.nl().text(&said);
    }
    for step in doc["steps"].as_array().into_iter().flatten().filter(|step| step["output"]["passed"].is_u64()) {
        let output = &step["output"];
        let value = |key: &str| number(output, key).to_string();
        let (passed, failed, skipped) = (value("/passed"), value("/failed"), value("/skipped"));
        let said = if number(output, "/passed") + number(output, "/failed") == 0 {
            texts.tests_unknown.to_owned()
        } else {
            fill(texts.tests, &[("passed", &passed), ("failed", &failed), ("skipped", &skipped)])
        };
        text = text.nl().text(&said);
    }
    text = findings(text, doc, lang);
    let (branch, compare) = (word(doc, "/links/branch"), word(doc, "/links/compare"));
    if !branch.is_empty() {
        text = text.nl().nl().link(texts.branch_link, branch);
        if !super::html::opens(branch) {
            text = text.text(": ").code(&line(branch, 300));
        }
    }
    if !compare.is_empty() && compare != branch {
        text = text.nl().link(texts.compare_link, compare);
    }
    text
}

fn findings(mut text: Html, doc: &Value, lang: Lang) -> Html {
    let texts = words(lang);
    let Some(found) = steps_output(doc, "findings").and_then(Value::as_array) else { return text };
    if found.is_empty() {
        return text.nl().text(texts.guard_clean);
    }
    text = text.nl().text("🔎 ").text(&fill(texts.guard_found, &[("n", &found.len().to_string())]));
    for finding in found.iter().take(FINDINGS_SHOWN) {
        let place = format!("{}:{}", line(word(finding, "/path"), 120), number(finding, "/line"));
        let what = line(&word(finding, "/code").replace('_', " "), 60);
        text = text.nl().text("• ").code(&place).text(&format!(" {what}: {}", line(word(finding, "/text"), 120)));
    }
    if found.len() > FINDINGS_SHOWN { text.nl().text("…") } else { text }
}

fn failed(doc: &Value, lang: Lang) -> Html {
    let texts = words(lang);
    let mut text = facts(Html::of("❌ ").bold(&title(doc)).nl(), doc, &[took(doc), cost(doc)]);
    let error = error_of(doc);
    text = text.nl();
    if let Some(step) = failed_step(doc) {
        let said = fill(texts.step_failed, &[("step", word(step, "/id"))]);
        text = text.nl().bold(&said);
    }
    let cause = cause(lang, word(error, "/code"));
    if !cause.is_empty() {
        text = text.nl().text(cause);
    }
    text = text.nl().text(&line(word(error, "/message"), 500));
    let hint = line(word(error, "/hint"), 300);
    if hint.is_empty() { text } else { text.nl().text("→ ").text(&hint) }
}

/// What has become of a decision that a message asked for; `None` while it is open.
pub fn truth(doc: &Value, about: &About, lang: Lang) -> Option<String> {
    let texts = words(lang);
    match about {
        About::Plan { hash, .. } => {
            let current = word(doc, "/plan/hash");
            if word(doc, "/approval/plan_hash") == hash {
                let at = word(doc, "/approval/at").get(11..16).unwrap_or_default();
                let n = number(doc, "/approval/revision").to_string();
                let (who, channel) = (line(word(doc, "/approval/by"), 60), line(word(doc, "/approval/channel"), 20));
                let values = [("n", n.as_str()), ("who", &who), ("channel", &channel), ("at", at)];
                return Some(format!("✅ {}", fill(texts.now_approved, &values)));
            }
            if is_over(doc) {
                return Some(format!("🛑 {}", fill(texts.now_over, &[("status", status(doc, lang))])));
            }
            if !current.is_empty() && current != hash {
                let n = number(doc, "/plan/revision").to_string();
                return Some(format!("↪️ {}", fill(texts.now_superseded, &[("n", &n)])));
            }
            // Between a decision and what it leads to there is nothing to tell yet.
            let planning = doc["steps"].as_array().into_iter().flatten().any(|step| {
                word(step, "/type") == "plan" && matches!(word(step, "/state"), "pending" | "ready" | "running")
            });
            let revising = waits_for(doc).is_none() && word(doc, "/status") == "PLANNING" && planning;
            revising.then(|| format!("✏️ {}", texts.now_revising))
        }
        About::Question { since, .. } => {
            if is_over(doc) {
                return Some(format!("🛑 {}", fill(texts.now_over, &[("status", status(doc, lang))])));
            }
            (word(doc, "/waiting_for/since") != since).then(|| format!("✅ {}", texts.now_answered))
        }
        About::Feedback { .. } | About::Progress { .. } | About::Run { .. } | About::Draft { .. } | About::Other => {
            None
        }
    }
}

/// A message with what has become of it in front.
pub fn settled(body: &Html, outcome: &str) -> Html {
    let text = Html::of(outcome).nl().add(body);
    if units(&text.plain) > super::html::MESSAGE_MAX { Html::of(outcome) } else { text }
}

#[cfg(test)]
#[path = "cards_tests.rs"]
mod tests;
