//! A step of a run: where it stands and what it has used.

use serde_json::Value;

use crate::core::budget::{Usage, Usd};
use crate::core::event::{PromptRecord, Question};
use crate::core::failure::Failure;
use crate::core::time::Timestamp;

/// Where a step stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Something that it needs is not settled.
    Pending,
    /// It can start.
    Ready,
    /// It can start at this instant (a retry's delay, an outage).
    Sleeping(Timestamp),
    /// An engine works on it.
    Running,
    /// It waits for a person.
    Waiting(Question),
    /// Done.
    Succeeded,
    /// Its last try failed.
    Failed,
    /// It had nothing to do; done.
    Skipped,
    /// It was stopped, or something that it needs failed.
    Cancelled,
}

impl Phase {
    /// Whether nothing more happens to it in this round.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Skipped | Self::Cancelled)
    }

    /// Whether a step that needs it may start; `handled` says that its failure does not count.
    pub fn counts_as_done(&self, handled: bool) -> bool {
        matches!(self, Self::Succeeded | Self::Skipped) || (handled && *self == Self::Failed)
    }

    /// The contract's word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending | Self::Sleeping(_) => "pending",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Waiting(_) => "waiting",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct StepState {
    /// Where it stands.
    pub phase: Phase,
    /// All tries so far, lost ones included.
    pub attempt: u32,
    /// From 1; a rewind adds one.
    pub round: u32,
    /// Turn of the current attempt.
    pub turn: u32,
    /// Tries that ended by themselves in this round, and the current one.
    pub tries: u32,
    /// Tries of this round that were lost to crashes.
    pub lost: u32,
    /// How often this step sent the run back.
    pub rewinds: u32,
    /// What the next turn gets.
    pub carry: Value,
    /// A person's answer, for the next turn.
    pub answer: Option<String>,
    /// What a rewind brought back, for the next turn; a try that starts anew gets it again.
    pub feedback: Option<String>,
    /// What other steps can refer to.
    pub output: Value,
    /// The output of the last round that had one.
    pub previous: Value,
    /// Why the last try failed.
    pub error: Option<Failure>,
    /// Why it was skipped, cancelled or parked.
    pub reason: Option<String>,
    /// Start of the round's first try.
    pub started_at: Option<Timestamp>,
    /// End of the round's last try.
    pub finished_at: Option<Timestamp>,
    /// What its model calls of this round used.
    pub usage: Usage,
    /// What they cost.
    pub usd: Usd,
    /// How many there were.
    pub calls: u32,
    /// The prompts of the last call.
    pub prompt: Option<PromptRecord>,
    /// What a rewind brought back, for the whole round.
    pub(super) brought: Option<String>,
    /// Needs that are not settled.
    pub(super) unmet: u32,
    /// Settled needs that do not count as done.
    pub(super) blocked: u32,
    /// Whether those that need it have been told.
    pub(super) settled: bool,
    /// Time spent by the current try, in milliseconds, up to `turn_at`.
    pub(super) spent_ms: u64,
    /// Start of the last turn.
    pub(super) turn_at: Timestamp,
    /// How long the last turn took, in milliseconds.
    pub(super) last_turn_ms: u64,
    /// It sleeps because of an outage: its and the run's clock stand still.
    pub(super) parked: bool,
    /// The next start continues the current try.
    pub(super) continues: bool,
}

impl StepState {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Pending,
            attempt: 0,
            round: 1,
            turn: 0,
            tries: 0,
            lost: 0,
            rewinds: 0,
            carry: Value::Null,
            answer: None,
            feedback: None,
            output: Value::Null,
            previous: Value::Null,
            error: None,
            reason: None,
            started_at: None,
            finished_at: None,
            usage: Usage::default(),
            usd: Usd(0),
            calls: 0,
            prompt: None,
            brought: None,
            unmet: 0,
            blocked: 0,
            settled: false,
            spent_ms: 0,
            turn_at: Timestamp(0),
            last_turn_ms: 0,
            parked: false,
            continues: false,
        }
    }

    /// A turn is over: what it was given has been used, what it carries comes next.
    pub(super) fn take_turn(&mut self, carry: &Value) {
        self.carry = carry.clone();
        self.answer = None;
        self.feedback = None;
    }

    /// Time that the current try has taken by `now`, in milliseconds.
    pub fn spent_ms(&self, now: Timestamp) -> u64 {
        self.spent_ms + if self.phase == Phase::Running { now.since(self.turn_at) } else { 0 }
    }
}
