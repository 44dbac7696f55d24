//! `approve`: asks a person to approve the plan, and is done once they did. Who may approve, and that the approval names the
//! current plan's hash, is the core's business: no answer of another kind reaches this step.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Context, Kind, Outcome, Step, Turn, build};
use crate::core::event::{Question, QuestionKind};
use crate::core::failure::Failure;
use crate::core::graph::Authority;

/// `approve` in the list.
pub const KIND: Kind = Kind {
    name: "approve",
    summary: "asks a person to approve the plan",
    schema: || schemars::schema_for!(Approve),
    templates: &[],
    authority: Authority::Approves,
    exclusive: false,
    build: build::<Approve>,
};

/// The step's own keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// The planning step that a revision goes back to, with the feedback.
    #[serde(default, rename = "revise")]
    _revise: Option<String>,
}

#[async_trait]
impl Step for Approve {
    async fn run(&self, cx: &Context, turn: Turn) -> Outcome {
        let Some(plan) = &cx.plan else {
            return Outcome::Fail(
                Failure::terminal("no_plan", "there is no plan to approve").hint("put a `plan` step before this one"),
            );
        };
        if turn.answer.is_some() {
            return Outcome::Done(json!({"plan_hash": plan.hash, "revision": plan.revision}));
        }
        let text = format!("Approve revision {} of the plan: {}", plan.revision, plan.plan.title);
        Outcome::Ask(Question { kind: QuestionKind::Approval, text }, Value::Null)
    }
}
