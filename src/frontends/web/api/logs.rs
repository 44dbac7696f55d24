//! The lines that a run's steps left: a piece of them, or live.
//!
//! A place among them is `MILLISECONDS-COUNT`: the time of the last line that was read, and how many of that time were. Lines
//! are merged by time, so the place holds as long as the machine's clock does not go back.

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
use super::shapes::{LogLine, Logs};
use crate::core::event::EventBody;
use crate::core::id::{RunId, StepId};
use crate::engine::{Line, Notice};
use crate::error::Error;
use crate::frontends::lines::Reader;
use crate::steps::Stream as Source;

/// The most lines of one answer.
pub const LINES_MAX: usize = 5_000;
/// How long lines are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(50);

/// A place among the lines of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    at: i64,
    count: u64,
}

impl std::str::FromStr for Place {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, count) = text.split_once('-').ok_or(())?;
        Ok(Self { at: at.parse().map_err(|_| ())?, count: count.parse().map_err(|_| ())? })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.at, self.count)
    }
}

impl Place {
    /// The place behind a line.
    fn behind(self, line: &Line) -> Self {
        if line.at.0 == self.at { Self { count: self.count + 1, ..self } } else { Self { at: line.at.0, count: 1 } }
    }
}

/// Skips lines up to a place, while they are read from the start.
struct Skip {
    to: Place,
    seen: u64,
}

impl Skip {
    fn passes(&mut self, line: &Line) -> bool {
        if line.at.0 == self.to.at {
            self.seen += 1;
            self.seen > self.to.count
        } else {
            line.at.0 > self.to.at
        }
    }
}

impl From<&Line> for LogLine {
    fn from(line: &Line) -> Self {
        let stream = match line.stream {
            Source::Stdout => "stdout",
            Source::Stderr => "stderr",
            Source::Note => "note",
        };
        Self {
            at: line.at.to_string(),
            step: line.step.to_string(),
            stream: stream.to_owned(),
            text: line.text.clone(),
        }
    }
}

/// The first `limit` lines behind a place, or the last `limit` of all.
///
/// # Errors
/// A folder that cannot be read.
pub async fn read(
    site: &Site,
    run: RunId,
    step: Option<StepId>,
    after: Option<Place>,
    limit: usize,
) -> Result<Logs, Error> {
    let folder = site.app.run_dir(run).join("logs");
    let read = tokio::task::spawn_blocking(move || {
        let mut reader = Reader::new(folder, step);
        let Some(mut place) = after else {
            let end = reader.end(limit)?;
            let next = end.lines.last().map(|last| Place { at: last.at.0, count: end.same }.to_string());
            return Ok(Logs { lines: end.lines.iter().map(LogLine::from).collect(), next });
        };
        let mut lines: Vec<LogLine> = Vec::new();
        let mut skip = Skip { to: place, seen: 0 };
        reader.pass(|line| {
            if skip.passes(line) {
                if lines.len() >= limit {
                    return false;
                }
                lines.push(line.into());
                place = place.behind(line);
            }
            true
        })?;
        Ok(Logs { lines, next: Some(place.to_string()) })
    });
    read.await.map_err(|error| Error::bug(error.to_string()))?
}

struct Tail {
    reader: Option<Reader>,
    skip: Skip,
    place: Place,
    waiting: VecDeque<(Place, LogLine)>,
    run: RunId,
    feed: broadcast::Receiver<Notice>,
    stop: CancellationToken,
    ended: bool,
    /// The last pass may have left lines.
    more: bool,
}

/// The lines behind a place, live, until the run has ended or the daemon stops. Each is an event `line` whose id is its place.
///
/// # Errors
/// A journal that cannot be read.
pub async fn stream(
    site: &Arc<Site>,
    run: RunId,
    step: Option<StepId>,
    after: Place,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>> + use<>>, Error> {
    let feed = site.desk.subscribe();
    let ended = site.app.journal.row(run).await?.is_some_and(|row| row.summary.ended);
    let reader = Some(Reader::new(site.app.run_dir(run).join("logs"), step));
    let (skip, stop) = (Skip { to: after, seen: 0 }, site.desk.stopping());
    let mut tail = Tail { reader, skip, place: after, waiting: VecDeque::new(), run, feed, stop, ended, more: false };
    tail.pass().await?;
    let lines = stream::unfold(tail, |mut tail| async move {
        let sent = tail.next().await?;
        Some((Ok(sent), tail))
    });
    Ok(Sse::new(lines).keep_alive(KeepAlive::new().interval(super::events::PING).text("ping")))
}

impl Tail {
    /// Reads what is new.
    async fn pass(&mut self) -> Result<(), Error> {
        let Some(mut reader) = self.reader.take() else { return Ok(()) };
        let read = tokio::task::spawn_blocking(move || {
            let mut lines = Vec::new();
            let read = reader.pass(|line| {
                // A line that is refused is told again at the next pass.
                let room = lines.len() < LINES_MAX;
                if room {
                    lines.push(line.clone());
                }
                room
            });
            (reader, read.map(|()| lines))
        });
        let (reader, lines) = read.await.map_err(|error| Error::bug(error.to_string()))?;
        self.reader = Some(reader);
        let lines = lines?;
        self.more = lines.len() == LINES_MAX;
        for line in lines {
            if self.skip.passes(&line) {
                self.place = self.place.behind(&line);
                self.waiting.push_back((self.place, (&line).into()));
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((place, line)) = self.waiting.pop_front() {
                let data = serde_json::to_string(&line).ok()?;
                return Some(Sent::default().id(place.to_string()).event("line").data(data));
            }
            if self.ended || self.more {
                self.pass().await.ok()?;
                if self.ended && !self.more && self.waiting.is_empty() {
                    return None;
                }
                continue;
            }
            self.heard().await?;
            // Many lines come at once; they are read once.
            tokio::time::sleep(GATHER).await;
            while let Ok(notice) = self.feed.try_recv() {
                self.note(&notice);
            }
            self.pass().await.ok()?;
        }
    }

    /// Waits for a sign that there is more to read.
    async fn heard(&mut self) -> Option<()> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return None,
                notice = self.feed.recv() => match notice {
                    Ok(notice) => if self.note(&notice) { return Some(()) },
                    Err(RecvError::Lagged(_)) => return Some(()),
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    /// Whether a notice is such a sign.
    fn note(&mut self, notice: &Notice) -> bool {
        match notice {
            Notice::Line { run, .. } => *run == self.run,
            Notice::Event { run, event } if *run == self.run => {
                self.ended |= matches!(event.body, EventBody::Finished { .. });
                self.ended
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::Timestamp;

    #[test]
    fn a_place_goes_on_where_the_last_line_was() {
        let line = |at: i64| Line {
            at: Timestamp(at),
            step: StepId::new("a").unwrap(),
            stream: Source::Stdout,
            text: String::new(),
        };
        let lines = [line(1), line(1), line(2), line(2), line(3)];
        let mut place = Place::default();
        for (read, seen) in lines.iter().enumerate() {
            place = place.behind(seen);
            let again: Place = place.to_string().parse().unwrap();
            let mut skip = Skip { to: again, seen: 0 };
            let rest = lines.iter().filter(|line| skip.passes(line)).count();
            assert_eq!(rest, lines.len() - read - 1, "{place}");
        }
        assert!("x-1".parse::<Place>().is_err() && "1".parse::<Place>().is_err());
    }
}
