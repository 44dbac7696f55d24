//! What the providers' tests share: replies from bodies, cards, and a conversation with one of everything.

use serde_json::json;

use super::*;
use crate::core::time::Timestamp;

pub(super) fn stream(body: &str) -> HttpReply {
    HttpReply { status: 200, headers: vec![("content-type".into(), "text/event-stream".into())], body: body.into() }
}

pub(super) fn answer(status: u16, body: &str) -> HttpReply {
    HttpReply { status, headers: vec![("content-type".into(), "application/json".into())], body: body.into() }
}

/// 2026-11-22.
pub(super) fn card(provider: &str, model: &str) -> ModelCard {
    let prices = std::collections::BTreeMap::from([(
        "local".to_owned(),
        crate::core::budget::Price { input: 0.0, output: 0.0, cached: 0.0, cache_write_5m: None, cache_write_1h: None },
    )]);
    let table = ModelTable::builtin().with_overrides(prices, std::collections::BTreeMap::new());
    table.card(provider, model, Timestamp(1_795_305_600_000)).unwrap()
}

pub(super) fn user(text: &str) -> Message {
    Message::User { text: text.into() }
}

pub(super) fn request(messages: Vec<Message>) -> ChatRequest {
    ChatRequest {
        system: "You plan.".into(),
        tools: vec![ToolSpec {
            name: "read_file".into(),
            description: "Reads a file.".into(),
            schema: json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}),
        }],
        messages,
        max_output_tokens: 4000,
    }
}

/// Answers every call of a message.
pub(super) fn results(to: &AssistantMessage, note: Option<&str>) -> Message {
    let result = |(at, call): (usize, &ToolCall)| ToolResult {
        call_id: call.id.clone(),
        name: call.name.clone(),
        text: if at == 0 { "def sell(): ...".into() } else { String::new() },
        is_error: at == 1,
    };
    Message::Tools { results: to.calls.iter().enumerate().map(result).collect(), note: note.map(str::to_owned) }
}

/// A message of another provider's model, with a call.
pub(super) fn foreign() -> AssistantMessage {
    AssistantMessage {
        provider: "elsewhere".into(),
        native: json!([{"type": "odd", "signature": "must-not-travel"}]),
        text: "I look.".into(),
        calls: vec![ToolCall { id: "x".into(), name: "grep".into(), arguments: json!({"q": 1}), invalid: None }],
    }
}

/// Every request of a conversation repeats the one before, byte for byte, up to the end of its messages; what came from
/// the provider stands in it as it was.
pub(super) fn grows_by_appending(provider: &dyn Provider, card: &ModelCard, said: &AssistantMessage) {
    let history = [
        user("Validar stock"),
        Message::Assistant(foreign()),
        results(&foreign(), None),
        Message::Assistant(said.clone()),
        results(said, Some("half of the budget is spent")),
        Message::Assistant(said.clone()),
        // Calls whose results were lost.
        user("go on"),
    ];
    let text = |length: usize| {
        let body = provider.request(card, &request(history[..length].to_vec())).body;
        let text = body.to_string();
        assert!(!text.contains("must-not-travel"));
        text.trim_end_matches("]}").to_owned()
    };
    // Where the model is asked: after a word of ours.
    let lengths = [1, 3, 5, 7];
    for pair in lengths.windows(2) {
        let (short, long) = (text(pair[0]), text(pair[1]));
        assert!(long.starts_with(&short), "{short}\n{long}");
    }
    let native = said.native.to_string();
    assert!(text(7).contains(native.trim_start_matches('[').trim_end_matches(']')), "{native}");
}
