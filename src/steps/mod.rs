//! Step types: the extension point of the language. One file each, one word in [`KINDS`].
//!
//! A step looks before it acts, so that running it twice leaves one trace. It does not know the scheduler: retry,
//! rewind and continue are policies of the graph; a step only says one of the six [`Outcome`]s.

mod approve;
mod blocking;
mod branch;
mod commands;
mod commit;
pub mod execute_loop;
pub mod models;
mod notify;
pub mod plan;
mod push;
pub mod repo;
mod shell;
pub mod test;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use commands::{CONTAINER_LOST, sandbox_failure};

use crate::agent::talk::Store;
use crate::core::budget::{Usage, Usd};
use crate::core::event::{PromptRecord, Question, RunSpec};
use crate::core::failure::Failure;
use crate::core::graph::{Authority, Place};
use crate::core::id::StepId;
use crate::core::plan::{PlanRecord, sha256};
use crate::core::service::Services;
use crate::core::time::Timestamp;
use crate::prompts::Prompts;
use crate::sandboxes::{self, Command, Network, Sandbox};
use crate::secrets::Masker;
use crate::templates::Mode;

/// The step types.
pub static KINDS: &[Kind] = &[
    plan::KIND,
    approve::KIND,
    branch::KIND,
    execute_loop::KIND,
    test::KIND,
    commit::KIND,
    push::KIND,
    shell::KIND,
    notify::KIND,
];

/// The step types whose commands may get secrets: those whose commands a person wrote.
pub const TAKES_SECRETS: &[&str] = &["shell", "test"];
/// The step types that run commands, which the services of a repository are for.
pub const RUN_COMMANDS: &[&str] = &["shell", "test", "execute-loop"];

/// A step type: what the language needs to know of it.
pub struct Kind {
    /// Its name in YAML.
    pub name: &'static str,
    /// In one line, for schemas and the reference.
    pub summary: &'static str,
    /// JSON Schema of its own keys.
    pub schema: fn() -> schemars::Schema,
    /// Which of its keys are templates.
    pub templates: &'static [(&'static str, Mode)],
    /// What it may do.
    pub authority: Authority,
    /// Whether it may write the workspace.
    pub exclusive: bool,
    /// Makes the step of its own keys; the schema has been checked.
    pub build: fn(&Value) -> Result<Box<dyn Step>, String>,
}

/// The step type of a name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// The common way to make a step of its keys.
fn build<T: Step + serde::de::DeserializeOwned + 'static>(spec: &Value) -> Result<Box<dyn Step>, String> {
    serde_json::from_value::<T>(spec.clone())
        .map(|step| Box::new(step) as Box<dyn Step>)
        .map_err(|error| error.to_string())
}

/// What a step says at the end of a turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is done; the value is its output.
    Done(Value),
    /// There was nothing to do.
    Skip(String),
    /// It wants another turn with this carry, and what it did so far is safe.
    Again(Value),
    /// It needs a person's answer, then another turn with this carry.
    Ask(Question, Value),
    /// It cannot go on for this many milliseconds and not by its own fault; then another turn with this carry.
    Park {
        /// Why.
        reason: String,
        /// How long, in milliseconds.
        for_ms: u64,
        /// For the next turn.
        carry: Value,
    },
    /// It failed.
    Fail(Failure),
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Fail(failure)
    }
}

/// What a turn starts with.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// All tries, this one included.
    pub attempt: u32,
    /// From 1.
    pub round: u32,
    /// Turn of the attempt, from 1.
    pub turn: u32,
    /// From the turn before, also over a crash; null at the beginning.
    pub carry: Value,
    /// A person's answer.
    pub answer: Option<String>,
    /// What a rewind or a revision brought back.
    pub feedback: Option<String>,
    /// The output of an earlier round; null if there was none.
    pub previous: Value,
    /// What the step's model calls of this round have cost so far.
    pub usd: Usd,
    /// Their tokens.
    pub usage: Usage,
}

/// A configured step, ready to run turns.
#[async_trait]
pub trait Step: Send + Sync {
    /// Runs one turn. It must return soon after `cx.cancel` fires, with nothing of it still running.
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome;
}

/// What the commands of a step are given beside the workspace.
#[derive(Debug, Clone)]
pub struct Grants {
    /// What they may reach.
    pub network: Network,
    /// What runs beside them.
    pub services: Arc<Services>,
    /// Variables whose values are known to the masker and go nowhere but into the environment of the step's commands.
    pub secrets: Vec<(String, SecretString)>,
}

impl Default for Grants {
    fn default() -> Self {
        Self { network: Network::None, services: Arc::default(), secrets: Vec::new() }
    }
}

/// What a step may use, and nothing else.
pub struct Context {
    /// The step's id.
    pub step: StepId,
    /// What the run was accepted with.
    pub spec: Arc<RunSpec>,
    /// The current plan.
    pub plan: Option<PlanRecord>,
    /// Outputs of finished steps that come before this one, by id.
    pub outputs: BTreeMap<StepId, Produced>,
    /// The step's `env`, rendered.
    pub env: Vec<(String, String)>,
    /// What its commands are given.
    pub grants: Grants,
    /// The folder of the run: workspace, artifacts, logs.
    pub run_dir: PathBuf,
    /// When the turn started.
    pub now: Timestamp,
    /// Models, sandboxes, repository, prompts.
    pub equipment: Arc<Equipment>,
    /// Money.
    pub ledger: Arc<dyn Ledger>,
    /// Lines for people.
    pub log: Arc<dyn Log>,
    /// Fires when the step must stop.
    pub cancel: CancellationToken,
}

impl Context {
    /// The output of a step of a type that comes before this one: of several, the last in the order of what they need,
    /// then of the file.
    pub fn output_of(&self, kind: &str) -> Option<&Value> {
        let found = self.outputs.values().filter(|produced| produced.kind == kind);
        found.max_by_key(|produced| produced.place).map(|produced| &produced.output)
    }

    /// What templates see: `inputs`, `steps`, `run`.
    pub fn template_context(&self) -> Value {
        template_context(&self.spec, &self.outputs)
    }

    /// The same for every attempt of this step in this round of this run, different for everything else.
    pub fn idempotency_key(&self, round: u32) -> String {
        let text = format!("{}/{}/{round}", self.spec.task_id, self.step);
        sha256(text.as_bytes())["sha256:".len()..][..32].to_owned()
    }

    /// Where commands of this step start: the workspace if the run has one, else an empty folder of the run's own.
    pub fn command_folder(&self) -> Result<PathBuf, Failure> {
        // One that was skipped, or that failed, made none.
        let branch = self.output_of("branch").is_some_and(|output| output["branch"].is_string());
        let name = if branch { "workspace" } else { "scratch" };
        let folder = self.run_dir.join(name);
        std::fs::create_dir_all(&folder)
            .map_err(|error| Failure::terminal("folder", format!("cannot make {}: {error}", folder.display())))?;
        Ok(folder)
    }

    /// Where a command's output goes line by line.
    pub fn lines(&self) -> commands::Lines<'_> {
        commands::Lines::new(self.log.as_ref(), &self.step, &self.equipment.masker)
    }

    /// A line for people, which is also kept in the run's log.
    pub fn note(&self, text: impl AsRef<str>) {
        self.log.line(&self.step, Stream::Note, text.as_ref());
    }

    /// A command of this step with everything that the step was granted. Secrets are in its environment only.
    pub fn command(&self, turn: &Turn, script: &str, workspace: &Path) -> Command {
        let mut command = Command::new(script, workspace);
        command.limits = self.equipment.limits;
        command.env = self.command_env(turn);
        command.network = self.grants.network.clone();
        command.services = self.grants.services.clone();
        command.scope = scope_of(&self.step, turn.attempt, turn.round);
        command
    }

    /// What a command of this step sees beside PATH, HOME, LANG and TZ.
    fn command_env(&self, turn: &Turn) -> Vec<(String, String)> {
        let own = [
            ("DEVO_RUN_ID", self.spec.task_id.to_string()),
            ("DEVO_STEP", self.step.to_string()),
            ("DEVO_ATTEMPT", turn.attempt.to_string()),
            ("DEVO_ROUND", turn.round.to_string()),
            ("DEVO_IDEMPOTENCY_KEY", self.idempotency_key(turn.round)),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let secrets = self.grants.secrets.iter();
        let secrets = secrets.map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
        self.env.iter().cloned().chain(secrets).chain(own).collect()
    }
}

/// The scope of an attempt's commands ([`Command::scope`]): all its turns share their services.
pub fn scope_of(step: &StepId, attempt: u32, round: u32) -> String {
    format!("{step}/{attempt}/{round}")
}

/// What templates and conditions of a run see.
pub fn template_context(spec: &RunSpec, outputs: &BTreeMap<StepId, Produced>) -> Value {
    let steps: serde_json::Map<String, Value> = outputs
        .iter()
        .map(|(id, produced)| (id.to_string(), json!({"output": produced.output, "state": produced.state})))
        .collect();
    json!({
        "inputs": spec.inputs,
        "steps": steps,
        "run": {"id": spec.task_id.to_string(), "short_id": spec.task_id.short(), "pipeline": spec.pipeline,
                "task": spec.task, "repo": spec.repo},
    })
}

/// What a step that is over left behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Produced {
    /// Its type.
    pub kind: String,
    /// Its place in the pipeline.
    pub place: Place,
    /// How it ended, in the contract's words.
    pub state: &'static str,
    /// Its output; an empty object where it has none.
    pub output: Value,
}

/// A model call that is about to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct CallIntent {
    /// planner, executor or reviewer.
    pub role: String,
    /// The provider's name.
    pub provider: String,
    /// The model's id.
    pub model: String,
    /// The most that it may cost.
    pub usd: Usd,
    /// The most tokens that it may use.
    pub tokens: u64,
    /// Which prompts were rendered.
    pub prompt: PromptRecord,
}

/// Why a call may not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoCall {
    /// The run's limit would be passed: ask the person this question.
    Limit(Question),
    /// The run is being stopped.
    Stopped,
    /// The intent could not be recorded.
    Failed(Failure),
}

/// The run's money: reserved before a call, settled after it, both in the journal before this returns.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Records the intent; the answer is the call's number.
    async fn begin(&self, step: &StepId, intent: CallIntent) -> Result<u32, NoCall>;
    /// Records what the call used.
    async fn end(&self, step: &StepId, call: u32, usage: Usage, usd: Usd, error: Option<String>)
    -> Result<(), Failure>;
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// A command's standard output.
    Stdout,
    /// A command's standard error.
    Stderr,
    /// The engine's or a step's own words.
    Note,
}

/// Lines for people; never data that anything depends on.
pub trait Log: Send + Sync {
    /// One line without its end; masked and cleaned before it is kept or shown.
    fn line(&self, step: &StepId, stream: Stream, text: &str);
}

/// Everything that the steps of one run share.
#[derive(Clone)]
pub struct Equipment {
    /// Known secrets.
    pub masker: Masker,
    /// Where commands run.
    pub sandbox: Arc<dyn Sandbox>,
    /// What one command may use.
    pub limits: sandboxes::Limits,
    /// The run's repository.
    pub repo: Option<repo::Repo>,
    /// Models by role.
    pub clients: models::Clients,
    /// Prompts.
    pub prompts: Prompts,
    /// Where large things are kept.
    pub artifacts: Arc<dyn Store>,
}

#[cfg(test)]
pub mod bare {
    //! Equipment for steps that use none of it.

    use super::*;
    use crate::sandboxes::{Finished, OutputSink, SandboxError};

    struct Nothing;

    #[async_trait]
    impl Sandbox for Nothing {
        fn name(&self) -> &'static str {
            "nothing"
        }
        fn isolates(&self) -> bool {
            false
        }
        fn caveats(&self) -> Vec<String> {
            Vec::new()
        }
        async fn probe(&self) -> Result<(), SandboxError> {
            Err(SandboxError::HostNotAllowed)
        }
        async fn exec(&self, _: &Command, _: &dyn OutputSink, _: &CancellationToken) -> Result<Finished, SandboxError> {
            Err(SandboxError::HostNotAllowed)
        }
    }

    #[async_trait]
    impl Store for Nothing {
        async fn put(&self, _: Vec<u8>) -> Result<String, Failure> {
            Err(Failure::terminal("nothing", "nothing is kept"))
        }
        async fn get(&self, hash: &str) -> Result<Vec<u8>, Failure> {
            Err(Failure::terminal("nothing", hash))
        }
    }

    /// No repository, no model, a sandbox that refuses.
    pub fn equipment() -> Equipment {
        Equipment {
            masker: Masker::default(),
            sandbox: Arc::new(Nothing),
            limits: sandboxes::Limits::default(),
            repo: None,
            clients: models::Clients::new(),
            prompts: Prompts::embedded(),
            artifacts: Arc::new(Nothing),
        }
    }
}
