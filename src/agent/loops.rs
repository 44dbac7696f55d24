//! The rules that notice a loop that leads nowhere: one nudge, then the end. A pure state machine that is stored between turns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

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
/// Bad calls in a row before the end.
const BAD: u32 = 5;
/// Calls that are remembered.
const HISTORY: usize = 24;

/// What one reply's calls did.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts<'a> {
    /// The calls.
    pub calls: &'a [ToolCall],
    /// Their results, in the same order.
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
    /// The end, with the reason.
    Stop(String),
}

/// What is remembered between replies.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    history: VecDeque<String>,
    same: u32,
    failed_edit: Option<(String, u32)>,
    seen: BTreeMap<String, u32>,
    last_state: Option<String>,
    known: BTreeSet<String>,
    idle: u32,
    bad: u32,
}

impl Watch {
    /// Takes note of one reply.
    pub fn observe(&mut self, facts: &Facts<'_>) -> Verdict {
        let verdicts =
            [self.bad_calls(facts), self.repeats(facts), self.edits(facts), self.returns(facts), self.idle(facts)];
        let mut nudge = Verdict::Go;
        for verdict in verdicts {
            match verdict {
                Verdict::Stop(_) => return verdict,
                Verdict::Nudge(_) if nudge == Verdict::Go => nudge = verdict,
                _ => {}
            }
        }
        nudge
    }

    fn bad_calls(&mut self, facts: &Facts<'_>) -> Verdict {
        self.bad = if facts.bad > 0 { self.bad + facts.bad } else { 0 };
        if self.bad >= BAD {
            return Verdict::Stop(format!("{} calls in a row that no tool can take", self.bad));
        }
        Verdict::Go
    }

    fn repeats(&mut self, facts: &Facts<'_>) -> Verdict {
        let mut worst = Verdict::Go;
        for (call, result) in facts.calls.iter().zip(facts.results) {
            let signature = short(&format!("{} {} {}", call.name, call.arguments, result.text));
            self.same = if self.history.back() == Some(&signature) { self.same + 1 } else { 1 };
            self.history.push_back(signature);
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
            if self.same >= SAME.1 {
                return Verdict::Stop(format!(
                    "the same call of `{}` gave the same result {} times in a row",
                    call.name, self.same
                ));
            }
            if self.same == SAME.0 {
                worst = Verdict::Nudge(format!(
                    "You called `{}` the same way {} times with the same result. Do something else.",
                    call.name, self.same
                ));
            }
        }
        match (2..=5).map(|length| (length, self.rounds(length))).max_by_key(|(_, rounds)| *rounds) {
            Some((length, rounds)) if rounds >= CYCLE.1 => {
                Verdict::Stop(format!("{length} calls repeat in a circle, {rounds} rounds"))
            }
            Some((length, rounds)) if rounds > CYCLE.0 && worst == Verdict::Go => {
                Verdict::Nudge(format!("Your last calls repeat in a circle of {length}. Take another way."))
            }
            _ => worst,
        }
    }

    /// How many times the last `length` calls stand at the end of the history; a single call repeated is no circle.
    fn rounds(&self, length: usize) -> usize {
        let history: Vec<&String> = self.history.iter().rev().collect();
        if history.len() < 2 * length || history[..length].iter().all(|entry| *entry == history[0]) {
            return 0;
        }
        history.chunks(length).take_while(|chunk| *chunk == &history[..length]).count()
    }

    fn edits(&mut self, facts: &Facts<'_>) -> Verdict {
        for (call, result) in facts.calls.iter().zip(facts.results) {
            if call.name != "replace" {
                continue;
            }
            let path = call.arguments["file_path"].as_str().unwrap_or_default().to_owned();
            if !result.is_error {
                self.failed_edit = None;
                continue;
            }
            let count = match &self.failed_edit {
                Some((failing, count)) if *failing == path => count + 1,
                _ => 1,
            };
            self.failed_edit = Some((path.clone(), count));
            if count >= FAILED_EDITS.2 {
                return Verdict::Stop(format!("{count} edits of {path} in a row did not find their text"));
            }
            if count == FAILED_EDITS.1 {
                return Verdict::Nudge(format!(
                    "Three edits of {path} failed. Read it and use `write_file` with its whole new text."
                ));
            }
            if count == FAILED_EDITS.0 {
                return Verdict::Nudge(format!(
                    "Read the lines of {path} again before the next edit: its text is not what you think."
                ));
            }
        }
        Verdict::Go
    }

    fn returns(&mut self, facts: &Facts<'_>) -> Verdict {
        let Some(failing) = facts.failing.filter(|failing| !failing.is_empty()) else { return Verdict::Go };
        let state = short(&format!("{} {}", facts.tree, failing.join("\n")));
        if self.last_state.as_ref() == Some(&state) {
            return Verdict::Go;
        }
        self.last_state = Some(state.clone());
        let times = self.seen.entry(state).or_insert(0);
        *times += 1;
        let returns = *times - 1;
        if returns >= RETURNS.1 {
            return Verdict::Stop("the same code fails the same tests again and again".to_owned());
        }
        if returns == RETURNS.0 {
            return Verdict::Nudge(
                "You are back at code that failed the same tests before. Find out why it fails before you edit."
                    .to_owned(),
            );
        }
        Verdict::Go
    }

    fn idle(&mut self, facts: &Facts<'_>) -> Verdict {
        let mut news = vec![short(facts.tree)];
        news.extend(facts.failing.map(|failing| short(&failing.join("\n"))));
        let reads = facts.calls.iter().zip(facts.results).filter(|(_, result)| !result.is_error);
        news.extend(reads.map(|(call, _)| short(&format!("{} {}", call.name, call.arguments))));
        let new = news.into_iter().filter(|entry| self.known.insert(entry.clone())).count() > 0;
        self.idle = if new { 0 } else { self.idle + 1 };
        if self.idle >= IDLE.1 {
            return Verdict::Stop(format!("{} turns in a row brought nothing new", self.idle));
        }
        if self.idle == IDLE.0 {
            return Verdict::Nudge("Nothing new happened for eight turns. Edit, test, or call `finish`.".to_owned());
        }
        Verdict::Go
    }
}

fn short(text: &str) -> String {
    sha256(text.as_bytes())["sha256:".len()..][..16].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn step(watch: &mut Watch, name: &str, arguments: Value, text: &str, is_error: bool, tree: &str) -> Verdict {
        let call = ToolCall { id: "1".into(), name: name.into(), arguments, invalid: None };
        let result = ToolResult { call_id: "1".into(), name: name.into(), text: text.into(), is_error };
        watch.observe(&Facts { calls: &[call], results: &[result], tree, failing: None, bad: 0 })
    }

    #[test]
    fn the_same_call_is_nudged_at_three_and_ended_at_five() {
        let mut watch = Watch::default();
        let verdicts: Vec<_> =
            (0..5).map(|_| step(&mut watch, "read_file", json!({"file_path": "a"}), "x", false, "t")).collect();
        assert!(matches!(verdicts[2], Verdict::Nudge(_)) && matches!(verdicts[4], Verdict::Stop(_)), "{verdicts:?}");
        assert_eq!(verdicts[3], Verdict::Go);
    }

    #[test]
    fn a_test_after_each_edit_is_no_loop() {
        let mut watch = Watch::default();
        for n in 0..20 {
            let edit =
                step(&mut watch, "replace", json!({"file_path": "a", "old_string": n}), "ok", false, &format!("t{n}"));
            let test = step(&mut watch, "run_tests", json!({}), &format!("{n} failing"), true, &format!("t{n}"));
            assert_eq!((edit, test), (Verdict::Go, Verdict::Go));
        }
    }

    #[test]
    fn circles_end() {
        let mut watch = Watch::default();
        let ended = (0..20).any(|n| {
            matches!(step(&mut watch, "grep_search", json!({"pattern": n % 3}), "none", false, "t"), Verdict::Stop(_))
        });
        assert!(ended);
    }

    #[test]
    fn failing_edits_of_one_file_end_and_a_good_one_resets() {
        let fail = |watch: &mut Watch, n: u32| {
            step(watch, "replace", json!({"file_path": "a", "old_string": n}), &format!("no {n}"), true, "t")
        };
        let mut watch = Watch::default();
        assert_eq!(fail(&mut watch, 0), Verdict::Go);
        assert!(matches!(fail(&mut watch, 1), Verdict::Nudge(_)));
        step(&mut watch, "replace", json!({"file_path": "a"}), "ok", false, "t2");
        let verdicts: Vec<_> = (2..7).map(|n| fail(&mut watch, n)).collect();
        assert!(matches!(verdicts[4], Verdict::Stop(_)), "{verdicts:?}");
    }

    #[test]
    fn it_survives_being_stored() {
        let mut watch = Watch::default();
        for _ in 0..4 {
            step(&mut watch, "glob", json!({}), "x", false, "t");
        }
        let mut again: Watch = serde_json::from_str(&serde_json::to_string(&watch).unwrap()).unwrap();
        assert!(matches!(step(&mut again, "glob", json!({}), "x", false, "t"), Verdict::Stop(_)));
    }
}
