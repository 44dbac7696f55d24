//! From a task to what a run is accepted with: everything that can be known to fail is refused here, before anything is written.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::grants::{Author, author_of};
use super::outfit::{Cassettes, Shop};
use super::{App, Problem, Settings, ShownPrompt, TaskRequest, TaskSource};
use crate::config::Config;
use crate::core::event::{RunLimits, RunSpec};
use crate::core::graph::Graph;
use crate::core::id::RunId;
use crate::core::plan::{Estimate, Plan, PlanRecord};
use crate::core::rings::{NOTIFY, Target};
use crate::error::Error;
use crate::pipeline::{self, InputKind, Pipeline, PipelineRef, Task, coerce, fill_inputs, read_task};
use crate::steps::test;
use crate::workspace::Worktree;
use crate::yaml::{self, Diagnostic};

/// How long a sandbox that worked is believed to work.
const PROBED_FOR: Duration = Duration::from_secs(30);
/// A diff is shown up to this, in bytes.
const DIFF_MAX: usize = 16 * 1024 * 1024;

/// How keys begin that channels make themselves: nobody else can take one before its time.
pub const OWN_KEYS: [&str; 2] = ["hook:", "telegram:"];

impl App {
    /// Checks a task completely and makes what a run is accepted with; nothing is written.
    pub async fn new_run(&self, request: TaskRequest) -> Result<RunSpec, Error> {
        let (task, pipeline, author) = self.read_request(&request.source, request.who.channel == "cli")?;
        let inputs = fill_inputs(&pipeline, task.inputs, task.repo.as_deref(), task.task.as_deref())
            .map_err(|wrong| Error::refused("bad_inputs", wrong.join("\n")).hint(taken(&pipeline)))?;
        let named = |name: &str, given: Option<String>| given.or_else(|| inputs.get(name)?.as_str().map(str::to_owned));
        let repo = named("repo", task.repo);
        let text = named("task", task.task).unwrap_or_default();
        self.check_repo(&pipeline, repo.as_deref())?;
        self.check_targets(&pipeline, &task.notify)?;
        self.shop().check_grants(&pipeline, author, repo.as_deref())?;
        let key = match (request.key, task.key) {
            (Some(own), _) => Some(own),
            (None, Some(given)) if OWN_KEYS.iter().any(|own| given.starts_with(own)) => {
                let message = format!("`key: {given}` begins like the keys that devo makes for hooks and messages");
                return Err(Error::refused("bad_key", message).hint("give it another beginning"));
            }
            (None, given) => given,
        };
        let spec = RunSpec {
            task_id: request.id.unwrap_or_else(|| RunId(uuid::Uuid::now_v7())),
            pipeline: pipeline.name.clone(),
            pipeline_text: pipeline.text.clone(),
            pipeline_hash: pipeline.hash.clone(),
            base: repo.as_ref().and_then(|name| self.shop().config.repos.get(name)?.base.clone()),
            task: text,
            inputs,
            key,
            notify: task.notify,
            who: request.who,
            graph: pipeline.nodes(),
            limits: RunLimits {
                usd: pipeline.limits.usd,
                tokens: pipeline.limits.tokens,
                wall_ms: pipeline.limits.wall_ms,
                parallel: self.shop().config.limits.parallel,
            },
            cassette: request.cassette,
            sandbox: self.shop().sandbox_name(repo.as_deref()).to_owned(),
            repo,
        };
        self.check_models(&spec, &pipeline)?;
        let sandbox = self.shop().sandbox(&spec.sandbox, spec.repo.as_deref(), None)?;
        self.try_sandbox(&spec, sandbox.as_ref()).await?;
        Ok(spec)
    }

    /// Whoever a task wants told, and whoever a step of its pipeline tells, can be told.
    fn check_targets(&self, pipeline: &Pipeline, targets: &[String]) -> Result<(), Error> {
        let config = self.config();
        let steps = pipeline.steps.iter().filter(|step| step.kind == NOTIFY);
        let steps = steps.flat_map(|step| step.spec["to"].as_array().into_iter().flatten());
        for text in targets.iter().map(String::as_str).chain(steps.filter_map(Value::as_str)) {
            match config.target(text) {
                Ok(Target::Telegram(_)) if config.chat.telegram.is_none() => {
                    tracing::warn!(
                        "`notify` names {text}, and devo.yaml configures no Telegram bot: nobody is told there"
                    );
                }
                Ok(_) => {}
                Err((why, hint)) => return Err(Error::refused("unknown_target", why).hint(hint)),
            }
        }
        Ok(())
    }

    /// Tries the sandbox, unless it worked a moment ago: of many tasks that come together, one pays for it.
    async fn try_sandbox(&self, spec: &RunSpec, sandbox: &dyn crate::sandboxes::Sandbox) -> Result<(), Error> {
        let key = (spec.sandbox.clone(), spec.repo.clone());
        let fresh = |at: &Instant| at.elapsed() < PROBED_FOR;
        if self.probed.lock().expect("no holder of this lock can panic").get(&key).is_some_and(fresh) {
            return Ok(());
        }
        sandbox.probe().await.map_err(|error| Error::from(crate::steps::sandbox_failure(&error)))?;
        let mut probed = self.probed.lock().expect("no holder of this lock can panic");
        probed.retain(|_, at| fresh(at));
        probed.insert(key, Instant::now());
        Ok(())
    }

    /// `paths`: whether the pipeline may be named by the path of a file, as at a terminal. From elsewhere it would read files
    /// that the asker may not see, and show their lines in the answer.
    fn read_request(&self, source: &TaskSource, paths: bool) -> Result<(Task, Pipeline, Author), Error> {
        let task = match source {
            TaskSource::File { name, text } => yaml::parse_bytes(name, text.as_bytes())
                .and_then(|document| read_task(&document))
                .map_err(|wrong| invalid(&wrong, text))?,
            TaskSource::Words { pipeline, repo, task, .. } => Task {
                pipeline: PipelineRef::Named(pipeline.clone()),
                repo: repo.clone(),
                task: task.clone(),
                inputs: Map::new(),
                key: None,
                notify: Vec::new(),
            },
        };
        let mut task = task;
        let (pipeline, author) = match &task.pipeline {
            PipelineRef::Inline(pipeline) => (pipeline.as_ref().clone(), Author::Anyone),
            PipelineRef::Named(name)
                if !paths && (name.contains('/') || name.ends_with(".yaml") || name.ends_with(".yml")) =>
            {
                let message = format!("`{name}` is a path, and a task from here names a pipeline of the home");
                return Err(Error::refused("unknown_pipeline", message).hint(
                    "put the file into pipelines/ and give its name without .yaml, or write the pipeline into the task",
                ));
            }
            PipelineRef::Named(name) => read_pipeline(&self.home, name)?,
        };
        if let TaskSource::Words { inputs, .. } = source {
            for (name, text) in inputs {
                let kind = pipeline
                    .inputs
                    .iter()
                    .find(|(known, _)| known == name)
                    .map_or(InputKind::String, |(_, input)| input.kind);
                let value = coerce(kind, text).ok_or_else(|| {
                    Error::refused(
                        "bad_inputs",
                        format!("input `{name}` must be a {}, and `{text}` is not", kind.name()),
                    )
                })?;
                task.inputs.insert(name.clone(), value);
            }
        }
        Ok((task, pipeline, author))
    }

    /// Steps that need a repository have one, and its checks exist.
    fn check_repo(&self, pipeline: &Pipeline, repo: Option<&str>) -> Result<(), Error> {
        let wants = pipeline
            .steps
            .iter()
            .find(|step| ["plan", "branch", "execute-loop", "test", "commit", "push"].contains(&step.kind.as_str()));
        let Some(name) = repo else {
            return match wants {
                None => Ok(()),
                Some(step) => Err(Error::refused(
                    "no_repo",
                    format!("step `{}` needs a repository, and the task names none", step.id),
                )
                .hint("give one: `--repo NAME`, or `repo: NAME` in the task file")),
            };
        };
        let repo = self.shop().repo(name)?;
        for step in pipeline.steps.iter().filter(|step| step.kind == "test") {
            let check = test::check_of(&step.spec);
            if repo.check(&check).is_none() {
                return Err(Error { exit: crate::error::Exit::Refused, ..test::no_check(name, &check).into() });
            }
        }
        Ok(())
    }

    /// Every role that the pipeline calls has a known, priced model and a key.
    fn check_models(&self, spec: &RunSpec, pipeline: &Pipeline) -> Result<(), Error> {
        // A recording is opened when the run starts; whether it can be is asked of its folder only then.
        let cassettes = match spec.cassette {
            Some(crate::core::event::CassetteUse::Replay(_)) => self.shop().cassettes(spec)?,
            _ => Cassettes::None,
        };
        for role in Shop::roles_of(pipeline) {
            let client = self.shop().client(role, &cassettes, self.clock.now());
            client.map_err(|failure| Error { exit: crate::error::Exit::Refused, ..failure.into() })?;
        }
        Ok(())
    }

    /// What a run changed, as a patch.
    pub async fn diff(&self, run: RunId) -> Result<String, Error> {
        let (_, state) = crate::engine::load(self.journal.as_ref(), run).await?;
        let Some(name) = state.spec().repo.clone() else { return Ok(String::new()) };
        let run_dir = self.run_dir(run);
        if run_dir.join(crate::engine::CLEARED).exists() {
            let message = "the workspace of this run was removed by `devo gc`, and what it changed with it";
            return Err(Error::refused("cleared", message).hint("look at the branch that it pushed, if it did"));
        }
        // Where the repository is in devo.yaml no more, or devo.yaml cannot be read, the store is where it was.
        let repo = self.shop().repo(&name).ok();
        let patch = tokio::task::spawn_blocking(move || {
            let Some(mut worktree) = Worktree::find(&run_dir)? else { return Ok(String::new()) };
            if let Some(repo) = repo {
                worktree = repo.worktree(&run_dir, &|| false)?;
            }
            let base = worktree.tree_of(worktree.base())?;
            // While nothing has been recorded of the workspace, there is nothing to show.
            let now = worktree.snapshot_of(crate::steps::execute_loop::SNAPSHOT)?.unwrap_or(base);
            Ok(worktree.diff(base, now, DIFF_MAX)?.text)
        });
        let patch: Result<String, crate::workspace::Error> =
            patch.await.map_err(|error| Error::bug(error.to_string()))?;
        patch.map_err(|error| Error::from(error.to_failure()))
    }

    /// The prompts of a step for a task, rendered; no call is made.
    pub async fn prompts(&self, step: &str, request: TaskRequest) -> Result<Vec<ShownPrompt>, Error> {
        let (task, pipeline, _) = self.read_request(&request.source, true)?;
        let Some(def) = pipeline.steps.iter().find(|def| def.id.as_str() == step) else {
            let known: Vec<&str> = pipeline.steps.iter().map(|def| def.id.as_str()).collect();
            return Err(Error::refused("unknown_step", format!("`{}` has no step `{step}`", pipeline.name))
                .hint(format!("its steps: {}", known.join(", "))));
        };
        let repo = task.repo.clone().or_else(|| task.inputs.get("repo")?.as_str().map(str::to_owned));
        let repo = repo.ok_or_else(|| Error::refused("no_repo", "the task names no repository"))?;
        let repo = self.shop().repo(&repo)?;
        let text = task.task.clone().unwrap_or_default();
        let prompts = crate::prompts::Prompts::of_home(&self.home);
        let (system, first, values) = match def.kind.as_str() {
            "plan" => {
                let checks = repo.check_names();
                let kit = repo.clone();
                let values = tokio::task::spawn_blocking(move || {
                    let store = kit.store(&|| false).map_err(|error| error.to_failure())?;
                    let base = store.resolve_base(kit.base.as_deref()).map_err(|error| error.to_failure())?;
                    let view = store.view(base.commit).map_err(|error| error.to_failure())?;
                    crate::steps::plan::first_message(view, &text, &checks, None)
                });
                let values = values.await.map_err(|error| Error::bug(error.to_string()))??;
                (crate::steps::plan::SYSTEM, crate::steps::plan::FIRST, values)
            }
            "execute-loop" => {
                let values = crate::steps::execute_loop::first_message(&repo, &text, &sample_plan(), None);
                (crate::steps::execute_loop::SYSTEM, crate::steps::execute_loop::FIRST, values)
            }
            other => {
                return Err(Error::refused("no_prompt", format!("a step of type `{other}` has no prompt"))
                    .hint("steps of type plan and execute-loop have one"));
            }
        };
        let checks = serde_json::json!({"checks": repo.check_names()});
        let system = prompts.render(system, &checks)?;
        let first = prompts.render(first, &values)?;
        Ok(vec![
            ShownPrompt { part: "system".to_owned(), files: system.files, text: system.text },
            ShownPrompt { part: "user".to_owned(), files: first.files, text: first.text },
        ])
    }
}

/// A pipeline by its name under pipelines/, or by the path of a file.
fn read_pipeline(home: &Path, name: &str) -> Result<(Pipeline, Author), Error> {
    let folder = home.join("pipelines");
    let plain = !name.contains('/') && !name.ends_with(".yaml") && !name.ends_with(".yml");
    let path = if plain { folder.join(format!("{name}.yaml")) } else { PathBuf::from(name) };
    let bytes = std::fs::read(&path).map_err(|error| {
        let mut known: Vec<String> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".yaml").map(str::to_owned))
            .collect();
        known.sort();
        let refused = Error::refused("unknown_pipeline", format!("there is no pipeline `{name}`: {error}"));
        match yaml::nearest(name, known.iter().map(String::as_str)) {
            Some(near) => refused.hint(format!("did you mean `{near}`?")),
            None => refused.hint(format!("pipelines of this home: {}; or give a file's path", known.join(", "))),
        }
    })?;
    let shown = path.display().to_string();
    let read = yaml::parse_bytes(&shown, &bytes)
        .and_then(|document| pipeline::read(&document))
        .map_err(|wrong| invalid(&wrong, &String::from_utf8_lossy(&bytes)))?;
    Ok((read, author_of(name, &path, &folder)))
}

/// Stands in for the plan that a run would have, where a prompt is shown without one.
fn sample_plan() -> PlanRecord {
    let plan = serde_json::json!({
        "title": "(the approved plan's title)", "summary": "(its summary)",
        "steps": [{"id": "s1", "title": "(a step)", "intent": "(what it achieves)",
                   "files": [{"path": "src/example", "action": "modify", "why": "(why)"}], "verify": [{"check": "test"}]}],
        "criteria": [{"id": "c1", "text": "(a criterion)", "check": {"kind": "test", "ref": "test"}}],
    });
    let plan: Plan = serde_json::from_value(plan).expect("the sample is a plan");
    PlanRecord::new(plan, Estimate::default(), 1, "0".repeat(40), "")
}

fn invalid(wrong: &[Diagnostic], text: &str) -> Error {
    let rendered = yaml::render(wrong, text, false);
    let count = wrong.len();
    let what = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    let file = wrong.first().map_or("the file", |first| first.file.as_str());
    Error::refused("invalid", format!("{file} has {what}\n\n{}", rendered.trim_end()))
}

fn problems(wrong: Vec<Diagnostic>, text: &str, color: bool) -> Vec<Problem> {
    let problem = |fault: Diagnostic| Problem {
        rendered: yaml::render(std::slice::from_ref(&fault), text, color),
        file: fault.file,
        line: fault.line,
        column: fault.column,
        level: "error".to_owned(),
        code: fault.code.to_owned(),
        message: fault.message,
        hint: fault.help,
    };
    wrong.into_iter().map(problem).collect()
}

/// All problems of a pipeline, task or configuration file; none means that it is valid. Works without a home, with the
/// shipped prompts; what a task gives to a pipeline of the home is looked at where there is one.
pub fn validate(settings: &Settings, path: &Path) -> Result<Vec<Problem>, Error> {
    let bytes = read(path)?;
    let name = path.display().to_string();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if path.file_name().is_some_and(|name| name == crate::config::FILE) {
        return Ok(Config::read(&name, &bytes).err().map_or_else(Vec::new, |wrong| problems(wrong, &text, false)));
    }
    let wrong = match yaml::parse_bytes(&name, &bytes) {
        Err(wrong) => wrong,
        // What has steps is a pipeline; what names one is a task.
        Ok(document) if document.root.get("steps").is_none() && document.root.get("pipeline").is_some() => {
            match (read_task(&document), settings.places.find()) {
                (Err(wrong), _) => wrong,
                (Ok(task), Ok(home)) => misfits(&home, &document, task),
                (Ok(_), Err(_)) => Vec::new(),
            }
        }
        Ok(document) => pipeline::read(&document).err().unwrap_or_default(),
    };
    Ok(problems(wrong, &text, false))
}

/// What of a task does not fit its pipeline.
fn misfits(home: &Path, document: &yaml::Document, task: Task) -> Vec<Diagnostic> {
    let at = |pointer: &str, code, message: String| document.diagnostic(document.root.locate(pointer), code, message);
    let pipeline = match task.pipeline {
        PipelineRef::Inline(pipeline) => *pipeline,
        PipelineRef::Named(name) => match read_pipeline(home, &name) {
            Ok((pipeline, _)) => pipeline,
            Err(error) => {
                let first = error.message.lines().next().unwrap_or_default().to_owned();
                let wrong = at("/pipeline", "unknown_pipeline", first);
                return vec![match error.hint {
                    Some(hint) => wrong.help(hint),
                    None => wrong,
                }];
            }
        },
    };
    let wrong = fill_inputs(&pipeline, task.inputs, task.repo.as_deref(), task.task.as_deref()).err();
    let place = if document.root.get("inputs").is_some() { "/inputs" } else { "/pipeline" };
    let wrong = wrong.unwrap_or_default().into_iter();
    wrong.map(|message| at(place, "bad_inputs", message).help(taken(&pipeline))).collect()
}

/// What a pipeline takes, for whoever gave it something else.
fn taken(pipeline: &Pipeline) -> String {
    let one = |(name, input): &(String, pipeline::Input)| {
        let needed = if input.required { ", required" } else { "" };
        format!("{name} ({}{needed})", input.kind.name())
    };
    let all: Vec<String> = pipeline.inputs.iter().map(one).collect();
    match all.as_slice() {
        [] => format!("`{}` takes no inputs", pipeline.name),
        all => format!("`{}` takes {}", pipeline.name, all.join(", ")),
    }
}

/// The graph of a valid pipeline file.
pub fn outline(_settings: &Settings, path: &Path) -> Result<Graph, Error> {
    let bytes = read(path)?;
    let name = path.display().to_string();
    let read = yaml::parse_bytes(&name, &bytes).and_then(|document| pipeline::read(&document));
    read.map(|pipeline| pipeline.graph()).map_err(|wrong| invalid(&wrong, &String::from_utf8_lossy(&bytes)))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let failed =
        |error: std::io::Error| Error::refused("unreadable", format!("cannot read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    // One byte more than is allowed is enough to know that it is too large.
    file.take(yaml::BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The JSON Schemas, by the name of their file under schemas/.
pub fn schemas() -> Result<Vec<(String, Value)>, Error> {
    Ok(vec![
        ("devo.schema.json".to_owned(), crate::config::schema()),
        ("pipeline.schema.json".to_owned(), pipeline::pipeline_schema()),
        ("task.schema.json".to_owned(), pipeline::task_schema()),
    ])
}
