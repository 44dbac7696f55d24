//! Lines for people: kept in `runs/<id>/logs/<step>.jsonl`, and told to whoever listens.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::{Clock, Notice};
use crate::core::id::{RunId, StepId};
use crate::core::time::Timestamp;
use crate::secrets::Masker;
use crate::steps::{Log, Stream};

/// The most that is kept of one step's lines, in bytes.
const STEP_MAX: u64 = 10 * 1024 * 1024;
/// Longer lines are cut.
const LINE_MAX: usize = 4096;

/// Files that are open at once: a run may have 10,000 steps, and a process not many more files than a thousand.
const OPEN_MAX: usize = 64;

/// A kept line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When.
    pub at: Timestamp,
    /// Of which step.
    pub step: StepId,
    /// Where it came from.
    pub stream: Stream,
    /// Masked, without control codes.
    pub text: String,
}

/// The log of one run.
pub(super) struct RunLog {
    pub run: RunId,
    pub dir: PathBuf,
    pub masker: Masker,
    pub clock: Clock,
    pub feed: broadcast::Sender<Notice>,
    pub files: Mutex<HashMap<StepId, (File, u64)>>,
    /// Whether the last line could not be written; that is told once.
    pub broken: AtomicBool,
}

impl RunLog {
    fn keep(&self, line: &Line) -> std::io::Result<()> {
        let mut files = self.files.lock().expect("no holder of this lock can panic");
        if !files.contains_key(&line.step) {
            if files.len() >= OPEN_MAX {
                files.clear();
            }
            let path = self.dir.join(format!("{}.jsonl", line.step));
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
            let size = file.metadata()?.len();
            files.insert(line.step.clone(), (file, size));
        }
        let (file, size) = files.get_mut(&line.step).expect("just inserted");
        if *size > STEP_MAX {
            return Ok(());
        }
        let mut text = serde_json::to_string(line).expect("a line is plain data");
        if *size + text.len() as u64 > STEP_MAX {
            let marker =
                Line { text: "[the log of this step is full; later lines are not kept]".to_owned(), ..line.clone() };
            text = serde_json::to_string(&marker).expect("a line is plain data");
            *size = STEP_MAX;
        }
        text.push('\n');
        *size += text.len() as u64;
        file.write_all(text.as_bytes())
    }
}

impl Log for RunLog {
    fn line(&self, step: &StepId, stream: Stream, text: &str) {
        for part in text.lines() {
            // In this order: codes may stand within a secret.
            let mut text = self.masker.mask(&crate::secrets::printable(part));
            if text.len() > LINE_MAX {
                let cut = (0..=LINE_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                text.truncate(cut);
                text.push_str(" […]");
            }
            let line = Line { at: self.clock.now(), step: step.clone(), stream, text };
            // A log that cannot be written must not stop the work; the journal has what counts.
            match self.keep(&line) {
                Ok(()) => self.broken.store(false, Ordering::Relaxed),
                Err(error) if !self.broken.swap(true, Ordering::Relaxed) => {
                    tracing::warn!(run = %self.run, %error, "cannot write the run's log; its lines are lost until that is mended");
                }
                Err(_) => {}
            }
            let _ = self.feed.send(Notice::Line { run: self.run, step: line.step, stream, text: line.text });
        }
    }
}
