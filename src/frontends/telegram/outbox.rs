//! Sends what the book says is to be sent, and edits what follows runs: one writer per bot, within Telegram's limits. Nothing is
//! lost to a limit, an outage or a crash; a message whose arrival is unknown after one is sent once more, and says so.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::ApiError;
use super::book::{
    About, Button, Card, File, Key, Page, Record, Row, To, What, button_key, card_key, live_key, moved_key, run_key,
    topic_key,
};
use super::follow::Live;
use super::html::{Html, MESSAGE_MAX, clip, units};
use super::sheets::note;
use super::updates::Place;
use super::words::words;
use super::{Bot, cards};
use crate::config::Topics;
use crate::core::id::RunId;
use crate::error::Error;
use crate::frontends::web::access;

/// Looks for something to do at least this often.
const LOOK: Duration = Duration::from_secs(30);
/// Before a failing journal is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// The longest name of a topic, in UTF-16 units.
const TOPIC_MAX: usize = 128;
/// How often one message is tried in other ways after Telegram refused it.
const WAYS: u32 = 5;

/// A text with a mark in front, where there is room for it: what may not have arrived is not given up for the mark.
fn marked(text: &Html, mark: &str) -> Html {
    let with = Html::of(mark).nl().add(text);
    if units(&with.plain) > MESSAGE_MAX { text.clone() } else { with }
}

/// What comes next.
enum Next {
    Row(u64, Box<Row>),
    Edit(RunId, Live),
    Wait(Option<Instant>),
}

/// What came of a row.
enum Sent {
    /// It is done; a new message has this number and time.
    Done(Option<(i64, i64)>),
    /// It can never be done.
    Hopeless(ApiError),
    /// Not now.
    Later,
}

/// The sender's memory; all of it can be lost.
#[derive(Default)]
pub struct Sender {
    pub(super) pace: super::pace::Pace,
    /// What is to be edited.
    pub(super) due: BTreeSet<(RunId, i64)>,
    /// Chats without topics, as Telegram said.
    flat: BTreeSet<i64>,
    /// What was shown last.
    pub(super) shown: HashMap<(RunId, i64), String>,
}

impl Bot {
    /// Sends until the stop. Ends early only if the token is refused.
    pub(super) async fn send_all(&self, stop: &CancellationToken) -> Result<(), ApiError> {
        let mut sender = Sender::default();
        while !stop.is_cancelled() {
            let step = async {
                match self.next(&mut sender).await? {
                    Next::Row(number, row) => self.deliver(&mut sender, number, *row).await,
                    Next::Edit(run, live) => self.edit(&mut sender, run, live).await,
                    Next::Wait(until) => {
                        let limit = Instant::now() + LOOK;
                        let until = until.map_or(limit, |until| until.min(limit));
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = self.book.wake.notified() => {}
                            () = tokio::time::sleep_until(until.into()) => {}
                        }
                        Ok(None)
                    }
                }
            };
            match step.await {
                Ok(None) => {}
                Ok(Some(refused)) => return Err(refused),
                Err(error) => {
                    tracing::warn!(channel = "telegram", error = %error.to_text().trim_end(), "cannot send now");
                    tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(AGAIN) => {} }
                }
            }
        }
        Ok(())
    }

    /// Messages before edits, each chat in its own order.
    async fn next(&self, sender: &mut Sender) -> Result<Next, Error> {
        let now = Instant::now();
        let page = self.book.page().await;
        for run in self.take(&self.touched) {
            let lives: Vec<Live> = page.get(&live_key(run)).await?.unwrap_or_default();
            sender.due.extend(lives.iter().map(|live| (run, live.at.chat)));
        }
        let mut waits: Vec<Instant> = Vec::new();
        let mut asleep: BTreeMap<i64, bool> = BTreeMap::new();
        for (_, row) in page.rows().filter(|(_, row)| row.rings || row.waits) {
            if let Entry::Vacant(chat) = asleep.entry(row.to.chat) {
                chat.insert(self.asleep(&page, row.to.chat).await?);
            }
        }
        let is_asleep = |chat: i64| asleep.get(&chat).copied().unwrap_or(false);
        for edits in [false, true] {
            let mut seen = BTreeSet::new();
            for (number, row) in page.rows() {
                let is_edit = matches!(row.what, What::Edit { .. } | What::Bare { .. });
                if (row.rings || row.waits) && is_asleep(row.to.chat) {
                    continue;
                }
                if is_edit != edits || !seen.insert(row.to.chat) {
                    continue;
                }
                match sender.pace.message(row.to.chat).filter(|at| *at > now) {
                    Some(at) => waits.push(at),
                    None => return Ok(Next::Row(number, Box::new(row.clone()))),
                }
            }
        }
        for (run, chat) in sender.due.clone() {
            match sender.pace.edit(chat).filter(|at| *at > now) {
                Some(at) => waits.push(at),
                None => {
                    sender.due.remove(&(run, chat));
                    let lives: Vec<Live> = page.get(&live_key(run)).await?.unwrap_or_default();
                    if let Some(live) = lives.into_iter().find(|live| live.at.chat == chat) {
                        return Ok(Next::Edit(run, live));
                    }
                }
            }
        }
        Ok(Next::Wait(waits.into_iter().min()))
    }

    async fn deliver(&self, sender: &mut Sender, number: u64, mut row: Row) -> Result<Option<ApiError>, Error> {
        if !self.still(&row).await? {
            let mut page = self.book.page().await;
            page.set_row(number, None);
            drop_buttons(&mut page, &row);
            page.commit().await?;
            return Ok(None);
        }
        let repeated = row.tried;
        {
            let page = self.book.page().await;
            if let Some(to) = page.get::<i64>(&moved_key(row.to.chat)).await? {
                row.to.chat = to;
            }
            drop(page);
            if let Some(error) = self.find_topic(sender, &mut row).await? {
                return if error.is_final() { Ok(Some(error)) } else { Ok(None) };
            }
            let mut page = self.book.page().await;
            row.tried = true;
            page.set_row(number, Some(row.clone()));
            page.commit().await?;
        }
        match self.attempt(sender, &mut row, repeated).await? {
            Sent::Done(message) => {
                let mut page = self.book.page().await;
                page.set_row(number, None);
                if let Some((message, date)) = message {
                    self.remember(&mut page, &row, message, date).await?;
                }
                page.commit().await?;
                if let Some(run) = row.about.run() {
                    // What happened while it was under way is not missed.
                    self.look_again(run);
                    self.touch(run);
                }
                Ok(None)
            }
            Sent::Hopeless(error) if error.is_final() => Ok(Some(error)),
            Sent::Hopeless(error) => {
                tracing::warn!(channel = "telegram", chat = row.to.chat, %error, "a message cannot be sent");
                let mut page = self.book.page().await;
                page.set_row(number, None);
                drop_buttons(&mut page, &row);
                page.commit().await?;
                Ok(None)
            }
            Sent::Later => {
                let mut page = self.book.page().await;
                page.set_row(number, Some(row));
                page.commit().await?;
                Ok(None)
            }
        }
    }

    /// Leads what is about a run into the topic that was made for it in that chat, or makes one where devo.yaml wants it. The
    /// answer is why that has to wait.
    async fn find_topic(&self, sender: &mut Sender, row: &mut Row) -> Result<Option<ApiError>, Error> {
        let chat = row.to.chat;
        let of_file = match &row.what {
            What::File { of: File::Plan { run, .. } | File::Log { run } | File::Diff { run } } => Some(*run),
            _ => None,
        };
        let Some(run) = row.about.run().or(of_file).filter(|_| row.to.thread.is_none()) else { return Ok(None) };
        if self.settings().topics != Topics::PerTask || sender.flat.contains(&chat) {
            return Ok(None);
        }
        let key = run_key(run);
        let record: Record = self.book.page().await.get(&key).await?.unwrap_or_default();
        let known = record.topics.iter().find(|(at, _)| *at == chat).map(|(_, topic)| *topic);
        // A chat that asks for it elsewhere is not told of the run.
        if known.is_some() || !record.told.iter().any(|told| told.at.chat == chat) {
            row.to.thread = known;
            return Ok(None);
        }
        let title = cards::title(&self.desk.document(run).await?);
        let name = clip(&format!("{title} · {}", run.short()), TOPIC_MAX);
        let now = Instant::now();
        let made = match self.api.call("createForumTopic", &json!({"chat_id": chat, "name": name})).await {
            Ok(made) => made["message_thread_id"].as_i64(),
            Err(ApiError::Refused { retry_after: Some(seconds), .. }) => {
                sender.pace.told_to_wait(chat, seconds, now);
                return Ok(Some(ApiError::Unsent("Telegram wants to be asked less often".to_owned())));
            }
            Err(error @ ApiError::Refused { code: 400 | 403, .. }) => {
                tracing::warn!(channel = "telegram", chat, %error, "no topic can be made here, so runs share the chat");
                sender.flat.insert(chat);
                return Ok(None);
            }
            Err(error) => {
                let wait = sender.pace.out(now);
                tracing::warn!(channel = "telegram", %error, "trying again in {} s", wait.as_secs());
                return Ok(Some(error));
            }
        };
        if let Some(topic) = made {
            let mut page = self.book.page().await;
            let mut record: Record = page.get(&key).await?.unwrap_or_default();
            record.topics.push((chat, topic));
            page.put(key, &record);
            page.put(topic_key(Place { chat, thread: Some(topic) }), &run);
            page.commit().await?;
            row.to.thread = Some(topic);
        }
        Ok(None)
    }

    /// Whether a row still says what is true.
    async fn still(&self, row: &Row) -> Result<bool, Error> {
        match (&row.about, &row.what) {
            (About::Plan { run, .. } | About::Question { run, .. }, What::Text { keys, .. })
                if has_tokens(keys) || row.rings =>
            {
                let doc = self.desk.document(*run).await?;
                Ok(cards::truth(&doc, &row.about, crate::frontends::words::Lang::En).is_none())
            }
            // An end that was held back, and taken back meanwhile.
            (About::Run { run }, What::Text { .. }) if row.rings => {
                Ok(cards::is_over(&self.desk.document(*run).await?))
            }
            _ => Ok(true),
        }
    }

    /// Tries a row, in other ways too where Telegram does not like the first. What is changed for good is changed in the row.
    async fn attempt(&self, sender: &mut Sender, row: &mut Row, repeated: bool) -> Result<Sent, Error> {
        let (mut plain, mut bare) = (false, false);
        for _ in 0..WAYS {
            let answer = self.request(row, repeated, plain, bare).await?;
            let now = Instant::now();
            let Some(answer) = answer else { return Ok(Sent::Done(None)) };
            match answer {
                Ok(message) => {
                    sender.pace.sent(row.to.chat, false, now);
                    let new = matches!(row.what, What::Text { .. } | What::File { .. });
                    let found = message["message_id"].as_i64().map(|id| (id, message["date"].as_i64().unwrap_or(0)));
                    return Ok(Sent::Done(found.filter(|_| new)));
                }
                Err(error) => match self.refusal(sender, row, repeated, &error, now).await? {
                    Refusal::Done => return Ok(Sent::Done(None)),
                    Refusal::Later => return Ok(Sent::Later),
                    Refusal::Again => {}
                    Refusal::Other if !plain => plain = true,
                    Refusal::Other if !bare => bare = true,
                    Refusal::Other | Refusal::Hopeless => return Ok(Sent::Hopeless(error)),
                },
            }
        }
        Ok(Sent::Later)
    }

    /// One request; `None` where there turned out to be nothing to send.
    async fn request(
        &self,
        row: &Row,
        repeated: bool,
        plain: bool,
        bare: bool,
    ) -> Result<Option<Result<Value, ApiError>>, Error> {
        let mut body = json!({"chat_id": row.to.chat});
        match &row.what {
            What::Text { text, keys, ask, .. } => {
                let lang = self.lang_of(row.to.chat).await?;
                let repeat = repeated && row.about.run().is_some();
                let text = if repeat { marked(text, words(lang).repeat) } else { text.clone() };
                say(&mut body, &text, plain);
                let keys = if bare { json!([]) } else { keyboard(keys) };
                if *ask {
                    body["reply_markup"] = json!({"force_reply": true, "selective": true});
                } else if keys.as_array().is_some_and(|keys| !keys.is_empty()) {
                    body["reply_markup"] = json!({"inline_keyboard": keys});
                }
                address(&mut body, row);
                Ok(Some(self.api.call("sendMessage", &body).await))
            }
            What::Edit { message, text } => {
                say(&mut body, text, plain);
                body["message_id"] = json!(message);
                body["reply_markup"] = json!({"inline_keyboard": []});
                Ok(Some(self.api.call("editMessageText", &body).await))
            }
            What::Bare { message } => {
                body["message_id"] = json!(message);
                body["reply_markup"] = json!({"inline_keyboard": []});
                Ok(Some(self.api.call("editMessageReplyMarkup", &body).await))
            }
            What::Login { user } => {
                let texts = words(self.lang_of(row.to.chat).await?);
                // Whoever was taken out of devo.yaml meanwhile gets none.
                if self.settings().users.get(&row.to.chat) != Some(user) {
                    return Ok(None);
                }
                match access::make_link(&self.desk.app, user).await {
                    Ok(link) => {
                        let about = crate::frontends::words::fill(texts.login, &[("user", user)]);
                        say(&mut body, &Html::of(&about).nl().text(&link), plain);
                        body["protect_content"] = json!(true);
                    }
                    Err(error) if error.code == "journal" => return Err(error),
                    Err(error) => say(&mut body, &Html::of(&clip(&error.message, 1000)), plain),
                }
                address(&mut body, row);
                Ok(Some(self.api.call("sendMessage", &body).await))
            }
            What::File { of } => {
                let lang = self.lang_of(row.to.chat).await?;
                match self.make_file(of, lang).await {
                    Ok(Some((name, bytes))) => {
                        address(&mut body, row);
                        let fields: Vec<(&str, String)> = body
                            .as_object()
                            .into_iter()
                            .flatten()
                            .map(|(key, value)| (key.as_str(), value.to_string()))
                            .collect();
                        Ok(Some(self.api.send_document(&fields, &name, &bytes).await))
                    }
                    Ok(None) if matches!(of, File::Plan { .. }) => Ok(None),
                    Ok(None) => {
                        say(&mut body, &Html::of(words(lang).no_log), false);
                        address(&mut body, row);
                        Ok(Some(self.api.call("sendMessage", &body).await))
                    }
                    Err(error) if error.code == "journal" => Err(error),
                    Err(error) => {
                        say(&mut body, &Html::of(&clip(&error.message, 1000)), false);
                        address(&mut body, row);
                        Ok(Some(self.api.call("sendMessage", &body).await))
                    }
                }
            }
        }
    }

    /// What a refusal means for a row; `repeated` is whether it may have arrived before.
    async fn refusal(
        &self,
        sender: &mut Sender,
        row: &mut Row,
        repeated: bool,
        error: &ApiError,
        now: Instant,
    ) -> Result<Refusal, Error> {
        let ApiError::Refused { code, retry_after, moved_to, .. } = error else {
            let wait = sender.pace.out(now);
            tracing::warn!(channel = "telegram", %error, "trying again in {} s", wait.as_secs());
            // What did not leave did not arrive.
            row.tried = repeated || matches!(error, ApiError::Unknown(_));
            return Ok(Refusal::Later);
        };
        row.tried = repeated;
        if let Some(seconds) = retry_after.or((*code == 429).then_some(5)) {
            sender.pace.told_to_wait(row.to.chat, seconds, now);
            return Ok(Refusal::Later);
        }
        sender.pace.sent(row.to.chat, false, now);
        if let Some(to) = *moved_to {
            self.move_chat(row.to.chat, to).await?;
            row.to = Place { chat: to, thread: None };
            return Ok(Refusal::Again);
        }
        if error.says("message is not modified") {
            return Ok(Refusal::Done);
        }
        if row.to.thread.is_some() && (error.says("thread not found") || error.says("topic_")) {
            row.to.thread = None;
            return Ok(Refusal::Again);
        }
        let gone = error.says("message to edit not found")
            || error.says("message can't be edited")
            || error.says("message_id_invalid");
        if gone {
            let What::Edit { text, .. } = &row.what else { return Ok(Refusal::Done) };
            *row = note(row.to, None, text.clone());
            return Ok(Refusal::Again);
        }
        if *code == 400 && !error.says("chat not found") { Ok(Refusal::Other) } else { Ok(Refusal::Hopeless) }
    }

    /// Keeps what a message that was sent is about.
    async fn remember(&self, page: &mut Page<'_>, row: &Row, message: i64, date: i64) -> Result<(), Error> {
        if row.about == About::Other {
            return Ok(());
        }
        let What::Text { body, keys, .. } = &row.what else { return Ok(()) };
        let buttons: Vec<String> = tokens(keys).map(str::to_owned).collect();
        for token in &buttons {
            // The chat may have moved since the button was made.
            if let Some(button) = page.get::<Button>(&button_key(token)).await? {
                page.put(button_key(token), &Button { chat: row.to.chat, ..button });
            }
        }
        let card = Card { at: row.to, about: row.about.clone(), body: body.clone(), buttons, date };
        let chat = row.to.chat;
        page.put(card_key(chat, message), &card);
        match card.about {
            About::Plan { run, .. } | About::Question { run, .. } if !card.buttons.is_empty() => {
                let mut record: Record = page.get(&run_key(run)).await?.unwrap_or_default();
                record.open.push((chat, message));
                page.put(run_key(run), &record);
            }
            About::Progress { run } => {
                let mut lives: Vec<Live> = page.get(&live_key(run)).await?.unwrap_or_default();
                lives.retain(|live| live.at.chat != chat);
                lives.push(Live { at: row.to, message });
                page.put(live_key(run), &lives);
            }
            _ => {}
        }
        Ok(())
    }
}

/// What to do about a refusal.
enum Refusal {
    Done,
    Again,
    Later,
    /// Telegram does not like something about it.
    Other,
    /// Nothing about it would help.
    Hopeless,
}

fn has_tokens(keys: &[Vec<Key>]) -> bool {
    tokens(keys).next().is_some()
}

fn tokens(keys: &[Vec<Key>]) -> impl Iterator<Item = &str> {
    keys.iter().flatten().filter_map(|key| match &key.to {
        To::Token(token) => Some(token.as_str()),
        To::Url(_) => None,
    })
}

fn drop_buttons(page: &mut Page<'_>, row: &Row) {
    if let What::Text { keys, .. } = &row.what {
        tokens(keys).for_each(|token| page.drop(button_key(token)));
    }
}

pub(super) fn keyboard(keys: &[Vec<Key>]) -> Value {
    let key = |key: &Key| match &key.to {
        To::Token(token) => json!({"text": key.text, "callback_data": token}),
        To::Url(url) => json!({"text": key.text, "url": url}),
    };
    keys.iter().filter(|row| !row.is_empty()).map(|row| row.iter().map(key).collect::<Vec<_>>()).collect()
}

/// The text of a message; plain where its HTML was refused.
pub(super) fn say(body: &mut Value, text: &Html, plain: bool) {
    if plain {
        body["text"] = json!(clip(&text.plain, super::html::MESSAGE_MAX));
    } else {
        body["text"] = json!(text.html);
        body["parse_mode"] = json!("HTML");
    }
    body["link_preview_options"] = json!({"is_disabled": true});
}

fn address(body: &mut Value, row: &Row) {
    body["disable_notification"] = json!(!row.rings);
    if let Some(thread) = row.to.thread {
        body["message_thread_id"] = json!(thread);
    }
    if let Some(message) = row.reply_to {
        body["reply_parameters"] = json!({"message_id": message, "allow_sending_without_reply": true});
    }
}
