//! Leaves a person's word with a run: recorded here where nobody owns the home, else posted to whoever does.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Cx;
use super::drive::who;
use crate::app::{App, Owned};
use crate::core::id::RunId;
use crate::core::request::{Request, Signal};
use crate::engine::{Answer, Until};
use crate::error::{Error, Exit};
use crate::journal::Verdict;

/// How long the owner of the home may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for the answer.
const POLL: Duration = Duration::from_millis(50);

/// Who carries out what was said.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// It is done: the run has ended.
    Done,
    /// Whoever drives the run.
    Owner,
    /// Nobody does.
    Nobody,
}

/// Sends a signal to a run; `done` says what was done (`approved`, `aborted`).
pub async fn send(cx: &Cx, app: &App, run: RunId, signal: Signal, done: &str) -> Result<Exit, Error> {
    let noun = if signal == Signal::Abort { "abort" } else { "rejection" };
    if app.journal.events(run, 0).await?.is_empty() {
        return Err(Error::refused("not_waiting", format!("run {} is only submitted and has not begun", run.short()))
            .hint(format!("{} resume {}", cx.devo, run.short())));
    }
    let ends = matches!(signal, Signal::Abort | Signal::Reject { .. });
    let request = Request { signal, who: who() };
    let refused = |refused| Error::from(refused).hint(format!("{} status {}", cx.devo, run.short()));
    let then = match app.engine(&format!("devo, leaving a word for {}", run.short())).await {
        Ok(owned) => match owned.engine.submit(run, request).await? {
            Answer::Refused(why) => return Err(refused(why)),
            Answer::Driven => Then::Owner,
            Answer::Idle if ends && end_now(app, &owned, run).await? => Then::Done,
            Answer::Idle => Then::Nobody,
        },
        Err(error) if error.code == "home_held" => match post(cx, app, run, request).await? {
            Verdict::Recorded => carried_out_by(app, run).await?,
            Verdict::Refused(why) => return Err(refused(why)),
        },
        Err(error) => return Err(error),
    };
    if cx.json {
        let driven = then != Then::Nobody;
        let word = json!({"task_id": run, "short_id": run.short(), "recorded": done, "driven": driven});
        cx.out.line(&word.to_string());
    } else if ends && then != Then::Done {
        cx.out.line(&format!("{noun} recorded for {}", run.short()));
    } else {
        cx.out.line(&format!("{done} {}", run.short()));
    }
    let (devo, short) = (&cx.devo, run.short());
    match then {
        Then::Owner if ends => {
            cx.note(&format!("the run is being ended; see how it stands with: {devo} status {short}"))
        }
        Then::Nobody if ends => {
            cx.note(&format!("nobody drives this run now; its clean-up and its end come with: {devo} resume {short}"))
        }
        Then::Nobody => cx.note(&format!("nobody drives this run now; it goes on with: {devo} resume {short}")),
        Then::Done | Then::Owner => {}
    }
    Ok(Exit::Completed)
}

/// Who carries out what the owner of the home has recorded: a command that drives another run does not.
async fn carried_out_by(app: &App, run: RunId) -> Result<Then, Error> {
    let ended = app.journal.row(run).await?.is_some_and(|row| row.summary.ended);
    Ok(match app.undriven(run) {
        _ if ended => Then::Done,
        Some(_) => Then::Nobody,
        None => Then::Owner,
    })
}

/// Lets a run that nobody drives come to its end, where nothing but the record of it is missing. Clean-up steps are work,
/// which only `resume` does.
async fn end_now(app: &App, owned: &Owned, run: RunId) -> Result<bool, Error> {
    let (graph, state) = owned.engine.load(run).await?;
    if state.ending().is_some() {
        return Ok(true);
    }
    // With mistakes in devo.yaml it is not known what the run's equipment is.
    let cleans_up = state.abort_requests() < 2 && graph.nodes().any(|node| node.always);
    if cleans_up || app.broken.is_some() {
        return Ok(false);
    }
    // What a killed engine was doing is over: its commands died with it.
    match owned.engine.drive(run, Until::PersonNeeded, CancellationToken::new()).await {
        Ok(_) => Ok(owned.engine.load(run).await?.1.ending().is_some()),
        // The word is recorded; that the rest needs equipment which is missing is told by `resume`.
        Err(error) => {
            tracing::debug!(%error, home = %app.home.display(), "the run could not be ended at once");
            Ok(false)
        }
    }
}

/// Posts to the owner of the home and waits for the verdict. The owner may leave meanwhile: then the post is answered here.
pub async fn post(cx: &Cx, app: &App, run: RunId, request: Request) -> Result<Verdict, Error> {
    let id = app.journal.post(run, request, app.clock.now()).await?;
    let end = Instant::now() + PATIENCE;
    let done = CancellationToken::new();
    let mut own = None;
    let verdict = loop {
        if let Some(verdict) = app.journal.verdict(id).await? {
            break Some(verdict);
        }
        if Instant::now() >= end {
            break None;
        }
        if own.is_none()
            && let Ok(owned) = app.engine("devo, answering posted words").await
        {
            let serving = tokio::spawn(owned.engine.clone().serve_posted(done.clone()));
            own = Some((owned, serving));
        }
        tokio::time::sleep(POLL).await;
    };
    done.cancel();
    if let Some((_owned, serving)) = own {
        // The lock is let go only after nothing writes any more.
        let _ = serving.await;
    }
    verdict.ok_or_else(|| {
        let message = format!("whoever owns this home did not answer within {} s", PATIENCE.as_secs());
        Error::refused("no_answer", message).hint(format!(
            "the word is kept and will be decided on; see what came of it with: {} status {}",
            cx.devo,
            run.short()
        ))
    })
}
