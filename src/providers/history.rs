//! A conversation made ready for one provider: its own messages verbatim, others' as plain text, every call answered.

use std::borrow::Cow;

use super::{AssistantMessage, Message, ToolCall, ToolResult};

/// A piece of the conversation, as every provider can say it.
pub(super) enum Turn<'a> {
    /// From us; never blank.
    User(Cow<'a, str>),
    /// This provider's own message, to go back as it came.
    Native(&'a AssistantMessage),
    /// From another provider's model, as text; never blank.
    Assistant(String),
    /// The answers to every call of the native message before, in the order of the calls.
    Results { answers: Vec<Answer<'a>>, note: Option<&'a str> },
}

/// The answer to one call.
pub(super) struct Answer<'a> {
    pub call: &'a ToolCall,
    pub text: &'a str,
    pub is_error: bool,
}

/// What a call is answered with whose result was lost: the APIs refuse a call without an answer.
const LOST: &str = "no result: the call was not run";

/// The conversation for `provider`. What comes out for a message depends only on those before it (and, for calls, on
/// the one after), so a longer history begins with the very turns of a shorter one.
pub(super) fn turns<'a>(messages: &'a [Message], provider: &str) -> Vec<Turn<'a>> {
    let mut turns = Vec::with_capacity(messages.len());
    let mut open: Option<&AssistantMessage> = None;
    for message in messages {
        match message {
            Message::Tools { results, note } => {
                let note = note.as_deref().filter(|note| !note.trim().is_empty());
                match open.take() {
                    Some(asked) => turns.push(Turn::Results { answers: answers(asked, results), note }),
                    None => turns.push(Turn::User(results_as_text(results, note).into())),
                }
            }
            Message::User { text } => {
                close(&mut open, &mut turns);
                let text = if text.trim().is_empty() { "(empty)" } else { text };
                turns.push(Turn::User(text.into()));
            }
            Message::Assistant(said) => {
                close(&mut open, &mut turns);
                if said.provider == provider && said.has_native() {
                    open = (!said.calls.is_empty()).then_some(said);
                    turns.push(Turn::Native(said));
                } else if let Some(text) = as_text(said) {
                    turns.push(Turn::Assistant(text));
                }
            }
        }
    }
    close(&mut open, &mut turns);
    turns
}

fn close<'a>(open: &mut Option<&'a AssistantMessage>, turns: &mut Vec<Turn<'a>>) {
    if let Some(asked) = open.take() {
        turns.push(Turn::Results { answers: answers(asked, &[]), note: None });
    }
}

fn answers<'a>(asked: &'a AssistantMessage, results: &'a [ToolResult]) -> Vec<Answer<'a>> {
    let find = |at: usize, call: &ToolCall| {
        let same = |result: &&ToolResult| result.call_id == call.id;
        results.get(at).filter(same).or_else(|| results.iter().find(same))
    };
    let answer = |(at, call)| match find(at, call) {
        Some(result) => Answer { call, text: result.text.as_str(), is_error: result.is_error },
        None => Answer { call, text: LOST, is_error: true },
    };
    asked.calls.iter().enumerate().map(answer).collect()
}

fn as_text(said: &AssistantMessage) -> Option<String> {
    let mut parts = Vec::new();
    if !said.text.trim().is_empty() {
        parts.push(said.text.clone());
    }
    for call in &said.calls {
        let arguments = call.invalid.clone().unwrap_or_else(|| call.arguments.to_string());
        parts.push(format!("[called the tool {} with {arguments}]", call.name));
    }
    (!parts.is_empty()).then(|| parts.join("\n\n"))
}

fn results_as_text(results: &[ToolResult], note: Option<&str>) -> String {
    let word = |result: &ToolResult| if result.is_error { "error" } else { "result" };
    let mut parts: Vec<String> = results
        .iter()
        .map(|result| format!("[{} of the tool {}]\n{}", word(result), result.name, result.text))
        .collect();
    parts.extend(note.map(str::to_owned));
    if parts.is_empty() { "(empty)".to_owned() } else { parts.join("\n\n") }
}
