//! A strict local fake of the Bot API: it enforces Telegram's limits, keeps what every chat shows, and can misbehave.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::telegram_html::parse;

/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(90);
/// The first update's number.
const FIRST: i64 = 700;

/// A message as a chat shows it.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub chat: i64,
    pub id: i64,
    pub thread: Option<i64>,
    /// What is seen.
    pub text: String,
    /// What was sent.
    pub raw: String,
    /// Texts and payloads or addresses.
    pub buttons: Vec<(String, String)>,
    pub silent: bool,
    pub edits: usize,
    pub asks: bool,
    pub document: Option<(String, Vec<u8>)>,
}

impl Shown {
    /// The payload of the button whose text begins so.
    #[track_caller]
    pub fn button(&self, text: &str) -> &str {
        let found = self.buttons.iter().find(|(name, _)| name.starts_with(text));
        &found.unwrap_or_else(|| panic!("no button {text}: {self:?}")).1
    }
}

/// How the next request of a method goes wrong.
#[derive(Clone, Debug)]
pub enum Wrong {
    /// This answer, and nothing is done.
    Answer(u16, Value),
    /// It is done, and nobody is told.
    Swallowed,
}

#[derive(Default)]
struct State {
    updates: VecDeque<(i64, Value)>,
    next_update: i64,
    next_message: i64,
    polls: u64,
    messages: BTreeMap<(i64, i64), Shown>,
    last: HashMap<i64, Instant>,
    all: VecDeque<Instant>,
    wrong: Vec<(String, Wrong)>,
    moved: HashMap<i64, i64>,
    down: bool,
    /// Where updates go instead.
    webhook: String,
    /// Chats with topics, and those that were made.
    topics: HashMap<i64, Vec<(i64, String)>>,
    /// Methods that were called, with their answers' codes.
    calls: Vec<(String, u16, Value)>,
    queries: HashMap<String, bool>,
    toasts: Vec<String>,
    files: HashMap<String, Vec<u8>>,
}

/// The server; it ends with the test process.
#[derive(Clone)]
pub struct Telegram {
    pub url: String,
    pub token: String,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Telegram {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = State { next_update: FIRST, next_message: 1, ..State::default() };
        let this = Self {
            url,
            token: "4242:AA-secret_token".to_owned(),
            shared: Arc::new((Mutex::new(state), Condvar::new())),
        };
        let server = this.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        this
    }

    /// Telegram delivers this; the answer is the update's number.
    pub fn push(&self, mut update: Value) -> i64 {
        let (lock, wake) = &*self.shared;
        let mut state = lock.lock().unwrap();
        let id = state.next_update;
        state.next_update += 1;
        update["update_id"] = json!(id);
        state.updates.push_back((id, update));
        wake.notify_all();
        id
    }

    fn message(&self, from: i64, chat: i64, more: Value) -> i64 {
        let id = {
            let mut state = self.shared.0.lock().unwrap();
            state.next_message += 1;
            state.next_message
        };
        let kind = if chat > 0 { "private" } else { "supergroup" };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let mut message = json!({
            "message_id": id, "date": now, "chat": {"id": chat, "type": kind},
            "from": {"id": from, "is_bot": false, "first_name": "Ana <b>", "language_code": "en"},
        });
        for (key, value) in more.as_object().unwrap() {
            message[key] = value.clone();
        }
        self.push(json!({"message": message}));
        id
    }

    /// Somebody writes.
    pub fn say(&self, from: i64, chat: i64, text: &str) -> i64 {
        self.message(from, chat, json!({"text": text}))
    }

    /// Somebody writes in a topic.
    pub fn say_in(&self, from: i64, chat: i64, thread: i64, text: &str) -> i64 {
        self.message(from, chat, json!({"text": text, "is_topic_message": true, "message_thread_id": thread}))
    }

    /// Somebody replies.
    pub fn reply(&self, from: i64, to: &Shown, text: &str) -> i64 {
        let replied = json!({"message_id": to.id, "chat": {"id": to.chat}});
        self.message(from, to.chat, json!({"text": text, "reply_to_message": replied}))
    }

    /// Somebody posts a file.
    pub fn post(&self, from: i64, chat: i64, name: &str, content: &str, caption: &str) -> i64 {
        let id = format!("file-{name}");
        self.shared.0.lock().unwrap().files.insert(id.clone(), content.as_bytes().to_vec());
        let document = json!({"file_id": id, "file_name": name, "file_size": content.len()});
        self.message(from, chat, json!({"document": document, "caption": caption}))
    }

    /// Somebody presses a button.
    #[track_caller]
    pub fn press(&self, from: i64, on: &Shown, button: &str) {
        self.press_data(from, on.chat, on.id, on.button(button));
    }

    /// Somebody sends a payload, whether there is such a button or not.
    pub fn press_data(&self, from: i64, chat: i64, message: i64, data: &str) {
        let query = {
            let mut state = self.shared.0.lock().unwrap();
            let query = format!("q{}", state.queries.len());
            state.queries.insert(query.clone(), false);
            query
        };
        self.push(json!({"callback_query": {
            "id": query, "data": data, "from": {"id": from, "first_name": "Ana", "language_code": "en"},
            "message": {"message_id": message, "date": 1, "chat": {"id": chat}},
        }}));
    }

    /// The next request of a method goes wrong.
    pub fn fail(&self, method: &str, wrong: Wrong) {
        self.shared.0.lock().unwrap().wrong.push((method.to_owned(), wrong));
    }

    /// A group becomes a supergroup: its old number is refused from now on.
    pub fn upgrade(&self, from: i64, to: i64) {
        self.shared.0.lock().unwrap().moved.insert(from, to);
    }

    /// Whether connections are cut.
    pub fn down(&self, down: bool) {
        self.shared.0.lock().unwrap().down = down;
    }

    /// A chat has topics from now on.
    pub fn forum(&self, chat: i64) {
        self.shared.0.lock().unwrap().topics.entry(chat).or_default();
    }

    /// Every text that was sent or edited in a chat.
    pub fn seen(&self, chat: i64) -> Vec<String> {
        let ours = |body: &Value| number(&body["chat_id"]) == Some(chat);
        self.calls()
            .iter()
            .filter(|(.., body)| ours(body))
            .filter_map(|(.., body)| Some(body["text"].as_str()?.to_owned()))
            .collect()
    }

    /// The topics that were made in a chat.
    pub fn topics(&self, chat: i64) -> Vec<(i64, String)> {
        self.shared.0.lock().unwrap().topics.get(&chat).cloned().unwrap_or_default()
    }

    /// Updates go to this address.
    pub fn webhook(&self, url: &str) {
        self.shared.0.lock().unwrap().webhook = url.to_owned();
    }

    /// Polls once, as another program with the same token would.
    pub fn rival(&self) {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let body = br#"{"timeout": 1}"#;
        let head = format!("POST /bot{}/getUpdates HTTP/1.1\r\ncontent-length: {}\r\n\r\n", self.token, body.len());
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }

    /// Every message of a chat, in order.
    pub fn chat(&self, chat: i64) -> Vec<Shown> {
        let state = self.shared.0.lock().unwrap();
        state.messages.values().filter(|shown| shown.chat == chat).cloned().collect()
    }

    /// Waits until a message like this is shown; the newest of them.
    #[track_caller]
    pub fn wait(&self, chat: i64, wanted: impl Fn(&Shown) -> bool) -> Shown {
        let found = self
            .until(|state| state.messages.values().rev().find(|shown| shown.chat == chat && wanted(shown)).cloned());
        found.unwrap_or_else(|| {
            panic!("it never came; the chat shows:\n{:#?}\n{:?}", self.chat(chat), self.calls_tail())
        })
    }

    /// Waits until a message holds a text.
    #[track_caller]
    pub fn wait_text(&self, chat: i64, text: &str) -> Shown {
        self.wait(chat, |shown| shown.text.contains(text))
    }

    /// Waits until this message is like that.
    #[track_caller]
    pub fn wait_for(&self, message: &Shown, wanted: impl Fn(&Shown) -> bool) -> Shown {
        self.wait(message.chat, |shown| shown.id == message.id && wanted(shown))
    }

    /// Waits until every update has been confirmed.
    #[track_caller]
    pub fn wait_heard(&self) {
        let heard = self.until(|state| state.updates.is_empty().then_some(()));
        assert!(heard.is_some(), "updates were not confirmed");
    }

    /// Waits until a method has been called so often.
    #[track_caller]
    pub fn wait_calls(&self, method: &str, count: usize) {
        let done =
            self.until(|state| (state.calls.iter().filter(|(name, ..)| name == method).count() >= count).then_some(()));
        assert!(done.is_some(), "{method} was not called {count} times: {:?}", self.calls_tail());
    }

    fn until<T>(&self, look: impl Fn(&State) -> Option<T>) -> Option<T> {
        let (lock, wake) = &*self.shared;
        let end = Instant::now() + PATIENCE;
        let mut state = lock.lock().unwrap();
        loop {
            if let Some(found) = look(&state) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            state = wake.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Methods and answers' codes, in order.
    pub fn calls(&self) -> Vec<(String, u16, Value)> {
        self.shared.0.lock().unwrap().calls.clone()
    }

    fn calls_tail(&self) -> Vec<(String, u16, Value)> {
        let calls = self.calls();
        calls[calls.len().saturating_sub(12)..]
            .iter()
            .map(|(name, code, body)| {
                (name.clone(), *code, serde_json::json!(body.to_string().chars().take(150).collect::<String>()))
            })
            .collect()
    }

    /// What pressing led to, in order.
    pub fn toasts(&self) -> Vec<String> {
        self.shared.0.lock().unwrap().toasts.clone()
    }

    /// Whether each press was answered once.
    pub fn all_answered(&self) -> bool {
        self.shared.0.lock().unwrap().queries.values().all(|answered| *answered)
    }

    fn serve(&self, mut stream: TcpStream) {
        let Some((path, kind, body)) = read(&stream) else { return };
        if self.shared.0.lock().unwrap().down {
            return;
        }
        if let Some(file) = path.strip_prefix(&format!("/file/bot{}/", self.token)) {
            let content = self.shared.0.lock().unwrap().files.get(file).cloned().unwrap_or_default();
            return write(&mut stream, 200, &content);
        }
        let Some(method) = path.strip_prefix(&format!("/bot{}/", self.token)) else {
            return write(&mut stream, 401, refusal(401, "Unauthorized").to_string().as_bytes());
        };
        let (parameters, file) = if kind.starts_with("multipart/form-data") {
            form(&kind, &body)
        } else {
            (serde_json::from_slice(&body).unwrap_or(Value::Null), None)
        };
        let wrong = {
            let mut state = self.shared.0.lock().unwrap();
            let at = state.wrong.iter().position(|(name, _)| name == method);
            at.map(|at| state.wrong.remove(at).1)
        };
        let (code, answer) = match &wrong {
            Some(Wrong::Answer(code, answer)) => (*code, answer.clone()),
            _ => match self.answer(method, &parameters, file) {
                Ok(result) => (200, json!({"ok": true, "result": result})),
                Err((code, answer)) => (code, answer),
            },
        };
        {
            let mut state = self.shared.0.lock().unwrap();
            if method != "getUpdates" || code != 200 {
                state.calls.push((method.to_owned(), code, parameters));
            }
            self.shared.1.notify_all();
        }
        if matches!(wrong, Some(Wrong::Swallowed)) {
            // The other side waits until it dies or loses patience.
            let _ = stream.read(&mut [0]);
            return;
        }
        write(&mut stream, code, answer.to_string().as_bytes());
    }

    fn answer(&self, method: &str, body: &Value, file: Option<(String, Vec<u8>)>) -> Result<Value, (u16, Value)> {
        match method {
            "getMe" => Ok(json!({"id": 4242, "is_bot": true, "first_name": "Devo", "username": "devo_test_bot"})),
            "deleteWebhook" | "setMyCommands" => Ok(json!(true)),
            "getWebhookInfo" => Ok(json!({"url": self.shared.0.lock().unwrap().webhook, "pending_update_count": 0})),
            "getUpdates" => self.poll(body),
            "getFile" => Ok(json!({"file_path": body["file_id"]})),
            "answerCallbackQuery" => {
                let mut state = self.shared.0.lock().unwrap();
                let text = body["text"].as_str().unwrap_or_default().to_owned();
                if text.encode_utf16().count() > 200 {
                    return Err(bad("MESSAGE_TOO_LONG"));
                }
                match state.queries.get_mut(body["callback_query_id"].as_str().unwrap_or_default()) {
                    Some(answered) if !*answered => *answered = true,
                    _ => return Err(bad("query is too old and response timeout expired or query ID is invalid")),
                }
                state.toasts.push(text);
                Ok(json!(true))
            }
            "createForumTopic" => {
                let mut state = self.shared.0.lock().unwrap();
                let (chat, name) = (number(&body["chat_id"]).unwrap_or(0), body["name"].as_str().unwrap_or_default());
                if !(1..=128).contains(&name.encode_utf16().count()) {
                    return Err(bad("TOPIC_TITLE_INVALID"));
                }
                let thread = 1000 + state.queries.len() as i64 + state.messages.len() as i64;
                match state.topics.get_mut(&chat) {
                    Some(topics) => topics.push((thread, name.to_owned())),
                    None => return Err(bad("the chat is not a forum")),
                }
                Ok(json!({"message_thread_id": thread, "name": name}))
            }
            "sendMessage" | "sendDocument" => self.send(body, file),
            "editMessageText" | "editMessageReplyMarkup" => self.edit(method, body),
            _ => Err((404, refusal(404, "Not Found"))),
        }
    }

    fn poll(&self, body: &Value) -> Result<Value, (u16, Value)> {
        let (lock, wake) = &*self.shared;
        let mut state = lock.lock().unwrap();
        state.polls += 1;
        let mine = state.polls;
        if let Some(offset) = body["offset"].as_i64().filter(|offset| *offset > 0) {
            state.updates.retain(|(id, _)| *id >= offset);
        }
        wake.notify_all();
        let end = Instant::now() + Duration::from_secs(body["timeout"].as_u64().unwrap_or(0).min(50));
        loop {
            if state.polls != mine {
                let words =
                    "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running";
                return Err((409, refusal(409, words)));
            }
            let limit = usize::try_from(body["limit"].as_u64().unwrap_or(100)).unwrap();
            let found: Vec<Value> = state.updates.iter().take(limit).map(|(_, update)| update.clone()).collect();
            let left = end.checked_duration_since(Instant::now());
            match left {
                Some(left) if found.is_empty() => state = wake.wait_timeout(state, left).unwrap().0,
                _ => return Ok(json!(found)),
            }
        }
    }

    /// One message in a second for a chat, 20 in a minute for a group, 30 in a second for all.
    fn limits(state: &mut State, chat: i64) -> Result<(), (u16, Value)> {
        let now = Instant::now();
        let gap = Duration::from_millis(if chat > 0 { 1_000 } else { 3_000 });
        let early = state.last.get(&chat).is_some_and(|last| now.duration_since(*last) < gap);
        while state.all.front().is_some_and(|at| now.duration_since(*at) > Duration::from_secs(1)) {
            state.all.pop_front();
        }
        if early || state.all.len() >= 30 {
            let mut answer = refusal(429, "Too Many Requests: retry after 2");
            answer["parameters"] = json!({"retry_after": 2});
            return Err((429, answer));
        }
        state.last.insert(chat, now);
        state.all.push_back(now);
        Ok(())
    }

    fn send(&self, body: &Value, file: Option<(String, Vec<u8>)>) -> Result<Value, (u16, Value)> {
        let mut state = self.shared.0.lock().unwrap();
        let chat = number(&body["chat_id"]).ok_or_else(|| bad("chat not found"))?;
        if let Some(to) = state.moved.get(&chat) {
            let mut answer = refusal(400, "Bad Request: group chat was upgraded to a supergroup chat");
            answer["parameters"] = json!({"migrate_to_chat_id": to});
            return Err((400, answer));
        }
        if let (Some(topics), Some(thread)) = (state.topics.get(&chat), number(&body["message_thread_id"]))
            && !topics.iter().any(|(known, _)| *known == thread)
        {
            return Err(bad("message thread not found"));
        }
        Self::limits(&mut state, chat)?;
        if file.as_ref().is_some_and(|(_, bytes)| bytes.len() > 50_000_000) {
            return Err((413, refusal(413, "Request Entity Too Large")));
        }
        let text = if file.is_some() { String::new() } else { text_of(body)? };
        let (buttons, asks) = markup(&body["reply_markup"])?;
        state.next_message += 1;
        let shown = Shown {
            chat,
            id: state.next_message,
            thread: number(&body["message_thread_id"]),
            text,
            raw: body["text"].as_str().unwrap_or_default().to_owned(),
            buttons,
            silent: body["disable_notification"] == true || body["disable_notification"] == "true",
            edits: 0,
            asks,
            document: file,
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let answer = json!({"message_id": shown.id, "date": now, "chat": {"id": chat}});
        state.messages.insert((chat, shown.id), shown);
        Ok(answer)
    }

    fn edit(&self, method: &str, body: &Value) -> Result<Value, (u16, Value)> {
        let mut state = self.shared.0.lock().unwrap();
        let chat = number(&body["chat_id"]).ok_or_else(|| bad("chat not found"))?;
        if let Some(to) = state.moved.get(&chat) {
            let mut answer = refusal(400, "Bad Request: group chat was upgraded to a supergroup chat");
            answer["parameters"] = json!({"migrate_to_chat_id": to});
            return Err((400, answer));
        }
        Self::limits(&mut state, chat)?;
        let (buttons, _) = markup(&body["reply_markup"])?;
        let text = if method == "editMessageText" { Some(text_of(body)?) } else { None };
        let id = body["message_id"].as_i64().unwrap_or(0);
        let Some(shown) = state.messages.get_mut(&(chat, id)) else { return Err(bad("message to edit not found")) };
        let text = text.unwrap_or_else(|| shown.text.clone());
        if text == shown.text && buttons == shown.buttons {
            return Err(bad(
                "message is not modified: specified new message content and reply markup are exactly the same as a current content and reply markup of the message",
            ));
        }
        shown.text = text;
        shown.buttons = buttons;
        shown.edits += 1;
        Ok(json!({"message_id": id, "date": 1, "chat": {"id": chat}}))
    }
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

pub fn refusal(code: u16, description: &str) -> Value {
    json!({"ok": false, "error_code": code, "description": description})
}

fn bad(description: &str) -> (u16, Value) {
    (400, refusal(400, &format!("Bad Request: {description}")))
}

fn text_of(body: &Value) -> Result<String, (u16, Value)> {
    let raw = body["text"].as_str().unwrap_or_default();
    let text = match body["parse_mode"].as_str() {
        Some("HTML") => parse(raw).map_err(|error| bad(&format!("can't parse entities: {error}")))?,
        Some(other) => panic!("the bot should not use {other}"),
        None => raw.to_owned(),
    };
    if text.trim().is_empty() {
        return Err(bad("message text is empty"));
    }
    if text.encode_utf16().count() > 4096 {
        return Err(bad("message is too long"));
    }
    Ok(text)
}

type Buttons = Vec<(String, String)>;

fn markup(markup: &Value) -> Result<(Buttons, bool), (u16, Value)> {
    let mut buttons = Vec::new();
    for key in markup["inline_keyboard"].as_array().into_iter().flatten().flat_map(|row| row.as_array().unwrap()) {
        let text = key["text"].as_str().unwrap_or_default();
        if text.is_empty() {
            return Err(bad("Text buttons are unallowed in the inline keyboard"));
        }
        match (key["callback_data"].as_str(), key["url"].as_str()) {
            (Some(data), None) if (1..=64).contains(&data.len()) => buttons.push((text.to_owned(), data.to_owned())),
            (None, Some(url)) if url.contains('.') => buttons.push((text.to_owned(), url.to_owned())),
            _ => return Err(bad("BUTTON_DATA_INVALID")),
        }
    }
    Ok((buttons, markup["force_reply"] == true))
}

fn read(stream: &TcpStream) -> Option<(String, String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut kind, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "content-type" => kind = value.trim().to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, kind, body))
}

/// The fields and the file of a form.
fn form(kind: &str, body: &[u8]) -> (Value, Option<(String, Vec<u8>)>) {
    let boundary = format!("--{}", kind.split_once("boundary=").unwrap().1);
    let (mut fields, mut file) = (json!({}), None);
    let mut rest = body;
    let find = |hay: &[u8], needle: &[u8]| hay.windows(needle.len()).position(|window| window == needle);
    while let Some(at) = find(rest, boundary.as_bytes()) {
        rest = &rest[at + boundary.len()..];
        let Some(head) = find(rest, b"\r\n\r\n") else { break };
        let end = find(&rest[head..], format!("\r\n{boundary}").as_bytes()).unwrap() + head;
        let words = String::from_utf8_lossy(&rest[..head]).into_owned();
        let content = rest[head + 4..end].to_vec();
        let quoted = |name: &str| Some(words.split_once(&format!(" {name}=\""))?.1.split('"').next()?.to_owned());
        match (quoted("name").unwrap().as_str(), quoted("filename")) {
            ("document", Some(name)) => file = Some((name, content)),
            (field, _) => fields[field] = json!(String::from_utf8(content).unwrap()),
        }
        rest = &rest[end..];
    }
    (fields, file)
}

fn write(stream: &mut TcpStream, status: u16, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // The client may have been killed by the test.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}
