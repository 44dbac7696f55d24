//! Listens: fetches updates and handles each exactly once, also over a kill. Whoever is not allowed gets nothing, not even a line
//! in a log.
//!
//! What an update leads to and the number from which to go on are written together. What it does to a run happens before, so its
//! intent is kept first, and a second try looks for the trace of the first.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::{ApiError, POLL_S};
use super::book::{Begun, Choice, OFFSET, Page, begun_key, chat_key, moved_key};
use super::commands::MENU;
use super::drafts::refusal;
use super::sheets::note;
use super::updates::{self, Message, Person, Place, Update};
use super::words::{Words, words};
use super::{Bot, who};
use crate::core::event::{Event, EventBody, Who};
use crate::core::id::RunId;
use crate::core::request::Signal;
use crate::error::Error;
use crate::frontends::words::Lang;

/// Somebody who may talk here, and the update that brought his or her words.
pub struct Said {
    /// The update.
    pub update: i64,
    /// Where.
    pub at: Place,
    /// The message that is answered, if it is one.
    pub reply: Option<i64>,
    /// When it was written, in Telegram's seconds; 0 for a button.
    pub date: i64,
    /// Who.
    pub person: Person,
    /// What this chat is spoken to in.
    pub lang: Lang,
}

impl Said {
    /// The bot's texts for this chat.
    pub fn texts(&self) -> &'static Words {
        words(self.lang)
    }
}

/// When somebody spoke is not kept to the minute, in milliseconds: it would be written with every word.
const SPOKE_MS: u64 = 5 * 60_000;
/// The first wait after a failure; each later one is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(60);

impl Bot {
    /// Listens until the stop. Ends early only if the token is refused.
    pub(super) async fn listen_all(&self, stop: &CancellationToken) -> Result<(), ApiError> {
        let mut wait = FIRST;
        let mut name = None;
        while !stop.is_cancelled() {
            let round = async {
                match &name {
                    None => {
                        name = Some(self.introduce().await?);
                        Ok(None)
                    }
                    Some(name) => self.fetch(name).await,
                }
            };
            let failure = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ended = round => ended,
            };
            let said = match failure {
                Ok(None) => {
                    wait = FIRST;
                    continue;
                }
                Ok(Some(error)) => error.to_text().trim_end().to_owned(),
                Err(error) if error.is_final() => return Err(error),
                Err(ApiError::Refused { code: 409, description, .. }) => {
                    wait = wait.max(Duration::from_secs(5));
                    format!(
                        "another program fetches this bot's updates ({description}): stop it, or give each its own bot; \
                         only one of them gets an update"
                    )
                }
                Err(ApiError::Refused { retry_after: Some(seconds), .. }) => {
                    wait = Duration::from_secs(seconds.clamp(1, 3600));
                    "Telegram wants to be asked less often".to_owned()
                }
                Err(error) => error.to_string(),
            };
            tracing::warn!(channel = "telegram", error = said, "trying again in {} s", wait.as_secs());
            tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(wait) => {} }
            wait = (wait * 2).min(LONGEST);
        }
        Ok(())
    }

    /// The bot's name, its menu, and no webhook that would take the updates away.
    async fn introduce(&self) -> Result<String, ApiError> {
        let me = self.api.call("getMe", &json!({})).await?;
        self.api.call("deleteWebhook", &json!({"drop_pending_updates": false})).await?;
        for (lang, code) in [(Lang::En, ""), (Lang::Es, "es")] {
            let all = serde_json::to_value(words(lang)).expect("texts are plain data");
            let menu: Vec<Value> =
                MENU.iter().map(|name| json!({"command": name, "description": all[format!("menu_{name}")]})).collect();
            let set = self.api.call("setMyCommands", &json!({"commands": menu, "language_code": code})).await;
            if let Err(error) = set {
                // The menu is a courtesy.
                tracing::warn!(channel = "telegram", %error, "cannot set the menu of commands");
            }
        }
        let name = me["username"].as_str().unwrap_or_default().to_owned();
        tracing::info!(channel = "telegram", "listening as @{}", super::html::line(&name, 64));
        Ok(name)
    }

    /// One poll and what came of it; a failure of the home stops it before the update that met it.
    async fn fetch(&self, name: &str) -> Result<Option<Error>, ApiError> {
        let offset = match self.book.page().await.get::<i64>(OFFSET).await {
            Ok(offset) => offset,
            Err(error) => return Ok(Some(error)),
        };
        let mut body = json!({"limit": 100, "timeout": POLL_S, "allowed_updates": ["message", "callback_query"]});
        if let Some(offset) = offset {
            body["offset"] = json!(offset);
        }
        let updates = self.api.call("getUpdates", &body).await?;
        for value in updates.as_array().into_iter().flatten() {
            let (Some(id), update) = updates::read(value) else { continue };
            if offset.is_some_and(|offset| id < offset) {
                continue;
            }
            if let Err(error) = self.handle(id, update, name).await {
                return Ok(Some(error));
            }
        }
        Ok(None)
    }

    /// Handles one update. After an error nothing was confirmed, and it comes again.
    async fn handle(&self, id: i64, update: Update, name: &str) -> Result<(), Error> {
        let fetched = match &update {
            Update::Message(message) => {
                self.book.at_rest(message.at.chat).await;
                self.fetch_document(message).await
            }
            Update::Press(press) => {
                self.book.at_rest(press.at.chat).await;
                None
            }
            Update::Other => None,
        };
        let mut page = self.book.page().await;
        let mut toast = None;
        match update {
            Update::Message(message) => {
                if let Some(to) = message.moved_to {
                    self.moved(&mut page, message.at.chat, to).await?;
                } else if let Some(from) = message.moved_from {
                    self.moved(&mut page, from, message.at.chat).await?;
                } else if let Some(person) = self.admitted(&page, message.at, message.from.as_ref()).await? {
                    let said = self.said(&mut page, id, message.at, &person).await?;
                    let said = Said { reply: Some(message.id), date: message.date, ..said };
                    match self.hear(&mut page, &said, &message, name, fetched).await {
                        // The home's trouble: the update comes again.
                        Err(error) if error.code == "journal" => return Err(error),
                        Err(error) => drop(page.send(note(said.at, said.reply, refusal(&error, said.lang)))),
                        Ok(()) => {}
                    }
                } else {
                    self.strangers.fetch_add(1, Ordering::Relaxed);
                }
            }
            Update::Press(press) => match self.admitted(&page, press.at, Some(&press.from)).await? {
                Some(person) => {
                    let said = self.said(&mut page, id, press.at, &person).await?;
                    let text = match self.press(&mut page, &said, &press).await {
                        Err(error) if error.code == "journal" => return Err(error),
                        other => {
                            other.unwrap_or_else(|error| said.lang.refusal(&error.code, &error.message).to_owned())
                        }
                    };
                    toast = Some((press.id.clone(), text));
                }
                None => drop(self.strangers.fetch_add(1, Ordering::Relaxed)),
            },
            Update::Other => {}
        }
        page.put(OFFSET.to_owned(), &(id + 1));
        page.drop(begun_key(id));
        page.commit().await?;
        drop(page);
        if let Some((press, text)) = toast {
            let body = json!({"callback_query_id": press, "text": super::html::clip(&text, 200)});
            if let Err(error) = self.api.call("answerCallbackQuery", &body).await {
                // Too late, or an outage: the message itself says what is true.
                tracing::debug!(%error, "a press was not answered");
            }
        }
        Ok(())
    }

    /// The person, if he or she may talk to the bot here.
    async fn admitted(&self, page: &Page<'_>, at: Place, from: Option<&Person>) -> Result<Option<Person>, Error> {
        let settings = self.settings();
        let Some(person) = from.filter(|person| settings.allow.contains(&person.id)) else { return Ok(None) };
        let here = if at.is_private() {
            at.chat == person.id
        } else {
            let was: Option<i64> = page.get(&format!("was/{}", at.chat)).await?;
            settings.chats.contains(&at.chat) || was.is_some_and(|was| settings.chats.contains(&was))
        };
        Ok(here.then(|| person.clone()))
    }

    /// Keeps that a chat has spoken, and in which language.
    async fn said(&self, page: &mut Page<'_>, update: i64, at: Place, person: &Person) -> Result<Said, Error> {
        let known: Option<Choice> = page.get(&chat_key(at.chat)).await?;
        let mut choice = known.clone().unwrap_or_default();
        if person.language.is_some() && (at.is_private() || choice.seen.is_none()) {
            choice.seen = person.language.clone();
        }
        let now = self.desk.app.clock.now();
        if choice.spoke.is_none_or(|spoke| now.since(spoke) > SPOKE_MS) {
            choice.spoke = Some(now);
        }
        if known.as_ref() != Some(&choice) {
            page.put(chat_key(at.chat), &choice);
        }
        let lang = self.lang(page, at.chat).await?;
        Ok(Said { update, at, reply: None, date: 0, person: person.clone(), lang })
    }

    /// A group has become a supergroup.
    async fn moved(&self, page: &mut Page<'_>, from: i64, to: i64) -> Result<(), Error> {
        if self.settings().chats.contains(&from) && to < 0 {
            page.put(moved_key(from), &to);
            page.put(format!("was/{to}"), &from);
            let choice: Option<Choice> = page.get(&chat_key(from)).await?;
            page.put(chat_key(to), &choice.unwrap_or_default());
            tracing::info!(
                channel = "telegram",
                from,
                to,
                "a group became a supergroup; write its new id into devo.yaml"
            );
        }
        Ok(())
    }

    /// The same, learned from a refusal.
    pub(super) async fn move_chat(&self, from: i64, to: i64) -> Result<(), Error> {
        let mut page = self.book.page().await;
        self.moved(&mut page, from, to).await?;
        // Not only configured groups: whatever was written to must be reached.
        page.put(moved_key(from), &to);
        page.commit().await
    }

    /// Gives a signal to a run once, however often the update comes. The inner error is an answer for the person.
    pub(super) async fn once(
        &self,
        page: &mut Page<'_>,
        said: &Said,
        run: RunId,
        signal: Signal,
    ) -> Result<Result<(), Error>, Error> {
        let (key, who) = (begun_key(said.update), who(&said.person));
        match page.get::<Begun>(&key).await? {
            Some(begun) => {
                let events = self.desk.events(run, begun.seq).await?;
                if events.iter().any(|event| is_trace(event, &signal, &who)) {
                    return Ok(Ok(()));
                }
            }
            None => {
                let last = self.desk.events(run, 0).await?.last().map_or(0, |event| event.seq);
                let plan_hash =
                    if let Signal::Approve { plan_hash, .. } = &signal { Some(plan_hash.clone()) } else { None };
                page.put(key, &Begun { run, seq: last, plan_hash });
                page.commit().await?;
            }
        }
        match self.desk.signal(run, signal, who).await {
            Ok(()) => Ok(Ok(())),
            Err(error) if error.code == "journal" => Err(error),
            Err(error) => Ok(Err(error)),
        }
    }
}

/// Whether an event is what this signal of this person leads to.
fn is_trace(event: &Event, signal: &Signal, by: &Who) -> bool {
    match (&event.body, signal) {
        (EventBody::Approved { plan_hash, who, .. }, Signal::Approve { plan_hash: wanted, .. }) => {
            plan_hash == wanted && who == by
        }
        (EventBody::Revised { text, who, .. }, Signal::Revise { text: wanted })
        | (EventBody::Answered { text, who, .. }, Signal::Answer { text: wanted }) => text == wanted && who == by,
        (EventBody::Rejected { who, .. }, Signal::Reject { .. })
        | (EventBody::AbortRequested { who }, Signal::Abort)
        | (EventBody::Retried { who, .. }, Signal::Retry { .. }) => who == by,
        _ => false,
    }
}

impl Message {
    /// Whether it looks like YAML that was typed or pasted.
    pub(super) fn is_yaml(&self) -> bool {
        const KEYS: &[&str] = &["pipeline:", "steps:", "name:", "repo:", "task:", "inputs:", "key:", "limits:"];
        let first = self.text.lines().map(str::trim_end).find(|line| !line.trim().is_empty() && !line.starts_with('#'));
        first.is_some_and(|line| KEYS.iter().any(|key| line.starts_with(key)))
    }
}
