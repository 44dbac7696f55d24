//! The conversation of an agent loop: an append-only history whose pieces are stored as they are added, and the one way
//! to ask a model. Money, retries and journal are behind [`Models`].

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::core::event::Question;
use crate::core::failure::Failure;
use crate::providers::{AssistantMessage, ChatRequest, Message, Reply, ToolCall, ToolResult};

/// Asks a model; the price was reserved and will be settled by whoever implements this.
#[async_trait]
pub trait Models: Send + Sync {
    /// One call, retried as the provider's errors allow.
    async fn call(&self, request: &ChatRequest) -> Result<Reply, NoReply>;
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq)]
pub enum NoReply {
    /// The run's limits do not allow the call: ask the person.
    Limit(Question),
    /// The provider does not work now and may later: continue in so many milliseconds.
    Outage {
        /// Why.
        reason: String,
        /// When.
        for_ms: u64,
    },
    /// The model answered with nothing that can be used, again and again.
    Unusable(String),
    /// It cannot work.
    Failed(Failure),
    /// The run is being stopped.
    Stopped,
}

/// Where pieces of a history are kept, by hash.
#[async_trait]
pub trait Store: Send + Sync {
    /// Keeps bytes; the answer names them.
    async fn put(&self, bytes: Vec<u8>) -> Result<String, Failure>;
    /// Finds them again.
    async fn get(&self, hash: &str) -> Result<Vec<u8>, Failure>;
}

/// A history: its pieces' names are what a step carries from turn to turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Transcript {
    pieces: Vec<String>,
    #[serde(skip)]
    messages: Vec<Message>,
    #[serde(skip)]
    stored: usize,
}

impl Transcript {
    /// Fetches the messages that the names stand for.
    pub async fn load(mut self, store: &dyn Store) -> Result<Self, Failure> {
        self.messages.clear();
        for piece in &self.pieces {
            let bytes = store.get(piece).await?;
            let messages: Vec<Message> = serde_json::from_slice(&bytes).map_err(|error| {
                Failure::terminal("bad_transcript", format!("piece {piece} cannot be read: {error}"))
            })?;
            self.messages.extend(messages);
        }
        self.stored = self.messages.len();
        Ok(self)
    }

    /// Stores what was added since the last time, so that the names cover everything.
    pub async fn save(&mut self, store: &dyn Store) -> Result<(), Failure> {
        if self.stored < self.messages.len() {
            let bytes = serde_json::to_vec(&self.messages[self.stored..]).expect("messages are plain data");
            self.pieces.push(store.put(bytes).await?);
            self.stored = self.messages.len();
        }
        Ok(())
    }

    /// Adds a message.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// All messages.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The model's last message, if it is the last of all.
    pub fn last_reply(&self) -> Option<&AssistantMessage> {
        match self.messages.last() {
            Some(Message::Assistant(reply)) => Some(reply),
            _ => None,
        }
    }

    /// The name of the last piece, for a person who wants to look.
    pub fn pieces(&self) -> &[String] {
        &self.pieces
    }
}

/// The answer to a call.
pub fn answer(call: &ToolCall, text: impl Into<String>, is_error: bool) -> ToolResult {
    ToolResult { call_id: call.id.clone(), name: call.name.clone(), text: text.into(), is_error }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Shelf(Mutex<HashMap<String, Vec<u8>>>);

    #[async_trait]
    impl Store for Shelf {
        async fn put(&self, bytes: Vec<u8>) -> Result<String, Failure> {
            let hash = crate::core::plan::sha256(&bytes);
            self.0.lock().unwrap().insert(hash.clone(), bytes);
            Ok(hash)
        }
        async fn get(&self, hash: &str) -> Result<Vec<u8>, Failure> {
            self.0.lock().unwrap().get(hash).cloned().ok_or_else(|| Failure::terminal("none", hash))
        }
    }

    #[tokio::test]
    async fn what_was_said_comes_back_and_only_what_is_new_is_stored() {
        let shelf = Shelf::default();
        let mut transcript = Transcript::default();
        transcript.push(Message::User { text: "one".to_owned() });
        transcript.save(&shelf).await.unwrap();
        transcript.save(&shelf).await.unwrap();
        transcript.push(Message::User { text: "two".to_owned() });
        transcript.save(&shelf).await.unwrap();
        assert_eq!(transcript.pieces().len(), 2);
        let carried = serde_json::to_string(&transcript).unwrap();
        let again: Transcript = serde_json::from_str(&carried).unwrap();
        let again = again.load(&shelf).await.unwrap();
        assert_eq!(again.messages(), transcript.messages());
    }
}
