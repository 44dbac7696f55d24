//! A run's state: a fold over its events. Live and recovered state come out of the same door, [`RunState::apply`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

use super::budget::{Usage, Usd};
use super::event::{Ending, Event, EventBody, PromptRecord, Question, QuestionKind, RunSpec, Who};
use super::failure::Failure;
use super::graph::{Authority, Graph, GraphError, Node, OnFailure, StepIndex};
use super::id::StepId;
use super::plan::PlanRecord;
use super::time::Timestamp;

/// How often a step may be lost to crashes in one round before it fails.
pub const LOST_MAX: u32 = 20;
/// How many turns one try may take, pauses and questions included, before it fails: a step that never ends must not
/// fill the journal.
pub const TURNS_MAX: u32 = 10_000;

/// Why steps end that an abort, a rejection or the run's time limit stops.
const STOPPED: &str = "the run was stopped";

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
    brought: Option<String>,
    /// Needs that are not settled.
    unmet: u32,
    /// Settled needs that do not count as done.
    blocked: u32,
    /// Whether those that need it have been told.
    settled: bool,
    /// Time spent by the current try, in milliseconds, up to `turn_at`.
    spent_ms: u64,
    /// Start of the last turn.
    turn_at: Timestamp,
    /// How long the last turn took, in milliseconds.
    last_turn_ms: u64,
    /// It sleeps because of an outage: its and the run's clock stand still.
    parked: bool,
    /// The next start continues the current try.
    continues: bool,
}

impl StepState {
    fn new() -> Self {
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
    fn take_turn(&mut self, carry: &Value) {
        self.carry = carry.clone();
        self.answer = None;
        self.feedback = None;
    }

    /// Time that the current try has taken by `now`, in milliseconds.
    pub fn spent_ms(&self, now: Timestamp) -> u64 {
        self.spent_ms + if self.phase == Phase::Running { now.since(self.turn_at) } else { 0 }
    }
}

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

    fn check(&self, graph: &Graph, event: &Event) -> Result<(), String> {
        use EventBody::*;
        if event.seq != self.seq + 1 {
            return Err(format!("its number should be {}", self.seq + 1));
        }
        if event.at < self.last_at {
            return Err("it is earlier than the event before it".to_owned());
        }
        let step = match event.body.step() {
            Some(id) => Some(graph.find(id).ok_or_else(|| format!("there is no step `{id}`"))?),
            None => None,
        };
        let phase = step.map(|at| &self.steps[at].phase);
        let ended = self.ending.is_some();
        if ended && !matches!(event.body, Retried { .. }) {
            return Err("the run has ended".to_owned());
        }
        let ok = match &event.body {
            Accepted(_) => return Err("a run is accepted once".to_owned()),
            Resumed {} | AbortRequested { .. } => true,
            StepStarted { attempt, round, turn, .. } => {
                let at = step.expect("has a step");
                let startable = match phase {
                    Some(Phase::Ready) => true,
                    Some(Phase::Sleeping(until)) => *until <= event.at,
                    _ => false,
                };
                startable
                    && (*attempt, *round, *turn) == self.next_start(at)
                    && self.may_act(graph, at)
                    && self.back.is_empty()
                    && self.running.len() < self.parallel()
                    && !(graph.node(at).exclusive && self.running_exclusive > 0)
            }
            StepAsked { question, .. } => {
                let approves = graph.node(step.expect("has a step")).authority == Authority::Approves;
                phase == Some(&Phase::Running) && (approves || question.kind != QuestionKind::Approval)
            }
            StepContinued { .. } | StepSkipped { .. } | StepInterrupted { .. } | StepParked { .. } => {
                phase == Some(&Phase::Running)
            }
            StepSucceeded { output, .. } => {
                let at = step.expect("has a step");
                if phase == Some(&Phase::Running) && graph.node(at).authority == Authority::Plans {
                    self.check_plan(output)?;
                }
                phase == Some(&Phase::Running)
            }
            StepFailed { .. } => {
                let at = step.expect("has a step");
                let could_start = matches!(phase, Some(Phase::Ready | Phase::Sleeping(_)));
                phase == Some(&Phase::Running) || (could_start && !self.may_act(graph, at))
            }
            StepCancelled { .. } => {
                phase == Some(&Phase::Running)
                    && (self.halting() || self.in_the_way(graph).contains(&step.expect("has a step")))
            }
            CallStarted { call, .. } => phase == Some(&Phase::Running) && *call == self.next_call(),
            CallFinished { call, .. } => self.open_calls.get(call).is_some_and(|open| Some(open.step) == step),
            Approved { plan_hash, revision, .. } => {
                self.asks(step, QuestionKind::Approval)
                    && self.plan.as_ref().is_some_and(|plan| plan.hash == *plan_hash && plan.revision == *revision)
            }
            Revised { .. } => {
                self.asks(step, QuestionKind::Approval)
                    && graph.node(step.expect("has a step")).revise.is_some()
                    && !self.halting()
            }
            Rejected { .. } => self.asks(step, QuestionKind::Approval),
            Answered { .. } => self.asks(step, QuestionKind::Answer) || self.asks(step, QuestionKind::Budget),
            Retried { from, .. } => {
                let known = from.as_ref().is_none_or(|from| graph.find(from).is_some());
                known
                    && !self.rejected()
                    && self.ending.as_ref().is_some_and(|(ending, _)| *ending != Ending::Completed)
            }
            Rewound { from, to } => {
                let way = self.back.front().ok_or("no way back was asked for")?;
                graph.find(from) == Some(way.from)
                    && graph.find(to) == Some(way.to)
                    && self.in_the_way(graph).is_empty()
            }
            WallLimitReached {} => {
                self.halt.is_none() && self.spec.limits.wall_ms.is_some_and(|limit| self.active_ms(event.at) >= limit)
            }
            Finished { status, .. } => self.open == 0 && self.back.is_empty() && *status == self.verdict(),
        };
        if ok {
            Ok(())
        } else {
            let now = phase.map_or_else(String::new, |phase| format!(" while the step is {}", phase.as_str()));
            let name =
                serde_json::to_value(&event.body).ok().and_then(|body| body["event"].as_str().map(str::to_owned));
            Err(format!("`{}` cannot happen{now}", name.unwrap_or_default()))
        }
    }

    fn check_plan(&self, output: &Value) -> Result<(), String> {
        let plan: PlanRecord =
            serde_json::from_value(output.clone()).map_err(|error| format!("the output is not a plan: {error}"))?;
        let wanted = self.plan.as_ref().map_or(1, |plan| plan.revision + 1);
        if plan.revision != wanted {
            return Err(format!("the plan's revision should be {wanted}"));
        }
        if !plan.hash_holds(&self.spec.pipeline_hash) {
            return Err("the plan's hash is not the plan's".to_owned());
        }
        Ok(())
    }

    fn asks(&self, step: Option<StepIndex>, kind: QuestionKind) -> bool {
        self.back.is_empty()
            && step.is_some_and(|at| matches!(&self.steps[at].phase, Phase::Waiting(question) if question.kind == kind))
    }

    /// Steps side by side.
    pub(super) fn parallel(&self) -> usize {
        self.spec.limits.parallel.max(1)
    }

    /// Running steps that the next way back would reset: they have to stop first.
    pub(super) fn in_the_way(&self, graph: &Graph) -> Vec<StepIndex> {
        let Some(way) = self.back.front() else { return Vec::new() };
        let behind = graph.downstream(way.to);
        self.running.iter().copied().filter(|at| *at == way.to || behind.contains(at)).collect()
    }

    /// Attempt, round and turn of a step's next start.
    pub fn next_start(&self, at: StepIndex) -> (u32, u32, u32) {
        let step = &self.steps[at];
        if step.continues { (step.attempt, step.round, step.turn + 1) } else { (step.attempt + 1, step.round, 1) }
    }

    /// Whether the step's authority lets it start now.
    pub fn may_act(&self, graph: &Graph, at: StepIndex) -> bool {
        graph.node(at).authority != Authority::Acts || self.approved()
    }

    fn fold(&mut self, graph: &Graph, at: Timestamp, body: &EventBody) {
        use EventBody::*;
        let step = body.step().and_then(|id| graph.find(id));
        let index = || step.expect("checked");
        match body {
            Accepted(_) => {}
            Resumed {} => self.lose_open_calls(),
            StepStarted { .. } => self.start(graph, index(), at),
            StepContinued { carry, .. } => {
                self.steps[index()].take_turn(carry);
                self.pause(graph, index(), at, Phase::Ready);
            }
            StepAsked { question, carry, .. } => {
                self.steps[index()].take_turn(carry);
                self.pause(graph, index(), at, Phase::Waiting(question.clone()));
            }
            StepParked { reason, until, carry, .. } => {
                let state = &mut self.steps[index()];
                state.carry = carry.clone();
                state.reason = Some(reason.clone());
                state.parked = true;
                self.pause(graph, index(), at, Phase::Sleeping(*until));
            }
            StepInterrupted { .. } => {
                // The lost turn's time is lost with its work; the turns before it stand in the carry, and count.
                let state = &mut self.steps[index()];
                state.lost += 1;
                state.continues = false;
                state.tries -= 1;
                if self.stopped(graph, index()) {
                    self.end(graph, index(), at, Phase::Cancelled, Some(STOPPED.to_owned()));
                } else {
                    self.move_to(graph, index(), Phase::Ready);
                }
            }
            StepSucceeded { output, .. } => {
                if graph.node(index()).authority == Authority::Plans {
                    self.plan = serde_json::from_value(output.clone()).ok();
                    self.approval = None;
                }
                self.steps[index()].output = output.clone();
                self.end(graph, index(), at, Phase::Succeeded, None);
            }
            StepSkipped { reason, .. } => self.end(graph, index(), at, Phase::Skipped, Some(reason.clone())),
            StepCancelled { reason, .. } => self.end(graph, index(), at, Phase::Cancelled, Some(reason.clone())),
            StepFailed { error, .. } => self.fail(graph, index(), at, error),
            CallStarted { call, role, reserved, reserved_tokens, prompt, .. } => {
                self.calls = *call;
                self.steps[index()].prompt = Some(prompt.clone());
                let open = OpenCall { step: index(), role: role.clone(), usd: *reserved, tokens: *reserved_tokens };
                self.open_calls.insert(*call, open);
            }
            CallFinished { call, usage, usd, .. } => {
                if let Some(open) = self.open_calls.remove(call) {
                    self.settle_call(&open, *usage, *usd);
                }
            }
            Approved { plan_hash, revision, who, note, .. } => {
                self.approval = Some(Approval {
                    plan_hash: plan_hash.clone(),
                    revision: *revision,
                    who: who.clone(),
                    at,
                    note: note.clone(),
                });
                self.answer(graph, index(), "approved".to_owned());
            }
            Revised { text, .. } => {
                self.approval = None;
                let to = graph.node(index()).revise.as_ref().and_then(|id| graph.find(id)).expect("checked");
                self.back.push_back(WayBack { from: index(), to, feedback: text.clone(), revision: true });
            }
            Rejected { .. } => {
                self.end(graph, index(), at, Phase::Cancelled, Some("the plan was rejected".to_owned()));
                self.stop(graph, at, Halt::Rejected);
            }
            Answered { text, more_usd, more_tokens, .. } => {
                self.more_usd = self.more_usd + *more_usd;
                self.more_tokens = self.more_tokens.saturating_add(*more_tokens);
                self.answer(graph, index(), text.clone());
            }
            AbortRequested { .. } => {
                self.aborts += 1;
                self.stop(graph, at, Halt::Aborted);
            }
            WallLimitReached {} => self.stop(graph, at, Halt::WallLimit),
            Retried { from, .. } => self.retry(graph, from.as_ref().and_then(|id| graph.find(id))),
            Rewound { .. } => {
                let way = self.back.pop_front().expect("checked");
                self.go_back(graph, &way);
            }
            Finished { status, error } => {
                // A call of a step that was stopped may never have been settled.
                self.lose_open_calls();
                self.ending = Some((*status, error.clone()));
            }
        }
    }

    fn start(&mut self, graph: &Graph, index: StepIndex, at: Timestamp) {
        self.begun = true;
        let (attempt, _, turn) = self.next_start(index);
        self.move_to(graph, index, Phase::Running);
        let step = &mut self.steps[index];
        if !step.continues {
            step.tries += 1;
        }
        step.attempt = attempt;
        step.turn = turn;
        step.turn_at = at;
        step.parked = false;
        step.reason = None;
        step.error = None;
        step.started_at.get_or_insert(at);
        step.finished_at = None;
    }

    /// The running turn ends and the step does not.
    fn pause(&mut self, graph: &Graph, index: StepIndex, at: Timestamp, phase: Phase) {
        let step = &mut self.steps[index];
        step.last_turn_ms = at.since(step.turn_at);
        step.spent_ms += step.last_turn_ms;
        step.continues = true;
        if self.stopped(graph, index) {
            self.end(graph, index, at, Phase::Cancelled, Some(STOPPED.to_owned()));
        } else if self.steps[index].turn >= TURNS_MAX {
            let error = Failure::terminal("too_many_turns", format!("the step did not end within {TURNS_MAX} turns"))
                .hint("look at `devo logs RUN` for what it repeats, then `devo retry RUN`");
            self.fail(graph, index, at, &error);
        } else {
            self.move_to(graph, index, phase);
        }
    }

    fn answer(&mut self, graph: &Graph, index: StepIndex, text: String) {
        self.steps[index].answer = Some(text);
        self.move_to(graph, index, Phase::Ready);
    }

    fn fail(&mut self, graph: &Graph, index: StepIndex, at: Timestamp, error: &Failure) {
        let node = graph.node(index);
        let stopped = self.stopped(graph, index);
        let step = &mut self.steps[index];
        step.error = Some(error.clone());
        step.finished_at = Some(at);
        step.continues = false;
        step.spent_ms = 0;
        if error.retryable && step.tries < node.retry.attempts && !stopped {
            let until = at.plus_ms(node.retry.delay_before(step.tries + 1));
            step.carry = Value::Null;
            // The next try starts from nothing, so it must be told again why the run came back.
            step.feedback.clone_from(&step.brought);
            step.parked = false;
            self.move_to(graph, index, Phase::Sleeping(until));
            return;
        }
        if let OnFailure::Rewind { to, rounds } = &node.on_failure
            // A failure without feedback has nothing to teach the step that it would go back to.
            && let Some(feedback) = &error.feedback
            && step.rewinds < *rounds
            && self.halt.is_none()
        {
            step.rewinds += 1;
            let to = graph.find(to).expect("the graph was checked");
            self.back.push_back(WayBack { from: index, to, feedback: feedback.clone(), revision: false });
            self.move_to(graph, index, Phase::Failed);
            return;
        }
        if node.on_failure != OnFailure::Continue {
            self.unhandled.insert(index);
        }
        self.move_to(graph, index, Phase::Failed);
        self.settle(graph, index);
    }

    fn end(&mut self, graph: &Graph, index: StepIndex, at: Timestamp, phase: Phase, reason: Option<String>) {
        let step = &mut self.steps[index];
        step.finished_at = Some(at);
        step.reason = reason;
        step.continues = false;
        step.spent_ms = 0;
        step.answer = None;
        step.feedback = None;
        step.carry = Value::Null;
        step.brought = None;
        self.move_to(graph, index, phase);
        self.settle(graph, index);
    }

    /// Tells those that need the step; a chain of cancellations is followed without recursion.
    fn settle(&mut self, graph: &Graph, index: StepIndex) {
        let mut told = vec![index];
        while let Some(current) = told.pop() {
            if std::mem::replace(&mut self.steps[current].settled, true) {
                continue;
            }
            let done = self.done(graph, current);
            for dependent in graph.dependents(current).collect::<Vec<_>>() {
                let step = &mut self.steps[dependent];
                step.unmet -= 1;
                step.blocked += u32::from(!done);
                if step.unmet > 0 || step.phase != Phase::Pending {
                    continue;
                }
                if self.release(graph, dependent) {
                    told.push(dependent);
                }
            }
        }
    }

    /// A pending step without unmet needs becomes ready or cancelled; says whether it was cancelled.
    fn release(&mut self, graph: &Graph, index: StepIndex) -> bool {
        let node = graph.node(index);
        let stopped = self.stopped(graph, index);
        let blocked = self.steps[index].blocked > 0 && !node.always;
        if stopped || blocked {
            let why = if stopped { STOPPED } else { "a step that it needs did not succeed" };
            self.steps[index].reason = Some(why.to_owned());
            self.move_to(graph, index, Phase::Cancelled);
            return true;
        }
        self.move_to(graph, index, Phase::Ready);
        false
    }

    fn done(&self, graph: &Graph, index: StepIndex) -> bool {
        self.steps[index].phase.counts_as_done(graph.node(index).on_failure == OnFailure::Continue)
    }

    /// Whether the driver must not stop the step although the run is being stopped: clean-up, until a second abort.
    pub(super) fn survives_halt(&self, graph: &Graph, index: StepIndex) -> bool {
        graph.node(index).always && self.aborts < 2
    }

    /// Whether the run is being stopped and the step with it.
    fn stopped(&self, graph: &Graph, index: StepIndex) -> bool {
        self.halting() && !self.survives_halt(graph, index)
    }

    /// Ends everything that has not started; what runs is stopped by the driver.
    fn stop(&mut self, graph: &Graph, at: Timestamp, halt: Halt) {
        self.halt.get_or_insert(halt);
        // Failed steps that hoped for a way back are settled now: there is none any more.
        for way in std::mem::take(&mut self.back) {
            if self.steps[way.from].phase == Phase::Failed {
                self.unhandled.insert(way.from);
                self.settle(graph, way.from);
            }
        }
        for index in 0..self.steps.len() {
            let idle = matches!(self.steps[index].phase, Phase::Ready | Phase::Sleeping(_) | Phase::Waiting(_));
            if idle && self.stopped(graph, index) {
                self.end(graph, index, at, Phase::Cancelled, Some(STOPPED.to_owned()));
            }
        }
    }

    fn go_back(&mut self, graph: &Graph, way: &WayBack) {
        let mut members = graph.downstream(way.to);
        members.push(way.to);
        self.reset(graph, &members, !way.revision);
        self.steps[way.to].feedback = Some(way.feedback.clone());
        self.steps[way.to].brought = Some(way.feedback.clone());
        // Another way back from inside what was reset has lost its reason.
        self.back.retain(|other| !members.contains(&other.from));
    }

    fn retry(&mut self, graph: &Graph, from: Option<StepIndex>) {
        // Whatever failed would fail the run again, so it is tried again even if the retry names another step.
        let mut members: BTreeSet<StepIndex> = (0..graph.len())
            .filter(|at| self.steps[*at].phase == Phase::Cancelled || self.unhandled.contains(at))
            .chain(from)
            .collect();
        // What follows goes with it: also a clean-up step that has run.
        let after: Vec<StepIndex> = members.iter().flat_map(|at| graph.downstream(*at)).collect();
        members.extend(after);
        let members: Vec<StepIndex> = members.into_iter().collect();
        self.ending = None;
        self.halt = None;
        self.aborts = 0;
        self.reset(graph, &members, false);
        self.active_ms = 0;
    }

    /// Puts steps before their first try of a new round.
    fn reset(&mut self, graph: &Graph, members: &[StepIndex], keep_rewinds: bool) {
        if members.iter().any(|at| graph.node(*at).authority == Authority::Plans) {
            // There will be another plan: what was approved is no longer what will be done.
            self.approval = None;
        }
        for index in members {
            if self.steps[*index].phase.is_over() {
                self.open += 1;
            }
            self.leave(graph, *index);
            self.unhandled.remove(index);
            let old = &self.steps[*index];
            self.steps[*index] = StepState {
                attempt: old.attempt,
                round: old.round + 1,
                rewinds: if keep_rewinds { old.rewinds } else { 0 },
                previous: if old.output.is_null() { old.previous.clone() } else { old.output.clone() },
                ..StepState::new()
            };
        }
        for index in members {
            let (mut unmet, mut blocked) = (0, 0);
            for need in graph.needs(*index) {
                if !self.steps[need].settled {
                    unmet += 1;
                } else if !self.done(graph, need) {
                    blocked += 1;
                }
            }
            self.steps[*index].unmet = unmet;
            self.steps[*index].blocked = blocked;
        }
        for index in members {
            if self.steps[*index].unmet == 0
                && self.steps[*index].phase == Phase::Pending
                && self.release(graph, *index)
            {
                self.settle(graph, *index);
            }
        }
    }

    fn settle_call(&mut self, open: &OpenCall, usage: Usage, usd: Usd) {
        self.spending.add(usage, usd);
        self.by_role.entry(open.role.clone()).or_default().add(usage, usd);
        let step = &mut self.steps[open.step];
        step.usage += usage;
        step.usd = step.usd + usd;
        step.calls += 1;
    }

    /// A call that was under way when the engine died may have been billed: count what was reserved.
    fn lose_open_calls(&mut self) {
        for open in std::mem::take(&mut self.open_calls).into_values() {
            self.settle_call(&open, Usage { input: open.tokens, ..Usage::default() }, open.usd);
        }
    }

    // ---- sets that make `due` cheap ------------------------------------------------------------------------------

    fn leave(&mut self, graph: &Graph, index: StepIndex) {
        let node: &Node = graph.node(index);
        match &self.steps[index].phase {
            Phase::Ready => {
                self.ready_shared.remove(&index);
                self.ready_exclusive.remove(&index);
            }
            Phase::Sleeping(until) => {
                self.sleeping.remove(&(*until, index));
                self.dozing -= usize::from(!self.steps[index].parked);
            }
            Phase::Running => {
                self.running.remove(&index);
                self.timed.remove(&index);
                self.running_exclusive -= usize::from(node.exclusive);
            }
            Phase::Waiting(_) => {
                self.waiting.remove(&index);
            }
            Phase::Pending | Phase::Succeeded | Phase::Failed | Phase::Skipped | Phase::Cancelled => {}
        }
    }

    fn move_to(&mut self, graph: &Graph, index: StepIndex, phase: Phase) {
        self.leave(graph, index);
        let node = graph.node(index);
        let was_over = self.steps[index].phase.is_over();
        match &phase {
            Phase::Ready if node.exclusive => {
                self.ready_exclusive.insert(index);
            }
            Phase::Ready => {
                self.ready_shared.insert(index);
            }
            Phase::Sleeping(until) => {
                self.sleeping.insert((*until, index));
                self.dozing += usize::from(!self.steps[index].parked);
            }
            Phase::Running => {
                self.running.insert(index);
                if node.timeout_ms.is_some() {
                    self.timed.insert(index);
                }
                self.running_exclusive += usize::from(node.exclusive);
            }
            Phase::Waiting(_) => {
                self.waiting.insert(index);
            }
            Phase::Pending | Phase::Succeeded | Phase::Failed | Phase::Skipped | Phase::Cancelled => {}
        }
        if phase.is_over() && !was_over {
            self.open -= 1;
        }
        self.steps[index].phase = phase;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Submitted and not accepted yet (never a state of the fold).
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
