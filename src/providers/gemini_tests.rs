//! Recorded bodies of generateContent, whole and cut.

use super::super::Message;
use super::super::testing::*;
use super::*;

const CALLS: &str = include_str!("fixtures/gemini_calls.sse");
const TEXT: &str = include_str!("fixtures/gemini_text.sse");

fn parsed(body: &str) -> Result<Reply, ProviderError> {
    Gemini.reply(&stream(body))
}

#[test]
fn calls_keep_their_signature_in_their_part() {
    let reply = parsed(CALLS).unwrap();
    assert_eq!(
        reply.message.native,
        json!([
            {"text": "I look first.", "thought": true},
            {"text": "Leo el módulo."},
            {"functionCall": {"name": "read_file", "args": {"path": "sales.py"}, "id": "fc-1"}, "thoughtSignature": "c2lnLTE="},
            {"functionCall": {"name": "list_files", "args": {}, "id": "fc-2"}},
        ])
    );
    assert_eq!((reply.stop, reply.message.text.as_str()), (Stop::Calls, "Leo el módulo."), "STOP also ends calls");
    let usage = Usage { input: 904, cache_read: 4096, output: 140, reasoning: 100, ..Usage::default() };
    assert_eq!(reply.usage, usage, "cached tokens are part of the prompt figure, thoughts are not of the output's");
    assert_eq!((reply.model.as_str(), reply.request_id.as_deref()), ("gemini-3.8-flash-002", Some("resp-7")));
    grows_by_appending(&Gemini, &card("gemini", "gemini-3.8-flash"), &reply.message);
}

#[test]
fn parts_with_a_signature_are_never_joined_or_dropped() {
    let reply = parsed(TEXT).unwrap();
    assert_eq!(
        reply.message.native,
        json!([
            {"text": "Listo ya."},
            {"text": "con firma", "thoughtSignature": "c2lnLTA="},
            {"text": "!"},
            {"text": "", "thoughtSignature": "c2lnLTI=", "futureField": {"x": [1]}},
        ])
    );
    assert_eq!((reply.stop, reply.message.text.as_str()), (Stop::End, "Listo ya.con firma!"));
}

#[test]
fn an_array_of_chunks_and_a_single_answer_are_read_too() {
    let chunks: Vec<&str> = TEXT.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let array = Gemini.reply(&answer(200, &format!("[{}]", chunks.join(",")))).unwrap();
    assert_eq!(array, parsed(TEXT).unwrap());
}

#[test]
fn without_a_reason_to_end_it_is_no_reply() {
    let end = CALLS.find("finishReason").unwrap();
    for at in (0..end).filter(|at| CALLS.is_char_boundary(*at)).step_by(5) {
        assert_eq!(parsed(&CALLS[..at]).unwrap_err().kind, ErrorKind::Cut, "cut at {at}");
    }
}

#[test]
fn reasons_to_end_have_their_kind() {
    let with = |reason: &str| CALLS.replace("\"STOP\"", &format!("\"{reason}\",\"finishMessage\":\"said why\""));
    for (reason, wanted) in [
        ("MALFORMED_FUNCTION_CALL", ErrorKind::Malformed),
        ("MISSING_THOUGHT_SIGNATURE", ErrorKind::Malformed),
        ("SOMETHING_NEW", ErrorKind::Malformed),
        ("SAFETY", ErrorKind::Refused { category: Some("SAFETY".into()) }),
        ("IMAGE_SAFETY", ErrorKind::Refused { category: Some("IMAGE_SAFETY".into()) }),
    ] {
        let error = parsed(&with(reason)).unwrap_err();
        assert_eq!(error.kind, wanted);
        assert!(error.message().contains(reason) && error.message().contains("said why"));
        assert_eq!(error.usage().unwrap().output, 140);
    }
    let cut = parsed(&with("MAX_TOKENS")).unwrap();
    assert_eq!((cut.stop, cut.message.calls.len()), (Stop::MaxTokens, 1), "the last call may be half a call");
    let blocked = r#"{"promptFeedback":{"blockReason":"PROHIBITED_CONTENT"},"usageMetadata":{"promptTokenCount":5}}"#;
    let error = Gemini.reply(&answer(200, blocked)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused { category: Some("PROHIBITED_CONTENT".into()) });
    let empty = r#"{"candidates":[{"content":{"role":"model"},"finishReason":"STOP"}]}"#;
    assert_eq!(Gemini.reply(&answer(200, empty)).unwrap_err().kind, ErrorKind::Malformed);
    let thoughts_only =
        r#"{"candidates":[{"content":{"parts":[{"text":"hm","thought":true}]},"finishReason":"MAX_TOKENS"}]}"#;
    assert!(Gemini.reply(&answer(200, thoughts_only)).unwrap().message.is_empty());
}

#[test]
fn errors_have_their_kind_and_delay() {
    let error = |status, body: &str| Gemini.reply(&answer(status, body)).unwrap_err();
    let minute = error(429, include_str!("fixtures/gemini_429_minute.json"));
    assert_eq!((minute.kind.clone(), minute.retry_after().unwrap().as_secs_f64()), (ErrorKind::RateLimited, 12.5));
    let day = error(429, include_str!("fixtures/gemini_429_day.json"));
    assert_eq!((day.kind.clone(), day.retryable()), (ErrorKind::Quota { daily: true }, false));
    let busy = error(503, &format!("[{}]", include_str!("fixtures/gemini_503.json")));
    assert_eq!((busy.kind.clone(), busy.retry_after().unwrap().as_secs()), (ErrorKind::Overloaded, 3));
    let key = error(400, include_str!("fixtures/gemini_bad_key.json"));
    assert_eq!((key.kind.clone(), key.retryable()), (ErrorKind::Auth, false));
    let long = r#"{"error":{"code":400,"message":"The input token count (9) exceeds the maximum number of tokens allowed (5)."}}"#;
    assert_eq!(error(400, long).kind, ErrorKind::ContextTooLong);
    for (status, body, wanted) in [
        (400, r#"{"error":{"code":400,"message":"Unknown name"}}"#, ErrorKind::BadRequest),
        (403, "", ErrorKind::Auth),
        (404, "{}", ErrorKind::NotFound),
        (500, "<html>", ErrorKind::Overloaded),
        (504, "", ErrorKind::Timeout),
        (200, "<html>hello</html>", ErrorKind::Garbled),
        (200, "{}", ErrorKind::Garbled),
        (200, "", ErrorKind::Garbled),
    ] {
        assert_eq!(error(status, body).kind, wanted, "{status} {body}");
    }
    let within = format!(
        "{}data: {}\n\n",
        &TEXT[..TEXT.find("\n\n").unwrap() + 2],
        r#"{"error":{"code":503,"message":"overloaded"}}"#
    );
    assert_eq!(parsed(&within).unwrap_err().kind, ErrorKind::Overloaded);
}

#[test]
fn the_request_is_what_the_api_wants() {
    let said = parsed(CALLS).unwrap().message;
    let history = vec![user("Validar stock"), Message::Assistant(said.clone()), results(&said, Some("mind the limit"))];
    let request = Gemini.request(&card("gemini", "gemini-3.8-flash"), &request(history));
    assert_eq!(request.path, "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse");
    let wanted = json!({
        "generationConfig": {"maxOutputTokens": 4000, "thinkingConfig": {"thinkingLevel": "MEDIUM"}},
        "systemInstruction": {"parts": [{"text": "You plan."}]},
        "tools": [{"functionDeclarations": [{"name": "read_file", "description": "Reads a file.", "parametersJsonSchema": {
            "type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}]}],
        "contents": [
            {"role": "user", "parts": [{"text": "Validar stock"}]},
            {"role": "model", "parts": said.native},
            {"role": "user", "parts": [
                {"functionResponse": {"id": "fc-1", "name": "read_file", "response": {"output": "def sell(): ..."}}},
                {"functionResponse": {"id": "fc-2", "name": "list_files", "response": {"error": ""}}},
                {"text": "mind the limit"},
            ]},
        ],
    });
    assert_eq!(request.body.to_string(), wanted.to_string(), "byte for byte, order included");
}

#[test]
fn calls_without_an_id_get_one_of_ours_that_is_not_sent() {
    let body = CALLS.replace(",\"id\":\"fc-1\"", "").replace(",\"id\":\"fc-2\"", "");
    let said = parsed(&body).unwrap().message;
    assert_ne!(said.calls[0].id, said.calls[1].id);
    let body = Gemini
        .request(
            &card("gemini", "gemini-3.8-flash"),
            &request(vec![user("x"), Message::Assistant(said.clone()), results(&said, None)]),
        )
        .body;
    assert_eq!(body["contents"][2]["parts"][0]["functionResponse"].get("id"), None);
    let odd = ModelCard { id: "../a b?x".into(), ..card("gemini", "gemini-3.8-flash") };
    let path = Gemini.request(&odd, &request(vec![user("x")])).path;
    assert_eq!(path, "/v1beta/models/..%2Fa%20b%3Fx:streamGenerateContent?alt=sse");
}
