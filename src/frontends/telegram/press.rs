//! Pressed buttons. A button is a token of a kept row, and what the row says is all that it can do: stale, foreign and repeated
//! presses change nothing, and their message is brought to what is true.

use super::book::{
    About, Action, Button, Card, Draft, File, Page, Record, Row, What, button_key, card_key, draft_key, run_key,
};
use super::html::Html;
use super::listen::Said;
use super::sheets::{ask, file, note, with_keys};
use super::updates::{Place, Press};
use super::words::words;
use super::{Bot, cards};
use crate::core::id::RunId;
use crate::core::request::Signal;
use crate::error::Error;
use crate::frontends::words::{Lang, fill};

impl Bot {
    /// Does what a button says; the answer is shown to whoever pressed it.
    pub(super) async fn press(&self, page: &mut Page<'_>, said: &Said, press: &Press) -> Result<String, Error> {
        let (lang, texts) = (said.lang, said.texts());
        let Some(button) = page.get::<Button>(&button_key(&press.data)).await? else {
            return self.stale(page, press, lang).await;
        };
        if button.chat != press.at.chat {
            return Ok(texts.foreign.to_owned());
        }
        let decides = matches!(button.does, Action::Approve { .. } | Action::Reject { .. });
        if decides && !self.settings().approves(said.person.id) {
            return Ok(texts.not_approver.to_owned());
        }
        let at = press.at;
        let signal = match &button.does {
            Action::Approve { run, hash } => {
                Some((*run, Signal::Approve { plan_hash: hash.clone(), note: None }, texts.approved_now))
            }
            Action::Reject { run, .. } => Some((*run, Signal::Reject { note: None }, texts.rejected_now)),
            Action::Retry { run } => Some((*run, Signal::Retry { from: None }, texts.retrying)),
            Action::Abort { run } => Some((*run, Signal::Abort, texts.aborting)),
            _ => None,
        };
        if let Some((run, signal, done)) = signal {
            if !self.is_current(run, &button.does).await? {
                return self.stale(page, press, lang).await;
            }
            self.take_part(page, run, at).await?;
            // Its row goes only with the number of the update: a second try must find it.
            let verdict = self.once(page, said, run, signal).await?;
            if verdict.is_ok() {
                page.drop(button_key(&press.data));
            }
            self.bare(page, press, &button.does).await?;
            self.look_again(run);
            return Ok(verdict.map_or_else(
                |refused| lang.refusal(&refused.code, &refused.message).to_owned(),
                |()| done.to_owned(),
            ));
        }
        match button.does {
            Action::Revise { run, hash, revision } => {
                let about = About::Feedback { run, hash: hash.clone(), revision };
                let plan = About::Plan { run, hash, revision };
                let doc = self.desk.document(run).await?;
                if cards::truth(&doc, &plan, lang).is_some() {
                    return self.stale(page, press, lang).await;
                }
                let text = Html::of(&fill(texts.feedback, &[("n", &revision.to_string())]));
                page.send(ask(at, Some(press.message), text, about));
            }
            Action::Log { run } => drop(page.send(file(at, File::Log { run }))),
            Action::Diff { run } => drop(page.send(file(at, File::Diff { run }))),
            Action::AskAbort { run } => self.ask_abort(page, at, run, lang)?,
            Action::Leave => {
                self.bare(page, press, &Action::Leave).await?;
                return Ok(texts.left.to_owned());
            }
            Action::Repo { draft, repo } => {
                let Some(mut found) = page.get::<Draft>(&draft_key(&draft)).await? else {
                    self.bare(page, press, &Action::Leave).await?;
                    return Ok(texts.draft_gone.to_owned());
                };
                found.repo = Some(repo.clone());
                self.bare(page, press, &Action::Leave).await?;
                self.go_on(page, said, Some(draft), found).await?;
                return Ok(repo);
            }
            Action::Plan { run } => self.show_plan_of(page, said, run).await?,
            Action::Status { run } => self.show_status(page, said, run).await?,
            Action::Mute { run, mute } => self.mute(page, said, run, mute).await?,
            Action::Approve { .. } | Action::Reject { .. } | Action::Retry { .. } | Action::Abort { .. } => {}
        }
        Ok(String::new())
    }

    /// Asks before a run is aborted by a button, which a thumb can hit by chance.
    pub(super) fn ask_abort(&self, page: &mut Page<'_>, at: Place, run: RunId, lang: Lang) -> Result<(), Error> {
        let texts = words(lang);
        let abort = page.button(at.chat, lang.words().abort, Action::Abort { run })?;
        let leave = page.button(at.chat, texts.keep_going, Action::Leave)?;
        let text = Html::of(&fill(texts.sure_abort, &[("run", &run.short())]));
        page.send(with_keys(at, text, vec![vec![abort, leave]], About::Run { run }));
        Ok(())
    }

    /// A plan's button is about the current plan; the engine checks it for approvals, here it is for the rest.
    async fn is_current(&self, run: RunId, action: &Action) -> Result<bool, Error> {
        let doc = self.desk.document(run).await?;
        Ok(match action {
            Action::Approve { hash, .. } | Action::Reject { hash, .. } => cards::word(&doc, "/plan/hash") == hash,
            _ => true,
        })
    }

    /// Whoever decides about a run here is told of it here.
    pub(super) async fn take_part(&self, page: &mut Page<'_>, run: RunId, at: Place) -> Result<(), Error> {
        let mut record: Record = page.get(&run_key(run)).await?.unwrap_or_default();
        record.tell(at, true);
        page.put(run_key(run), &record);
        Ok(())
    }

    /// A press that means nothing any more: the message says what is true and loses its buttons.
    async fn stale(&self, page: &mut Page<'_>, press: &Press, lang: Lang) -> Result<String, Error> {
        let texts = words(lang);
        let card: Option<Card> = page.get(&card_key(press.at.chat, press.message)).await?;
        if let Some(card) = card {
            let about = card.about.clone();
            if self.settle_one(page, press.message, card).await?
                && let Some(run) = about.run()
            {
                let doc = self.desk.document(run).await?;
                return Ok(cards::truth(&doc, &about, lang).unwrap_or_else(|| texts.stale.to_owned()));
            }
            if matches!(about, About::Plan { .. } | About::Question { .. } | About::Progress { .. }) {
                // Its other buttons are good.
                return Ok(texts.stale.to_owned());
            }
        }
        page.send(without_keys(press));
        Ok(texts.stale.to_owned())
    }

    /// Takes the buttons of a message away once one of them was used. Plans and questions are settled by what came of them.
    async fn bare(&self, page: &mut Page<'_>, press: &Press, action: &Action) -> Result<(), Error> {
        if matches!(action, Action::Approve { .. } | Action::Reject { .. }) {
            return Ok(());
        }
        if let Some(card) = page.get::<Card>(&card_key(press.at.chat, press.message)).await? {
            card.buttons.iter().for_each(|token| page.drop(button_key(token)));
        }
        page.send(without_keys(press));
        Ok(())
    }

    /// Shows a run's plan, with buttons while it waits.
    pub(super) async fn show_plan_of(&self, page: &mut Page<'_>, said: &Said, run: RunId) -> Result<(), Error> {
        let (at, lang) = (said.at, said.lang);
        let doc = self.desk.document(run).await?;
        match cards::plan_of(&doc) {
            Some(plan) => self.show_plan(page, at, lang, &doc, &plan, false),
            None => {
                let values = [("run", run.short()), ("status", cards::status(&doc, lang).to_owned())];
                let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
                page.send(note(at, said.reply, Html::of(&fill(words(lang).no_plan, &values))));
                Ok(())
            }
        }
    }

    /// Shows how a run stands, with what can be done about it.
    pub(super) async fn show_status(&self, page: &mut Page<'_>, said: &Said, run: RunId) -> Result<(), Error> {
        let (at, lang) = (said.at, said.lang);
        let doc = self.desk.document(run).await?;
        if cards::is_over(&doc) {
            return self.tell_end(page, at, lang, &doc, false);
        }
        match (cards::waits_for(&doc), cards::plan_of(&doc)) {
            (Some("approval"), Some(plan)) => self.show_plan(page, at, lang, &doc, &plan, false),
            (Some(_), _) => self.ask_question(page, at, lang, &doc, false),
            (None, _) => {
                let mut keys = vec![page.button(at.chat, words(lang).log, Action::Log { run })?];
                keys.push(page.button(at.chat, lang.words().abort, Action::AskAbort { run })?);
                keys.extend(self.open_key(run, lang));
                page.send(with_keys(at, cards::progress(&doc, lang, &[]), vec![keys], About::Run { run }));
                Ok(())
            }
        }
    }
}

fn without_keys(press: &Press) -> Row {
    let what = What::Bare { message: press.message };
    Row { to: press.at, what, rings: false, waits: false, tried: false, reply_to: None, about: About::Other }
}
