//! When an agent goes in circles or has spent enough: one nudge, then a stop. A pure state machine, stored between turns.
//!
//! It sees facts about turns (hashes, counts), never texts, files or a clock.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::digest::steady;
use crate::core::budget::Usd;
use crate::core::plan::sha256;

/// Calls that are remembered: four rounds of the longest cycle, and some.
const REMEMBERED: usize = 32;
/// States and ranges that are remembered; a step has far fewer turns.
const SEEN: usize = 5_000;
/// The longest cycle that is looked for.
const LONGEST_CYCLE: usize = 5;

/// What happened in one turn of the model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TurnFacts {
    /// The calls, in order, with what came of them.
    pub calls: Vec<CallFacts>,
    /// The workspace's tree id after the turn; none where it was not taken.
    pub tree: Option<String>,
    /// [`super::digest::Report::failing_hash`] of the latest test run, also of an earlier turn.
    pub failing: Option<String>,
    /// The provider gave no usable reply, after its retries; everything else is empty then.
    pub no_reply: bool,
}

/// One call and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallFacts {
    /// The tool's proper name, aliases resolved.
    pub tool: String,
    /// A hash of the tool and its arguments, see [`signature`].
    pub signature: String,
    /// A hash of the result, see [`result_hash`].
    pub result: String,
    /// What came of it.
    pub what: CallOutcome,
}

/// What came of a call, as far as the watch cares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CallOutcome {
    /// Something was read; the key names file and range (or the search).
    Read {
        /// `path:from-to`, or the search's signature.
        range: String,
    },
    /// A file was changed.
    Edited {
        /// Which.
        path: String,
    },
    /// A replacement found no place, or more than one.
    EditFailed {
        /// Which file.
        path: String,
    },
    /// The guard refused it, or put back what it did.
    Guarded,
    /// An unknown tool, or arguments that do not fit.
    Bad,
    /// Anything else: a command, a test run, a refusal.
    Other,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It does.
    Go,
    /// It does, with this note to the model.
    Nudge {
        /// For the model.
        text: String,
    },
    /// It ends.
    Stop {
        /// Which end.
        code: StopCode,
        /// For a person.
        reason: String,
    },
}

/// How a loop ends that is not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCode {
    /// It went in circles.
    Stuck,
    /// The model answered without calling a tool.
    NoCall,
    /// It kept trying to change protected files.
    Guard,
    /// The provider gave no usable reply.
    Provider,
}

/// The memory of the watch. Store it with the turn.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    recent: Vec<(String, String)>,
    repeats: u32,
    repeat_nudged: bool,
    cycle_nudged: bool,
    failed_edits: BTreeMap<String, u32>,
    visits: BTreeMap<String, u32>,
    last_state: Option<String>,
    trees: BTreeSet<String>,
    failing: BTreeSet<String>,
    ranges: BTreeSet<String>,
    idle: u32,
    no_call: u32,
    bad: u32,
    guarded: u32,
    no_reply: u32,
}

impl Watch {
    /// Takes in a turn and says how to go on. The strictest answer wins; a stop for circling follows a nudge.
    pub fn observe(&mut self, turn: &TurnFacts) -> Verdict {
        if turn.no_reply {
            self.no_reply += 1;
            let reason = format!("the provider gave no usable reply in {} turns in a row", self.no_reply);
            return if self.no_reply >= 3 { stop(StopCode::Provider, reason) } else { Verdict::Go };
        }
        self.no_reply = 0;
        let mut verdict = Verdict::Go;
        if turn.calls.is_empty() {
            self.no_call += 1;
            if self.no_call >= 3 {
                return stop(StopCode::NoCall, "three replies in a row called no tool".to_owned());
            }
            strictest(
                &mut verdict,
                nudge(
                    "Nothing happens without a tool call. Go on with a tool, or call finish when the work is done or blocked.",
                ),
            );
        } else {
            self.no_call = 0;
        }
        // A nudge that this very turn earned has not been read yet.
        let nudged = (self.repeat_nudged, self.cycle_nudged);
        let mut news = false;
        for call in &turn.calls {
            strictest(&mut verdict, self.repeat(call, nudged));
            strictest(&mut verdict, self.outcome(call, &mut news));
        }
        strictest(&mut verdict, self.state(turn, &mut news));
        strictest(&mut verdict, self.idle(news));
        verdict
    }

    fn repeat(&mut self, call: &CallFacts, (repeat_read, cycle_read): (bool, bool)) -> Verdict {
        let item = (call.signature.clone(), call.result.clone());
        if self.recent.last() == Some(&item) {
            self.repeats += 1;
        } else {
            (self.repeats, self.repeat_nudged) = (1, false);
        }
        self.recent.push(item);
        if self.recent.len() > REMEMBERED {
            self.recent.remove(0);
        }
        if self.repeats >= 5 && repeat_read && self.repeat_nudged {
            return stop(
                StopCode::Stuck,
                format!("the same {} call gave the same result {} times in a row", call.tool, self.repeats),
            );
        }
        if self.repeats >= 3 && !self.repeat_nudged {
            self.repeat_nudged = true;
            return nudge(&format!(
                "You made the same {} call {} times with the same result. It will not change: do something else.",
                call.tool, self.repeats
            ));
        }
        let rounds = cycle_rounds(&self.recent);
        if rounds < 2 {
            self.cycle_nudged = false;
        } else if rounds >= 4 && cycle_read && self.cycle_nudged {
            return stop(
                StopCode::Stuck,
                format!("the same few calls with the same results went round {rounds} times"),
            );
        } else if !self.cycle_nudged {
            self.cycle_nudged = true;
            return nudge(
                "You are repeating the same few calls with the same results. Take another way, or call finish with blocked and say why.",
            );
        }
        Verdict::Go
    }

    fn outcome(&mut self, call: &CallFacts, news: &mut bool) -> Verdict {
        if call.what != CallOutcome::Bad {
            self.bad = 0;
        }
        match &call.what {
            CallOutcome::Read { range } => {
                *news |= remember(&mut self.ranges, range);
                Verdict::Go
            }
            CallOutcome::Edited { path } => {
                self.failed_edits.remove(path);
                self.guarded = 0;
                Verdict::Go
            }
            CallOutcome::EditFailed { path } => {
                let count = self.failed_edits.entry(path.clone()).or_default();
                *count += 1;
                match *count {
                    0 | 1 => Verdict::Go,
                    2 => nudge(&format!(
                        "The second replacement in {path} failed. Read the lines that you want to change and copy old_string from there, exactly."
                    )),
                    3 => nudge(&format!(
                        "Replacements in {path} keep failing. Read the whole file and write it anew with write_file."
                    )),
                    4 => Verdict::Go,
                    n => stop(StopCode::Stuck, format!("{n} replacements in a row failed in {path}")),
                }
            }
            CallOutcome::Guarded => {
                self.guarded += 1;
                match self.guarded {
                    3 => nudge(
                        "Protected files stay as they are. Change the code instead; if a criterion contradicts them, call finish with criteria_conflict.",
                    ),
                    n if n >= 5 => stop(
                        StopCode::Guard,
                        format!("{n} tries to change protected files without an honest change between them"),
                    ),
                    _ => Verdict::Go,
                }
            }
            CallOutcome::Bad => {
                self.bad += 1;
                match self.bad {
                    n if n >= 5 => stop(StopCode::Stuck, format!("{n} calls in a row were unknown or malformed")),
                    _ => nudge(
                        "That call was not valid. Use the tools as they are declared; the answer to the call names the fault.",
                    ),
                }
            }
            CallOutcome::Other => Verdict::Go,
        }
    }

    /// Returns to a state of files and failures that was left before.
    fn state(&mut self, turn: &TurnFacts, news: &mut bool) -> Verdict {
        if let Some(failing) = &turn.failing {
            *news |= remember(&mut self.failing, failing);
        }
        let Some(tree) = &turn.tree else { return Verdict::Go };
        *news |= remember(&mut self.trees, tree);
        let state = format!("{tree} {}", turn.failing.as_deref().unwrap_or(""));
        if self.last_state.as_ref() == Some(&state) {
            return Verdict::Go;
        }
        self.last_state = Some(state.clone());
        if self.visits.len() >= SEEN && !self.visits.contains_key(&state) {
            return Verdict::Go;
        }
        let visits = self.visits.entry(state).or_default();
        *visits += 1;
        match *visits - 1 {
            2 => nudge(
                "The files are back, for the second time, in a state that failed in the same way before. Take another way.",
            ),
            n if n >= 4 => {
                stop(StopCode::Stuck, format!("the files came back {n} times to a state that fails in the same way"))
            }
            _ => Verdict::Go,
        }
    }

    fn idle(&mut self, news: bool) -> Verdict {
        self.idle = if news { 0 } else { self.idle + 1 };
        match self.idle {
            8 => nudge(
                "Eight turns brought no change of files, no other test result and nothing new read. Make an edit, or call finish with blocked and say why.",
            ),
            n if n >= 12 => stop(
                StopCode::Stuck,
                format!("{n} turns without a change of files, another test result or anything new read"),
            ),
            _ => Verdict::Go,
        }
    }
}

/// How often the newest calls repeat as a cycle of two to five different ones; 0 or 1 where they do not.
fn cycle_rounds(recent: &[(String, String)]) -> usize {
    (2..=LONGEST_CYCLE)
        .map(|length| {
            let Some(start) = recent.len().checked_sub(length) else { return 0 };
            let cycle = &recent[start..];
            if cycle.iter().all(|item| *item == cycle[0]) {
                return 0;
            }
            recent.rchunks_exact(length).take_while(|round| *round == cycle).count()
        })
        .max()
        .unwrap_or(0)
}

/// Remembers a key; whether it is new. A full memory calls everything new: it must not stop honest work.
fn remember(seen: &mut BTreeSet<String>, key: &str) -> bool {
    if seen.contains(key) {
        return false;
    }
    if seen.len() < SEEN {
        seen.insert(key.to_owned());
    }
    true
}

fn strictest(verdict: &mut Verdict, other: Verdict) {
    let weight = |verdict: &Verdict| match verdict {
        Verdict::Go => 0,
        Verdict::Nudge { .. } => 1,
        Verdict::Stop { .. } => 2,
    };
    if weight(&other) > weight(verdict) {
        *verdict = other;
    }
}

fn nudge(text: &str) -> Verdict {
    Verdict::Nudge { text: text.to_owned() }
}

fn stop(code: StopCode, reason: String) -> Verdict {
    Verdict::Stop { code, reason }
}

/// A hash of a tool and its arguments, the same for any order of keys and without fields that say nothing (`instruction`).
pub fn signature(tool: &str, arguments: &Value) -> String {
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
    sha256(text.as_bytes())
}

/// A hash of a result without what differs between two runs of the same command (times, ids, output numbers).
pub fn result_hash(text: &str) -> String {
    let text = steady(text);
    let lines = text.lines().filter(|line| !line.starts_with("[... ") && !line.starts_with("output id: "));
    sha256(lines.collect::<Vec<_>>().join("\n").as_bytes())
}

/// What one step may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepLimits {
    /// Turns of the model.
    pub turns: u32,
    /// Tool calls.
    pub calls: u32,
    /// Runs of `run_tests`.
    pub test_runs: u32,
    /// Milliseconds of work.
    pub wall_ms: u64,
    /// Money.
    pub usd: Usd,
    /// Tokens in, cached or not.
    pub input_tokens: u64,
    /// Tokens out, thinking included.
    pub output_tokens: u64,
}

impl Default for StepLimits {
    fn default() -> Self {
        Self {
            turns: 40,
            calls: 120,
            test_runs: 15,
            wall_ms: 20 * 60 * 1000,
            usd: Usd::from_dollars(0.5),
            input_tokens: 2_000_000,
            output_tokens: 60_000,
        }
    }
}

/// What a step has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Spent {
    /// Turns of the model.
    pub turns: u32,
    /// Tool calls.
    pub calls: u32,
    /// Runs of `run_tests`.
    pub test_runs: u32,
    /// Milliseconds of work.
    pub wall_ms: u64,
    /// Money.
    pub usd: Usd,
    /// Tokens in.
    pub input_tokens: u64,
    /// Tokens out.
    pub output_tokens: u64,
    /// Whether the model was told that most is used.
    pub warned: bool,
    /// Whether the last turn, for finishing only, was given.
    pub grace_given: bool,
}

/// Whether there is room for another turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pace {
    /// There is.
    Go,
    /// There is; tell the model this, once.
    Warn(String),
    /// For one turn, in which only finishing counts; tell the model this.
    Grace(String),
    /// There is not.
    Stop(String),
}

impl StepLimits {
    /// Judges before a request. `next` is its price with nothing cached, `grace` what a last turn would cost on top.
    /// Sets `warned` and `grace_given` where it says so.
    pub fn pace(&self, spent: &mut Spent, next: Usd, grace: Usd) -> Pace {
        let shares = [
            ("turns", u64::from(spent.turns), u64::from(self.turns)),
            ("tool calls", u64::from(spent.calls), u64::from(self.calls)),
            ("test runs", u64::from(spent.test_runs), u64::from(self.test_runs)),
            ("time", spent.wall_ms, self.wall_ms),
            ("money", spent.usd.0, self.usd.0),
            ("input tokens", spent.input_tokens, self.input_tokens),
            ("output tokens", spent.output_tokens, self.output_tokens),
        ];
        let over = shares.iter().find(|(_, used, limit)| used >= limit).map(|(name, _, _)| *name);
        let dear = spent.usd.0.saturating_add(next.0).saturating_add(grace.0) > self.usd.0;
        if let Some(name) = over.or(dear.then_some("money")) {
            if std::mem::replace(&mut spent.grace_given, true) {
                return Pace::Stop(format!("the step's limit of {name} is reached"));
            }
            return Pace::Grace(format!(
                "The limit of {name} is reached. This is the last turn: only finish counts. Say truthfully what is done and what is not."
            ));
        }
        let near = shares.iter().find(|(_, used, limit)| used.saturating_mul(4) >= limit.saturating_mul(3));
        match near {
            Some((name, _, _)) if !std::mem::replace(&mut spent.warned, true) => {
                Pace::Warn(format!("Three quarters of the {name} for this step are used. Aim for the end."))
            }
            _ => Pace::Go,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(signature: &str, result: &str, what: CallOutcome) -> CallFacts {
        CallFacts { tool: "tool".to_owned(), signature: signature.to_owned(), result: result.to_owned(), what }
    }

    /// A turn that always brings something new, so that only the rule under test speaks.
    struct Turns(u32);

    impl Turns {
        fn with(&mut self, calls: Vec<CallFacts>) -> TurnFacts {
            self.0 += 1;
            TurnFacts { calls, tree: Some(format!("t{}", self.0)), ..TurnFacts::default() }
        }
    }

    /// `.` go, `n` nudge, `S` stop, by turn.
    fn run(turns: impl IntoIterator<Item = TurnFacts>) -> String {
        let mut watch = Watch::default();
        let mut out = String::new();
        for turn in turns {
            // Each turn is stored and read back, as between durable turns.
            let stored = serde_json::to_string(&watch).expect("plain data");
            watch = serde_json::from_str(&stored).expect("its own form");
            out.push(match watch.observe(&turn) {
                Verdict::Go => '.',
                Verdict::Nudge { .. } => 'n',
                Verdict::Stop { .. } => 'S',
            });
        }
        out
    }

    fn other(signature: &str, result: &str) -> CallFacts {
        call(signature, result, CallOutcome::Other)
    }

    #[test]
    fn the_same_call_and_result() {
        let mut t = Turns(0);
        assert_eq!(run((0..5).map(|_| t.with(vec![other("a", "r")]))), "..n.S");
        assert_eq!(run((0..6).map(|i| t.with(vec![other("a", &format!("r{i}"))]))), "......", "results differ");
        assert_eq!(run((0..6).map(|i| t.with(vec![other(&format!("a{i}"), "r")]))), "......", "batch work");
        // Five at once: nobody could have read a nudge.
        let five = || (0..5).map(|_| other("a", "r")).collect::<Vec<_>>();
        assert_eq!(run([t.with(five()), t.with(vec![other("a", "r")])]), "nS");
    }

    #[test]
    fn cycles_and_test_after_edit() {
        let mut t = Turns(0);
        let names = ["a", "b", "c"];
        assert_eq!(run((0..12).map(|i| t.with(vec![other(names[i % 3], "r")]))), ".....n.....S");
        assert_eq!(run((0..8).map(|i| t.with(vec![other(names[i % 2], "r")]))), "...n...S");
        // Edit, test, edit, test: the edits differ, so it is work, even where the test fails the same.
        let work = (0..20).map(|i| match i % 2 {
            0 => t.with(vec![call(&format!("e{i}"), "ok", CallOutcome::Edited { path: "a".into() })]),
            _ => t.with(vec![other("test", "red")]),
        });
        assert_eq!(run(work), ".".repeat(20));
    }

    #[test]
    fn failed_edits_bad_calls_and_the_guard() {
        let mut t = Turns(0);
        let failed = |i: u32, path: &str| call(&format!("e{i}"), "no", CallOutcome::EditFailed { path: path.into() });
        assert_eq!(run((0..5).map(|i| t.with(vec![failed(i, "a.py")]))), ".nn.S");
        assert_eq!(run((0..5).map(|i| t.with(vec![failed(i, &format!("{i}.py"))]))), ".....");
        let mended =
            [failed(1, "a"), failed(2, "a"), call("e", "ok", CallOutcome::Edited { path: "a".into() }), failed(3, "a")];
        assert_eq!(run(mended.map(|c| t.with(vec![c]))), ".n..");
        assert_eq!(run((0..5).map(|i| t.with(vec![call(&i.to_string(), "x", CallOutcome::Bad)]))), "nnnnS");
        let guarded = |i: u32| call(&i.to_string(), "x", CallOutcome::Guarded);
        assert_eq!(run((0..5).map(|i| t.with(vec![guarded(i)]))), "..n.S");
        let mut watch = Watch::default();
        for i in 0..5 {
            if let Verdict::Stop { code, .. } = watch.observe(&t.with(vec![guarded(i)])) {
                assert_eq!((code, i), (StopCode::Guard, 4));
            }
        }
        let honest = |i: u32| call(&format!("h{i}"), "ok", CallOutcome::Edited { path: "a".into() });
        assert!(!run((0..12).map(|i| t.with(vec![if i % 3 == 2 { honest(i) } else { guarded(i) }]))).contains('S'));
    }

    #[test]
    fn states_idleness_silence() {
        let state = |tree: &str, failing: &str, i: usize| TurnFacts {
            calls: vec![call(&format!("c{i}"), "r", CallOutcome::Read { range: format!("f:{i}") })],
            tree: Some(tree.to_owned()),
            failing: Some(failing.to_owned()),
            ..TurnFacts::default()
        };
        // a b a b a …: the returns to `a` are turns 3, 5, 7, 9.
        assert_eq!(run((0..9).map(|i| state(["a", "b"][i % 2], "f", i))), "....nn..S");
        assert_eq!(run((0..9).map(|i| state(["a", "b"][i % 2], &format!("f{i}"), i))), ".........", "failures differ");
        assert_eq!(run((0..30).map(|i| state("a", "f", i))), ".".repeat(30), "reading new things is no return");
        let idle = |i: usize| TurnFacts {
            calls: vec![other(&format!("c{i}"), "r")],
            tree: Some("a".into()),
            failing: Some("f".into()),
            ..TurnFacts::default()
        };
        assert_eq!(run((0..13).map(idle)), "........n...S");
        assert_eq!(run((0..3).map(|_| TurnFacts { tree: Some("a".into()), ..TurnFacts::default() })), "nnS");
        let silent = || TurnFacts { no_reply: true, ..TurnFacts::default() };
        assert_eq!(run([silent(), silent(), idle(1), silent(), silent(), silent()]), ".....S");
    }

    #[test]
    fn signatures() {
        let a = signature("replace", &json!({"a": 1, "b": [{"x": 1, "y": 2}], "instruction": "why"}));
        assert_eq!(a, signature("replace", &json!({"b": [{"y": 2, "x": 1}], "a": 1})));
        assert_ne!(a, signature("replace", &json!({"a": 1, "b": [{"x": 2, "y": 2}]})));
        assert_ne!(signature("a", &json!({"x": "1"})), signature("a", &json!({"x": 1})));
        assert_eq!(result_hash("3 passed in 0.12s\noutput id: o3"), result_hash("3 passed in 0.19s\noutput id: o9"));
    }

    #[test]
    fn pace_warns_once_gives_grace_once_and_stops() {
        let limits = StepLimits::default();
        let mut spent = Spent { turns: 10, ..Spent::default() };
        let cent = Usd::from_dollars(0.01);
        assert_eq!(limits.pace(&mut spent, cent, cent), Pace::Go);
        spent.turns = 30;
        assert!(matches!(limits.pace(&mut spent, cent, cent), Pace::Warn(text) if text.contains("turns")));
        assert_eq!(limits.pace(&mut spent, cent, cent), Pace::Go);
        spent.usd = Usd::from_dollars(0.485);
        assert!(matches!(limits.pace(&mut spent, cent, cent), Pace::Grace(text) if text.contains("money")));
        assert!(matches!(limits.pace(&mut spent, cent, cent), Pace::Stop(_)));
        let mut spent = Spent { calls: 120, ..Spent::default() };
        assert!(matches!(limits.pace(&mut spent, Usd(0), Usd(0)), Pace::Grace(_)));
    }
}
