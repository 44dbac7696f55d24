//! Starts the supervisor and follows a command to its end: output, time limit, cancellation.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::sync::CancellationToken;

use super::supervisor::{CANNOT_START, WORD};
use super::{Captured, Command, Exit, Finished, Output, SandboxError, Stream};

/// A line that does not end is told in pieces of this many bytes.
const LINE_MAX: usize = 8 * 1024;
/// After the supervisor's end its pipes are closed already; this only bounds a surprise.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs `argv` under the supervisor with exactly this environment. `rewrite` is a path on the host that output shows
/// as the path that the command is meant to see.
pub(super) async fn run(
    exe: &Path,
    argv: Vec<std::ffi::OsString>,
    env: Vec<(String, String)>,
    dir: &Path,
    command: &Command,
    output: &dyn Output,
    cancel: &CancellationToken,
) -> Result<Finished, SandboxError> {
    let started = Instant::now();
    let mut child = tokio::process::Command::new(exe)
        .arg(WORD)
        .args(argv)
        .env_clear()
        .envs(env)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        // Should this future be dropped, the pipe below ends and the supervisor cleans up; killing it would not.
        .kill_on_drop(false)
        .spawn()
        .map_err(|error| SandboxError::Start(format!("{}: {error}", exe.display())))?;
    let lifeline = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let read_all = async {
        tokio::join!(
            follow(stdout, Stream::Stdout, command.keep, output),
            follow(stderr, Stream::Stderr, command.keep, output)
        )
    };
    tokio::pin!(read_all);
    let limit = command.timeout.unwrap_or(Duration::MAX);
    let mut streams = None;
    let mut stopped = None;
    let deadline = tokio::time::sleep(limit);
    tokio::pin!(deadline);
    let mut lifeline = lifeline;
    let status = loop {
        tokio::select! {
            both = &mut read_all, if streams.is_none() => streams = Some(both),
            status = child.wait() => break status,
            () = &mut deadline, if stopped.is_none() && command.timeout.is_some() => {
                stopped = Some(Exit::TimedOut);
                lifeline = None;
            }
            () = cancel.cancelled(), if stopped.is_none() => {
                stopped = Some(Exit::Cancelled);
                lifeline = None;
            }
        }
    };
    drop(lifeline);
    let (stdout, stderr) = match streams {
        Some(both) => both,
        None => tokio::time::timeout(DRAIN, &mut read_all).await.unwrap_or_default(),
    };
    let code = status.map_err(|error| SandboxError::Start(error.to_string()))?.code().unwrap_or(137);
    if code == CANNOT_START && stopped.is_none() {
        return Err(SandboxError::Start(stderr.text().trim().to_owned()));
    }
    let exit = stopped.unwrap_or(Exit::Code(code));
    Ok(Finished { exit, stdout, stderr, duration: started.elapsed() })
}

async fn follow(mut from: impl AsyncRead + Unpin, stream: Stream, keep: usize, output: &dyn Output) -> Captured {
    let mut kept = Captured::new(keep);
    let mut line: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        kept.push(&buffer[..read]);
        for byte in &buffer[..read] {
            if *byte == b'\n' || line.len() >= LINE_MAX {
                output.line(stream, &String::from_utf8_lossy(&line));
                line.clear();
            }
            if *byte != b'\n' {
                line.push(*byte);
            }
        }
    }
    if !line.is_empty() {
        output.line(stream, &String::from_utf8_lossy(&line));
    }
    kept
}
