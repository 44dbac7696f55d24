//! What the engine tells a command's supervisor, and what it hears back: two framed JSON messages.
//!
//! Both ends are this program; nothing here is read from anyone else.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{LimitHit, Limits};

/// One command, ready to start: everything that could be refused has been checked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// Text for `sh -c`.
    pub script: String,
    /// The whole environment but HOME, which the place adds unless it is here.
    pub env: Vec<(String, String)>,
    pub place: Place,
    pub limits: Limits,
    /// The folder whose file system is watched for free space.
    pub disk: String,
}

/// How the sandboxes differ, for the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Place {
    Host {
        /// Where the command starts.
        dir: String,
        /// Where its private HOME is made.
        home_parent: String,
    },
    Bubblewrap {
        program: String,
        options: Vec<String>,
        /// Path in the sandbox and origin of files that are copied into it.
        files: Vec<(String, Origin)>,
        home: String,
        /// The socket that waits for the port of a proxy, where the network is an allow-list.
        handover: Option<String>,
    },
}

/// Where the content of a file comes from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Origin {
    Text(String),
    /// This file of the host.
    Host(String),
}

/// How it ended, as the supervisor saw it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    pub end: End,
    pub hits: Vec<LimitHit>,
    /// Whether every process of the command is known to be dead.
    pub clean: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum End {
    /// The command ended by itself with this code, in a shell's words.
    Code(i32),
    /// A signal killed it, a limit of ours included.
    Signal(i32),
    /// The engine asked for the end, or is gone.
    Killed,
    /// The sandbox refused before the command started; stderr says why.
    NotSetUp,
    /// The program could not be started.
    NotStarted(String),
}

/// More than any job needs: script and variables are bounded.
const LONGEST_FRAME: u32 = 64 << 20;

/// A message with its length before it.
pub(super) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).ok().filter(|length| *length <= LONGEST_FRAME);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"))?;
    Ok([&length.to_le_bytes()[..], &json].concat())
}

/// The length that a frame's first four bytes announce.
pub(super) fn announced(header: [u8; 4]) -> io::Result<usize> {
    match u32::from_le_bytes(header) {
        length if length <= LONGEST_FRAME => Ok(length as usize),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long")),
    }
}

/// Reads one message.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut header = [0; 4];
    from.read_exact(&mut header)?;
    let mut json = vec![0; announced(header)?];
    from.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// Writes one message.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(message)?)
}
