//! Recorded bodies of the Messages API, whole and cut.

use super::super::testing::*;
use super::super::{Message, ToolResult};
use super::*;

const CALLS: &str = include_str!("fixtures/anthropic_calls.sse");
const TEXT: &str = include_str!("fixtures/anthropic_text.sse");

fn parsed(body: &str) -> Result<Reply, ProviderError> {
    Anthropic.reply(&stream(body))
}

#[test]
fn pieces_become_the_message_that_goes_back() {
    let reply = parsed(CALLS).unwrap();
    assert_eq!(
        reply.message.native,
        json!([
            {"type": "thinking", "thinking": "The sales module accepts anything.", "signature": "EqQBCgIYAhIM/abc+def=="},
            {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va=="},
            {"type": "text", "text": "Veo dos ficheros."},
            {"type": "tool_use", "id": "toolu_01", "name": "read_file", "input": {"path": "sales.py", "n": 1.0}},
            {"type": "tool_use", "id": "toolu_02", "name": "list_files", "input": {}, "caller": {"type": "direct"}},
        ])
    );
    assert_eq!((reply.stop, reply.message.text.as_str()), (Stop::Calls, "Veo dos ficheros."));
    let calls: Vec<_> = reply.message.calls.iter().map(|call| (call.id.as_str(), call.arguments.to_string())).collect();
    assert_eq!(calls, [("toolu_01", r#"{"path":"sales.py","n":1.0}"#.to_owned()), ("toolu_02", "{}".to_owned())]);
    let usage =
        Usage { input: 12, cache_read: 4096, cache_write_5m: 260, cache_write_1h: 40, output: 57, reasoning: 31 };
    assert_eq!(reply.usage, usage, "the last figures count, and do not wipe those that came before");
    assert_eq!((reply.request_id.as_deref(), reply.model.as_str()), (Some("msg_01A"), "claude-opus-5-5"));
    grows_by_appending(&Anthropic, &card("anthropic", "claude-opus-5-5"), &reply.message);
}

#[test]
fn a_body_that_is_not_streamed_is_the_same_message() {
    let whole = json!({
        "type": "message", "id": "msg_1", "model": "m", "role": "assistant", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "Hecho: 1 línea."}], "usage": {"input_tokens": 3, "output_tokens": 4},
    });
    let at_once = Anthropic.reply(&answer(200, &whole.to_string())).unwrap();
    assert_eq!(at_once.message, parsed(TEXT).unwrap().message);
    assert_eq!((at_once.usage.input, at_once.usage.output, at_once.stop), (3, 4, Stop::End));
}

#[test]
fn wherever_a_stream_is_cut_it_is_no_reply() {
    for body in [CALLS, TEXT] {
        let end = body.rfind("message_stop\"").unwrap();
        for at in (0..end).filter(|at| body.is_char_boundary(*at)).step_by(7) {
            let error = parsed(&body[..at]).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Cut, "cut at {at}: {error}");
        }
    }
    let error = parsed(&CALLS[..CALLS.len() / 2]).unwrap_err();
    assert!(error.retryable() && error.usage().unwrap().cache_read == 4096, "what it cost is known");
}

#[test]
fn a_limit_drops_the_call_that_it_cut() {
    let reply = parsed(include_str!("fixtures/anthropic_max_tokens.sse")).unwrap();
    assert_eq!((reply.stop, reply.message.calls.len()), (Stop::MaxTokens, 0));
    assert_eq!(reply.message.text, "Empiezo.");
    assert!(!reply.message.native.to_string().contains("toolu_03"));
    // Cut while thinking: nothing is left that may go back.
    let body = include_str!("fixtures/anthropic_max_tokens.sse");
    let (start, rest) =
        body.split_once("event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1").unwrap();
    let end = &rest[rest.find("event: message_delta").unwrap()..];
    let reply = parsed(&format!("{start}{end}")).unwrap();
    assert!(reply.message.is_empty() && reply.stop == Stop::MaxTokens);
}

#[test]
fn refusals_and_errors_within_a_stream_are_errors() {
    let refused = parsed(include_str!("fixtures/anthropic_refusal.sse")).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused { category: Some("cyber".into()) });
    assert!(!refused.retryable() && refused.usage().unwrap().output == 3);
    let overloaded = parsed(include_str!("fixtures/anthropic_overloaded.sse")).unwrap_err();
    assert_eq!((overloaded.kind.clone(), overloaded.retryable()), (ErrorKind::Overloaded, true));
    let broken = TEXT.replace("\"end_turn\"", "\"pause_turn\"");
    assert_eq!(parsed(&broken).unwrap_err().kind, ErrorKind::Malformed);
    let silent = TEXT.replace("Hecho: 1 línea.", "");
    assert_eq!(parsed(&silent).unwrap_err().kind, ErrorKind::Malformed);
    let full = TEXT.replace("\"end_turn\"", "\"model_context_window_exceeded\"");
    assert_eq!(parsed(&full).unwrap_err().kind, ErrorKind::ContextTooLong);
}

#[test]
fn input_that_is_not_json_is_kept_for_the_answer_and_not_sent_back() {
    let body = CALLS.replace(r#"es.py\", \"n\": 1.0}"#, r#"es.py\", oops"#);
    let reply = parsed(&body).unwrap();
    let call = &reply.message.calls[0];
    assert_eq!((&call.arguments, call.invalid.as_deref()), (&Value::Null, Some(r#"{"path": "sales.py", oops"#)));
    assert_eq!(reply.message.native[3]["input"], json!({}));
}

#[test]
fn errors_have_their_kind() {
    for (status, kind, message, wanted) in [
        (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", ErrorKind::ContextTooLong),
        (
            400,
            "invalid_request_error",
            "You have reached your specified API usage limits",
            ErrorKind::Quota { daily: false },
        ),
        (400, "invalid_request_error", "Your credit balance is too low", ErrorKind::Quota { daily: false }),
        (400, "invalid_request_error", "messages.1: text content blocks must be non-empty", ErrorKind::BadRequest),
        (401, "authentication_error", "invalid x-api-key", ErrorKind::Auth),
        (402, "billing_error", "pay", ErrorKind::Quota { daily: false }),
        (403, "permission_error", "no", ErrorKind::Auth),
        (404, "not_found_error", "model: claude-x", ErrorKind::NotFound),
        (413, "request_too_large", "big", ErrorKind::TooLarge),
        (429, "rate_limit_error", "slow down", ErrorKind::RateLimited),
        (500, "api_error", "oh", ErrorKind::Overloaded),
        (529, "overloaded_error", "Overloaded", ErrorKind::Overloaded),
    ] {
        let body = json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "r"});
        let error = Anthropic.reply(&answer(status, &body.to_string())).unwrap_err();
        assert_eq!(error.kind, wanted, "{status} {kind}");
        assert!(error.message().contains(message) && error.status() == Some(status));
    }
    for (status, body, wanted) in [
        (200, "<html>login</html>", ErrorKind::Garbled),
        (200, "", ErrorKind::Garbled),
        (200, "{\"type\":\"message\"}", ErrorKind::Garbled),
        (502, "<html>bad gateway</html>", ErrorKind::Overloaded),
        (302, "", ErrorKind::Redirected),
        (404, "nope", ErrorKind::NotFound),
    ] {
        assert_eq!(Anthropic.reply(&answer(status, body)).unwrap_err().kind, wanted, "{status} {body}");
    }
}

#[test]
fn hostile_bodies_do_not_panic() {
    for body in [
        "data: {\"type\":\"content_block_delta\",\"index\":3,\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\n",
        "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":\"x\"}\n\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\n",
        "data: {\"type\":\"message_start\",\"message\":7}\n\ndata: {\"type\":\"message_stop\"}\n\n",
        "data: 7\n\ndata: []\n\n",
        "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":{\"cache_creation_input_tokens\":1,\"cache_creation\":{\"ephemeral_1h_input_tokens\":9}}}\n\ndata: {\"type\":\"message_stop\"}\n\n",
    ] {
        parsed(body).unwrap_err();
    }
}

#[test]
fn the_request_is_what_the_api_wants() {
    let said = parsed(CALLS).unwrap().message;
    let history = vec![user("Validar stock"), Message::Assistant(said.clone()), results(&said, Some("mind the limit"))];
    let request = Anthropic.request(&card("anthropic", "claude-opus-5-5"), &request(history));
    assert_eq!(
        (request.path.as_str(), request.headers),
        ("/v1/messages", vec![("anthropic-version", "2026-10-21".into())])
    );
    let mark = json!({"type": "ephemeral"});
    let wanted = json!({
        "model": "claude-opus-5-5",
        "max_tokens": 4000,
        "stream": true,
        "thinking": {"type": "adaptive", "display": "summarized"},
        "cache_control": mark,
        "system": [{"type": "text", "text": "You plan.", "cache_control": mark}],
        "tools": [{"name": "read_file", "description": "Reads a file.", "input_schema": {
            "type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Validar stock"}]},
            {"role": "assistant", "content": said.native},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_01", "content": "def sell(): ..."},
                {"type": "tool_result", "tool_use_id": "toolu_02", "content": "(no output)", "is_error": true},
                {"type": "text", "text": "mind the limit"},
            ]},
        ],
    });
    assert_eq!(request.body.to_string(), wanted.to_string(), "byte for byte, order included");

    // The 4.5 line thinks by budget, below the limit; without room for the least budget it does not think.
    let old = card("anthropic", "claude-opus-4-5");
    let thinking = |limit| {
        let request = ChatRequest { max_output_tokens: limit, ..super::super::testing::request(vec![user("x")]) };
        Anthropic.request(&old, &request).body["thinking"].clone()
    };
    assert_eq!(thinking(64_000), json!({"type": "enabled", "budget_tokens": 8192}));
    assert_eq!(thinking(4_000), json!({"type": "enabled", "budget_tokens": 2000}));
    assert_eq!(thinking(2_000), Value::Null);
}

#[test]
fn lost_and_misordered_results_still_answer_every_call() {
    let said = parsed(CALLS).unwrap().message;
    let only_second = Message::Tools {
        results: vec![ToolResult {
            call_id: "toolu_02".into(),
            name: "list_files".into(),
            text: "b".into(),
            is_error: false,
        }],
        note: None,
    };
    let lost = vec![user("x"), Message::Assistant(said.clone()), user("go on")];
    let body = Anthropic.request(&card("anthropic", "claude-opus-5-5"), &request(lost)).body;
    assert_eq!(body["messages"][2]["content"][1]["tool_use_id"], "toolu_02");
    assert_eq!(body["messages"][3]["content"][0]["text"], "go on");
    let history = vec![user("x"), Message::Assistant(said), only_second];
    let body = Anthropic.request(&card("anthropic", "claude-opus-5-5"), &request(history)).body;
    let content = &body["messages"][2]["content"];
    assert_eq!((&content[0]["tool_use_id"], &content[0]["is_error"]), (&json!("toolu_01"), &json!(true)));
    assert_eq!((&content[1]["tool_use_id"], &content[1]["content"]), (&json!("toolu_02"), &json!("b")));
}
