//! The desk of a daemon: what every channel can do to any run, in one place, so that all of them do and say the same.
//!
//! Channels hand in tasks and signals and read reports here; the desk checks, records and drives. It does not know which
//! channel asks, beyond the name that goes into the record.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{App, TaskRequest};
use crate::core::event::{Event, Who};
use crate::core::id::RunId;
use crate::core::request::{Refused, Request, Signal};
use crate::engine::{Answer, Engine, EngineError, Notice, Until};
use crate::error::Error;
use crate::journal::{Acceptance, RunRow, Verdict};

/// How often requests of other processes are looked for.
const POSTED_POLL: Duration = Duration::from_millis(50);

/// A task that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// Its run.
    pub run: RunId,
    /// Whether the run is new; otherwise its key, or its id, had come before.
    pub new: bool,
}

/// What the channels of a daemon share.
pub struct Desk {
    /// The home.
    pub app: Arc<App>,
    engine: Arc<Engine>,
    driving: TaskTracker,
    stop: CancellationToken,
}

impl Desk {
    /// A desk over an engine, whose home's lock the caller holds. When `stop` fires, runs are put down safely.
    pub fn new(app: Arc<App>, engine: Arc<Engine>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { app, engine, driving: TaskTracker::new(), stop })
    }

    /// Takes a task in: from the moment this returns no crash loses it, and it is being driven.
    pub async fn submit(self: &Arc<Self>, request: TaskRequest) -> Result<Submitted, Error> {
        let spec = self.app.new_run(request).await?;
        let run = spec.task_id;
        let submitted = match self.engine.accept(spec).await? {
            Acceptance::New => Submitted { run, new: true },
            Acceptance::Existing(run) => Submitted { run, new: false },
        };
        self.drive(submitted.run);
        Ok(submitted)
    }

    /// A person's word to a run: recorded, or refused with what is true now.
    pub async fn signal(self: &Arc<Self>, run: RunId, signal: Signal, who: Who) -> Result<(), Error> {
        match self.decide(run, Request { signal, who }).await? {
            Verdict::Recorded => Ok(()),
            Verdict::Refused(refused) => Err(refused.into()),
        }
    }

    async fn decide(self: &Arc<Self>, run: RunId, request: Request) -> Result<Verdict, EngineError> {
        Ok(match self.engine.submit(run, request).await? {
            Answer::Driven => Verdict::Recorded,
            // A run that had ended, or that nobody took up, goes on.
            Answer::Idle => {
                self.drive(run);
                Verdict::Recorded
            }
            Answer::Refused(refused) => Verdict::Refused(refused),
        })
    }

    /// Drives a run in the background, to its end; one that is driven already is left alone.
    pub fn drive(self: &Arc<Self>, run: RunId) {
        if self.stop.is_cancelled() {
            return;
        }
        let (engine, stop) = (self.engine.clone(), self.stop.clone());
        self.driving.spawn(async move {
            match engine.drive(run, Until::Ended, stop).await {
                Ok(_) | Err(EngineError::Driven(_)) => {}
                Err(error) => {
                    tracing::error!(%run, error = %Error::from(error).to_text().trim_end(), "run stands still")
                }
            }
        });
    }

    /// Takes up every run that has not ended.
    pub async fn take_up(self: &Arc<Self>) -> Result<usize, Error> {
        let open = self.app.journal.open_runs().await?;
        open.iter().for_each(|run| self.drive(*run));
        Ok(open.len())
    }

    /// Answers what other processes asked through the journal, until the stop.
    pub async fn serve_posted(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
            match self.app.journal.posted().await {
                Ok(posted) => {
                    for asked in posted {
                        let verdict = self.decide(asked.run, asked.request).await.unwrap_or_else(|error| {
                            Verdict::Refused(Refused { code: "engine".to_owned(), message: error.to_string() })
                        });
                        if let Err(error) = self.app.journal.judge(asked.id, verdict).await {
                            tracing::warn!(%error, "cannot answer a posted request");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot look for posted requests"),
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(POSTED_POLL) => {}
            }
        }
    }

    /// Waits until every run has been put down; call it after the stop.
    pub async fn drained(&self) {
        self.driving.close();
        self.driving.wait().await;
    }

    /// The contract's document of a run.
    pub async fn document(&self, run: RunId) -> Result<Value, Error> {
        self.app.document(run).await
    }

    /// The newest runs first, at most `limit`.
    pub async fn runs(&self, limit: usize) -> Result<Vec<RunRow>, Error> {
        Ok(self.app.journal.runs(limit).await?)
    }

    /// A run's events with a number above `after`, in order.
    pub async fn events(&self, run: RunId, after: u64) -> Result<Vec<Event>, Error> {
        Ok(self.app.journal.events(run, after).await?)
    }

    /// Everything that happens from now on; a slow listener may lose notices and reads the journal instead.
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.engine.subscribe()
    }

    /// Fires when the daemon stops: channels end their open streams then.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }
}
