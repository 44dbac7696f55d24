//! Asks again, where a plan or a question was told and nobody answered: once after some hours, then at a slower pace. One message
//! for all that became due together.

use std::collections::BTreeMap;

use serde_json::Value;

use super::book::{About, Action, Card, Page, Record, Reminder, Row, card_key, remind_key, run_key};
use super::html::{Html, line};
use super::sheets::{note, with_keys};
use super::updates::Place;
use super::words::words;
use super::{Bot, cards};
use crate::core::id::RunId;
use crate::error::Error;
use crate::frontends::words::fill;

/// Runs that one message names.
const LISTED: usize = 12;

/// A run that waits, for one chat.
struct Due {
    run: RunId,
    at: Place,
    /// What waits, for a reply.
    about: About,
    /// The message that asked.
    asked: Option<i64>,
    title: String,
    since: String,
}

impl Bot {
    /// Takes over what the book knows.
    pub(super) async fn load_reminders(&self) {
        let known = self.book.all::<Reminder>("remind/").await.unwrap_or_default();
        let known =
            known.into_iter().filter_map(|(key, found)| Some((key.strip_prefix("remind/")?.parse().ok()?, found)));
        *self.reminders.lock().expect("no holder of this lock can panic") = known.collect();
    }

    /// From now on an answer is expected, or none is.
    pub(super) fn expect(&self, page: &mut Page<'_>, run: RunId, expected: bool) {
        let after = self.desk.app.config().notify.reminders.next_ms(0).filter(|_| expected);
        let next = after.map(|after| Reminder { due: self.desk.app.clock.now().plus_ms(after), sent: 0 });
        self.set_reminder(page, run, next);
    }

    fn set_reminder(&self, page: &mut Page<'_>, run: RunId, next: Option<Reminder>) {
        let mut reminders = self.reminders.lock().expect("no holder of this lock can panic");
        match next {
            Some(next) => {
                reminders.insert(run, next);
                page.put(remind_key(run), &next);
            }
            // Of most runs there is none.
            None if reminders.remove(&run).is_some() => page.drop(remind_key(run)),
            None => {}
        }
    }

    /// Sends what became due; the answer is the runs that it was about.
    pub(super) async fn remind(&self, page: &mut Page<'_>) -> Result<Vec<RunId>, Error> {
        let now = self.desk.app.clock.now();
        let due: Vec<(RunId, Reminder)> = {
            let reminders = self.reminders.lock().expect("no holder of this lock can panic");
            reminders.iter().filter(|(_, next)| next.due <= now).map(|(run, next)| (*run, *next)).collect()
        };
        let mut chats: BTreeMap<i64, Vec<Due>> = BTreeMap::new();
        for (run, reminder) in &due {
            let doc = self.desk.document(*run).await?;
            let record: Record = page.get(&run_key(*run)).await?.unwrap_or_default();
            let sent = reminder.sent + 1;
            let after = self.desk.app.config().notify.reminders.next_ms(sent);
            let waits = cards::waits_for(&doc).is_some();
            let next = after.filter(|_| waits).map(|after| Reminder { due: now.plus_ms(after), sent });
            self.set_reminder(page, *run, next);
            for told in record.told.iter().filter(|told| waits && record.is_heard(told.at.chat)) {
                let asked = record.open.iter().rev().find(|(chat, _)| *chat == told.at.chat);
                let since = cards::word(&doc, "/waiting_for/since").get(..16).unwrap_or_default().replace('T', " ");
                chats.entry(told.at.chat).or_default().push(Due {
                    run: *run,
                    at: told.at,
                    about: about(&doc, *run),
                    asked: asked.map(|(_, message)| *message),
                    title: cards::title(&doc),
                    since,
                });
            }
        }
        for (chat, dues) in chats {
            let row = match dues.as_slice() {
                [one] => self.remind_of(page, chat, one).await?,
                several => self.remind_of_all(page, chat, several).await?,
            };
            page.send(row);
        }
        Ok(due.into_iter().map(|(run, _)| run).collect())
    }

    /// Of one run: an answer to the message that asked, so that its buttons are a tap away.
    async fn remind_of(&self, page: &Page<'_>, chat: i64, one: &Due) -> Result<Row, Error> {
        let texts = words(self.lang(page, chat).await?);
        let text = Html::of("⏰ ").bold(&fill(texts.still_waits, &[("at", &one.since)])).nl();
        let text = text.text(&one.title).text(" · ").code(&one.run.short());
        let card = match one.asked {
            Some(message) => page.get::<Card>(&card_key(chat, message)).await?,
            None => None,
        };
        let at = card.map_or(one.at, |card| card.at);
        Ok(Row { rings: true, about: one.about.clone(), ..note(at, one.asked, text) })
    }

    async fn remind_of_all(&self, page: &mut Page<'_>, chat: i64, several: &[Due]) -> Result<Row, Error> {
        let texts = words(self.lang(page, chat).await?);
        let n = several.len().to_string();
        let mut text = Html::of("⏰ ").bold(&fill(texts.still_wait, &[("n", &n)])).nl();
        let mut keys = Vec::new();
        for one in several.iter().take(LISTED) {
            text = text.code(&one.run.short()).text(" · ").text(&line(&one.title, 90)).nl();
            keys.push(page.button(chat, &one.run.short(), Action::Status { run: one.run })?);
        }
        if several.len() > LISTED {
            text = text.text(&format!("… +{}", several.len() - LISTED));
        }
        let keys = keys.chunks(3).map(<[_]>::to_vec).collect();
        let at = Place { chat, thread: None };
        Ok(Row { rings: true, ..with_keys(at, text, keys, About::Other) })
    }
}

/// What a reply to the reminder of a run means: the same as one to what it reminds of.
fn about(doc: &Value, run: RunId) -> About {
    match (cards::waits_for(doc), cards::plan_of(doc)) {
        (Some("approval"), Some(plan)) => About::Plan { run, hash: plan.hash, revision: u64::from(plan.revision) },
        _ => About::Question { run, since: cards::word(doc, "/waiting_for/since").to_owned() },
    }
}
