//! OpenAI's chat completions, and the many servers that speak it. Knows the format, nothing of networks and keys.

use serde_json::{Map, Value, json};

use super::error::{ErrorKind, json as parse_json, of_reply};
use super::history::{Turn, turns};
use super::http::Method;
use super::models::MaxTokensField;
use super::sse::{self, Event};
use super::{
    Access, AssistantMessage, ChatRequest, HttpReply, HttpRequest, ModelCard, Provider, ProviderError, Reply, Stop,
    ToolCall,
};
use crate::core::budget::Usage;

/// `POST {base}/chat/completions`; the base ends in `/v1`.
#[derive(Debug)]
pub(super) struct OpenAi;

const NAME: &str = "openai";
/// More calls than this in one message are no message.
const CALLS_MAX: usize = 256;

impl Provider for OpenAi {
    fn name(&self) -> &'static str {
        NAME
    }

    fn access(&self) -> &'static Access {
        &Access {
            key_vars: &["OPENAI_API_KEY"],
            base_var: "OPENAI_BASE_URL",
            base_url: "https://api.openai.com/v1",
            key_header: "authorization",
            key_prefix: "Bearer ",
            keyless_elsewhere: true,
        }
    }

    fn request(&self, card: &ModelCard, request: &ChatRequest) -> HttpRequest {
        let limit = match card.max_tokens_field {
            MaxTokensField::MaxCompletionTokens => "max_completion_tokens",
            MaxTokensField::MaxTokens => "max_tokens",
        };
        let mut body = Map::new();
        body.insert("model".into(), json!(card.id));
        body.insert(limit.into(), json!(request.max_output_tokens.clamp(1, card.max_output)));
        body.insert("stream".into(), json!(true));
        body.insert("stream_options".into(), json!({"include_usage": true}));
        if let Some(effort) = &card.effort {
            body.insert("reasoning_effort".into(), json!(effort));
        }
        if !request.tools.is_empty() {
            let tool = |tool: &super::ToolSpec| {
                let function = json!({"name": tool.name, "description": tool.description, "parameters": tool.schema});
                json!({"type": "function", "function": function})
            };
            body.insert("tools".into(), request.tools.iter().map(tool).collect());
        }
        let mut messages = Vec::new();
        if !request.system.trim().is_empty() {
            messages.push(json!({"role": "system", "content": request.system}));
        }
        for turn in turns(&request.messages, NAME) {
            match turn {
                Turn::User(said) => messages.push(json!({"role": "user", "content": said})),
                Turn::Assistant(said) => messages.push(json!({"role": "assistant", "content": said})),
                Turn::Native(said) => messages.push(said.native.clone()),
                Turn::Results { answers, note } => {
                    messages.extend(answers.iter().map(|answer| {
                        // The format has no flag for a failure.
                        let mark = if answer.is_error && !answer.text.starts_with("error") { "error: " } else { "" };
                        let said = format!("{mark}{}", answer.text);
                        json!({"role": "tool", "tool_call_id": answer.call.id, "content": said})
                    }));
                    messages.extend(note.map(|note| json!({"role": "user", "content": note})));
                }
            }
        }
        body.insert("messages".into(), messages.into());
        HttpRequest { method: Method::Post, path: "/chat/completions".into(), headers: Vec::new(), body: body.into() }
    }

    fn reply(&self, reply: &HttpReply) -> Result<Reply, ProviderError> {
        if reply.status != 200 {
            return Err(error(parse_json(&reply.body).as_ref(), reply));
        }
        let mut received = Received::default();
        if sse::is_stream(reply.header("content-type"), &reply.body) {
            let garbled = |what: &str| ProviderError::new(NAME, ErrorKind::Garbled, what).with_reply(reply);
            for event in sse::events(&reply.body).map_err(|_| garbled("an event of the stream is not JSON"))? {
                match event {
                    Event::Done => received.done = true,
                    Event::Json(chunk) if !chunk["error"].is_null() => {
                        return Err(error(Some(&chunk), reply).used(received.usage));
                    }
                    Event::Json(chunk) => {
                        received.head(&chunk);
                        received.add(&chunk["choices"][0]["delta"]);
                        received.stop(&chunk["choices"][0]);
                    }
                }
                if received.calls.len() > CALLS_MAX {
                    return Err(garbled("the reply has too many tool calls"));
                }
            }
        } else {
            let Some(json) = parse_json(&reply.body).filter(|json| json["choices"][0]["message"].is_object()) else {
                return Err(match parse_json(&reply.body) {
                    Some(json) if !json["error"].is_null() => error(Some(&json), reply),
                    _ => of_reply(NAME, ErrorKind::Garbled, None, reply),
                });
            };
            received.head(&json);
            received.add(&json["choices"][0]["message"]);
            received.stop(&json["choices"][0]);
        }
        received.finish(reply)
    }

    fn probe(&self) -> HttpRequest {
        HttpRequest { method: Method::Get, path: "/models".into(), headers: Vec::new(), body: Value::Null }
    }
}

#[derive(Default)]
struct Received {
    text: String,
    refusal: String,
    calls: Vec<Value>,
    stop: Option<String>,
    done: bool,
    usage: Usage,
    model: String,
    id: Option<String>,
}

impl Received {
    fn head(&mut self, chunk: &Value) {
        if let Some(model) = chunk["model"].as_str().filter(|model| !model.is_empty()) {
            self.model = model.to_owned();
        }
        if let Some(id) = chunk["id"].as_str().filter(|id| !id.is_empty()) {
            self.id = Some(id.to_owned());
        }
        let figures = &chunk["usage"];
        if figures.is_object() {
            let number = |value: &Value| value.as_u64().unwrap_or(0);
            let prompt = number(&figures["prompt_tokens"]);
            let cached = number(&figures["prompt_tokens_details"]["cached_tokens"]).min(prompt);
            self.usage = Usage {
                input: prompt - cached,
                cache_read: cached,
                output: number(&figures["completion_tokens"]),
                reasoning: number(&figures["completion_tokens_details"]["reasoning_tokens"]),
                ..Usage::default()
            };
        }
    }

    fn stop(&mut self, choice: &Value) {
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.stop = Some(reason.to_owned());
        }
    }

    fn add(&mut self, delta: &Value) {
        self.text.push_str(delta["content"].as_str().unwrap_or_default());
        self.refusal.push_str(delta["refusal"].as_str().unwrap_or_default());
        for piece in delta["tool_calls"].as_array().into_iter().flatten() {
            let at = match piece["index"].as_u64() {
                Some(index) => usize::try_from(index).unwrap_or(usize::MAX).min(self.calls.len()),
                // Without an index: a piece with an id begins a call, one without goes on with the last.
                None if piece["id"].as_str().is_some_and(|id| !id.is_empty()) => self.calls.len(),
                None => self.calls.len().saturating_sub(1),
            };
            if at == self.calls.len() {
                self.calls.push(json!({}));
            }
            merge(&mut self.calls[at], piece);
        }
    }

    fn finish(self, reply: &HttpReply) -> Result<Reply, ProviderError> {
        let usage = self.usage;
        let fail = |kind, text: String| Err(ProviderError::new(NAME, kind, text).with_reply(reply).used(usage));
        let stop = match self.stop.as_deref() {
            None if !self.done => return fail(ErrorKind::Cut, "the reply broke off before its end".into()),
            None | Some("stop" | "tool_calls" | "function_call" | "eos" | "end_turn") => Stop::End,
            Some("length") => Stop::MaxTokens,
            Some(reason @ "content_filter") => {
                let kind = ErrorKind::Refused { category: Some(reason.to_owned()) };
                return fail(kind, "the reply was stopped by a content filter".into());
            }
            Some(other) => return fail(ErrorKind::Malformed, format!("the reply ended with {other}")),
        };
        if !self.refusal.trim().is_empty() {
            let text = format!("the model declines to answer: {}", self.refusal);
            return fail(ErrorKind::Refused { category: None }, text);
        }
        let mut wire = self.calls;
        if stop == Stop::MaxTokens {
            // The last call may be a half one.
            wire.pop();
        }
        let mut calls = Vec::with_capacity(wire.len());
        for (at, call) in wire.iter_mut().enumerate() {
            calls.push(take_call(call, at));
        }
        if stop == Stop::End && self.text.trim().is_empty() && calls.is_empty() {
            return fail(ErrorKind::Malformed, "the model said nothing".into());
        }
        let stop = if stop == Stop::End && !calls.is_empty() { Stop::Calls } else { stop };
        let native = if self.text.is_empty() && calls.is_empty() {
            json!({})
        } else {
            let content = if self.text.is_empty() { Value::Null } else { json!(self.text) };
            let mut native = json!({"role": "assistant", "content": content});
            if !wire.is_empty() {
                native["tool_calls"] = wire.into();
            }
            native
        };
        let message = AssistantMessage { provider: NAME.into(), native, text: self.text, calls };
        Ok(Reply { message, stop, usage, request_id: reply.request_id().or(self.id), model: self.model })
    }
}

/// A call as it goes back (`call` is completed where the server left something out), and as we use it.
fn take_call(call: &mut Value, at: usize) -> ToolCall {
    if let Some(fields) = call.as_object_mut() {
        fields.shift_remove("index");
        fields.entry("type").or_insert_with(|| json!("function"));
        if fields.get("id").and_then(Value::as_str).is_none_or(str::is_empty) {
            fields.insert("id".into(), json!(format!("devo-call-{}", at + 1)));
        }
    }
    let function = &mut call["function"];
    // The format wants text; some servers give the object itself, or nothing for no arguments.
    let text = match &function["arguments"] {
        Value::String(text) if text.trim().is_empty() => "{}".to_owned(),
        Value::String(text) => text.clone(),
        Value::Null => "{}".to_owned(),
        other => other.to_string(),
    };
    let (arguments, invalid) = match serde_json::from_str(&text) {
        Ok(arguments) => (arguments, None),
        Err(_) => (Value::Null, Some(text.clone())),
    };
    // Some servers refuse a history in which the arguments are not JSON.
    function["arguments"] = json!(if invalid.is_some() { "{}" } else { &text });
    let name = function["name"].as_str().unwrap_or_default().to_owned();
    ToolCall { id: call["id"].as_str().unwrap_or_default().to_owned(), name, arguments, invalid }
}

/// Adds a piece of a call: the arguments grow, everything else (fields that we do not know included) is set once.
fn merge(call: &mut Value, piece: &Value) {
    for (name, value) in piece.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        if name != "function" {
            if call[name.as_str()].is_null() {
                call[name.as_str()] = value.clone();
            }
            continue;
        }
        for (name, value) in value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            match (name.as_str(), &mut call["function"][name.as_str()], value) {
                ("arguments", Value::String(known), Value::String(more)) => known.push_str(more),
                (_, empty @ Value::Null, value) => *empty = value.clone(),
                _ => {}
            }
        }
    }
}

/// The error of a bad answer or of a chunk; clones disagree about its form.
fn error(json: Option<&Value>, reply: &HttpReply) -> ProviderError {
    let inner = json.map(|json| if json["error"].is_null() { json } else { &json["error"] });
    let message = inner.and_then(|inner| inner.as_str().or_else(|| inner["message"].as_str()));
    let word = |field: &str| inner.and_then(|inner| inner[field].as_str()).unwrap_or_default();
    let lower = message.unwrap_or_default().to_lowercase();
    let status = if reply.status == 200 {
        let code = inner.and_then(|inner| inner["code"].as_u64().or_else(|| inner["status"].as_u64()));
        code.and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400).unwrap_or(500)
    } else {
        reply.status
    };
    let kind = match (word("code"), word("type")) {
        ("context_length_exceeded", _) => ErrorKind::ContextTooLong,
        ("insufficient_quota", _) | (_, "insufficient_quota") => ErrorKind::Quota { daily: false },
        ("model_not_found", _) => ErrorKind::NotFound,
        ("invalid_api_key", _) => ErrorKind::Auth,
        ("rate_limit_exceeded", _) => ErrorKind::RateLimited,
        ("content_filter" | "content_policy_violation", _) => {
            ErrorKind::Refused { category: Some(word("code").into()) }
        }
        _ if status == 400 && lower.contains("maximum context length") => ErrorKind::ContextTooLong,
        _ => ErrorKind::of_status(status),
    };
    let made = of_reply(NAME, kind, message, reply);
    if lower.contains("max_completion_tokens") || lower.contains("'max_tokens'") {
        return made.advise("set `max_tokens_field` of this model in devo.yaml (`models:`) to the other name");
    }
    made
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
