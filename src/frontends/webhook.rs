//! Tells a program of what rings, and of what `notify` steps say, by a signed POST for each. It does not know how the request
//! travels, nor when: that is the ringer's.

mod post;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::Channel;
use super::ringer::{self, Answer, Manners, Teller, Telling};
use crate::app::{App, Desk};
use crate::config::Webhook;
use crate::core::event::RunSpec;
use crate::core::rings::Target;
use crate::error::Error;
use post::Sender;

/// The channel's word, in `notify:` of tasks as well.
pub const NAME: &str = "webhook";
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
        ringer::serve(self, &desk).await
    }
}

#[async_trait]
impl Teller for WebhookChannel {
    fn name(&self) -> &'static str {
        NAME
    }

    fn manners(&self) -> Manners {
        // A program wants every event, at any hour, and reminds itself.
        Manners { people: false, tries: TRIES }
    }

    fn usual(&self, _: &RunSpec) -> Vec<String> {
        if self.webhook.all { vec![NAME.to_owned()] } else { Vec::new() }
    }

    fn named(&self, target: &Target) -> Option<String> {
        (*target == Target::Webhook).then(|| NAME.to_owned())
    }

    async fn tell(&self, telling: &Telling<'_>) -> Answer {
        self.sender.post(&body(telling)).await
    }
}

/// What is posted. The id is that of the event: whoever has seen it may drop a repeat.
fn body(telling: &Telling<'_>) -> Value {
    let Telling { run, event, ring, message, document, repeat, .. } = telling;
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
    let mut body = json!({
        "id": format!("{run}/{}", event.seq), "event": ring.as_str(), "at": event.at, "repeat": repeat, "run": told,
    });
    if let Some(message) = message {
        body["text"] = json!(message.text);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::{Ending, Event, EventBody};
    use crate::core::id::RunId;
    use crate::core::rings::{Message, Ring};
    use crate::core::time::Timestamp;

    #[test]
    fn the_body_says_what_a_person_wants_to_know_and_not_all() {
        let run: RunId = "0193b2c0-7e1f-7abc-8def-000000000001".parse().unwrap();
        let event =
            Event { seq: 7, at: Timestamp(0), body: EventBody::Finished { status: Ending::Completed, error: None } };
        let document = json!({"task_id": run, "status": "COMPLETED", "task": "t", "steps": [1, 2], "usage": {"usd": 0.5},
                              "plan": {"title": "T", "steps": [], "hash": "sha256:x", "revision": 1, "summary": "S"}});
        let message = Message { to: vec![], text: "hello".to_owned() };
        let telling = Telling {
            run,
            event: &event,
            ring: Ring::Done,
            message: Some(&message),
            document: &document,
            to: NAME,
            repeat: true,
            reminder: 0,
        };
        let body = body(&telling);
        assert_eq!(body["text"], "hello");
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
