//! Puts messages together: a text, its buttons, and what a reply to it will mean. Everything goes through the book.

use serde_json::Value;

use super::Bot;
use super::book::{About, Action, File, Key, Page, Row, To, What};
use super::cards;
use super::html::Html;
use super::updates::Place;
use super::words::words;
use crate::core::id::RunId;
use crate::core::plan::PlanRecord;
use crate::error::Error;
use crate::frontends::words::Lang;

/// A message without buttons that says something once.
pub fn note(to: Place, reply_to: Option<i64>, text: Html) -> Row {
    let what = What::Text { text, body: Html::default(), keys: Vec::new(), ask: false };
    Row { to, what, rings: false, waits: false, tried: false, reply_to, about: About::Other }
}

/// A message with buttons.
pub fn with_keys(to: Place, text: Html, keys: Vec<Vec<Key>>, about: About) -> Row {
    let keys = keys.into_iter().filter(|row| !row.is_empty()).collect();
    let what = What::Text { text, body: Html::default(), keys, ask: false };
    Row { to, what, rings: false, waits: false, tried: false, reply_to: None, about }
}

/// A message that opens the keyboard for a reply.
pub fn ask(to: Place, reply_to: Option<i64>, text: Html, about: About) -> Row {
    let what = What::Text { text, body: Html::default(), keys: Vec::new(), ask: true };
    Row { to, what, rings: false, waits: false, tried: false, reply_to, about }
}

/// A file.
pub fn file(to: Place, of: File) -> Row {
    Row { to, what: What::File { of }, rings: false, waits: false, tried: false, reply_to: None, about: About::Other }
}

/// A link that signs somebody in.
pub fn login(to: Place, user: &str) -> Row {
    let what = What::Login { user: user.to_owned() };
    Row { to, what, rings: false, waits: false, tried: false, reply_to: None, about: About::Other }
}

impl Bot {
    /// The page of a run, where people can reach one.
    pub(super) fn open_key(&self, run: RunId, lang: Lang) -> Option<Key> {
        let url = self.desk.app.config().web.url.clone()?;
        let url = format!("{}/runs/{run}", url.trim_end_matches('/'));
        super::html::opens(&url).then(|| Key { text: lang.words().open.to_owned(), to: To::Url(url) })
    }

    /// Shows a plan; as a file as well, where it is long.
    pub(super) fn show_plan(
        &self,
        page: &mut Page<'_>,
        at: Place,
        lang: Lang,
        doc: &Value,
        plan: &PlanRecord,
        rings: bool,
    ) -> Result<(), Error> {
        let Some(run) = run_of(doc) else { return Ok(()) };
        let (text, whole) = cards::plan(doc, plan, lang);
        let (hash, revision) = (plan.hash.clone(), u64::from(plan.revision));
        let about = About::Plan { run, hash: hash.clone(), revision };
        let mut keys = Vec::new();
        let open = cards::truth(doc, &about, lang).is_none();
        if open {
            let texts = lang.words();
            let approve = crate::frontends::words::fill(texts.approve_revision, &[("n", &revision.to_string())]);
            // A person who may not decide gets no button for it; in a group each press is looked at.
            let decides = !at.is_private() || self.settings().approves(at.chat);
            let revise = Action::Revise { run, hash: hash.clone(), revision };
            if decides {
                keys.push(vec![page.button(at.chat, &approve, Action::Approve { run, hash: hash.clone() })?]);
                let revise = page.button(at.chat, texts.revise, revise)?;
                keys.push(vec![
                    revise,
                    page.button(at.chat, texts.reject, Action::Reject { run, hash: hash.clone() })?,
                ]);
            } else {
                keys.push(vec![page.button(at.chat, texts.revise, revise)?]);
            }
        }
        keys.push(self.open_key(run, lang).into_iter().collect());
        let mut row = with_keys(at, text, keys, about);
        row.rings = rings && open;
        if let What::Text { body, .. } = &mut row.what {
            *body = cards::plan_head(doc, plan, lang);
        }
        page.send(row);
        if !whole {
            page.send(Row { waits: rings && open, ..file(at, File::Plan { run, hash }) });
        }
        Ok(())
    }

    /// Asks a run's question.
    pub(super) fn ask_question(
        &self,
        page: &mut Page<'_>,
        at: Place,
        lang: Lang,
        doc: &Value,
        rings: bool,
    ) -> Result<(), Error> {
        let Some(run) = run_of(doc) else { return Ok(()) };
        let body = cards::question(doc, lang);
        let text = body.clone().nl().nl().text(words(lang).reply_to_answer);
        let abort = page.button(at.chat, lang.words().abort, Action::AskAbort { run })?;
        let mut keys = vec![abort];
        keys.extend(self.open_key(run, lang));
        let about = About::Question { run, since: cards::word(doc, "/waiting_for/since").to_owned() };
        let mut row = with_keys(at, text, vec![keys], about);
        row.rings = rings;
        if let What::Text { body: kept, .. } = &mut row.what {
            *kept = body;
        }
        page.send(row);
        Ok(())
    }

    /// Tells how a run ended.
    pub(super) fn tell_end(
        &self,
        page: &mut Page<'_>,
        at: Place,
        lang: Lang,
        doc: &Value,
        rings: bool,
    ) -> Result<(), Error> {
        let Some(run) = run_of(doc) else { return Ok(()) };
        let texts = words(lang);
        let mut keys = Vec::new();
        if cards::word(doc, "/status") == "FAILED" {
            keys.push(page.button(at.chat, lang.words().retry, Action::Retry { run })?);
        }
        keys.push(page.button(at.chat, texts.log, Action::Log { run })?);
        if !cards::word(doc, "/branch").is_empty() {
            keys.push(page.button(at.chat, texts.diff, Action::Diff { run })?);
        }
        let open = self.open_key(run, lang).into_iter().collect();
        let mut row = with_keys(at, cards::result(doc, lang), vec![keys, open], About::Run { run });
        row.rings = rings;
        page.send(row);
        Ok(())
    }

    /// Begins to follow a run in one message.
    pub(super) fn follow(&self, page: &mut Page<'_>, at: Place, lang: Lang, doc: &Value) -> Result<(), Error> {
        let Some(run) = run_of(doc) else { return Ok(()) };
        let mut keys = vec![page.button(at.chat, lang.words().abort, Action::AskAbort { run })?];
        keys.extend(self.open_key(run, lang));
        page.send(with_keys(at, cards::progress(doc, lang, &[]), vec![keys], About::Progress { run }));
        Ok(())
    }
}

/// The run of a document.
pub fn run_of(doc: &Value) -> Option<RunId> {
    cards::word(doc, "/task_id").parse().ok()
}
