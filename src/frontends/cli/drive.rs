//! Drives a run in the foreground: progress, questions to the person, signals of the system, and the result.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::ask::{self, Lines, Wish};
use super::desktop::Desktop;
use super::follow::Follower;
use super::hands::Hands;
use super::progress::Progress;
use super::{Cx, show, shown};
use crate::core::event::{QuestionKind, Who};
use crate::core::id::RunId;
use crate::core::request::Signal;
use crate::engine::{Clock, Notice, Stopped, Until};
use crate::error::{Error, Exit};
use crate::frontends::doc::{plan_of, word};
use crate::journal::Journal;

/// Between two looks at the time for the progress.
const TICK: Duration = Duration::from_millis(500);

/// A run to drive or to watch.
pub struct Job<'a> {
    /// Which.
    pub run: RunId,
    /// Who drives.
    pub hands: Hands<'a>,
    /// Where it is recorded.
    pub journal: Arc<dyn Journal>,
    /// The run's folder.
    pub run_dir: PathBuf,
    /// Everything that happened since before the run was accepted.
    pub feed: tokio::sync::broadcast::Receiver<Notice>,
    /// Keep driving while a person is needed elsewhere.
    pub watch: bool,
    /// Approve the first plan.
    pub yes: bool,
    /// Whom to tell that somebody is needed.
    pub desktop: Desktop,
}

/// Who a person at this terminal is.
pub fn who() -> Who {
    let name = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).filter(|name| !name.is_empty());
    let by = name.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    Who { by: by.chars().take(64).collect(), channel: "cli".to_owned() }
}

/// A token that fires at the first Ctrl-C, SIGTERM or hang-up; the second one ends the program at once.
pub fn stop_on_signals() -> Result<CancellationToken, Error> {
    let failed = |error: std::io::Error| Error::machine("signals", "cannot listen to signals", &error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if token.is_cancelled() {
                std::process::exit(i32::from(Exit::Interrupted.code()));
            }
            token.cancel();
        }
    });
    Ok(stop)
}

/// Drives until the run ends, waits for a person who is not here, or is interrupted; shows the result.
pub async fn drive(cx: &Cx, job: Job<'_>, stop: CancellationToken) -> Result<Exit, Error> {
    let done = CancellationToken::new();
    let serving = match &job.hands {
        Hands::Here(engine) => Some(tokio::spawn(engine.clone().serve_posted(done.clone()))),
        Hands::Daemon(_) => None,
    };
    let driven = to_the_end(cx, job, &stop).await;
    done.cancel();
    if let Some(serving) = serving {
        // It only loops and logs; it has nothing to report.
        let _ = serving.await;
    }
    driven
}

async fn to_the_end(cx: &Cx, job: Job<'_>, stop: &CancellationToken) -> Result<Exit, Error> {
    let Job { run, hands, journal, run_dir, feed, watch, yes, desktop } = job;
    let here = matches!(hands, Hands::Here(_));
    let progress = Progress::new(&cx.err, cx.quiet, cx.verbose);
    let stream = cx.json.then_some(&cx.out);
    // What a daemon did of a new run before this terminal looked is told as well.
    let whole = matches!(&hands, Hands::Daemon(watch) if !watch.old);
    let mut follower = Follower::start(run, journal.clone(), feed, stream, progress, whole).await?.telling(desktop);
    let clock = Clock::start();
    let mut lines = cx.interactive().then(Lines::stdin);
    let mut yes = yes;
    let mut until = if watch && lines.is_none() && !yes { Until::Ended } else { Until::PersonNeeded };
    loop {
        if until == Until::Ended {
            say_what_is_waited_for(cx, &mut follower, &run_dir);
        }
        let stopped = drive_once(cx, &hands, run, until, stop, &mut follower, &run_dir, clock).await?;
        follower.catch_up().await?;
        follower.progress.rest();
        if stopped == Stopped::Interrupted || (stopped == Stopped::PersonNeeded && stop.is_cancelled()) {
            return interrupted(cx, &journal, run, here).await;
        }
        if stopped == Stopped::Ended {
            break;
        }
        let (plan, question) = waiting(&follower);
        let Some((kind, text)) = question else { break };
        if yes && let (QuestionKind::Approval, Some(plan)) = (kind, &plan) {
            yes = false;
            shown::remember(&run_dir, plan);
            follower.progress.line(&format!("\n{}", show::plan(&cx.err.screen, plan)));
            let signal = Signal::Approve { plan_hash: plan.hash.clone(), note: Some("--yes".to_owned()) };
            send(cx, &hands, run, signal).await?;
            follower.catch_up().await?;
            until = if watch && lines.is_none() { Until::Ended } else { Until::PersonNeeded };
            continue;
        }
        let Some(lines) = lines.as_mut() else {
            if watch {
                until = Until::Ended;
                continue;
            }
            break;
        };
        let seq = follower.seq();
        let asking = async {
            match (kind, &plan) {
                (QuestionKind::Approval, Some(plan)) => {
                    shown::remember(&run_dir, plan);
                    ask::about_plan(&cx.err, lines, plan).await
                }
                _ => Ok(ask::about_question(&cx.err, lines, &text).await),
            }
        };
        let wish = tokio::select! {
            wish = asking => Some(wish?),
            moved = moved_on(&mut follower, seq) => {
                moved?;
                None
            }
            () = stop.cancelled() => {
                cx.err.line("");
                return interrupted(cx, &journal, run, here).await;
            }
        };
        match wish {
            None => cx.err.line("\nanswered elsewhere; going on"),
            Some(Wish::Leave) => break,
            Some(Wish::Send(signal)) => send(cx, &hands, run, signal).await?,
        }
        follower.catch_up().await?;
    }
    follower.progress.rest();
    finish(cx, &journal, run, &run_dir).await
}

/// Drives once, telling what happens meanwhile.
#[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
async fn drive_once(
    cx: &Cx,
    hands: &Hands<'_>,
    run: RunId,
    until: Until,
    stop: &CancellationToken,
    follower: &mut Follower<'_>,
    run_dir: &Path,
    clock: Clock,
) -> Result<Stopped, Error> {
    let task = async {
        match hands {
            // A task of its own: a reader of our output that stops reading must not stop the run.
            Hands::Here(engine) => {
                let (engine, stop) = (engine.clone(), stop.clone());
                match tokio::spawn(async move { engine.drive(run, until, stop).await }).await {
                    Ok(stopped) => Ok(stopped?),
                    Err(error) => Err(Error::bug(format!("the engine stopped: {error}"))),
                }
            }
            Hands::Daemon(watch) => watch.until(until, stop.clone()).await,
        }
    };
    tokio::pin!(task);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut told_stop = false;
    loop {
        let seq = follower.seq();
        tokio::select! {
            stopped = &mut task => {
                follower.drain()?;
                return stopped;
            }
            next = follower.next() => {
                next?;
                if until == Until::Ended && follower.seq() != seq {
                    say_what_is_waited_for(cx, follower, run_dir);
                }
            }
            _ = tick.tick() => follower.tick(clock.now()),
            () = stop.cancelled(), if !told_stop => {
                told_stop = true;
                if matches!(hands, Hands::Here(_)) {
                    follower.progress.line("stopping: what runs is being ended; once more to leave at once");
                }
            }
        }
    }
}

/// Waits until the question that was asked at `seq` is not the last word any more.
async fn moved_on(follower: &mut Follower<'_>, seq: u64) -> Result<(), Error> {
    while follower.seq() == seq {
        follower.next().await?;
    }
    Ok(())
}

type Waiting = (Option<crate::core::plan::PlanRecord>, Option<(QuestionKind, String)>);

fn waiting(follower: &Follower<'_>) -> Waiting {
    let (_, state) = follower.state();
    let question = state
        .waiting()
        .next()
        .filter(|_| !state.going_back())
        .map(|(_, question)| (question.kind, question.text.clone()));
    (state.plan().cloned(), question)
}

/// Where nobody can be asked here: shows what is waited for, and the command that goes on. Once for each question.
fn say_what_is_waited_for(cx: &Cx, follower: &mut Follower<'_>, run_dir: &Path) {
    let (plan, question) = waiting(follower);
    let Some((kind, text)) = question else { return };
    let (_, state) = follower.state();
    // Other steps may go on beside the one that asks: each question is told once.
    let id = state.spec().task_id.short();
    if !follower.first_time(format!("{id} {kind:?} {} {text}", plan.as_ref().map_or("", |plan| plan.hash.as_str()))) {
        return;
    }
    let (screen, devo) = (&cx.err.screen, &cx.devo);
    match (kind, &plan) {
        (QuestionKind::Approval, Some(plan)) => {
            shown::remember(run_dir, plan);
            let text = show::plan(screen, plan);
            follower.progress.line(&format!(
                "\n{text}\nwaiting for an approval; from another terminal:\n  {devo} approve {id}\n  \
                 {devo} revise {id} \"what to change\"\n  {devo} reject {id}"
            ));
        }
        _ => {
            let text = screen.paragraph("? ", "  ", &text);
            follower
                .progress
                .line(&format!("\n{text}waiting for an answer; from another terminal:\n  {devo} answer {id} \"…\""));
        }
    }
}

/// Sends a person's word; a refusal is shown and the person asked again.
async fn send(cx: &Cx, hands: &Hands<'_>, run: RunId, signal: Signal) -> Result<(), Error> {
    if let Some(refused) = hands.submit(run, signal).await? {
        cx.err.write(&Error::from(refused).to_text());
    }
    Ok(())
}

async fn interrupted(cx: &Cx, journal: &Arc<dyn Journal>, run: RunId, here: bool) -> Result<Exit, Error> {
    if cx.json {
        let doc = crate::engine::document(journal.as_ref(), run).await?;
        cx.out.line(&json!({"event": "result", "run": doc}).to_string());
    }
    let (devo, short) = (&cx.devo, run.short());
    cx.err.line(&if here {
        format!("interrupted; the run goes on with: {devo} resume {short}")
    } else {
        format!("left; the daemon goes on with the run. Follow it again with: {devo} resume {short}; end it with: {devo} abort {short}")
    });
    Ok(Exit::Interrupted)
}

/// Shows where the run stands, and says how the program ends.
pub async fn finish(cx: &Cx, journal: &Arc<dyn Journal>, run: RunId, run_dir: &Path) -> Result<Exit, Error> {
    let doc = crate::engine::document(journal.as_ref(), run).await?;
    let exit = exit_of(&doc);
    // Whoever was asked here has seen the plan that they were asked about; another one may have come since.
    if let (Exit::Waiting, Some(plan), false) = (exit, plan_of(&doc), cx.interactive()) {
        shown::remember(run_dir, &plan);
        if !cx.json {
            cx.out.write(&show::plan(&cx.out.screen, &plan));
            cx.out.line("");
        }
    }
    if cx.json {
        cx.out.line(&json!({"event": "result", "run": doc}).to_string());
    } else {
        cx.out.write(&show::result(&cx.out.screen, &cx.devo, &doc, cx.quiet));
    }
    Ok(exit)
}

/// The exit code that a run's document means.
pub fn exit_of(doc: &Value) -> Exit {
    match word(doc, "/status") {
        "COMPLETED" => Exit::Completed,
        "FAILED" => Exit::Failed,
        "ABORTED" => Exit::Aborted,
        _ => Exit::Waiting,
    }
}

#[cfg(test)]
mod tests;
