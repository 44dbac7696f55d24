//! A test run in a few lines: what passed, what failed and where, and what changed since the last run.
//!
//! Equal failures give equal bytes: durations, thread and process ids, addresses and temporary paths are taken out.
//! Pure; it does not know who ran the command.

mod formats;
mod xml;

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::truncate::{DIGEST_BYTES, cut_line, cut_middle};

/// Failing tests named in a digest.
const NAMED: usize = 10;
/// Failing tests shown with their message.
const DETAILED: usize = 3;
/// Bytes of one message.
const MESSAGE: usize = 600;
/// Failing tests kept in a report; more are counted only.
const KEPT: usize = 2_000;
/// Characters of a test's id.
const ID: usize = 200;

/// What a test command said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// `cargo test`, `pytest`, …; several joined by ` + `; empty where nothing was recognised.
    pub framework: String,
    /// Tests that passed; 0 also where the framework does not say.
    pub passed: u32,
    /// Tests that failed, errors of collection and compilation included.
    pub failed: u32,
    /// Tests that were skipped, ignored or expected to fail.
    pub skipped: u32,
    /// The failures, by id.
    pub failing: Vec<Failing>,
    /// Whether the output was understood.
    pub parsed: bool,
    /// The command's exit status; none where it was killed or ran out of time.
    pub exit: Option<i32>,
}

/// One failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// The test's id, as the framework writes it.
    pub id: String,
    /// Why, without what varies from run to run; at most 600 bytes.
    pub message: String,
    /// `file:line`, where known.
    pub location: Option<String>,
}

/// How far a report can be trusted, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Exit 0, tests were recognised and none failed.
    Green,
    /// Exit 0, but no test was recognised.
    GreenWeak,
    /// Failures were recognised, whatever the exit status.
    Red,
    /// The command failed without a recognised failure.
    RedWeak,
}

impl Verdict {
    /// Whether it counts as passed.
    pub fn is_green(self) -> bool {
        matches!(self, Self::Green | Self::GreenWeak)
    }
}

impl Report {
    /// Reads a command's cleaned output. `root` is the workspace's path inside the sandbox; it is cut from paths.
    pub fn read(output: &str, exit: Option<i32>, root: &str) -> Self {
        let mut report = Self { exit, ..Self::default() };
        let output = without_root(output, root);
        for part in formats::all(&output) {
            report.add(part);
        }
        report
    }

    fn add(&mut self, part: Report) {
        if !self.framework.is_empty() {
            self.framework.push_str(" + ");
        }
        self.framework.push_str(&part.framework);
        self.passed = self.passed.saturating_add(part.passed);
        self.failed =
            self.failed.saturating_add(part.failed.max(u32::try_from(part.failing.len()).unwrap_or(u32::MAX)));
        self.skipped = self.skipped.saturating_add(part.skipped);
        self.parsed = true;
        let mut known: HashSet<(String, String)> =
            self.failing.iter().map(|failing| (failing.id.clone(), failing.message.clone())).collect();
        for failing in part.failing.into_iter().take(KEPT) {
            if self.failing.len() >= KEPT {
                break;
            }
            let failing = Failing {
                id: cut_line(&steady(&failing.id), ID),
                message: shorten(&failing.message),
                location: failing.location.map(|location| cut_line(&steady(&location), ID)),
            };
            if known.insert((failing.id.clone(), failing.message.clone())) {
                self.failing.push(failing);
            }
        }
        // Tests run in parallel end in any order.
        self.failing.sort_by(|a, b| a.id.cmp(&b.id).then_with(|| a.message.cmp(&b.message)));
    }

    /// What it says.
    pub fn verdict(&self) -> Verdict {
        match (self.exit, self.failed > 0 || !self.failing.is_empty()) {
            (_, true) => Verdict::Red,
            (Some(0), false) if self.parsed && (self.passed > 0 || self.skipped > 0) => Verdict::Green,
            (Some(0), false) => Verdict::GreenWeak,
            _ => Verdict::RedWeak,
        }
    }

    /// What the next digest compares with, at most so many bytes: what failed by name, not why.
    pub fn outline(&self, bytes: usize) -> Self {
        let mut room = bytes;
        let names = self.failing.iter().take_while(|failing| {
            // The fields' names are kept as well.
            let size = failing.id.len() * 2 + 50;
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        });
        let failing =
            names.map(|failing| Failing { id: failing.id.clone(), message: String::new(), location: None }).collect();
        Self { failing, ..self.clone() }
    }

    fn ids(&self) -> BTreeSet<&str> {
        self.failing.iter().map(|failing| failing.id.as_str()).collect()
    }
}

/// The digest that the model reads, at most 6 KB. `raw` is the cleaned output, shown in part where nothing was understood.
pub fn digest(report: &Report, previous: Option<&Report>, raw: &str) -> String {
    let mut text = headline(report);
    if let Some(previous) = previous.filter(|previous| previous.parsed || report.parsed) {
        changes(report, previous, &mut text);
    }
    let known = previous.map(Report::ids).unwrap_or_default();
    // The new failures are the ones to explain first.
    let mut order: Vec<&Failing> = report.failing.iter().collect();
    order.sort_by_key(|failing| previous.is_some() && known.contains(failing.id.as_str()));
    for (index, failing) in order.iter().take(NAMED).enumerate() {
        let place = failing.location.as_deref().map(|place| format!(" ({place})")).unwrap_or_default();
        let _ = writeln!(text, "{}. {}{place}", index + 1, failing.id);
        if index < DETAILED {
            failing.message.lines().for_each(|line| {
                let _ = writeln!(text, "   {line}");
            });
        }
    }
    if order.len() > NAMED {
        let _ = writeln!(text, "[{} more failing tests]", order.len() - NAMED);
    }
    if report.failing.is_empty() && report.verdict() != Verdict::Green {
        let room = DIGEST_BYTES.saturating_sub(text.len() + 40);
        let _ = writeln!(text, "output:\n{}", cut_middle(steady(raw).trim_end(), room.min(4_000), 20, None));
    }
    cut_middle(&text, DIGEST_BYTES, 80, None)
}

/// A message as it is kept: cut before the costly part, so that a huge one costs no more than a long one.
fn shorten(message: &str) -> String {
    let message = steady(&cut_middle(message.trim_end(), MESSAGE * 4, 70, None));
    cut_middle(message.trim_end(), MESSAGE, 70, None).trim_end().to_owned()
}

fn headline(report: &Report) -> String {
    let exit = report.exit.map_or("killed or out of time".to_owned(), |exit| format!("exit {exit}"));
    let counts = format!("{} failed, {} passed, {} skipped", report.failed, report.passed, report.skipped);
    let framework = if report.framework.is_empty() { "unknown framework" } else { &report.framework };
    match report.verdict() {
        Verdict::Green => format!("GREEN: {counts} ({framework}; {exit})\n"),
        Verdict::GreenWeak if report.parsed => format!("GREEN, but no test ran ({framework}; {exit})\n"),
        Verdict::GreenWeak => format!("GREEN by exit status only: no test report was recognised ({exit})\n"),
        Verdict::Red if report.exit == Some(0) => {
            format!("RED: {counts} ({framework}), although the command ended with exit 0\n")
        }
        Verdict::Red => format!("RED: {counts} ({framework}; {exit})\n"),
        Verdict::RedWeak if report.parsed => {
            format!("RED: the command failed ({exit}) although no test was seen to fail; {counts} ({framework})\n")
        }
        Verdict::RedWeak => format!("RED by exit status only: no test report was recognised ({exit})\n"),
    }
}

fn changes(report: &Report, previous: &Report, text: &mut String) {
    let (now, before) = (report.ids(), previous.ids());
    let groups = [
        ("fixed", before.difference(&now).copied().collect::<Vec<_>>()),
        ("newly failing", now.difference(&before).copied().collect()),
        ("still failing", now.intersection(&before).copied().collect()),
    ];
    if groups.iter().all(|(_, ids)| ids.is_empty()) {
        return;
    }
    let counts: Vec<String> = groups.iter().map(|(name, ids)| format!("{} {name}", ids.len())).collect();
    let _ = writeln!(text, "since the last run: {}", counts.join(", "));
    // What still fails is listed below anyhow; what is fixed is not.
    for (name, ids) in groups.iter().take(2).filter(|(_, ids)| !ids.is_empty()) {
        let shown: Vec<String> = ids.iter().take(5).map(|id| cut_line(id, 100)).collect();
        let more = if ids.len() > 5 { ", …" } else { "" };
        let _ = writeln!(text, "{name}: {}{more}", shown.join(", "));
    }
}

/// The text without what differs between two runs of the same failure.
pub fn steady(text: &str) -> String {
    static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let rule = |(pattern, with)| (Regex::new(pattern).expect("a fixed pattern"), with);
        [
            (r"(thread '[^'\n]*') \(\d+\)", "$1"),
            (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?", "<time>"),
            (r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b", "<uuid>"),
            (r"\b0x[0-9a-fA-F]{6,16}\b", "<address>"),
            (r"(?:/private)?/(?:var/tmp|var/folders|tmp|dev/shm)/[^\s'\x22`:,;()<>\[\]]+", "<tmp>"),
            (r"\b(127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1\]):\d{4,5}\b", "$1:<port>"),
            (r"(?i)\b(pid|process|thread)([ =:#]+)\d{2,}\b", "$1$2<id>"),
            (r"(?i)\b(in|took|after|finished in|duration(?:_ms)?:?|time:?|elapsed:?)\s+\d+(?:\.\d+)?\s*(?:ms|µs|us|ns|s|secs?|seconds?|m)?\b", "$1 <time>"),
            (r"[(\[]\s*(?:\d+m )?\d+(?:\.\d+)?\s*(?:ms|µs|us|ns|s|secs?|seconds?)\s*[)\]]", "(<time>)"),
            (r"\b\d+(?:\.\d+)?\s?(?:ms|µs|ns)\b", "<time>"),
        ]
        .into_iter()
        .map(rule)
        .collect()
    });
    let mut out = text.to_owned();
    for (rule, with) in RULES.iter() {
        if let std::borrow::Cow::Owned(changed) = rule.replace_all(&out, *with) {
            out = changed;
        }
    }
    out
}

fn without_root(text: &str, root: &str) -> String {
    let root = root.trim_end_matches('/');
    if root.len() < 2 { text.to_owned() } else { text.replace(&format!("{root}/"), "") }
}

#[cfg(test)]
mod tests;
