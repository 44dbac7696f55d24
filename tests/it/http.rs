//! A small HTTP client for tests: one request per connection, whole replies or a stream of events.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.body))
    }

    #[track_caller]
    pub fn status(self, wanted: u16) -> Self {
        assert_eq!(self.status, wanted, "{}", self.body);
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A forge's signature of a body.
pub fn signature(secret: &str, body: &str) -> String {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// A server-sent event.
#[derive(Debug, Clone)]
pub struct Sent {
    pub id: Option<u64>,
    pub event: String,
    pub data: Value,
}

/// A stream of server-sent events.
pub struct Events {
    lines: BufReader<Body>,
}

/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reading {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "host") {
        head.push_str(&format!("host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {line:?}")).parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap();
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    Reading { status, headers, body: Body { reader, chunked, left: 0, over: false } }
}

struct Reading {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

/// A body, its chunks put together.
struct Body {
    reader: BufReader<TcpStream>,
    chunked: bool,
    left: usize,
    over: bool,
}

impl std::io::Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !self.chunked {
            return self.reader.read(buffer);
        }
        if self.left == 0 && !self.over {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            self.left = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
            self.over = self.left == 0;
        }
        if self.over {
            return Ok(0);
        }
        let most = self.left.min(buffer.len());
        let read = self.reader.read(&mut buffer[..most])?;
        self.left -= read;
        if self.left == 0 {
            let mut end = String::new();
            self.reader.read_line(&mut end)?;
        }
        Ok(read)
    }
}

/// One request and its whole reply.
pub fn send(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut reading = open(address, method, path, headers, body);
    let mut text = Vec::new();
    reading.body.read_to_end(&mut text).unwrap();
    Reply { status: reading.status, headers: reading.headers, body: String::from_utf8_lossy(&text).into_owned() }
}

impl Events {
    /// Opens a stream.
    pub fn open(address: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        let reading = open(address, "GET", path, headers, "");
        assert_eq!(reading.status, 200);
        let kind = reading.headers.iter().find(|(name, _)| name == "content-type").unwrap();
        assert_eq!(kind.1, "text/event-stream");
        Self { lines: BufReader::new(reading.body) }
    }
}

impl Iterator for Events {
    type Item = Sent;

    fn next(&mut self) -> Option<Sent> {
        let mut sent = Sent { id: None, event: String::new(), data: Value::Null };
        let since = Instant::now();
        loop {
            // What keeps a stream alive is not what a test waits for.
            assert!(since.elapsed() < PATIENCE, "no event came");
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end().split_once(':') {
                Some(("id", id)) => sent.id = id.trim().parse().ok(),
                Some(("event", name)) => sent.event = name.trim().to_owned(),
                Some(("data", data)) => sent.data = serde_json::from_str(data).unwrap(),
                // An empty line ends an event; comments are nobody's.
                None if !sent.event.is_empty() => return Some(sent),
                _ => {}
            }
        }
    }
}
