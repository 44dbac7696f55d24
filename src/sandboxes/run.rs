//! The engine's half of a command: starts its supervisor, reads both streams, keeps the time, and passes on the end.
//!
//! Knows nothing of how a sandbox isolates; that is in the [`Job`].

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::process::{Child, Command as Process};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::job::{self, End, Job, Report};
use super::supervisor::SUPERVISOR_WORD;
use super::tap::Tap;
use super::{Command, Exit, Finished, OutputSink, SandboxError, Stream};

/// After a kill the supervisor reports within milliseconds; this is for a machine on its knees.
const REPORT_WITHIN: Duration = Duration::from_secs(10);
/// After the report nobody of the command is left to write: this is for a stream that was handed to a stranger.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);
/// Of what a sandbox complains about, as much goes into an error.
const LONGEST_COMPLAINT: usize = 2000;

/// The program that watches commands: this one, under the word [`SUPERVISOR_WORD`].
#[derive(Debug, Clone)]
pub struct Supervisor {
    exe: PathBuf,
}

impl Supervisor {
    /// The running program itself, even if its file has been replaced or removed since.
    pub fn this_program() -> Self {
        Self { exe: "/proc/self/exe".into() }
    }

    /// The program at that path, for whoever is not `devo` itself (a test).
    pub fn at(exe: impl Into<PathBuf>) -> Self {
        Self { exe: exe.into() }
    }

    /// Where its file is.
    pub(super) fn path(&self) -> &Path {
        &self.exe
    }
}

/// A supervisor at work. Dropped, it lets go of the control socket, which is the order to kill.
struct Supervised {
    child: Child,
    /// Closed to kill.
    order: Option<tokio::net::unix::OwnedWriteHalf>,
    stdout: Option<tokio::process::ChildStdout>,
    stderr: Option<tokio::process::ChildStderr>,
}

fn lost(what: &str, source: impl Into<Option<io::Error>>) -> SandboxError {
    SandboxError::Supervisor { what: what.to_owned(), source: source.into() }
}

impl Supervisor {
    async fn start(&self, job: &Job) -> Result<(Supervised, OwnedReadHalf), SandboxError> {
        let cannot = |error: io::Error| lost("could not be started", error);
        let (ours, theirs) = StdUnixStream::pair().map_err(cannot)?;
        ours.set_nonblocking(true).map_err(cannot)?;
        let (report, mut order) = UnixStream::from_std(ours).map_err(cannot)?.into_split();
        let mut child = Process::new(&self.exe)
            .arg0("devo")
            .arg(SUPERVISOR_WORD)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        order
            .write_all(&job::frame(job).map_err(cannot)?)
            .await
            .map_err(|error| lost("did not take the command", error))?;
        Ok((Supervised { child, order: Some(order), stdout, stderr }, report))
    }
}

async fn read_report(mut from: OwnedReadHalf) -> io::Result<Report> {
    let mut header = [0; 4];
    from.read_exact(&mut header).await?;
    let mut json = vec![0; job::announced(header)?];
    from.read_exact(&mut json).await?;
    Ok(serde_json::from_slice(&json)?)
}

/// Runs the job to its end. `unprotected` is passed on.
pub(super) async fn run(
    supervisor: &Supervisor,
    job: &Job,
    command: &Command,
    unprotected: Vec<PathBuf>,
    output: &dyn OutputSink,
    cancel: &CancellationToken,
) -> Result<Finished, SandboxError> {
    let start = Instant::now();
    let mut out = Tap::new(Stream::Stdout, command, output);
    let mut err = Tap::new(Stream::Stderr, command, output);
    if cancel.is_cancelled() {
        let (stdout, stderr) = (out.captured, err.captured);
        let (duration, limits_hit) = (Duration::ZERO, Vec::new());
        return Ok(Finished { exit: Exit::Cancelled, stdout, stderr, duration, limits_hit, unprotected });
    }
    let (mut supervised, report) = supervisor.start(job).await?;
    let far = start + Duration::from_secs(86400 * 365);
    // Why we ordered the end, if we did; until when something may take, whatever is awaited next.
    let mut ordered: Option<Exit> = None;
    let mut report = pin!(read_report(report));
    let mut ended: Option<Report> = None;
    let mut deadline = command.timeout.and_then(|limit| start.checked_add(limit)).unwrap_or(far);
    while ended.is_none() || out.open || err.open {
        let order = tokio::select! {
            () = out.read(&mut supervised.stdout), if out.open => None,
            () = err.read(&mut supervised.stderr), if err.open => None,
            report = &mut report, if ended.is_none() => {
                ended = Some(report.map_err(|error| lost("ended without a word", error))?);
                deadline = Instant::now() + DRAIN_WITHIN;
                None
            }
            () = cancel.cancelled(), if ended.is_none() && ordered.is_none() => Some(Exit::Cancelled),
            () = sleep_until(deadline) => match (&ended, ordered) {
                (Some(_), _) => break,
                (None, None) => Some(Exit::TimedOut),
                // It goes on killing; to kill it would set free what it holds.
                (None, Some(_)) => return Err(lost("did not end the command in time", None)),
            },
        };
        if order.is_some() {
            ordered = order;
            supervised.order = None;
            deadline = Instant::now() + REPORT_WITHIN;
        }
    }
    // It exits soon after its report; awaited by someone so that it does not stay as a zombie.
    let mut child = supervised.child;
    tokio::spawn(async move { child.wait().await });
    let report = ended.expect("the loop ends only with a report");
    if !report.clean {
        return Err(lost("could not kill every process of the command", None));
    }
    let exit = match report.end {
        End::Code(code) => Exit::Code(code),
        End::Signal(signal) => Exit::Signal(signal),
        End::Killed => ordered.unwrap_or(Exit::Cancelled),
        End::NotSetUp => {
            let complaint = err.captured.text();
            let message: String = complaint.trim().chars().take(LONGEST_COMPLAINT).collect();
            return Err(SandboxError::Setup { message });
        }
        End::NotStarted(why) => return Err(SandboxError::Setup { message: why }),
    };
    let (stdout, stderr) = (out.captured, err.captured);
    Ok(Finished { exit, stdout, stderr, duration: start.elapsed(), limits_hit: report.hits, unprotected })
}
