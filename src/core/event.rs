//! What happened: the journal's records. An event is never refused and never changed; state is a fold over events.
//!
//! The stored form is JSON with the envelope of the contract: `{"event":NAME,"seq":N,"at":RFC 3339,"step":…,…}`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::budget::{Usage, Usd};
use super::failure::Failure;
use super::graph::Node;
use super::id::{RunId, StepId};
use super::time::Timestamp;

/// One record of a run's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// 1 for the first of a run; no gaps.
    pub seq: u64,
    /// When; never earlier than the event before.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventBody {
    /// The run exists from here on; always the first event.
    Accepted(Box<RunSpec>),
    /// An engine took the run up again after the one before had gone; the time between does not count.
    Resumed {},
    /// Intent: the step is about to run. A turn above 1 continues an attempt.
    StepStarted {
        /// Which.
        step: StepId,
        /// All tries so far, this one included.
        attempt: u32,
        /// One more than the rewinds that reached it.
        round: u32,
        /// Turn of the attempt, from 1.
        turn: u32,
    },
    /// The step is not finished: it wants another turn, with what it carries.
    StepContinued {
        /// Which.
        step: StepId,
        /// What the next turn gets.
        carry: Value,
    },
    /// The step waits for a person.
    StepAsked {
        /// Which.
        step: StepId,
        /// What is asked.
        question: Question,
        /// What the next turn gets beside the answer.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        carry: Value,
    },
    /// The step is done.
    StepSucceeded {
        /// Which.
        step: StepId,
        /// What other steps can refer to.
        output: Value,
    },
    /// The step had nothing to do; counts as done.
    StepSkipped {
        /// Which.
        step: StepId,
        /// Why.
        reason: String,
    },
    /// The attempt failed; the graph's policies say what follows.
    StepFailed {
        /// Which.
        step: StepId,
        /// Why.
        error: Failure,
    },
    /// The step was stopped because of something else (abort, rewind, another's failure).
    StepCancelled {
        /// Which.
        step: StepId,
        /// Why.
        reason: String,
    },
    /// The attempt was lost, by no fault of the step: it runs again, and what it had recorded stays.
    StepInterrupted {
        /// Which.
        step: StepId,
        /// Why, unless it is that the engine died or was told to stop.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The step cannot go on for a while and not by its fault (an outage); it continues by itself, off its clock.
    StepParked {
        /// Which.
        step: StepId,
        /// Why.
        reason: String,
        /// When it continues.
        until: Timestamp,
        /// What the next turn gets.
        carry: Value,
    },
    /// A model call is about to be made; the money is reserved.
    CallStarted {
        /// Who calls.
        step: StepId,
        /// Number of the call in the run, from 1.
        call: u32,
        /// planner, executor or reviewer.
        role: String,
        /// The provider's name.
        provider: String,
        /// The model's id.
        model: String,
        /// The most that it may cost.
        reserved: Usd,
        /// The most tokens that it may use, prompt included.
        reserved_tokens: u64,
        /// Which prompts were rendered.
        prompt: PromptRecord,
    },
    /// The call ended; the reservation is settled.
    CallFinished {
        /// Who called.
        step: StepId,
        /// Number of the call.
        call: u32,
        /// What it used.
        usage: Usage,
        /// What it cost.
        usd: Usd,
        /// The failure's code, if it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A person approved the plan that `plan_hash` names.
    Approved {
        /// The step that had asked.
        step: StepId,
        /// The plan's hash.
        plan_hash: String,
        /// The plan's revision.
        revision: u32,
        /// Who and where.
        #[serde(flatten)]
        who: Who,
        /// A remark.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A person wants another plan.
    Revised {
        /// The step that had asked.
        step: StepId,
        /// The feedback.
        text: String,
        /// Who and where.
        #[serde(flatten)]
        who: Who,
    },
    /// A person turned the plan down; the run ends.
    Rejected {
        /// The step that had asked.
        step: StepId,
        /// Who and where.
        #[serde(flatten)]
        who: Who,
        /// A remark.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A person answered a question.
    Answered {
        /// The step that had asked.
        step: StepId,
        /// The answer.
        text: String,
        /// What the answer adds to the run's money.
        #[serde(default, skip_serializing_if = "is_zero")]
        more_usd: Usd,
        /// What the answer adds to the run's tokens.
        #[serde(default, skip_serializing_if = "is_zero_tokens")]
        more_tokens: u64,
        /// Who and where.
        #[serde(flatten)]
        who: Who,
    },
    /// A person wants the run to end; a second time ends clean-up steps too.
    AbortRequested {
        /// Who and where.
        #[serde(flatten)]
        who: Who,
    },
    /// A person wants a failed run to go on.
    Retried {
        /// From this step on; without it, from every step that failed or was cancelled.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<StepId>,
        /// Who and where.
        #[serde(flatten)]
        who: Who,
    },
    /// The run went back: `to` and all that follows it start a new round.
    Rewound {
        /// The step whose failure or revision caused it.
        from: StepId,
        /// Where to.
        to: StepId,
    },
    /// The run's own time limit passed.
    WallLimitReached {},
    /// The run ended.
    Finished {
        /// How.
        status: Ending,
        /// Why, unless it completed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
    },
}

fn is_zero(usd: &Usd) -> bool {
    usd.0 == 0
}

fn is_zero_tokens(tokens: &u64) -> bool {
    *tokens == 0
}

impl EventBody {
    /// The step that it is about, if it is about one.
    pub fn step(&self) -> Option<&StepId> {
        use EventBody::*;
        match self {
            StepStarted { step, .. }
            | StepContinued { step, .. }
            | StepAsked { step, .. }
            | StepSucceeded { step, .. }
            | StepSkipped { step, .. }
            | StepFailed { step, .. }
            | StepCancelled { step, .. }
            | StepInterrupted { step, .. }
            | StepParked { step, .. }
            | CallStarted { step, .. }
            | CallFinished { step, .. }
            | Approved { step, .. }
            | Revised { step, .. }
            | Rejected { step, .. }
            | Answered { step, .. }
            | Rewound { from: step, .. } => Some(step),
            Accepted(_)
            | Resumed {}
            | AbortRequested { .. }
            | Retried { .. }
            | WallLimitReached {}
            | Finished { .. } => None,
        }
    }
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Ending {
    /// Every step is done, skipped, or its failure was handled.
    Completed,
    /// A failure that nothing handled.
    Failed,
    /// A person ended it.
    Aborted,
}

/// Who gave a signal, and through which channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// A name that the channel vouches for.
    pub by: String,
    /// `cli`, `web`, `telegram` or `api`.
    pub channel: String,
}

/// What a waiting step wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What kind of answer it takes.
    pub kind: QuestionKind,
    /// In words, for a person.
    pub text: String,
}

/// What kind of answer a question takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// Approve, revise or reject the plan.
    Approval,
    /// Text.
    Answer,
    /// An amount of dollars or tokens to add to the run's limits.
    Budget,
}

/// Everything that a run was accepted with: a resumed run uses this, not today's files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The run's id.
    pub task_id: RunId,
    /// The pipeline's name.
    pub pipeline: String,
    /// The pipeline's text.
    pub pipeline_text: String,
    /// `sha256:…` of the pipeline.
    pub pipeline_hash: String,
    /// The repository's key, path or URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// The configured base branch, before it was looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// What was asked for.
    pub task: String,
    /// The pipeline's inputs, checked and complete.
    pub inputs: serde_json::Map<String, Value>,
    /// The idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Who is told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<String>,
    /// Where it came from.
    #[serde(flatten)]
    pub who: Who,
    /// The steps, as the scheduler sees them.
    pub graph: Vec<Node>,
    /// What it may spend.
    pub limits: RunLimits,
    /// The cassette to record to or replay from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cassette: Option<CassetteUse>,
    /// Where its commands run.
    pub sandbox: String,
}

/// A cassette that a run uses for all its model calls, also when it is resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CassetteUse {
    /// Model calls are made and recorded to this absolute path.
    Record(String),
    /// Model calls are answered from this absolute path.
    Replay(String),
}

/// What a run may spend in all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RunLimits {
    /// US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<Usd>,
    /// Tokens, in and out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Milliseconds of work, waiting for people excluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// Steps side by side.
    pub parallel: usize,
}

/// Which prompts a model call used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PromptRecord {
    /// The templates, in order.
    pub files: Vec<PromptFile>,
    /// sha256 (hex) of what was rendered.
    pub rendered_sha256: String,
    /// The model's id.
    pub model: String,
}

/// A prompt's template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptFile {
    /// `ai/…`.
    pub path: String,
    /// Its git blob id.
    pub blob: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::properties::world::{BIRTH, accepted, id, side_by_side, who};

    /// One of each kind, in the order of the definition; a new kind does not compile until it is listed.
    fn one_of_each() -> Vec<EventBody> {
        use EventBody::*;
        let step = || id("build");
        let usage =
            Usage { input: 10, cache_read: 20, cache_write_5m: 30, cache_write_1h: 40, output: 50, reasoning: 5 };
        let prompt = PromptRecord {
            files: vec![PromptFile { path: "ai/system/base.md".to_owned(), blob: "b10b".to_owned() }],
            rendered_sha256: "5ha".to_owned(),
            model: "model-1".to_owned(),
        };
        let full = Node {
            needs: vec![id("plan"), id("approve")],
            authority: crate::core::graph::Authority::Acts,
            exclusive: true,
            timeout_ms: Some(60_000),
            on_failure: crate::core::graph::OnFailure::Rewind { to: id("plan"), rounds: 2 },
            ..Node::new(step(), "execute-loop")
        };
        let mut spec = match accepted(vec![Node::new(id("a"), "shell"), full], side_by_side(4)).body {
            Accepted(spec) => spec,
            _ => unreachable!("made as accepted"),
        };
        spec.limits =
            RunLimits { usd: Some(Usd::from_dollars(2.5)), tokens: Some(3_000), wall_ms: Some(1), parallel: 4 };
        spec.key = Some("k".to_owned());
        spec.notify = vec!["telegram:1".to_owned()];
        spec.cassette = Some(CassetteUse::Replay("/c.json".to_owned()));
        spec.inputs.insert("n".to_owned(), json!(1));
        let question = Question { kind: QuestionKind::Budget, text: "more?".to_owned() };
        let error =
            Failure::retryable("exit_code", "it ended with 1").hint("look at `devo logs`").feedback("test_a fails");
        let all = vec![
            Accepted(spec),
            Resumed {},
            StepStarted { step: step(), attempt: 3, round: 2, turn: 1 },
            StepContinued { step: step(), carry: json!({"turn": 1}) },
            StepAsked { step: step(), question, carry: json!([1]) },
            StepSucceeded { step: step(), output: json!({"commit": "c0ffee"}) },
            StepSkipped { step: step(), reason: "`if: false` is false".to_owned() },
            StepFailed { step: step(), error },
            StepCancelled { step: step(), reason: "the run was stopped".to_owned() },
            StepInterrupted { step: step(), reason: None },
            StepParked { step: step(), reason: "an outage".to_owned(), until: BIRTH.plus_ms(1), carry: json!(null) },
            CallStarted {
                step: step(),
                call: 7,
                role: "executor".to_owned(),
                provider: "gemini".to_owned(),
                model: "model-1".to_owned(),
                reserved: Usd::from_dollars(0.25),
                reserved_tokens: 9_000,
                prompt,
            },
            CallFinished { step: step(), call: 7, usage, usd: Usd(1), error: Some("overloaded".to_owned()) },
            Approved {
                step: step(),
                plan_hash: "sha256:0".to_owned(),
                revision: 2,
                who: who(),
                note: Some("go".to_owned()),
            },
            Revised { step: step(), text: "smaller".to_owned(), who: who() },
            Rejected { step: step(), who: who(), note: None },
            Answered {
                step: step(),
                text: "2".to_owned(),
                more_usd: Usd::from_dollars(2.0),
                more_tokens: 5,
                who: who(),
            },
            AbortRequested { who: who() },
            Retried { from: Some(step()), who: who() },
            Rewound { from: step(), to: id("plan") },
            WallLimitReached {},
            Finished { status: Ending::Failed, error: Some(Failure::terminal("exit_code", "step `build`: it ended")) },
        ];
        for (at, body) in all.iter().enumerate() {
            let place = match body {
                Accepted(_) => 0,
                Resumed {} => 1,
                StepStarted { .. } => 2,
                StepContinued { .. } => 3,
                StepAsked { .. } => 4,
                StepSucceeded { .. } => 5,
                StepSkipped { .. } => 6,
                StepFailed { .. } => 7,
                StepCancelled { .. } => 8,
                StepInterrupted { .. } => 9,
                StepParked { .. } => 10,
                CallStarted { .. } => 11,
                CallFinished { .. } => 12,
                Approved { .. } => 13,
                Revised { .. } => 14,
                Rejected { .. } => 15,
                Answered { .. } => 16,
                AbortRequested { .. } => 17,
                Retried { .. } => 18,
                Rewound { .. } => 19,
                WallLimitReached {} => 20,
                Finished { .. } => 21,
            };
            assert_eq!(place, at, "one of each, in order");
        }
        all
    }

    /// Journals outlive programs: a difference here needs a migration, not a new snapshot.
    #[test]
    fn the_stored_form_is_pinned() {
        let mut text = String::new();
        for (at, body) in (1..).zip(one_of_each()) {
            let event = Event { seq: at, at: BIRTH.plus_ms(at), body };
            let stored = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&stored).unwrap(), event);
            text.push_str(&stored);
            text.push('\n');
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn fields_that_are_left_out_mean_nothing() {
        let read = |text: &str| serde_json::from_str::<Event>(text).unwrap().body;
        let head = r#""seq":2,"at":"2025-11-24T16:00:00.000Z","step":"a""#;
        let question = Question { kind: QuestionKind::Answer, text: "why".to_owned() };
        assert_eq!(
            read(&format!(r#"{{"event":"step_asked",{head},"question":{{"kind":"answer","text":"why"}}}}"#)),
            EventBody::StepAsked { step: id("a"), question, carry: Value::Null }
        );
        assert_eq!(
            read(&format!(r#"{{"event":"answered",{head},"text":"x","by":"ana","channel":"cli"}}"#)),
            EventBody::Answered { step: id("a"), text: "x".to_owned(), more_usd: Usd(0), more_tokens: 0, who: who() }
        );
    }
}
