//! Commands of steps: run in the run's sandbox, logged line by line, their output cleaned and masked before anything else
//! sees it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use super::{Context, Log, Stream, Turn};
use crate::agent::truncate::clean;
use crate::core::failure::Failure;
use crate::core::id::StepId;
use crate::sandboxes::{self, Command, Exit, LimitHit, OutputSink};

/// A line that does not end is logged in pieces of this many bytes.
const LINE_MAX: usize = 8 * 1024;

/// A command that ended.
pub struct Ran {
    /// Standard output, then standard error; cleaned, masked.
    pub text: String,
    /// The exit code; none if it was killed for its time.
    pub code: Option<i32>,
    /// How it ended, in words.
    pub said: String,
}

/// Runs a command in a folder below `workspace`.
pub async fn run_command(
    cx: &Context,
    turn: &Turn,
    script: &str,
    workspace: &Path,
    dir: &str,
    read_only: Vec<PathBuf>,
    seconds: u64,
) -> Result<Ran, Failure> {
    let mut command = Command::new(script, workspace);
    command.dir = workspace.join(dir.trim_start_matches("./"));
    command.read_only = read_only;
    command.env = cx.command_env(turn);
    command.timeout = Some(Duration::from_secs(seconds));
    command.network = cx.equipment.network.clone();
    let done =
        cx.equipment.sandbox.exec(&command, &cx.lines(), &cx.cancel).await.map_err(|error| sandbox_failure(&error))?;
    let tidy = |captured: &sandboxes::Captured| cx.equipment.masker.mask(&clean(captured.text().as_bytes()));
    let (stdout, stderr) = (tidy(&done.stdout), tidy(&done.stderr));
    let text = match (stdout.trim().is_empty(), stderr.trim().is_empty()) {
        (_, true) => stdout,
        (true, false) => stderr,
        (false, false) => format!("{}\n{stderr}", stdout.trim_end()),
    };
    let limit = done.limits_hit.first().map(|hit| match hit {
        LimitHit::Memory => "; it ran out of memory",
        LimitHit::Pids => "; it had too many processes",
        LimitHit::FileSize => "; a file became too large",
        LimitHit::Disk => "; the disk is nearly full",
    });
    let how = match done.exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => format!("killed by signal {signal}"),
        Exit::TimedOut => format!("killed after {seconds} s, its time limit"),
        Exit::Cancelled => "stopped".to_owned(),
    };
    Ok(Ran { text, code: done.exit.code(), said: format!("{how}{}", limit.unwrap_or_default()) })
}

/// A sandbox's error as a stored failure.
pub fn sandbox_failure(error: &sandboxes::SandboxError) -> Failure {
    let failure = Failure::terminal("sandbox", error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// A command's output on its way to a log, by lines.
pub struct Lines<'a> {
    log: &'a dyn Log,
    step: &'a StepId,
    /// What has come of an unfinished line, of each stream.
    pending: [Mutex<Vec<u8>>; 2],
}

impl<'a> Lines<'a> {
    pub(super) fn new(log: &'a dyn Log, step: &'a StepId) -> Self {
        Self { log, step, pending: [Mutex::default(), Mutex::default()] }
    }

    fn tell(&self, stream: sandboxes::Stream, line: &[u8]) {
        let stream = match stream {
            sandboxes::Stream::Stdout => Stream::Stdout,
            sandboxes::Stream::Stderr => Stream::Stderr,
        };
        self.log.line(self.step, stream, &String::from_utf8_lossy(line));
    }
}

impl OutputSink for Lines<'_> {
    fn note(&self, text: &str) {
        self.log.line(self.step, Stream::Note, text);
    }

    fn chunk(&self, stream: sandboxes::Stream, bytes: &[u8]) {
        let slot = &self.pending[usize::from(stream == sandboxes::Stream::Stderr)];
        let mut pending = slot.lock().expect("no holder of this lock can panic");
        for byte in bytes {
            if *byte == b'\n' || pending.len() >= LINE_MAX {
                self.tell(stream, &pending);
                pending.clear();
            }
            if *byte != b'\n' {
                pending.push(*byte);
            }
        }
    }
}

impl Drop for Lines<'_> {
    fn drop(&mut self) {
        for (slot, stream) in self.pending.iter().zip([sandboxes::Stream::Stdout, sandboxes::Stream::Stderr]) {
            let rest = slot.lock().map(|mut pending| std::mem::take(&mut *pending)).unwrap_or_default();
            if !rest.is_empty() {
                self.tell(stream, &rest);
            }
        }
    }
}
