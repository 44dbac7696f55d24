//! A mail's subject and text, made of a run's document. It sends nothing.

use serde_json::Value;

use super::words::words;
use crate::core::rings::Ring;
use crate::frontends::causes::cause;
use crate::frontends::doc::{error_of, failed_step, number, plan_of, title, word};
use crate::frontends::figures::dollars;
use crate::frontends::plain::{clean, clip, line};
use crate::frontends::ringer::Telling;
use crate::frontends::words::{Lang, fill};
use crate::secrets::Masker;

/// The longest part of a text that others wrote, in UTF-16 units: a plan is read on its page.
const PART_MAX: usize = 4000;
/// The longest title in a subject: what a phone shows of one, twice over.
const TITLE_MAX: usize = 90;

/// A mail, but for who gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// One line.
    pub subject: String,
    /// Plain text.
    pub text: String,
    /// The same for every try of this mail, and different for everything else.
    pub id: String,
    /// The same for all mails about a run.
    pub thread: String,
}

/// Writes a mail.
pub fn write(telling: &Telling<'_>, pages: Option<&str>, lang: Lang, masker: &Masker) -> Letter {
    let (doc, run, texts) = (telling.document, telling.run, words(lang));
    let occasion = match telling.ring {
        Ring::PlanReady => texts.plan_ready,
        Ring::Question if word(doc, "/waiting_for/kind") == "budget" => texts.budget,
        Ring::Question => texts.question,
        Ring::Failed => texts.failed,
        Ring::Done => texts.done,
        Ring::Message => texts.message,
    };
    let occasion = match telling.reminder {
        0 => occasion.to_owned(),
        _ => format!("{} · {occasion}", texts.reminder),
    };
    let name = title(doc);
    let repo = line(word(doc, "/repo"), 60);
    let of = if repo.is_empty() { run.short() } else { format!("{repo}, {}", run.short()) };
    let subject = format!("[devo] {occasion}: {} ({of})", clip(&name, TITLE_MAX));

    let mut text = Text::default();
    if telling.repeat {
        text.paragraph(texts.repeat);
    }
    text.paragraph(&format!("{name}\n{of}"));
    if telling.reminder > 0 {
        let at = telling.event.at.to_string();
        let at = format!("{} UTC", at.get(..16).unwrap_or_default().replace('T', " "));
        text.paragraph(&fill(texts.waits_since, &[("at", &at)]));
    }
    let page = pages.map(|pages| format!("{}/runs/{run}", pages.trim_end_matches('/')));
    let by = |command: &str| format!("devo {command} {}", run.short());
    match telling.ring {
        Ring::PlanReady => {
            plan(&mut text, doc, lang);
            text.way(texts.approve, page.as_deref(), &[by("plan"), by("approve"), format!("{} \"…\"", by("revise"))]);
        }
        Ring::Question => {
            text.paragraph(cause(lang, word(doc, "/waiting_for/kind")));
            text.foreign(word(doc, "/waiting_for/question"), texts.cut);
            text.way(texts.answer, page.as_deref(), &[format!("{} \"…\"", by("answer"))]);
        }
        Ring::Failed => {
            failure(&mut text, doc, lang);
            text.way(texts.retry, page.as_deref(), &[by("logs"), by("retry")]);
        }
        Ring::Done => {
            result(&mut text, doc, lang);
            text.way(texts.open, page.as_deref(), &[by("status")]);
        }
        Ring::Message => {
            text.foreign(telling.message.map_or("", |message| &message.text), texts.cut);
            text.way(texts.open, page.as_deref(), &[by("status")]);
        }
    }
    text.0.push_str(&format!("-- \n{}\n", texts.why));
    let reminder = if telling.reminder == 0 { String::new() } else { format!(".r{}", telling.reminder) };
    Letter {
        subject: line(&masker.mask(&subject), 300),
        text: masker.mask(&text.0),
        id: format!("{run}.{}{reminder}", telling.event.seq),
        thread: run.to_string(),
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn paragraph(&mut self, text: &str) {
        if !text.trim().is_empty() {
            self.0.push_str(text.trim_end());
            self.0.push_str("\n\n");
        }
    }

    /// What others wrote: without what steers, and cut.
    fn foreign(&mut self, text: &str, cut: &str) {
        let text = clean(text);
        let shown = clip(&text, PART_MAX);
        self.paragraph(&if shown == text { shown } else { format!("{shown}\n{cut}") });
    }

    /// Where to go on: the page, or the commands where there is none.
    fn way(&mut self, what: &str, page: Option<&str>, commands: &[String]) {
        let ways = page.map_or_else(|| commands.join("\n  "), str::to_owned);
        self.paragraph(&format!("{what}\n  {ways}"));
    }
}

fn plan(text: &mut Text, doc: &Value, lang: Lang) {
    let (texts, shared) = (words(lang), lang.words());
    let Some(plan) = plan_of(doc) else { return };
    let (n, files) = (plan.revision.to_string(), plan.files.len().to_string());
    let (usd, minutes) = (dollars(plan.estimate.usd), plan.estimate.minutes.to_string());
    let values = [("n", n.as_str()), ("files", &files), ("usd", &usd), ("minutes", &minutes)];
    text.paragraph(&fill(texts.revision, &values));
    text.foreign(&plan.plan.summary, texts.cut);
    let list = |items: Vec<String>| {
        items.iter().map(|item| format!("- {}", clean(item).replace('\n', "\n  "))).collect::<Vec<_>>().join("\n")
    };
    let steps = plan.plan.steps.iter().map(|step| format!("{}: {}", step.title, step.intent)).collect();
    let criteria = plan.plan.criteria.iter().map(|criterion| criterion.text.clone()).collect();
    for (title, items) in [
        (shared.open_questions, plan.plan.questions.clone()),
        (shared.steps, steps),
        (shared.criteria, criteria),
        (shared.risks, plan.plan.risks.clone()),
    ] {
        if !items.is_empty() {
            let all: Vec<String> = items;
            text.foreign(&format!("{title}\n{}", list(all)), texts.cut);
        }
    }
}

fn failure(text: &mut Text, doc: &Value, lang: Lang) {
    let texts = words(lang);
    let error = error_of(doc);
    if let Some(step) = failed_step(doc) {
        text.0.push_str(&fill(texts.step_failed, &[("step", &line(word(step, "/id"), 80))]));
        text.0.push('\n');
    }
    text.paragraph(cause(lang, word(error, "/code")));
    // The first lines; what a command printed is behind the login.
    text.foreign(&clip(word(error, "/message"), 600), texts.cut);
    text.foreign(word(error, "/hint"), texts.cut);
}

fn result(text: &mut Text, doc: &Value, lang: Lang) {
    let texts = words(lang);
    let mut lines = Vec::new();
    let (branch, link, compare) = (word(doc, "/branch"), word(doc, "/links/branch"), word(doc, "/links/compare"));
    if !branch.is_empty() {
        lines.push(format!("{} {}", texts.branch, line(branch, 200)));
    }
    if !link.is_empty() {
        lines.push(format!("  {}", line(link, 500)));
    }
    if !compare.is_empty() && compare != link {
        lines.push(texts.compare.to_owned());
        lines.push(format!("  {}", line(compare, 500)));
    }
    let steps = doc["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(stat) = steps.iter().rev().map(|step| &step["output"]["diffstat"]).find(|stat| stat.is_object()) {
        let value = |key: &str| number(stat, key).to_string();
        let (plus, minus, n) = (value("/insertions"), value("/deletions"), value("/files"));
        lines.push(fill(texts.changes, &[("plus", &plus), ("minus", &minus), ("n", &n)]));
    }
    for step in steps.iter().filter(|step| step["output"]["passed"].is_u64()) {
        let value = |key: &str| number(&step["output"], key).to_string();
        let (passed, failed, skipped) = (value("/passed"), value("/failed"), value("/skipped"));
        lines.push(fill(texts.tests, &[("passed", &passed), ("failed", &failed), ("skipped", &skipped)]));
    }
    if number(doc, "/usage/calls") > 0 {
        let usd = doc.pointer("/usage/usd").and_then(Value::as_f64).unwrap_or(0.0);
        lines.push(fill(texts.cost, &[("usd", &dollars(usd))]));
    }
    text.paragraph(&lines.join("\n"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::event::{Ending, Event, EventBody};
    use crate::core::id::RunId;
    use crate::core::time::Timestamp;

    fn letter(doc: &Value, ring: Ring, reminder: u32, lang: Lang, masker: &Masker) -> Letter {
        let run: RunId = "0193b2c0-7e1f-7abc-8def-000000000001".parse().unwrap();
        let body = EventBody::Finished { status: Ending::Completed, error: None };
        let event = Event { seq: 7, at: Timestamp(1_764_000_000_000), body };
        let telling = Telling {
            run,
            event: &event,
            ring,
            message: None,
            document: doc,
            to: "a@b",
            repeat: reminder > 1,
            reminder,
        };
        write(&telling, Some("https://devo.example.org/"), lang, masker)
    }

    #[test]
    fn a_result_brings_its_links_and_numbers() {
        let doc = json!({"task": "Validar\nstock", "repo": "shop", "branch": "task/x", "usage": {"usd": 0.5, "calls": 3},
            "links": {"branch": "https://forge/b", "compare": "https://forge/c"},
            "steps": [{"output": {"passed": 5, "failed": 0, "skipped": 1}},
                      {"output": {"diffstat": {"insertions": 34, "deletions": 2, "files": 2}}}]});
        let said = letter(&doc, Ring::Done, 0, Lang::Es, &Masker::default());
        assert_eq!(said.subject, "[devo] Terminada: Validar (shop, 00000001)");
        assert_eq!(said.id, "0193b2c0-7e1f-7abc-8def-000000000001.7");
        for wanted in [
            "Rama: task/x\n  https://forge/b",
            "https://forge/c",
            "+34 −2 en 2 archivos",
            "5 bien",
            "$0.50",
            "https://devo.example.org/runs/0193b2c0-7e1f-7abc-8def-000000000001",
        ] {
            assert!(said.text.contains(wanted), "{wanted}: {}", said.text);
        }
    }

    #[test]
    fn hostile_text_stays_in_its_place_and_secrets_stay_hidden() {
        let masker = Masker::default();
        masker.add(&"hunter2-hunter2".to_owned().into());
        let doc = json!({"task": "x\u{202e}\r\nBcc: eve@evil.example\r\n\r\nhunter2-hunter2",
            "waiting_for": {"kind": "answer", "question": "\u{1b}[2Jhunter2-hunter2?"}});
        let said = letter(&doc, Ring::Question, 2, Lang::En, &masker);
        assert!(!said.subject.contains(['\r', '\n', '\u{202e}']) && !said.subject.contains("Bcc"), "{said:?}");
        assert!(said.subject.starts_with("[devo] Reminder · Question: x"), "{said:?}");
        assert!(!said.text.contains("hunter2-") && !said.text.contains('\u{1b}'), "{said:?}");
        assert!(
            said.text.contains("It waits since 2025-11-24 16:00 UTC.") && said.text.contains("is sent again"),
            "{said:?}"
        );
        assert_ne!(said.id, letter(&doc, Ring::Question, 0, Lang::En, &masker).id, "a reminder is a mail of its own");
    }

    #[test]
    fn without_pages_the_commands_are_named_and_long_texts_are_cut() {
        let doc = json!({"task": "t", "error": {"step": "test"}, "steps": [{"id": "lint", "state": "failed", "error": {"message": "handled"}}, {"id": "test", "state": "failed", "error": {"message": "m ".repeat(9000), "hint": "mend it"}}]});
        let run: RunId = "0193b2c0-7e1f-7abc-8def-000000000001".parse().unwrap();
        let event = Event { seq: 7, at: Timestamp(0), body: EventBody::Resumed {} };
        let telling = Telling {
            run,
            event: &event,
            ring: Ring::Failed,
            message: None,
            document: &doc,
            to: "a@b",
            repeat: false,
            reminder: 0,
        };
        let said = write(&telling, None, Lang::En, &Masker::default());
        assert!(said.text.contains("Step test failed:\nm m") && said.text.contains("mend it"), "{}", said.text);
        assert!(said.text.contains("devo retry 00000001") && said.text.len() < 2000, "{}", said.text);
    }
}
