//! One run's loop: what is due is recorded, then performed; what was performed is recorded, then followed up.
//!
//! `stage` folds events into the state, `flush` makes them durable, and only then is anything performed or published.
//! A tick's events share one transaction, so that a step's end and the next one's start cost one fsync.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fit::fitting;
use super::log::RunLog;
use super::masking::masked;
use super::money::{Money, MoneyDesk, budget_question};
use super::permits::{Permit, Ticket};
use super::rooms::Rooms;
use super::windup::wind_up;
use super::{Ask, Engine, EngineError, Notice, Outputs, Prepared, fold, load, summary};
use crate::core::event::{Event, EventBody, RunSpec};
use crate::core::failure::Failure;
use crate::core::graph::{Graph, StepIndex};
use crate::core::id::RunId;
use crate::core::scheduler::{Effect, due, wake_after, wake_at};
use crate::core::state::{Phase, RunState};
use crate::core::time::Timestamp;
use crate::journal::JournalError;
use crate::steps::{
    CONTAINER_LOST, CallIntent, Context, Equipment, Grants, Log as _, NoCall, Outcome, Produced, Stream, Turn,
    scope_of, template_context,
};

/// How long running steps may take to stop when the engine is told to.
const GRACE: Duration = Duration::from_secs(10);
/// Where nothing happens for longer than this, nothing is kept warm.
const LONG_WAIT: Duration = Duration::from_secs(60);
/// Between tries to write to a journal that is full or busy.
const JOURNAL_RETRY: Duration = Duration::from_secs(2);
/// A step's output above this is refused: it belongs in an artifact.
const OUTPUT_MAX: usize = 512 * 1024;
/// How long a run is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until it ends.
    Ended,
    /// Until it ends or only a person can take it further.
    PersonNeeded,
}

/// Why driving stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The run ended.
    Ended,
    /// A person is needed.
    PersonNeeded,
    /// The engine was told to stop; the run can be resumed.
    Interrupted,
}

/// Why a running step is being stopped.
#[derive(Debug, Clone, Copy)]
enum Why {
    Cancel(&'static str),
    TimeOut,
    Shutdown,
}

struct Live {
    token: CancellationToken,
    why: Option<Why>,
}

struct Driver<'e> {
    engine: &'e Engine,
    run: RunId,
    spec: Arc<RunSpec>,
    graph: Graph,
    state: RunState,
    prepared: Arc<Prepared>,
    equipment: Arc<Equipment>,
    log: Arc<RunLog>,
    tasks: JoinSet<(StepIndex, Outcome)>,
    indices: HashMap<tokio::task::Id, StepIndex>,
    live: HashMap<StepIndex, Live>,
    money: mpsc::Sender<Money>,
    staged: Vec<Event>,
    turn: RunTurn,
    rooms: Rooms,
    /// Steps that run again because the container of their last turn was lost: twice in a row is a failure.
    reruns: HashSet<StepIndex>,
    stop: CancellationToken,
    /// When running steps are told to stop because the engine stops.
    shut_at: Option<Instant>,
    /// They were told.
    shut: bool,
    /// The time that holds while it is found out what is due.
    instant: Option<Timestamp>,
}

/// Whether the run may work: see [`super::Caps`].
enum RunTurn {
    /// It has nothing to do.
    Idle,
    /// It has, and there is no room.
    Queued(Ticket),
    /// It works.
    Working { _permit: Permit },
}

impl RunTurn {
    /// Waits for the permit; for ever where nobody queued. Safe to drop while it waits.
    async fn come(&mut self) {
        match self {
            Self::Queued(ticket) => *self = Self::Working { _permit: ticket.turn().await },
            _ => std::future::pending().await,
        }
    }
}

/// What is due now.
struct Tick {
    /// When it was asked: what becomes due later is waited for.
    at: Timestamp,
    /// Steps whose start was recorded.
    starts: Vec<StepIndex>,
    /// The first step that would start if it were the run's turn.
    held: Option<StepIndex>,
}

/// Drives a run; see [`Engine::drive`].
pub(super) async fn drive(
    engine: &Engine,
    run: RunId,
    requests: mpsc::Receiver<Ask>,
    until: Until,
    stop: CancellationToken,
) -> Result<Stopped, EngineError> {
    let (graph, state) = load(engine.journal.as_ref(), run).await?;
    if state.ending().is_some() {
        return Ok(Stopped::Ended);
    }
    let spec = Arc::new(state.spec().clone());
    let prepared = match engine.outfitter.outfit(&spec) {
        Ok(prepared) => Arc::new(prepared),
        // Whoever takes a repository out of the settings can still stop what was to run in it.
        Err(missing) if state.halting() => return wind_up(engine, run, &graph, state, missing).await,
        Err(missing) => return Err(EngineError::Outfit(missing)),
    };
    let dir = engine.run_dir(run);
    let logs = dir.join("logs");
    let private = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&logs);
    private.map_err(|source| EngineError::Folder { path: logs.clone(), source })?;
    let log = Arc::new(RunLog {
        run,
        dir: logs,
        masker: prepared.equipment.masker.clone(),
        clock: engine.clock,
        feed: engine.feed.clone(),
        files: Mutex::new(HashMap::new()),
        broken: AtomicBool::new(false),
    });
    let (money, asked) = mpsc::channel(64);
    let equipment = prepared.equipment.clone();
    let mut driver = Driver {
        engine,
        run,
        spec,
        graph,
        state,
        prepared,
        rooms: Rooms::new(equipment.sandbox.clone()),
        reruns: HashSet::new(),
        equipment,
        log,
        tasks: JoinSet::new(),
        indices: HashMap::new(),
        live: HashMap::new(),
        money,
        staged: Vec::new(),
        turn: RunTurn::Idle,
        stop,
        shut_at: None,
        shut: false,
        instant: None,
    };
    let stopped = driver.go(asked, requests, until).await;
    // What still runs ends first (after an error, something may); then nothing of the run is kept warm.
    let _ = tokio::time::timeout(GRACE, driver.tasks.shutdown()).await;
    driver.rooms.close().await;
    stopped
}

impl Driver<'_> {
    async fn go(
        &mut self,
        mut asked: mpsc::Receiver<Money>,
        mut requests: mpsc::Receiver<Ask>,
        until: Until,
    ) -> Result<Stopped, EngineError> {
        self.take_up()?;
        loop {
            let tick = self.plan_tick()?;
            self.flush().await?;
            if self.queue_up(&tick) {
                continue;
            }
            for at in tick.starts {
                self.perform(at);
            }
            if self.state.ending().is_some() {
                return Ok(Stopped::Ended);
            }
            let stopping = self.stop.is_cancelled();
            let now = self.now();
            let wake = wake_after(&self.graph, &self.state, tick.at).map(|at| Duration::from_millis(at.since(now)));
            if self.live.is_empty() {
                if stopping {
                    return Ok(Stopped::Interrupted);
                }
                let only_people = tick.held.is_none()
                    && wake_at(&self.graph, &self.state).is_none()
                    && self.state.waiting().next().is_some();
                if only_people && until == Until::PersonNeeded {
                    return Ok(Stopped::PersonNeeded);
                }
                if wake.is_none_or(|wake| wake > LONG_WAIT) {
                    self.rooms.vacate();
                }
            }
            tokio::select! {
                Some(joined) = self.tasks.join_next_with_id() => {
                    self.ended(joined)?;
                    // What ended meanwhile shares the transaction.
                    while let Some(joined) = self.tasks.try_join_next_with_id() {
                        self.ended(joined)?;
                    }
                }
                Some(money) = asked.recv() => self.settle(money).await?,
                Some(ask) = requests.recv() => self.request(ask).await?,
                () = tokio::time::sleep(wake.unwrap_or(Duration::MAX)), if wake.is_some() => {}
                // The time in the queue is not the run's.
                () = self.turn.come() => self.stage(EventBody::Resumed {})?,
                // Told apart from `stopping`: the word may come after the check above and before this wait.
                () = self.stop.cancelled(), if self.shut_at.is_none() => {
                    self.shut_at = Some(Instant::now() + self.engine.patience());
                }
                () = tokio::time::sleep_until(self.shut_at.unwrap_or_else(Instant::now)), if self.shut_at.is_some() && !self.shut => {
                    self.shut_down();
                }
            }
        }
    }

    /// Takes or gives back the run's turn, as it has something to do or not. True where it is its turn just now, and what is
    /// due must be asked again.
    fn queue_up(&mut self, tick: &Tick) -> bool {
        match (&self.turn, tick.held) {
            (RunTurn::Idle, Some(at)) => {
                let repo = self.spec.repo.as_deref();
                let mut ticket = self.engine.permits.ask(repo);
                if let Some(permit) = ticket.now() {
                    self.turn = RunTurn::Working { _permit: permit };
                    return true;
                }
                let why = self.engine.permits.why(repo);
                self.log.line(&self.graph.node(at).id, Stream::Note, &why);
                self.turn = RunTurn::Queued(ticket);
            }
            (RunTurn::Queued(_), None) => self.turn = RunTurn::Idle,
            (RunTurn::Working { .. }, None) if tick.starts.is_empty() && self.live.is_empty() => {
                self.turn = RunTurn::Idle
            }
            _ => {}
        }
        false
    }

    /// Never before the last event: another machine's or an earlier boot's clock may have been ahead.
    fn now(&self) -> Timestamp {
        self.instant.unwrap_or_else(|| self.engine.clock.now().max(self.state.updated_at()))
    }

    fn stage(&mut self, body: EventBody) -> Result<(), EngineError> {
        let at = self.now();
        self.staged.push(fold(self.run, &self.graph, &mut self.state, at, body)?);
        Ok(())
    }

    /// Makes what was staged durable, then tells of it. A full or busy journal pauses the run instead of losing it.
    async fn flush(&mut self) -> Result<(), EngineError> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let mut told = false;
        loop {
            let summary = summary(&self.graph, &self.state);
            match self.engine.journal.append(self.run, self.staged.clone(), summary).await {
                Ok(()) => break,
                Err(error @ (JournalError::Full { .. } | JournalError::Busy { .. })) if !self.stop.is_cancelled() => {
                    if !std::mem::replace(&mut told, true) {
                        let why = format!("{error}; {}", error.hint().unwrap_or_default());
                        let _ = self.engine.feed.send(Notice::Paused { run: self.run, why });
                    }
                    tokio::select! {
                        () = tokio::time::sleep(JOURNAL_RETRY) => {}
                        () = self.stop.cancelled() => {}
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        for event in self.staged.drain(..) {
            self.engine.publish(self.run, event);
        }
        Ok(())
    }

    /// Takes over from whoever drove the run before.
    fn take_up(&mut self) -> Result<(), EngineError> {
        // Of a run that only waits there is nothing to take over; its last event stays the last thing that happened.
        if self.state.seq() == 1 || self.state.at_rest() {
            return Ok(());
        }
        self.stage(EventBody::Resumed {})?;
        for at in self.state.running().collect::<Vec<_>>() {
            let body = self.state.interrupted(&self.graph, at, None);
            self.stage(body)?;
        }
        Ok(())
    }

    /// Stages the intent of everything that is due; the steps to perform come back.
    fn plan_tick(&mut self) -> Result<Tick, EngineError> {
        let at = self.now();
        // One instant for all of it: otherwise what became due between two looks at the clock would be missed.
        self.instant = Some(at);
        let tick = self.plan_at(at);
        self.instant = None;
        tick
    }

    fn plan_at(&mut self, at: Timestamp) -> Result<Tick, EngineError> {
        let mut tick = Tick { at, starts: Vec::new(), held: None };
        loop {
            let mut moved = false;
            for effect in due(&self.graph, &self.state, at) {
                match effect {
                    Effect::Start(_) | Effect::Forbid(_) if self.stop.is_cancelled() => {}
                    Effect::Start(at) if !matches!(self.turn, RunTurn::Working { .. }) => {
                        tick.held.get_or_insert(at);
                    }
                    // The clock runs on in the queue; the time there is not the run's.
                    Effect::WallLimit if matches!(self.turn, RunTurn::Queued(_)) => {
                        tick.held.get_or_insert(0);
                    }
                    Effect::Start(at) => {
                        let (attempt, round, turn) = self.state.next_start(at);
                        let step = self.graph.node(at).id.clone();
                        self.stage(EventBody::StepStarted { step, attempt, round, turn })?;
                        tick.starts.push(at);
                    }
                    Effect::Forbid(at) => {
                        let step = self.graph.node(at).id.clone();
                        self.stage(EventBody::StepFailed { step, error: Failure::not_approved() })?;
                        moved = true;
                    }
                    Effect::Cancel(at, reason) => self.halt(at, Why::Cancel(reason)),
                    Effect::TimeOut(at) => self.halt(at, Why::TimeOut),
                    Effect::Rewind { from, to } => {
                        let (from, to) = (self.graph.node(from).id.clone(), self.graph.node(to).id.clone());
                        self.stage(EventBody::Rewound { from, to })?;
                        moved = true;
                    }
                    Effect::WallLimit => {
                        self.stage(EventBody::WallLimitReached {})?;
                        moved = true;
                    }
                    Effect::Finish(status, error) => self.stage(EventBody::Finished { status, error })?,
                }
            }
            if !moved {
                return Ok(tick);
            }
        }
    }

    fn halt(&mut self, at: StepIndex, why: Why) {
        if let Some(live) = self.live.get_mut(&at) {
            live.why.get_or_insert(why);
            live.token.cancel();
        }
    }

    fn shut_down(&mut self) {
        self.shut = true;
        for live in self.live.values_mut() {
            live.why.get_or_insert(Why::Shutdown);
            live.token.cancel();
        }
    }

    fn outputs(&self, at: StepIndex) -> Outputs {
        let id = &self.graph.node(at).id;
        let wanted: Vec<StepIndex> = match self.prepared.steps.get(id).and_then(|step| step.references.as_ref()) {
            Some(references) => references.iter().filter_map(|id| self.graph.find(id)).collect(),
            None => self.graph.upstream(at),
        };
        wanted
            .into_iter()
            .map(|index| {
                let (node, step) = (self.graph.node(index), self.state.step(index));
                let output = if step.output.is_null() { json!({}) } else { step.output.clone() };
                (
                    node.id.clone(),
                    Produced {
                        kind: node.kind.clone(),
                        place: self.graph.place(index),
                        state: step.phase.as_str(),
                        output,
                    },
                )
            })
            .collect()
    }

    /// Starts the step's task; its intent is on disk.
    fn perform(&mut self, at: StepIndex) {
        let token = CancellationToken::new();
        let step = self.state.step(at);
        let turn = Turn {
            attempt: step.attempt,
            round: step.round,
            turn: step.turn,
            carry: step.carry.clone(),
            answer: step.answer.clone(),
            feedback: step.feedback.clone(),
            previous: step.previous.clone(),
            usd: step.usd,
            usage: step.usage,
        };
        if let Some(taken) = self.fresh_room() {
            self.equipment = taken;
        }
        let context = Context {
            step: self.graph.node(at).id.clone(),
            spec: self.spec.clone(),
            plan: self.state.plan().cloned(),
            outputs: self.outputs(at),
            env: Vec::new(),
            grants: Grants::default(),
            run_dir: self.engine.run_dir(self.run),
            now: self.now(),
            equipment: self.equipment.clone(),
            ledger: Arc::new(MoneyDesk { sender: self.money.clone() }),
            log: self.log.clone(),
            cancel: token.clone(),
        };
        let prepared = self.prepared.clone();
        let freed = self.rooms.freed(at);
        let masker = self.equipment.masker.clone();
        // Beyond the grace, a step that ignores its token is dropped; what it started dies with its sandbox.
        let task = async move {
            // What an earlier turn shared is gone before this one wants it anew.
            freed.await;
            let cancelled = context.cancel.clone();
            let grace = async move {
                cancelled.cancelled().await;
                tokio::time::sleep(GRACE).await;
            };
            tokio::select! {
                outcome = turn_of(&prepared, context, turn) => (at, masked(&masker, outcome)),
                () = grace => (at, Outcome::Fail(Failure::terminal("stuck", "the step did not stop in time"))),
            }
        };
        let handle = self.tasks.spawn(task);
        self.indices.insert(handle.id(), at);
        self.live.insert(at, Live { token, why: None });
    }

    /// The equipment with a sandbox of its own, where the one before was closed.
    fn fresh_room(&mut self) -> Option<Arc<Equipment>> {
        if !self.rooms.is_vacant() {
            return None;
        }
        match self.engine.outfitter.sandbox(&self.spec)? {
            Ok(sandbox) => {
                self.rooms.enter(sandbox.clone());
                Some(Arc::new(Equipment { sandbox, ..self.equipment.as_ref().clone() }))
            }
            // The closed one says by itself what it cannot do.
            Err(failure) => {
                tracing::warn!("{}", failure.message);
                None
            }
        }
    }

    /// Records how a turn ended.
    fn ended(
        &mut self,
        joined: Result<(tokio::task::Id, (StepIndex, Outcome)), tokio::task::JoinError>,
    ) -> Result<(), EngineError> {
        let (at, outcome) = match joined {
            Ok((id, (at, outcome))) => {
                self.indices.remove(&id);
                (at, outcome)
            }
            Err(error) => {
                let at = self.indices.remove(&error.id()).expect("every task has an index");
                let failure = Failure::terminal("bug", format!("the step's code failed: {error}"))
                    .hint("this is a bug of devo; please report it with the run's log");
                (at, Outcome::Fail(failure))
            }
        };
        let why = self.live.remove(&at).and_then(|live| live.why);
        if !matches!(outcome, Outcome::Again(_)) {
            // Also where the step only waits: nothing is kept for it meanwhile.
            let state = self.state.step(at);
            self.rooms.release(at, scope_of(&self.graph.node(at).id, state.attempt, state.round));
        }
        let lost = matches!(&outcome, Outcome::Fail(error) if error.code == CONTAINER_LOST) && why.is_none();
        let again = lost && self.reruns.insert(at);
        if !again {
            self.reruns.remove(&at);
        }
        let step = self.graph.node(at).id.clone();
        let body = match (why, outcome) {
            (_, Outcome::Done(output)) => match serde_json::to_vec(&output).map_or(usize::MAX, |text| text.len()) {
                size if size > OUTPUT_MAX => {
                    let message = format!("the step's output has {size} bytes; {OUTPUT_MAX} are allowed");
                    EventBody::StepFailed { step, error: Failure::terminal("output_too_large", message) }
                }
                _ => EventBody::StepSucceeded { step, output },
            },
            (Some(Why::Shutdown) | None, Outcome::Again(carry)) => EventBody::StepContinued { step, carry },
            (Some(Why::Shutdown), _) => EventBody::StepInterrupted { step, reason: None },
            (Some(Why::Cancel(reason)), _) => EventBody::StepCancelled { step, reason: reason.to_owned() },
            (Some(Why::TimeOut), _) => {
                let limit = self.graph.node(at).timeout_ms.unwrap_or(0) as f64 / 1_000.0;
                let error = Failure::retryable("timeout", format!("the step took longer than its limit of {limit} s"))
                    .hint("raise its `timeout`, or find out in `devo logs` what it waited for");
                EventBody::StepFailed { step, error }
            }
            (None, Outcome::Skip(reason)) => EventBody::StepSkipped { step, reason },
            (None, Outcome::Ask(question, carry)) => EventBody::StepAsked { step, question, carry },
            (None, Outcome::Park { reason, for_ms, carry }) => {
                let until = self.now().plus_ms(for_ms);
                EventBody::StepParked { step, reason, until, carry }
            }
            (None, Outcome::Fail(error)) if again => {
                self.log.line(&step, Stream::Note, &format!("{}; the step runs again", error.message));
                self.state.interrupted(&self.graph, at, Some(error.message))
            }
            (None, Outcome::Fail(error)) => EventBody::StepFailed { step, error },
        };
        let body = fitting(body);
        if let EventBody::StepFailed { step, error } = &body {
            self.log.line(step, Stream::Note, &format!("failed: {}", error.message));
        }
        self.stage(body)
    }

    async fn settle(&mut self, money: Money) -> Result<(), EngineError> {
        match money {
            Money::Begin { step, intent, reply } => {
                let at = self.graph.find(&step).expect("only steps of the run have a desk");
                let answer = if self.live.get(&at).is_none_or(|live| live.why.is_some()) {
                    Err(NoCall::Stopped)
                } else if self.state.affords(intent.usd, intent.tokens) {
                    let call = self.state.next_call();
                    let CallIntent { role, provider, model, usd, tokens, prompt } = intent;
                    let body = EventBody::CallStarted {
                        step,
                        call,
                        role,
                        provider,
                        model,
                        reserved: usd,
                        reserved_tokens: tokens,
                        prompt,
                    };
                    self.stage(body)?;
                    self.flush().await?;
                    Ok(call)
                } else {
                    Err(NoCall::Limit(budget_question(&self.state, &intent)))
                };
                // The step may have been dropped meanwhile; its reservation is settled when the run is taken up again.
                let _ = reply.send(answer);
            }
            Money::End { step, call, usage, usd, error, reply } => {
                // Shares the transaction of the turn's end: should the engine die before, the reservation counts.
                if self.graph.find(&step).is_some_and(|at| *self.state.phase(at) == Phase::Running) {
                    self.stage(EventBody::CallFinished { step, call, usage, usd, error })?;
                }
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    async fn request(&mut self, ask: Ask) -> Result<(), EngineError> {
        let verdict = match self.state.admit(&self.graph, ask.request) {
            Ok(body) => {
                self.stage(body)?;
                self.flush().await?;
                Ok(())
            }
            Err(refused) => Err(refused),
        };
        // The asker may have gone; what is recorded stands.
        let _ = ask.reply.send(verdict);
        Ok(())
    }
}

/// Evaluates the step's condition and environment, then runs its turn.
async fn turn_of(prepared: &Prepared, mut context: Context, turn: Turn) -> Outcome {
    let Some(step) = prepared.steps.get(&context.step) else {
        return Outcome::Fail(Failure::terminal("bug", format!("step `{}` was not prepared", context.step)));
    };
    context.grants = match &step.grants {
        Ok(grants) => grants.clone(),
        Err(failure) => return Outcome::Fail(failure.clone()),
    };
    if (step.condition.is_some() && turn.turn == 1) || !step.env.is_empty() {
        let values = template_context(&context.spec, &context.outputs);
        if let Some(condition) = step.condition.as_ref().filter(|_| turn.turn == 1) {
            match crate::templates::evaluate(condition, &values) {
                Ok(true) => {}
                Ok(false) => return Outcome::Skip(format!("`if: {condition}` is false")),
                Err(error) => return Outcome::Fail(Failure::terminal("bad_condition", error.to_string())),
            }
        }
        for (name, template) in &step.env {
            match crate::templates::render(template, &values) {
                Ok(value) => context.env.push((name.clone(), value)),
                Err(error) => return Outcome::Fail(Failure::terminal("bad_template", format!("env {name}: {error}"))),
            }
        }
    }
    step.step.run(&context, turn).await
}
