//! The way of a step's model calls to its run's ledger: asked before, settled after. What they cost is the driver's to record.

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::core::budget::{Usage, Usd};
use crate::core::event::{Question, QuestionKind};
use crate::core::failure::Failure;
use crate::core::id::StepId;
use crate::core::state::RunState;
use crate::steps::{CallIntent, Ledger, NoCall};

/// A step's word to the ledger, and where it is answered.
pub(super) enum Money {
    Begin { step: StepId, intent: CallIntent, reply: oneshot::Sender<Result<u32, NoCall>> },
    End { step: StepId, call: u32, usage: Usage, usd: Usd, error: Option<String>, reply: oneshot::Sender<()> },
}

/// What a person is asked where a call does not fit the run's limits.
pub(super) fn budget_question(state: &RunState, intent: &CallIntent) -> Question {
    let spent = state.spending();
    let dollars = |limit: Option<Usd>| limit.map_or("no limit".to_owned(), |usd| format!("{:.2} USD", usd.dollars()));
    let tokens = |limit: Option<u64>| limit.map_or("no limit".to_owned(), |tokens| format!("{tokens} tokens"));
    let text = format!(
        "the run has spent {:.4} of {} and {} of {}; the next call of the {} may take {:.4} USD and {} tokens more. \
         Answer with what to add (`2` dollars, or `500000 tokens`), or abort.",
        spent.usd.dollars(),
        dollars(state.limit_usd()),
        spent.usage.total(),
        tokens(state.limit_tokens()),
        intent.role,
        intent.usd.dollars(),
        intent.tokens,
    );
    Question { kind: QuestionKind::Budget, text }
}

/// A step's way to the run's ledger.
pub(super) struct MoneyDesk {
    pub sender: mpsc::Sender<Money>,
}

#[async_trait]
impl Ledger for MoneyDesk {
    async fn begin(&self, step: &StepId, intent: CallIntent) -> Result<u32, NoCall> {
        let (reply, answer) = oneshot::channel();
        let money = Money::Begin { step: step.clone(), intent, reply };
        if self.sender.send(money).await.is_err() {
            return Err(NoCall::Stopped);
        }
        answer.await.unwrap_or(Err(NoCall::Stopped))
    }

    async fn end(
        &self,
        step: &StepId,
        call: u32,
        usage: Usage,
        usd: Usd,
        error: Option<String>,
    ) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        let money = Money::End { step: step.clone(), call, usage, usd, error, reply };
        let gone = || Failure::terminal("stopped", "the engine stopped");
        self.sender.send(money).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}
