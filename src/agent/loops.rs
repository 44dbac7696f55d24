//! The rules that notice a loop that leads nowhere: one nudge, then the end. A pure state machine that is stored between turns.
//!
//! Results are compared without what differs between two runs of the same command (times, ids), else no loop would show.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::digest::steady;
use super::tools::{LIMIT_REACHED, PROTECTED, canonical};
use super::truncate::cut_line;
use crate::core::plan::sha256;
use crate::providers::{ToolCall, ToolResult};

/// Same call with the same result in a row: nudge, stop.
const SAME: (u32, u32) = (3, 5);
/// Rounds of a cycle of two to five calls: nudge, stop.
const CYCLE: (usize, usize) = (2, 4);
/// Failed `replace` of one file in a row: nudges, stop.
const FAILED_EDITS: (u32, u32, u32) = (2, 3, 5);
/// Returns to a tree with the same failing tests: nudge, stop.
const RETURNS: (u32, u32) = (2, 4);
/// Turns without anything new: nudge, stop.
const IDLE: (u32, u32) = (8, 12);
/// Tries to change protected files without an honest edit between them: nudge, stop.
const GUARDED: (u32, u32) = (3, 5);
/// Bad calls in a row before the end; each was answered with its fault.
const BAD: u32 = 5;
/// Calls that are remembered: four rounds of the longest cycle, and some.
const HISTORY: usize = 32;
/// The longest cycle that is looked for.
const LONGEST_CYCLE: usize = 5;
/// States and calls that are remembered; a step has far fewer.
const KNOWN: usize = 3_000;
/// Files whose edits failed that are remembered.
const KNOWN_EDITS: usize = 100;

/// What one reply's calls did.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts<'a> {
    /// The calls.
    pub calls: &'a [ToolCall],
    /// Their results, in the same order, before they are cut to size together.
    pub results: &'a [ToolResult],
    /// The workspace after them.
    pub tree: &'a str,
    /// Failing tests, where checks were run.
    pub failing: Option<&'a [String]>,
    /// Calls that were not calls of a tool (unknown name, wrong arguments).
    pub bad: u32,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Go,
    /// A note for the model.
    Nudge(String),
    /// The end.
    Stop {
        /// Which end.
        code: StopCode,
        /// For a person; a lower-case fragment.
        reason: String,
    },
}

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCode {
    /// It went in circles.
    Stuck,
    /// It kept trying to change protected files.
    Guard,
}

impl StopCode {
    /// The failure's code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stuck => "stuck",
            Self::Guard => "guard",
        }
    }
}

/// What is remembered between replies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    history: Vec<String>,
    same: u32,
    same_nudged: bool,
    cycle_nudged: bool,
    failed_edits: BTreeMap<String, u32>,
    guarded: u32,
    failing: Option<String>,
    visits: BTreeMap<String, u32>,
    last_state: Option<String>,
    known: BTreeSet<String>,
    idle: u32,
    bad: u32,
}

impl Watch {
    /// Takes note of one reply. The strictest answer wins; a stop for repeating follows a nudge that could be read.
    pub fn observe(&mut self, facts: &Facts<'_>) -> Verdict {
        let mut verdict = self.bad_calls(facts.bad);
        let could_read = (self.same_nudged, self.cycle_nudged);
        let mut news = false;
        for (call, result) in facts.calls.iter().zip(facts.results) {
            if result.text == LIMIT_REACHED {
                continue;
            }
            let name = canonical(&call.name);
            let signature = signature(name, &call.arguments);
            strictest(&mut verdict, self.repeats(name, &signature, result, could_read));
            strictest(&mut verdict, self.outcome(name, call, result));
            // The news of a test run is what fails.
            if !result.is_error && name != "run_tests" {
                news |= self.is_new(&signature);
            }
        }
        strictest(&mut verdict, self.returns(facts, &mut news));
        strictest(&mut verdict, self.idle(news));
        verdict
    }

    fn bad_calls(&mut self, bad: u32) -> Verdict {
        self.bad = if bad > 0 { self.bad.saturating_add(bad) } else { 0 };
        match self.bad {
            n if n >= BAD => stop(StopCode::Stuck, format!("{n} calls in a row that no tool can take")),
            _ => Verdict::Go,
        }
    }

    fn repeats(&mut self, name: &str, signature: &str, result: &ToolResult, could_read: (bool, bool)) -> Verdict {
        let entry = short(&format!("{signature} {}", steady_result(&result.text)));
        if self.history.last() == Some(&entry) {
            self.same += 1;
        } else {
            (self.same, self.same_nudged) = (1, false);
        }
        self.history.push(entry);
        if self.history.len() > HISTORY {
            self.history.remove(0);
        }
        if self.same >= SAME.1 && self.same_nudged && could_read.0 {
            return stop(
                StopCode::Stuck,
                format!("the same call of `{name}` gave the same result {} times in a row", self.same),
            );
        }
        if self.same >= SAME.0 && !self.same_nudged {
            self.same_nudged = true;
            return Verdict::Nudge(format!(
                "You called `{name}` the same way {} times with the same result. It will not change: do something else.",
                self.same
            ));
        }
        let rounds = cycle_rounds(&self.history);
        if rounds < CYCLE.0 {
            self.cycle_nudged = false;
        } else if rounds >= CYCLE.1 && self.cycle_nudged && could_read.1 {
            return stop(
                StopCode::Stuck,
                format!("the same few calls with the same results went round {rounds} times"),
            );
        } else if !self.cycle_nudged {
            self.cycle_nudged = true;
            return Verdict::Nudge(
                "You repeat the same few calls with the same results. Take another way, or call `finish` with `blocked` \
                 and say why."
                    .to_owned(),
            );
        }
        Verdict::Go
    }

    fn outcome(&mut self, name: &str, call: &ToolCall, result: &ToolResult) -> Verdict {
        if !matches!(name, "replace" | "write_file") {
            return Verdict::Go;
        }
        // Remembered between turns: a path of a model's may have any length.
        let path = &cut_line(call.arguments["file_path"].as_str().unwrap_or_default(), 200);
        if !result.is_error {
            self.failed_edits.remove(path);
            self.guarded = 0;
            return Verdict::Go;
        }
        if result.text.contains(PROTECTED) {
            self.guarded += 1;
            return match self.guarded {
                n if n >= GUARDED.1 => stop(
                    StopCode::Guard,
                    format!("{n} tries to change protected files without an honest edit between them"),
                ),
                n if n == GUARDED.0 => Verdict::Nudge(
                    "Protected files stay as they are. Change the code instead; if a criterion contradicts them, call \
                     `finish` with `criteria_conflict`."
                        .to_owned(),
                ),
                _ => Verdict::Go,
            };
        }
        if name != "replace" || self.failed_edits.len() >= KNOWN_EDITS {
            return Verdict::Go;
        }
        let count = self.failed_edits.entry(path.clone()).or_default();
        *count += 1;
        match *count {
            n if n >= FAILED_EDITS.2 => {
                stop(StopCode::Stuck, format!("{n} edits of {path} in a row did not find their text"))
            }
            n if n == FAILED_EDITS.1 => Verdict::Nudge(format!(
                "Three edits of {path} failed. Read the whole file and write it anew with `write_file`."
            )),
            n if n == FAILED_EDITS.0 => Verdict::Nudge(format!(
                "Read the lines of {path} again and copy `old_string` from there: its text is not what you think."
            )),
            _ => Verdict::Go,
        }
    }

    /// Returns to files and failures that were left before.
    fn returns(&mut self, facts: &Facts<'_>, news: &mut bool) -> Verdict {
        if let Some(failing) = facts.failing {
            let failing = short(&failing.join("\n"));
            *news |= self.is_new(&format!("failing {failing}"));
            self.failing = Some(failing);
        }
        *news |= self.is_new(&format!("tree {}", facts.tree));
        let state = format!("{} {}", facts.tree, self.failing.as_deref().unwrap_or_default());
        let full = self.visits.len() >= KNOWN && !self.visits.contains_key(&state);
        if self.last_state.as_ref() == Some(&state) || full {
            return Verdict::Go;
        }
        self.last_state = Some(state.clone());
        let visits = self.visits.entry(state).or_default();
        *visits += 1;
        match *visits - 1 {
            n if n >= RETURNS.1 => {
                stop(StopCode::Stuck, format!("the files came back {n} times to a state that fails in the same way"))
            }
            n if n == RETURNS.0 => Verdict::Nudge(
                "You are back at code that failed the same way before. Find out why it fails before you edit."
                    .to_owned(),
            ),
            _ => Verdict::Go,
        }
    }

    fn idle(&mut self, news: bool) -> Verdict {
        self.idle = if news { 0 } else { self.idle + 1 };
        match self.idle {
            n if n >= IDLE.1 => stop(StopCode::Stuck, format!("{n} turns in a row brought nothing new")),
            n if n == IDLE.0 => {
                Verdict::Nudge("Nothing new happened for eight turns. Edit, test, or call `finish`.".to_owned())
            }
            _ => Verdict::Go,
        }
    }

    /// Remembers a key; whether it is new. A full memory calls everything new: it must not stop honest work.
    fn is_new(&mut self, key: &str) -> bool {
        if self.known.contains(key) {
            return false;
        }
        if self.known.len() < KNOWN {
            self.known.insert(key.to_owned());
        }
        true
    }
}

/// How often the newest calls repeat as a cycle of two to five that are not all the same; 0 or 1 where they do not.
fn cycle_rounds(history: &[String]) -> usize {
    let rounds = (2..=LONGEST_CYCLE).map(|length| {
        let Some(start) = history.len().checked_sub(length) else { return 0 };
        let cycle = &history[start..];
        if cycle.iter().all(|entry| *entry == cycle[0]) {
            return 0;
        }
        history.rchunks_exact(length).take_while(|round| *round == cycle).count()
    });
    rounds.max().unwrap_or(0)
}

fn strictest(verdict: &mut Verdict, other: Verdict) {
    let weight = |verdict: &Verdict| match verdict {
        Verdict::Go => 0,
        Verdict::Nudge(_) => 1,
        Verdict::Stop { .. } => 2,
    };
    if weight(&other) > weight(verdict) {
        *verdict = other;
    }
}

fn stop(code: StopCode, reason: String) -> Verdict {
    Verdict::Stop { code, reason }
}

/// A tool and its arguments, the same for any order of keys and without `instruction`, which says nothing.
fn signature(tool: &str, arguments: &Value) -> String {
    fn canonical(value: &Value, out: &mut String) {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().filter(|key| *key != "instruction").collect();
                keys.sort_unstable();
                out.push('{');
                for key in keys {
                    out.push_str(&Value::from(key.as_str()).to_string());
                    out.push(':');
                    canonical(&map[key], out);
                    out.push(',');
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for item in items {
                    canonical(item, out);
                    out.push(',');
                }
                out.push(']');
            }
            plain => out.push_str(&plain.to_string()),
        }
    }
    let mut text = format!("{tool} ");
    canonical(arguments, &mut text);
    short(&text)
}

/// A result without times, ids and the marks of cuts, which name an output's number.
fn steady_result(text: &str) -> String {
    let text = steady(text);
    text.lines().filter(|line| !line.starts_with("[... ")).collect::<Vec<_>>().join("\n")
}

fn short(text: &str) -> String {
    sha256(text.as_bytes())["sha256:".len()..][..16].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One call of a turn: tool, arguments, result, whether it is an error.
    type Call<'a> = (&'a str, Value, &'a str, bool);

    #[derive(Default)]
    struct Run {
        watch: Watch,
        turns: u32,
        out: String,
        last: Option<Verdict>,
    }

    impl Run {
        /// A turn whose tree is new, so that only the rule under test speaks.
        fn turn(&mut self, calls: &[Call<'_>]) {
            self.turns += 1;
            let tree = format!("t{}", self.turns);
            self.on(calls, &tree, None, 0);
        }

        fn on(&mut self, calls: &[Call<'_>], tree: &str, failing: Option<&[String]>, bad: u32) {
            // Stored and read back, as between durable turns.
            let stored = serde_json::to_string(&self.watch).expect("plain data");
            self.watch = serde_json::from_str(&stored).expect("its own form");
            let mut given = Vec::new();
            let mut results = Vec::new();
            for (name, arguments, text, is_error) in calls {
                let id = given.len().to_string();
                given.push(ToolCall {
                    id: id.clone(),
                    name: (*name).into(),
                    arguments: arguments.clone(),
                    invalid: None,
                });
                results.push(ToolResult {
                    call_id: id,
                    name: (*name).into(),
                    text: (*text).into(),
                    is_error: *is_error,
                });
            }
            let verdict = self.watch.observe(&Facts { calls: &given, results: &results, tree, failing, bad });
            self.out.push(match verdict {
                Verdict::Go => '.',
                Verdict::Nudge(_) => 'n',
                Verdict::Stop { .. } => 'S',
            });
            self.last = Some(verdict);
        }
    }

    /// `.` go, `n` nudge, `S` stop, by turn.
    fn turns<'a>(turns: impl IntoIterator<Item = Call<'a>>) -> String {
        let mut run = Run::default();
        turns.into_iter().for_each(|call| run.turn(&[call]));
        run.out
    }

    #[test]
    fn the_same_call_and_result() {
        let same = || ("run_shell_command", json!({"command": "x"}), "exit 1 after 0.31 s\nno", false);
        assert_eq!(turns((0..5).map(|_| same())), "..n.S");
        let later = ("bash", json!({"command": "x"}), "exit 1 after 2.07 s\nno", false);
        assert_eq!(turns([same(), same(), later]), "..n", "neither a time nor another name of the tool hides it");
        let texts = ["1", "2", "3", "4", "5", "6"];
        assert_eq!(turns(texts.map(|text| ("glob", json!({}), text, false))), "......", "results differ");
        assert_eq!(turns((0..6).map(|i| ("glob", json!({ "pattern": i }), "r", false))), "......", "batch work");
        // Five at once: nobody could have read a nudge.
        let mut run = Run::default();
        run.turn(&[same(), same(), same(), same(), same()]);
        run.turn(&[same()]);
        assert_eq!(run.out, "nS");
    }

    #[test]
    fn cycles_and_a_test_after_each_edit() {
        assert_eq!(turns((0..12).map(|i| ("glob", json!({"pattern": i % 3}), "r", false))), ".....n.....S");
        assert_eq!(turns((0..8).map(|i| ("glob", json!({"pattern": i % 2}), "r", false))), "...n...S");
        let work = (0..20).map(|i| match i % 2 {
            0 => ("replace", json!({"file_path": "a", "old_string": i}), "ok", false),
            _ => ("run_tests", json!({}), "RED", false),
        });
        assert_eq!(turns(work), ".".repeat(20));
    }

    #[test]
    fn failed_edits_bad_calls_and_the_guard() {
        let failed = |i: u32, path: &str| ("replace", json!({"file_path": path, "old_string": i}), "not there", true);
        assert_eq!(turns((0..5).map(|i| failed(i, "a.py"))), ".nn.S");
        assert_eq!(turns((0..5).map(|i| failed(i, &format!("{i}.py")))), ".....");
        let good = |i: u32| ("replace", json!({"file_path": "a.py", "old_string": i}), "ok", false);
        assert_eq!(turns([failed(1, "a.py"), failed(2, "a.py"), good(3), failed(4, "a.py")]), ".n..");
        // Turns between two files do not hide that both fail.
        assert!(turns((0..10).map(|i| failed(i, ["a.py", "b.py"][i as usize % 2]))).ends_with('S'));

        let text = format!("tests/a.rs {PROTECTED} it is a test");
        let guarded = |i: u32| ("write_file", json!({"file_path": "tests/a.rs", "content": i}), text.as_str(), true);
        let mut run = Run::default();
        (0..5).for_each(|i| run.turn(&[guarded(i)]));
        assert_eq!(run.out, "..n.S");
        assert!(matches!(run.last, Some(Verdict::Stop { code: StopCode::Guard, .. })));
        assert!(!turns((0..12).map(|i| if i % 3 == 2 { good(i) } else { guarded(i) })).contains('S'));

        let mut run = Run::default();
        (0..5).for_each(|i| run.on(&[("no_such", json!({ "x": i }), "unknown", true)], &format!("t{i}"), None, 1));
        assert_eq!(run.out, "....S");
    }

    #[test]
    fn states_and_idleness() {
        let fails = ["f".to_owned()];
        let mut run = Run::default();
        // a b a b a …: the returns to `a` are turns 3, 5, 7, 9.
        (0..9)
            .for_each(|i| run.on(&[("glob", json!({ "pattern": i }), "r", false)], ["a", "b"][i % 2], Some(&fails), 0));
        assert_eq!(run.out, "....nn..S");
        let mut run = Run::default();
        for i in 0..9 {
            let fails = [format!("f{i}")];
            run.on(&[("glob", json!({ "pattern": i }), "r", false)], ["a", "b"][i % 2], Some(&fails), 0);
        }
        assert_eq!(run.out, ".........", "other failures are news");
        let mut run = Run::default();
        (0..30).for_each(|i| run.on(&[("read_file", json!({"start_line": i}), "r", false)], "a", None, 0));
        assert_eq!(run.out, ".".repeat(30), "reading something new is no return and not idle");
        let mut run = Run::default();
        let texts: Vec<String> = (0..13).map(|i| format!("red {i}x")).collect();
        texts.iter().for_each(|text| run.on(&[("run_tests", json!({}), text, false)], "a", Some(&fails), 0));
        assert_eq!(run.out, "........n...S");
    }

    #[test]
    fn what_a_limit_refused_is_nobodys_loop_and_memory_has_a_size() {
        let refused = || ("replace", json!({"file_path": "a.py", "old_string": "x"}), LIMIT_REACHED, true);
        assert_eq!(turns((0..6).map(|_| refused())), "......");
        let mut run = Run::default();
        for i in 0..300 {
            let path = format!("{i}{}", "p".repeat(10_000));
            run.turn(&[("replace", json!({"file_path": path, "old_string": i}), "not there", true)]);
        }
        let stored = serde_json::to_string(&run.watch).expect("plain data").len();
        assert!(stored < 100_000, "{stored}");
    }

    #[test]
    fn signatures() {
        let a = signature("replace", &json!({"a": 1, "b": [{"x": 1, "y": 2}], "instruction": "why"}));
        assert_eq!(a, signature("replace", &json!({"b": [{"y": 2, "x": 1}], "a": 1})));
        assert_ne!(a, signature("replace", &json!({"a": 1, "b": [{"x": 2, "y": 2}]})));
        assert_ne!(signature("a", &json!({"x": "1"})), signature("a", &json!({"x": 1})));
    }
}
