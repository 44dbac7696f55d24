//! The engine: drives runs from event to effect and back. It knows steps by their trait and the journal by its own;
//! it does not know what a step does, nor who asks.

mod clock;
mod driver;
mod fit;
mod lock;
mod log;
mod masking;
mod money;
mod permits;
mod rooms;
#[cfg(test)]
mod tests;
mod windup;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::core::event::{Event, EventBody, QuestionKind, RunSpec};
use crate::core::failure::Failure;
use crate::core::graph::Graph;
use crate::core::id::{RunId, StepId};
use crate::core::report;
use crate::core::request::{Refused, Request, Signal};
use crate::core::state::{IllegalEvent, RunState};
use crate::core::time::Timestamp;
use crate::journal::{Acceptance, Journal, JournalError, Summary, Verdict};
use crate::sandboxes::Sandbox;
use crate::steps::{Equipment, Grants, Step, Stream};

use permits::Permits;

pub use clock::Clock;
pub use driver::{Stopped, Until};
pub use lock::{HomeLock, LockError};
pub use log::Line;
pub use permits::Caps;

/// How often requests of other processes are looked for: soon enough to feel immediate, rare enough to cost nothing.
const POSTED_POLL: Duration = Duration::from_millis(50);
/// Notices that a slow listener may lag behind before it loses the oldest (it can read the journal).
const FEED: usize = 4096;

/// The file in a run's folder that says that its workspace was removed: the run cannot be retried.
pub const CLEARED: &str = "cleared";

/// Something that listeners may show; the journal, not this, is the record.
#[derive(Debug, Clone)]
pub enum Notice {
    /// An event was recorded.
    Event {
        /// Of which run.
        run: RunId,
        /// Which.
        event: Arc<Event>,
    },
    /// A line for people.
    Line {
        /// Of which run.
        run: RunId,
        /// Of which step.
        step: StepId,
        /// Where it came from.
        stream: Stream,
        /// Masked and cleaned.
        text: String,
    },
    /// The run stands still because the journal cannot be written.
    Paused {
        /// Which run.
        run: RunId,
        /// Why, and what to do.
        why: String,
    },
}

/// A step of a run, parsed and ready.
pub struct PreparedStep {
    /// What runs.
    pub step: Box<dyn Step>,
    /// The `if` expression.
    pub condition: Option<String>,
    /// The `env` templates.
    pub env: Vec<(String, String)>,
    /// What its commands are given, or why the step cannot have what it names: it then fails before anything of it runs.
    pub grants: Result<Grants, Failure>,
    /// The steps whose outputs it is shown; `None` where it may look at all that come before it.
    pub references: Option<Vec<StepId>>,
}

/// A run's steps and what they share.
pub struct Prepared {
    /// By id.
    pub steps: HashMap<StepId, PreparedStep>,
    /// What they share.
    pub equipment: Arc<Equipment>,
}

/// Turns what a run was accepted with into steps that can run; settings live behind it.
pub trait Outfitter: Send + Sync {
    /// Parses the stored pipeline and finds the equipment, or says what is missing.
    fn outfit(&self, spec: &RunSpec) -> Result<Prepared, Failure>;

    /// Another sandbox for a run whose first one was closed while nothing ran; `None` where a closed one can go on.
    fn sandbox(&self, spec: &RunSpec) -> Option<Result<Arc<dyn Sandbox>, Failure>> {
        let _ = spec;
        None
    }

    /// How many runs may work at once.
    fn caps(&self) -> Caps {
        Caps::default()
    }
}

/// What the engine cannot do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal's events do not fit together.
    #[error("run {run} cannot be read from the journal")]
    Illegal {
        /// Which.
        run: RunId,
        /// Why.
        source: IllegalEvent,
    },
    /// A run that is not there.
    #[error("there is no run {0}")]
    Unknown(RunId),
    /// Somebody drives the run already.
    #[error("run {0} is being driven already")]
    Driven(RunId),
    /// The run's folder cannot be made.
    #[error("cannot make the folder {path} of the run")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The equipment is not there.
    #[error("{}", .0.message)]
    Outfit(Failure),
}

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was recorded, and the run is being driven by this engine.
    Driven,
    /// It was recorded, and nobody drives the run.
    Idle,
    /// It was refused.
    Refused(Refused),
}

pub(crate) struct Ask {
    request: Request,
    reply: oneshot::Sender<Result<(), Refused>>,
}

/// The engine of one home.
pub struct Engine {
    journal: Arc<dyn Journal>,
    home: PathBuf,
    outfitter: Arc<dyn Outfitter>,
    clock: Clock,
    feed: broadcast::Sender<Notice>,
    driven: Mutex<HashMap<RunId, mpsc::Sender<Ask>>>,
    /// Held while a request is decided on without a driver, and while a driver begins: never both for one run.
    deciding: tokio::sync::Mutex<()>,
    permits: Arc<Permits>,
    /// How long running steps may go on by themselves after the stop, in milliseconds.
    patience_ms: AtomicU64,
}

impl Engine {
    /// An engine over a journal; the caller holds the home's lock.
    pub fn new(journal: Arc<dyn Journal>, home: PathBuf, outfitter: Arc<dyn Outfitter>, clock: Clock) -> Arc<Self> {
        let (feed, _) = broadcast::channel(FEED);
        let permits = Permits::new(outfitter.caps());
        Arc::new(Self {
            journal,
            home,
            outfitter,
            clock,
            feed,
            driven: Mutex::new(HashMap::new()),
            deciding: tokio::sync::Mutex::new(()),
            permits,
            patience_ms: AtomicU64::new(0),
        })
    }

    /// Everything that happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.feed.subscribe()
    }

    /// Lets running steps go on for this long after a stop, before they are told to end. At a terminal nobody wants to wait.
    pub fn be_patient(&self, patience: Duration) {
        self.patience_ms.store(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Other limits of how many runs work at once, from now on.
    pub fn limit(&self, caps: Caps) {
        self.permits.limit(caps);
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms.load(Ordering::Relaxed))
    }

    /// The folder of a run.
    pub fn run_dir(&self, run: RunId) -> PathBuf {
        self.home.join("runs").join(run.to_string())
    }

    /// Accepts a run: from the moment this returns, no crash loses it. A known key gives the run that has it.
    pub async fn accept(&self, spec: RunSpec) -> Result<Acceptance, EngineError> {
        let run = spec.task_id;
        let first = Event { seq: 1, at: self.clock.now(), body: EventBody::Accepted(Box::new(spec)) };
        let (graph, state) = RunState::accept(&first).map_err(|source| EngineError::Illegal { run, source })?;
        let acceptance = self.journal.accept(first.clone(), summary(&graph, &state)).await?;
        if acceptance == Acceptance::New {
            self.publish(run, first);
        }
        Ok(acceptance)
    }

    /// Drives a run until it ends, or until a person is needed where `until` says so, or until `stop` fires. It works only in
    /// its turn ([`Caps`]), and counts only while it works: not while it waits for a person.
    pub async fn drive(
        self: &Arc<Self>,
        run: RunId,
        until: Until,
        stop: CancellationToken,
    ) -> Result<Stopped, EngineError> {
        let (sender, requests) = mpsc::channel(64);
        {
            let _deciding = self.deciding.lock().await;
            let mut driven = self.driven.lock().expect("no holder of this lock can panic");
            if driven.contains_key(&run) {
                return Err(EngineError::Driven(run));
            }
            driven.insert(run, sender);
        }
        let _driving = Driving { engine: self, run };
        driver::drive(self, run, requests, until, stop).await
    }

    /// A run's graph and state, from the journal.
    pub async fn load(&self, run: RunId) -> Result<(Graph, RunState), EngineError> {
        load(self.journal.as_ref(), run).await
    }

    /// Whoever drives the run and still takes requests.
    fn driver(&self, run: RunId) -> Option<mpsc::Sender<Ask>> {
        let driven = self.driven.lock().expect("no holder of this lock can panic");
        driven.get(&run).filter(|driver| !driver.is_closed()).cloned()
    }

    /// Hands a request to whoever drives the run; if nobody does, decides and records it here.
    pub async fn submit(&self, run: RunId, request: Request) -> Result<Answer, EngineError> {
        if matches!(request.signal, Signal::Retry { .. }) && self.run_dir(run).join(CLEARED).exists() {
            let message = "the workspace of this run was removed by `devo gc`: submit its task again";
            return Ok(Answer::Refused(Refused { code: "cleared".to_owned(), message: message.to_owned() }));
        }
        let _deciding = loop {
            while let Some(driver) = self.driver(run) {
                let (reply, answer) = oneshot::channel();
                if driver.send(Ask { request: request.clone(), reply }).await.is_ok()
                    && let Ok(verdict) = answer.await
                {
                    return Ok(verdict.map_or_else(Answer::Refused, |()| Answer::Driven));
                }
                // The driver left while we asked.
            }
            let deciding = self.deciding.lock().await;
            // Nobody can begin to drive the run from here on: what is recorded here is seen by whoever does.
            if self.driver(run).is_none() {
                break deciding;
            }
        };
        let (graph, mut state) = self.load(run).await?;
        let body = match state.admit(&graph, request) {
            Ok(body) => body,
            Err(refused) => return Ok(Answer::Refused(refused)),
        };
        let at = self.clock.now().max(state.updated_at());
        let mut events = Vec::new();
        // Nothing ran since the last event: the time between must not count.
        let bodies = [(state.ending().is_none()).then_some(EventBody::Resumed {}), Some(body)];
        for body in bodies.into_iter().flatten() {
            events.push(fold(run, &graph, &mut state, at, body)?);
        }
        self.record(run, &graph, &state, events).await?;
        Ok(Answer::Idle)
    }

    /// Makes events that are folded into the state durable, then tells of them.
    async fn record(&self, run: RunId, graph: &Graph, state: &RunState, events: Vec<Event>) -> Result<(), EngineError> {
        self.journal.append(run, events.clone(), summary(graph, state)).await?;
        for event in events {
            self.publish(run, event);
        }
        Ok(())
    }

    /// Answers everything that other processes asked through the journal so far; `decide` says what becomes of a request.
    pub async fn answer_posted<F>(&self, decide: impl Fn(RunId, Request) -> F) -> Result<(), JournalError>
    where
        F: Future<Output = Result<Verdict, EngineError>>,
    {
        for asked in self.journal.posted().await? {
            let verdict = decide(asked.run, asked.request).await.unwrap_or_else(|error| {
                Verdict::Refused(Refused { code: "engine".to_owned(), message: error.to_string() })
            });
            if let Err(error) = self.journal.judge(asked.id, verdict).await {
                tracing::warn!(%error, "cannot answer a posted request");
            }
        }
        Ok(())
    }

    /// The same again and again until `stop` fires, for an engine that has no desk.
    pub async fn serve_posted(self: Arc<Self>, stop: CancellationToken) {
        let engine = &self;
        let decide = |run, request| async move {
            Ok(match engine.submit(run, request).await? {
                Answer::Driven | Answer::Idle => Verdict::Recorded,
                Answer::Refused(refused) => Verdict::Refused(refused),
            })
        };
        while !stop.is_cancelled() {
            if let Err(error) = self.answer_posted(decide).await {
                tracing::warn!(%error, "cannot look for posted requests");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(POSTED_POLL) => {}
            }
        }
    }

    fn publish(&self, run: RunId, event: Event) {
        // Nobody may be listening.
        let _ = self.feed.send(Notice::Event { run, event: Arc::new(event) });
    }
}

/// A driver's place among those of an engine, which is free again when this is dropped: also where the driver panics.
struct Driving<'e> {
    engine: &'e Engine,
    run: RunId,
}

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        // A second panic while one goes on would end the process.
        self.engine.driven.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.run);
    }
}

/// A run's graph and state, from a journal.
pub async fn load(journal: &dyn Journal, run: RunId) -> Result<(Graph, RunState), EngineError> {
    let events = journal.events(run, 0).await?;
    if events.is_empty() {
        return Err(EngineError::Unknown(run));
    }
    RunState::replay(&events).map_err(|source| EngineError::Illegal { run, source })
}

/// Folds the next event into a state, and gives it back to be recorded.
fn fold(run: RunId, graph: &Graph, state: &mut RunState, at: Timestamp, body: EventBody) -> Result<Event, EngineError> {
    let event = Event { seq: state.seq() + 1, at, body };
    state.apply(graph, &event).map_err(|source| EngineError::Illegal { run, source })?;
    Ok(event)
}

fn summary(graph: &Graph, state: &RunState) -> Summary {
    let spec = state.spec();
    let waiting = state.waiting().next().filter(|_| !state.going_back());
    Summary {
        status: state.status(graph).as_str().to_owned(),
        pipeline: spec.pipeline.clone(),
        repo: spec.repo.clone(),
        task: spec.task.clone(),
        waiting_for: waiting.map(|(_, question)| {
            let kind = match question.kind {
                QuestionKind::Approval => "approval",
                QuestionKind::Answer => "answer",
                QuestionKind::Budget => "budget",
            };
            kind.to_owned()
        }),
        ended: state.ending().is_some(),
    }
}

/// The run's document of the contract, from a journal.
pub async fn document(journal: &dyn Journal, run: RunId) -> Result<Value, EngineError> {
    let (graph, state) = load(journal, run).await?;
    Ok(report::document(&graph, &state))
}

type Outputs = BTreeMap<StepId, crate::steps::Produced>;
