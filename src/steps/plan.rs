//! `plan`: the planner reads the repository at its base commit and returns a plan. It has nothing that can write, run or reach
//! the network: its tools look at a git tree.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::blocking::blocking;
use super::models::RoleModel;
use super::{Context, Kind, Outcome, Step, Turn, build};
use crate::agent::files::{FileError, RepoPath, Source, StopNow, TreeSource};
use crate::agent::plan_check::Facts;
use crate::agent::plan_loop::{PlanCarry, PlanEnd, PlanLimits, PlanLoop, Reader};
use crate::agent::repo_map::repo_map;
use crate::agent::tools;
use crate::core::budget::Usd;
use crate::core::event::PromptRecord;
use crate::core::failure::Failure;
use crate::core::graph::Authority;
use crate::core::plan::{Estimate, Plan, PlanRecord};
use crate::prompts::Rendered;
use crate::providers::{ToolCall, ToolResult};
use crate::workspace::{CommitId, Error, TreeView};

/// `plan` in the list.
pub const KIND: Kind = Kind {
    name: "plan",
    summary: "the planner reads the repository and returns a plan: steps and criteria",
    schema: || schemars::schema_for!(PlanStep),
    templates: &[],
    authority: Authority::Plans,
    exclusive: false,
    build: build::<PlanStep>,
};

/// The templates of the system prompt, in order.
pub const SYSTEM: &[&str] = &["system/base.md", "planner/role.md", "planner/constraints.md", "testing/rules.md"];
/// The template of the first message.
pub const FIRST: &[&str] = &["planner/task.md"];
/// Files in which a repository tells how its authors work.
const CONVENTIONS: &[&str] = &["AGENTS.md", "CLAUDE.md", "CONTRIBUTING.md"];
/// What is shown of them in all, in bytes.
const CONVENTIONS_MAX: usize = 32 * 1024;
/// The map in the first message, in bytes.
const MAP_MAX: usize = 16 * 1024;
/// The map in the first message may take this long: where it is cut, two runs of one task no longer begin with the same bytes.
const MAP_TIME: Duration = Duration::from_secs(60);

/// The step's own keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanStep {
    /// Bounds; each has a default.
    #[serde(default)]
    limits: Limits,
}

/// Bounds of planning.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Limits {
    /// US dollars per round.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0))]
    usd: Option<f64>,
    /// Model calls per round.
    #[serde(default)]
    #[schemars(range(min = 1, max = 200))]
    turns: Option<u32>,
}

/// What the step carries from turn to turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Carry {
    base_commit: String,
    prompt: PromptRecord,
    #[serde(flatten)]
    talk: PlanCarry,
}

#[async_trait]
impl Step for PlanStep {
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome {
        match self.turn(cx, turn).await {
            Ok(outcome) => outcome,
            Err(failure) => Outcome::Fail(failure),
        }
    }
}

impl PlanStep {
    async fn turn(&self, cx: &Context, turn: Turn) -> Result<Outcome, Failure> {
        let repo = cx.repo()?;
        let carried: Option<Carry> = match &turn.carry {
            Value::Null => None,
            carry => Some(serde_json::from_value(carry.clone()).map_err(|error| {
                Failure::terminal("bad_carry", format!("what the step carried cannot be read: {error}"))
            })?),
        };
        let base_commit = match &carried {
            Some(carry) => carry.base_commit.clone(),
            None => {
                let base = cx.git(|repo, cancelled| repo.resolve_base(cancelled)).await?;
                if let Some(said) = base.said {
                    cx.note(said);
                }
                base.commit.to_string()
            }
        };
        let commit: CommitId = base_commit.parse().map_err(|error: Error| error.to_failure())?;
        let at_first = carried.is_none();
        let (view, cautions) = cx
            .git(move |repo, cancelled| {
                let view = repo.store(cancelled)?.view(commit)?;
                let cautions = if at_first { view.cautions()? } else { Vec::new() };
                Ok((view, cautions))
            })
            .await?;
        for caution in cautions {
            cx.note(caution);
        }
        let source = blocking(&cx.cancel, move |_| TreeSource::new(ViewTree(view))).await?;
        let source = Arc::new(source.map_err(|error| Failure::terminal("repository", error.to_string()))?);
        let checks = repo.check_names();
        let system = cx.equipment.prompts.render(SYSTEM, &json!({"checks": checks}))?;
        let model = cx.client("planner")?.card().id.clone();
        let (prompt, talk, first) = match carried {
            Some(carry) => (carry.prompt, carry.talk, String::new()),
            None => {
                // A revision is one only where there is a plan and something was said about it.
                let revised = cx.plan.clone().zip(turn.feedback.clone());
                let (source, task, checks) = (source.clone(), cx.spec.task.clone(), checks.clone());
                let values = blocking(&cx.cancel, move |cancelled| {
                    let revised = revised.as_ref().map(|(plan, feedback)| (plan, feedback.as_str()));
                    first_values(source.as_ref(), &task, &checks, revised, cancelled)
                })
                .await??;
                let first = cx.equipment.prompts.render(FIRST, &values)?;
                (Rendered::record(&[&system, &first], &model), PlanCarry::default(), first.text)
            }
        };
        let defaults = PlanLimits::default();
        let limits = PlanLimits { turns: self.limits.turns.unwrap_or(defaults.turns), ..defaults };
        let model = RoleModel::new(cx, "planner", prompt.clone(), self.limits.usd.map(Usd::from_dollars), &turn)?;
        let (reader, facts) = (Reading { cx, source: source.clone() }, TreeFacts { source: &source, checks: &checks });
        let planning = PlanLoop {
            system: system.text,
            first,
            tools: tools::planner_tools(),
            models: &model,
            store: cx.equipment.artifacts.as_ref(),
            reader: &reader,
            facts: &facts,
            limits,
        };
        let keep = |talk: PlanCarry| {
            serde_json::to_value(Carry { base_commit: base_commit.clone(), prompt: prompt.clone(), talk })
                .expect("what a step carries is plain data")
        };
        Ok(match planning.turn(talk).await {
            PlanEnd::Again(talk) => Outcome::Again(keep(talk)),
            PlanEnd::Ask(question, talk) => Outcome::Ask(question, keep(talk)),
            PlanEnd::Park { reason, for_ms, carry } => Outcome::Park { reason, for_ms, carry: keep(carry) },
            PlanEnd::Fail(failure) => Outcome::Fail(failure),
            PlanEnd::Plan(plan, _) => {
                let revision = cx.plan.as_ref().map_or(1, |before| before.revision + 1);
                let estimate = estimate(cx, &plan);
                let record = PlanRecord::new(*plan, estimate, revision, base_commit.clone(), &cx.spec.pipeline_hash);
                cx.note(format!("plan, revision {revision}: {}", record.plan.title));
                Outcome::Done(serde_json::to_value(record).expect("a plan is plain data"))
            }
        })
    }
}

/// What the first message about a commit's tree is rendered with.
pub fn first_message(
    view: TreeView,
    task: &str,
    checks: &[String],
    revised: Option<(&PlanRecord, &str)>,
) -> Result<Value, Failure> {
    let source = TreeSource::new(ViewTree(view)).map_err(|error| Failure::terminal("repository", error.to_string()))?;
    first_values(&source, task, checks, revised, &|| false)
}

fn first_values(
    source: &dyn Source,
    task: &str,
    checks: &[String],
    revised: Option<(&PlanRecord, &str)>,
    cancelled: StopNow<'_>,
) -> Result<Value, Failure> {
    let failed = |error: FileError| Failure::terminal("repository", error.to_string());
    let focus: Vec<String> = task.split_whitespace().map(str::to_owned).take(40).collect();
    let map = tools::within(MAP_TIME, cancelled, |stop| repo_map(source, &focus, MAP_MAX, stop)).map_err(failed)?;
    let mut room = CONVENTIONS_MAX;
    let mut conventions = Vec::new();
    for name in CONVENTIONS {
        let Ok(path) = RepoPath::parse(name) else { continue };
        let Ok(content) = source.read(&path, room as u64) else { continue };
        if content.bytes.is_empty() || content.is_binary() {
            continue;
        }
        room -= content.bytes.len();
        conventions.push(json!({"path": name, "text": String::from_utf8_lossy(&content.bytes)}));
    }
    Ok(json!({
        "task": task,
        "checks": checks,
        "repo_map": map,
        "conventions": conventions,
        "feedback": revised.map_or("", |(_, feedback)| feedback),
        "previous_plan": revised.map_or(String::new(), |(plan, _)| serde_json::to_string_pretty(&plan.plan).unwrap_or_default()),
        "previous_revision": revised.map_or(0, |(plan, _)| plan.revision),
    }))
}

/// What carrying out the plan may cost: a rule of thumb from the number of files, priced with the executor's own prices.
fn estimate(cx: &Context, plan: &Plan) -> Estimate {
    let files = plan.steps.iter().map(|step| step.files.len().max(1)).sum::<usize>() as u64;
    let tokens = 30_000 + 25_000 * files;
    let usage = crate::core::budget::Usage { input: tokens * 19 / 20, output: tokens / 20, ..Default::default() };
    let usd = cx.client("executor").map_or(0.0, |client| client.card().cost(&usage).dollars());
    Estimate { usd, tokens, minutes: 2 + 2 * files }
}

/// A commit's tree as the tools see it.
struct ViewTree(TreeView);

impl crate::agent::files::Tree for ViewTree {
    fn entries(&self) -> Result<Vec<crate::agent::files::Entry>, FileError> {
        use crate::agent::files::{Entry, Kind};
        use crate::workspace::FileKind;
        let files = self.0.files().map_err(unreadable)?;
        let entry = |file: &crate::workspace::TreeFile| Entry {
            path: file.path.clone(),
            kind: match file.kind {
                FileKind::File | FileKind::Executable => Kind::File,
                FileKind::Link => Kind::Link,
                FileKind::Submodule => Kind::Other,
            },
            size: file.size,
            executable: file.kind == FileKind::Executable,
        };
        Ok(files.iter().map(entry).collect())
    }

    fn history(&self, path: &str, limit: usize) -> Result<Vec<String>, FileError> {
        let entries = self.0.log(path, limit).map_err(unreadable)?;
        let line = |entry: crate::workspace::LogEntry| {
            let day: String = entry.date.to_string().chars().take(10).collect();
            format!("{} {day} {}: {}", &entry.commit[..12], entry.author, entry.subject)
        };
        Ok(entries.into_iter().map(line).collect())
    }

    fn blob(&self, path: &str, cap: u64) -> Result<Vec<u8>, FileError> {
        let cap = usize::try_from(cap).unwrap_or(usize::MAX);
        Ok(self.0.read(path, cap).map_err(unreadable)?.bytes)
    }
}

fn unreadable(error: Error) -> FileError {
    FileError::Io { path: String::new(), source: std::io::Error::other(error.to_string()) }
}

struct Reading<'a> {
    cx: &'a Context,
    source: Arc<TreeSource<ViewTree>>,
}

#[async_trait]
impl Reader for Reading<'_> {
    async fn answer(&self, calls: Vec<ToolCall>) -> Result<Vec<ToolResult>, Failure> {
        for call in &calls {
            self.cx.note(tools::describe(call));
        }
        let source = self.source.clone();
        blocking(&self.cx.cancel, move |cancelled| tools::read_all(&calls, source.as_ref(), cancelled)).await
    }
}

struct TreeFacts<'a> {
    source: &'a TreeSource<ViewTree>,
    checks: &'a [String],
}

impl TreeFacts<'_> {
    fn kind(&self, path: &str) -> Option<crate::agent::files::Kind> {
        self.source.metadata(&RepoPath::parse(path).ok()?).ok().map(|entry| entry.kind)
    }
}

impl Facts for TreeFacts<'_> {
    fn is_file(&self, path: &str) -> bool {
        self.kind(path) == Some(crate::agent::files::Kind::File)
    }

    fn is_folder(&self, path: &str) -> bool {
        self.kind(path) == Some(crate::agent::files::Kind::Folder)
    }

    fn checks(&self) -> Vec<String> {
        self.checks.to_vec()
    }
}
