//! Commands of steps: run in the run's sandbox, logged line by line, their output cleaned and masked before anything else
//! sees it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use super::{Context, Log, Stream, Turn};
use crate::agent::truncate::clean;
use crate::core::failure::Failure;
use crate::core::id::StepId;
use crate::sandboxes::{self, Exit, Finished, LimitHit, OutputSink};
use crate::secrets::{LineMasker, Masker, printable};

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
    let mut command = cx.command(turn, script, workspace);
    command.dir = workspace.join(dir.trim_start_matches("./"));
    command.read_only = read_only;
    command.timeout = Some(Duration::from_secs(seconds));
    let done =
        cx.equipment.sandbox.exec(&command, &cx.lines(), &cx.cancel).await.map_err(|error| sandbox_failure(&error))?;
    let masker = &cx.equipment.masker;
    let (stdout, stderr) = (tidy(&done.stdout, masker), tidy(&done.stderr, masker));
    let text = match (stdout.trim().is_empty(), stderr.trim().is_empty()) {
        (_, true) => stdout,
        (true, false) => stderr,
        (false, false) => format!("{}\n{stderr}", stdout.trim_end()),
    };
    let how = match done.exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => format!("killed by signal {signal}"),
        Exit::TimedOut => format!("killed after {seconds} s, its time limit"),
        Exit::Cancelled => "stopped".to_owned(),
    };
    if let Some(failure) = disk_full(&done) {
        return Err(failure);
    }
    let limit = done.limits_hit.first().map_or(String::new(), |hit| format!("; {}", limit_said(*hit)));
    Ok(Ran { text, code: done.exit.code(), said: format!("{how}{limit}") })
}

/// A limit that a command ran into, in words.
pub fn limit_said(hit: LimitHit) -> &'static str {
    match hit {
        LimitHit::Memory => "it ran out of memory",
        LimitHit::Pids => "it had too many processes",
        LimitHit::FileSize => "a file became too large",
        LimitHit::Disk => "the disk is nearly full",
    }
}

/// The failure of a command that was stopped because the disk of its workspace is nearly full: no edit cures that.
pub fn disk_full(done: &Finished) -> Option<Failure> {
    let full = done.limits_hit.contains(&LimitHit::Disk) && !done.exit.is_success();
    full.then(|| {
        let message = "the command was stopped because the disk of the home is nearly full";
        Failure::retryable("disk_full", message)
            .hint("make room on that disk (`devo gc` removes what old runs left), then `devo retry RUN`")
    })
}

/// The code of a failure for which the engine runs the step again by itself, once: its container is gone, and nothing of
/// the command lives.
pub const CONTAINER_LOST: &str = "container_lost";

/// A sandbox's error as a stored failure.
pub fn sandbox_failure(error: &sandboxes::SandboxError) -> Failure {
    let failure = match error {
        sandboxes::SandboxError::Container { gone: true, .. } => Failure::retryable(CONTAINER_LOST, error.to_string()),
        _ => Failure::terminal("sandbox", error.to_string()),
    };
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The beginning and the end of what a stream of a command printed: without escape codes, without secrets, not even a piece
/// of one at the cut.
pub fn tidy(captured: &sandboxes::Captured, masker: &Masker) -> String {
    let masked = masked(captured, masker);
    // A second time: codes may have stood within a secret.
    masker.mask(&clean(masked.as_bytes()))
}

/// As [`tidy`], but whole and with its escape codes, for programs that read it.
pub fn masked(captured: &sandboxes::Captured, masker: &Masker) -> String {
    let text = captured.text_of(|text, before_cut, after_cut| masker.mask_part(text, after_cut, before_cut));
    // What would show a secret on a screen is not kept as it is.
    let shown = printable(&text);
    if masker.found_in(&shown) { masker.mask(&clean(text.as_bytes())) } else { text }
}

/// A command's output on its way to a log, by lines.
pub struct Lines<'a> {
    log: &'a dyn Log,
    step: &'a StepId,
    /// Of each stream.
    pending: [Mutex<Pending>; 2],
}

/// What has come of a stream and is not told yet.
struct Pending {
    /// An unfinished line.
    line: Vec<u8>,
    masking: LineMasker,
}

impl<'a> Lines<'a> {
    pub(super) fn new(log: &'a dyn Log, step: &'a StepId, masker: &Masker) -> Self {
        let pending = || Mutex::new(Pending { line: Vec::new(), masking: LineMasker::new(masker) });
        Self { log, step, pending: [pending(), pending()] }
    }

    fn tell(&self, stream: sandboxes::Stream, lines: &[String]) {
        let stream = match stream {
            sandboxes::Stream::Stdout => Stream::Stdout,
            sandboxes::Stream::Stderr => Stream::Stderr,
        };
        for line in lines {
            self.log.line(self.step, stream, line);
        }
    }
}

impl Pending {
    /// The lines that are known to hold no secret now.
    fn end_line(&mut self) -> Vec<String> {
        let line = std::mem::take(&mut self.line);
        self.masking.line(printable(&String::from_utf8_lossy(&line)))
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
            // Not within a character, so that the pieces still are the text.
            let full = pending.line.len() >= LINE_MAX && (byte & 0xC0 != 0x80 || pending.line.len() >= LINE_MAX + 4);
            if *byte == b'\n' || full {
                let lines = pending.end_line();
                self.tell(stream, &lines);
            }
            if *byte != b'\n' {
                pending.line.push(*byte);
            }
        }
    }
}

impl Drop for Lines<'_> {
    fn drop(&mut self) {
        for (slot, stream) in self.pending.iter().zip([sandboxes::Stream::Stdout, sandboxes::Stream::Stderr]) {
            let Ok(mut pending) = slot.lock() else { continue };
            let mut lines = if pending.line.is_empty() { Vec::new() } else { pending.end_line() };
            lines.extend(pending.masking.finish());
            self.tell(stream, &lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandboxes::Captured;

    #[test]
    fn no_piece_of_a_secret_is_kept_at_a_cut_or_between_codes() {
        let masker = Masker::default();
        masker.add(&"tok-0123456789abcdef".to_owned().into());
        for before in 0..40 {
            let mut captured = Captured::bounded(100);
            captured.push(format!("{}tok-0123456789abcdef", "x".repeat(before)).as_bytes());
            captured.push("y".repeat(200).as_bytes());
            captured.push(format!("tok-0123456789abcdef{}", "z".repeat(60 + before)).as_bytes());
            for kept in [tidy(&captured, &masker), masked(&captured, &masker)] {
                assert!(kept.contains("bytes cut"), "{kept}");
                let piece = (0..15).map(|at| &"tok-0123456789abcdef"[at..at + 6]).find(|piece| kept.contains(piece));
                assert_eq!(piece, None, "{kept}");
            }
        }
        let mut captured = Captured::bounded(100);
        captured.push(b"\x1b[1mtok-01234\x1b[0m56789abcdef\x1b[0m");
        assert_eq!([tidy(&captured, &masker), masked(&captured, &masker)], ["***", "***"]);
    }

    #[test]
    fn a_full_disk_is_told_with_what_to_do() {
        let done = |exit, hits: &[LimitHit]| Finished {
            exit,
            stdout: Captured::bounded(1),
            stderr: Captured::bounded(1),
            duration: Duration::ZERO,
            limits_hit: hits.to_vec(),
            unprotected: Vec::new(),
        };
        let failure = disk_full(&done(Exit::Signal(9), &[LimitHit::Disk])).expect("it failed for that");
        assert!(failure.hint.is_some_and(|hint| hint.contains("devo gc") && hint.contains("devo retry")));
        assert_eq!(disk_full(&done(Exit::Code(0), &[LimitHit::Disk])), None);
        assert_eq!(disk_full(&done(Exit::Signal(9), &[LimitHit::Memory])), None);
    }
}
