//! The planner's loop: it reads, and its only way to end is a plan that passes [`read_plan`]. Nothing here can write.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::plan_check::{Facts, read_plan};
use super::talk::{Models, NoReply, Store, Transcript, answer};
use crate::core::event::Question;
use crate::core::failure::Failure;
use crate::core::plan::Plan;
use crate::providers::{AssistantMessage, ChatRequest, Message, Stop, ToolCall, ToolResult, ToolSpec};

/// The tool that ends the loop.
pub const SUBMIT: &str = "submit_plan";

/// What bounds the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanLimits {
    /// Model calls.
    pub turns: u32,
    /// Tool calls.
    pub calls: u32,
    /// Prompt tokens of all calls together.
    pub input_tokens: u64,
    /// Refused plans before the loop gives up.
    pub repairs: u32,
    /// Tokens that one call may generate.
    pub output_tokens: u32,
}

impl Default for PlanLimits {
    fn default() -> Self {
        // 150k prompt tokens were measured to be ample for one plan; the history is resent with each turn, mostly cached.
        Self { turns: 25, calls: 60, input_tokens: 600_000, repairs: 3, output_tokens: 16_000 }
    }
}

/// Answers the reading tools.
#[async_trait]
pub trait Reader: Send + Sync {
    /// One result per call, in order; a refusal is a result. Fails only where the run is being stopped.
    async fn answer(&self, calls: Vec<ToolCall>) -> Result<Vec<ToolResult>, Failure>;
}

/// What the loop needs; the same in every turn.
pub struct PlanLoop<'a> {
    /// The system prompt.
    pub system: String,
    /// The first message: conventions, map, checks, task.
    pub first: String,
    /// The reading tools and [`SUBMIT`].
    pub tools: Vec<ToolSpec>,
    /// The planner's model.
    pub models: &'a dyn Models,
    /// Keeps the history.
    pub store: &'a dyn Store,
    /// Answers the tools.
    pub reader: &'a dyn Reader,
    /// What a plan is checked against.
    pub facts: &'a dyn Facts,
    /// Bounds.
    pub limits: PlanLimits,
}

/// What the loop carries from turn to turn.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PlanCarry {
    /// What was said.
    pub transcript: Transcript,
    /// Model calls so far.
    pub turns: u32,
    calls: u32,
    input_tokens: u64,
    repairs: u32,
    silent: u32,
    grace: bool,
}

/// How a turn of the loop ended.
#[derive(Debug, Clone, PartialEq)]
pub enum PlanEnd {
    /// Another turn.
    Again(PlanCarry),
    /// A valid plan.
    Plan(Box<Plan>, PlanCarry),
    /// The person must allow more money.
    Ask(Question, PlanCarry),
    /// The provider is out; later.
    Park {
        /// Why.
        reason: String,
        /// How long, in milliseconds.
        for_ms: u64,
        /// For the next turn.
        carry: PlanCarry,
    },
    /// No plan.
    Fail(Failure),
}

impl PlanLoop<'_> {
    /// One durable turn: the answers to the last reply's calls, then one model call.
    pub async fn turn(&self, carry: PlanCarry) -> PlanEnd {
        match self.try_turn(carry).await {
            Ok(end) => end,
            Err(failure) => PlanEnd::Fail(failure),
        }
    }

    async fn try_turn(&self, mut carry: PlanCarry) -> Result<PlanEnd, Failure> {
        carry.transcript = carry.transcript.load(self.store).await?;
        if carry.transcript.is_empty() {
            carry.transcript.push(Message::User { text: self.first.clone() });
        } else if let Some(reply) = carry.transcript.last_reply().cloned()
            && let Some(end) = self.follow_up(&reply, &mut carry).await?
        {
            return Ok(end);
        }
        let request = ChatRequest {
            system: self.system.clone(),
            tools: self.tools.clone(),
            messages: carry.transcript.messages().to_vec(),
            max_output_tokens: self.limits.output_tokens,
        };
        let reply = match self.models.call(&request).await {
            Ok(reply) => reply,
            Err(NoReply::Limit(question)) => {
                carry.transcript.save(self.store).await?;
                return Ok(PlanEnd::Ask(question, carry));
            }
            Err(NoReply::Outage { reason, for_ms }) => {
                carry.transcript.save(self.store).await?;
                return Ok(PlanEnd::Park { reason, for_ms, carry });
            }
            Err(error) => return Err(error.into_failure("planner")),
        };
        carry.turns += 1;
        carry.input_tokens = carry.input_tokens.saturating_add(reply.usage.prompt());
        if reply.stop == Stop::MaxTokens && reply.message.calls.is_empty() {
            carry.silent += 1;
        }
        carry.transcript.push(Message::Assistant(reply.message.clone()));
        carry.transcript.save(self.store).await?;
        if let Some(Ok(plan)) = self.submitted(&reply.message) {
            return Ok(PlanEnd::Plan(Box::new(plan), carry));
        }
        Ok(PlanEnd::Again(carry))
    }

    fn submitted(&self, reply: &AssistantMessage) -> Option<Result<Plan, Vec<String>>> {
        let call = reply.calls.iter().find(|call| call.name == SUBMIT)?;
        Some(match &call.invalid {
            Some(_) => Err(vec!["the arguments are not JSON".to_owned()]),
            None => read_plan(&call.arguments, self.facts),
        })
    }

    /// Answers what the model asked for; a valid plan ends the loop.
    async fn follow_up(&self, reply: &AssistantMessage, carry: &mut PlanCarry) -> Result<Option<PlanEnd>, Failure> {
        let mut note = None;
        let spent = carry.turns >= self.limits.turns
            || carry.calls >= self.limits.calls
            || carry.input_tokens >= self.limits.input_tokens;
        if spent {
            if carry.grace {
                return Err(Failure::terminal("plan_limit", "the planner reached its limits without a plan")
                    .hint("make the task smaller or more exact, then `devo retry RUN`"));
            }
            carry.grace = true;
            note =
                Some(format!("You have reached the limit for reading. Call `{SUBMIT}` now; other calls are refused."));
        }
        if reply.calls.is_empty() {
            carry.silent += 1;
            if carry.silent >= 3 {
                return Err(Failure::retryable("no_call", "the planner answered three times without using a tool")
                    .hint("`devo retry RUN` asks again"));
            }
            let text = note.unwrap_or_else(|| {
                format!("Nobody reads plain text here. Go on with the tools, and end with `{SUBMIT}`.")
            });
            carry.transcript.push(Message::User { text });
            return Ok(None);
        }
        carry.silent = 0;
        let room = self.limits.calls.saturating_sub(carry.calls);
        carry.calls = carry.calls.saturating_add(u32::try_from(reply.calls.len()).unwrap_or(u32::MAX));
        let refusal = match self.submitted(reply) {
            None => None,
            Some(Ok(plan)) => return Ok(Some(PlanEnd::Plan(Box::new(plan), carry.clone()))),
            Some(Err(faults)) => {
                carry.repairs += 1;
                let list = faults.iter().map(|fault| format!("- {fault}\n")).collect::<String>();
                if carry.repairs > self.limits.repairs {
                    let message = format!(
                        "the planner submitted {} plans that are not valid; the last one:\n{list}",
                        carry.repairs
                    );
                    return Err(Failure::terminal("invalid_plan", message)
                        .hint("make the task more exact, then `devo retry RUN`"));
                }
                Some(format!("The plan was refused. Mend all of this and call `{SUBMIT}` again:\n{list}"))
            }
        };
        let readable: Vec<ToolCall> = if carry.grace {
            Vec::new()
        } else {
            let calls = reply.calls.iter().filter(|call| call.name != SUBMIT);
            calls.take(usize::try_from(room).unwrap_or(usize::MAX)).cloned().collect()
        };
        let mut read = self.reader.answer(readable).await?.into_iter();
        let results = reply
            .calls
            .iter()
            .map(|call| match &refusal {
                Some(text) if call.name == SUBMIT => answer(call, text, true),
                // Refused in the turn of grace, and what a reply asks for beyond the limit.
                _ => read.next().unwrap_or_else(|| answer(call, "refused: the limit for reading is reached", true)),
            })
            .collect();
        carry.transcript.push(Message::Tools { results, note });
        Ok(None)
    }
}

impl NoReply {
    /// As the failure of a step, for those that neither ask nor wait.
    pub fn into_failure(self, role: &str) -> Failure {
        match self {
            Self::Failed(failure) => failure,
            Self::Stopped => Failure::retryable("stopped", "the run was stopped"),
            Self::Unusable(why) => {
                Failure::retryable("unusable_reply", format!("the {role} answered with nothing usable: {why}"))
                    .hint("`devo retry RUN` asks again; another model can be set under `roles` in devo.yaml")
            }
            Self::Outage { reason, .. } => Failure::retryable("outage", reason),
            Self::Limit(question) => Failure::terminal("budget", question.text),
        }
    }
}
