//! Tells a program of what rings, by a signed POST for each event. It knows the journal's feed; it does not know how the
//! request travels.
//!
//! The journal's log is the outbox: the cursor of what was told is kept beside it. Before a POST the intent is kept, after it
//! the cursor: a kill between the two repeats that one, marked as a repeat and under the same id.

mod post;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::Channel;
use crate::app::{App, Desk};
use crate::config::Webhook;
use crate::core::event::Event;
use crate::core::id::RunId;
use crate::core::rings::{Ring, ring};
use crate::error::Error;
use post::{Answer, Sender};

/// The channel's word, in `notify:` of tasks as well.
pub const NAME: &str = "webhook";
/// Events that are read at once.
const BATCH: usize = 256;
/// Between two looks at the feed, should a notice be lost.
const LOOK: Duration = Duration::from_secs(5);
/// The first pause after a failure; each following one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often a POST that the receiver turns down is tried: it may be set up just now.
const TRIES: u32 = 5;

struct WebhookChannel {
    webhook: Webhook,
    sender: Sender,
}

/// The webhook of devo.yaml, if there is one.
///
/// # Errors
/// Its secret has no value.
pub fn open(app: &App) -> Result<Option<Box<dyn Channel>>, Error> {
    let Some(webhook) = app.config().notify.webhook.clone() else { return Ok(None) };
    let name = &webhook.secret;
    let secret = app.secret(name)?.ok_or_else(|| {
        Error::refused("no_secret", format!("the webhook's secret `{name}` has no value"))
            .hint(format!("set {name}, or {name}_FILE to a file's path, or give devo a systemd credential {name}"))
    })?;
    let sender = Sender::new(&webhook.url, secret)?;
    Ok(Some(Box::new(WebhookChannel { webhook, sender })))
}

#[async_trait]
impl Channel for WebhookChannel {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn serve(&self, desk: Arc<Desk>) -> Result<(), Error> {
        let stopping = desk.stopping();
        let mut notices = desk.subscribe();
        let mut told = self.begin(&desk).await?;
        while !stopping.is_cancelled() {
            let batch = desk.app.journal.feed(told.cursor, BATCH).await?;
            if batch.is_empty() {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    // What it says does not matter; a closed or lagging feed says nothing, and the journal has all.
                    _ = notices.recv() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
                continue;
            }
            for (position, run, event) in batch {
                let wanted = match ring(&event) {
                    Some(ring) if self.wants(&desk, run).await? => Some(ring),
                    _ => None,
                };
                match wanted {
                    Some(ring) if !self.tell(&desk, &told, position, run, &event, ring).await? => return Ok(()),
                    _ => told.cursor = position,
                }
            }
            desk.app.journal.keep(NAME, vec![("cursor".to_owned(), Some(json!(told.cursor)))]).await?;
        }
        Ok(())
    }
}

/// How far the telling got.
struct Told {
    /// The position of the last event that needs no more telling.
    cursor: u64,
    /// A POST whose outcome nobody knows: the program was killed meanwhile.
    unsure: Option<u64>,
}

impl WebhookChannel {
    async fn begin(&self, desk: &Desk) -> Result<Told, Error> {
        let journal = &desk.app.journal;
        let number = |value: Option<Value>| value.and_then(|value| value.as_u64());
        let unsure = number(journal.kept(NAME, "sending").await?);
        if let Some(cursor) = number(journal.kept(NAME, "cursor").await?) {
            return Ok(Told { cursor, unsure });
        }
        // A webhook that is new is not told of the past.
        let cursor = journal.feed_end().await?;
        journal.keep(NAME, vec![("cursor".to_owned(), Some(json!(cursor)))]).await?;
        Ok(Told { cursor, unsure })
    }

    async fn wants(&self, desk: &Desk, run: RunId) -> Result<bool, Error> {
        if self.webhook.all {
            return Ok(true);
        }
        let (_, state) = crate::engine::load(desk.app.journal.as_ref(), run).await?;
        Ok(state.spec().notify.iter().any(|target| target == NAME))
    }

    /// Tells of one event, however long the receiver is away; false where the daemon stops before it could.
    async fn tell(
        &self,
        desk: &Desk,
        told: &Told,
        position: u64,
        run: RunId,
        event: &Event,
        ring: Ring,
    ) -> Result<bool, Error> {
        let stopping = desk.stopping();
        let keep = |cursor: Option<u64>, sending: Option<u64>| {
            let mut changes = vec![("sending".to_owned(), sending.map(Value::from))];
            changes.extend(cursor.map(|cursor| ("cursor".to_owned(), Some(Value::from(cursor)))));
            desk.app.journal.keep(NAME, changes)
        };
        let mut repeat = told.unsure == Some(position);
        let (mut pause, mut turned_down) = (PAUSE, 0);
        keep(None, Some(position)).await?;
        loop {
            let document = desk.document(run).await?;
            let body = body(run, event, ring, &document, repeat);
            let answer = tokio::select! {
                answer = self.sender.post(&body) => answer,
                // Its outcome stays open, and is told as a repeat at the next start.
                () = stopping.cancelled() => return Ok(false),
            };
            let wait = match answer {
                Answer::Taken => break,
                Answer::TurnedDown(why) => {
                    turned_down += 1;
                    if turned_down >= TRIES {
                        tracing::error!(%run, ring = ring.as_str(), "the webhook turned it down {TRIES} times, it is dropped: {why}");
                        break;
                    }
                    tracing::warn!(%run, ring = ring.as_str(), "the webhook turned it down: {why}");
                    pause
                }
                Answer::Away { why, unsure, after } => {
                    tracing::warn!(%run, ring = ring.as_str(), "the webhook is not there: {why}");
                    repeat |= unsure;
                    after.unwrap_or(pause).clamp(pause, PAUSE_MAX)
                }
            };
            pause = (pause * 2).min(PAUSE_MAX);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopping.cancelled() => return Ok(false),
            }
        }
        keep(Some(position), None).await?;
        Ok(true)
    }
}

/// What is posted. The id is that of the event: whoever has seen it may drop a repeat.
fn body(run: RunId, event: &Event, ring: Ring, document: &Value, repeat: bool) -> Value {
    let brief = [
        "task_id",
        "short_id",
        "pipeline",
        "repo",
        "task",
        "status",
        "waiting_for",
        "base",
        "branch",
        "commit",
        "links",
        "error",
    ];
    let mut told: serde_json::Map<String, Value> =
        brief.iter().map(|key| ((*key).to_owned(), document[*key].clone())).collect();
    let plan = &document["plan"];
    if !plan.is_null() {
        told.insert(
            "plan".to_owned(),
            json!({
                "title": plan["title"], "summary": plan["summary"], "revision": plan["revision"], "hash": plan["hash"],
            }),
        );
    }
    told.insert("usd".to_owned(), document["usage"]["usd"].clone());
    json!({
        "id": format!("{run}/{}", event.seq), "event": ring.as_str(), "at": event.at, "repeat": repeat, "run": told,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::{Ending, EventBody};
    use crate::core::time::Timestamp;

    #[test]
    fn the_body_says_what_a_person_wants_to_know_and_not_all() {
        let run: RunId = "0193b2c0-7e1f-7abc-8def-000000000001".parse().unwrap();
        let event =
            Event { seq: 7, at: Timestamp(0), body: EventBody::Finished { status: Ending::Completed, error: None } };
        let document = json!({"task_id": run, "status": "COMPLETED", "task": "t", "steps": [1, 2], "usage": {"usd": 0.5},
                              "plan": {"title": "T", "steps": [], "hash": "sha256:x", "revision": 1, "summary": "S"}});
        let body = body(run, &event, Ring::Done, &document, true);
        assert_eq!(
            (body["id"].as_str(), body["event"].as_str()),
            (Some("0193b2c0-7e1f-7abc-8def-000000000001/7"), Some("done"))
        );
        assert_eq!(
            (&body["repeat"], &body["run"]["usd"], &body["run"]["plan"]["title"]),
            (&json!(true), &json!(0.5), &json!("T"))
        );
        assert!(body["run"].get("steps").is_none());
    }
}
