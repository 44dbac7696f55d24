//! The message that follows a run: edited in silence while the run goes on, frozen when it ends. What it shows is made from the
//! run's document at that moment, so that edits can be left out and the last state cannot.

use std::time::Instant;

use serde_json::{Value, json};

use super::api::ApiError;
use super::book::{Action, Button, Card, Key, To, button_key, card_key, live_key, moved_key};
use super::outbox::{Sender, keyboard, say};
use super::updates::Place;
use super::{Bot, cards};
use crate::config::Verbosity;
use crate::core::id::{RunId, StepId};
use crate::error::Error;
use crate::frontends::words::Lang;

/// Lines of the steps that a message shows.
const LINES: usize = 5;

/// A message that follows a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Live {
    /// Where.
    pub at: Place,
    /// Which message.
    pub message: i64,
}

impl Bot {
    /// Brings a message that follows a run up to date; the last state stays.
    pub(super) async fn edit(&self, sender: &mut Sender, run: RunId, live: Live) -> Result<Option<ApiError>, Error> {
        let doc = self.desk.document(run).await?;
        let (lang, chat) = (self.lang_of(live.at.chat).await?, live.at.chat);
        let over = cards::is_over(&doc);
        let text = cards::progress(&doc, lang, &self.said_by(run, chat, over).await?);
        let same = sender.shown.get(&(run, chat)) == Some(&text.html);
        let outcome = if same && !over {
            Ok(Value::Null)
        } else {
            let mut body = json!({"chat_id": chat, "message_id": live.message});
            say(&mut body, &text, false);
            let keys = if over { Vec::new() } else { self.live_keys(run, live, lang).await? };
            body["reply_markup"] = json!({"inline_keyboard": keyboard(&[keys])});
            let answer = self.api.call("editMessageText", &body).await;
            sender.pace.sent(chat, true, Instant::now());
            answer
        };
        let now = Instant::now();
        let gone = match outcome {
            Ok(_) => false,
            Err(error) if error.is_final() => return Ok(Some(error)),
            Err(error) if error.says("message is not modified") => false,
            Err(ApiError::Refused { retry_after: Some(seconds), .. }) => {
                sender.pace.told_to_wait(chat, seconds, now);
                sender.due.insert((run, chat));
                return Ok(None);
            }
            Err(ApiError::Refused { moved_to: Some(to), .. }) => {
                self.move_chat(chat, to).await?;
                true
            }
            Err(error @ ApiError::Refused { .. }) => {
                tracing::debug!(%error, "a message that follows a run is gone");
                true
            }
            Err(error) => {
                let wait = sender.pace.out(now);
                tracing::warn!(channel = "telegram", %error, "trying again in {} s", wait.as_secs());
                sender.due.insert((run, chat));
                return Ok(None);
            }
        };
        sender.shown.insert((run, chat), text.html);
        if gone || over {
            sender.shown.remove(&(run, chat));
            let mut page = self.book.page().await;
            let mut lives: Vec<Live> = page.get(&live_key(run)).await?.unwrap_or_default();
            lives.retain(|other| other.message != live.message || other.at.chat != chat);
            if lives.is_empty() {
                page.drop(live_key(run))
            } else {
                page.put(live_key(run), &lives)
            }
            if let Some(card) = page.get::<Card>(&card_key(chat, live.message)).await? {
                card.buttons.iter().for_each(|token| page.drop(button_key(token)));
            }
            if gone && !over {
                let moved = page.get::<i64>(&moved_key(chat)).await?;
                let at = moved.map_or(live.at, |chat| Place { chat, thread: None });
                self.follow(&mut page, at, lang, &doc)?;
            }
            page.commit().await?;
        }
        Ok(None)
    }

    /// What the steps of a run said last, for a chat that wants to know. In groups nobody does: what a step says names files.
    async fn said_by(&self, run: RunId, chat: i64, over: bool) -> Result<Vec<String>, Error> {
        let close = chat > 0 && !over && self.verbosity(&self.book.page().await, chat).await? == Verbosity::Tools;
        let mut lines = self.lines.lock().expect("no holder of this lock can panic");
        if over {
            lines.remove(&run);
        }
        // From now on they are kept.
        Ok(if close { lines.entry(run).or_default().iter().cloned().collect() } else { Vec::new() })
    }

    /// Keeps what a step says, if somebody wants to know.
    pub(super) fn heard(&self, run: RunId, step: &StepId, text: &str) {
        let mut lines = self.lines.lock().expect("no holder of this lock can panic");
        let Some(kept) = lines.get_mut(&run) else { return };
        kept.push_back(format!("{step} | {text}"));
        if kept.len() > LINES {
            kept.pop_front();
        }
        drop(lines);
        self.touch(run);
    }

    async fn live_keys(&self, run: RunId, live: Live, lang: Lang) -> Result<Vec<Key>, Error> {
        let page = self.book.page().await;
        let card: Option<Card> = page.get(&card_key(live.at.chat, live.message)).await?;
        let mut keys = Vec::new();
        for token in card.iter().flat_map(|card| &card.buttons) {
            if let Some(Button { does: Action::AskAbort { .. }, .. }) = page.get(&button_key(token)).await? {
                keys.push(Key { text: lang.words().abort.to_owned(), to: To::Token(token.clone()) });
            }
        }
        keys.extend(self.open_key(run, lang));
        Ok(keys)
    }
}
