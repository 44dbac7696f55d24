//! Follows a run that is being driven: keeps its state from the feed, tells the progress, writes the NDJSON stream.
//!
//! The feed may skip; the journal does not: a gap is filled from there, so no event is missed or told twice.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::desktop::Desktop;
use super::progress::Progress;
use super::screen::Out;
use crate::core::event::{Event, EventBody};
use crate::core::graph::Graph;
use crate::core::id::RunId;
use crate::core::state::RunState;
use crate::core::time::Timestamp;
use crate::engine::{EngineError, Notice};
use crate::error::Error;
use crate::frontends::envelope::envelope;
use crate::journal::Journal;

/// Follows one run.
pub struct Follower<'a> {
    run: RunId,
    journal: Arc<dyn Journal>,
    feed: broadcast::Receiver<Notice>,
    now: Option<(Graph, RunState)>,
    /// Where the event stream goes, with `--json`.
    stream: Option<&'a Out>,
    /// The question that was told last.
    told: String,
    desktop: Option<Desktop>,
    /// What people see.
    pub progress: Progress<'a>,
}

impl<'a> Follower<'a> {
    /// Starts from what the journal has. Of a run that is not new, only the acceptance is streamed again, so that every
    /// stream begins with the run's id; `whole` streams everything.
    pub async fn start(
        run: RunId,
        journal: Arc<dyn Journal>,
        feed: broadcast::Receiver<Notice>,
        stream: Option<&'a Out>,
        progress: Progress<'a>,
        whole: bool,
    ) -> Result<Self, Error> {
        let mut this = Self { run, journal, feed, now: None, stream, told: String::new(), desktop: None, progress };
        for event in this.journal.events(run, 0).await? {
            this.fold(&event)?;
            if whole || matches!(event.body, EventBody::Accepted(_)) {
                this.tell(&event);
            }
        }
        if this.now.is_none() {
            return Err(EngineError::Unknown(run).into());
        }
        Ok(this)
    }

    /// Tells the desktop, too, of what happens from now on.
    #[must_use]
    pub fn telling(mut self, desktop: Desktop) -> Self {
        self.desktop = Some(desktop);
        self
    }

    /// Waits for the next thing that happens and tells it. Safe to drop while it waits.
    pub async fn next(&mut self) -> Result<(), Error> {
        match self.feed.recv().await {
            Ok(notice) => {
                if self.notice(notice)? {
                    self.catch_up().await?;
                }
            }
            Err(RecvError::Lagged(_)) => self.catch_up().await?,
            // The engine has gone; the journal tells the rest, and whoever asked will stop asking.
            Err(RecvError::Closed) => std::future::pending().await,
        }
        Ok(())
    }

    /// Tells what has come already; what the feed lost is in the journal.
    pub fn drain(&mut self) -> Result<(), Error> {
        while let Ok(notice) = self.feed.try_recv() {
            self.notice(notice)?;
        }
        Ok(())
    }

    /// Tells a notice; says whether events before it are missing.
    fn notice(&mut self, notice: Notice) -> Result<bool, Error> {
        match notice {
            Notice::Event { run, event } if run == self.run => {
                let seq = self.seq();
                if event.seq == seq + 1 {
                    self.take(&event)?;
                }
                return Ok(event.seq > seq + 1);
            }
            Notice::Line { run, step, stream, text } if run == self.run => self.progress.log(&step, stream, &text),
            Notice::Paused { run, why } if run == self.run => {
                self.progress.line(&format!("paused: {}", crate::secrets::printable(&why)));
            }
            _ => {}
        }
        Ok(false)
    }

    /// Tells everything that the journal has and that was not told.
    pub async fn catch_up(&mut self) -> Result<(), Error> {
        for event in self.journal.events(self.run, self.seq()).await? {
            self.take(&event)?;
        }
        Ok(())
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Timestamp) {
        if let Some((graph, state)) = &self.now {
            self.progress.tick(graph, state, now);
        }
    }

    /// How the run stands.
    pub fn state(&self) -> (&Graph, &RunState) {
        let (graph, state) = self.now.as_ref().expect("`start` has folded the first event");
        (graph, state)
    }

    /// Whether this question was not told yet; from now on it was.
    pub fn first_time(&mut self, question: String) -> bool {
        let first = self.told != question;
        self.told = question;
        first
    }

    /// The number of the last event.
    pub fn seq(&self) -> u64 {
        self.now.as_ref().map_or(0, |(_, state)| state.seq())
    }

    fn take(&mut self, event: &Event) -> Result<(), Error> {
        self.fold(event)?;
        self.tell(event);
        if let (Some(desktop), Some((_, state))) = (&self.desktop, &self.now) {
            desktop.hear(self.progress.out(), self.run, &state.spec().task, event);
        }
        Ok(())
    }

    fn fold(&mut self, event: &Event) -> Result<(), Error> {
        let run = self.run;
        let illegal = |source| Error::from(EngineError::Illegal { run, source });
        match &mut self.now {
            None => self.now = Some(RunState::accept(event).map_err(illegal)?),
            Some((graph, state)) => state.apply(graph, event).map_err(illegal)?,
        }
        Ok(())
    }

    fn tell(&mut self, event: &Event) {
        if let Some(out) = self.stream {
            out.line(&envelope(event).to_string());
        }
        if let Some((graph, state)) = &self.now {
            self.progress.event(event, graph, state);
        }
    }
}
