//! Record, replay, kill, differ.

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::super::testing::*;
use super::super::{ChatRequest, Client, Message, ProviderError, Reply, provider};
use super::*;

const CALLS: &str = include_str!("../fixtures/anthropic_calls.sse");
const TEXT: &str = include_str!("../fixtures/anthropic_text.sse");

/// Answers with one body after another and counts; fails when it has none left.
#[derive(Debug, Default)]
struct Live(Mutex<VecDeque<HttpReply>>);

impl Live {
    fn new<'a>(bodies: impl IntoIterator<Item = &'a str>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(bodies.into_iter().map(stream).collect())))
    }
}

#[async_trait]
impl Transport for Live {
    async fn send(&self, _: HttpRequest) -> Result<HttpReply, TransportError> {
        lock(&self.0).pop_front().ok_or_else(|| TransportError::Connect("nothing left to say".into()))
    }

    fn live(&self) -> bool {
        false
    }
}

fn run(last: u8) -> RunId {
    format!("0193b2c0-7e1f-7abc-8def-0123456789{last:02x}").parse().unwrap()
}

fn client(transport: impl Transport + 'static) -> Client {
    Client::new(provider("anthropic").unwrap(), card("anthropic", "claude-opus-5-5"), Arc::new(transport))
}

async fn ask(client: &Client, request: &ChatRequest) -> Result<Reply, ProviderError> {
    client.chat(request, &CancellationToken::new()).await
}

fn recorder(path: &Path, last: u8, live: &Arc<Live>) -> Client {
    let recording = Arc::new(Recording::open(path, run(last), Some("scripted replies"), Masker::default()).unwrap());
    client(recording.record("planner", provider("anthropic").unwrap(), Arc::clone(live) as _))
}

fn replayer(path: &Path) -> Client {
    let cassette = Arc::new(Cassette::open(path).unwrap());
    client(cassette.replay("planner", provider("anthropic").unwrap()))
}

/// A conversation of two calls, as it is in a run with that id at that time of day.
async fn converse(client: &Client, last: u8, hour: u32) -> Result<[Reply; 2], ProviderError> {
    let task = format!("Run {} at 2026-11-22T{hour:02}:00:00Z in /tmp/.tmp{hour}/w: validar stock", run(last));
    let first = ask(client, &request(vec![user(&task)])).await?;
    let mut history = vec![user(&task), Message::Assistant(first.message.clone())];
    history.push(results(&first.message, Some(&format!("1 failed in 0.{hour}s"))));
    let second = ask(client, &ChatRequest { max_output_tokens: 1000 + hour, ..request(history) }).await?;
    Ok([first, second])
}

#[tokio::test]
async fn a_replay_needs_no_one_and_gives_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let live = Live::new([CALLS, TEXT]);
    let recorded = converse(&recorder(&path, 1, &live), 1, 10).await.unwrap();
    // Another run, another hour, more room for the reply; twice, the second time from a new process.
    for hour in [11, 12] {
        let replayed = converse(&replayer(&path), 2, hour).await.unwrap();
        assert_eq!(replayed, recorded);
    }
    let cassette = Cassette::open(&path).unwrap();
    assert_eq!((cassette.calls(), cassette.note()), (2, Some("scripted replies")));
    // A run that was killed after the first call finds the second by itself.
    let client = replayer(&path);
    let mut history =
        vec![user("Run 0193b2c0-7e1f-7abc-8def-012345678903 at 2026-11-22T01:00:00Z in /tmp/x/w: validar stock")];
    history.push(Message::Assistant(recorded[0].message.clone()));
    history.push(results(&recorded[0].message, Some("1 failed in 7s")));
    assert_eq!(ask(&client, &request(history)).await.unwrap(), recorded[1]);
}

#[tokio::test]
async fn equal_requests_are_answered_in_order_then_with_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let live = Live::new([CALLS, TEXT]);
    let recording = recorder(&path, 1, &live);
    let same = request(vec![user("x")]);
    for _ in 0..2 {
        ask(&recording, &same).await.unwrap();
    }
    let client = replayer(&path);
    let mut said = Vec::new();
    for _ in 0..3 {
        said.push(ask(&client, &same).await.unwrap().message.text);
    }
    assert_eq!(said, ["Veo dos ficheros.", "Hecho: 1 línea.", "Hecho: 1 línea."]);
}

#[tokio::test]
async fn a_difference_is_shown_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let live = Live::new([CALLS, TEXT]);
    let recorded = converse(&recorder(&path, 1, &live), 1, 10).await.unwrap();
    let client = replayer(&path);

    let mut history =
        vec![user("Run 0193b2c0-7e1f-7abc-8def-012345678901 at 2026-11-22T01:00:00Z in /tmp/x/w: validar stock")];
    history.push(Message::Assistant(recorded[0].message.clone()));
    history.push(results(&recorded[0].message, Some("2 failed in 7s")));
    let error = ask(&client, &request(history.clone())).await.unwrap_err();
    assert_eq!((error.code(), error.retryable()), ("cassette_mismatch", false));
    let (head, rest) = error.message().split_once('\n').unwrap();
    assert!(head.contains("a.jsonl") && head.contains("(planner, anthropic)"), "{head}");
    assert_eq!(
        rest,
        "the nearest is on line 3 (planner); the first difference is at messages[2].content[2].text\n\
         --- recorded\n+++ now\n@@ -1 +1 @@\n-1 failed in <duration>\n+2 failed in <duration>"
    );

    // A changed prompt: the right turn is found all the same.
    history[2] = results(&recorded[0].message, Some("1 failed in 7s"));
    let mut changed = request(history);
    changed.system = format!("You plan.\nNew rule.\n{}", "long ".repeat(5000));
    let error = ask(&client, &changed).await.unwrap_err();
    assert!(error.message().contains("line 3") && error.message().contains("at system[0].text"), "{error}");
    assert!(error.message().contains("+New rule.") && error.message().len() < 3500, "{}", error.message().len());

    // More than was recorded.
    changed.system = "You plan.".into();
    changed.messages.push(user("and then?"));
    let error = ask(&client, &changed).await.unwrap_err();
    assert!(
        error.message().contains("at messages[3].content[0].text")
            && error.message().contains("recorded: nothing there"),
        "{error}"
    );

    let other = Client::new(
        provider("gemini").unwrap(),
        card("gemini", "gemini-3.8-flash"),
        Arc::new(Arc::new(Cassette::open(&path).unwrap()).replay("executor", provider("gemini").unwrap())),
    );
    let error = ask(&other, &changed).await.unwrap_err();
    assert!(error.message().ends_with("nor any other call to gemini"), "{error}");
}

#[tokio::test]
async fn a_killed_recording_goes_on_without_paying_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    converse(&recorder(&path, 1, &Live::new([CALLS])), 1, 10).await.unwrap_err();
    let whole = std::fs::read(&path).unwrap();
    // Killed while the next line was written.
    std::fs::write(&path, [&whole[..], b"{\"label\":\"pla"].concat()).unwrap();
    assert_eq!(Cassette::open(&path).unwrap().calls(), 1);
    // The first call was recorded, but the run does not know it: it is answered from the file.
    let live = Live::new([TEXT]);
    converse(&recorder(&path, 1, &live), 1, 10).await.unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.starts_with(&whole) && Cassette::open(&path).unwrap().calls() == 2);
    converse(&replayer(&path), 3, 12).await.unwrap();

    // Another run, or another kind of file, is not overwritten.
    for (content, last) in [(&bytes[..], 2), (b"my notes\n", 1)] {
        std::fs::write(&path, content).unwrap();
        let error = Recording::open(&path, run(last), None, Masker::default()).unwrap_err();
        assert_eq!(error, CassetteError::Exists(path.clone()));
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}

#[tokio::test]
async fn weather_and_secrets_are_not_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let masker = Masker::default();
    masker.add(&SecretString::from("sk-very-secret-1".to_owned()));
    let live = Live::new([&CALLS[..400], TEXT.replace("Hecho", "key sk-very-secret-1").as_str()]);
    lock(&live.0).push_front(answer(401, "{}"));
    lock(&live.0).push_front(answer(503, ""));
    let recording = Arc::new(Recording::open(&path, run(1), None, masker).unwrap());
    let client = client(recording.record("planner", provider("anthropic").unwrap(), Arc::clone(&live) as _));
    let asked = request(vec![user("the key is sk-very-secret-1")]);
    assert_eq!(ask(&client, &asked).await.unwrap_err().code(), "bad_key");
    ask(&client, &asked).await.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("very-secret"), "{text}");
    assert_eq!(Cassette::open(&path).unwrap().calls(), 1);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn what_the_model_did_wrong_is_replayed_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let odd = TEXT.replace("\"end_turn\"", "\"odd\"");
    let refused = include_str!("../fixtures/anthropic_refusal.sse");
    let live = Live::new([&odd, &odd, &odd, refused]);
    let recording = recorder(&path, 1, &live);
    let codes = async |client: &Client| {
        let malformed = ask(client, &request(vec![user("x")])).await.unwrap_err();
        let refused = ask(client, &request(vec![user("x, please")])).await.unwrap_err();
        assert_eq!(malformed.usage().unwrap().output, 27);
        (malformed.code(), refused.code())
    };
    let live_codes = codes(&recording).await;
    assert_eq!(live_codes, ("malformed_reply", "refused"));
    assert_eq!(codes(&replayer(&path)).await, live_codes);
}

#[test]
fn bad_files_are_named_with_the_line() {
    let at = Path::new("x.jsonl");
    let parse = |text: &str| Cassette::parse(at, text.as_bytes()).unwrap_err();
    let header = r#"{"cassette":"devo","version":1}"#;
    assert_eq!(Cassette::open(Path::new("/nowhere/x")).unwrap_err(), CassetteError::Missing("/nowhere/x".into()));
    assert_eq!(Cassette::open(Path::new("/dev/null")).unwrap_err(), CassetteError::NotACassette("/dev/null".into()));
    for other in ["", "hello\n", "{}\n", r#"{"cassette":"vcr","version":1}"#, "\u{0}\u{1}"] {
        assert_eq!(parse(other), CassetteError::NotACassette(at.into()), "{other:?}");
    }
    let newer = parse("{\"cassette\":\"devo\",\"version\":9,\"new\":true}\n");
    assert_eq!(newer.to_string(), "x.jsonl has format 9; this program reads 1");
    let damaged = parse(&format!("{header}\n\n{{\"label\"\n"));
    assert!(damaged.to_string().starts_with("line 3 of x.jsonl is damaged: "), "{damaged}");
    let request = json!({"method": "POST", "path": "/p", "headers": {}, "body": {"messages": ["a"]}});
    let entry = |request: &Value| {
        let reply = json!({"status": 200, "headers": {}, "body": ""});
        let hash = hash("gemini", &json!({"method": "POST", "path": "/p", "body": {"messages": ["a"]}}));
        json!({"label": "l", "provider": "gemini", "sha256": hash, "request": request, "reply": reply}).to_string()
    };
    assert_eq!(Cassette::parse(at, format!("{header}\n{}", entry(&request)).as_bytes()).unwrap().calls(), 1);
    let mut edited = request;
    edited["body"]["messages"][0] = json!("b");
    let damaged = parse(&format!("{header}\n{}\n", entry(&edited)));
    assert!(damaged.to_string().starts_with("line 2 of x.jsonl is damaged: its request"), "{damaged}");
    for error in [newer, damaged, CassetteError::Missing("x".into()), CassetteError::Exists("x".into())] {
        assert!(!error.hint().is_empty());
    }
}
