//! Google's generateContent. Knows its format, nothing of networks, keys and retries.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::error::{ErrorKind, json as parse_json, of_reply, seconds};
use super::history::{Turn, turns};
use super::http::Method;
use super::sse::{self, Event};
use super::{
    Access, AssistantMessage, ChatRequest, HttpReply, HttpRequest, ModelCard, Provider, ProviderError, Reply, Stop,
    ToolCall, ToolSpec,
};
use crate::core::budget::Usage;

/// `POST /v1beta/models/{id}:streamGenerateContent`.
#[derive(Debug)]
pub(super) struct Gemini;

const NAME: &str = "gemini";
/// What is escaped in a model's id within a path.
const MODEL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

impl Provider for Gemini {
    fn name(&self) -> &'static str {
        NAME
    }

    fn access(&self) -> &'static Access {
        &Access {
            key_vars: &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
            base_var: "GOOGLE_GEMINI_BASE_URL",
            base_url: "https://generativelanguage.googleapis.com",
            key_header: "x-goog-api-key",
            key_prefix: "",
            keyless_elsewhere: false,
        }
    }

    fn request(&self, card: &ModelCard, request: &ChatRequest) -> HttpRequest {
        let mut config = Map::new();
        config.insert("maxOutputTokens".into(), json!(request.max_output_tokens.clamp(1, card.max_output)));
        // Level and budget exclude each other.
        let budget = card.thinking.as_ref().and_then(|thinking| thinking.budget_tokens);
        match (&card.effort, budget) {
            (Some(effort), _) => {
                config.insert("thinkingConfig".into(), json!({"thinkingLevel": effort.to_ascii_uppercase()}));
            }
            (None, Some(budget)) => {
                config.insert("thinkingConfig".into(), json!({"thinkingBudget": budget}));
            }
            (None, None) => {}
        }
        let mut body = Map::new();
        body.insert("generationConfig".into(), config.into());
        if !request.system.trim().is_empty() {
            body.insert("systemInstruction".into(), json!({"parts": [{"text": request.system}]}));
        }
        if !request.tools.is_empty() {
            let tools = request.tools.iter().map(|ToolSpec { name, description, schema }| {
                json!({"name": name, "description": description, "parametersJsonSchema": schema})
            });
            let tools: Vec<Value> = tools.collect();
            body.insert("tools".into(), json!([{"functionDeclarations": tools}]));
        }
        let contents: Vec<Value> = turns(&request.messages, NAME).into_iter().map(content).collect();
        body.insert("contents".into(), contents.into());
        let model = utf8_percent_encode(&card.id, MODEL);
        HttpRequest {
            method: Method::Post,
            path: format!("/v1beta/models/{model}:streamGenerateContent?alt=sse"),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    fn reply(&self, reply: &HttpReply) -> Result<Reply, ProviderError> {
        let streamed = sse::is_stream(reply.header("content-type"), &reply.body);
        let chunks = if streamed && reply.status == 200 {
            let events = sse::events(&reply.body).map_err(|_| {
                ProviderError::new(NAME, ErrorKind::Garbled, "an event of the stream is not JSON").with_reply(reply)
            })?;
            let json = |event| match event {
                Event::Json(json) => Some(json),
                Event::Done => None,
            };
            events.into_iter().filter_map(json).collect()
        } else {
            // Without `alt=sse` a stream is one array.
            match parse_json(&reply.body) {
                Some(Value::Array(chunks)) => chunks,
                Some(chunk) => vec![chunk],
                None => Vec::new(),
            }
        };
        if reply.status != 200 {
            return Err(error(chunks.first(), reply));
        }
        let mut received = Received::default();
        for chunk in &chunks {
            if chunk.get("error").is_some() {
                return Err(error(Some(chunk), reply).used(received.usage));
            }
            received.add(chunk);
        }
        if !received.known {
            return Err(if streamed && chunks.is_empty() {
                ProviderError::new(NAME, ErrorKind::Cut, "the reply broke off before its start").with_reply(reply)
            } else {
                of_reply(NAME, ErrorKind::Garbled, None, reply)
            });
        }
        received.finish(reply)
    }

    fn probe(&self) -> HttpRequest {
        HttpRequest {
            method: Method::Get,
            path: "/v1beta/models?pageSize=1".into(),
            headers: Vec::new(),
            body: Value::Null,
        }
    }
}

fn content(turn: Turn<'_>) -> Value {
    match turn {
        Turn::User(said) => json!({"role": "user", "parts": [{"text": said}]}),
        Turn::Assistant(said) => json!({"role": "model", "parts": [{"text": said}]}),
        Turn::Native(said) => json!({"role": "model", "parts": said.native}),
        Turn::Results { answers, note } => {
            let mut parts: Vec<Value> = answers
                .iter()
                .map(|answer| {
                    let word = if answer.is_error { "error" } else { "output" };
                    let mut body = Map::new();
                    // A wrong id is refused, an absent one is not: ours stay at home.
                    if !answer.call.id.starts_with(OWN_ID) {
                        body.insert("id".into(), json!(answer.call.id));
                    }
                    body.insert("name".into(), json!(answer.call.name));
                    body.insert("response".into(), json!({ word: answer.text }));
                    json!({"functionResponse": body})
                })
                .collect();
            parts.extend(note.map(|note| json!({"text": note})));
            json!({"role": "user", "parts": parts})
        }
    }
}

/// Begins the ids that we give to calls without one.
const OWN_ID: &str = "devo-call-";

#[derive(Default)]
struct Received {
    /// Whether anything had this provider's format.
    known: bool,
    parts: Vec<Value>,
    finish: Option<String>,
    why: Option<String>,
    blocked: Option<String>,
    usage: Usage,
    model: String,
    id: Option<String>,
}

impl Received {
    fn add(&mut self, chunk: &Value) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let candidate = &chunk["candidates"][0];
        self.known |=
            candidate.is_object() || chunk["promptFeedback"].is_object() || chunk["usageMetadata"].is_object();
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            self.add_part(part);
        }
        self.finish = text(&candidate["finishReason"]).or(self.finish.take());
        self.why = text(&candidate["finishMessage"]).or(self.why.take());
        self.blocked = text(&chunk["promptFeedback"]["blockReason"]).or(self.blocked.take());
        if let Some(model) = chunk["modelVersion"].as_str() {
            self.model = model.to_owned();
        }
        self.id = text(&chunk["responseId"]).or(self.id.take());
        if let Some(figures) = chunk["usageMetadata"].as_object() {
            let number = |name: &str| figures.get(name).and_then(Value::as_u64).unwrap_or(0);
            let prompt = number("promptTokenCount").saturating_add(number("toolUsePromptTokenCount"));
            let cached = number("cachedContentTokenCount").min(prompt);
            let reasoning = number("thoughtsTokenCount");
            self.usage = Usage {
                input: prompt - cached,
                cache_read: cached,
                output: number("candidatesTokenCount").saturating_add(reasoning),
                reasoning,
                ..Usage::default()
            };
        }
    }

    /// Pieces of one text are joined; anything with a signature, or that we do not know, stays a part of its own.
    fn add_part(&mut self, part: &Value) {
        if let Some((text, thought)) = plain(part) {
            if text.is_empty() {
                // Refused when sent back, and nothing is lost: it carries no signature.
                return;
            }
            if let Some(last) = self.parts.last_mut()
                && plain(last).is_some_and(|(_, before)| before == thought)
                && let Value::String(known) = &mut last["text"]
            {
                known.push_str(text);
                return;
            }
        }
        if part.as_object().is_some_and(|fields| !fields.is_empty()) {
            self.parts.push(part.clone());
        }
    }

    fn finish(mut self, reply: &HttpReply) -> Result<Reply, ProviderError> {
        let usage = self.usage;
        let why = self.why.take().map(|why| format!(": {why}")).unwrap_or_default();
        let fail = |kind, text: String| Err(ProviderError::new(NAME, kind, text).with_reply(reply).used(usage));
        if let Some(reason) = self.blocked {
            let text = format!("the prompt was refused ({reason})");
            return fail(ErrorKind::Refused { category: Some(reason) }, text);
        }
        let stop = match self.finish.as_deref() {
            None => return fail(ErrorKind::Cut, "the reply broke off before its end".into()),
            Some("STOP") => Stop::End,
            Some("MAX_TOKENS" | "CONTINUATION") => Stop::MaxTokens,
            Some(reason @ ("SAFETY" | "PROHIBITED_CONTENT" | "BLOCKLIST" | "SPII" | "MODEL_ARMOR")) => {
                let text = format!("the model declines to answer ({reason}){why}");
                return fail(ErrorKind::Refused { category: Some(reason.to_owned()) }, text);
            }
            Some(reason) if reason.starts_with("IMAGE_") => {
                let text = format!("the model declines to answer ({reason}){why}");
                return fail(ErrorKind::Refused { category: Some(reason.to_owned()) }, text);
            }
            // Malformed calls, recitation and whatever comes next: nothing that can be used or appended.
            Some(reason) => return fail(ErrorKind::Malformed, format!("the reply ended with {reason}{why}")),
        };
        if stop == Stop::MaxTokens && self.parts.last().is_some_and(|part| part.get("functionCall").is_some()) {
            self.parts.pop();
        }
        let mut message =
            AssistantMessage { provider: NAME.into(), native: Value::Null, text: String::new(), calls: Vec::new() };
        for part in &self.parts {
            if let Some(call) = part.get("functionCall") {
                let own = || format!("{OWN_ID}{}", message.calls.len() + 1);
                message.calls.push(ToolCall {
                    id: call["id"].as_str().filter(|id| !id.is_empty()).map_or_else(own, str::to_owned),
                    name: call["name"].as_str().unwrap_or_default().to_owned(),
                    arguments: call.get("args").filter(|args| !args.is_null()).cloned().unwrap_or_else(|| json!({})),
                    invalid: None,
                });
            } else if part["thought"] != true {
                message.text.push_str(part["text"].as_str().unwrap_or_default());
            }
        }
        let empty = message.text.trim().is_empty() && message.calls.is_empty();
        if empty && stop == Stop::End {
            return fail(ErrorKind::Malformed, "the model said nothing".into());
        }
        let only_thoughts = self.parts.iter().all(|part| part["thought"] == true);
        message.native = if empty && only_thoughts { json!([]) } else { self.parts.into() };
        // STOP also ends a message with calls: the parts decide.
        let stop = if stop == Stop::End && !message.calls.is_empty() { Stop::Calls } else { stop };
        Ok(Reply { message, stop, usage, request_id: reply.request_id().or(self.id), model: self.model })
    }
}

/// The text of a part that has nothing else, and whether it is a thought.
fn plain(part: &Value) -> Option<(&str, bool)> {
    let fields = part.as_object()?;
    let text = fields.get("text")?.as_str()?;
    match (fields.len(), fields.get("thought")) {
        (1, _) => Some((text, false)),
        (2, Some(Value::Bool(thought))) => Some((text, *thought)),
        _ => None,
    }
}

/// The error of a bad answer or of a chunk.
fn error(json: Option<&Value>, reply: &HttpReply) -> ProviderError {
    let inner = json.map(|json| &json["error"]).filter(|inner| inner.is_object());
    let message = inner.and_then(|inner| inner["message"].as_str());
    let lower = message.unwrap_or_default().to_lowercase();
    let details: Vec<&Value> =
        inner.and_then(|inner| inner["details"].as_array()).map(|all| all.iter().collect()).unwrap_or_default();
    let per_day = details.iter().flat_map(|detail| detail["violations"].as_array()).flatten().any(|violation| {
        let id = violation["quotaId"].as_str().unwrap_or_default();
        id.contains("PerDay")
    });
    let delay = details.iter().find_map(|detail| detail["retryDelay"].as_str());
    let delay = delay.and_then(|text| seconds(text.trim().strip_suffix('s')?.parse().ok()?));
    let bad_key = details.iter().any(|detail| detail["reason"] == "API_KEY_INVALID");
    let status = if reply.status == 200 {
        inner.and_then(|inner| inner["code"].as_u64()).and_then(|code| u16::try_from(code).ok()).unwrap_or(500)
    } else {
        reply.status
    };
    let kind = match status {
        429 if per_day => ErrorKind::Quota { daily: true },
        400 if bad_key => ErrorKind::Auth,
        400 if lower.contains("exceeds the maximum number of tokens") => ErrorKind::ContextTooLong,
        499 => ErrorKind::Timeout,
        other => ErrorKind::of_status(other),
    };
    of_reply(NAME, kind, message, reply).after(delay)
}

#[cfg(test)]
#[path = "gemini_tests.rs"]
mod tests;
