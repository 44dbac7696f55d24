//! A simulated engine: it performs what `due` says, lets steps end as the tape says, and moves a virtual clock.

use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};

use super::oracle::{Oracle, tokens};
use super::world::{BIRTH, Tape, accepted, id, who};
use crate::core::budget::Usd;
use crate::core::event::{Ending, Event, EventBody, PromptRecord, Question, QuestionKind, RunLimits};
use crate::core::failure::Failure;
use crate::core::graph::{Authority, Graph, Node, StepIndex};
use crate::core::id::StepId;
use crate::core::plan::{Estimate, Plan, PlanRecord};
use crate::core::request::{Refused, Request, Signal};
use crate::core::scheduler::{Effect, due, wake_after};
use crate::core::state::{Phase, RunState};
use crate::core::time::Timestamp;

/// More events than any simulated run may need: steps × rounds × tries × turns of the worst of them.
const EVENTS_MAX: usize = 100_000;

/// How a turn may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    Succeed,
    Skip,
    Fail { retryable: bool, feedback: bool },
    Continue,
    Ask(QuestionKind),
    Park,
    Interrupt,
    Call,
}

pub fn plan_record(state: &RunState, salt: usize) -> PlanRecord {
    let revision = state.plan().map_or(1, |plan| plan.revision + 1);
    let plan = Plan {
        title: format!("plan {revision}.{salt}"),
        summary: "reject negative stock".to_owned(),
        steps: Vec::new(),
        criteria: Vec::new(),
        tests_may_change: Vec::new(),
        assumptions: Vec::new(),
        questions: Vec::new(),
        out_of_scope: Vec::new(),
        risks: Vec::new(),
    };
    let estimate = Estimate { usd: 0.1 * f64::from(revision), tokens: 7, minutes: 3 };
    PlanRecord::new(plan, estimate, revision, "c0ffee".to_owned(), &state.spec().pipeline_hash)
}

#[derive(Clone)]
pub struct Sim {
    pub graph: Graph,
    pub state: RunState,
    pub oracle: Oracle,
    pub events: Vec<Event>,
    pub now: Timestamp,
    tape: Tape,
    /// Without the second opinion, for very long runs.
    pub fast: bool,
    calls: Vec<(u32, StepIndex, u64, u64)>,
    retries: usize,
}

impl Sim {
    pub fn new(nodes: Vec<Node>, limits: RunLimits, tape: Tape) -> Self {
        Self::over(vec![accepted(nodes, limits)], tape)
    }

    /// A simulation that goes on from a history, with books that followed it from the start.
    pub fn over(events: Vec<Event>, tape: Tape) -> Self {
        let (graph, state) = RunState::accept(&events[0]).expect("the graph is built valid");
        let oracle = Oracle::new(&graph);
        let mut sim = Self {
            graph,
            state,
            oracle,
            events: vec![events[0].clone()],
            now: BIRTH,
            tape,
            fast: false,
            calls: Vec::new(),
            retries: 0,
        };
        for event in &events[1..] {
            sim.fold(event.clone());
        }
        sim.now = sim.state.updated_at();
        sim
    }

    fn fold(&mut self, event: Event) {
        let before = if self.fast { None } else { Some(self.state.clone()) };
        if let Err(error) = self.state.apply(&self.graph, &event) {
            panic!("{error}: {:?} after {:#?}", event.body, self.events.last());
        }
        if let Some(before) = before {
            self.oracle.see(&self.graph, &before, &event, &self.state);
        }
        self.events.push(event);
        assert!(self.events.len() < EVENTS_MAX, "a run ends");
    }

    /// Through the stored form and the one door.
    pub fn record(&mut self, body: EventBody) {
        let event = Event { seq: self.state.seq() + 1, at: self.now, body };
        let stored = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&stored).unwrap(), event, "the stored form survives a round trip");
        self.fold(event);
    }

    fn id(&self, at: StepIndex) -> StepId {
        self.graph.node(at).id.clone()
    }

    /// Runs until the run has ended and nobody wants to go on with it.
    pub fn run(&mut self) {
        loop {
            self.check();
            if self.tape.weighted(&[24, 1]) == 1 {
                self.intrude();
            }
            if self.state.ending().is_some() {
                if self.retries >= 2 || self.tape.weighted(&[2, 3]) == 0 {
                    return;
                }
                self.retries += 1;
                let from = self.some_step();
                let _ = self.signal(Signal::Retry { from });
                if self.state.ending().is_some() {
                    return;
                }
                continue;
            }
            // Sometimes turns end and people speak before the engine has looked at what is due.
            match self.tape.weighted(&[10, 3, 1]) {
                1 if self.state.running().next().is_some() => self.some_turn_ends(),
                2 => self.person(),
                _ => {
                    if !self.perform_due() {
                        self.choose();
                    }
                }
            }
        }
    }

    /// The second opinion on this instant.
    pub fn check(&self) {
        self.oracle.check_due(&self.graph, &self.state, self.now);
        self.oracle.check_ledger(&self.state);
    }

    /// Until the next instant at which something is due, if there is one.
    pub fn sleep(&mut self) -> bool {
        let wake = wake_after(&self.graph, &self.state, self.now);
        self.now = wake.unwrap_or(self.now);
        wake.is_some()
    }

    /// Performs what is due now; says whether anything was.
    pub fn perform_due(&mut self) -> bool {
        let mut moved = false;
        for effect in due(&self.graph, &self.state, self.now) {
            match effect {
                // The step may end by itself before it can be stopped.
                Effect::Cancel(..) | Effect::TimeOut(_) if self.tape.weighted(&[2, 1]) == 1 => {}
                Effect::Start(at) => {
                    let (attempt, round, turn) = self.state.next_start(at);
                    let step = self.id(at);
                    self.record(EventBody::StepStarted { step, attempt, round, turn });
                    moved = true;
                }
                Effect::Forbid(at) => {
                    let error = Failure::terminal("not_approved", "the current plan has not been approved");
                    self.record(EventBody::StepFailed { step: self.id(at), error });
                    moved = true;
                }
                Effect::Cancel(at, reason) => {
                    self.record(EventBody::StepCancelled { step: self.id(at), reason: reason.to_owned() });
                    moved = true;
                }
                Effect::TimeOut(at) => {
                    let error = Failure::retryable("timeout", "the step took too long");
                    self.record(EventBody::StepFailed { step: self.id(at), error });
                    moved = true;
                }
                Effect::Rewind { from, to } => {
                    self.record(EventBody::Rewound { from: self.id(from), to: self.id(to) });
                    moved = true;
                }
                Effect::WallLimit => {
                    self.record(EventBody::WallLimitReached {});
                    moved = true;
                }
                Effect::Finish(status, error) => {
                    assert_eq!(error.is_some(), status == Ending::Failed);
                    self.record(EventBody::Finished { status, error });
                    self.calls.clear();
                    moved = true;
                }
            }
        }
        moved
    }

    /// Nothing is due: something happens, or time passes.
    fn choose(&mut self) {
        match self.tape.weighted(&[60, 12, 14, 4]) {
            0 => self.advance(),
            1 => self.now = self.now.plus_ms([1, 7, 60, 400][self.tape.pick(4)]),
            2 => self.person(),
            _ => self.crash(),
        }
    }

    /// The ordinary course: a turn ends, a person answers, or the clock moves to the next wake-up.
    pub fn advance(&mut self) {
        let wake = wake_after(&self.graph, &self.state, self.now);
        if self.state.running().next().is_some() {
            return self.some_turn_ends();
        }
        if self.state.waiting().next().is_some() && (wake.is_none() || self.tape.pick(2) == 0) {
            return if self.tape.weighted(&[4, 3]) == 0 { self.answer() } else { self.person() };
        }
        self.now = wake.expect("while unfinished, something is due, running, asked or asleep");
    }

    fn some_turn_ends(&mut self) {
        let running: Vec<StepIndex> = self.state.running().collect();
        let at = running[self.tape.pick(running.len())];
        self.now = self.now.plus_ms([0, 0, 1, 30][self.tape.pick(4)]);
        let outcome = self.outcome(at);
        self.end_turn(at, outcome);
    }

    /// How the turn ends.
    fn outcome(&mut self, at: StepIndex) -> Move {
        let fail = |retryable, feedback| Move::Fail { retryable, feedback };
        if self.calls.iter().any(|call| call.1 == at) && self.tape.weighted(&[3, 1]) == 0 {
            return Move::Call;
        }
        let chosen = match self.tape.weighted(&[40, 4, 3, 6, 6, 4, 12, 5, 3, 6, 3, 10]) {
            0 => Move::Succeed,
            1 => Move::Skip,
            2 => fail(false, false),
            3 => fail(true, false),
            4 => fail(true, true),
            5 => fail(false, true),
            6 => Move::Continue,
            7 => Move::Ask(QuestionKind::Answer),
            8 => Move::Ask(QuestionKind::Budget),
            9 => Move::Park,
            10 => Move::Interrupt,
            _ => Move::Call,
        };
        // An approving step is done only once it was answered.
        let asks = self.graph.node(at).authority == Authority::Approves && self.state.step(at).answer.is_none();
        match chosen {
            Move::Succeed if asks && self.state.plan().is_some() => Move::Ask(QuestionKind::Approval),
            Move::Succeed if asks => fail(false, false),
            // Endless conversations are the worst of cases, and a property of their own.
            Move::Continue | Move::Ask(_) | Move::Park if self.tape.is_used_up() => Move::Succeed,
            chosen => chosen,
        }
    }

    pub fn end_turn(&mut self, at: StepIndex, outcome: Move) {
        let step = self.id(at);
        let salt = self.events.len();
        let body = match outcome {
            Move::Succeed => {
                let output = match self.graph.node(at).authority {
                    Authority::Plans => serde_json::to_value(plan_record(&self.state, salt)).unwrap(),
                    _ => json!({"n": salt, "share": 0.1 * salt as f64}),
                };
                EventBody::StepSucceeded { step, output }
            }
            Move::Skip => EventBody::StepSkipped { step, reason: "`if: false` is false".to_owned() },
            Move::Fail { retryable, feedback } => {
                let error = Failure { retryable, ..Failure::terminal("exit_code", "it ended with 1") };
                let error = if feedback { error.feedback(format!("two tests fail {salt}")) } else { error };
                EventBody::StepFailed { step, error }
            }
            Move::Continue => EventBody::StepContinued { step, carry: json!({"turn": salt}) },
            Move::Ask(kind) => {
                let carry = if salt.is_multiple_of(2) { Value::Null } else { json!([salt]) };
                EventBody::StepAsked { step, question: Question { kind, text: "well?".to_owned() }, carry }
            }
            Move::Park => {
                let until = self.now.plus_ms([0, 5, 250, 5_000][self.tape.pick(4)]);
                EventBody::StepParked { step, reason: "the provider is down".to_owned(), until, carry: json!(salt) }
            }
            Move::Interrupt => self.state.interrupted(&self.graph, at, None),
            Move::Call => return self.call(at),
        };
        self.record(body);
    }

    /// Begins a model call where the ledger allows it, or ends the one under way.
    fn call(&mut self, at: StepIndex) {
        if let Some(open) = self.calls.iter().position(|call| call.1 == at) {
            let (call, _, usd, reserved) = self.calls.remove(open);
            let (usd, used) =
                [(usd, reserved), (usd / 2, reserved / 2), (0, 0), (usd + 9, reserved + 9)][self.tape.pick(4)];
            let step = self.id(at);
            return self.record(EventBody::CallFinished {
                step,
                call,
                usage: tokens(used),
                usd: Usd(usd),
                error: None,
            });
        }
        let (reserved, reserved_tokens) = [(1, 1), (10, 20), (40, 5), (5, 60)][self.tape.pick(4)];
        if !self.state.affords(Usd(reserved), reserved_tokens) {
            return self.end_turn(at, Move::Ask(QuestionKind::Budget));
        }
        let call = self.state.next_call();
        self.calls.push((call, at, reserved, reserved_tokens));
        let role = ["planner", "executor"][self.tape.pick(2)].to_owned();
        self.record(EventBody::CallStarted {
            step: self.id(at),
            call,
            role,
            provider: "anthropic".to_owned(),
            model: "model-1".to_owned(),
            reserved: Usd(reserved),
            reserved_tokens,
            prompt: PromptRecord::default(),
        });
    }

    /// The person gives the answer that takes the run further; there always is one.
    pub fn answer(&mut self) {
        let (_, question) = self.state.waiting().next().expect("someone waits");
        let signal = match (question.kind, self.state.plan()) {
            (QuestionKind::Approval, Some(plan)) => Signal::Approve { plan_hash: plan.hash.clone(), note: None },
            (QuestionKind::Approval, None) => Signal::Reject { note: None },
            _ => Signal::Answer { text: "5".to_owned() },
        };
        let asked = self.events.len();
        assert_eq!(self.signal(signal), Ok(()), "the question that is shown can be answered");
        assert!(self.events.len() > asked);
    }

    fn some_step(&mut self) -> Option<StepId> {
        match self.tape.pick(2) {
            0 => None,
            _ => Some(self.tape.pick(self.graph.len() + 1)).map(|at| id(&format!("s{at}"))),
        }
    }

    /// A person says something, fitting or not.
    fn person(&mut self) {
        let plan_hash = self.state.plan().map_or_else(|| "sha256:0".to_owned(), |plan| plan.hash.clone());
        let text = "otherwise, please".to_owned();
        let signal = match self.tape.weighted(&[5, 3, 8, 2, 4, 1, 1, 1]) {
            0 => Signal::Approve { plan_hash, note: None },
            1 => {
                let superseded = self.oracle.superseded.first().cloned();
                let stale = Signal::Approve { plan_hash: superseded.unwrap_or(text), note: None };
                let refused = self.signal(stale).expect_err("only the current plan can be approved");
                assert!(["superseded", "not_waiting", "finished"].contains(&refused.code.as_str()));
                return;
            }
            2 => Signal::Revise { text },
            3 => Signal::Reject { note: None },
            4 => Signal::Answer { text: if self.tape.pick(2) == 0 { "3".to_owned() } else { text } },
            5 => Signal::Abort,
            6 => Signal::Retry { from: self.some_step() },
            _ => Signal::Revise { text: String::new() },
        };
        let _ = self.signal(signal);
    }

    /// What is admitted is never refused by the door.
    pub fn signal(&mut self, signal: Signal) -> Result<(), Refused> {
        let asks = |kind: QuestionKind| {
            let waits = self.state.waiting().any(|(_, question)| question.kind == kind);
            waits && !self.state.going_back() && self.state.ending().is_none()
        };
        let (approves, current) = (asks(QuestionKind::Approval), self.state.plan().map(|plan| plan.hash.clone()));
        let verdict = self.state.admit(&self.graph, Request { signal: signal.clone(), who: who() });
        match &signal {
            Signal::Approve { plan_hash, .. } => {
                assert_eq!(verdict.is_ok(), approves && Some(plan_hash) == current.as_ref());
            }
            Signal::Reject { .. } => assert_eq!(verdict.is_ok(), approves),
            Signal::Revise { .. } => assert!(approves || verdict.is_err()),
            Signal::Retry { .. } => assert!(self.state.ending().is_some() || verdict.is_err()),
            Signal::Abort => assert!(self.state.ending().is_none() || verdict.is_err()),
            Signal::Answer { .. } => {
                assert!(asks(QuestionKind::Answer) || asks(QuestionKind::Budget) || verdict.is_err());
            }
        }
        if let Ok(EventBody::Answered { step, .. }) = &verdict {
            let shown = self.state.waiting().find(|(_, question)| question.kind != QuestionKind::Approval);
            assert_eq!(
                Some(step),
                shown.map(|(at, _)| &self.graph.node(at).id),
                "the first question is answered first"
            );
        }
        verdict.map(|body| self.record(body))
    }

    /// The engine dies and another takes over from what is stored.
    pub fn crash(&mut self) {
        self.now = self.now.plus_ms([0, 3, 1_000, 100_000][self.tape.pick(4)]);
        let stored: Vec<String> = self.events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        let events: Vec<Event> = stored.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let (_, recovered) = RunState::replay(&events).unwrap();
        assert_eq!(recovered, self.state, "replay equals live");
        self.state = recovered;
        self.calls.clear();
        self.record(EventBody::Resumed {});
        for at in self.state.running().collect::<Vec<_>>() {
            let body = self.state.interrupted(&self.graph, at, None);
            self.record(body);
        }
    }

    /// An event that nobody asked for: it is refused and changes nothing, or the promises hold with it.
    fn intrude(&mut self) {
        let at = self.tape.pick(self.graph.len());
        let right = |body| Event { seq: self.state.seq() + 1, at: self.now, body };
        let wrong = right(EventBody::Resumed {});
        let gap = Event { seq: wrong.seq + 1, ..wrong.clone() };
        let again = Event { seq: wrong.seq - 1, ..wrong.clone() };
        let early = Event { at: Timestamp(self.state.updated_at().0 - 1), ..wrong };
        let other = self.tape.pick(self.graph.len());
        let mut events = vec![(gap, false), (again, false), (early, false)];
        events.extend(self.intruders(at, other).into_iter().map(|body| (right(body), true)));
        let mut state = self.state.clone();
        for (event, allowed) in events {
            match state.apply(&self.graph, &event) {
                Err(_) => assert_eq!(state, self.state, "a refused event changes nothing"),
                Ok(()) => {
                    assert!(allowed, "gaps and steps back in time are refused");
                    let mut oracle = self.oracle.clone();
                    oracle.see(&self.graph, &self.state, &event, &state);
                    oracle.check_due(&self.graph, &state, self.now);
                    state = self.state.clone();
                }
            }
        }
    }

    /// One of everything that could be claimed of a step.
    fn intruders(&self, at: StepIndex, other: StepIndex) -> Vec<EventBody> {
        use EventBody::*;
        let step = || self.id(at);
        let (attempt, round, turn) = self.state.next_start(at);
        let reason = || "no reason".to_owned();
        let plan = self.state.plan().map_or_else(|| plan_record(&self.state, 0), Clone::clone);
        let mut forged = plan_record(&self.state, 1);
        forged.plan.title.push('!');
        let record = |record: &PlanRecord| serde_json::to_value(record).unwrap();
        let error = Failure { retryable: true, ..Failure::terminal("odd", "odd") }.feedback("odd");
        let revision = plan.revision;
        let mut all = vec![
            StepStarted { step: step(), attempt, round, turn },
            StepStarted { step: step(), attempt: attempt + 1, round, turn },
            StepStarted { step: step(), attempt, round: round + 1, turn },
            StepStarted { step: step(), attempt, round, turn: turn + 1 },
            StepContinued { step: step(), carry: json!(1) },
            StepSucceeded { step: step(), output: json!({"hash": "sha256:0"}) },
            StepSucceeded { step: step(), output: record(&plan) },
            StepSucceeded { step: step(), output: record(&plan_record(&self.state, 2)) },
            StepSucceeded { step: step(), output: record(&forged) },
            StepSkipped { step: step(), reason: reason() },
            StepFailed { step: step(), error },
            StepCancelled { step: step(), reason: reason() },
            StepInterrupted { step: step(), reason: None },
            StepParked { step: step(), reason: reason(), until: self.now, carry: Value::Null },
            Approved { step: step(), plan_hash: plan.hash, revision, who: who(), note: None },
            Approved { step: step(), plan_hash: "sha256:0".to_owned(), revision, who: who(), note: None },
            Revised { step: step(), text: reason(), who: who() },
            Rejected { step: step(), who: who(), note: None },
            Answered { step: step(), text: reason(), more_usd: Usd(0), more_tokens: 0, who: who() },
            Retried { from: None, who: who() },
            Retried { from: Some(step()), who: who() },
            Rewound { from: step(), to: self.id(other) },
            Rewound { from: self.id(other), to: step() },
            WallLimitReached {},
            AbortRequested { who: who() },
            StepSkipped { step: id("nowhere"), reason: reason() },
        ];
        let kinds = [QuestionKind::Approval, QuestionKind::Answer, QuestionKind::Budget];
        all.extend(kinds.map(|kind| {
            let question = Question { kind, text: reason() };
            StepAsked { step: step(), question, carry: Value::Null }
        }));
        let next = self.state.next_call();
        all.extend([next - 1, next, next + 1].map(|call| CallStarted {
            step: step(),
            call,
            role: "planner".to_owned(),
            provider: String::new(),
            model: String::new(),
            reserved: Usd(1),
            reserved_tokens: 1,
            prompt: PromptRecord::default(),
        }));
        all.extend((1..=next).map(|call| CallFinished {
            step: step(),
            call,
            usage: tokens(1),
            usd: Usd(1),
            error: None,
        }));
        all.extend([Ending::Completed, Ending::Failed, Ending::Aborted].map(|status| Finished { status, error: None }));
        all.push(self.events[0].body.clone());
        all
    }

    /// What must hold of a whole history.
    pub fn check_history(&self) -> Result<(), TestCaseError> {
        let stored: Vec<String> = self.events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        let events: Vec<Event> = stored.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let (_, replayed) = RunState::replay(&events).unwrap();
        proptest::prop_assert_eq!(&replayed, &self.state);
        let document = crate::core::report::document(&self.graph, &self.state);
        let failed = document["status"] == "FAILED";
        proptest::prop_assert_eq!(failed, !document["error"].is_null());
        proptest::prop_assert!(document["waiting_for"].is_null());
        for at in 0..self.graph.len() {
            let over = matches!(self.state.phase(at), Phase::Succeeded | Phase::Failed);
            let step = &document["steps"][at];
            proptest::prop_assert_eq!(step["finished_at"].is_null() && over, false, "{}", step);
        }
        Ok(())
    }
}
