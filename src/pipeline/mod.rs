//! Pipelines and tasks: text in, checked steps out, every mistake at once with its place. They know step types by their list;
//! they run nothing.

mod grants;
mod read;
mod schema;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::core::budget::Usd;
use crate::core::domain::Reach;
use crate::core::graph::{Authority, Graph, Node, OnFailure, Retry};
use crate::core::id::StepId;
use crate::core::service::Services;

pub use read::read;
pub(crate) use read::{is_reserved, is_variable, parse_duration};
pub use schema::{pipeline_schema, task_schema};
pub use task::{PipelineRef, Task, coerce, fill_inputs, read_task};

/// A checked pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// Its name; the file's, where it says none.
    pub name: String,
    /// In words.
    pub description: Option<String>,
    /// What a task must or may give, in file order.
    pub inputs: Vec<(String, Input)>,
    /// What a run may spend.
    pub limits: Limits,
    /// In file order.
    pub steps: Vec<StepDef>,
    /// The text, as stored with each run.
    pub text: String,
    /// `sha256:…` of its content: comments and layout do not count.
    pub hash: String,
}

/// A declared input.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Its type.
    pub kind: InputKind,
    /// Whether a task must give it.
    pub required: bool,
    /// What it is otherwise.
    pub default: Option<Value>,
    /// What it may be.
    pub choices: Option<Vec<Value>>,
    /// In words.
    pub description: Option<String>,
}

/// The type of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// Text.
    String,
    /// A number.
    Number,
    /// A whole number.
    Integer,
    /// true or false.
    Boolean,
}

impl InputKind {
    /// The names in YAML, in the order of the variants.
    pub const NAMES: [(&'static str, Self); 4] =
        [("string", Self::String), ("number", Self::Number), ("integer", Self::Integer), ("boolean", Self::Boolean)];

    /// The name in YAML.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, kind)| *kind == self).map_or("string", |(name, _)| name)
    }

    /// Whether a value has this type.
    pub fn fits(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Number => value.is_number(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Boolean => value.is_boolean(),
        }
    }
}

/// The run's limits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// US dollars.
    pub usd: Option<Usd>,
    /// Tokens in and out.
    pub tokens: Option<u64>,
    /// Milliseconds of work.
    pub wall_ms: Option<u64>,
}

/// A checked step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepDef {
    /// Its id.
    pub id: StepId,
    /// Its type's name.
    pub kind: String,
    /// What comes first.
    pub needs: Vec<StepId>,
    /// `if`.
    pub condition: Option<String>,
    /// `timeout`, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// `retry`.
    pub retry: Retry,
    /// `on_failure`.
    pub on_failure: OnFailure,
    /// `always`.
    pub always: bool,
    /// `env`: names and templates.
    pub env: Vec<(String, String)>,
    /// `network`, which replaces the repository's.
    pub network: Option<Reach>,
    /// `secrets`: names from devo.yaml.
    pub secrets: Vec<String>,
    /// `services`, which replace the repository's of the same name.
    pub services: Services,
    /// `revise` of an approving step.
    pub revise: Option<StepId>,
    /// The type's own keys.
    pub spec: Value,
    /// The steps whose outputs its templates name.
    pub references: BTreeSet<StepId>,
}

impl Pipeline {
    /// What the scheduler sees. `exclusive` steps are those that may write the workspace.
    pub fn nodes(&self) -> Vec<Node> {
        let has_workspace = self.steps.iter().any(|step| step.kind == "branch");
        let node = |step: &StepDef| {
            let kind = crate::steps::kind(&step.kind);
            Node {
                id: step.id.clone(),
                kind: step.kind.clone(),
                needs: step.needs.clone(),
                authority: kind.map_or(Authority::Free, |kind| kind.authority),
                exclusive: kind.is_some_and(|kind| kind.exclusive) && has_workspace,
                always: step.always,
                timeout_ms: step.timeout_ms,
                retry: step.retry,
                on_failure: step.on_failure.clone(),
                revise: step.revise.clone(),
            }
        };
        self.steps.iter().map(node).collect()
    }

    /// The graph; it was checked when the pipeline was read.
    pub fn graph(&self) -> Graph {
        Graph::new(self.nodes()).expect("a pipeline that was read has a graph")
    }

    /// Whether any step is of this type.
    pub fn uses(&self, kind: &str) -> bool {
        self.steps.iter().any(|step| step.kind == kind)
    }
}
