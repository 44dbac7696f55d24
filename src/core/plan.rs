//! The plan: what the planner proposes, what the person approves, and the hash that binds the two.
//!
//! Field names are the contract's; the planner fills [`Plan`], the engine everything in [`PlanRecord`] around it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What the planner proposes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// One line, in the language of the task; becomes the branch's slug and the commit's subject.
    pub title: String,
    /// What will be done and why, in the language of the task.
    pub summary: String,
    /// At most 12 steps that form a DAG through `depends_on`.
    pub steps: Vec<PlanStep>,
    /// How one will know that the task is done; at least one that a machine can check.
    pub criteria: Vec<Criterion>,
    /// Globs of test files that the executor may change; every other test file is protected.
    #[serde(default)]
    pub tests_may_change: Vec<String>,
    /// What was taken for granted.
    #[serde(default)]
    pub assumptions: Vec<String>,
    /// What the person should answer; answered by a revision.
    #[serde(default)]
    pub questions: Vec<String>,
    /// What was left out on purpose.
    #[serde(default)]
    pub out_of_scope: Vec<String>,
    /// What may go wrong.
    #[serde(default)]
    pub risks: Vec<String>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanStep {
    /// Unique in the plan: `s1`, `s2`, …
    pub id: String,
    /// One line.
    pub title: String,
    /// What this step achieves, in enough detail for someone who did not read the repository.
    pub intent: String,
    /// Ids of steps that come first.
    #[serde(default)]
    pub depends_on: Vec<String>,
    /// Files that the step touches.
    #[serde(default)]
    pub files: Vec<FileChange>,
    /// Checks of the repository that show that the step is done.
    #[serde(default)]
    pub verify: Vec<Verify>,
}

/// A file that a plan's step touches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileChange {
    /// Relative to the repository's root, with `/`.
    pub path: String,
    /// What happens to it.
    pub action: FileAction,
    /// Why.
    pub why: String,
}

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileAction {
    /// It does not exist yet.
    Create,
    /// It exists and changes.
    Modify,
    /// It exists and goes.
    Delete,
}

/// A check of the repository, by name; the planner writes no commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// A name from the repository's `checks`.
    pub check: String,
    /// A part of it, in the check's own terms (a file, a test's name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// How one will know that the task is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// Unique in the plan: `c1`, `c2`, …
    pub id: String,
    /// The criterion in words.
    pub text: String,
    /// How it is checked.
    pub check: CriterionCheck,
}

/// How a criterion is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CriterionCheck {
    /// Who can check it.
    pub kind: CheckKind,
    /// For `test` and `command`: a name from the repository's `checks`; otherwise free.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// Who can check a criterion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// The repository's tests: a machine.
    Test,
    /// Another named check: a machine.
    Command,
    /// A look at the diff.
    Diff,
    /// A person.
    Manual,
}

/// What the planner's work is expected to cost to execute.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// US dollars.
    pub usd: f64,
    /// Tokens in and out.
    pub tokens: u64,
    /// Minutes of work, waiting for people excluded.
    pub minutes: u64,
}

/// A plan as the engine keeps and shows it: one revision, with the hash that an approval must name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlanRecord {
    /// The planner's part.
    #[serde(flatten)]
    pub plan: Plan,
    /// Every path of the plan, once, in order.
    pub files: Vec<String>,
    /// Expected cost of the execution.
    pub estimate: Estimate,
    /// 1 for the first plan; a revision adds one.
    pub revision: u32,
    /// The commit that was read when planning started; the branch starts there.
    pub base_commit: String,
    /// `sha256:` and 64 hex digits over the plan, `base_commit` and the pipeline's hash.
    pub hash: String,
}

impl PlanRecord {
    /// Puts the engine's part around a plan.
    pub fn new(plan: Plan, estimate: Estimate, revision: u32, base_commit: String, pipeline_hash: &str) -> Self {
        let mut files: Vec<String> = Vec::new();
        for file in plan.steps.iter().flat_map(|step| &step.files) {
            if !files.contains(&file.path) {
                files.push(file.path.clone());
            }
        }
        let hash = plan_hash(&plan, &base_commit, pipeline_hash);
        Self { plan, files, estimate, revision, base_commit, hash }
    }

    /// Whether `hash` is the one that this plan, base commit and pipeline give.
    pub fn hash_holds(&self, pipeline_hash: &str) -> bool {
        self.hash == plan_hash(&self.plan, &self.base_commit, pipeline_hash)
    }
}

/// The hash that an approval binds to: changes when the plan, its base commit or the pipeline changes.
pub fn plan_hash(plan: &Plan, base_commit: &str, pipeline_hash: &str) -> String {
    // Struct fields serialise in their declared order, so equal plans give equal bytes; a tuple keeps the parts apart.
    let bytes = serde_json::to_vec(&(plan, base_commit, pipeline_hash)).expect("a plan is plain data");
    sha256(&bytes)
}

/// `sha256:` and 64 hex digits.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let mut text = String::with_capacity(7 + 64);
    text.push_str("sha256:");
    for byte in digest {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
