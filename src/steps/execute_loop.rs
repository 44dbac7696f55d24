//! `execute-loop`: the executor carries out the approved plan in the workspace, one durable turn at a time, until the plan's
//! checks are green or a limit says stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::blocking::{blocking, to_its_end};
use super::commands::{CONTAINER_LOST, Ran, run_command};
use super::models::RoleModel;
use super::repo::{Repo, change};
use super::{Context, Kind, Outcome, Step, Turn, build};
use crate::agent::digest::{Report, digest};
use crate::agent::execute_loop::{
    ExecuteCarry, ExecuteEnd, ExecuteLimits, ExecuteLoop, Gate, Performed, Verdict, Workbench,
};
use crate::agent::files::RepoPath;
use crate::agent::folder::Folder;
use crate::agent::guard::{self, AtBase, Guard};
use crate::agent::loops::{self, Watch};
use crate::agent::talk::answer;
use crate::agent::tools::{self, canonical};
use crate::agent::truncate::{SHELL_BYTES, SHELL_HEAD, cut_middle};
use crate::core::budget::Usd;
use crate::core::event::PromptRecord;
use crate::core::failure::Failure;
use crate::core::graph::Authority;
use crate::core::plan::{CheckKind, PlanRecord};
use crate::prompts::Rendered;
use crate::providers::{AssistantMessage, ToolCall, ToolResult, ToolSpec};
use crate::workspace::{FileKind, TreeId, TreeView, Worktree};

/// `execute-loop` in the list.
pub const KIND: Kind = Kind {
    name: "execute-loop",
    summary: "the executor edits and tests until the plan's checks are green or a limit is reached",
    schema: || schemars::schema_for!(ExecuteStep),
    templates: &[],
    authority: Authority::Acts,
    exclusive: true,
    build: build::<ExecuteStep>,
};

/// The templates of the system prompt, in order.
pub const SYSTEM: &[&str] =
    &["system/base.md", "executor/role.md", "executor/coding_rules.md", "testing/rules.md", "git/rules.md"];
/// The template of the first message.
pub const FIRST: &[&str] = &["executor/task.md"];
/// A command of the model may take this long unless it says less, in seconds.
const COMMAND_S: u64 = 120;
/// A check may take this long, in seconds.
const CHECK_S: u64 = 30 * 60;
/// Writes to protected files before the step ends.
const TAMPERING_MAX: u32 = 5;
/// Outputs of commands that `read_output` can still find.
const OUTPUTS_MAX: usize = 20;
/// The names of failing tests that are remembered of a check, in bytes, to say what changed.
const REPORT_MAX: usize = 100 * 1024;
/// Checks whose last report is remembered.
const REPORTS_MAX: usize = 3;
/// Paths that the model has read are remembered up to this, in bytes; beyond it, they must be read again.
const READ_MAX: usize = 64 * 1024;
/// The snapshot's label: one is enough, the carry names the trees.
pub const SNAPSHOT: &str = "work";

/// The step's own keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecuteStep {
    /// Bounds; each has a default.
    #[serde(default)]
    limits: Limits,
}

/// Bounds of executing, per round.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Limits {
    /// Cycles of editing and checking; 15 if not given.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    iterations: Option<u32>,
    /// Model calls; 60 if not given.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    turns: Option<u32>,
    /// Tool calls; 150 if not given.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10000))]
    calls: Option<u32>,
    /// US dollars.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0))]
    usd: Option<f64>,
}

/// What the step carries from turn to turn.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Carry {
    prompt: PromptRecord,
    #[serde(flatten)]
    work: ExecuteCarry,
}

#[async_trait]
impl Step for ExecuteStep {
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome {
        match self.turn(cx, turn).await {
            Ok(outcome) => outcome,
            Err(failure) => Outcome::Fail(failure),
        }
    }
}

impl ExecuteStep {
    async fn turn(&self, cx: &Context, turn: Turn) -> Result<Outcome, Failure> {
        let plan = cx.plan.clone().ok_or_else(|| Failure::terminal("no_plan", "there is no plan to carry out"))?;
        let repo = cx.repo()?;
        let carried: Option<Carry> = match &turn.carry {
            Value::Null => None,
            carry => Some(serde_json::from_value(carry.clone()).map_err(|error| {
                Failure::terminal("bad_carry", format!("what the step carried cannot be read: {error}"))
            })?),
        };
        let mut bench = Bench::open(cx, &turn, &plan, carried.as_ref().map(|carry| &carry.work.memory)).await?;
        let system = cx.equipment.prompts.render(SYSTEM, &json!({"checks": repo.check_names()}))?;
        let model = cx.client("executor")?.card().id.clone();
        let (prompt, mut work, first) = match carried {
            Some(carry) => (carry.prompt, carry.work, String::new()),
            None => {
                let first = cx
                    .equipment
                    .prompts
                    .render(FIRST, &first_message(&repo, &cx.spec.task, &plan, turn.feedback.as_deref()))?;
                (Rendered::record(&[&system, &first], &model), ExecuteCarry::default(), first.text)
            }
        };
        if work.tree.is_none() {
            work.tree = bench.last_tree().await?;
        }
        let defaults = ExecuteLimits::default();
        let limits = ExecuteLimits {
            iterations: self.limits.iterations.unwrap_or(defaults.iterations),
            turns: self.limits.turns.unwrap_or(defaults.turns),
            calls: self.limits.calls.unwrap_or(defaults.calls),
            ..defaults
        };
        let model = RoleModel::new(cx, "executor", prompt.clone(), self.limits.usd.map(Usd::from_dollars), &turn)?;
        let executing =
            ExecuteLoop { system: system.text, first, models: &model, store: cx.equipment.artifacts.as_ref(), limits };
        let keep = |work: ExecuteCarry| {
            serde_json::to_value(Carry { prompt: prompt.clone(), work }).expect("what a step carries is plain data")
        };
        let iterations = work.iterations;
        let end = executing.turn(work, turn.turn == 1, &mut bench).await;
        Ok(match end {
            ExecuteEnd::Again(work) => {
                if work.iterations > iterations {
                    cx.note(format!("iteration {} of {}", work.iterations, limits.iterations));
                }
                Outcome::Again(keep(work))
            }
            ExecuteEnd::Done(output) => Outcome::Done(bench.finished(output).await?),
            ExecuteEnd::Ask(question, work) => Outcome::Ask(question, keep(work)),
            ExecuteEnd::Park { reason, for_ms, carry } => Outcome::Park { reason, for_ms, carry: keep(carry) },
            ExecuteEnd::Fail(failure) => Outcome::Fail(failure),
        })
    }
}

/// What the first message is rendered with.
pub fn first_message(repo: &Repo, task: &str, plan: &PlanRecord, feedback: Option<&str>) -> Value {
    let checks: Vec<Value> =
        repo.checks.iter().map(|(name, command)| json!({"name": name, "command": command})).collect();
    let mut shown = serde_json::to_value(&plan.plan).expect("a plan is plain data");
    // Templates are strict: what a plan leaves out must exist all the same.
    for step in shown["steps"].as_array_mut().into_iter().flatten() {
        for verify in step["verify"].as_array_mut().into_iter().flatten() {
            verify.as_object_mut().map(|verify| verify.entry("selector").or_insert(Value::Null));
        }
    }
    for criterion in shown["criteria"].as_array_mut().into_iter().flatten() {
        criterion["check"].as_object_mut().map(|check| check.entry("ref").or_insert(Value::Null));
    }
    json!({
        "task": task, "plan": shown, "revision": plan.revision, "checks": checks, "feedback": feedback.unwrap_or_default(),
    })
}

/// What the bench remembers over turns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Memory {
    watch: Watch,
    read: BTreeSet<String>,
    warned: BTreeSet<String>,
    outputs: Vec<(String, String)>,
    commands: u32,
    tampering: u32,
    /// The last report of each check.
    reports: BTreeMap<String, Report>,
    /// The check that the current reply ran last.
    last_check: Option<String>,
    /// The checks that `reports` holds, the latest at the end.
    checks: Vec<String>,
    bad: u32,
}

impl Memory {
    fn keep_report(&mut self, name: &str, report: &Report) {
        self.checks.retain(|known| known != name);
        self.checks.push(name.to_owned());
        self.reports.insert(name.to_owned(), report.outline(REPORT_MAX));
        let latest = &self.checks[self.checks.len().saturating_sub(REPORTS_MAX)..];
        self.reports.retain(|known, _| latest.contains(known));
        self.checks = latest.to_vec();
    }

    fn keep_path(&mut self, path: String) {
        let known: usize = self.read.iter().chain(&self.warned).map(|path| path.len() + 4).sum();
        if known + path.len() > READ_MAX {
            self.read.clear();
            self.warned.clear();
        }
        if path.len() <= READ_MAX {
            self.read.insert(path);
        }
    }
}

/// The executor's hands.
struct Bench<'a> {
    cx: &'a Context,
    turn: &'a Turn,
    plan: &'a PlanRecord,
    worktree: Worktree,
    folder: Arc<Folder>,
    guard: Arc<Guard>,
    base: TreeId,
    memory: Memory,
    /// The last command's container is gone: no matter for the model, the turn is repeated.
    lost: Option<Failure>,
}

impl<'a> Bench<'a> {
    async fn open(
        cx: &'a Context,
        turn: &'a Turn,
        plan: &'a PlanRecord,
        memory: Option<&Value>,
    ) -> Result<Self, Failure> {
        let run_dir = cx.run_dir.clone();
        let (worktree, base, paths) = cx
            .git(move |repo, cancelled| {
                let worktree = repo.worktree(&run_dir, cancelled)?;
                let base = worktree.tree_of(worktree.base())?;
                let paths: Vec<String> = worktree.view(base)?.files()?.iter().map(|file| file.path.clone()).collect();
                Ok((worktree, base, paths))
            })
            .await?;
        let folder = Folder::open(&worktree.workspace(), paths.clone())
            .map_err(|error| Failure::terminal("workspace", error.to_string()))?;
        let (folder, guard) = (Arc::new(folder), Arc::new(Guard::new(paths, &plan.plan)));
        let memory =
            memory.map_or_else(Memory::default, |value| serde_json::from_value(value.clone()).unwrap_or_default());
        Ok(Self { cx, turn, plan, worktree, folder, guard, base, memory, lost: None })
    }

    async fn with_worktree<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Worktree) -> Result<T, crate::workspace::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let worktree = self.worktree.clone();
        self.cx.git(move |_, _| work(&worktree)).await
    }

    /// The last tree of an earlier round, so that what it did is not lost.
    async fn last_tree(&self) -> Result<Option<String>, Failure> {
        let last = self.with_worktree(|worktree| worktree.snapshot_of(SNAPSHOT)).await?;
        Ok(last.map(|tree| tree.to_string()))
    }

    /// Protected files that changed since the base are put back; the answer names them.
    async fn undo_tampering(&mut self) -> Result<Vec<String>, Failure> {
        let base = self.base;
        let (changed, view) = self
            .with_worktree(move |worktree| {
                let now = worktree.snapshot(SNAPSHOT)?.tree;
                Ok((worktree.changed_paths(base, now)?, worktree.view(base)?))
            })
            .await?;
        let (folder, guard) = (self.folder.clone(), self.guard.clone());
        let touched = to_its_end(move || {
            let touched: Vec<String> = changed.into_iter().filter(|path| guard.protects(path).is_some()).collect();
            touched.iter().try_for_each(|path| Self::put_back(&folder, path, &view))?;
            Ok(touched)
        })
        .await?;
        self.memory.tampering += u32::from(!touched.is_empty());
        Ok(touched)
    }

    fn put_back(folder: &Folder, path: &str, view: &TreeView) -> Result<(), Failure> {
        let failed = |error: String| Failure::terminal("guard", format!("cannot put {path} back: {error}"));
        let at = RepoPath::parse(path).map_err(|error| failed(error.to_string()))?;
        let content = match view.has_file(path) {
            true => Some(view.read(path, 64 << 20).map_err(|error| failed(error.to_string()))?),
            false => None,
        };
        let base = match &content {
            None => AtBase::Nothing,
            Some(content) if content.kind == FileKind::Link => AtBase::Link(&content.bytes),
            Some(content) => AtBase::File { bytes: &content.bytes, executable: content.kind == FileKind::Executable },
        };
        guard::put_back(folder, &at, base).map_err(|error| failed(error.to_string()))
    }

    fn read_only(&self) -> Vec<std::path::PathBuf> {
        self.guard.protected_at_base().map(std::path::PathBuf::from).collect()
    }

    async fn command(&mut self, script: &str, dir: &str, seconds: u64) -> Result<Ran, Failure> {
        let dir = RepoPath::parse(dir).map_err(|error| Failure::terminal("path", error.to_string()))?;
        let workspace = self.worktree.workspace();
        run_command(self.cx, self.turn, script, &workspace, dir.as_str(), self.read_only(), seconds)
            .await
            .inspect_err(|failure| self.lost = (failure.code == CONTAINER_LOST).then(|| failure.clone()))
    }

    fn store_output(&mut self, text: &str) -> String {
        self.memory.commands += 1;
        let id = format!("o{}", self.memory.commands);
        // What follows a command's end is found in the log; the model gets its newest outputs only.
        let kept = cut_middle(text, 24 * 1024, 30, None);
        self.memory.outputs.push((id.clone(), kept));
        if self.memory.outputs.len() > OUTPUTS_MAX {
            self.memory.outputs.remove(0);
        }
        let mut total = 0;
        let from = self.memory.outputs.iter().rposition(|(_, text)| {
            total += text.len();
            total > 64 * 1024
        });
        self.memory.outputs.drain(..from.map_or(0, |at| at + 1));
        id
    }

    /// Runs a check; the answer is its report, what the model reads of it, and the whole output.
    async fn run_check(&mut self, name: &str) -> Result<(Report, String, String), String> {
        let repo = self.cx.repo().map_err(|failure| failure.message)?;
        let Some(command) = repo.check(name).map(str::to_owned) else {
            return Err(format!("there is no check `{name}`; the checks are: {}", repo.check_names().join(", ")));
        };
        let ran = self.command(&command, ".", CHECK_S).await.map_err(|failure| failure.message)?;
        let before = self.memory.reports.get(name).cloned();
        let read = move |_: &dyn Fn() -> bool| {
            let report = Report::read(&ran.text, ran.code, crate::sandboxes::WORKSPACE);
            let digest = digest(&report, before.as_ref(), &ran.text);
            (report, digest, ran.text)
        };
        blocking(&self.cx.cancel, read).await.map_err(|failure| failure.message)
    }

    /// Performs a call that runs something.
    async fn run(&mut self, call: &ToolCall) -> Result<(String, bool), String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Tests {
            #[serde(default)]
            check: Option<String>,
            #[serde(default, rename = "selector")]
            _selector: Option<String>,
            #[serde(default, rename = "max_failures")]
            _max_failures: Option<u32>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Shell {
            command: String,
            #[serde(default)]
            dir_path: Option<String>,
            #[serde(default)]
            timeout_s: Option<u64>,
        }
        if canonical(&call.name) == "run_tests" {
            let name = tools::arguments::<Tests>(call)?.check.unwrap_or_else(|| "test".to_owned());
            let (report, mut text, raw) = self.run_check(&name).await?;
            let green = report.verdict().is_green();
            let word = if green { "green" } else { "red" };
            self.cx.note(format!("{name} is {word}: {} passed, {} failed", report.passed, report.failed));
            let id = self.store_output(&raw);
            text.push_str(&format!("\n[all of the output: read_output id={id}]"));
            self.memory.last_check = Some(name.clone());
            self.memory.keep_report(&name, &report);
            return Ok((text, green));
        }
        let given = tools::arguments::<Shell>(call)?;
        let seconds = given.timeout_s.unwrap_or(COMMAND_S).clamp(1, 600);
        let ran = self
            .command(&given.command, given.dir_path.as_deref().unwrap_or("."), seconds)
            .await
            .map_err(|failure| failure.message)?;
        let id = self.store_output(&ran.text);
        let text = cut_middle(&ran.text, SHELL_BYTES, SHELL_HEAD, Some(&id));
        Ok((format!("{}\n{text}", ran.said), ran.code == Some(0)))
    }

    fn read_output(&self, call: &ToolCall) -> Result<String, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Given {
            id: String,
            #[serde(default)]
            start_line: Option<usize>,
            #[serde(default)]
            end_line: Option<usize>,
            #[serde(default)]
            pattern: Option<String>,
        }
        let given = tools::arguments::<Given>(call)?;
        let Some((_, text)) = self.memory.outputs.iter().find(|(id, _)| *id == given.id) else {
            let known: Vec<&str> = self.memory.outputs.iter().map(|(id, _)| id.as_str()).collect();
            return Err(format!("there is no output `{}`; known: {}", given.id, known.join(", ")));
        };
        match given.pattern {
            Some(pattern) => {
                let found: Vec<String> = text
                    .lines()
                    .enumerate()
                    .filter(|(_, line)| line.contains(&pattern))
                    .take(100)
                    .map(|(at, line)| format!("{}: {}", at + 1, crate::agent::truncate::cut_line(line, 200)))
                    .collect();
                Ok(if found.is_empty() { format!("no line holds `{pattern}`") } else { found.join("\n") })
            }
            None => Ok(tools::lines(&given.id, text, given.start_line, given.end_line)),
        }
    }

    /// Performs a call that reads.
    async fn read(&self, call: &ToolCall) -> Result<String, String> {
        let (call, folder) = (call.clone(), self.folder.clone());
        let read = blocking(&self.cx.cancel, move |cancelled| tools::read(&call, folder.as_ref(), cancelled)).await;
        read.unwrap_or_else(|failure| Err(failure.message))
    }

    /// Performs a call that writes.
    async fn write(&mut self, call: &ToolCall) -> Result<String, String> {
        let (call, folder, guard) = (call.clone(), self.folder.clone(), self.guard.clone());
        let (read, mut warned) = (std::mem::take(&mut self.memory.read), std::mem::take(&mut self.memory.warned));
        let (outcome, read, warned) = to_its_end(move || {
            let outcome = match canonical(&call.name) {
                "replace" => tools::replace(&call, &folder, &guard),
                _ => tools::write_file(&call, &folder, &guard, |path| read.contains(path), &mut warned),
            };
            (outcome, read, warned)
        })
        .await;
        (self.memory.read, self.memory.warned) = (read, warned);
        outcome
    }

    async fn one(&mut self, call: &ToolCall) -> Performed {
        self.cx.note(tools::describe(call));
        let name = canonical(&call.name).to_owned();
        let (outcome, command) = match name.as_str() {
            "read_file" | "grep_search" | "glob" | "list_directory" => (self.read(call).await, false),
            "read_output" => (self.read_output(call), false),
            "replace" | "write_file" => (self.write(call).await, false),
            "run_tests" | "run_shell_command" => (self.run(call).await.map(|(text, _)| text), true),
            other => {
                self.memory.bad += 1;
                let names: Vec<String> = tools::executor_tools().into_iter().map(|tool| tool.name).collect();
                (Err(format!("there is no tool `{other}`; the tools are: {}", names.join(", "))), false)
            }
        };
        let is_error = outcome.is_err();
        let mut text = self.cx.equipment.masker.mask(&outcome.unwrap_or_else(|error| error));
        if is_error {
            self.memory.bad += u32::from(text.contains("the arguments"));
            text = cut_middle(&text, crate::agent::truncate::REFUSAL_BYTES, 50, None);
        }
        let wrote = !is_error && matches!(name.as_str(), "replace" | "write_file");
        if (wrote || name == "read_file") && !is_error {
            let path = tools::read_path(call).or_else(|| call.arguments["file_path"].as_str().map(str::to_owned));
            path.into_iter().for_each(|path| self.memory.keep_path(path));
        }
        let mut performed = Performed {
            result: answer(call, text, is_error),
            command,
            checked: name == "run_tests" && !is_error,
            wrote,
            note: None,
            stop: None,
        };
        if self.cx.cancel.is_cancelled() {
            // No call after it is begun.
            performed.stop = Some(Failure::retryable("stopped", "the run was stopped"));
        } else if command {
            self.after_command(&mut performed).await;
        }
        performed
    }

    async fn after_command(&mut self, performed: &mut Performed) {
        if let Some(failure) = self.lost.take() {
            performed.stop = Some(failure);
            return;
        }
        match self.undo_tampering().await {
            Ok(touched) if touched.is_empty() => {}
            Ok(touched) => {
                performed.note = Some(format!(
                    "These files are protected; what the command did to them was undone: {}.",
                    guard::some_of(&touched, ", ")
                ));
                if self.memory.tampering >= TAMPERING_MAX {
                    performed.stop = Some(
                        Failure::terminal(
                            "guard",
                            format!(
                                "commands changed protected files {TAMPERING_MAX} times: {}",
                                guard::some_of(&touched, ", ")
                            ),
                        )
                            .hint("look at `devo logs RUN`; if the task needs those files, revise the plan so that it names them"),
                    );
                }
            }
            Err(failure) => performed.stop = Some(failure),
        }
    }

    /// What the step puts out: the loop's figures, and what the change amounts to.
    async fn finished(&self, mut output: Value) -> Result<Value, Failure> {
        let base = self.base;
        let tree: TreeId = output["tree"]
            .as_str()
            .unwrap_or_default()
            .parse()
            .map_err(|error: crate::workspace::Error| error.to_failure())?;
        let (stat, patch) = self
            .with_worktree(move |worktree| Ok((worktree.diffstat(base, tree)?, worktree.diff(base, tree, 4 << 20)?)))
            .await?;
        output["diffstat"] = change(&stat);
        output["findings"] = serde_json::to_value(guard::scan_diff(&patch.text)).unwrap_or_default();
        Ok(output)
    }
}

#[async_trait]
impl Workbench for Bench<'_> {
    fn tools(&self) -> Vec<ToolSpec> {
        tools::executor_tools()
    }

    async fn restore(&mut self, tree: &str) -> Result<(), Failure> {
        let tree: TreeId = tree.parse().map_err(|error: crate::workspace::Error| error.to_failure())?;
        self.with_worktree(move |worktree| worktree.restore(tree)).await
    }

    async fn snapshot(&mut self) -> Result<String, Failure> {
        let taken = self.with_worktree(|worktree| worktree.snapshot(SNAPSHOT)).await?;
        if !taken.left_out.is_empty() {
            let left: Vec<String> =
                taken.left_out.iter().map(|left| format!("{} ({:?})", left.path, left.why)).collect();
            self.cx.note(format!("not part of the change: {}", guard::some_of(&left, ", ")));
        }
        Ok(taken.tree.to_string())
    }

    async fn perform(&mut self, calls: &[ToolCall]) -> Vec<Performed> {
        let mut all = Vec::new();
        for call in calls {
            let performed = self.one(call).await;
            let ends = performed.command || performed.stop.is_some();
            all.push(performed);
            if ends {
                break;
            }
        }
        all
    }

    fn verdict(&mut self, reply: &AssistantMessage, results: &mut [ToolResult], tree: &str) -> Verdict {
        let ran = std::mem::take(&mut self.memory.last_check);
        let report = ran.and_then(|name| self.memory.reports.get(&name));
        let failing: Option<Vec<String>> =
            report.map(|report| report.failing.iter().map(|test| test.id.clone()).collect());
        let bad = std::mem::take(&mut self.memory.bad);
        let facts = loops::Facts { calls: &reply.calls, results, tree, failing: failing.as_deref(), bad };
        let verdict = self.memory.watch.observe(&facts);
        tools::fit(results);
        match verdict {
            loops::Verdict::Go => Verdict::Go,
            loops::Verdict::Nudge(note) => Verdict::Nudge(note),
            loops::Verdict::Stop { code, reason } => Verdict::Stop(
                Failure::terminal(code.as_str(), format!("the executor leads nowhere: {reason}"))
                    .hint("`devo logs RUN` shows what it tried; make the plan more exact, or `devo retry RUN`"),
            ),
        }
    }

    async fn gate(&mut self) -> Result<Gate, Failure> {
        let repo = self.cx.repo()?;
        let mut names: Vec<String> = Vec::new();
        let machine = |kind: CheckKind| matches!(kind, CheckKind::Test | CheckKind::Command);
        let criteria = self.plan.plan.criteria.iter().filter(|criterion| machine(criterion.check.kind));
        for name in criteria.filter_map(|criterion| criterion.check.reference.clone()).chain(["test".to_owned()]) {
            if repo.check(&name).is_some() && !names.contains(&name) {
                names.push(name);
            }
        }
        let (mut green, mut texts, mut checks) = (true, Vec::new(), Vec::new());
        for name in names {
            let ran = self.run_check(&name).await;
            if self.cx.cancel.is_cancelled() {
                return Err(Failure::retryable("stopped", "the run was stopped"));
            }
            let (report, digest, _) = match ran {
                Ok(ran) => ran,
                Err(message) => return Err(self.lost.take().unwrap_or_else(|| Failure::terminal("gate", message))),
            };
            let passed = report.verdict().is_green();
            let word = if passed { "green" } else { "red" };
            self.cx.note(format!("gate: {name} is {word}: {} passed, {} failed", report.passed, report.failed));
            if !passed {
                texts.push(format!("Check `{name}`:\n{digest}"));
            }
            green &= passed;
            checks.push(json!({"check": name, "green": passed, "verdict": report.verdict(), "exit": report.exit,
                               "passed": report.passed, "failed": report.failed, "skipped": report.skipped}));
        }
        let touched = self.undo_tampering().await?;
        if !touched.is_empty() {
            green = false;
            let list = guard::some_of(&touched, ", ");
            texts.push(format!("Protected files were changed and have been put back: {list}."));
        }
        Ok(Gate { green, digest: texts.join("\n\n"), checks: Value::Array(checks) })
    }

    fn memory(&self) -> Value {
        serde_json::to_value(&self.memory).expect("what the bench remembers is plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::digest::Failing;

    #[test]
    fn what_the_bench_remembers_has_a_size() {
        let failing =
            |i: usize| Failing { id: format!("{i} {}", "é".repeat(190)), message: "m".repeat(600), location: None };
        let report =
            Report { failed: 2_000, failing: (0..2_000).map(failing).collect(), parsed: true, ..Report::default() };
        let mut memory = Memory::default();
        for i in 0..20 {
            memory.keep_report(&format!("check{i}"), &report);
        }
        for i in 0..1_000 {
            memory.keep_path(format!("{i}/{}", "p".repeat(4_000)));
        }
        let stored = serde_json::to_string(&memory).expect("plain data").len();
        assert!(stored < 512 * 1024, "{stored}");
        // The latest are there, with their counts and as many names as fit.
        assert_eq!(memory.checks, ["check17", "check18", "check19"]);
        let kept = &memory.reports["check19"];
        assert!(kept.failed == 2_000 && kept.failing.len() > 100 && kept.failing[7].id == report.failing[7].id);
        assert!(memory.read.iter().any(|path| path.starts_with("999/")));
    }
}
