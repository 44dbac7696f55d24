//! Model providers: one conversation turn in, one reply out. They know wire formats, not runs, steps or prompts.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::budget::Usage;

/// One request for the next message of a conversation, in no provider's format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    /// The system prompt.
    pub system: String,
    /// The tools, in an order that never changes within a conversation (caches and signatures depend on it).
    pub tools: Vec<ToolSpec>,
    /// The history, append-only.
    pub messages: Vec<Message>,
    /// The most tokens to generate, thinking included.
    pub max_output_tokens: u32,
}

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// `[a-zA-Z0-9_-]{1,128}`.
    pub name: String,
    /// For the model.
    pub description: String,
    /// JSON Schema of the arguments; `type: object`.
    pub schema: Value,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Message {
    /// From us.
    User {
        /// Not empty.
        text: String,
    },
    /// From the model.
    Assistant(AssistantMessage),
    /// The answers to every call of the assistant message before, in the order of the calls.
    Tools {
        /// One per call.
        results: Vec<ToolResult>,
        /// A note of ours after the results (a nudge, a limit).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
}

/// What the model said, with the provider's own JSON, which goes back byte for byte (signatures depend on it).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssistantMessage {
    /// The provider that made it; another provider gets `text` and `calls` rebuilt as plain text.
    pub provider: String,
    /// The provider's content, verbatim: content blocks, parts or a message object.
    pub native: Value,
    /// The visible text, thinking excluded.
    pub text: String,
    /// The tool calls, in order.
    pub calls: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The provider's id, or one of ours where it gives none.
    pub id: String,
    /// The tool's name as the model wrote it; may be unknown.
    pub name: String,
    /// The arguments; [`Value::Null`] where they were not JSON, with the text in `invalid`.
    pub arguments: Value,
    /// The arguments' text, where it was not JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolResult {
    /// The call's id.
    pub call_id: String,
    /// The tool's name.
    pub name: String,
    /// What the model reads.
    pub text: String,
    /// Whether the call was refused or failed.
    pub is_error: bool,
}

/// A whole reply; a reply without a proper end is an error instead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// What to append to the history.
    pub message: AssistantMessage,
    /// Why the model stopped.
    pub stop: Stop,
    /// What it used.
    pub usage: Usage,
    /// The provider's request id, for support.
    pub request_id: Option<String>,
    /// The model that answered, as the provider names it.
    pub model: String,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// It had finished.
    End,
    /// It waits for the results of its calls.
    Calls,
    /// The output limit cut it; its last call may be incomplete and was dropped.
    MaxTokens,
}
