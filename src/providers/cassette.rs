//! Recordings of model calls. Knows files and wire bodies, no key and no network.
//!
//! A cassette is JSON Lines: a header, then one line for each call that shaped the conversation. What is kept of a
//! request is its canonical form ([`super::normalise`]); keys are not in it because transports add them later. Replies
//! are kept raw, event streams included. Weather is not kept (rate limits, outages, cut streams, bad keys): a replay is
//! of what the models did, so it waits for nothing.
//!
//! **Replay** finds a request by its hash; equal requests are answered in the order of the recording, then with the
//! last answer again. Nothing is remembered between processes, so a killed and resumed run finds its next call as well.
//!
//! **Recording into a file that exists** is refused, except by the run that made it: a resumed run goes on at its end
//! (a half line that a kill left is cut off). A request that the file already answers is answered from the file once,
//! so that a call which was recorded, but not yet journaled when the run was killed, is neither paid nor recorded
//! twice.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::error::ErrorKind;
use super::http::{HttpReply, HttpRequest, Transport, TransportError};
use super::{Provider, normalise};
use crate::core::budget::Usage;
use crate::core::id::RunId;
use crate::secrets::Masker;

mod difference;

/// The format that this program writes.
pub const VERSION: u32 = 1;
/// The first field of the header, by which a cassette is known.
const MAGIC: &str = "devo";
/// The largest cassette read, in bytes.
const FILE_MAX: u64 = 512 * 1024 * 1024;
/// Headers of a reply that are kept: those that the parsers read.
const HEADERS: &[&str] = &["content-type", "request-id", "x-request-id"];

/// Why a cassette cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CassetteError {
    /// It is not there.
    #[error("there is no cassette {}", .0.display())]
    Missing(PathBuf),
    /// It is something else.
    #[error("{} is not a cassette", .0.display())]
    NotACassette(PathBuf),
    /// A newer program wrote it.
    #[error("{} has format {version}; this program reads {VERSION}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
    /// A line of it cannot be read.
    #[error("line {line} of {} is damaged: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// It exists, and is no recording of this run.
    #[error("{} exists and is not a recording of this run", .0.display())]
    Exists(PathBuf),
    /// The file system says no.
    #[error("the cassette {} cannot be {verb}: {reason}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// Why it failed.
        reason: String,
    },
}

impl CassetteError {
    /// What to do.
    pub fn hint(&self) -> String {
        match self {
            Self::Missing(_) => "check the path, or record one with `devo run … --record FILE`".into(),
            Self::NotACassette(_) => "name a file that `devo run … --record FILE` wrote".into(),
            Self::Newer { .. } => "use the newer `devo` that wrote it, or record again".into(),
            Self::Damaged { .. } => "record again; a cassette is not meant to be edited by hand".into(),
            Self::Exists(_) => "record into a new file, or remove this one".into(),
            Self::Io { .. } => "check the folder, its permissions and the space left".into(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    cassette: String,
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<RunId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    label: String,
    provider: String,
    sha256: String,
    request: Value,
    reply: Stored,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Stored {
    fn reply(&self) -> HttpReply {
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        HttpReply { status: self.status, headers, body: self.body.clone() }
    }
}

/// A request in canonical form.
fn canonical(request: &HttpRequest) -> Value {
    let headers: BTreeMap<&str, &str> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    json!({
        "method": request.method.as_str(),
        "path": normalise::text(&request.path),
        "headers": headers,
        "body": normalise::value(&request.body),
    })
}

/// What two equal requests have in common. Headers are left out: they say how the answer is written, not what it is.
fn hash(provider: &str, canonical: &Value) -> String {
    let key = json!([provider, canonical["method"], canonical["path"], canonical["body"]]);
    Sha256::digest(key.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A cassette that was read.
#[derive(Default)]
pub struct Cassette {
    path: PathBuf,
    note: Option<String>,
    run: Option<RunId>,
    /// With the number of its line and the hash of its request as it is normalised today.
    entries: Vec<(usize, String, Entry)>,
    /// How often each request was asked in this process.
    asked: Mutex<HashMap<String, usize>>,
}

impl std::fmt::Debug for Cassette {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cassette {} with {} calls", self.path.display(), self.entries.len())
    }
}

impl Cassette {
    /// Reads a cassette.
    pub fn open(path: &Path) -> Result<Self, CassetteError> {
        let io = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => CassetteError::Missing(path.to_owned()),
            _ => CassetteError::Io { path: path.to_owned(), verb: "read", reason: error.to_string() },
        };
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(CassetteError::NotACassette(path.to_owned()));
        }
        let mut bytes = Vec::new();
        File::open(path).map_err(io)?.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > FILE_MAX {
            let reason = "it is too large".to_owned();
            return Err(CassetteError::Io { path: path.to_owned(), verb: "read", reason });
        }
        Self::parse(path, &bytes)
    }

    /// Reads a cassette from memory; `path` is what errors call it.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, CassetteError> {
        let damaged = |line: usize, reason: String| CassetteError::Damaged { path: path.to_owned(), line, reason };
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let header: Option<Header> = lines.next().and_then(|line| serde_json::from_slice(line).ok());
        let Some(header) = header.filter(|header| header.cassette == MAGIC) else {
            return Err(CassetteError::NotACassette(path.to_owned()));
        };
        if header.version > VERSION {
            return Err(CassetteError::Newer { path: path.to_owned(), version: header.version });
        }
        let mut entries = Vec::new();
        for (at, line) in lines.enumerate() {
            let at = at + 2;
            let entry: Entry = match serde_json::from_slice(line) {
                Ok(entry) => entry,
                // A kill while the last line was written: the call was not answered either.
                Err(_) if !line.ends_with(b"\n") => break,
                Err(_) if line.trim_ascii().is_empty() => continue,
                Err(error) => return Err(damaged(at, error.to_string())),
            };
            if hash(&entry.provider, &entry.request) != entry.sha256 {
                return Err(damaged(at, "its request is not the one that its hash names".into()));
            }
            // Rules may have been added since.
            let again = json!({
                "method": entry.request["method"],
                "path": normalise::text(entry.request["path"].as_str().unwrap_or_default()),
                "body": normalise::value(&entry.request["body"]),
            });
            entries.push((at, hash(&entry.provider, &again), entry));
        }
        Ok(Self { path: path.to_owned(), note: header.note, run: header.run, entries, asked: Mutex::default() })
    }

    /// What the recording says of itself.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The number of recorded calls.
    pub fn calls(&self) -> usize {
        self.entries.len()
    }

    /// A transport that answers a provider's requests from this cassette; `label` (the role) is for messages only.
    pub fn replay(self: &Arc<Self>, label: &str, provider: &'static dyn Provider) -> Replayer {
        Replayer { cassette: Arc::clone(self), label: label.to_owned(), provider }
    }
}

/// Answers from a cassette.
#[derive(Debug)]
pub struct Replayer {
    cassette: Arc<Cassette>,
    label: String,
    provider: &'static dyn Provider,
}

#[async_trait]
impl Transport for Replayer {
    async fn send(&self, request: HttpRequest) -> Result<HttpReply, TransportError> {
        let cassette = &self.cassette;
        let canonical = canonical(&request);
        let key = hash(self.provider.name(), &canonical);
        let same: Vec<&Entry> =
            cassette.entries.iter().filter(|(_, known, _)| *known == key).map(|(_, _, entry)| entry).collect();
        let Some(last) = same.len().checked_sub(1) else {
            let text = difference::explain(cassette, &self.label, self.provider.name(), &canonical);
            return Err(TransportError::Mismatch(text));
        };
        let mut asked = lock(&cassette.asked);
        let times = asked.entry(key).or_default();
        let entry = same[(*times).min(last)];
        *times += 1;
        Ok(entry.reply.reply())
    }

    fn live(&self) -> bool {
        false
    }
}

/// A cassette that is being written, shared by the roles of a run.
pub struct Recording {
    path: PathBuf,
    masker: Masker,
    state: Mutex<Writing>,
}

struct Writing {
    file: File,
    /// What an earlier process of this run recorded, and this one has not asked for.
    earlier: HashMap<String, VecDeque<HttpReply>>,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "recording to {}", self.path.display())
    }
}

impl Recording {
    /// Begins a cassette, or goes on with that of the same run. `masker` knows what may not be stored.
    pub fn open(path: &Path, run: RunId, note: Option<&str>, masker: Masker) -> Result<Self, CassetteError> {
        let io = |verb| {
            move |error: std::io::Error| CassetteError::Io { path: path.to_owned(), verb, reason: error.to_string() }
        };
        let begun = std::fs::metadata(path).is_ok_and(|meta| !meta.is_file() || meta.len() > 0);
        let mut earlier: HashMap<String, VecDeque<HttpReply>> = HashMap::new();
        let file = if begun {
            let known = Cassette::open(path).map_err(|error| match error {
                CassetteError::NotACassette(path) => CassetteError::Exists(path),
                other => other,
            })?;
            if known.run != Some(run) {
                return Err(CassetteError::Exists(path.to_owned()));
            }
            for (_, key, entry) in &known.entries {
                earlier.entry(key.clone()).or_default().push_back(entry.reply.reply());
            }
            let file = OpenOptions::new().append(true).open(path).map_err(io("opened"))?;
            file.set_len(whole_lines(path).map_err(io("read"))?).map_err(io("mended"))?;
            file
        } else {
            let mut file =
                OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(io("created"))?;
            let note = note.map(str::to_owned);
            let header = Header { cassette: MAGIC.into(), version: VERSION, run: Some(run), note };
            write_line(&mut file, &header).map_err(io("written"))?;
            file
        };
        Ok(Self { path: path.to_owned(), masker, state: Mutex::new(Writing { file, earlier }) })
    }

    /// A transport that sends through `inner` and records what comes back; `label` is the role.
    pub fn record(
        self: &Arc<Self>,
        label: &str,
        provider: &'static dyn Provider,
        inner: Arc<dyn Transport>,
    ) -> Recorder {
        Recorder { recording: Arc::clone(self), label: label.to_owned(), provider, inner }
    }

    fn append(&self, entry: &Entry) -> Result<(), CassetteError> {
        let file = &mut lock(&self.state).file;
        let written = file.metadata().and_then(|before| {
            write_line(file, entry).inspect_err(|_| {
                // A full disk may take half a line; the next one must not be glued to it.
                file.set_len(before.len()).ok();
            })
        });
        written.map_err(|error| CassetteError::Io {
            path: self.path.clone(),
            verb: "written",
            reason: error.to_string(),
        })
    }

    /// A JSON value without secrets.
    fn masked(&self, value: Value) -> Value {
        let text = value.to_string();
        if !self.masker.found_in(&text) {
            return value;
        }
        serde_json::from_str(&self.masker.mask(&text)).unwrap_or(Value::Null)
    }
}

/// Sends and records.
#[derive(Debug)]
pub struct Recorder {
    recording: Arc<Recording>,
    label: String,
    provider: &'static dyn Provider,
    inner: Arc<dyn Transport>,
}

#[async_trait]
impl Transport for Recorder {
    async fn send(&self, request: HttpRequest) -> Result<HttpReply, TransportError> {
        let canonical = self.recording.masked(canonical(&request));
        let sha256 = hash(self.provider.name(), &canonical);
        let earlier = lock(&self.recording.state).earlier.get_mut(&sha256).and_then(VecDeque::pop_front);
        if let Some(reply) = earlier {
            return Ok(reply);
        }
        let reply = self.inner.send(request).await?;
        let usage = match self.provider.reply(&reply) {
            Ok(reply) => Some(reply.usage),
            Err(error) => match error.kind {
                ErrorKind::Malformed | ErrorKind::Refused { .. } | ErrorKind::ContextTooLong => error.usage(),
                _ => return Ok(reply),
            },
        };
        let header = |name: &&str| Some(((*name).to_owned(), reply.header(name)?.to_owned()));
        let stored = Stored {
            status: reply.status,
            headers: HEADERS.iter().filter_map(header).collect(),
            body: self.recording.masker.mask(&reply.body),
        };
        let (label, provider) = (self.label.clone(), self.provider.name().to_owned());
        self.recording.append(&Entry { label, provider, sha256, request: canonical, reply: stored, usage })?;
        Ok(reply)
    }

    fn live(&self) -> bool {
        self.inner.live()
    }
}

/// The length of a file up to its last whole line.
fn whole_lines(path: &Path) -> std::io::Result<u64> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1))
}

fn write_line(file: &mut File, line: &impl Serialize) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    file.write_all(&bytes)?;
    file.sync_data()
}

/// No holder of these locks can leave half a change behind, so a poisoned one is as good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
