//! Recorded bodies of chat completions, whole, cut and odd.

use super::super::Message;
use super::super::testing::*;
use super::*;

const CALLS: &str = include_str!("fixtures/openai_calls.sse");
const TEXT: &str = include_str!("fixtures/openai_text.sse");

fn parsed(body: &str) -> Result<Reply, ProviderError> {
    OpenAi.reply(&stream(body))
}

#[test]
fn deltas_become_the_message_that_goes_back() {
    let reply = parsed(CALLS).unwrap();
    assert_eq!(
        reply.message.native,
        json!({"role": "assistant", "content": "Leo dos.", "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "read_file", "arguments": "{\"path\":\"a.py\"}"},
             "extra_content": {"google": {"thought_signature": "c2ln"}}},
            {"id": "call_b", "type": "function", "function": {"name": "list_files", "arguments": "{}"}},
        ]})
    );
    let [good, bad] = &reply.message.calls[..] else { panic!("{:?}", reply.message.calls) };
    assert_eq!((good.arguments.clone(), &good.invalid), (json!({"path": "a.py"}), &None));
    assert_eq!((bad.arguments.clone(), bad.invalid.as_deref()), (Value::Null, Some("{\"oops")));
    let usage = Usage { input: 388, cache_read: 512, output: 70, reasoning: 20, ..Usage::default() };
    assert_eq!((reply.stop, reply.usage), (Stop::Calls, usage));
    assert_eq!((reply.model.as_str(), reply.request_id.as_deref()), ("qwen3-coder", Some("chatcmpl-1")));
    grows_by_appending(&OpenAi, &card("openai", "local"), &reply.message);
}

#[test]
fn clones_may_leave_out_index_id_and_type() {
    let body = concat!(
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"}\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":{\"x\":1}}}]},\"finish_reason\":\"stop\"}]}\n\n",
    );
    let reply = parsed(body).unwrap();
    let calls: Vec<_> =
        reply.message.calls.iter().map(|c| (c.id.as_str(), c.name.as_str(), c.arguments.to_string())).collect();
    assert_eq!(calls, [("a", "f", "{}".into()), ("b", "g", "{\"x\":1}".into())]);
    assert_eq!(reply.stop, Stop::Calls);
    let whole = json!({"model": "m", "choices": [{"finish_reason": "tool_calls", "message": {
        "role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}]}}]});
    let reply = OpenAi.reply(&answer(200, &whole.to_string())).unwrap();
    assert_eq!((reply.message.calls[0].id.as_str(), &reply.message.calls[0].arguments), ("devo-call-1", &json!({})));
    assert_eq!(reply.message.native["tool_calls"][0]["id"], "devo-call-1", "the answer must name what goes back");
}

#[test]
fn ends_and_missing_ends() {
    assert_eq!(parsed(TEXT).unwrap().message.text, "Hecho.");
    let end = TEXT.find("\"finish_reason\":\"stop\"").unwrap();
    for at in (0..end).filter(|at| TEXT.is_char_boundary(*at)).step_by(5) {
        assert_eq!(parsed(&TEXT[..at]).unwrap_err().kind, ErrorKind::Cut, "cut at {at}");
    }
    let limit = parsed(&CALLS.replace("\"finish_reason\":\"tool_calls\"", "\"finish_reason\":\"length\"")).unwrap();
    assert_eq!((limit.stop, limit.message.calls.len()), (Stop::MaxTokens, 1));
    let filter = parsed(&TEXT.replace("\"stop\"", "\"content_filter\"")).unwrap_err();
    assert_eq!(filter.kind, ErrorKind::Refused { category: Some("content_filter".into()) });
    let refusal = parsed(&TEXT.replace("\"content\":\"Hecho\"", "\"refusal\":\"I will not\"")).unwrap_err();
    assert!(matches!(refusal.kind, ErrorKind::Refused { .. }) && refusal.message().contains("I will not"));
    let silent = parsed(&TEXT.replace("\"Hecho\"", "\"\"").replace("\".\"", "\"\"")).unwrap_err();
    assert_eq!((silent.kind.clone(), silent.usage().unwrap().output), (ErrorKind::Malformed, 70));
}

#[test]
fn errors_have_their_kind() {
    for (status, body, wanted) in [
        (400, r#"{"error":{"message":"long","code":"context_length_exceeded"}}"#, ErrorKind::ContextTooLong),
        (
            400,
            r#"{"object":"error","message":"This model's maximum context length is 8","code":400}"#,
            ErrorKind::ContextTooLong,
        ),
        (401, r#"{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}"#, ErrorKind::Auth),
        (404, r#"{"error":"model 'x' not found"}"#, ErrorKind::NotFound),
        (
            429,
            r#"{"error":{"message":"m","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            ErrorKind::Quota { daily: false },
        ),
        (429, r#"{"error":{"message":"m","code":"rate_limit_exceeded"}}"#, ErrorKind::RateLimited),
        (503, "busy", ErrorKind::Overloaded),
        (200, r#"{"error":{"message":"m","code":429}}"#, ErrorKind::RateLimited),
        (200, "<html>", ErrorKind::Garbled),
        (200, "{\"choices\":[]}", ErrorKind::Garbled),
    ] {
        assert_eq!(OpenAi.reply(&answer(status, body)).unwrap_err().kind, wanted, "{status} {body}");
    }
    let within = "data: {\"error\":{\"message\":\"out of memory\"}}\n\n";
    assert_eq!(parsed(within).unwrap_err().kind, ErrorKind::Overloaded);
    assert_eq!(parsed("data: 7\n\ndata: {\"choices\":[{\"delta\":{\"tool_calls\":[7,{\"index\":99999999999,\"function\":5}]}}]}\n\n").unwrap_err().kind, ErrorKind::Cut);
}

#[test]
fn the_request_is_what_the_api_wants() {
    let said = parsed(CALLS).unwrap().message;
    let history = vec![user("Validar stock"), Message::Assistant(said.clone()), results(&said, Some("mind the limit"))];
    let mut card = card("openai", "local");
    card.max_tokens_field = MaxTokensField::MaxTokens;
    let request = OpenAi.request(&card, &request(history));
    let wanted = json!({
        "model": "local", "max_tokens": 4000, "stream": true, "stream_options": {"include_usage": true},
        "tools": [{"type": "function", "function": {"name": "read_file", "description": "Reads a file.", "parameters": {
            "type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}}],
        "messages": [
            {"role": "system", "content": "You plan."},
            {"role": "user", "content": "Validar stock"},
            said.native,
            {"role": "tool", "tool_call_id": "call_a", "content": "def sell(): ..."},
            {"role": "tool", "tool_call_id": "call_b", "content": "error: "},
            {"role": "user", "content": "mind the limit"},
        ],
    });
    assert_eq!((request.path.as_str(), request.body.to_string()), ("/chat/completions", wanted.to_string()));
}
