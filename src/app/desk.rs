//! The desk of a daemon: what every channel can do to any run, in one place, so that all of them do and say the same.
//!
//! Channels hand in tasks and signals and read reports here; the desk checks, records and drives. It does not know which
//! channel asks, beyond the name that goes into the record.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde_json::Value;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lanes::{Back, Lanes};
use super::{App, STANDING, TaskRequest};
use crate::core::event::{Event, Who};
use crate::core::id::RunId;
use crate::core::request::{Request, Signal};
use crate::engine::{Answer, Caps, Engine, EngineError, Notice, Stopped, Until};
use crate::error::Error;
use crate::journal::{Acceptance, Census, JournalError, Notices, RunRow, Verdict, Wanted};

/// Between two looks for requests of other processes, while somebody writes or where the system does not tell who does.
const POSTED_POLL: Duration = Duration::from_millis(50);
/// Between two looks at the journal's file while nobody is seen to write: some file systems give no notices.
const POSTED_IDLE: Duration = Duration::from_secs(1);
/// The longest time between two looks for requests.
const POSTED_LOOK: Duration = Duration::from_secs(5);
/// Before a run is driven whose last driver is still closing.
const CLOSING: Duration = Duration::from_millis(50);
/// What is told of a run whose driver panicked; the panic itself is in the daemon's log.
const BUG: &str =
    "the engine failed while it worked on this run: a bug of devo; please report it with the daemon's log";
/// The journal's scope of runs that other processes want to go on.
const ASKED: &str = "asked";

/// New work is taken while this much of the disk is free, in bytes, or a twentieth of a small one.
const ROOM: u64 = 500 * 1024 * 1024;

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
    lanes: Arc<Mutex<Lanes>>,
    driving: TaskTracker,
    stop: CancellationToken,
    /// Fires when whoever holds this desk shall leave it.
    leave: CancellationToken,
}

impl Desk {
    /// A desk over an engine, whose home's lock the caller holds. When `stop` fires, runs are put down safely.
    pub fn new(app: Arc<App>, engine: Arc<Engine>, stop: CancellationToken) -> Arc<Self> {
        let limits = app.config().limits;
        let lanes = Arc::new(Mutex::new(Lanes::new(limits.runs, limits.per_repo)));
        Arc::new(Self { app, engine, lanes, driving: TaskTracker::new(), leave: stop.clone(), stop })
    }

    /// The same desk for one channel, which leaves it when the token fires, or the daemon stops.
    pub fn for_channel(&self) -> (Arc<Self>, CancellationToken) {
        let leave = self.stop.child_token();
        let desk = Self {
            app: self.app.clone(),
            engine: self.engine.clone(),
            lanes: self.lanes.clone(),
            driving: self.driving.clone(),
            stop: self.stop.clone(),
            leave: leave.clone(),
        };
        (Arc::new(desk), leave)
    }

    /// Takes a task in: from the moment this returns no crash loses it, and it is being driven.
    ///
    /// # Errors
    /// What is wrong with the task, or that the disk is nearly full.
    pub async fn submit(self: &Arc<Self>, request: TaskRequest) -> Result<Submitted, Error> {
        self.room()?;
        let spec = self.app.new_run(request).await?;
        let (run, repo) = (spec.task_id, spec.repo.clone());
        let desk = self.clone();
        self.whole(async move {
            match desk.engine.accept(spec).await? {
                Acceptance::New => {
                    desk.lanes().add(run, repo.as_deref(), false);
                    desk.pump();
                    Ok(Submitted { run, new: true })
                }
                Acceptance::Existing(run) => {
                    desk.drive(run).await?;
                    Ok(Submitted { run, new: false })
                }
            }
        })
        .await
    }

    /// Does all of it, also where the asker leaves before it is done (a connection that breaks, say): what was recorded
    /// would otherwise wait for a driver that nobody called.
    async fn whole<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.driving.spawn(work).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only where the program ends: nobody waits here any more.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Whether there is room for more work. What is under way needs the rest of the disk.
    ///
    /// # Errors
    /// That there is none.
    pub fn room(&self) -> Result<(), Error> {
        let Ok(disk) = rustix::fs::statvfs(&self.app.home) else { return Ok(()) };
        let (all, free) = (disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize));
        let needed = (all / 20).min(ROOM);
        if free >= needed {
            return Ok(());
        }
        let mib = |bytes: u64| bytes / (1024 * 1024);
        let message = format!("the disk of {} is nearly full: {} MiB are free", self.app.home.display(), mib(free));
        let hint = format!("new tasks are taken again above {} MiB; `devo gc` removes old workspaces", mib(needed));
        Err(Error { exit: crate::error::Exit::Failed, ..Error::refused("disk_full", message) }.hint(hint))
    }

    /// A person's word to a run: recorded, or refused with what is true now.
    pub async fn signal(self: &Arc<Self>, run: RunId, signal: Signal, who: Who) -> Result<(), Error> {
        match self.decide(run, Request { signal, who }).await? {
            Verdict::Recorded => Ok(()),
            Verdict::Refused(refused) => Err(refused.into()),
        }
    }

    async fn decide(self: &Arc<Self>, run: RunId, request: Request) -> Result<Verdict, EngineError> {
        let desk = self.clone();
        self.whole(async move { desk.decide_whole(run, request).await }).await
    }

    async fn decide_whole(self: &Arc<Self>, run: RunId, request: Request) -> Result<Verdict, EngineError> {
        let retries = matches!(request.signal, Signal::Retry { .. });
        Ok(match self.engine.submit(run, request).await? {
            Answer::Driven => Verdict::Recorded,
            // A run that had ended, or that waited for this word, goes on, and before others: somebody is there.
            Answer::Idle => {
                let row = self.app.journal.row(run).await?;
                self.lanes().add(run, row.and_then(|row| row.summary.repo).as_deref(), true);
                self.pump();
                Verdict::Recorded
            }
            Answer::Refused(refused) => {
                if retries && let Some(row) = self.app.journal.row(run).await?.filter(|row| !row.summary.ended) {
                    // Whoever says this of a run that stands still wants it to go on.
                    self.lanes().ask(run, row.summary.repo.as_deref());
                    self.pump();
                }
                Verdict::Refused(refused)
            }
        })
    }

    /// Has a run driven in its turn, unless it ended, is driven, or waits for a person.
    ///
    /// # Errors
    /// The journal's.
    pub async fn drive(self: &Arc<Self>, run: RunId) -> Result<(), Error> {
        let row = self.app.journal.row(run).await?;
        if let Some(row) = row.filter(|row| !row.summary.ended && self.lanes().lacks(run, row.waits())) {
            self.lanes().add(run, row.summary.repo.as_deref(), false);
            self.pump();
        }
        Ok(())
    }

    /// Leaves word for the daemon of the home that a person wants a run to go on; to be called in another process.
    ///
    /// # Errors
    /// The journal's.
    pub async fn ask_from_elsewhere(app: &App, run: RunId) -> Result<(), Error> {
        Ok(app.journal.keep(ASKED, vec![(run.to_string(), Some(Value::Bool(true)))]).await?)
    }

    /// Takes up every run that has not ended and that nobody knows of, or that stood still.
    ///
    /// # Errors
    /// The journal's.
    pub async fn take_up(self: &Arc<Self>) -> Result<usize, Error> {
        let open = self.app.journal.open_rows().await?;
        let mut lanes = self.lanes();
        for row in &open {
            if lanes.lacks(row.id, row.waits()) {
                lanes.add(row.id, row.summary.repo.as_deref(), false);
            }
        }
        drop(lanes);
        self.pump();
        Ok(open.len())
    }

    /// How many runs are driven, wait for their turn, and wait for a person.
    pub fn counts(&self) -> (usize, usize, usize) {
        let lanes = self.lanes();
        (lanes.driven(), lanes.waiting(), lanes.resting())
    }

    /// Takes the limits of the settings in force.
    pub fn apply_limits(self: &Arc<Self>) {
        let limits = self.app.config().limits;
        self.engine.limit(Caps { runs: limits.runs, per_repo: limits.per_repo });
        self.lanes().limit(limits.runs, limits.per_repo);
        self.pump();
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().expect("no holder of this lock can panic")
    }

    /// Drives whoever's turn it is.
    fn pump(self: &Arc<Self>) {
        while !self.stop.is_cancelled() {
            let (run, told) = {
                let mut lanes = self.lanes();
                let Some((run, told)) = lanes.next() else { return };
                (run, told)
            };
            let desk = self.clone();
            self.driving.spawn(async move {
                // A bug in one run's driving costs that run its turn, and nobody else's.
                let driven = AssertUnwindSafe(desk.drive_in_turn(run)).catch_unwind().await;
                let back = driven.unwrap_or_else(|_| Back::Standing(BUG.to_owned()));
                match &back {
                    Back::Standing(why) if told.as_ref() != Some(why) => {
                        tracing::error!(%run, error = %why, "run stands still");
                        desk.note_standing(run, Some(why)).await;
                    }
                    Back::Over | Back::Resting if told.is_some() => desk.note_standing(run, None).await,
                    _ => {}
                }
                desk.lanes().back(run, back);
                desk.pump();
            });
        }
    }

    /// Keeps why a run stands still where every channel can read it.
    async fn note_standing(&self, run: RunId, why: Option<&str>) {
        let kept = self.app.journal.keep(STANDING, vec![(run.to_string(), why.map(Value::from))]).await;
        if let Err(error) = kept {
            tracing::warn!(%run, %error, "cannot keep why it stands still");
        }
    }

    async fn drive_in_turn(&self, run: RunId) -> Back {
        loop {
            // Whoever waits for a person costs nothing until the word comes.
            return match self.engine.drive(run, Until::PersonNeeded, self.stop.clone()).await {
                Ok(Stopped::PersonNeeded) => Back::Resting,
                Ok(Stopped::Ended | Stopped::Interrupted) => Back::Over,
                // An earlier driver puts away what it had; it does nothing more for the run.
                Err(EngineError::Driven(_)) if !self.stop.is_cancelled() => {
                    tokio::time::sleep(CLOSING).await;
                    continue;
                }
                Err(EngineError::Driven(_)) => Back::Over,
                Err(error) => {
                    let error = Error::from(error);
                    let hint = error.hint.iter().map(|hint| format!("hint: {hint}"));
                    let told: Vec<String> = [error.message].into_iter().chain(error.causes).chain(hint).collect();
                    Back::Standing(told.join("\n"))
                }
            };
        }
    }

    /// Answers what other processes asked through the journal, until the stop.
    pub async fn serve_posted(self: Arc<Self>) {
        let mut notices = self.app.journal.notices();
        let (mut stamp, mut written) = (None, false);
        let (mut look, mut again) = (Instant::now(), POSTED_POLL);
        while !self.stop.is_cancelled() {
            // An idle daemon asks the file system, not the journal.
            let now = self.app.journal.stamp();
            if written || now.is_none() || now != stamp {
                (stamp, look, again) = (now, Instant::now(), POSTED_POLL);
            }
            if look <= Instant::now() {
                if let Err(error) = self.answer_posted().await {
                    tracing::warn!(%error, "cannot look for posted requests");
                }
                // A write shows before it can be read, by as long as the disk takes: it is looked for again, ever more rarely.
                look = Instant::now() + again;
                again = (again * 2).min(POSTED_LOOK);
            }
            // The first of many writes is answered at once, and at most so many are.
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(POSTED_POLL) => {}
            }
            let idle = if notices.is_some() { POSTED_IDLE } else { Duration::ZERO };
            written = tokio::select! {
                () = self.stop.cancelled() => false,
                () = told(&mut notices) => true,
                () = tokio::time::sleep(idle.min(look.saturating_duration_since(Instant::now()))) => false,
            };
        }
    }

    async fn answer_posted(self: &Arc<Self>) -> Result<(), JournalError> {
        for (run, _) in self.app.journal.kept_with(ASKED, "").await? {
            if let Ok(run) = run.parse::<RunId>()
                && let Some(row) = self.app.journal.row(run).await?.filter(|row| !row.summary.ended)
            {
                self.lanes().ask(run, row.summary.repo.as_deref());
                self.pump();
            }
            self.app.journal.keep(ASKED, vec![(run, None)]).await?;
        }
        self.engine.answer_posted(|run, request| self.decide(run, request)).await
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

    /// The newest runs first that fit, at most `limit`.
    pub async fn list(&self, wanted: Wanted, limit: usize) -> Result<Vec<RunRow>, Error> {
        Ok(self.app.journal.list(wanted, limit).await?)
    }

    /// Every run that has not ended, the newest first.
    pub async fn open(&self) -> Result<Vec<RunRow>, Error> {
        let mut open = self.app.journal.open_rows().await?;
        open.sort_by_key(|row| std::cmp::Reverse(row.id));
        Ok(open)
    }

    /// How many runs fit.
    pub async fn count(&self, wanted: Wanted) -> Result<u64, Error> {
        Ok(self.app.journal.count(wanted).await?)
    }

    /// How many runs there are, by how they stand.
    pub async fn census(&self) -> Result<Census, Error> {
        Ok(self.app.journal.census().await?)
    }

    /// A run's events with a number above `after`, in order.
    pub async fn events(&self, run: RunId, after: u64) -> Result<Vec<Event>, Error> {
        Ok(self.app.journal.events(run, after).await?)
    }

    /// Everything that happens from now on; a slow listener may lose notices and reads the journal instead.
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.engine.subscribe()
    }

    /// Fires when the daemon stops, or the channel that holds this desk shall end: it ends its open streams then.
    pub fn stopping(&self) -> CancellationToken {
        self.leave.clone()
    }
}

/// Waits until somebody writes to the journal; for ever where nobody tells.
async fn told(notices: &mut Option<Notices>) {
    if let Some(from) = notices {
        match from.next().await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "there are no more notices of the journal; it is looked at often instead");
                *notices = None;
            }
        }
    }
    std::future::pending().await
}
