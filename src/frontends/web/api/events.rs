//! A run's events as server-sent events: the journal's own numbers are the ids, so a reader that was cut off goes on where
//! it stopped. Nothing is told that the journal does not have, and nothing twice.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::super::Site;
use crate::core::event::{Event, EventBody};
use crate::core::id::RunId;
use crate::engine::Notice;
use crate::error::Error;
use crate::frontends::envelope::{envelope, result};

/// Between two comments that keep the connection alive.
pub const PING: Duration = Duration::from_secs(15);

/// Where a stream stands.
struct Follow {
    site: Arc<Site>,
    run: RunId,
    feed: broadcast::Receiver<Notice>,
    stop: CancellationToken,
    /// The number that was sent last.
    last: u64,
    waiting: VecDeque<Event>,
    /// The last event that was sent ended the run.
    ended: bool,
    over: bool,
}

/// The events of a run behind number `after`, live, until the run has ended or the daemon stops.
///
/// # Errors
/// A run that is not there.
pub async fn stream(
    site: Arc<Site>,
    run: RunId,
    after: u64,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Error> {
    // First the ear, then the past: nothing falls between the two.
    let feed = site.desk.subscribe();
    // From the last one that the reader has: it may have been the end.
    let all = site.desk.events(run, after.saturating_sub(1)).await?;
    let ended = match all.first() {
        Some(first) if first.seq <= after => is_end(first),
        Some(_) => false,
        // Nothing is behind a number that is too high; how the run stands decides.
        None => site.app.journal.row(run).await?.is_some_and(|row| row.summary.ended),
    };
    let waiting: VecDeque<Event> = all.into_iter().filter(|event| event.seq > after).collect();
    let stop = site.desk.stopping();
    let follow = Follow { run, feed, stop, last: after, waiting, ended, over: false, site };
    let events = stream::unfold(follow, |mut follow| async move {
        let sent = follow.next().await?;
        Some((Ok(sent), follow))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(PING).text("ping")))
}

fn is_end(event: &Event) -> bool {
    matches!(event.body, EventBody::Finished { .. })
}

impl Follow {
    async fn next(&mut self) -> Option<Sent> {
        if self.over {
            return None;
        }
        loop {
            if let Some(event) = self.waiting.pop_front() {
                if event.seq <= self.last {
                    continue;
                }
                self.last = event.seq;
                self.ended = is_end(&event);
                let data = envelope(&event);
                let name = data["event"].as_str().unwrap_or("event").to_owned();
                return Some(Sent::default().id(event.seq.to_string()).event(name).data(data.to_string()));
            }
            if self.ended {
                // A retry may have followed while the end was being sent.
                self.catch_up().await?;
                if self.waiting.is_empty() {
                    self.over = true;
                    let document = self.site.document(self.run).await.ok()?;
                    return Some(Sent::default().event("result").data(result(&document).to_string()));
                }
                continue;
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                notice = self.feed.recv() => match notice {
                    Ok(Notice::Event { run, event }) if run == self.run => {
                        if event.seq == self.last + 1 {
                            self.waiting.push_back(event.as_ref().clone());
                        } else if event.seq > self.last {
                            self.catch_up().await?;
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => self.catch_up().await?,
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    /// What the journal has and was not sent; without the journal the stream ends, and the reader comes again.
    async fn catch_up(&mut self) -> Option<()> {
        self.waiting = self.site.desk.events(self.run, self.last).await.ok()?.into();
        Some(())
    }
}
