//! Tasks: typed, put together by questions, or posted as a document. What comes out is a task file, as everywhere else.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::api::ApiError;
use super::book::{About, Action, Draft, Page, Record, begun_key, draft_key, run_key, token};
use super::commands::repo_and_text;
use super::html::{Html, clean, clip};
use super::listen::Said;
use super::sheets::{ask, note, with_keys};
use super::updates::Message;
use super::words::words;
use super::{Bot, NAME, who};
use crate::app::{Posted, Submitted, TaskRequest, TaskSource};
use crate::core::id::RunId;
use crate::error::Error;
use crate::frontends::inbox::TASK_MAX;
use crate::frontends::words::{Lang, fill};

/// The pipeline of a task that names none.
const PIPELINE: &str = "dev-task";
/// Repositories that are offered as buttons; with more, the name has to be typed.
const CHOICES: usize = 24;
/// How often a file is asked for.
const TRIES: u32 = 3;

/// A document that came with a message.
pub enum Fetched {
    /// Its name and content.
    Got(String, Vec<u8>),
    /// It is none that the bot reads.
    Foreign,
    /// Telegram did not give it.
    Failed(String),
}

impl Bot {
    /// Fetches the document of a message whose sender may be allowed; who is, is looked at again before it is read.
    pub(super) async fn fetch_document(&self, message: &Message) -> Option<Fetched> {
        let document = message.document.as_ref()?;
        let known = message.from.as_ref().is_some_and(|person| self.settings().allow.contains(&person.id));
        let name = document.name.to_ascii_lowercase();
        if !known || !(name.ends_with(".yaml") || name.ends_with(".yml")) || document.size > TASK_MAX {
            return Some(Fetched::Foreign);
        }
        let mut wait = Duration::from_secs(1);
        for attempt in 1.. {
            let fetched = async {
                let file = self.api.call("getFile", &json!({"file_id": document.id})).await?;
                let path = file["file_path"].as_str().unwrap_or_default();
                self.api.download(path, usize::try_from(TASK_MAX).unwrap_or(usize::MAX)).await
            };
            match fetched.await {
                Ok(bytes) => return Some(Fetched::Got(document.name.clone(), bytes)),
                Err(error @ ApiError::Refused { .. }) => return Some(Fetched::Failed(error.to_string())),
                Err(error) if attempt >= TRIES => return Some(Fetched::Failed(error.to_string())),
                Err(_) => {
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
            }
        }
        None
    }

    /// `/task [REPO] TEXT`
    pub(super) async fn task(&self, page: &mut Page<'_>, said: &Said, words: &str) -> Result<(), Error> {
        let (repo, text) = repo_and_text(words, &self.repos()).to_owned_pair();
        let text = Some(text).filter(|text| !text.is_empty());
        let draft = Draft { wants_repo: true, wants_text: true, repo, text, pipeline: None };
        self.go_on(page, said, None, draft).await
    }

    /// A document: a task, or a pipeline whose task is asked for.
    pub(super) async fn document(
        &self,
        page: &mut Page<'_>,
        said: &Said,
        name: &str,
        bytes: Vec<u8>,
        caption: &str,
    ) -> Result<(), Error> {
        let posted = self.desk.app.look_into(name, &bytes);
        let own_steps = matches!(posted, Ok(Posted::Task { inline: true } | Posted::Pipeline { .. }));
        if own_steps && !self.settings().approves(said.person.id) {
            // Someone's own steps run without an approval of anybody else.
            page.send(note(said.at, said.reply, Html::of(said.texts().own_steps)));
            return Ok(());
        }
        match posted {
            Err(error) => {
                page.send(note(said.at, said.reply, refusal(&error, said.lang)));
                Ok(())
            }
            Ok(Posted::Task { .. }) => {
                // It was read as YAML, so it is text.
                let text = String::from_utf8(bytes).map_err(|_| Error::bug("a document was read and is not UTF-8"))?;
                let source = TaskSource::File { name: name.to_owned(), text };
                self.submit(page, said, source, None).await
            }
            Ok(Posted::Pipeline { name, required, inline }) => {
                let others: Vec<String> = required
                    .iter()
                    .filter(|(input, _)| input != "repo" && input != "task")
                    .map(|(input, kind)| format!("{input} ({})", kind.name()))
                    .collect();
                if !others.is_empty() {
                    let values = [("name", name.as_str()), ("inputs", &others.join(", "))];
                    let missing = clip(&fill(said.texts().missing_inputs, &values), 3000);
                    page.send(note(said.at, said.reply, Html::of(&missing)));
                    return Ok(());
                }
                let wants = |wanted: &str| required.iter().any(|(input, _)| input == wanted);
                let (repo, text) = repo_and_text(caption.trim(), &self.repos()).to_owned_pair();
                let bytes = serde_json::to_vec(&inline).expect("a tree is JSON");
                let pipeline = Some(self.desk.app.journal.put_artifact(bytes).await?);
                let text = Some(text).filter(|text| !text.is_empty());
                let draft = Draft { pipeline, wants_repo: wants("repo"), wants_text: wants("task"), repo, text };
                self.go_on(page, said, None, draft).await
            }
        }
    }

    /// Asks for what a draft lacks, or submits it.
    pub(super) async fn go_on(
        &self,
        page: &mut Page<'_>,
        said: &Said,
        id: Option<String>,
        mut draft: Draft,
    ) -> Result<(), Error> {
        let (at, reply_to, texts) = (said.at, said.reply, said.texts());
        let (repos, settings) = (self.repos(), self.settings());
        if draft.wants_repo && draft.repo.is_none() {
            draft.repo = match repos.as_slice() {
                [] => {
                    page.send(note(at, reply_to, Html::of(texts.no_repos)));
                    return Ok(());
                }
                [one] => Some(one.clone()),
                _ => settings.repo.filter(|repo| repos.contains(repo)),
            };
        }
        let id = match id {
            Some(id) => id,
            None => token()?,
        };
        if draft.wants_repo && draft.repo.is_none() {
            let mut keys = Vec::new();
            for repo in repos.iter().take(CHOICES) {
                let does = Action::Repo { draft: id.clone(), repo: repo.clone() };
                keys.push(page.button(at.chat, &clip(repo, 40), does)?);
            }
            let keys = keys.chunks(2).map(<[_]>::to_vec).collect();
            let mut row = with_keys(at, Html::of(texts.which_repo), keys, About::Draft { draft: id.clone() });
            row.reply_to = reply_to;
            page.send(row);
            page.put(draft_key(&id), &draft);
            return Ok(());
        }
        if draft.wants_text && draft.text.is_none() {
            page.send(ask(at, reply_to, Html::of(texts.which_text), About::Draft { draft: id.clone() }));
            page.put(draft_key(&id), &draft);
            return Ok(());
        }
        let mut task = Map::new();
        task.insert("pipeline".to_owned(), self.pipeline_of(&draft).await?);
        for (name, value) in [("repo", &draft.repo), ("task", &draft.text)] {
            if let Some(value) = value {
                task.insert(name.to_owned(), json!(clean(value)));
            }
        }
        // JSON is YAML.
        let text = Value::Object(task).to_string();
        // The same update is the same run, whatever else was forgotten.
        let key = Some(format!("{NAME}:{}:{}", self.id, said.update));
        self.submit(page, said, TaskSource::File { name: "the task".to_owned(), text }, key).await?;
        page.drop(draft_key(&id));
        Ok(())
    }

    async fn pipeline_of(&self, draft: &Draft) -> Result<Value, Error> {
        let Some(hash) = &draft.pipeline else { return Ok(json!(PIPELINE)) };
        let bytes = self.desk.app.journal.artifact(hash).await?;
        serde_json::from_slice(&bytes).map_err(|error| Error::bug(error.to_string()))
    }

    /// Submits a task once, however often the update comes.
    async fn submit(
        &self,
        page: &mut Page<'_>,
        said: &Said,
        source: TaskSource,
        key: Option<String>,
    ) -> Result<(), Error> {
        let (at, reply_to, lang, texts, update) = (said.at, said.reply, said.lang, said.texts(), said.update);
        let begun = page.get::<RunId>(&begun_key(update)).await?;
        let run = begun.unwrap_or_else(|| RunId(uuid::Uuid::now_v7()));
        let mut record = Record::default();
        record.tell(at, true);
        if at.is_private() && !self.settings().approves(said.person.id) {
            self.add_approvers(page, &mut record).await?;
        }
        if begun.is_none() {
            page.put(begun_key(update), &run);
            page.put(run_key(run), &record);
            page.commit().await?;
        }
        let request = TaskRequest { source, id: Some(run), cassette: None, key, who: who(&said.person) };
        match self.desk.submit(request).await {
            Err(error) if error.code == "journal" => Err(error),
            Err(error) => {
                page.drop(run_key(run));
                page.send(note(at, reply_to, refusal(&error, lang)));
                Ok(())
            }
            Ok(Submitted { run: known, .. }) if known != run => {
                page.drop(run_key(run));
                self.take_part(page, known, at).await?;
                let text = Html::of(texts.accepted_before).text(": ").code(&known.short());
                page.send(note(at, reply_to, text));
                self.look_again(known);
                Ok(())
            }
            Ok(_) => {
                if self.quiet(page, at.chat).await? {
                    let text = Html::of(texts.accepted).text(": ").code(&run.short());
                    page.send(note(at, reply_to, text));
                } else {
                    // This message then follows the run.
                    record.following.push(at.chat);
                    page.put(run_key(run), &record);
                    let doc = self.desk.document(run).await?;
                    self.follow(page, at, lang, &doc)?;
                }
                Ok(())
            }
        }
    }
}

/// An error for a person, with everything that it says.
pub fn refusal(error: &Error, lang: Lang) -> Html {
    let text = Html::of("⚠️ ")
        .bold(words(lang).refused)
        .nl()
        .text(&clip(&clean(lang.refusal(&error.code, &error.message)), 3000));
    match &error.hint {
        Some(hint) => text.nl().text("→ ").text(&clip(&clean(hint), 600)),
        None => text,
    }
}

trait Pair {
    fn to_owned_pair(self) -> (Option<String>, String);
}

impl Pair for (Option<&str>, &str) {
    fn to_owned_pair(self) -> (Option<String>, String) {
        (self.0.map(str::to_owned), self.1.to_owned())
    }
}
