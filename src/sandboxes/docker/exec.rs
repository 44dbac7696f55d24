//! One command in a container that is there: its output read, its time and the disk watched, its end confirmed.
//!
//! Knows nothing of images, networks and how containers are made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statvfs;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::job::{End, Report};
use super::super::tap::Tap;
use super::super::{Captured, Command, Exit, Finished, LimitHit, OutputSink, SandboxError, Stream};
use super::lanes::{Lane, REPORT_WITHIN};
use super::wire::{self, Order, Told};

/// How often the free space of the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Why we ordered the end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ordered {
    TimedOut,
    Cancelled,
    Disk,
}

/// Runs the command to its end. `start` is when the caller began with it.
pub(super) async fn run(
    mut lane: Lane,
    order: wire::Command,
    command: &Command,
    unprotected: Vec<PathBuf>,
    output: &dyn OutputSink,
    cancel: &CancellationToken,
    start: Instant,
) -> Result<Finished, SandboxError> {
    let mut out = Tap::new(Stream::Stdout, command, output);
    let mut err = Tap::new(Stream::Stderr, command, output);
    let far = Instant::now() + Duration::from_secs(86400 * 365);
    let mut deadline = command.timeout.and_then(|limit| Instant::now().checked_add(limit)).unwrap_or(far);
    let mut ordered = None;
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    if lane.container().order(&Order::Run(order)).await.is_err() {
        return Err(lost(lane, "was gone before the command started").await);
    }
    let report: Report = loop {
        let end = tokio::select! {
            told = lane.container().next() => match told {
                Some(Told::Output(Stream::Stdout, bytes)) => { out.take(&bytes); continue }
                Some(Told::Output(Stream::Stderr, bytes)) => { err.take(&bytes); continue }
                Some(Told::Ended(report)) => break report,
                Some(Told::Ready) => continue,
                None => return Err(lost(lane, "is gone").await),
            },
            () = cancel.cancelled(), if ordered.is_none() => Ordered::Cancelled,
            _ = look.tick(), if ordered.is_none() => match is_full(&command.workspace, command.limits.disk_free_bytes) {
                true => Ordered::Disk,
                false => continue,
            },
            () = sleep_until(deadline) => match ordered {
                None => Ordered::TimedOut,
                // It does not answer: its container goes, and with that everything in it.
                Some(_) => break Report { end: End::Killed, hits: Vec::new(), clean: false },
            },
        };
        ordered = Some(end);
        deadline = Instant::now() + REPORT_WITHIN;
        if lane.container().order(&Order::Kill).await.is_err() {
            break Report { end: End::Killed, hits: Vec::new(), clean: false };
        }
    };
    match report.clean {
        true => lane.ended(),
        false => lane.give_up().remove().await?,
    }
    let mut limits_hit = report.hits;
    let exit = match (report.end, ordered) {
        (End::Killed, Some(Ordered::TimedOut)) => Exit::TimedOut,
        (End::Killed, Some(Ordered::Disk)) => {
            limits_hit.push(LimitHit::Disk);
            Exit::Signal(9)
        }
        (End::Killed, _) => Exit::Cancelled,
        (End::Code(code), _) => Exit::Code(code),
        (End::Signal(signal), _) => Exit::Signal(signal),
        (End::NotStarted(message), _) => return Err(SandboxError::Setup { message }),
        (End::NotSetUp, _) => return Err(SandboxError::Setup { message: err.captured.text() }),
    };
    Ok(finished(exit, out.captured, err.captured, start.elapsed(), limits_hit, unprotected))
}

/// The end of a command as the caller sees it.
pub(super) fn finished(
    exit: Exit,
    stdout: Captured,
    stderr: Captured,
    duration: Duration,
    limits_hit: Vec<LimitHit>,
    unprotected: Vec<PathBuf>,
) -> Finished {
    Finished { exit, stdout, stderr, duration, limits_hit, unprotected }
}

fn is_full(workspace: &Path, least_free: u64) -> bool {
    statvfs(workspace).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < least_free)
}

/// The container ended on its own: nothing of the command lives, and nobody knows how far it came.
async fn lost(lane: Lane, what: &str) -> SandboxError {
    let container = lane.give_up();
    let said = container.complaint();
    if let Err(error) = container.outlast().await {
        return error;
    }
    SandboxError::Container {
        what: format!("{what}: it was killed from outside, or the docker daemon stopped ({said})"),
        gone: true,
    }
}
