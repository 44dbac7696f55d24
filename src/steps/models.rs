//! A role's model as a step uses it: the price is reserved in the journal before each call and settled after it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::{CallIntent, Context, NoCall, Stream, Turn};
use crate::agent::talk::{Models, NoReply};
use crate::core::budget::{Usage, Usd};
use crate::core::event::PromptRecord;
use crate::core::failure::Failure;
use crate::providers::{ChatRequest, Client, ErrorKind, ProviderError, Reply};

/// While a provider is out, a run tries again after this, in milliseconds, unless the provider says when.
const OUTAGE_MS: u64 = 60_000;
/// The longest wait between tries: an outage's end is noticed within this.
const OUTAGE_MAX_MS: u64 = 300_000;

/// The clients of a run's roles, or why there is none.
pub type Clients = BTreeMap<&'static str, Result<Arc<Client>, Failure>>;

impl Context {
    /// The client of a role.
    pub fn client(&self, role: &str) -> Result<Arc<Client>, Failure> {
        match self.equipment.clients.get(role) {
            Some(client) => client.clone(),
            None => Err(Failure::terminal("no_role", format!("there is no model for the role `{role}`"))),
        }
    }
}

/// A role's model under the run's ledger and the step's own limit.
pub struct RoleModel<'a> {
    /// The step.
    pub cx: &'a Context,
    /// planner, executor or reviewer.
    pub role: &'static str,
    /// Its client.
    pub client: Arc<Client>,
    /// What was rendered for this conversation.
    pub prompt: PromptRecord,
    /// What this step may spend in a round.
    pub limit: Option<Usd>,
    /// What it has spent in this round.
    pub spent: Usd,
}

impl<'a> RoleModel<'a> {
    /// The model of a role for one turn of a step. What keeps its calls waiting, and that it may be gone, is told in the step's
    /// log.
    pub fn new(
        cx: &'a Context,
        role: &'static str,
        prompt: PromptRecord,
        limit: Option<Usd>,
        turn: &Turn,
    ) -> Result<Self, Failure> {
        let client = cx.client(role)?;
        if let Some(caution) = client.card().retired(cx.now).filter(|_| turn.turn == 1) {
            cx.note(caution);
        }
        let (log, step) = (cx.log.clone(), cx.step.clone());
        let told = client.as_ref().clone().observer(move |wait| log.line(&step, Stream::Note, &wait.to_string()));
        Ok(Self { cx, role, client: Arc::new(told), prompt, limit, spent: turn.usd })
    }
}

#[async_trait]
impl Models for RoleModel<'_> {
    async fn call(&self, request: &ChatRequest) -> Result<Reply, NoReply> {
        let estimate = self.client.estimate(request);
        let cost = self.client.card().cost(&estimate);
        if let Some(limit) = self.limit.filter(|limit| self.spent + cost > *limit) {
            let message = format!(
                "step `{}` has spent {:.4} of its {:.2} USD, and the next call may cost {:.4}",
                self.cx.step,
                self.spent.dollars(),
                limit.dollars(),
                cost.dollars()
            );
            return Err(NoReply::Failed(
                Failure::terminal("limit", message)
                    .hint("raise the step's `limits.usd` in the pipeline, or make the task smaller"),
            ));
        }
        let intent = CallIntent {
            role: self.role.to_owned(),
            provider: self.client.provider().name().to_owned(),
            model: self.client.card().id.clone(),
            usd: cost,
            tokens: estimate.total(),
            prompt: self.prompt.clone(),
        };
        let call = match self.cx.ledger.begin(&self.cx.step, intent).await {
            Ok(call) => call,
            Err(NoCall::Limit(question)) => return Err(NoReply::Limit(question)),
            Err(NoCall::Stopped) => return Err(NoReply::Stopped),
            Err(NoCall::Failed(failure)) => return Err(NoReply::Failed(failure)),
        };
        let answer = self.client.chat(request, &self.cx.cancel).await;
        let (usage, error) = match &answer {
            Ok(reply) => (reply.usage, None),
            Err(error) => (error.usage().unwrap_or(Usage::default()), Some(error.code().to_owned())),
        };
        let usd = self.client.card().cost(&usage);
        self.cx.ledger.end(&self.cx.step, call, usage, usd, error).await.map_err(NoReply::Failed)?;
        answer.map_err(|error| no_reply(&error))
    }
}

fn no_reply(error: &ProviderError) -> NoReply {
    if matches!(error.kind, ErrorKind::Cancelled) {
        return NoReply::Stopped;
    }
    if matches!(error.kind, ErrorKind::Malformed) {
        return NoReply::Unusable(error.to_string());
    }
    if error.retryable() {
        let wanted =
            error.retry_after().map_or(OUTAGE_MS, |wait| u64::try_from(wait.as_millis()).unwrap_or(OUTAGE_MAX_MS));
        return NoReply::Outage { reason: error.to_string(), for_ms: wanted.clamp(1_000, OUTAGE_MAX_MS) };
    }
    NoReply::Failed(error.to_failure())
}
