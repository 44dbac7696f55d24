//! Model providers: one conversation turn in, one reply out. They know wire formats, not runs, steps or prompts.
//!
//! A provider is two pure functions, [`Provider::request`] and [`Provider::reply`]; to add one, write a file and put
//! its word in [`PROVIDERS`]. A [`client::Client`] calls a model: it sends through an [`http::Transport`] (the network,
//! which adds the key at the last moment, or a [`cassette`]), retries, and says what a call may cost before it is made.

pub mod cassette;
pub mod client;
pub mod endpoint;
pub mod error;
pub mod http;
pub mod models;
pub mod normalise;

mod anthropic;
mod gemini;
mod history;
mod openai;
mod sse;
#[cfg(test)]
mod testing;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::budget::Usage;
pub use client::Client;
pub use error::{ErrorKind, ProviderError};
pub use http::{HttpReply, HttpRequest, Transport};
pub use models::{ModelCard, ModelTable};

/// The providers, by the names that `devo.yaml` uses.
pub const PROVIDERS: &[&dyn Provider] = &[&anthropic::Anthropic, &gemini::Gemini, &openai::OpenAi];

/// A wire format. Both directions are pure, so recorded bodies test them.
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// The name in `devo.yaml`, in an [`AssistantMessage`] and in errors.
    fn name(&self) -> &'static str;

    /// Where it is and how it takes its key.
    fn access(&self) -> &'static Access;

    /// The request for the next message. Its messages come last and only grow, so that each request of a conversation
    /// repeats the one before byte for byte up to there.
    fn request(&self, card: &ModelCard, request: &ChatRequest) -> HttpRequest;

    /// The reply in a whole HTTP answer, streamed or not, good or bad.
    fn reply(&self, reply: &HttpReply) -> Result<Reply, ProviderError>;

    /// A request that costs nothing and proves that the endpoint accepts the key.
    fn probe(&self) -> HttpRequest;
}

/// Where a provider is and how it takes its key.
#[derive(Debug)]
pub struct Access {
    /// The variables that may hold the key, the preferred one first.
    pub key_vars: &'static [&'static str],
    /// The variable that may hold the base URL.
    pub base_var: &'static str,
    /// The base URL where the variable is not set.
    pub base_url: &'static str,
    /// The header that carries the key, lower-case.
    pub key_header: &'static str,
    /// What stands before the key in that header.
    pub key_prefix: &'static str,
    /// Whether a base URL other than the default works without a key (local servers).
    pub keyless_elsewhere: bool,
}

/// The provider of that name.
pub fn provider(name: &str) -> Result<&'static dyn Provider, UnknownProvider> {
    PROVIDERS.iter().copied().find(|provider| provider.name() == name).ok_or_else(|| UnknownProvider(name.to_owned()))
}

/// A name that no provider has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no model provider")]
pub struct UnknownProvider(pub String);

impl UnknownProvider {
    /// The names there are, the nearest first.
    pub fn hint(&self) -> String {
        let mut names: Vec<_> = PROVIDERS.iter().map(|provider| provider.name()).collect();
        names.sort_by_key(|name| strsim::damerau_levenshtein(name, &self.0));
        format!("use one of: {}", names.join(", "))
    }
}

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

impl AssistantMessage {
    /// Whether nothing of it can go back (a reply that was cut before its first word): do not append it.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.calls.is_empty() && !self.has_native()
    }

    fn has_native(&self) -> bool {
        match &self.native {
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => false,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_provider_and_typos_the_nearest() {
        for known in PROVIDERS {
            assert_eq!(provider(known.name()).unwrap().name(), known.name());
        }
        let unknown = provider("opnai").unwrap_err();
        assert!(unknown.hint().starts_with("use one of: openai, "), "{}", unknown.hint());
    }
}
