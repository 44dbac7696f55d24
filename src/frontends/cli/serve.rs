//! `devo serve`: the daemon. It owns the home, drives every open run, and serves the channels.

mod doors;
mod log;
mod service;

use std::sync::Arc;
use std::time::Duration;

use clap::Args as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use self::doors::Doors;
use super::{Cx, Entry, Group, parsed};
use crate::app::Desk;
use crate::config::Config;
use crate::core::event::{Ending, EventBody};
use crate::engine::Notice;
use crate::error::{Error, Exit};
use crate::journal::Durability;

pub const ENTRY: Entry = Entry {
    name: super::SERVE,
    group: Group::Work,
    about: "The daemon: takes tasks and drives runs",
    examples: "devo serve\n\
               devo serve -v --home /opt/dev-orchestrator\n\
               devo serve --log-format json    # SIGHUP reads devo.yaml again, SIGTERM ends it in peace",
    augment: Args::augment_args,
    run: |cx, matches| serve(cx, &parsed(matches)?),
};

/// Between two looks for runs that nobody drives: their cause may be gone.
const TAKE_UP: Duration = Duration::from_secs(60);
/// How long running steps may go on by themselves when the daemon is told to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long everything together may take to end.
const DRAIN: Duration = Duration::from_millis(11_700);

#[derive(Debug, clap::Args)]
struct Args {
    /// How log lines are written: `text` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "DEVO_LOG_FORMAT")]
    log_format: log::Format,
}

fn serve(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let app = Arc::new(cx.app()?);
    cx.wait_on_all_cores(async {
        // A second daemon is told who is first, before anything else is touched.
        let owned = app.engine("devo serve").await?;
        log::start(args.log_format, cx.verbose, cx.quiet, &app)?;
        owned.engine.be_patient(PATIENCE);
        let (stop, reload) = listen()?;
        let desk = Desk::new(app.clone(), owned.engine.clone(), stop.clone());
        let mut doors = Doors::new(&desk)?;
        let telling = tokio::spawn(tell(desk.clone()));
        let taken = desk.take_up().await?;
        tracing::info!(home = %app.home.display(), open_runs = taken, "serving");
        let mut looks = vec![tokio::spawn(desk.clone().serve_posted()), tokio::spawn(look_again(desk.clone()))];
        doors.open();
        let service = service::Service::start(desk.clone());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = reload.notified() => service.reloading(async {
                    if read_again(&desk) {
                        doors.reopen().await;
                    }
                }).await,
            }
        }
        service.stopping();
        tracing::info!("stopping: what runs is being put down; once more to leave at once");
        let ended = tokio::time::timeout(DRAIN, async {
            doors.closed().await;
            desk.drained().await;
            for look in looks.drain(..) {
                // They only loop and log; they have nothing to report.
                let _ = look.await;
            }
        });
        if ended.await.is_err() {
            tracing::warn!("not everything ended in time; it is taken up again at the next start");
        }
        telling.abort();
        tracing::info!("stopped");
        drop(owned);
        Ok(Exit::Completed)
    })
}

/// Tokens for the system's words: the first SIGTERM or Ctrl-C stops in peace, a second one at once; SIGHUP reads the settings
/// again.
fn listen() -> Result<(CancellationToken, Arc<Notify>), Error> {
    let failed = |error: std::io::Error| Error::machine("signals", "cannot listen to signals", &error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let (stop, reload) = (CancellationToken::new(), Arc::new(Notify::new()));
    let (token, again) = (stop.clone(), reload.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {
                    again.notify_one();
                    continue;
                }
            }
            if token.is_cancelled() {
                std::process::exit(i32::from(Exit::Interrupted.code()));
            }
            token.cancel();
        }
    });
    Ok((stop, reload))
}

/// Puts devo.yaml's present text into force, or says what is wrong with it and goes on as before; whether it is in force.
fn read_again(desk: &Arc<Desk>) -> bool {
    let before = desk.app.config();
    match desk.app.reload() {
        Ok(()) => {
            desk.apply_limits();
            tracing::info!("devo.yaml was read again; it is in force for new runs");
            let durability = |config: &Config| Durability::from(config.journal.durability);
            if durability(&before) != durability(&desk.app.config()) {
                tracing::warn!("journal.durability changed, and takes effect only when `devo serve` is started again");
            }
            true
        }
        Err(error) => {
            let error = error.to_text();
            tracing::error!(error = %error.trim_end(), "devo.yaml was read again and has mistakes; nothing was changed");
            false
        }
    }
}

/// Takes up runs that stood still, from time to time.
async fn look_again(desk: Arc<Desk>) {
    let stopping = desk.stopping();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(TAKE_UP) => {}
        }
        if let Err(error) = desk.take_up().await {
            tracing::warn!(%error, "cannot look for open runs");
        }
    }
}

/// Writes what counts of every run into the log.
async fn tell(desk: Arc<Desk>) {
    let mut feed = desk.subscribe();
    loop {
        match feed.recv().await {
            Ok(Notice::Event { run, event }) => match &event.body {
                EventBody::Accepted(spec) => {
                    tracing::info!(%run, pipeline = %spec.pipeline, by = %spec.who.by, channel = %spec.who.channel, "accepted");
                }
                EventBody::StepAsked { step, .. } => tracing::info!(%run, %step, "waits for a person"),
                EventBody::StepFailed { step, error } => {
                    let error = error.message.lines().next().unwrap_or_default();
                    tracing::warn!(%run, %step, error, "step failed");
                }
                EventBody::StepParked { step, reason, .. } => tracing::warn!(%run, %step, %reason, "parked"),
                EventBody::Finished { status, .. } => {
                    let status = match status {
                        Ending::Completed => "completed",
                        Ending::Failed => "failed",
                        Ending::Aborted => "aborted",
                    };
                    tracing::info!(%run, status, "ended");
                }
                _ => tracing::debug!(%run, seq = event.seq, "event"),
            },
            Ok(Notice::Paused { run, why }) => tracing::warn!(%run, "paused: {why}"),
            Ok(Notice::Line { .. }) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
