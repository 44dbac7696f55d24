//! The composition root: settings → home → journal → engine, and what the frontends may ask for.

mod access;
mod base_files;
mod bot;
mod checks;
mod current;
pub mod demo;
mod desk;
mod gc;
mod grants;
mod home;
mod lanes;
mod outfit;
mod shipped;
mod tasks;
mod views;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;

pub use bot::{BotAccess, Posted};
pub use checks::{Check, Level, checks};
pub use desk::{Desk, Submitted};
pub use gc::{GcWish, Leftover};
pub use home::{Made, Places, make as make_home};
pub use shipped::files as shipped_files;
pub use tasks::{outline, schemas, validate};
pub use views::{InputView, PipelineView, StepView, is_pipeline_name};

use crate::config::Config;
use crate::core::event::{CassetteUse, PromptFile, Who};
use crate::core::id::RunId;
use crate::core::report;
use crate::engine::{Clock, Engine, EngineError, HomeLock};
use crate::error::Error;
use crate::frontends::inbox::{Aside, Inbox, Queued};
use crate::journal::{Durability, Journal, SqliteJournal};
use crate::secrets::Masker;
use crate::yaml;

/// The journal's scope of why runs stand still: the daemon cannot drive them, because its settings lack something.
const STANDING: &str = "standing";
/// Above this size the journal is not looked through before each engine starts; `devo doctor` does it.
const CHECKED_AT_START: u64 = 64 * 1024 * 1024;

/// What the command line and the environment decide before devo.yaml is read.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to look for the home.
    pub places: Places,
}

/// An opened home.
pub struct App {
    /// Its folder.
    pub home: PathBuf,
    /// Its journal.
    pub journal: Arc<dyn Journal>,
    /// The time.
    pub clock: Clock,
    /// Submitted tasks.
    pub inbox: Inbox,
    /// What is wrong with devo.yaml, where the home was opened in spite of it: default settings are in force then.
    pub broken: Option<Error>,
    shop: Arc<current::Current>,
    /// Sandboxes that worked, by name and repository, and when.
    probed: Mutex<HashMap<(String, Option<String>), Instant>>,
}

/// An engine and the home's lock, which must live as long.
pub struct Owned {
    /// The engine.
    pub engine: Arc<Engine>,
    /// Keeps other engines out.
    pub lock: HomeLock,
}

/// Who drives the runs of a home.
pub enum Owner {
    /// Whoever asked: the home was free.
    Here(Owned),
    /// A daemon, as it calls itself.
    Daemon(String),
}

/// Where a task comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskSource {
    /// A task file.
    File {
        /// For messages.
        name: String,
        /// Its text, not parsed yet.
        text: String,
    },
    /// The words of a command line.
    Words {
        /// A name under pipelines/, or a path.
        pipeline: String,
        /// A key of devo.yaml's repos, or a path or URL where allowed.
        repo: Option<String>,
        /// The text.
        task: Option<String>,
        /// More inputs, as typed.
        inputs: Vec<(String, String)>,
    },
}

/// A run that someone asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRequest {
    /// What.
    pub source: TaskSource,
    /// The run's id, where one was given out already.
    pub id: Option<RunId>,
    /// A cassette for its model calls.
    pub cassette: Option<CassetteUse>,
    /// A key of the channel's own, beginning with one of [`tasks::OWN_KEYS`]; it comes before the task's.
    pub key: Option<String>,
    /// Who asks.
    pub who: Who,
}

/// What a task file says of itself, for lists; nothing of it is checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskOutline {
    /// The pipeline's name; empty where it is written inline or missing.
    pub pipeline: String,
    /// The repository.
    pub repo: Option<String>,
    /// The text.
    pub task: String,
}

/// A problem of a file, with its place.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The file's name as given.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// `error` or `warning`.
    pub level: String,
    /// A stable word.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What was expected, or the nearest name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The problem with its line, for people; may span lines.
    #[serde(skip)]
    pub rendered: String,
}

/// A prompt as a model would get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownPrompt {
    /// `system`, `user`.
    pub part: String,
    /// The templates it came from.
    pub files: Vec<PromptFile>,
    /// The rendered text.
    pub text: String,
}

impl App {
    /// Finds the home and opens its journal.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        let home = settings.places.find()?;
        let config = read_config(&home)?;
        Self::with(home, config, None)
    }

    /// The same for looking and for a person's word, which must get through while devo.yaml has mistakes: a daemon goes on
    /// with the settings that it has, and only this stops what it spends. What is wrong is in [`App::broken`].
    pub fn open_in_spite(settings: &Settings) -> Result<Self, Error> {
        let home = settings.places.find()?;
        match read_config(&home) {
            Ok(config) => Self::with(home, config, None),
            Err(wrong) => {
                let config = Config::read(crate::config::FILE, b"")
                    .map_err(|_| Error::bug("the default settings have mistakes"))?;
                Self::with(home, config, Some(wrong))
            }
        }
    }

    fn with(home: PathBuf, config: Config, broken: Option<Error>) -> Result<Self, Error> {
        let config = Arc::new(config);
        let durability = Durability::from(config.journal.durability);
        let journal: Arc<dyn Journal> = Arc::new(SqliteJournal::open(&home.join("state.db"), durability, false)?);
        let clock = Clock::start();
        let shop = outfit::Shop {
            home: home.clone(),
            config,
            masker: Masker::default(),
            journal: journal.clone(),
            clock,
            tools: outfit::Tools::default(),
        };
        let shop = Arc::new(current::Current::new(shop));
        Ok(Self { inbox: Inbox::of(&home), home, journal, clock, broken, shop, probed: Mutex::default() })
    }

    /// The settings that are in force.
    pub fn config(&self) -> Arc<Config> {
        self.shop().config.clone()
    }

    /// Reads devo.yaml again: what it says is in force for new runs from now on. With mistakes in it nothing changes.
    ///
    /// # Errors
    /// Everything that is wrong with the file.
    pub fn reload(&self) -> Result<(), Error> {
        let config = Arc::new(read_config(&self.home)?);
        let old = self.shop();
        // The masker is shared: a secret that was known stays masked.
        let (home, masker, journal) = (old.home.clone(), old.masker.clone(), old.journal.clone());
        self.shop.set(outfit::Shop {
            home,
            config,
            masker,
            journal,
            clock: old.clock,
            tools: outfit::Tools::default(),
        });
        self.probed.lock().expect("no holder of this lock can panic").clear();
        Ok(())
    }

    /// Masks every secret that this program knows.
    pub fn masker(&self) -> Masker {
        self.shop().masker.clone()
    }

    /// What the settings in force make of them.
    fn shop(&self) -> Arc<outfit::Shop> {
        self.shop.get()
    }

    /// The home's lock, for work that no engine may disturb. `about` is what a second one is told.
    pub fn lock(&self, about: &str) -> Result<HomeLock, Error> {
        Ok(HomeLock::take(&self.home, about)?)
    }

    /// Takes the home's lock, sweeps what a killed engine left, and makes the engine. `about` is what a second one is told.
    pub async fn engine(&self, about: &str) -> Result<Owned, Error> {
        let lock = HomeLock::take(&self.home, about)?;
        let path = self.home.join("state.db");
        if path.metadata().is_ok_and(|meta| meta.len() <= CHECKED_AT_START) {
            SqliteJournal::open(&path, Durability::Full, true)?;
        }
        for path in checks::open_to_others(&self.home) {
            tracing::warn!("{path} is open to others; `devo doctor` names the command that closes it");
        }
        for path in crate::sandboxes::leftovers() {
            if let Err(error) = gc::remove(&path) {
                tracing::warn!(%error, "cannot remove {}", path.display());
            }
        }
        // What an earlier owner could not drive, this one tries.
        let stood = self.journal.kept_with(STANDING, "").await?;
        if !stood.is_empty() {
            self.journal.keep(STANDING, stood.into_iter().map(|(run, _)| (run, None)).collect()).await?;
        }
        self.shop().sweep().await;
        let engine = Engine::new(self.journal.clone(), self.home.clone(), self.shop.clone(), self.clock);
        Ok(Owned { engine, lock })
    }

    /// Takes the home, or finds the daemon that has it.
    ///
    /// # Errors
    /// Another command has it.
    pub async fn owner(&self, about: &str) -> Result<Owner, Error> {
        match self.engine(about).await {
            Ok(owned) => Ok(Owner::Here(owned)),
            Err(error) if error.code == "home_held" => {
                let holder = HomeLock::holder(&self.home);
                if holder.starts_with("devo serve") { Ok(Owner::Daemon(holder)) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Why nobody drives an open run, as far as the home's lock tells; `None` where somebody does, or could.
    pub fn undriven(&self, run: RunId) -> Option<String> {
        if !HomeLock::holder_lives(&self.home) {
            return Some("nobody drives it".to_owned());
        }
        let holder = HomeLock::holder(&self.home);
        // A daemon drives every run; a command that drives one names it.
        let other = ["devo run ", "devo resume ", "devo retry "].iter().any(|word| holder.starts_with(word));
        (other && !holder.contains(&run.short())).then(|| format!("nobody drives it while {holder} has this home"))
    }

    /// The folder of a run.
    pub fn run_dir(&self, run: RunId) -> PathBuf {
        self.home.join("runs").join(run.to_string())
    }

    /// The run that a unique prefix of an id, or a short id, names; submitted tasks count.
    pub async fn resolve_run(&self, text: &str) -> Result<RunId, Error> {
        let wanted = text.trim().to_ascii_lowercase();
        let hint = "`devo status` lists the runs of this home";
        if wanted.is_empty() || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            let message = format!("`{}` cannot name a run: an id has digits, a to f and -", clip(text));
            return Err(Error::refused("unknown_run", message).hint(hint));
        }
        let mut found = self.journal.find(&wanted).await?;
        for queued in self.inbox.queued() {
            let fits = queued.id.to_string().starts_with(&wanted) || queued.id.short().starts_with(&wanted);
            if fits && !found.contains(&queued.id) {
                found.push(queued.id);
            }
        }
        // A submitted task whose key had a run already goes by that run.
        if found.is_empty()
            && let Ok(id) = wanted.parse::<RunId>()
            && let Some(run) = Aside::of(self, id).await?.and_then(|aside| aside.run)
        {
            return Ok(run);
        }
        let exact: Vec<RunId> =
            found.iter().copied().filter(|id| id.to_string() == wanted || id.short() == wanted).collect();
        match (exact.as_slice(), found.as_slice()) {
            ([run], _) | ([], [run]) => Ok(*run),
            (_, []) => Err(Error::refused("unknown_run", format!("there is no run `{}`", clip(text))).hint(hint)),
            (_, several) => {
                let names: Vec<String> = several.iter().take(5).map(|id| format!("{} ({id})", id.short())).collect();
                let message = format!("`{}` names several runs: {}", clip(text), names.join(", "));
                Err(Error::refused("ambiguous_run", message).hint("give more digits, or the short id"))
            }
        }
    }

    /// The contract's document of a run, also of one that is only submitted.
    pub async fn document(&self, run: RunId) -> Result<Value, Error> {
        match crate::engine::document(self.journal.as_ref(), run).await {
            Err(EngineError::Unknown(_)) => match self.inbox.find(run) {
                Some(queued) => Ok(self.queued_document(&queued)),
                None => Err(EngineError::Unknown(run).into()),
            },
            other => self.with_standing(run, other?).await,
        }
    }

    /// A run's document with why the daemon cannot drive it, and what to do, where that is so.
    ///
    /// # Errors
    /// The journal's.
    pub async fn with_standing(&self, run: RunId, mut document: Value) -> Result<Value, Error> {
        if let Some(why) = self.journal.kept(STANDING, &run.to_string()).await? {
            document["standing"] = why;
        }
        Ok(document)
    }

    /// Submitted tasks that have no run yet. A claimed file of an accepted run is only waiting to be put away.
    ///
    /// # Errors
    /// The journal's.
    pub async fn queued(&self) -> Result<Vec<Queued>, Error> {
        let mut queued = Vec::new();
        for task in self.inbox.queued() {
            if self.journal.row(task.id).await?.is_none() {
                queued.push(task);
            }
        }
        Ok(queued)
    }

    /// The document of a submitted task.
    pub fn queued_document(&self, queued: &Queued) -> Value {
        let outline = queued.read().map(|text| task_outline(&text)).unwrap_or_default();
        let (id, short, at) = (queued.id.to_string(), queued.id.short(), queued.at().to_string());
        report::queued(&id, &short, &outline.pipeline, outline.repo.as_deref(), &outline.task, &at)
    }
}

/// Settings, or everything that is wrong with them.
fn read_config(home: &Path) -> Result<Config, Error> {
    let path = home.join(crate::config::FILE);
    let bytes = std::fs::read(&path).map_err(|error| {
        Error::refused("config", format!("cannot read {}: {error}", path.display())).hint("`devo init` writes one")
    })?;
    Config::read(&path.display().to_string(), &bytes).map_err(|wrong| {
        let rendered = yaml::render(&wrong, &String::from_utf8_lossy(&bytes), false);
        Error::refused("config", format!("devo.yaml has mistakes\n\n{}", rendered.trim_end()))
            .hint(format!("devo validate {}", path.display()))
    })
}

/// A YAML file's text as a value; `None` where it is not one.
pub fn file_value(text: &str) -> Option<Value> {
    yaml::parse("file", text).ok().map(|document| document.root.to_json())
}

/// What a task's text says of itself.
pub fn task_outline(text: &str) -> TaskOutline {
    let Ok(document) = yaml::parse("task", text) else { return TaskOutline::default() };
    let value = document.root.to_json();
    let word = |name: &str| value[name].as_str().map(str::to_owned);
    TaskOutline {
        pipeline: word("pipeline").unwrap_or_default(),
        repo: word("repo"),
        task: word("task").unwrap_or_default(),
    }
}

/// The beginning of a foreign word, for a message.
fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}
