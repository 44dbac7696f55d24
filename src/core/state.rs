//! A run's state: a fold over its events. Live and recovered state come out of the same door, [`RunState::apply`].

mod check;
mod fold;
mod step;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::budget::{Usage, Usd};
use super::event::{Ending, Event, EventBody, Question, QuestionKind, RunSpec, Who};
use super::failure::Failure;
use super::graph::{Authority, Graph, GraphError, StepIndex};
use super::id::StepId;
use super::plan::PlanRecord;
use super::time::Timestamp;

pub use step::{Phase, StepState};

/// How often a step may be lost to crashes in one round before it fails.
pub const LOST_MAX: u32 = 20;
/// How many turns one try may take, pauses and questions included, before it fails: a step that never ends must not
/// fill the journal.
pub const TURNS_MAX: u32 = 10_000;

/// Why steps end that an abort, a rejection or the run's time limit stops.
const STOPPED: &str = "the run was stopped";

/// A person's approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The hash of the plan that was approved.
    pub plan_hash: String,
    /// Its revision.
    pub revision: u32,
    /// Who and where.
    pub who: Who,
    /// When.
    pub at: Timestamp,
    /// A remark.
    pub note: Option<String>,
}

/// A way back that was asked for and is carried out as soon as nothing runs in its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WayBack {
    pub from: StepIndex,
    pub to: StepIndex,
    pub feedback: String,
    /// A person's revision rather than a failure.
    pub revision: bool,
}

/// Why a run is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halt {
    Aborted,
    Rejected,
    WallLimit,
}

/// An event that does not fit the state: a damaged journal, a newer program's, or a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {seq} does not fit: {why}")]
pub struct IllegalEvent {
    /// The event's number.
    pub seq: u64,
    /// Why.
    pub why: String,
}

/// Spending per role, in the run's document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spending {
    /// Tokens.
    pub usage: Usage,
    /// Dollars.
    pub usd: Usd,
    /// Calls.
    pub calls: u32,
}

impl Spending {
    fn add(&mut self, usage: Usage, usd: Usd) {
        self.usage += usage;
        self.usd = self.usd + usd;
        self.calls += 1;
    }
}

#[derive(Debug, Clone, PartialEq)]
struct OpenCall {
    step: StepIndex,
    role: String,
    usd: Usd,
    tokens: u64,
}

/// A run's state. Equal event sequences give equal states.
#[derive(Debug, Clone, PartialEq)]
pub struct RunState {
    spec: RunSpec,
    seq: u64,
    created_at: Timestamp,
    last_at: Timestamp,
    steps: Vec<StepState>,
    pub(super) ready_shared: BTreeSet<StepIndex>,
    pub(super) ready_exclusive: BTreeSet<StepIndex>,
    pub(super) running: BTreeSet<StepIndex>,
    pub(super) running_exclusive: usize,
    pub(super) sleeping: BTreeSet<(Timestamp, StepIndex)>,
    /// Sleeping steps whose wait counts as work: those that are not parked.
    dozing: usize,
    waiting: BTreeSet<StepIndex>,
    /// Running steps that have a time limit.
    pub(super) timed: BTreeSet<StepIndex>,
    /// Steps that are not over.
    pub(super) open: usize,
    pub(super) unhandled: BTreeSet<StepIndex>,
    pub(super) back: VecDeque<WayBack>,
    pub(super) halt: Option<Halt>,
    aborts: u32,
    /// A step was started once.
    begun: bool,
    plan: Option<PlanRecord>,
    approval: Option<Approval>,
    /// Milliseconds of work up to `last_at`.
    active_ms: u64,
    spending: Spending,
    by_role: BTreeMap<String, Spending>,
    open_calls: BTreeMap<u32, OpenCall>,
    calls: u32,
    more_usd: Usd,
    more_tokens: u64,
    ending: Option<(Ending, Option<Failure>)>,
}

impl RunState {
    /// The state that a run's events give, with its graph.
    pub fn replay(events: &[Event]) -> Result<(Graph, Self), IllegalEvent> {
        let Some((first, rest)) = events.split_first() else {
            return Err(IllegalEvent { seq: 0, why: "the run has no events".to_owned() });
        };
        let (graph, mut state) = Self::accept(first)?;
        for event in rest {
            state.apply(&graph, event)?;
        }
        Ok((graph, state))
    }

    /// The state after the first event.
    pub fn accept(first: &Event) -> Result<(Graph, Self), IllegalEvent> {
        let illegal = |why: String| IllegalEvent { seq: first.seq, why };
        let EventBody::Accepted(spec) = &first.body else {
            return Err(illegal("the first event is not `accepted`".to_owned()));
        };
        if first.seq != 1 {
            return Err(illegal("the first event is not number 1".to_owned()));
        }
        let graph = Graph::new(spec.graph.clone()).map_err(|error: GraphError| illegal(error.to_string()))?;
        let mut state = Self {
            spec: spec.as_ref().clone(),
            seq: 1,
            created_at: first.at,
            last_at: first.at,
            steps: vec![StepState::new(); graph.len()],
            ready_shared: BTreeSet::new(),
            ready_exclusive: BTreeSet::new(),
            running: BTreeSet::new(),
            running_exclusive: 0,
            sleeping: BTreeSet::new(),
            dozing: 0,
            waiting: BTreeSet::new(),
            timed: BTreeSet::new(),
            open: graph.len(),
            unhandled: BTreeSet::new(),
            back: VecDeque::new(),
            halt: None,
            aborts: 0,
            begun: false,
            plan: None,
            approval: None,
            active_ms: 0,
            spending: Spending::default(),
            by_role: BTreeMap::new(),
            open_calls: BTreeMap::new(),
            calls: 0,
            more_usd: Usd(0),
            more_tokens: 0,
            ending: None,
        };
        for at in 0..graph.len() {
            state.steps[at].unmet = count(graph.needs(at));
            if state.steps[at].unmet == 0 {
                state.move_to(&graph, at, Phase::Ready);
            }
        }
        Ok((graph, state))
    }

    // ---- what others may ask -------------------------------------------------------------------------------------

    /// What the run was accepted with.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// Number of the last event.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When the run was accepted.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// When the last event happened.
    pub fn updated_at(&self) -> Timestamp {
        self.last_at
    }

    /// A step.
    pub fn step(&self, at: StepIndex) -> &StepState {
        &self.steps[at]
    }

    /// A step's phase.
    pub fn phase(&self, at: StepIndex) -> &Phase {
        &self.steps[at].phase
    }

    /// The current plan.
    pub fn plan(&self) -> Option<&PlanRecord> {
        self.plan.as_ref()
    }

    /// The approval of the current plan.
    pub fn approval(&self) -> Option<&Approval> {
        self.approval.as_ref()
    }

    /// Whether the current plan, exactly, has been approved.
    pub fn approved(&self) -> bool {
        match (&self.plan, &self.approval) {
            (Some(plan), Some(approval)) => plan.hash == approval.plan_hash,
            _ => false,
        }
    }

    /// How the run ended.
    pub fn ending(&self) -> Option<&(Ending, Option<Failure>)> {
        self.ending.as_ref()
    }

    /// Steps that wait for a person, in file order.
    pub fn waiting(&self) -> impl Iterator<Item = (StepIndex, &Question)> {
        self.waiting.iter().filter_map(|at| match &self.steps[*at].phase {
            Phase::Waiting(question) => Some((*at, question)),
            _ => None,
        })
    }

    /// The step whose failure nothing handled and that the run failed by; `None` where it failed by something else, or did not.
    pub fn failed_by(&self) -> Option<StepIndex> {
        let failed = matches!(self.ending, Some((Ending::Failed, _))) && self.halt.is_none();
        self.unhandled.first().copied().filter(|_| failed)
    }

    /// Steps that an engine works on.
    pub fn running(&self) -> impl Iterator<Item = StepIndex> {
        self.running.iter().copied()
    }

    /// Whether the run is being stopped.
    pub fn halting(&self) -> bool {
        self.halt.is_some()
    }

    /// Whether a way back has been asked for and is not carried out yet.
    pub fn going_back(&self) -> bool {
        !self.back.is_empty()
    }

    /// Whether the plan was rejected.
    pub fn rejected(&self) -> bool {
        self.halt == Some(Halt::Rejected)
    }

    /// How often an abort was asked for.
    pub fn abort_requests(&self) -> u32 {
        self.aborts
    }

    /// Everything spent so far.
    pub fn spending(&self) -> &Spending {
        &self.spending
    }

    /// Spending by role.
    pub fn by_role(&self) -> &BTreeMap<String, Spending> {
        &self.by_role
    }

    /// The number that the next model call gets.
    pub fn next_call(&self) -> u32 {
        self.calls + 1
    }

    /// Milliseconds of work by `now`, waiting and outages excluded.
    pub fn active_ms(&self, now: Timestamp) -> u64 {
        self.active_ms + if self.working() { now.since(self.last_at) } else { 0 }
    }

    /// Whether nothing is under way: no time counts, and no call is open.
    pub fn at_rest(&self) -> bool {
        !self.working() && self.open_calls.is_empty()
    }

    /// The run's limit of dollars, with what people added.
    pub fn limit_usd(&self) -> Option<Usd> {
        self.spec.limits.usd.map(|usd| usd + self.more_usd)
    }

    /// The run's limit of tokens, with what people added.
    pub fn limit_tokens(&self) -> Option<u64> {
        self.spec.limits.tokens.map(|tokens| tokens.saturating_add(self.more_tokens))
    }

    /// Whether a call that may cost this much fits what is left, open reservations included.
    pub fn affords(&self, usd: Usd, tokens: u64) -> bool {
        let (mut held, mut held_tokens) = (Usd(0), 0u64);
        for call in self.open_calls.values() {
            held = held + call.usd;
            held_tokens = held_tokens.saturating_add(call.tokens);
        }
        let fits_usd = self.limit_usd().is_none_or(|limit| self.spending.usd + held + usd <= limit);
        let used = self.spending.usage.total().saturating_add(held_tokens).saturating_add(tokens);
        fits_usd && self.limit_tokens().is_none_or(|limit| used <= limit)
    }

    /// The contract's word for where the run stands.
    pub fn status(&self, graph: &Graph) -> Status {
        if let Some((ending, _)) = &self.ending {
            return match ending {
                Ending::Completed => Status::Completed,
                Ending::Failed => Status::Failed,
                Ending::Aborted => Status::Aborted,
            };
        }
        if self.waiting().any(|(_, question)| question.kind == QuestionKind::Approval) && !self.going_back() {
            return Status::Planned;
        }
        // It has its place in the journal, and waits for its turn.
        if !self.begun {
            return Status::Queued;
        }
        let has = |authority| graph.nodes().any(|node| node.authority == authority);
        // A plan that nobody is asked to approve needs only to exist.
        let ready = self.approved() || (self.plan.is_some() && !has(Authority::Approves));
        if !ready && has(Authority::Plans) { Status::Planning } else { Status::Executing }
    }

    fn working(&self) -> bool {
        !self.running.is_empty() || self.dozing > 0
    }

    /// How the run ends if it ends now.
    pub(super) fn verdict(&self) -> Ending {
        match self.halt {
            Some(Halt::Aborted | Halt::Rejected) => Ending::Aborted,
            Some(Halt::WallLimit) => Ending::Failed,
            None if self.unhandled.is_empty() => Ending::Completed,
            None => Ending::Failed,
        }
    }

    // ---- the one door --------------------------------------------------------------------------------------------

    /// Folds one event in. An event that does not fit is refused and changes nothing.
    pub fn apply(&mut self, graph: &Graph, event: &Event) -> Result<(), IllegalEvent> {
        self.check(graph, event).map_err(|why| IllegalEvent { seq: event.seq, why })?;
        // The time between two engines belongs to nobody.
        if !matches!(event.body, EventBody::Resumed {}) {
            self.active_ms = self.active_ms(event.at);
        }
        self.seq = event.seq;
        self.last_at = event.at;
        self.fold(graph, event.at, &event.body);
        Ok(())
    }

    /// Since when a waiting step waits.
    pub fn waiting_since(&self, index: StepIndex) -> Timestamp {
        let step = &self.steps[index];
        step.turn_at.plus_ms(step.last_turn_ms)
    }

    pub(super) fn turn_at(&self, index: StepIndex) -> Timestamp {
        self.steps[index].turn_at
    }

    pub(super) fn spent_before_turn(&self, index: StepIndex) -> u64 {
        self.steps[index].spent_ms
    }

    /// What the driver records for a step that it finds running after a crash, or whose attempt was lost for that reason.
    pub fn interrupted(&self, graph: &Graph, at: StepIndex, reason: Option<String>) -> EventBody {
        let step: StepId = graph.node(at).id.clone();
        if self.steps[at].lost >= LOST_MAX {
            let error = Failure::terminal("interrupted", format!("this step was interrupted {} times", LOST_MAX + 1))
                .hint("look at `devo doctor` and the machine's log, then `devo retry`");
            return EventBody::StepFailed { step, error };
        }
        EventBody::StepInterrupted { step, reason }
    }
}

fn count(items: impl Iterator) -> u32 {
    u32::try_from(items.count()).expect("a graph has at most 10,000 steps")
}

/// Where a run stands, in the contract's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Submitted, and nothing of it has begun.
    Queued,
    /// Until a plan exists, and again while it is revised.
    Planning,
    /// A plan waits for approval.
    Planned,
    /// After the approval, and for pipelines without a plan.
    Executing,
    /// Every step is done.
    Completed,
    /// A failure that nothing handled.
    Failed,
    /// A person ended it.
    Aborted,
}

impl Status {
    /// The contract's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Planning => "PLANNING",
            Self::Planned => "PLANNED",
            Self::Executing => "EXECUTING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Aborted => "ABORTED",
        }
    }
}
