//! Anthropic's Messages API. Knows its format, nothing of networks, keys and retries.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::error::{ErrorKind, json as parse_json, of_reply};
use super::history::{Turn, turns};
use super::http::Method;
use super::models::{CacheTtl, Thinking};
use super::sse::{self, Event};
use super::{
    Access, AssistantMessage, ChatRequest, HttpReply, HttpRequest, ModelCard, Provider, ProviderError, Reply, Stop,
    ToolCall, ToolSpec,
};
use crate::core::budget::Usage;

/// The smallest thinking budget that the API accepts, in tokens.
const BUDGET_MIN: u32 = 1024;

/// `POST /v1/messages`.
#[derive(Debug)]
pub(super) struct Anthropic;

const NAME: &str = "anthropic";

impl Provider for Anthropic {
    fn name(&self) -> &'static str {
        NAME
    }

    fn access(&self) -> &'static Access {
        &Access {
            key_vars: &["ANTHROPIC_API_KEY"],
            base_var: "ANTHROPIC_BASE_URL",
            base_url: "https://api.anthropic.com",
            key_header: "x-api-key",
            key_prefix: "",
            keyless_elsewhere: false,
        }
    }

    fn request(&self, card: &ModelCard, request: &ChatRequest) -> HttpRequest {
        let max_tokens = request.max_output_tokens.clamp(1, card.max_output);
        let cache = card.cache_ttl.map(cache_control);
        let mut body = Map::new();
        body.insert("model".into(), json!(card.id));
        body.insert("max_tokens".into(), json!(max_tokens));
        body.insert("stream".into(), json!(true));
        if let Some(thinking) = card.thinking.as_ref().and_then(|thinking| thinking_json(thinking, max_tokens)) {
            body.insert("thinking".into(), thinking);
        }
        if let Some(effort) = &card.effort {
            body.insert("output_config".into(), json!({"effort": effort}));
        }
        if let Some(cache) = &cache {
            // Marks the last block by itself, so that each turn reads what the one before wrote.
            body.insert("cache_control".into(), cache.clone());
        }
        if !request.system.trim().is_empty() {
            let mut block = json!({"type": "text", "text": request.system});
            if let Some(cache) = cache {
                // Tools and system are shared by conversations; a mark of their own keeps them findable.
                block["cache_control"] = cache;
            }
            body.insert("system".into(), json!([block]));
        }
        if !request.tools.is_empty() {
            let tools = request.tools.iter().map(|ToolSpec { name, description, schema }| {
                json!({"name": name, "description": description, "input_schema": schema})
            });
            body.insert("tools".into(), tools.collect());
        }
        let messages: Vec<Value> = turns(&request.messages, NAME).into_iter().map(message).collect();
        body.insert("messages".into(), messages.into());
        HttpRequest {
            method: Method::Post,
            path: "/v1/messages".into(),
            headers: card.version.iter().map(|version| ("anthropic-version", version.clone())).collect(),
            body: body.into(),
        }
    }

    fn reply(&self, reply: &HttpReply) -> Result<Reply, ProviderError> {
        if reply.status != 200 {
            return Err(error(parse_json(&reply.body).as_ref(), reply));
        }
        let message =
            if sse::is_stream(reply.header("content-type"), &reply.body) { join(reply)? } else { whole(reply)? };
        finish(message, reply)
    }

    fn probe(&self) -> HttpRequest {
        HttpRequest {
            method: Method::Get,
            path: "/v1/models?limit=1".into(),
            headers: vec![("anthropic-version", "2023-06-01".into())],
            body: Value::Null,
        }
    }
}

fn cache_control(ttl: CacheTtl) -> Value {
    match ttl {
        CacheTtl::FiveMinutes => json!({"type": "ephemeral"}),
        CacheTtl::Hour => json!({"type": "ephemeral", "ttl": "1h"}),
    }
}

/// The switch as the API wants it; none where the output limit leaves no room for a budget.
fn thinking_json(thinking: &Thinking, max_tokens: u32) -> Option<Value> {
    let mut out = Map::new();
    out.insert("type".into(), json!(thinking.kind.as_deref()?));
    if let Some(budget) = thinking.budget_tokens {
        let budget = budget.min(max_tokens / 2);
        if budget < BUDGET_MIN {
            return None;
        }
        out.insert("budget_tokens".into(), json!(budget));
    }
    if let Some(display) = &thinking.display {
        out.insert("display".into(), json!(display));
    }
    Some(out.into())
}

fn message(turn: Turn<'_>) -> Value {
    let text = |text: &str| json!({"type": "text", "text": text});
    match turn {
        Turn::User(said) => json!({"role": "user", "content": [text(&said)]}),
        Turn::Assistant(said) => json!({"role": "assistant", "content": [text(&said)]}),
        Turn::Native(said) => json!({"role": "assistant", "content": said.native}),
        Turn::Results { answers, note } => {
            let mut content: Vec<Value> = answers
                .iter()
                .map(|answer| {
                    let said = if answer.text.trim().is_empty() { "(no output)" } else { answer.text };
                    let mut block = json!({"type": "tool_result", "tool_use_id": answer.call.id, "content": said});
                    if answer.is_error {
                        block["is_error"] = json!(true);
                    }
                    block
                })
                .collect();
            content.extend(note.map(text));
            json!({"role": "user", "content": content})
        }
    }
}

/// A message as the API describes it, whether it came at once or in pieces.
#[derive(Default)]
struct Received {
    id: Option<String>,
    model: String,
    blocks: Vec<Block>,
    stop: Option<String>,
    category: Option<String>,
    usage: Map<String, Value>,
    ended: bool,
}

struct Block {
    json: Value,
    /// The pieces of a tool's input, where it came in pieces.
    input: Option<String>,
}

impl Received {
    fn take_usage(&mut self, usage: Option<&Value>) {
        // Later figures are cumulative; absent and null ones leave what is known.
        let fields = usage.and_then(Value::as_object).into_iter().flatten();
        for (name, value) in fields.filter(|(_, value)| !value.is_null()) {
            self.usage.insert(name.clone(), value.clone());
        }
    }

    fn usage(&self) -> Usage {
        let number = |from: Option<&Value>| from.and_then(Value::as_u64).unwrap_or(0);
        let written = number(self.usage.get("cache_creation_input_tokens"));
        let by_ttl = self.usage.get("cache_creation");
        let hour = number(by_ttl.and_then(|split| split.get("ephemeral_1h_input_tokens"))).min(written);
        let details = self.usage.get("output_tokens_details");
        Usage {
            input: number(self.usage.get("input_tokens")),
            cache_read: number(self.usage.get("cache_read_input_tokens")),
            cache_write_5m: written - hour,
            cache_write_1h: hour,
            output: number(self.usage.get("output_tokens")),
            reasoning: number(details.and_then(|details| details.get("thinking_tokens"))),
        }
    }
}

/// A message that came at once.
fn whole(reply: &HttpReply) -> Result<Received, ProviderError> {
    let json = parse_json(&reply.body);
    let Some(json) = json.filter(|json| json["type"] == "message" && json["content"].is_array()) else {
        return Err(match parse_json(&reply.body) {
            Some(json) if json["type"] == "error" => error(Some(&json), reply),
            _ => of_reply(NAME, ErrorKind::Garbled, None, reply),
        });
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut received = Received {
        id: text(&json["id"]),
        model: text(&json["model"]).unwrap_or_default(),
        stop: text(&json["stop_reason"]),
        category: text(&json["stop_details"]["category"]),
        ended: !json["stop_reason"].is_null(),
        ..Received::default()
    };
    received.take_usage(json.get("usage"));
    let blocks = json["content"].as_array().cloned().unwrap_or_default();
    received.blocks = blocks.into_iter().map(|json| Block { json, input: None }).collect();
    Ok(received)
}

/// A message that came in pieces.
fn join(reply: &HttpReply) -> Result<Received, ProviderError> {
    let garbled = |what: &str| ProviderError::new(NAME, ErrorKind::Garbled, what).with_reply(reply);
    let events = sse::events(&reply.body).map_err(|_| garbled("an event of the stream is not JSON"))?;
    let mut received = Received::default();
    let mut blocks: BTreeMap<u64, Block> = BTreeMap::new();
    for event in events {
        let Event::Json(event) = event else { continue };
        let index = event["index"].as_u64().unwrap_or(0);
        match event["type"].as_str() {
            Some("message_start") => {
                let message = &event["message"];
                received.id = message["id"].as_str().map(str::to_owned);
                received.model = message["model"].as_str().unwrap_or_default().to_owned();
                received.take_usage(message.get("usage"));
            }
            Some("content_block_start") => {
                blocks.insert(index, Block { json: event["content_block"].clone(), input: None });
            }
            Some("content_block_delta") => {
                let block = blocks.get_mut(&index).filter(|block| block.json.is_object());
                let block = block.ok_or_else(|| garbled("a piece of the stream belongs to no block"))?;
                add(block, &event["delta"]);
            }
            Some("message_delta") => {
                if let Some(stop) = event["delta"]["stop_reason"].as_str() {
                    received.stop = Some(stop.to_owned());
                }
                if let Some(category) = event["delta"]["stop_details"]["category"].as_str() {
                    received.category = Some(category.to_owned());
                }
                received.take_usage(event.get("usage"));
            }
            Some("message_stop") => received.ended = true,
            Some("error") => return Err(error(Some(&event), reply).used(received.usage())),
            _ => {}
        }
    }
    received.blocks = blocks.into_values().collect();
    Ok(received)
}

fn add(block: &mut Block, delta: &Value) {
    let mut append = |field: &str, more: &Value| {
        let Some(more) = more.as_str() else { return };
        match &mut block.json[field] {
            Value::String(text) => text.push_str(more),
            other => *other = json!(more),
        }
    };
    match delta["type"].as_str() {
        Some("text_delta") => append("text", &delta["text"]),
        Some("thinking_delta") => append("thinking", &delta["thinking"]),
        Some("signature_delta") => append("signature", &delta["signature"]),
        Some("input_json_delta") => {
            block.input.get_or_insert_default().push_str(delta["partial_json"].as_str().unwrap_or_default());
        }
        Some("citations_delta") => match &mut block.json["citations"] {
            Value::Array(known) => known.push(delta["citation"].clone()),
            other => *other = json!([delta["citation"]]),
        },
        _ => {}
    }
}

fn finish(mut received: Received, reply: &HttpReply) -> Result<Reply, ProviderError> {
    let usage = received.usage();
    let fail = |kind, text: &str| Err(ProviderError::new(NAME, kind, text).with_reply(reply).used(usage));
    if !received.ended {
        return fail(ErrorKind::Cut, "the reply broke off before its end");
    }
    let stop = match received.stop.as_deref() {
        Some("end_turn" | "stop_sequence") => Stop::End,
        Some("tool_use") => Stop::Calls,
        Some("max_tokens") => Stop::MaxTokens,
        Some("refusal") => {
            let category = received.category.take();
            let why = category.as_deref().map(|word| format!(" ({word})")).unwrap_or_default();
            return fail(ErrorKind::Refused { category }, &format!("the model declines to answer{why}"));
        }
        Some("model_context_window_exceeded") => {
            return fail(ErrorKind::ContextTooLong, "the reply did not fit into the model's window");
        }
        other => {
            let why = other.unwrap_or("no reason");
            return fail(ErrorKind::Malformed, &format!("the model stopped for an unknown reason ({why})"));
        }
    };
    if stop == Stop::MaxTokens {
        drop_cut_end(&mut received.blocks);
    }
    let mut message =
        AssistantMessage { provider: NAME.into(), native: Value::Null, text: String::new(), calls: Vec::new() };
    let mut native = Vec::with_capacity(received.blocks.len());
    for mut block in received.blocks {
        match block.json["type"].as_str() {
            // The API sends empty text blocks and refuses to take them back.
            Some("text") => match block.json["text"].as_str() {
                None | Some("") => continue,
                Some(text) => message.text.push_str(text),
            },
            Some("tool_use") => message.calls.push(call(&mut block)),
            _ => {}
        }
        native.push(block.json);
    }
    if stop != Stop::MaxTokens && message.text.trim().is_empty() && message.calls.is_empty() {
        return fail(ErrorKind::Malformed, "the model said nothing");
    }
    message.native = native.into();
    let stop = if stop == Stop::End && !message.calls.is_empty() { Stop::Calls } else { stop };
    if stop == Stop::Calls && message.calls.is_empty() {
        return fail(ErrorKind::Malformed, "the model announced a tool call and made none");
    }
    Ok(Reply { message, stop, usage, request_id: reply.request_id().or(received.id), model: received.model })
}

/// What an output limit cut: a half tool call must never run, and thinking may neither end a message nor lack its
/// signature.
fn drop_cut_end(blocks: &mut Vec<Block>) {
    if blocks.last().is_some_and(|block| block.json["type"] == "tool_use") {
        blocks.pop();
    }
    while blocks.last().is_some_and(|block| {
        matches!(block.json["type"].as_str(), Some("thinking" | "redacted_thinking"))
            || (block.json["type"] == "text" && block.json["text"].as_str().unwrap_or_default().is_empty())
    }) {
        blocks.pop();
    }
}

/// A tool call; the block gets the input that goes back, which must be an object.
fn call(block: &mut Block) -> ToolCall {
    let text = block.input.take().filter(|text| !text.trim().is_empty());
    let (arguments, invalid) = match text {
        None => (block.json["input"].clone(), None),
        Some(text) => match serde_json::from_str::<Value>(&text) {
            Ok(value) => (value, None),
            Err(_) => (Value::Null, Some(text)),
        },
    };
    block.json["input"] = if arguments.is_object() { arguments.clone() } else { json!({}) };
    let text = |field: &str| block.json[field].as_str().unwrap_or_default().to_owned();
    ToolCall { id: text("id"), name: text("name"), arguments, invalid }
}

/// The error of a bad answer or of an `error` event.
fn error(json: Option<&Value>, reply: &HttpReply) -> ProviderError {
    let inner = json.map(|json| &json["error"]);
    let message = inner.and_then(|inner| inner["message"].as_str());
    let lower = message.unwrap_or_default().to_lowercase();
    let kind = match inner.and_then(|inner| inner["type"].as_str()) {
        Some("authentication_error" | "permission_error") => ErrorKind::Auth,
        Some("billing_error") => ErrorKind::Quota { daily: false },
        Some("not_found_error") => ErrorKind::NotFound,
        Some("request_too_large") => ErrorKind::TooLarge,
        Some("rate_limit_error") => ErrorKind::RateLimited,
        Some("timeout_error") => ErrorKind::Timeout,
        Some("api_error" | "overloaded_error") => ErrorKind::Overloaded,
        Some("invalid_request_error") if lower.contains("prompt is too long") || lower.contains("context limit") => {
            ErrorKind::ContextTooLong
        }
        Some("invalid_request_error")
            if ["credit balance", "spend limit", "usage limit"].iter().any(|word| lower.contains(word)) =>
        {
            ErrorKind::Quota { daily: false }
        }
        _ if reply.status == 200 => ErrorKind::Overloaded,
        _ => ErrorKind::of_status(reply.status),
    };
    of_reply(NAME, kind, message, reply)
}

#[cfg(test)]
#[path = "anthropic_tests.rs"]
mod tests;
