//! The executor's loop: edit, check, read what fails, mend, until the gate is green or a limit says stop.
//!
//! A turn is either one model call or the work on one reply's tool calls up to and including the first command, so that a
//! crash repeats at most one model call or one command, on the tree that the carry names. The model's "done" is a claim:
//! only the gate, run outside its reach, makes success.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::talk::{Models, NoReply, Store, Transcript, answer};
use super::tools::{LIMIT_REACHED, canonical};
use super::truncate::{cut_middle, fit_together};
use crate::core::event::Question;
use crate::core::failure::Failure;
use crate::providers::{AssistantMessage, ChatRequest, Message, Stop, ToolCall, ToolResult, ToolSpec};

/// The tool that ends the loop.
pub const FINISH: &str = "finish";

/// What of an open reply's results is kept between turns, in bytes: the rest of a turn's record is small beside it, and an event
/// of the journal holds a megabyte.
const CARRIED_BYTES: usize = 128 * 1024;
/// The notes for the model beside the results of one reply, in bytes.
const NOTES_BYTES: usize = 8 * 1024;

/// What bounds the loop; each has a default that the pipeline may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecuteLimits {
    /// Cycles of editing and checking.
    pub iterations: u32,
    /// Model calls.
    pub turns: u32,
    /// Tool calls.
    pub calls: u32,
    /// Claims of being done that the gate may refuse.
    pub gates: u32,
    /// Tokens that one call may generate.
    pub output_tokens: u32,
}

impl Default for ExecuteLimits {
    fn default() -> Self {
        Self { iterations: 15, turns: 60, calls: 150, gates: 3, output_tokens: 16_000 }
    }
}

/// What one tool call did, for the rules that notice a loop that leads nowhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Performed {
    /// What the model reads.
    pub result: ToolResult,
    /// It ran a command, so the turn ends after it.
    pub command: bool,
    /// It ran checks.
    pub checked: bool,
    /// It may have changed the workspace.
    pub wrote: bool,
    /// A note for the model beside the results.
    pub note: Option<String>,
    /// The loop must end.
    pub stop: Option<Failure>,
}

/// What the gate found.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// Whether everything that a machine can check is met.
    pub green: bool,
    /// For the model, where it is not.
    pub digest: String,
    /// For the step's output: one entry per check.
    pub checks: Value,
}

/// The executor's hands: tools over the workspace, the sandbox and the guard.
#[async_trait]
pub trait Workbench: Send {
    /// The tools, the same bytes in every turn.
    fn tools(&self) -> Vec<ToolSpec>;
    /// Puts the workspace back to a snapshot.
    async fn restore(&mut self, tree: &str) -> Result<(), Failure>;
    /// Records the workspace; the answer names the tree.
    async fn snapshot(&mut self) -> Result<String, Failure>;
    /// Performs calls in order, reading ones together, and stops after the first command; at least one is performed.
    async fn perform(&mut self, calls: &[ToolCall]) -> Vec<Performed>;
    /// Called once per reply when all its calls are answered: cuts them to size together, and says what the stop rules say.
    fn verdict(&mut self, reply: &AssistantMessage, results: &mut [ToolResult], tree: &str) -> Verdict;
    /// Runs what decides: the plan's checks.
    async fn gate(&mut self) -> Result<Gate, Failure>;
    /// What must survive a crash.
    fn memory(&self) -> Value;
}

/// What the stop rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Go,
    /// Go on, with this note.
    Nudge(String),
    /// It leads nowhere.
    Stop(Failure),
}

/// What the loop needs; the same in every turn.
pub struct ExecuteLoop<'a> {
    /// The system prompt.
    pub system: String,
    /// The first message: task, plan, checks.
    pub first: String,
    /// The executor's model.
    pub models: &'a dyn Models,
    /// Keeps the history.
    pub store: &'a dyn Store,
    /// Bounds.
    pub limits: ExecuteLimits,
}

/// What the loop carries from turn to turn.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ExecuteCarry {
    /// What was said.
    pub transcript: Transcript,
    /// The workspace as it was when this was stored.
    pub tree: Option<String>,
    /// Results of the last reply's calls so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<ToolResult>,
    /// Notes for the model, to go with the results.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    /// Cycles so far.
    pub iterations: u32,
    /// Model calls so far.
    pub turns: u32,
    /// Tool calls so far.
    pub calls: u32,
    gates: u32,
    edited: bool,
    silent: u32,
    grace: bool,
    /// What the workbench remembers.
    #[serde(default)]
    pub memory: Value,
}

impl ExecuteCarry {
    /// Adds what a call has the model know; where many calls say more than fits together, the rest is left out.
    fn note(&mut self, note: &str) {
        let told: usize = self.notes.iter().map(String::len).sum();
        if told < NOTES_BYTES {
            self.notes.push(cut_middle(note, NOTES_BYTES - told, 80, None));
        }
    }
}

/// How a turn of the loop ended.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecuteEnd {
    /// Another turn.
    Again(ExecuteCarry),
    /// Green; the value is the step's output.
    Done(Value),
    /// The person must allow more money.
    Ask(Question, ExecuteCarry),
    /// The provider is out; later.
    Park {
        /// Why.
        reason: String,
        /// How long, in milliseconds.
        for_ms: u64,
        /// For the next turn.
        carry: ExecuteCarry,
    },
    /// Not green.
    Fail(Failure),
}

impl ExecuteLoop<'_> {
    /// One durable turn. `fresh` says that another engine may have worked since the carry was stored.
    pub async fn turn(&self, mut carry: ExecuteCarry, fresh: bool, bench: &mut dyn Workbench) -> ExecuteEnd {
        match self.try_turn(&mut carry, fresh, bench).await {
            Ok(end) => end,
            Err(failure) => ExecuteEnd::Fail(failure),
        }
    }

    async fn try_turn(
        &self,
        carry: &mut ExecuteCarry,
        fresh: bool,
        bench: &mut dyn Workbench,
    ) -> Result<ExecuteEnd, Failure> {
        carry.transcript = std::mem::take(&mut carry.transcript).load(self.store).await?;
        match &carry.tree {
            Some(tree) if fresh => bench.restore(tree).await?,
            Some(_) => {}
            None => carry.tree = Some(bench.snapshot().await?),
        }
        if carry.transcript.is_empty() {
            carry.transcript.push(Message::User { text: self.first.clone() });
        } else if let Some(reply) = carry.transcript.last_reply().cloned() {
            return self.work(&reply, carry, bench).await;
        }
        self.ask_model(carry, bench.tools()).await
    }

    /// One model call.
    async fn ask_model(&self, carry: &mut ExecuteCarry, tools: Vec<ToolSpec>) -> Result<ExecuteEnd, Failure> {
        let request = ChatRequest {
            system: self.system.clone(),
            tools,
            messages: carry.transcript.messages().to_vec(),
            max_output_tokens: self.limits.output_tokens,
        };
        let reply = match self.models.call(&request).await {
            Ok(reply) => reply,
            Err(NoReply::Limit(question)) => {
                carry.transcript.save(self.store).await?;
                return Ok(ExecuteEnd::Ask(question, carry.clone()));
            }
            Err(NoReply::Outage { reason, for_ms }) => {
                carry.transcript.save(self.store).await?;
                return Ok(ExecuteEnd::Park { reason, for_ms, carry: carry.clone() });
            }
            Err(error) => return Err(error.into_failure("executor")),
        };
        carry.turns += 1;
        if reply.stop == Stop::MaxTokens {
            carry.notes.push("Your last reply was cut at its length limit. Make smaller edits.".to_owned());
        }
        carry.transcript.push(Message::Assistant(reply.message));
        carry.transcript.save(self.store).await?;
        Ok(ExecuteEnd::Again(carry.clone()))
    }

    /// Works on the last reply's calls: up to the first command, or to the end.
    async fn work(
        &self,
        reply: &AssistantMessage,
        carry: &mut ExecuteCarry,
        bench: &mut dyn Workbench,
    ) -> Result<ExecuteEnd, Failure> {
        if reply.calls.is_empty() {
            return self.silent(carry).await;
        }
        carry.silent = 0;
        let open = &reply.calls[carry.results.len().min(reply.calls.len())..];
        // `finish` beside other calls waits for them: its claim is about the tree that they leave.
        let (finish, others): (Vec<&ToolCall>, Vec<&ToolCall>) =
            open.iter().partition(|call| canonical(&call.name) == FINISH);
        if let Some(call) = finish.first().filter(|_| others.is_empty()) {
            return self.finish(call, reply, carry, bench).await;
        }
        let calls: Vec<ToolCall> = open.iter().take_while(|call| canonical(&call.name) != FINISH).cloned().collect();
        let performed = if calls.is_empty() {
            let text = "call `finish` alone, after the results of your other calls";
            vec![Performed {
                result: answer(&open[0], text, true),
                command: false,
                checked: false,
                wrote: false,
                note: None,
                stop: None,
            }]
        } else {
            match self.room(carry) {
                0 => Vec::new(),
                room => bench.perform(&calls[..calls.len().min(room)]).await,
            }
        };
        if performed.is_empty() {
            carry.results.extend(calls.iter().map(|call| answer(call, LIMIT_REACHED, true)));
        }
        let mut changed = false;
        for done in performed {
            carry.calls += 1;
            changed |= done.wrote || done.command;
            carry.edited |= done.wrote;
            if done.checked && std::mem::take(&mut carry.edited) {
                carry.iterations += 1;
            }
            if let Some(note) = done.note {
                carry.note(&note);
            }
            carry.results.push(done.result);
            if let Some(failure) = done.stop {
                return Err(failure);
            }
        }
        if changed {
            carry.tree = Some(bench.snapshot().await?);
        }
        carry.memory = bench.memory();
        if carry.results.len() < reply.calls.len() {
            let mut texts: Vec<&mut String> = carry.results.iter_mut().map(|result| &mut result.text).collect();
            fit_together(&mut texts, CARRIED_BYTES);
            return Ok(ExecuteEnd::Again(carry.clone()));
        }
        self.close_reply(reply, carry, bench).await
    }

    /// All calls of the reply are answered: stop rules, limits, then the next model call in a turn of its own.
    async fn close_reply(
        &self,
        reply: &AssistantMessage,
        carry: &mut ExecuteCarry,
        bench: &mut dyn Workbench,
    ) -> Result<ExecuteEnd, Failure> {
        let mut results = std::mem::take(&mut carry.results);
        let tree = carry.tree.clone().unwrap_or_default();
        match bench.verdict(reply, &mut results, &tree) {
            Verdict::Go => {}
            Verdict::Nudge(note) => carry.notes.push(note),
            Verdict::Stop(failure) => return Err(failure),
        }
        carry.memory = bench.memory();
        self.limits(carry)?;
        let notes = std::mem::take(&mut carry.notes);
        let note = (!notes.is_empty()).then(|| notes.join("\n"));
        carry.transcript.push(Message::Tools { results, note });
        carry.transcript.save(self.store).await?;
        Ok(ExecuteEnd::Again(carry.clone()))
    }

    /// How many calls may still be performed: none once a limit is reached, and in the turn of grace only the end counts.
    fn room(&self, carry: &ExecuteCarry) -> usize {
        let spent = carry.grace || carry.iterations >= self.limits.iterations;
        let left = if spent { 0 } else { self.limits.calls.saturating_sub(carry.calls) };
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// One grace turn after the first limit, then the end.
    fn limits(&self, carry: &mut ExecuteCarry) -> Result<(), Failure> {
        let limits = &self.limits;
        let reached = [
            ("iterations", carry.iterations, limits.iterations),
            ("turns", carry.turns, limits.turns),
            ("calls", carry.calls, limits.calls),
        ]
        .into_iter()
        .find(|(_, used, limit)| used >= limit);
        let Some((name, used, limit)) = reached else { return Ok(()) };
        if carry.grace {
            return Err(Failure::terminal("limit", format!("the executor used {used} of {limit} {name} and was not done"))
                .hint("`devo logs RUN` shows what it tried; raise the step's `limits`, or revise the plan, then `devo retry RUN`"));
        }
        carry.grace = true;
        carry.notes.push(format!("The limit of {limit} {name} is reached. Call `{FINISH}` now with what is true."));
        Ok(())
    }

    async fn silent(&self, carry: &mut ExecuteCarry) -> Result<ExecuteEnd, Failure> {
        carry.silent += 1;
        if carry.silent >= 3 {
            return Err(Failure::retryable("no_call", "the executor answered three times without using a tool")
                .hint("`devo retry RUN` starts the step again"));
        }
        self.limits(carry)?;
        let mut text = std::mem::take(&mut carry.notes).join("\n");
        if text.is_empty() {
            text = format!("Nobody reads plain text here. Go on with the tools, and end with `{FINISH}`.");
        }
        carry.transcript.push(Message::User { text });
        carry.transcript.save(self.store).await?;
        Ok(ExecuteEnd::Again(carry.clone()))
    }

    async fn finish(
        &self,
        call: &ToolCall,
        reply: &AssistantMessage,
        carry: &mut ExecuteCarry,
        bench: &mut dyn Workbench,
    ) -> Result<ExecuteEnd, Failure> {
        let said = |key: &str| call.arguments[key].as_str().unwrap_or_default().to_owned();
        let summary: String = said("summary").chars().take(2_000).collect();
        match said("status").as_str() {
            "done" => {}
            status @ ("blocked" | "criteria_conflict") => {
                return Err(Failure::terminal(status, format!("the executor stopped: {summary}")).hint(
                    "submit the task again with what is missing, or `devo retry RUN --from plan` for another plan",
                ));
            }
            other => {
                let text = format!("`status` is `{other}`; it must be done, blocked or criteria_conflict");
                carry.results.push(answer(call, text, true));
                carry.calls += 1;
                return self.close_reply(reply, carry, bench).await;
            }
        }
        let gate = bench.gate().await?;
        carry.tree = Some(bench.snapshot().await?);
        carry.memory = bench.memory();
        if gate.green {
            return Ok(ExecuteEnd::Done(json!({
                "status": "done", "summary": summary, "evidence": call.arguments["evidence"], "checks": gate.checks,
                "tree": carry.tree, "iterations": carry.iterations.max(1), "turns": carry.turns, "calls": carry.calls,
                "transcript": carry.transcript.pieces(),
            })));
        }
        carry.gates += 1;
        carry.iterations += 1;
        carry.edited = false;
        if carry.gates >= self.limits.gates || carry.grace {
            return Err(Failure::terminal("gate_failed", format!("the checks are red:\n{}", gate.digest))
                .hint("`devo logs RUN` shows the whole output; revise the plan or `devo retry RUN`"));
        }
        let text =
            format!("The checks were run and are not green. Mend this, then call `{FINISH}` again.\n\n{}", gate.digest);
        carry.results.push(answer(call, text, true));
        carry.calls += 1;
        self.close_reply(reply, carry, bench).await
    }
}
