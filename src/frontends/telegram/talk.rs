//! Written messages: commands, replies, and text that is neither. Text alone never decides anything.

use super::book::{
    About, Action, Begun, Card, Choice, Draft, Page, Record, begun_key, card_key, chat_key, draft_key, run_key,
    topic_key,
};
use super::commands::{Command, read};
use super::drafts::{Fetched, refusal};
use super::html::{Html, clip, line};
use super::listen::Said;
use super::sheets::{login, note, with_keys};
use super::updates::Message;
use super::words::words;
use super::{Bot, cards};
use crate::config::Verbosity;
use crate::core::id::RunId;
use crate::core::request::Signal;
use crate::error::Error;
use crate::frontends::inbox::TASK_MAX;
use crate::frontends::words::{Lang, fill};
use crate::journal::RunRow;

/// Runs that have ended which a list names where nothing else is to be told.
const ENDED: usize = 5;
/// Runs that a list names, and that a picker offers.
const LISTED: usize = 12;

impl Bot {
    /// Handles a message of somebody who may talk here.
    pub(super) async fn hear(
        &self,
        page: &mut Page<'_>,
        said: &Said,
        message: &Message,
        name: &str,
        fetched: Option<Fetched>,
    ) -> Result<(), Error> {
        let (at, reply, texts) = (said.at, said.reply, said.texts());
        let about = match message.reply_to {
            Some(replied) => page.get::<Card>(&card_key(at.chat, replied)).await?.map(|card| card.about),
            None => None,
        };
        match fetched {
            Some(Fetched::Got(file, bytes)) => return self.document(page, said, &file, bytes, &message.text).await,
            Some(Fetched::Failed(why)) => {
                page.send(note(at, reply, Html::of(texts.no_file).text(": ").text(&why)));
                return Ok(());
            }
            Some(Fetched::Foreign) if at.is_private() => {
                let text = fill(texts.not_yaml, &[("size", &(TASK_MAX / 1024).to_string())]);
                page.send(note(at, reply, Html::of(&text)));
                return Ok(());
            }
            // A group has files that are not for us.
            Some(Fetched::Foreign) => return Ok(()),
            None => {}
        }
        if let Some(command) = read(&message.text, name) {
            let run = about.as_ref().and_then(About::run);
            return self.command(page, said, command, run).await;
        }
        let text = message.text.trim();
        let about = match about {
            None if !text.is_empty() && !text.starts_with('/') => self.asked_in_topic(page, said).await?,
            about => about,
        };
        match about {
            Some(_) if text.is_empty() => Ok(()),
            Some(About::Plan { run, hash, .. } | About::Feedback { run, hash, .. }) => {
                self.revise(page, said, text, run, &hash).await
            }
            Some(About::Question { run, since }) => self.answer(page, said, text, run, &since).await,
            Some(About::Draft { draft }) => match page.get::<Draft>(&draft_key(&draft)).await? {
                Some(mut found) => {
                    found.text = Some(text.to_owned());
                    self.go_on(page, said, Some(draft), found).await
                }
                None => {
                    page.send(note(at, reply, Html::of(texts.draft_gone)));
                    Ok(())
                }
            },
            _ if at.is_private() && message.is_yaml() => {
                self.document(page, said, "message.yaml", message.text.clone().into_bytes(), "").await
            }
            _ if at.is_private() && !text.is_empty() && !text.starts_with('/') => {
                page.send(note(at, reply, Html::of(texts.plain_text)));
                Ok(())
            }
            // In a group people talk to each other.
            _ => Ok(()),
        }
    }

    /// What is asked in the topic of a run: there, text needs no reply to be one. Never a plan that came after the text.
    async fn asked_in_topic(&self, page: &mut Page<'_>, said: &Said) -> Result<Option<About>, Error> {
        let Some(run) = page.get::<RunId>(&topic_key(said.at)).await?.filter(|_| said.at.thread.is_some()) else {
            return Ok(None);
        };
        let record: Record = page.get(&run_key(run)).await?.unwrap_or_default();
        for (chat, number) in record.open.iter().rev().filter(|(chat, _)| *chat == said.at.chat) {
            if let Some(card) = page.get::<Card>(&card_key(*chat, *number)).await?
                && card.date <= said.date
            {
                return Ok(Some(card.about));
            }
        }
        Ok(None)
    }

    /// A reply to a plan is a revision of that plan, and of no other.
    async fn revise(&self, page: &mut Page<'_>, said: &Said, text: &str, run: RunId, hash: &str) -> Result<(), Error> {
        let (at, reply, lang, texts) = (said.at, said.reply, said.lang, said.texts());
        let begun = page.get::<Begun>(&begun_key(said.update)).await?.is_some();
        let doc = self.desk.document(run).await?;
        let plan = About::Plan { run, hash: hash.to_owned(), revision: 0 };
        // On a second try the plan may have been superseded by the first.
        if !begun && let Some(now) = cards::truth(&doc, &plan, lang) {
            page.send(note(at, reply, Html::of(texts.no_longer).nl().text(&now)));
            return Ok(());
        }
        self.take_part(page, run, at).await?;
        let signal = Signal::Revise { text: text.to_owned() };
        let answer = match self.once(page, said, run, signal).await? {
            Ok(()) => Html::of(&fill(texts.revising, &[("text", &clip(text, 500))])),
            Err(refused) => refusal(&refused, lang),
        };
        page.send(note(at, reply, answer));
        self.look_again(run);
        Ok(())
    }

    /// A reply to a question is its answer.
    async fn answer(&self, page: &mut Page<'_>, said: &Said, text: &str, run: RunId, since: &str) -> Result<(), Error> {
        let (at, reply, lang, texts) = (said.at, said.reply, said.lang, said.texts());
        let begun = page.get::<Begun>(&begun_key(said.update)).await?.is_some();
        let doc = self.desk.document(run).await?;
        let question = About::Question { run, since: since.to_owned() };
        if !begun && let Some(now) = cards::truth(&doc, &question, lang) {
            page.send(note(at, reply, Html::of(&now)));
            return Ok(());
        }
        if cards::waits_for(&doc) == Some("budget") && !self.settings().approves(said.person.id) {
            page.send(note(at, reply, Html::of(texts.not_approver)));
            return Ok(());
        }
        self.take_part(page, run, at).await?;
        let signal = Signal::Answer { text: text.to_owned() };
        let answer = match self.once(page, said, run, signal).await? {
            Ok(()) => Html::of(&fill(texts.answered, &[("text", &clip(text, 500))])),
            Err(refused) => refusal(&refused, lang),
        };
        page.send(note(at, reply, answer));
        self.look_again(run);
        Ok(())
    }

    async fn command(
        &self,
        page: &mut Page<'_>,
        said: &Said,
        command: Command,
        replied: Option<RunId>,
    ) -> Result<(), Error> {
        let replied = replied.map(|run| run.to_string());
        let (at, reply, lang, texts) = (said.at, said.reply, said.lang, said.texts());
        match command {
            Command::Task(words) => self.task(page, said, &words).await,
            Command::New => {
                let draft = Draft { wants_repo: true, wants_text: true, ..Draft::default() };
                self.go_on(page, said, None, draft).await
            }
            Command::Plan(run) => {
                match self.which(page, said, run.or(replied), true, |run| Action::Plan { run }).await? {
                    Some(run) => self.show_plan_of(page, said, run).await,
                    None => Ok(()),
                }
            }
            Command::Approve(run) => {
                match self.which(page, said, run.or(replied), true, |run| Action::Plan { run }).await? {
                    Some(run) => self.approve(page, said, run).await,
                    None => Ok(()),
                }
            }
            Command::Status(run) => match run.or(replied) {
                Some(run) => self.show_status(page, said, self.named(run).await?).await,
                None => self.list(page, said).await,
            },
            Command::Abort(run) => {
                let Some(run) = self.which(page, said, run.or(replied), false, |run| Action::AskAbort { run }).await?
                else {
                    return Ok(());
                };
                let answer = match self.once(page, said, run, Signal::Abort).await? {
                    Ok(()) => Html::of(texts.aborting).text(" ").code(&run.short()),
                    Err(refused) => refusal(&refused, lang),
                };
                page.send(note(at, reply, answer));
                self.look_again(run);
                Ok(())
            }
            Command::Lang(word) => self.choose_lang(page, said, word).await,
            Command::Verbose(word) => {
                let verbosity = match word.as_deref().map(str::to_ascii_lowercase).as_deref() {
                    Some("quiet") => Some(Verbosity::Quiet),
                    Some("steps") => Some(Verbosity::Steps),
                    Some("tools") if at.is_private() => Some(Verbosity::Tools),
                    _ => None,
                };
                let text = match verbosity {
                    Some(Verbosity::Quiet) => texts.quiet_set,
                    Some(Verbosity::Steps) => texts.steps_set,
                    Some(Verbosity::Tools) => texts.tools_set,
                    None if at.is_private() => texts.verbose_which,
                    None => texts.tools_in_group,
                };
                if verbosity.is_some() {
                    let choice: Choice = page.get(&chat_key(at.chat)).await?.unwrap_or_default();
                    page.put(chat_key(at.chat), &Choice { verbosity, ..choice });
                }
                page.send(note(at, reply, Html::of(text)));
                Ok(())
            }
            Command::Mute(run, mute) => {
                match self.which(page, said, run.or(replied), false, |run| Action::Mute { run, mute }).await? {
                    Some(run) => self.mute(page, said, run, mute).await,
                    None => Ok(()),
                }
            }
            Command::Login => {
                let settings = self.settings();
                let refused = match settings.users.get(&said.person.id) {
                    _ if !at.is_private() => Some(texts.login_private.to_owned()),
                    None => Some(fill(texts.login_none, &[("id", &said.person.id.to_string())])),
                    Some(_) if self.desk.app.config().web.url.is_none() => Some(texts.login_no_pages.to_owned()),
                    Some(user) => {
                        page.send(login(at, user));
                        None
                    }
                };
                if let Some(refused) = refused {
                    page.send(note(at, reply, Html::of(&refused)));
                }
                Ok(())
            }
            Command::Help => {
                page.send(note(at, reply, help(lang)));
                Ok(())
            }
            Command::Unknown(name) => {
                // In a group it may be another bot's.
                if at.is_private() {
                    let text = fill(texts.unknown_command, &[("name", &name)]);
                    page.send(note(at, reply, Html::of(&text).nl().nl().add(&help(lang))));
                }
                Ok(())
            }
        }
    }

    async fn choose_lang(&self, page: &mut Page<'_>, said: &Said, word: Option<String>) -> Result<(), Error> {
        let at = said.at;
        let chosen = word.as_deref().and_then(Lang::of_tag);
        let text = match chosen {
            Some(lang) => {
                let choice: Choice = page.get(&chat_key(at.chat)).await?.unwrap_or_default();
                page.put(chat_key(at.chat), &Choice { lang: Some(lang.tag().to_owned()), ..choice });
                words(lang).lang_set
            }
            None => said.texts().lang_which,
        };
        page.send(note(at, said.reply, Html::of(text)));
        Ok(())
    }

    /// `/plan approve`: the plan that was shown here, if it is the one that waits and was there when the command was written.
    async fn approve(&self, page: &mut Page<'_>, said: &Said, run: RunId) -> Result<(), Error> {
        let (at, reply, lang, texts) = (said.at, said.reply, said.lang, said.texts());
        if !self.settings().approves(said.person.id) {
            page.send(note(at, reply, Html::of(texts.not_approver)));
            return Ok(());
        }
        let doc = self.desk.document(run).await?;
        let current = cards::word(&doc, "/plan/hash").to_owned();
        let begun = page.get::<Begun>(&begun_key(said.update)).await?.and_then(|begun| begun.plan_hash);
        let current = begun.clone().unwrap_or(current);
        let mut shown: Option<i64> = None;
        let record: Record = page.get(&run_key(run)).await?.unwrap_or_default();
        for (chat, number) in record.open.iter().filter(|(chat, _)| *chat == at.chat) {
            if let Some(Card { about: About::Plan { hash, .. }, date, .. }) =
                page.get(&card_key(*chat, *number)).await?
                && hash == current
            {
                shown = Some(shown.map_or(date, |earliest| earliest.min(date)));
            }
        }
        match shown {
            None if begun.is_none() => {
                page.send(note(at, reply, Html::of(texts.shown_first)));
                self.show_plan_of(page, said, run).await
            }
            Some(earliest) if earliest > said.date => {
                page.send(note(at, reply, Html::of(texts.newer_plan)));
                Ok(())
            }
            _ => {
                self.take_part(page, run, at).await?;
                let signal = Signal::Approve { plan_hash: current, note: None };
                let answer = match self.once(page, said, run, signal).await? {
                    Ok(()) => Html::of(texts.approved_now).text(" ").code(&run.short()),
                    Err(refused) => refusal(&refused, lang),
                };
                page.send(note(at, reply, answer));
                self.look_again(run);
                Ok(())
            }
        }
    }

    /// Lets a run ring no more in a chat, or again.
    pub(super) async fn mute(&self, page: &mut Page<'_>, said: &Said, run: RunId, mute: bool) -> Result<(), Error> {
        let (at, texts) = (said.at, said.texts());
        let mut record: Record = page.get(&run_key(run)).await?.unwrap_or_default();
        record.muted.retain(|chat| *chat != at.chat);
        if mute {
            record.muted.push(at.chat);
        }
        page.put(run_key(run), &record);
        let text = if mute { texts.muted } else { texts.unmuted };
        page.send(note(at, said.reply, Html::of(&fill(text, &[("run", &run.short())]))));
        Ok(())
    }

    async fn named(&self, name: String) -> Result<RunId, Error> {
        self.desk.app.resolve_run(&name).await
    }

    /// The run that a command is about: the one that is named, or the only one that fits (its plan waits, or it is open); else
    /// the person is asked by buttons that do the same.
    async fn which(
        &self,
        page: &mut Page<'_>,
        said: &Said,
        named: Option<String>,
        plans: bool,
        does: impl Fn(RunId) -> Action,
    ) -> Result<Option<RunId>, Error> {
        // On a second try it is the run of the first, whichever fits by now.
        if let Some(begun) = page.get::<Begun>(&begun_key(said.update)).await? {
            return Ok(Some(begun.run));
        }
        if let Some(name) = named {
            return self.named(name).await.map(Some);
        }
        let waits = |row: &RunRow| row.summary.waiting_for.as_deref() == Some("approval");
        let fits = |row: &RunRow| !plans || waits(row);
        let fitting: Vec<RunRow> = self.desk.open().await?.into_iter().filter(fits).collect();
        let texts = said.texts();
        match fitting.as_slice() {
            [] => {
                let none = if plans { texts.none_waits } else { texts.none_open };
                page.send(note(said.at, said.reply, Html::of(none)));
                Ok(None)
            }
            [one] => Ok(Some(one.id)),
            several => {
                let mut keys = Vec::new();
                for row in several.iter().take(LISTED) {
                    let text = clip(&format!("{} {}", row.id.short(), line(&row.summary.task, 60)), 48);
                    keys.push(vec![page.button(said.at.chat, &text, does(row.id))?]);
                }
                let mut row = with_keys(said.at, Html::of(texts.which_run), keys, About::Other);
                row.reply_to = said.reply;
                page.send(row);
                Ok(None)
            }
        }
    }

    /// `/status`: one open run in full, or a list: what needs a person first.
    async fn list(&self, page: &mut Page<'_>, said: &Said) -> Result<(), Error> {
        let (at, reply, lang) = (said.at, said.reply, said.lang);
        let mut shown = self.desk.open().await?;
        let queued = self.desk.app.queued().await?;
        if let [one] = shown.as_slice()
            && queued.is_empty()
        {
            return self.show_status(page, said, one.id).await;
        }
        shown.sort_by_key(|row| row.summary.waiting_for.is_none());
        if shown.is_empty() {
            shown = self.desk.runs(ENDED).await?;
        }
        if shown.is_empty() && queued.is_empty() {
            page.send(note(at, reply, Html::of(words(lang).no_runs)));
            return Ok(());
        }
        let (mut text, mut keys) = (Html::default(), Vec::new());
        for row in shown.iter().take(LISTED) {
            let doc = serde_json::json!({"status": row.summary.status});
            let status = match row.summary.waiting_for.as_deref() {
                Some("approval") => words(lang).waits_approval,
                Some("budget") => words(lang).waits_budget,
                Some(_) => words(lang).waits_answer,
                None => cards::status(&doc, lang),
            };
            text = text.code(&row.id.short()).text(" · ").text(status).nl().text(&line(&row.summary.task, 90)).nl();
            keys.push(page.button(at.chat, &row.id.short(), Action::Status { run: row.id })?);
        }
        if shown.len() > LISTED {
            text = text.text(&format!("… +{}", shown.len() - LISTED));
        }
        if !queued.is_empty() {
            text = text.nl().text(&fill(words(lang).queued_files, &[("n", &queued.len().to_string())])).nl();
            for queued in queued.iter().take(LISTED) {
                let doc = self.desk.app.queued_document(queued);
                text = text.code(&queued.id.short()).text(" · ").text(&line(cards::word(&doc, "/task"), 90)).nl();
            }
        }
        let keys = keys.chunks(3).map(<[_]>::to_vec).collect();
        let mut row = with_keys(at, text, keys, About::Other);
        row.reply_to = reply;
        page.send(row);
        Ok(())
    }
}

fn help(lang: Lang) -> Html {
    let texts = words(lang);
    let mut text = Html::default();
    for (command, what) in [
        ("/task", texts.menu_task),
        ("/new", texts.menu_new),
        ("/plan", texts.menu_plan),
        ("/status", texts.menu_status),
        ("/abort", texts.menu_abort),
        ("/mute", texts.menu_mute),
        ("/unmute", texts.menu_unmute),
        ("/login", texts.menu_login),
        ("/lang", texts.menu_lang),
        ("/verbose", texts.menu_verbose),
    ] {
        text = text.text(command).text(" — ").text(what).nl();
    }
    text.nl().text(texts.help_more)
}
