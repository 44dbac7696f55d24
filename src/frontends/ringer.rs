//! Tells what rings, from the journal to whoever is told, for channels that only tell: each says whom and how, this says when
//! and how often. It does not know how anything travels.
//!
//! The journal's log is the outbox: how far it was read and what is still to be told are kept beside it in one transaction.
//! Before a telling its intent is kept, after it the outcome: a kill between the two repeats that one, marked as a repeat.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::app::Desk;
use crate::core::event::{Event, RunSpec};
use crate::core::graph::Graph;
use crate::core::id::RunId;
use crate::core::rings::{self, Message, Ring, Target, ring};
use crate::core::state::RunState;
use crate::core::time::Timestamp;
use crate::error::Error;

/// Events that are read at once.
const BATCH: usize = 256;
/// Between two looks at the feed and the clock, should a notice be lost.
const LOOK: Duration = Duration::from_secs(5);
/// The first pause after a failure; each following one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that grows by itself.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The longest pause of something that is put off again and again.
const PUT_OFF_MAX: Duration = Duration::from_secs(600);
/// The longest pause that the other side may ask for.
const ASKED_MAX: Duration = Duration::from_secs(3600);
/// What one receiver could not be told for so long is dropped, in milliseconds; mail servers give up after as much.
const OLD_MS: u64 = 3 * 86_400_000;

/// What became of a telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was told.
    Taken,
    /// It will not be taken.
    TurnedDown(String),
    /// This one cannot be told now: others may be, and this receiver other things.
    Later(String),
    /// Nobody can be told now.
    Away {
        /// Why.
        why: String,
        /// It may have been told all the same.
        unsure: bool,
        /// When it should be tried again.
        after: Option<Duration>,
    },
}

/// How a channel tells.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// Whether people are told: then nothing that is out of date, nothing in quiet hours, and reminders.
    pub people: bool,
    /// How often something is tried that is turned down.
    pub tries: u32,
}

/// One thing for one receiver.
pub struct Telling<'a> {
    /// Which run.
    pub run: RunId,
    /// The event that rang.
    pub event: &'a Event,
    /// Why.
    pub ring: Ring,
    /// What a `notify` step says.
    pub message: Option<&'a Message>,
    /// The run's document, as it is now.
    pub document: &'a Value,
    /// Who is told, in the channel's own words.
    pub to: &'a str,
    /// Whether it may have been told before.
    pub repeat: bool,
    /// Which reminder it is; 0 for the first word.
    pub reminder: u32,
}

/// A channel that only tells.
#[async_trait]
pub trait Teller: Send + Sync {
    /// Its word in logs and records.
    fn name(&self) -> &'static str;
    /// How it tells.
    fn manners(&self) -> Manners;
    /// Who is told of a run by default: what is kept of each is handed back as [`Telling::to`].
    fn usual(&self, spec: &RunSpec) -> Vec<String>;
    /// The same of a target that was named; `None` if it is another channel's, or not allowed any more.
    fn named(&self, target: &Target) -> Option<String>;
    /// Tells one receiver one thing.
    async fn tell(&self, telling: &Telling<'_>) -> Answer;
}

/// Something to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    run: RunId,
    /// The event's number in its run.
    seq: u64,
    ring: Ring,
    to: String,
    /// When the event happened.
    at: Timestamp,
    /// Reminders that were sent, once the first word was; then `due` is when the next one is.
    #[serde(default)]
    reminder: u32,
    #[serde(default)]
    due: Option<Timestamp>,
    /// Whether telling was begun, so that it may have arrived.
    #[serde(default)]
    begun: bool,
    /// How often it was turned down.
    #[serde(default)]
    turned_down: u32,
}

/// Somebody who is not told for a while.
struct Rest {
    until: Instant,
    pause: Duration,
}

/// Tells for one channel, until the stop.
///
/// # Errors
/// The journal's.
pub async fn serve(teller: &dyn Teller, desk: &Arc<Desk>) -> Result<(), Error> {
    let mut ringer = Ringer::open(teller, desk.clone()).await?;
    let stopping = desk.stopping();
    let mut notices = desk.subscribe();
    while !stopping.is_cancelled() {
        let read = ringer.read().await?;
        let told = ringer.tell_next().await?;
        if read || told {
            continue;
        }
        let wait = ringer.wait();
        tokio::select! {
            () = stopping.cancelled() => {}
            // What it says does not matter; a closed or lagging feed says nothing, and the journal has all.
            _ = notices.recv() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    Ok(())
}

struct Ringer<'t> {
    teller: &'t dyn Teller,
    desk: Arc<Desk>,
    /// The position of the last event that was read.
    cursor: u64,
    rows: BTreeMap<String, Row>,
    /// Everybody's rest, that of single receivers, and that of single rows.
    all: Option<Rest>,
    each: HashMap<String, Rest>,
    put_off: HashMap<String, Rest>,
}

fn row_key(position: u64, receiver: usize) -> String {
    format!("out/{position:020}/{receiver:04}")
}

impl<'t> Ringer<'t> {
    async fn open(teller: &'t dyn Teller, desk: Arc<Desk>) -> Result<Self, Error> {
        let (journal, scope) = (&desk.app.journal, teller.name());
        let mut rows = BTreeMap::new();
        for (key, value) in journal.kept_with(scope, "out/").await? {
            match serde_json::from_value(value) {
                Ok(row) => drop(rows.insert(key, row)),
                Err(error) => tracing::warn!(channel = scope, key, %error, "what was to be told cannot be read"),
            }
        }
        let cursor = match journal.kept(scope, "cursor").await?.and_then(|value| value.as_u64()) {
            Some(cursor) => cursor,
            None => {
                // A channel that is new does not tell the past.
                let cursor = journal.feed_end().await?;
                journal.keep(scope, vec![("cursor".to_owned(), Some(json!(cursor)))]).await?;
                cursor
            }
        };
        Ok(Self { teller, desk, cursor, rows, all: None, each: HashMap::new(), put_off: HashMap::new() })
    }

    /// Reads on in the feed; whether there was anything.
    async fn read(&mut self) -> Result<bool, Error> {
        let batch = self.desk.app.journal.feed(self.cursor, BATCH).await?;
        let Some((end, ..)) = batch.last() else { return Ok(false) };
        let end = *end;
        let mut new = Vec::new();
        for (position, run, event) in &batch {
            let Some((ring, to)) = self.audience(*run, event).await? else { continue };
            for (n, to) in to.into_iter().enumerate() {
                let row = Row {
                    run: *run,
                    seq: event.seq,
                    ring,
                    to,
                    at: event.at,
                    reminder: 0,
                    due: None,
                    begun: false,
                    turned_down: 0,
                };
                new.push((row_key(*position, n), row));
            }
        }
        let mut changes = vec![("cursor".to_owned(), Some(json!(end)))];
        changes.extend(new.iter().map(|(key, row)| (key.clone(), Some(json!(row)))));
        self.desk.app.journal.keep(self.teller.name(), changes).await?;
        self.cursor = end;
        self.rows.extend(new);
        Ok(true)
    }

    /// Who is told of an event, and why.
    async fn audience(&self, run: RunId, event: &Event) -> Result<Option<(Ring, Vec<String>)>, Error> {
        let rings = ring(event);
        if rings.is_none() && !rings::may_be_message(event) {
            return Ok(None);
        }
        let (graph, state) = self.load(run).await?;
        let spec = state.spec();
        let named = |targets: &[String]| -> Vec<String> {
            let mut found: Vec<String> = Vec::new();
            for to in targets.iter().filter_map(|text| self.teller.named(&Target::read(text)?)) {
                if !found.contains(&to) {
                    found.push(to);
                }
            }
            found
        };
        let (ring, to) = match (rings, rings::message(event, &graph)) {
            (Some(ring), _) => (ring, None),
            (None, Some(message)) if message.to.is_empty() => (Ring::Message, None),
            (None, Some(message)) => (Ring::Message, Some(named(&message.to))),
            (None, None) => return Ok(None),
        };
        let to = to.unwrap_or_else(|| {
            let mut to = named(&spec.notify);
            to.extend(self.teller.usual(spec).into_iter().filter(|usual| !to.contains(usual)).collect::<Vec<_>>());
            to
        });
        Ok(Some((ring, to)))
    }

    async fn load(&self, run: RunId) -> Result<(Graph, RunState), Error> {
        Ok(crate::engine::load(self.desk.app.journal.as_ref(), run).await?)
    }

    /// Until when nothing may ring.
    fn quiet(&self) -> bool {
        let config = self.desk.app.config();
        let hours = config.notify.quiet_hours.as_ref().filter(|_| self.teller.manners().people);
        hours.is_some_and(|hours| hours.until(self.desk.app.clock.now()).is_some())
    }

    /// The next row whose time has come.
    fn next(&self) -> Option<String> {
        let (now, clock) = (Instant::now(), self.desk.app.clock.now());
        let rests = |rest: Option<&Rest>| rest.is_some_and(|rest| rest.until > now);
        if rests(self.all.as_ref()) || (!self.rows.is_empty() && self.quiet()) {
            return None;
        }
        let ready = |key: &String, row: &Row| {
            row.due.is_none_or(|due| due <= clock) && !rests(self.each.get(&row.to)) && !rests(self.put_off.get(key))
        };
        self.rows.iter().find(|(key, row)| ready(key, row)).map(|(key, _)| key.clone())
    }

    /// How long there is nothing to do unless something happens.
    fn wait(&self) -> Duration {
        let (now, clock) = (Instant::now(), self.desk.app.clock.now());
        let rests = self.all.iter().chain(self.each.values()).chain(self.put_off.values());
        let rests = rests.map(|rest| rest.until.saturating_duration_since(now));
        let due = self.rows.values().filter_map(|row| row.due).map(|due| Duration::from_millis(due.since(clock)));
        // What is over is looked at again only if something stands in its way.
        rests.chain(due).filter(|wait| !wait.is_zero()).min().unwrap_or(LOOK).min(LOOK)
    }

    /// Tells the next thing; whether there was one.
    async fn tell_next(&mut self) -> Result<bool, Error> {
        let Some(key) = self.next() else { return Ok(false) };
        let row = self.rows[&key].clone();
        let (graph, state) = self.load(row.run).await?;
        let mut events = self.desk.events(row.run, row.seq.saturating_sub(1)).await?;
        let manners = self.teller.manners();
        if events.first().is_none_or(|event| event.seq != row.seq) {
            tracing::warn!(channel = self.teller.name(), run = %row.run, "an event that was to be told is gone");
            return self.done(key, None).await;
        }
        let event = events.remove(0);
        if manners.people && !rings::stands(&event, &graph, &state, &events) {
            return self.done(key, None).await;
        }
        let repeat = row.begun;
        self.put(&key, Row { begun: true, ..row.clone() }).await?;
        let document = self.desk.document(row.run).await?;
        let message = rings::message(&event, &graph);
        let telling = Telling {
            run: row.run,
            event: &event,
            ring: row.ring,
            message: message.as_ref(),
            document: &document,
            to: &row.to,
            repeat,
            reminder: row.reminder,
        };
        let stopping = self.desk.stopping();
        let answer = tokio::select! {
            answer = self.teller.tell(&telling) => answer,
            // Its outcome stays open, and is told as a repeat at the next start.
            () = stopping.cancelled() => return Ok(true),
        };
        self.settle(key, row, repeat, answer).await
    }

    /// Keeps what became of a row.
    async fn settle(&mut self, key: String, row: Row, repeat: bool, answer: Answer) -> Result<bool, Error> {
        let (channel, run, ring) = (self.teller.name(), row.run, row.ring.as_str());
        match answer {
            Answer::Taken => {
                self.all = None;
                self.each.remove(&row.to);
                let again = self.reminder(&row);
                self.done(key, again).await
            }
            Answer::TurnedDown(why) => {
                let turned_down = row.turned_down + 1;
                if turned_down >= self.teller.manners().tries {
                    tracing::error!(channel, %run, ring, to = row.to, "it was turned down and is dropped: {why}");
                    return self.done(key, None).await;
                }
                tracing::warn!(channel, %run, ring, to = row.to, "it was turned down: {why}");
                self.rest_one(&row.to);
                self.put(&key, Row { turned_down, begun: repeat, ..row }).await.map(|()| true)
            }
            Answer::Later(why) => {
                if self.desk.app.clock.now().since(row.due.unwrap_or(row.at)) > OLD_MS {
                    tracing::error!(channel, %run, ring, to = row.to, "it could not be told for three days and is dropped: {why}");
                    return self.done(key, None).await;
                }
                self.rest_one(&row.to);
                // Longer than the receiver: what comes behind it is tried before.
                let pause = self.put_off.get(&key).map_or(2 * PAUSE, |rest| (rest.pause * 2).min(PUT_OFF_MAX));
                let wait = rest(&mut self.put_off, &key, pause);
                tracing::warn!(channel, %run, ring, to = row.to, "not now, again in {} s: {why}", wait.as_secs());
                self.put(&key, Row { begun: repeat, ..row }).await.map(|()| true)
            }
            Answer::Away { why, unsure, after } => {
                let pause = self.all.as_ref().map_or(PAUSE, |rest| (rest.pause * 2).min(PAUSE_MAX));
                let wait = after.map_or(pause, |after| after.clamp(pause, ASKED_MAX));
                self.all = Some(Rest { until: Instant::now() + wait, pause });
                tracing::warn!(channel, %run, ring, "not there, again in {} s: {why}", wait.as_secs());
                self.put(&key, Row { begun: repeat || unsure, ..row }).await.map(|()| true)
            }
        }
    }

    fn rest_one(&mut self, to: &str) {
        let pause = self.each.get(to).map_or(PAUSE, |rest| (rest.pause * 2).min(PAUSE_MAX));
        rest(&mut self.each, to, pause);
    }

    /// The row of the next reminder, if there is to be one.
    fn reminder(&self, row: &Row) -> Option<Row> {
        if !row.ring.asks() || !self.teller.manners().people {
            return None;
        }
        // The first word is number 0, so the number of the next reminder is how many words there were.
        let after = self.desk.app.config().notify.reminders.next_ms(row.reminder)?;
        let due = Some(self.desk.app.clock.now().plus_ms(after));
        Some(Row { reminder: row.reminder + 1, due, begun: false, turned_down: 0, ..row.clone() })
    }

    async fn put(&mut self, key: &str, row: Row) -> Result<(), Error> {
        self.desk.app.journal.keep(self.teller.name(), vec![(key.to_owned(), Some(json!(row)))]).await?;
        self.rows.insert(key.to_owned(), row);
        Ok(())
    }

    /// A row is done, or goes on as another.
    async fn done(&mut self, key: String, next: Option<Row>) -> Result<bool, Error> {
        self.put_off.remove(&key);
        self.desk
            .app
            .journal
            .keep(self.teller.name(), vec![(key.clone(), next.as_ref().map(|row| json!(row)))])
            .await?;
        match next {
            Some(row) => drop(self.rows.insert(key, row)),
            None => drop(self.rows.remove(&key)),
        }
        Ok(true)
    }
}

/// Lets one rest from now on.
fn rest(rests: &mut HashMap<String, Rest>, key: &str, pause: Duration) -> Duration {
    rests.insert(key.to_owned(), Rest { until: Instant::now() + pause, pause });
    pause
}
