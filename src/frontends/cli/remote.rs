//! Runs that the daemon of the home drives: submits a task to it through the inbox, waits for its answer, and follows.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Cx;
use super::desktop::Desktop;
use super::drive::{Job, drive, stop_on_signals, who};
use super::hands::{Hands, Watch};
use crate::app::{App, TaskSource};
use crate::core::event::{CassetteUse, RunSpec};
use crate::core::id::RunId;
use crate::engine::HomeLock;
use crate::error::{Error, Exit};
use crate::frontends::envelope::envelope;
use crate::frontends::inbox::Aside;

/// How long a daemon may take to accept a task.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks for its answer.
const POLL: Duration = Duration::from_millis(10);

/// A task's text that means the same to whoever reads it, wherever they stand: typed inputs, and a pipeline that was named by
/// a path written out.
pub fn portable_text(source: &TaskSource, spec: &RunSpec) -> String {
    let inline = || -> Option<Value> {
        let mut pipeline = crate::app::file_value(&spec.pipeline_text)?;
        let map = pipeline.as_object_mut()?;
        map.entry("name").or_insert_with(|| Value::String(spec.pipeline.clone()));
        Some(pipeline)
    };
    let is_path = |name: &str| name.contains('/') || name.ends_with(".yaml") || name.ends_with(".yml");
    match source {
        TaskSource::File { text, .. } => {
            let named = crate::app::file_value(text);
            match named {
                Some(mut task) if task["pipeline"].as_str().is_some_and(is_path) => match inline() {
                    Some(pipeline) => {
                        task["pipeline"] = pipeline;
                        format!("{task:#}\n")
                    }
                    None => text.clone(),
                },
                _ => text.clone(),
            }
        }
        TaskSource::Words { pipeline, repo, task, .. } => {
            let named = Value::String(pipeline.clone());
            let pipeline = if is_path(pipeline) { inline().unwrap_or(named) } else { named };
            let mut all = json!({"pipeline": pipeline});
            for (name, value) in [("repo", repo), ("task", task)] {
                if let Some(value) = value {
                    all[name] = Value::String(value.clone());
                }
            }
            let given = |name: &str| (name == "repo" && repo.is_some()) || (name == "task" && task.is_some());
            let inputs: serde_json::Map<String, Value> = spec
                .inputs
                .iter()
                .filter(|(name, value)| !value.is_null() && !given(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            if !inputs.is_empty() {
                all["inputs"] = Value::Object(inputs);
            }
            format!("{all:#}\n")
        }
    }
}

/// Hands a checked task to the daemon and follows its run; without `watch` it only says which run it is.
pub async fn run(
    cx: &Cx,
    app: &App,
    spec: RunSpec,
    source: &TaskSource,
    cassette: Option<CassetteUse>,
    watch: bool,
) -> Result<Exit, Error> {
    let id = spec.task_id;
    let stop = stop_on_signals()?;
    let aside = Aside { who: Some(who()), cassette, run: None };
    Aside::keep(app, id, Some(&aside)).await?;
    app.inbox.put(id, &portable_text(source, &spec))?;
    let accepted = tokio::select! {
        accepted = accepted(cx, app, id) => accepted?,
        () = stop.cancelled() => {
            cx.err.line(&format!("interrupted; the task waits in the inbox as {id}"));
            return Ok(Exit::Interrupted);
        }
    };
    if accepted == id {
        cx.note(&format!("run {} · {} · {id} · driven by the daemon", id.short(), spec.pipeline));
    } else {
        cx.note(&format!("run {} has this key already: following it", accepted.short()));
    }
    if spec.sandbox == "host" {
        cx.note("commands of this run are not confined: its sandbox is the host");
    }
    follow(cx, app, accepted, watch, accepted != id).await
}

/// Follows a run that the daemon drives; without `watch` it only says which run it is.
pub async fn follow(cx: &Cx, app: &App, run: RunId, watch: bool, old: bool) -> Result<Exit, Error> {
    if !watch {
        if cx.json {
            if let Some(first) = app.journal.events(run, 0).await?.first() {
                cx.out.line(&envelope(first).to_string());
            }
        } else {
            cx.out.line(&run.to_string());
        }
        return Ok(Exit::Completed);
    }
    let stop = stop_on_signals()?;
    let (watch, feed) = Watch::start(cx, app, run, old).await?;
    let job = Job {
        run,
        hands: Hands::Daemon(watch),
        journal: app.journal.clone(),
        run_dir: app.run_dir(run),
        feed,
        watch: true,
        yes: false,
        desktop: Desktop::new(cx, app.config().notify.desktop),
    };
    drive(cx, job, stop).await
}

/// Waits for what the daemon makes of a submitted task: its run, the run that has its key, or the reasons why not.
pub async fn accepted(cx: &Cx, app: &App, id: RunId) -> Result<RunId, Error> {
    let reason = app.inbox.reason_of(id);
    let end = Instant::now() + PATIENCE;
    loop {
        if app.journal.row(id).await?.is_some() {
            return Ok(id);
        }
        if let Some(Aside { run: Some(run), .. }) = Aside::of(app, id).await? {
            return Ok(run);
        }
        if let Ok(text) = std::fs::read_to_string(&reason) {
            let text = text.trim_end();
            return Err(Error::refused("rejected", text.strip_prefix("error: ").unwrap_or(text).to_owned()));
        }
        let waits = |why: &str| {
            Error::refused("not_accepted", format!("{why}; the task waits in the inbox as {id}")).hint(format!(
                "see what becomes of it with: {} status {}",
                cx.devo,
                id.short()
            ))
        };
        if Instant::now() > end {
            return Err(waits(&format!("the daemon did not take the task within {} s", PATIENCE.as_secs())));
        }
        if !HomeLock::holder_lives(&app.home) && app.inbox.find(id).is_some() {
            return Err(waits("the daemon has gone"));
        }
        tokio::time::sleep(POLL).await;
    }
}
