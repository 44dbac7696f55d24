//! A local fake of the model APIs: answers from a script, keeps what it was asked, and can misbehave.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// How the fake answers one request.
#[derive(Clone)]
pub enum Answer {
    /// 200 with this body.
    Json(Value),
    /// This status, these headers, this body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// The connection is closed in the middle of the body.
    Cut(Value),
    /// The answer comes when the test lets go of the gate.
    Held(Arc<Mutex<()>>, Box<Answer>),
}

/// A request that came.
#[derive(Clone)]
pub struct Asked {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

#[derive(Default)]
struct State {
    planner: VecDeque<Answer>,
    executor: VecDeque<Answer>,
    asked: Vec<Asked>,
    /// Answers are chosen by how far the conversation is, so that a repeated request gets the same answer again.
    by_turn: bool,
}

/// The server; it ends with the test process.
#[derive(Clone)]
pub struct Fake {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { url, state }
    }

    /// What the planner (Anthropic's wire format) answers next.
    pub fn planner(&self, answer: Answer) -> &Self {
        self.state.lock().unwrap().planner.push_back(answer);
        self
    }

    /// What the executor (Gemini's wire format) answers next.
    pub fn executor(&self, answer: Answer) -> &Self {
        self.state.lock().unwrap().executor.push_back(answer);
        self
    }

    /// From now on answers are not used up: the conversation's length picks one.
    pub fn by_turn(&self) -> &Self {
        self.state.lock().unwrap().by_turn = true;
        self
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// Scripted answers that nobody has asked for.
    pub fn left(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.planner.len(), state.executor.len())
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let Some(asked) = read(&stream) else { return };
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push(asked.clone());
        let planner = asked.path.contains("/v1/messages");
        let by_turn = state.by_turn;
        let script = if planner { &mut state.planner } else { &mut state.executor };
        let (key, role) = if planner { ("messages", "assistant") } else { ("contents", "model") };
        let said = asked.body[key].as_array().into_iter().flatten().filter(|message| message["role"] == role).count();
        if by_turn { script.get(said).cloned() } else { script.pop_front() }
    };
    let answer = answer.unwrap_or_else(|| {
        let error = json!({"type": "error", "error": {"type": "invalid_request_error", "code": 400, "status": "INVALID_ARGUMENT",
                           "message": "the script has no answer left"}});
        Answer::Status(400, vec![], error.to_string())
    });
    reply(&mut stream, answer);
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { path, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

fn reply(stream: &mut TcpStream, answer: Answer) {
    let (status, headers, body, cut) = match answer {
        Answer::Json(body) => (200, vec![], body.to_string(), false),
        Answer::Status(status, headers, body) => (status, headers, body, false),
        Answer::Cut(body) => (200, vec![], body.to_string(), true),
        Answer::Held(gate, answer) => {
            drop(gate.lock());
            return reply(stream, *answer);
        }
    };
    let mut head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    let body = if cut { &body[..body.len() / 2] } else { &body[..] };
    // The client may have been killed by the test.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// A reply of the planner: text and tool calls.
pub fn claude(calls: &[(&str, Value)]) -> Answer {
    let mut content = vec![json!({"type": "thinking", "thinking": "", "signature": "c2lnbmF0dXJl"})];
    for (n, (name, input)) in calls.iter().enumerate() {
        content.push(json!({"type": "tool_use", "id": format!("toolu_{n}_{name}"), "name": name, "input": input}));
    }
    if calls.is_empty() {
        content.push(json!({"type": "text", "text": "I think that is all."}));
    }
    Answer::Json(json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": content,
        "stop_reason": if calls.is_empty() { "end_turn" } else { "tool_use" },
        "usage": {"input_tokens": 900, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 0, "output_tokens": 200},
    }))
}

/// A reply of the executor: tool calls.
pub fn gemini(calls: &[(&str, Value)]) -> Answer {
    let mut parts = Vec::new();
    for (n, (name, args)) in calls.iter().enumerate() {
        let mut part = json!({"functionCall": {"id": format!("call-{n}-{name}"), "name": name, "args": args}});
        if n == 0 {
            part["thoughtSignature"] = json!("dGhvdWdodA==");
        }
        parts.push(part);
    }
    if calls.is_empty() {
        parts.push(json!({"text": "Done, I believe."}));
    }
    Answer::Json(json!({
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 1000, "cachedContentTokenCount": 400, "candidatesTokenCount": 80,
                          "thoughtsTokenCount": 20, "totalTokenCount": 1100},
        "modelVersion": "gemini-3.8-flash", "responseId": "r1",
    }))
}
