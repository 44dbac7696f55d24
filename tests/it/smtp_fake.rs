//! A strict local mail server: it enforces the order and the form of what RFC 5321 asks for, keeps every mail, and can misbehave.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mail as it was taken.
#[derive(Clone, Debug)]
pub struct Mail {
    pub from: String,
    pub to: String,
    /// Headers with folded lines joined, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Decoded.
    pub text: String,
    /// Whether it came encrypted and from a known user.
    pub encrypted: bool,
    pub user: Option<String>,
}

impl Mail {
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let one = found.next().unwrap_or_else(|| panic!("no header {name}: {self:?}"));
        assert!(found.next().is_none(), "{name} comes twice: {self:?}");
        &one.1
    }

    pub fn subject(&self) -> String {
        words(self.header("subject"))
    }
}

#[derive(Default)]
struct State {
    mails: Vec<Mail>,
    /// Answers to RCPT, by address.
    refuse: HashMap<String, String>,
    /// Whether the next mail is taken and nobody told.
    swallow: bool,
    down: bool,
    connections: usize,
    /// What a client did that it must not.
    faults: Vec<String>,
}

/// The server; it ends with the test process.
#[derive(Clone)]
pub struct Smtp {
    pub port: u16,
    /// The certificate that a client must trust; empty without encryption.
    pub root: String,
    /// The only user's password, where one is needed.
    pub password: Option<&'static str>,
    tls: Option<Arc<rustls::ServerConfig>>,
    /// Encrypted from the first byte.
    whole: bool,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Smtp {
    /// Takes mail from everybody, in the open.
    pub fn open() -> Self {
        Self::start(None, String::new(), None, false)
    }

    /// The same encrypted from the first byte.
    pub fn encrypted(password: &'static str) -> Self {
        Self::with_certificate(password, true)
    }

    /// Wants STARTTLS for `localhost`, and the user `devo`.
    pub fn protected(password: &'static str) -> Self {
        Self::with_certificate(password, false)
    }

    fn with_certificate(password: &'static str, whole: bool) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        Self::start(Some(Arc::new(config)), cert.pem(), Some(password), whole)
    }

    fn start(
        tls: Option<Arc<rustls::ServerConfig>>,
        root: String,
        password: Option<&'static str>,
        whole: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let this = Self { port, root, password, tls, whole, shared: Arc::default() };
        let server = this.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        this
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let found = look(&mut self.shared.0.lock().unwrap());
        self.shared.1.notify_all();
        found
    }

    /// RCPT with this address is answered so; without an answer, as usual.
    pub fn refuse(&self, address: &str, answer: Option<&str>) {
        self.state(|state| match answer {
            Some(answer) => drop(state.refuse.insert(address.to_owned(), answer.to_owned())),
            None => drop(state.refuse.remove(address)),
        });
    }

    /// The next mail is taken, and nobody is told.
    pub fn swallow(&self) {
        self.state(|state| state.swallow = true);
    }

    /// Whether connections are cut.
    pub fn down(&self, down: bool) {
        self.state(|state| state.down = down);
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.state(|state| state.mails.clone())
    }

    /// Waits until so many mails came.
    #[track_caller]
    pub fn wait(&self, count: usize) -> Vec<Mail> {
        self.until(|state| state.mails.len() >= count, &format!("{count} mails"));
        self.mails()
    }

    #[track_caller]
    pub fn wait_connections(&self, count: usize) {
        self.until(|state| state.connections >= count, &format!("{count} connections"));
    }

    #[track_caller]
    fn until(&self, done: impl Fn(&State) -> bool, what: &str) {
        let end = Instant::now() + PATIENCE;
        let mut state = self.shared.0.lock().unwrap();
        while !done(&state) {
            let left = end.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| panic!("{what} never came: {:#?} {:?}", state.mails, state.faults));
            state = self.shared.1.wait_timeout(state, left).unwrap().0;
        }
    }

    /// No client did what it must not.
    #[track_caller]
    pub fn is_clean(&self) {
        let faults = self.state(|state| state.faults.clone());
        assert!(faults.is_empty(), "{faults:#?}");
    }

    fn serve(&self, stream: TcpStream) {
        let down = self.state(|state| {
            state.connections += 1;
            state.down
        });
        if down {
            return;
        }
        let mut talk = Talk { server: self, encrypted: false, user: None, wire: Box::new(stream.try_clone().unwrap()) };
        let encrypt = |talk: &mut Talk<'_>, stream| {
            let session = rustls::ServerConnection::new(self.tls.clone().unwrap()).unwrap();
            talk.wire = Box::new(rustls::StreamOwned::new(session, stream));
            talk.encrypted = true;
        };
        if self.whole {
            encrypt(&mut talk, stream);
            talk.say("220 fake ESMTP");
            talk.go(false);
            return;
        }
        talk.say("220 fake ESMTP");
        if talk.go(true) == After::Upgrade {
            encrypt(&mut talk, stream);
            talk.go(false);
        }
    }
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

#[derive(PartialEq)]
enum After {
    Upgrade,
    End,
}

struct Talk<'s> {
    server: &'s Smtp,
    encrypted: bool,
    user: Option<String>,
    wire: Box<dyn Wire>,
}

impl Talk<'_> {
    fn say(&mut self, line: &str) {
        // The client may have gone.
        let _ = self.wire.write_all(format!("{line}\r\n").as_bytes()).and_then(|()| self.wire.flush());
    }

    fn fault(&self, what: String) {
        self.server.state(|state| state.faults.push(what));
    }

    /// One line without its end; `None` at the end of the connection. Byte by byte: nothing of what follows STARTTLS is read.
    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            match self.wire.read(&mut byte) {
                Ok(1) => line.push(byte[0]),
                _ => return None,
            }
            if line.ends_with(b"\n") {
                if !line.ends_with(b"\r\n") {
                    self.fault(format!("a line ends without CR: {:?}", String::from_utf8_lossy(&line)));
                }
                if line.len() > 1000 {
                    self.fault(format!("a line has {} bytes", line.len()));
                }
                let text = String::from_utf8_lossy(&line).into_owned();
                return Some(text.trim_end_matches(['\r', '\n']).to_owned());
            }
        }
    }

    fn go(&mut self, first: bool) -> After {
        let (mut greeted, mut from, mut to) = (false, None::<String>, None::<String>);
        while let Some(line) = self.line() {
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => {
                    greeted = true;
                    self.say("250-fake");
                    if self.server.tls.is_some() && !self.encrypted {
                        self.say("250-STARTTLS");
                    } else if self.server.password.is_some() {
                        self.say("250-AUTH PLAIN LOGIN");
                    }
                    self.say("250 SIZE 1000000");
                }
                "STARTTLS" if first && self.server.tls.is_some() => {
                    self.say("220 go ahead");
                    return After::Upgrade;
                }
                "AUTH" => {
                    if !self.encrypted {
                        self.fault("a password in the open".to_owned());
                    }
                    let given = rest.strip_prefix("PLAIN ").unwrap_or_default();
                    let given = base64::engine::general_purpose::STANDARD.decode(given).unwrap_or_default();
                    let wanted = format!("\0devo\0{}", self.server.password.unwrap_or_default());
                    if given == wanted.as_bytes() {
                        self.user = Some("devo".to_owned());
                        self.say("235 welcome");
                    } else {
                        self.say("535 5.7.8 no");
                    }
                }
                "MAIL" if !greeted => {
                    self.fault("MAIL before EHLO".to_owned());
                    self.say("503 greet first");
                }
                "MAIL" if self.server.password.is_some() && self.user.is_none() => self.say("530 5.7.0 sign in first"),
                "MAIL" => match rest.strip_prefix("FROM:<").and_then(|rest| rest.strip_suffix('>')) {
                    Some(address) => {
                        from = Some(address.to_owned());
                        self.say("250 ok");
                    }
                    None => {
                        self.fault(format!("odd: {line}"));
                        self.say("501 no");
                    }
                },
                "RCPT" => match rest.strip_prefix("TO:<").and_then(|rest| rest.strip_suffix('>')) {
                    Some(address) if from.is_some() => {
                        match self.server.state(|state| state.refuse.get(address).cloned()) {
                            Some(answer) => self.say(&answer),
                            None => {
                                if to.replace(address.to_owned()).is_some() {
                                    self.fault("two receivers of one mail".to_owned());
                                }
                                self.say("250 ok");
                            }
                        }
                    }
                    _ => {
                        self.fault(format!("odd: {line}"));
                        self.say("503 no");
                    }
                },
                "DATA" => {
                    let (Some(from), Some(to)) = (from.take(), to.take()) else {
                        self.fault("DATA before RCPT".to_owned());
                        self.say("503 no");
                        continue;
                    };
                    self.say("354 go ahead");
                    let Some(mail) = self.data(from, to) else { return After::End };
                    let swallow = self.server.state(|state| {
                        state.mails.push(mail);
                        std::mem::take(&mut state.swallow)
                    });
                    if swallow {
                        // The other side waits until it dies or loses patience.
                        let _ = self.wire.read(&mut [0]);
                        return After::End;
                    }
                    self.say("250 taken");
                }
                "QUIT" => {
                    self.say("221 bye");
                    return After::End;
                }
                "NOOP" | "RSET" => self.say("250 ok"),
                _ => {
                    self.fault(format!("odd: {line}"));
                    self.say("500 what");
                }
            }
        }
        After::End
    }

    fn data(&mut self, from: String, to: String) -> Option<Mail> {
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            if line == "." {
                break;
            }
            if !line.is_ascii() {
                self.fault("eight bits to a server that has not offered them".to_owned());
            }
            // RFC 5321, 4.5.2.
            lines.push(line.strip_prefix('.').map_or(line.clone(), str::to_owned));
        }
        let body_at = lines.iter().position(String::is_empty).unwrap_or(lines.len());
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in &lines[..body_at] {
            if line.starts_with([' ', '\t']) {
                let last = headers.last_mut().unwrap();
                last.1.push_str(line);
            } else {
                let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line}"));
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let body = lines.get(body_at + 1..).unwrap_or_default();
        let encoding = headers.iter().find(|(name, _)| name == "content-transfer-encoding");
        let text = decode(encoding.map_or("7bit", |(_, value)| value), body);
        Some(Mail { from, to, headers, text, encrypted: self.encrypted, user: self.user.clone() })
    }
}

fn decode(encoding: &str, lines: &[String]) -> String {
    let bytes = match encoding {
        "7bit" => lines.join("\n").into_bytes(),
        "base64" => base64::engine::general_purpose::STANDARD.decode(lines.concat()).unwrap(),
        "quoted-printable" => quoted(&lines.join("\n")),
        other => panic!("an encoding that nobody needs: {other}"),
    };
    String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
}

/// RFC 2045, 6.7.
fn quoted(text: &str) -> Vec<u8> {
    let text = text.replace("=\n", "");
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        if bytes[at] == b'=' {
            out.push(u8::from_str_radix(&text[at + 1..at + 3], 16).unwrap());
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

/// RFC 2047, as far as UTF-8 in base64 goes.
fn words(value: &str) -> String {
    let (mut out, mut rest, mut was_word) = (Vec::new(), value, false);
    while let Some((before, after)) = rest.split_once("=?utf-8?b?") {
        // White space between two encoded words is none.
        if !(was_word && before.trim().is_empty()) {
            out.extend_from_slice(before.as_bytes());
        }
        let (word, more) = after.split_once("?=").unwrap();
        out.extend(base64::engine::general_purpose::STANDARD.decode(word).unwrap());
        (rest, was_word) = (more, true);
    }
    out.extend_from_slice(rest.as_bytes());
    String::from_utf8(out).unwrap()
}
