//! `approve`: asks a person to approve the plan, and is done once they did. Who may approve, and that the approval names the
//! current plan's hash, is the core's business: no answer of another kind reaches this step.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Outcome, Step, Turn};
use crate::core::event::{Question, QuestionKind};
use crate::core::failure::Failure;

/// The step; its only key, `revise`, belongs to the graph.
pub struct Approve;

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
