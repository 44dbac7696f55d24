//! What the API takes and gives, as types: the description that clients read is made of them. What they mean is told in the
//! core; a test compares them with what really comes.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::core::plan::PlanRecord;
use crate::core::state::Status;
use crate::journal::RunRow;

/// A run's document. It is made by the core; [`RunShape`] describes it.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Run(pub Value);

impl JsonSchema for Run {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Run".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        RunShape::json_schema(generator)
    }
}

/// A run.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "its schema is what is used")]
pub struct RunShape {
    /// A UUIDv7.
    task_id: String,
    /// The last 8 digits of the id; names the run as well.
    short_id: String,
    /// The pipeline's name.
    pipeline: String,
    /// What was asked for.
    task: String,
    /// How it stands.
    status: Status,
    /// The question that it waits for.
    waiting_for: Option<Waiting>,
    /// The repository.
    repo: Option<String>,
    /// The branch that it started from.
    base: Option<String>,
    /// Its own branch.
    branch: Option<String>,
    /// The current plan.
    plan: Option<PlanRecord>,
    /// The approval of the current plan.
    approval: Option<Approval>,
    /// Its steps, in file order.
    steps: Vec<Step>,
    /// What it has spent.
    usage: Usage,
    /// The commit that was made.
    commit: Option<String>,
    /// Pages of the forge, by name: `branch`, `compare`.
    links: Map<String, Value>,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    updated_at: String,
    /// Why it ended, unless it completed.
    error: Option<ErrorShape>,
    /// Empty; the lines are at `/logs`.
    logs: Vec<Value>,
    /// Where its commands run; missing while it is only submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
    /// Why the daemon cannot take it further now, with what to do; missing where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<String>,
}

/// A question that waits for a person.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "its schema is what is used")]
pub struct Waiting {
    /// The step that asks.
    step: String,
    /// What kind of answer it takes.
    kind: WaitingKind,
    /// In words.
    question: String,
    /// RFC 3339.
    since: String,
}

/// What kind of answer a question takes.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code, missing_docs, reason = "its schema is what is used; the contract's words")]
pub enum WaitingKind {
    Approval,
    Answer,
    Budget,
}

/// A person's approval.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "its schema is what is used")]
pub struct Approval {
    /// The hash of the plan that was approved.
    plan_hash: String,
    /// Its revision.
    revision: u32,
    /// Who.
    by: String,
    /// `cli`, `web`, `telegram` or `api`.
    channel: String,
    /// RFC 3339.
    at: String,
    /// A remark.
    note: Option<String>,
}

/// A step of a run.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "its schema is what is used")]
pub struct Step {
    /// Its id.
    id: String,
    /// Its type.
    r#type: String,
    /// Where it stands.
    state: StepState,
    /// All tries so far.
    attempt: u32,
    /// From 1; a rewind adds one.
    round: u32,
    /// RFC 3339.
    started_at: Option<String>,
    /// RFC 3339.
    finished_at: Option<String>,
    /// Milliseconds from start to end, or to the run's last event.
    duration_ms: u64,
    /// What other steps can refer to.
    output: Value,
    /// The prompts of its last model call.
    prompt: Option<Value>,
    /// Why its last try failed.
    error: Option<ErrorShape>,
    /// Why it was skipped, cancelled or parked.
    reason: Option<String>,
    /// What its model calls used.
    usage: Figures,
}

/// Where a step stands.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(dead_code, missing_docs, reason = "its schema is what is used; the contract's words")]
pub enum StepState {
    Pending,
    Ready,
    Running,
    Waiting,
    Succeeded,
    Failed,
    Skipped,
    Cancelled,
}

/// What model calls used.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "its schema is what is used")]
pub struct Figures {
    /// Tokens that went in, cached ones included.
    input_tokens: u64,
    /// Of them, read from the provider's cache.
    cached_tokens: u64,
    /// Tokens that came out.
    output_tokens: u64,
    /// Calls.
    calls: u32,
    /// US dollars.
    usd: f64,
}

/// What a run used.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "its schema is what is used")]
pub struct Usage {
    /// Tokens that went in, cached ones included.
    input_tokens: u64,
    /// Of them, read from the provider's cache.
    cached_tokens: u64,
    /// Tokens that came out.
    output_tokens: u64,
    /// Calls.
    calls: u32,
    /// US dollars.
    usd: f64,
    /// The same by role.
    by_role: std::collections::BTreeMap<String, Figures>,
}

/// An error.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "its schema is what is used")]
pub struct ErrorShape {
    /// A stable word.
    code: String,
    /// What happened.
    message: String,
    /// What to do.
    hint: Option<String>,
    /// Of a run's error: the step that it failed by, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
}

/// A line of the list of runs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunLine {
    /// A UUIDv7.
    pub task_id: String,
    /// The last 8 digits of the id; names the run as well.
    pub short_id: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The repository.
    pub repo: Option<String>,
    /// What was asked for.
    pub task: String,
    /// How it stands.
    pub status: String,
    /// What it waits for: `approval`, `answer` or `budget`.
    pub waiting_for: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

impl From<&RunRow> for RunLine {
    fn from(row: &RunRow) -> Self {
        Self {
            task_id: row.id.to_string(),
            short_id: row.id.short(),
            pipeline: row.summary.pipeline.clone(),
            repo: row.summary.repo.clone(),
            task: row.summary.task.clone(),
            status: row.summary.status.clone(),
            waiting_for: row.summary.waiting_for.clone(),
            created_at: row.created_at.to_string(),
            updated_at: row.updated_at.to_string(),
        }
    }
}

/// A page of the list of runs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Runs {
    /// Newest first.
    pub runs: Vec<RunLine>,
    /// The `cursor` of the next page; null on the last one.
    pub next: Option<String>,
}

/// A task, with the keys of a task file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// A name under pipelines/, or a pipeline itself (which needs the role approver).
    pub pipeline: Value,
    /// A key of devo.yaml's repos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// What is asked for, in any language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The pipeline's inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Map<String, Value>>,
    /// The same key twice is one run; the header `Idempotency-Key` says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Who is told, like `telegram:12345`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Vec<String>>,
}

/// A person's word to a run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalBody {
    /// What.
    pub signal: SignalWord,
    /// The feedback of `revise`, the answer of `answer`, a remark of `approve` and `reject`.
    #[serde(default)]
    pub text: Option<String>,
    /// For `approve`: the hash of the plan that was read.
    #[serde(default)]
    pub plan_hash: Option<String>,
    /// For `retry`: the step to go on from; what failed, if not given.
    #[serde(default)]
    pub from: Option<String>,
}

/// What a person can say to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the contract's words")]
pub enum SignalWord {
    Approve,
    Revise,
    Reject,
    Answer,
    Abort,
    Retry,
}

/// A line that a step left.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// RFC 3339.
    pub at: String,
    /// The step.
    pub step: String,
    /// `stdout`, `stderr` or `note`.
    pub stream: String,
    /// Masked, without control codes.
    pub text: String,
}

/// Lines of a run, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    /// The lines.
    pub lines: Vec<LogLine>,
    /// The `after` of whoever wants the lines that follow; null where nothing was said yet.
    pub next: Option<String>,
}

/// What a run changed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Diff {
    /// The run.
    pub task_id: String,
    /// A patch for `git apply`.
    pub patch: String,
    /// The files that it touches.
    pub files: Vec<DiffFile>,
}

/// A file of a patch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiffFile {
    /// Its path.
    pub path: String,
    /// Lines that came.
    pub added: usize,
    /// Lines that went.
    pub removed: usize,
}

/// The revisions of a run's plan.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plans {
    /// The current plan; null while there is none.
    pub plan: Option<PlanRecord>,
    /// Every revision, oldest first.
    pub revisions: Vec<PlanRecord>,
}

/// The pipelines of the home.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipelines {
    /// By name.
    pub pipelines: Vec<crate::app::PipelineView>,
}

/// That the daemon answers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// `ok`, or `stopping`.
    pub status: String,
}
