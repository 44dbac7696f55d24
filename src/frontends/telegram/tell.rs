//! Follows the journal and decides who is told what of it. The decision looks at how a run stands, not at how it got there, so
//! that what is out of date is never told; how far it read and what is to be sent are written in one transaction.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::book::{
    About, CURSOR, Card, Choice, Page, Record, Row, Told, What, button_key, card_key, chat_key, live_key, run_key,
};
use super::follow::Live;
use super::html::Html;
use super::sheets::{note, run_of};
use super::updates::Place;
use super::{Bot, cards};
use crate::core::event::{Event, EventBody, RunSpec};
use crate::core::id::RunId;
use crate::core::rings::{self, Target};
use crate::engine::Notice;
use crate::error::Error;
use crate::steps::Stream;

/// Events that are looked at together.
const BATCH: usize = 500;
/// Looks for events at least this often, should a notice have been missed.
const LOOK: Duration = Duration::from_secs(2);

impl Bot {
    /// Tells until the stop.
    pub(super) async fn tell_all(&self, stop: &CancellationToken) {
        let mut notices = self.desk.subscribe();
        for (key, _) in self.book.all::<Value>("live/").await.unwrap_or_default() {
            if let Some(run) = key.strip_prefix("live/").and_then(|run| run.parse().ok()) {
                self.touch(run);
            }
        }
        self.load_reminders().await;
        while !stop.is_cancelled() {
            match self.tell_more().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(channel = "telegram", error = %error.to_text().trim_end(), "cannot read the journal now");
                    // What was not written is not so.
                    self.load_reminders().await;
                }
            }
            let wait = tokio::time::sleep(LOOK);
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = &mut wait => break,
                    () = self.again.notified() => break,
                    notice = notices.recv() => match notice {
                        Ok(Notice::Event { .. }) | Err(RecvError::Lagged(_)) => break,
                        Ok(Notice::Line { run, step, stream: Stream::Note, text }) => self.heard(run, &step, &text),
                        Ok(_) => {}
                        // The engine goes; the stop comes.
                        Err(RecvError::Closed) => { stop.cancelled().await; break }
                    },
                }
            }
        }
    }

    /// One batch; whether there was any.
    async fn tell_more(&self) -> Result<bool, Error> {
        let mut page = self.book.page().await;
        let known = page.get::<u64>(CURSOR).await?;
        let cursor = match known {
            Some(cursor) => cursor,
            // The past is nobody's news.
            None => self.desk.app.journal.feed_end().await?,
        };
        let events = self.desk.app.journal.feed(cursor, BATCH).await?;
        let looked = self.take(&self.looked);
        let mut runs: BTreeSet<RunId> = looked.iter().copied().collect();
        let mut touched = BTreeSet::new();
        for (_, run, event) in &events {
            touched.insert(*run);
            if rings::may_be_message(event) {
                self.pass_on(&mut page, *run, event).await?;
            }
            if let EventBody::Accepted(spec) = &event.body {
                self.find_audience(&mut page, *run, spec).await?;
            }
            if matters(event) {
                runs.insert(*run);
            }
        }
        runs.extend(self.remind(&mut page).await?);
        let end = events.last().map_or(cursor, |(position, ..)| *position);
        page.put(CURSOR.to_owned(), &end);
        for run in &runs {
            match self.desk.document(*run).await {
                Ok(doc) => self.tell(&mut page, *run, &doc).await?,
                Err(error) if error.code == "journal" => {
                    self.looked.lock().expect("no holder of this lock can panic").extend(looked);
                    return Err(error);
                }
                Err(error) => tracing::warn!(%run, error = %error.to_text().trim_end(), "cannot tell of a run"),
            }
        }
        let any = !events.is_empty() || !runs.is_empty();
        if any || known.is_none() {
            page.commit().await?;
        }
        drop(page);
        touched.into_iter().chain(runs).for_each(|run| self.touch(run));
        Ok(any)
    }

    /// Who is told of a run that did not come from here: whom the task names; otherwise whoever may approve and has spoken to
    /// the bot, of decisions only.
    async fn find_audience(&self, page: &mut Page<'_>, run: RunId, spec: &RunSpec) -> Result<(), Error> {
        if page.get::<Record>(&run_key(run)).await?.is_some() {
            return Ok(());
        }
        let mut record = Record::default();
        for at in self.chats_of(run, &spec.notify) {
            record.tell(at, true);
        }
        // A task that names somebody is told to nobody else.
        if spec.notify.is_empty() {
            self.add_approvers(page, &mut record).await?;
        }
        if !record.told.is_empty() {
            page.put(run_key(run), &record);
        }
        Ok(())
    }

    /// The chats among targets, as far as they are allowed.
    fn chats_of(&self, run: RunId, targets: &[String]) -> Vec<Place> {
        let settings = self.settings();
        let chats = targets.iter().filter_map(|target| match Target::read(target) {
            Some(Target::Telegram(chat)) => Some(chat),
            _ => None,
        });
        let allowed = chats.filter(|chat| {
            let allowed = settings.allow.contains(chat) || settings.chats.contains(chat);
            if !allowed {
                tracing::warn!(%run, chat, "`notify` names a chat that chat.telegram does not allow");
            }
            allowed
        });
        allowed.map(|chat| Place { chat, thread: None }).collect()
    }

    /// Passes on what a `notify` step says, in silence.
    async fn pass_on(&self, page: &mut Page<'_>, run: RunId, event: &Event) -> Result<(), Error> {
        let (graph, _) = crate::engine::load(self.desk.app.journal.as_ref(), run).await?;
        let Some(message) = rings::message(event, &graph) else { return Ok(()) };
        let record: Record = page.get(&run_key(run)).await?.unwrap_or_default();
        let told: Vec<Place> = record.told.iter().filter(|told| told.all).map(|told| told.at).collect();
        let places = if message.to.is_empty() {
            told
        } else {
            // In the topic in which the run is talked about, if there is one.
            let known = |at: Place| told.iter().find(|told| told.chat == at.chat).copied().unwrap_or(at);
            self.chats_of(run, &message.to).into_iter().map(known).collect()
        };
        for at in places {
            let text = Html::of("💬 ").code(&run.short()).nl().text(&message.text);
            page.send(Row { about: About::Run { run }, ..note(at, None, text) });
        }
        Ok(())
    }

    /// Approvers who have spoken to the bot are asked; to others it cannot write.
    pub(super) async fn add_approvers(&self, page: &Page<'_>, record: &mut Record) -> Result<(), Error> {
        let settings = self.settings();
        for user in settings.allow.iter().copied().filter(|user| settings.approves(*user)) {
            if page.get::<Choice>(&chat_key(user)).await?.is_some() {
                record.tell(Place { chat: user, thread: None }, false);
            }
        }
        Ok(())
    }

    /// Brings everybody who is told of a run to what is true now.
    async fn tell(&self, page: &mut Page<'_>, run: RunId, doc: &Value) -> Result<(), Error> {
        let Some(mut record) = page.get::<Record>(&run_key(run)).await? else { return Ok(()) };
        self.settle(page, &mut record, doc).await?;
        let over = cards::is_over(doc);
        let kind = cards::waits_for(doc);
        let plan = cards::plan_of(doc).filter(|_| kind == Some("approval"));
        if let Some(plan) = &plan {
            let shown = format!("{} {}", plan.revision, plan.hash);
            if record.plan.as_ref() != Some(&shown) {
                record.plan = Some(shown);
                for told in record.told.clone() {
                    let lang = self.lang(page, told.at.chat).await?;
                    self.show_plan(page, told.at, lang, doc, plan, record.is_heard(told.at.chat))?;
                }
                self.expect(page, run, !record.told.is_empty());
            }
        } else if kind.is_some() {
            let since = cards::word(doc, "/waiting_for/since").to_owned();
            if record.question.as_ref() != Some(&since) {
                record.question = Some(since);
                for told in record.told.clone() {
                    let lang = self.lang(page, told.at.chat).await?;
                    self.ask_question(page, told.at, lang, doc, record.is_heard(told.at.chat))?;
                }
                self.expect(page, run, !record.told.is_empty());
            }
        } else {
            self.expect(page, run, false);
        }
        let at = cards::word(doc, "/updated_at").to_owned();
        if over && record.end.as_ref() != Some(&at) {
            record.end = Some(at);
            record.following.clear();
            let rings = cards::word(doc, "/status") != "ABORTED";
            for told in record.told.clone().into_iter().filter(|told| told.all) {
                let lang = self.lang(page, told.at.chat).await?;
                self.tell_end(page, told.at, lang, doc, rings && record.is_heard(told.at.chat))?;
            }
        }
        if !over {
            self.follow_missing(page, &mut record, run, doc).await?;
        }
        page.put(run_key(run), &record);
        Ok(())
    }

    /// A message that follows the run, for everybody who is told everything and has none.
    async fn follow_missing(
        &self,
        page: &mut Page<'_>,
        record: &mut Record,
        run: RunId,
        doc: &Value,
    ) -> Result<(), Error> {
        let lives: Vec<Live> = page.get(&live_key(run)).await?.unwrap_or_default();
        for Told { at, all } in record.told.clone() {
            let has = record.following.contains(&at.chat) || lives.iter().any(|live| live.at.chat == at.chat);
            if all && !has && !self.quiet(page, at.chat).await? {
                record.following.push(at.chat);
                let lang = self.lang(page, at.chat).await?;
                self.follow(page, at, lang, doc)?;
            }
        }
        Ok(())
    }

    /// Messages whose decision has been made say so, and lose their buttons.
    async fn settle(&self, page: &mut Page<'_>, record: &mut Record, doc: &Value) -> Result<(), Error> {
        let mut open = Vec::new();
        for (chat, message) in std::mem::take(&mut record.open) {
            let Some(card) = page.get::<Card>(&card_key(chat, message)).await? else { continue };
            let lang = self.lang(page, chat).await?;
            match cards::truth(doc, &card.about, lang) {
                None => open.push((chat, message)),
                Some(outcome) => settle_card(page, message, card, &outcome),
            }
        }
        record.open = open;
        Ok(())
    }

    /// Settles one message, whether it counts as open or not; `false` where its decision is open.
    pub(super) async fn settle_one(&self, page: &mut Page<'_>, message: i64, card: Card) -> Result<bool, Error> {
        let Some(run) = card.about.run() else { return Ok(false) };
        let doc = self.desk.document(run).await?;
        let lang = self.lang(page, card.at.chat).await?;
        let Some(outcome) = cards::truth(&doc, &card.about, lang) else { return Ok(false) };
        if let Some(mut record) = page.get::<Record>(&run_key(run)).await? {
            record.open.retain(|open| *open != (card.at.chat, message));
            page.put(run_key(run), &record);
        }
        settle_card(page, message, card, &outcome);
        debug_assert_eq!(run_of(&doc), Some(run));
        Ok(true)
    }
}

fn settle_card(page: &mut Page<'_>, message: i64, card: Card, outcome: &str) {
    card.buttons.iter().for_each(|token| page.drop(button_key(token)));
    let what = What::Edit { message, text: cards::settled(&card.body, outcome) };
    let about = About::Other;
    page.send(Row { to: card.at, what, rings: false, waits: false, tried: false, reply_to: None, about });
    page.put(card_key(card.at.chat, message), &Card { buttons: Vec::new(), ..card });
}

/// Whether an event can change what people are told, beside the message that follows a run.
fn matters(event: &Event) -> bool {
    use EventBody::*;
    matches!(
        event.body,
        Accepted(_)
            | StepAsked { .. }
            | Approved { .. }
            | Revised { .. }
            | Rejected { .. }
            | Answered { .. }
            | AbortRequested { .. }
            | Retried { .. }
            | Rewound { .. }
            | Finished { .. }
    )
}
