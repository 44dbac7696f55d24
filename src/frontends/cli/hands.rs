//! Whose hands drive the run that this terminal follows: this program's, or those of the daemon that owns the home. The
//! screens do not know which.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, broadcast};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::signal::post;
use super::{Cx, drive::who};
use crate::app::App;
use crate::core::id::RunId;
use crate::core::request::{Refused, Request, Signal};
use crate::core::time::Timestamp;
use crate::engine::{Answer, Engine, HomeLock, Notice, Stopped, Until};
use crate::error::Error;
use crate::frontends::lines::Reader;
use crate::journal::{Journal, Verdict};

/// Between two looks at the journal.
const POLL: Duration = Duration::from_millis(50);
/// Between two looks whether the daemon lives.
const ALIVE: Duration = Duration::from_secs(1);
/// How long a daemon may be away, as for its restart.
const AWAY: Duration = Duration::from_secs(10);
/// Notices that the screen may lag behind.
const FEED: usize = 4096;

/// Who drives.
pub enum Hands<'a> {
    /// This program.
    Here(Arc<Engine>),
    /// The daemon.
    Daemon(Watch<'a>),
}

impl Hands<'_> {
    /// Leaves a person's word; a refusal comes back.
    pub async fn submit(&self, run: RunId, signal: Signal) -> Result<Option<Refused>, Error> {
        let request = Request { signal, who: who() };
        match self {
            Self::Here(engine) => match engine.submit(run, request).await? {
                Answer::Refused(refused) => Ok(Some(refused)),
                Answer::Driven | Answer::Idle => Ok(None),
            },
            Self::Daemon(watch) => match post(watch.cx, watch.app, run, request).await? {
                Verdict::Refused(refused) => Ok(Some(refused)),
                Verdict::Recorded => Ok(None),
            },
        }
    }
}

/// A run that a daemon drives, seen through the journal and the run's log files.
pub struct Watch<'a> {
    cx: &'a Cx,
    app: &'a App,
    run: RunId,
    /// It began before it was watched.
    pub old: bool,
    relay: Arc<Mutex<Relay>>,
    relaying: JoinHandle<()>,
}

impl<'a> Watch<'a> {
    /// Watches a run from now on; `old` lines of its log are not told again.
    pub async fn start(
        cx: &'a Cx,
        app: &'a App,
        run: RunId,
        old: bool,
    ) -> Result<(Self, broadcast::Receiver<Notice>), Error> {
        let (feed, receiver) = broadcast::channel(FEED);
        let mut lines = Reader::new(app.run_dir(run).join("logs"), None);
        if old {
            lines.pass(|_| true)?;
        }
        // Events from before are told by whoever begins to follow.
        let seq = app.journal.events(run, 0).await?.last().map_or(0, |event| event.seq);
        let relay = Arc::new(Mutex::new(Relay { journal: app.journal.clone(), run, seq, lines, feed }));
        let relaying = tokio::spawn({
            let relay = relay.clone();
            async move {
                loop {
                    if let Err(error) = relay.lock().await.pass().await {
                        tracing::debug!(%error, "cannot follow for a moment");
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
        });
        Ok((Self { cx, app, run, old, relay, relaying }, receiver))
    }

    /// Watches until the run ends, a person is needed or `stop` fires.
    ///
    /// # Errors
    /// The journal's; or the daemon has gone and no other one came.
    pub async fn until(&self, until: Until, stop: CancellationToken) -> Result<Stopped, Error> {
        let mut looked: Option<Timestamp> = None;
        let (mut seen, mut checked) = (Instant::now(), Instant::now());
        loop {
            let row = self.app.journal.row(self.run).await?;
            let Some(row) = row else { return Err(crate::engine::EngineError::Unknown(self.run).into()) };
            if row.summary.ended {
                // The last lines come before the result.
                self.relay.lock().await.pass().await?;
                return Ok(Stopped::Ended);
            }
            let moved = looked.replace(row.updated_at) != Some(row.updated_at);
            if until == Until::PersonNeeded && row.summary.waiting_for.is_some() && moved {
                let (_, state) = crate::engine::load(self.app.journal.as_ref(), self.run).await?;
                if state.running().next().is_none() {
                    self.relay.lock().await.pass().await?;
                    return Ok(Stopped::PersonNeeded);
                }
            }
            if checked.elapsed() >= ALIVE {
                checked = Instant::now();
                if HomeLock::holder_lives(&self.app.home) {
                    seen = Instant::now();
                } else if seen.elapsed() > AWAY {
                    let short = self.run.short();
                    return Err(Error::refused(
                        "no_owner",
                        format!("the daemon has gone; run {short} stands where it was"),
                    )
                    .hint(format!("start the daemon again, or go on here with: {} resume {short}", self.cx.devo))
                    .exit(crate::error::Exit::Interrupted));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(Stopped::Interrupted),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.relaying.abort();
    }
}

/// Carries what a run's journal and logs gain to whoever follows.
struct Relay {
    journal: Arc<dyn Journal>,
    run: RunId,
    seq: u64,
    lines: Reader,
    feed: broadcast::Sender<Notice>,
}

impl Relay {
    async fn pass(&mut self) -> Result<(), Error> {
        let events = self.journal.events(self.run, self.seq).await?;
        // A step's lines come before the event that ends it.
        let (run, feed) = (self.run, &self.feed);
        self.lines.pass(|line| {
            let (step, text) = (line.step.clone(), line.text.clone());
            // Nobody may be listening any more.
            let _ = feed.send(Notice::Line { run, step, stream: line.stream, text });
            true
        })?;
        for event in events {
            self.seq = event.seq;
            let _ = self.feed.send(Notice::Event { run: self.run, event: Arc::new(event) });
        }
        Ok(())
    }
}
