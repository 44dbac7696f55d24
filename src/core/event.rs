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
    /// The engine died during the attempt; what the step had recorded stays.
    StepInterrupted {
        /// Which.
        step: StepId,
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
            | StepInterrupted { step }
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
