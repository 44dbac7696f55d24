//! The client against scripts, a strict server, and servers that break in every way; knows no real provider.

use std::collections::VecDeque;
use std::sync::Mutex;

use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use wiremock::matchers::{any, body_json, header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::super::http::{HttpReply, HttpRequest, TransportError};
use super::super::testing::*;
use super::super::{Stop, provider};
use super::*;

const KEY: &str = "sk-ant-very-secret-0123456789";
const TEXT: &str = include_str!("fixtures/anthropic_text.sse");

/// Waits for nothing and remembers for how long.
#[derive(Default)]
struct Patience(Mutex<Vec<f64>>);

#[async_trait]
impl Sleeper for Patience {
    async fn sleep(&self, time: Duration) {
        self.0.lock().unwrap().push(time.as_secs_f64());
    }

    fn chance(&self) -> f64 {
        1.0
    }
}

/// Answers from a list.
#[derive(Debug, Default)]
struct Script(Mutex<VecDeque<Result<HttpReply, TransportError>>>, Mutex<Vec<Value>>);

impl Script {
    fn new(replies: impl IntoIterator<Item = Result<HttpReply, TransportError>>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(replies.into_iter().collect()), Mutex::default()))
    }
}

#[async_trait]
impl Transport for Script {
    async fn send(&self, request: HttpRequest) -> Result<HttpReply, TransportError> {
        self.1.lock().unwrap().push(request.body);
        let next = self.0.lock().unwrap().pop_front();
        match next {
            Some(reply) => reply,
            None => std::future::pending().await,
        }
    }
}

fn over_script(script: &Arc<Script>) -> (Client, Arc<Patience>) {
    let patience = Arc::new(Patience::default());
    let client =
        Client::new(provider("anthropic").unwrap(), card("anthropic", "claude-opus-5-5"), Arc::clone(script) as _)
            .sleeper(Arc::clone(&patience) as _);
    (client, patience)
}

fn over_http(name: &str, model: &str, base: &str) -> (Client, Arc<Patience>) {
    let provider = provider(name).unwrap();
    let endpoint = Endpoint::new("BASE", base, Some(SecretString::from(KEY.to_owned()))).unwrap();
    let patience = Arc::new(Patience::default());
    let masker = Masker::default();
    let transport = http_transport(provider, &endpoint, &masker).unwrap();
    let client = Client::new(provider, card(name, model), transport).masker(masker);
    (client.sleeper(Arc::clone(&patience) as _), patience)
}

async fn ask(client: &Client) -> Result<Reply, ProviderError> {
    client.chat(&request(vec![user("Validar stock")]), &CancellationToken::new()).await
}

/// A server that reads each request whole and writes the next bytes, then hangs up; `None` hangs up at once.
async fn raw(answers: Vec<Option<Vec<u8>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            // Unread bytes make the system reset the connection.
            let Some(answer) = answer else { continue };
            let mut seen = Vec::new();
            loop {
                let text = String::from_utf8_lossy(&seen).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head
                        .lines()
                        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                    if body.len() >= length.unwrap_or(0) {
                        break;
                    }
                }
                let mut buffer = [0; 4096];
                let read = socket.read(&mut buffer).await.unwrap();
                assert!(read > 0, "the request must be whole");
                seen.extend_from_slice(&buffer[..read]);
            }
            socket.write_all(&answer).await.unwrap();
            socket.shutdown().await.ok();
        }
    });
    base
}

fn http(status: &str, kind: &str, length: usize, body: &str) -> Option<Vec<u8>> {
    Some(format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes())
}

#[tokio::test]
async fn a_strict_server_sees_the_same_request_until_it_answers() {
    let server = MockServer::start().await;
    let wanted = provider("anthropic")
        .unwrap()
        .request(&card("anthropic", "claude-opus-5-5"), &request(vec![user("Validar stock")]));
    let strict = || {
        Mock::given(method("POST"))
            .and(path("/v1/messages"))
            .and(header("x-api-key", KEY))
            .and(header("anthropic-version", "2026-10-21"))
            .and(header("content-type", "application/json"))
            .and(body_json(&wanted.body))
    };
    let busy = r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}"#;
    let limited = ResponseTemplate::new(429).insert_header("retry-after", "7").set_body_string(busy);
    let dated = ResponseTemplate::new(429)
        .insert_header("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT")
        .insert_header("date", "Wed, 21 Oct 2026 07:28:00 GMT")
        .set_body_string(busy);
    let overloaded = ResponseTemplate::new(529).set_body_string(busy.replace("rate_limit", "overloaded"));
    let good = ResponseTemplate::new(200).set_body_raw(TEXT, "text/event-stream; charset=utf-8");
    for answer in [limited, dated, overloaded] {
        strict().respond_with(answer).up_to_n_times(1).expect(1).mount(&server).await;
    }
    strict().respond_with(good).expect(1).mount(&server).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let (client, patience) = over_http("anthropic", "claude-opus-5-5", &server.uri());
    let client = client.observer({
        let told = Arc::clone(&told);
        move |retrying| told.lock().unwrap().push(retrying.to_string())
    });
    let reply = ask(&client).await.unwrap();
    assert_eq!((reply.message.text.as_str(), reply.stop), ("Hecho: 1 línea.", Stop::End));
    // Never earlier than asked; then our own, the third of its kind.
    assert_eq!(*patience.0.lock().unwrap(), [7.7, 31.0, 4.0]);
    let told = told.lock().unwrap();
    assert_eq!(told[0], "trying again in 7.7 s (rate_limited, try 1 of 6): anthropic: slow down (HTTP 429)");
}

#[tokio::test]
async fn gemini_says_in_the_body_how_long_to_wait() {
    let server = MockServer::start().await;
    let busy = ResponseTemplate::new(503).set_body_string(include_str!("fixtures/gemini_503.json"));
    let good = ResponseTemplate::new(200).set_body_raw(include_str!("fixtures/gemini_text.sse"), "text/event-stream");
    let strict = || {
        Mock::given(path("/v1beta/models/gemini-3.8-flash:streamGenerateContent"))
            .and(query_param("alt", "sse"))
            .and(header("x-goog-api-key", KEY))
    };
    strict().respond_with(busy).up_to_n_times(1).mount(&server).await;
    strict().respond_with(good).mount(&server).await;
    let (client, patience) = over_http("gemini", "gemini-3.8-flash", &server.uri());
    assert_eq!(ask(&client).await.unwrap().message.text, "Listo ya.con firma!");
    assert_eq!(*patience.0.lock().unwrap(), [3.3]);
}

#[tokio::test]
async fn broken_connections_bodies_and_gateways_are_outlived() {
    let chunked =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n20\r\nevent: ping\r\n";
    let half = &TEXT[..TEXT.len() / 2];
    let base = raw(vec![
        None,
        http("200 OK", "text/event-stream", TEXT.len(), half),
        Some(chunked.as_bytes().to_vec()),
        http("200 OK", "application/json", 9, "{\"type\":["),
        http("502 Bad Gateway", "text/html", 6, "<html>"),
        http("200 OK", "text/event-stream", TEXT.len(), TEXT),
    ])
    .await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let (client, _) = over_http("anthropic", "claude-opus-5-5", &base);
    let client = client.observer({
        let told = Arc::clone(&told);
        move |retrying| told.lock().unwrap().push(retrying.error.code())
    });
    assert_eq!(ask(&client).await.unwrap().message.text, "Hecho: 1 línea.");
    assert_eq!(*told.lock().unwrap(), ["network", "cut_reply", "cut_reply", "garbled_reply", "overloaded"]);
}

#[tokio::test]
async fn nobody_there_is_a_network_error_without_the_address_or_the_payload() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/secret-path", gone.local_addr().unwrap());
    drop(gone);
    let (client, patience) = over_http("anthropic", "claude-opus-5-5", &base);
    let error = ask(&client).await.unwrap_err();
    assert_eq!((error.code(), error.retryable()), ("network", true));
    assert_eq!(patience.0.lock().unwrap().len(), 5, "six tries");
    for text in [error.to_string(), format!("{error:?}"), format!("{:?}", error.to_failure()), format!("{client:?}")] {
        assert!(!text.contains(KEY) && !text.contains("Validar") && !text.contains("/v1/messages"), "{text}");
    }
}

#[tokio::test]
async fn a_bad_key_is_not_tried_again_and_not_repeated() {
    let server = MockServer::start().await;
    let body =
        format!(r#"{{"type":"error","error":{{"type":"authentication_error","message":"bad key {KEY} here"}}}}"#);
    Mock::given(any()).respond_with(ResponseTemplate::new(401).set_body_string(body)).expect(2).mount(&server).await;
    let (client, patience) = over_http("anthropic", "claude-opus-5-5", &server.uri());
    for error in [ask(&client).await.unwrap_err(), client.probe().await.unwrap_err()] {
        assert_eq!((error.code(), error.retryable()), ("bad_key", false));
        assert_eq!(error.message(), "bad key *** here (HTTP 401)");
        assert!(error.hint().unwrap().contains("ANTHROPIC_API_KEY"));
    }
    assert!(patience.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_redirect_does_not_take_the_key_along() {
    let (thief, server) = (MockServer::start().await, MockServer::start().await);
    Mock::given(any()).respond_with(ResponseTemplate::new(200)).expect(0).mount(&thief).await;
    let away = ResponseTemplate::new(307).insert_header("location", format!("{}/v1/messages", thief.uri()));
    Mock::given(any()).respond_with(away).expect(1).mount(&server).await;
    let (client, _) = over_http("anthropic", "claude-opus-5-5", &server.uri());
    let error = ask(&client).await.unwrap_err();
    assert_eq!((error.code(), error.retryable()), ("redirected", false));
    assert!(error.to_string().contains("127.0.0.1") && error.hint().unwrap().contains("ANTHROPIC_BASE_URL"));
}

#[tokio::test]
async fn too_much_and_too_slow_have_limits() {
    let provider = provider("openai").unwrap();
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(200).set_body_string("x".repeat(5000))).mount(&server).await;
    let transport =
        |base: &str, limits| HttpTransport::new(provider, &Endpoint::new("B", base, None).unwrap(), limits).unwrap();
    let small = HttpLimits { body: 4999, ..HttpLimits::default() };
    let error = transport(&server.uri(), small).send(provider.probe()).await.unwrap_err();
    assert_eq!(error, TransportError::TooLarge { limit: 4999 });

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let quick = HttpLimits { idle: Duration::from_millis(50), ..HttpLimits::default() };
    let base = format!("http://{}", silent.local_addr().unwrap());
    let error = transport(&base, quick).send(provider.probe()).await.unwrap_err();
    assert!(matches!(error, TransportError::Timeout { .. }), "{error:?}");
}

#[test]
fn a_key_is_needed_unless_the_server_is_ones_own() {
    let make = |name: &str, base: &str, key: Option<&str>| {
        let key = key.map(|key| SecretString::from(key.to_owned()));
        let provider = provider(name).unwrap();
        let model = if name == "openai" { "local" } else { "claude-opus-5-5" };
        let endpoint = Endpoint::new("B", base, key).unwrap();
        http_transport(provider, &endpoint, &Masker::default())
            .map(|made| Client::new(provider, card(name, model), made))
    };
    let error = make("anthropic", "http://127.0.0.1:1", None).unwrap_err();
    assert_eq!((error.code(), error.retryable()), ("no_key", false));
    assert!(error.hint().unwrap().contains("ANTHROPIC_API_KEY_FILE"));
    assert_eq!(make("openai", "https://api.openai.com/v1", None).unwrap_err().code(), "no_key");
    assert!(make("openai", "http://127.0.0.1:11434/v1", None).is_ok());
    let odd = make("anthropic", "http://127.0.0.1:1", Some("sk-bad\nkey-value")).unwrap_err();
    assert!(!odd.to_string().contains("bad"), "{odd}");
}

#[tokio::test]
async fn a_wait_beyond_the_cap_is_the_callers() {
    let mut limited = answer(429, "{}");
    limited.headers.push(("retry-after".into(), "3600".into()));
    let script = Script::new([Ok(limited)]);
    let (client, patience) = over_script(&script);
    let error = ask(&client).await.unwrap_err();
    assert_eq!((error.retryable(), error.retry_after()), (true, Some(Duration::from_secs(3600))));
    assert!(patience.0.lock().unwrap().is_empty());

    // Many small waits count together.
    let many = Script::new((0..6).map(|_| Ok(answer(503, ""))));
    let (client, patience) = over_script(&many);
    let client = client.retry(RetryPolicy { total: Duration::from_secs(8), ..RetryPolicy::default() });
    assert!(ask(&client).await.unwrap_err().retryable());
    assert_eq!(*patience.0.lock().unwrap(), [1.0, 2.0, 4.0]);
}

#[tokio::test]
async fn tries_are_counted_and_what_they_used_is_paid() {
    let script = Script::new((0..9).map(|_| Ok(stream(&TEXT.replace("\"end_turn\"", "\"odd\"")))));
    let (client, _) = over_script(&script);
    let error = ask(&client).await.unwrap_err();
    assert_eq!((error.code(), script.1.lock().unwrap().len()), ("malformed_reply", 3));
    assert_eq!(error.usage().unwrap().output, 3 * 9);

    let half = stream(&TEXT[..TEXT.find("message_delta").unwrap()]);
    let script = Script::new([Ok(half), Err(TransportError::Connect("reset".into())), Ok(stream(TEXT))]);
    let (client, _) = over_script(&script);
    let reply = ask(&client).await.unwrap();
    assert_eq!((reply.usage.output, reply.usage.cache_read), (1 + 9, 2 * 4096));
    let bodies = script.1.lock().unwrap();
    assert!(bodies.len() == 3 && bodies.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn tries_that_were_answered_cost_their_prompt_at_least() {
    let timeout = |what| TransportError::Timeout { what, limit: Duration::from_secs(90) };
    let asked = request(vec![user("Validar stock")]);
    let prompt = |client: &Client| Usage { output: 0, ..client.estimate(&asked) };
    // Broken off, silent, something else, an empty stream: each of the six tries may have been paid for.
    let broken = [
        Err(TransportError::Cut("reset".into())),
        Err(timeout("the next bytes")),
        Ok(answer(200, "<html>")),
        Ok(stream("")),
        Err(TransportError::Cut("reset".into())),
        Err(TransportError::Cut("reset".into())),
    ];
    let (client, _) = over_script(&Script::new(broken));
    let error = ask(&client).await.unwrap_err();
    assert_eq!((error.code(), error.usage().unwrap().total()), ("cut_reply", 6 * prompt(&client).total()));
    assert!(prompt(&client).total() > 50);

    // Nothing was sent, or the provider refused to begin.
    let free = [
        Err(TransportError::Connect("refused".into())),
        Err(timeout("connecting")),
        Ok(answer(503, "")),
        Ok(answer(429, "{}")),
        Ok(answer(401, "{}")),
    ];
    let (client, _) = over_script(&Script::new(free));
    let error = ask(&client).await.unwrap_err();
    assert_eq!((error.code(), error.usage()), ("bad_key", None));

    // Stopped while the answer was awaited.
    let (client, _) = over_script(&Script::new([]));
    let token = CancellationToken::new();
    let (result, ()) = tokio::join!(client.chat(&asked, &token), async {
        tokio::task::yield_now().await;
        token.cancel();
    });
    assert_eq!(result.unwrap_err().usage(), Some(prompt(&client)));
    // Stopped before anything was sent.
    assert_eq!(client.chat(&asked, &token).await.unwrap_err().usage(), None);
}

#[tokio::test]
async fn a_count_beyond_belief_is_no_reply_and_is_not_booked() {
    let usage = |tokens: u64| {
        let body = serde_json::json!({"type": "message", "content": [{"type": "text", "text": "Hecho."}],
            "stop_reason": "end_turn", "model": "m", "usage": {"input_tokens": tokens, "output_tokens": tokens}});
        Ok(answer(200, &body.to_string()))
    };
    let (client, _) = over_script(&Script::new([usage(u64::MAX), usage(300)]));
    let reply = ask(&client).await.unwrap();
    let prompt = client.estimate(&request(vec![user("Validar stock")])).prompt();
    assert_eq!(reply.usage.total(), prompt + 600);
    let (client, _) = over_script(&Script::new((0..6).map(|_| usage(client.card().context * 6))));
    let error = ask(&client).await.unwrap_err();
    assert_eq!((error.code(), error.usage().unwrap().total()), ("garbled_reply", 6 * prompt));
}

#[tokio::test]
async fn a_server_that_does_not_count_still_costs() {
    let uncounted = serde_json::json!({"type": "message", "content": [{"type": "text", "text": "Hecho."}],
        "stop_reason": "end_turn", "model": "m"});
    let (client, _) = over_script(&Script::new([Ok(answer(200, &uncounted.to_string()))]));
    let usage = ask(&client).await.unwrap().usage;
    assert!(usage.input > 50 && usage.output > 2, "{usage:?}");

    let asked = request(vec![user(&"palabra ".repeat(1000))]);
    let bound = client.estimate(&asked);
    assert!(bound.cache_write_5m > 2600 && bound.cache_write_5m < 4000 && bound.output == 4000, "{bound:?}");
    let cost = client.card().cost(&bound);
    assert!(cost.dollars() > 0.08 && cost.dollars() < 0.11, "{cost:?}");
}

#[tokio::test]
async fn cancelling_ends_a_call_and_a_wait() {
    let asked = request(vec![user("x")]);
    // In the call: the script has no answer, so only the token can end it.
    let (client, _) = over_script(&Script::new([]));
    let token = CancellationToken::new();
    let (result, ()) = tokio::join!(client.chat(&asked, &token), async {
        tokio::task::yield_now().await;
        token.cancel();
    });
    assert_eq!(result.unwrap_err().code(), "cancelled");
    // In the wait: told by the observer, which is called just before it.
    let token = CancellationToken::new();
    let (client, patience) = over_script(&Script::new([Ok(answer(503, ""))]));
    let client = client.observer({
        let token = token.clone();
        move |_| token.cancel()
    });
    assert_eq!(client.chat(&asked, &token).await.unwrap_err().code(), "cancelled");
    assert!(patience.0.lock().unwrap().is_empty());
}
