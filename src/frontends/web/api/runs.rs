//! Runs over the API: list, submit, read, signal. Everything is a call of the desk.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::Site;
use super::super::guard::Caller;
use super::super::patch;
use super::super::problem::{Current, Problem};
use super::shapes::{Diff, DiffFile, Logs, Plans, Run, RunLine, Runs, SignalBody, SignalWord};
use super::{events, logs};
use crate::app::{TaskRequest, TaskSource, is_pipeline_name};
use crate::config::UserRole;
use crate::core::event::Who;
use crate::core::id::{RunId, StepId};
use crate::core::request::Signal;
use crate::core::state::Status;
use crate::error::Error;
use crate::journal::Wanted;

/// Runs of one answer, unless told otherwise.
const PAGE: usize = 50;
/// The most runs of one answer.
const PAGE_MAX: usize = 200;

/// What the list of runs is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    cursor: Option<String>,
    limit: Option<usize>,
    status: Option<String>,
    repo: Option<String>,
}

/// Refuses a query string with words of ours.
pub fn query<T>(given: Result<Query<T>, axum::extract::rejection::QueryRejection>) -> Result<T, Problem> {
    given.map(|Query(query)| query).map_err(|refused| Problem::bad("bad_query", refused.body_text()))
}

/// The run that a path names.
pub async fn resolve(site: &Site, id: &str) -> Result<RunId, Problem> {
    match id.parse::<RunId>() {
        Ok(run) => Ok(run),
        Err(_) => Ok(site.app.resolve_run(id).await?),
    }
}

/// GET /api/v1/runs.
pub async fn list(
    State(site): State<Arc<Site>>,
    _caller: Caller,
    given: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Runs>, Problem> {
    let ask = query(given)?;
    let limit = ask.limit.unwrap_or(PAGE);
    if limit == 0 || limit > PAGE_MAX {
        return Err(Problem::bad("bad_query", format!("`limit` goes from 1 to {PAGE_MAX}")));
    }
    let behind = match &ask.cursor {
        Some(text) => Some(
            text.parse::<RunId>()
                .map_err(|_| Problem::bad("bad_query", "`cursor` must be the `next` of the page before"))?,
        ),
        None => None,
    };
    if let Some(run) = behind
        && site.app.journal.row(run).await.map_err(Error::from)?.is_none()
    {
        return Err(Problem::bad("bad_query", "`cursor` names no run"));
    }
    // Behind the run that the last page ended with; runs that came since do not move it.
    let status = match ask.status.map(|status| status.to_ascii_uppercase()) {
        Some(word) if serde_json::from_value::<Status>(Value::String(word.clone())).is_err() => {
            let words = "QUEUED, PLANNING, PLANNED, EXECUTING, COMPLETED, FAILED or ABORTED";
            return Err(Problem::bad("bad_query", format!("`status` is {words}")));
        }
        status => status,
    };
    let rows = site.desk.list(Wanted { status, repo: ask.repo, behind, ..Wanted::default() }, limit + 1).await?;
    let runs: Vec<RunLine> = rows.iter().take(limit).map(RunLine::from).collect();
    let next = rows.get(limit).and(runs.last().map(|last| last.task_id.clone()));
    Ok(Json(Runs { runs, next }))
}

/// POST /api/v1/runs.
pub async fn submit(
    State(site): State<Arc<Site>>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    caller.needs(UserRole::Submitter)?;
    let mut task: Map<String, Value> = json(&headers, &body)?;
    if let Some(key) = headers.get("idempotency-key") {
        let key = key.to_str().map_err(|_| Problem::bad("bad_key", "`Idempotency-Key` must be plain text"))?;
        if task.get("key").is_some_and(|other| other.as_str() != Some(key)) {
            return Err(Problem::bad("bad_key", "`Idempotency-Key` and `key` differ"));
        }
        task.insert("key".to_owned(), Value::String(key.to_owned()));
    }
    if task.get("pipeline").is_some_and(Value::is_object) {
        // Someone's own steps run without an approval of anybody else.
        caller.needs(UserRole::Approver)?;
    }
    let submitted = hand_in(&site, &task, None, caller.person.who(caller.channel)).await?;
    let document = site.desk.document(submitted.run).await?;
    let status = if submitted.new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = (status, Json(Run(document))).into_response();
    if let Ok(place) = HeaderValue::from_str(&format!("/api/v1/runs/{}", submitted.run)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// Hands a task in, under a key of our own where there is one. From the network a pipeline is a name or its own text, never
/// a path on this machine.
pub async fn hand_in(
    site: &Site,
    task: &Map<String, Value>,
    key: Option<String>,
    who: Who,
) -> Result<crate::app::Submitted, Error> {
    if let Some(Value::String(name)) = task.get("pipeline")
        && !is_pipeline_name(name)
    {
        return Err(Error::refused("unknown_pipeline", "`pipeline` must be a name under pipelines/")
            .hint("GET /api/v1/pipelines lists them"));
    }
    let text = serde_json::to_string_pretty(task).map_err(|error| Error::bug(error.to_string()))?;
    let source = TaskSource::File { name: "task".to_owned(), text };
    site.desk.submit(TaskRequest { source, id: None, cassette: None, key, who }).await
}

/// A JSON body.
fn json<T: serde::de::DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // A browser's form cannot say this without asking first.
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "not_json",
            "the body must be JSON, with `Content-Type: application/json`",
        ));
    }
    serde_json::from_slice(body).map_err(|error| Problem::bad("bad_json", format!("the body does not fit: {error}")))
}

/// GET /api/v1/runs/{id}.
pub async fn read(
    State(site): State<Arc<Site>>,
    _caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Run>, Problem> {
    let run = resolve(&site, &id).await?;
    Ok(Json(Run(site.document(run).await?)))
}

/// What role a word needs.
pub fn role_of(word: SignalWord) -> UserRole {
    match word {
        SignalWord::Approve | SignalWord::Reject | SignalWord::Answer => UserRole::Approver,
        SignalWord::Revise | SignalWord::Abort | SignalWord::Retry => UserRole::Submitter,
    }
}

/// A body as a signal.
pub fn signal_of(body: SignalBody) -> Result<Signal, Problem> {
    let text = body.text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let needed = |text: Option<String>, what: &str| {
        text.ok_or_else(|| Problem::bad("missing_text", format!("`text` is missing: {what}")))
    };
    Ok(match body.signal {
        SignalWord::Approve => {
            let plan_hash = body.plan_hash.filter(|hash| !hash.is_empty()).ok_or_else(|| {
                Problem::bad("missing_hash", "an approval names the plan that was read: `plan_hash` is missing")
                    .hint("take `plan.hash` from the run's document")
            })?;
            Signal::Approve { plan_hash, note: text }
        }
        SignalWord::Revise => Signal::Revise { text: needed(text, "what the plan should do differently")? },
        SignalWord::Reject => Signal::Reject { note: text },
        SignalWord::Answer => Signal::Answer { text: needed(text, "the answer")? },
        SignalWord::Abort => Signal::Abort,
        SignalWord::Retry => {
            let from = body.from.filter(|step| !step.is_empty()).map(|step| StepId::new(&step)).transpose();
            Signal::Retry { from: from.map_err(|error| Problem::bad("unknown_step", error.to_string()))? }
        }
    })
}

/// POST /api/v1/runs/{id}/signals.
pub async fn signal(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Run>, Problem> {
    let body: SignalBody = json(&headers, &body)?;
    caller.needs(role_of(body.signal))?;
    let signal = signal_of(body)?;
    let run = resolve(&site, &id).await?;
    if let Err(error) = site.desk.signal(run, signal, caller.person.who(caller.channel)).await {
        let mut problem = Problem::from(error);
        if problem.status == StatusCode::CONFLICT.as_u16() {
            problem.current = site.desk.document(run).await.ok().as_ref().map(Current::of);
        }
        return Err(problem);
    }
    Ok(Json(Run(site.desk.document(run).await?)))
}

/// What events are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    after: Option<u64>,
}

/// GET /api/v1/runs/{id}/events.
pub async fn events(
    State(site): State<Arc<Site>>,
    _caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    given: Result<Query<EventsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let ask = query(given)?;
    let run = resolve(&site, &id).await?;
    let after = match headers.get("last-event-id") {
        None => ask.after.unwrap_or(0),
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Problem::bad("bad_header", "`Last-Event-ID` must be the number of an event"))?,
    };
    // Whether there is such a run is known before the stream begins; one that is only submitted has no row.
    if site.app.journal.row(run).await.map_err(Error::from)?.is_none() {
        site.desk.document(run).await?;
    }
    Ok(unbuffered(events::stream(site, run, after).await?.into_response()))
}

/// Proxies must pass a stream on as it comes.
fn unbuffered(mut response: Response) -> Response {
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// What lines are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    step: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// GET /api/v1/runs/{id}/logs.
pub async fn logs(
    State(site): State<Arc<Site>>,
    _caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    given: Result<Query<LogsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let ask = query(given)?;
    let run = resolve(&site, &id).await?;
    let (graph, _) = site.app.load(run).await?;
    let step = match ask.step.as_deref().filter(|step| !step.is_empty()) {
        None => None,
        Some(text) => {
            let step = StepId::new(text).map_err(|error| Problem::bad("unknown_step", error.to_string()))?;
            if graph.find(&step).is_none() {
                return Err(Problem::not_found(format!("the run has no step `{step}`")));
            }
            Some(step)
        }
    };
    let place = |text: &str| text.parse::<logs::Place>().map_err(|()| Problem::bad("bad_query", "`after` is no place"));
    let after = ask.after.as_deref().filter(|after| !after.is_empty()).map(place).transpose()?;
    let wants = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if wants.contains("text/event-stream") {
        let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
        let after = last.map(place).transpose()?.or(after).unwrap_or_default();
        return Ok(unbuffered(logs::stream(&site, run, step, after).await?.into_response()));
    }
    let limit = ask.limit.unwrap_or(500);
    if limit == 0 || limit > logs::LINES_MAX {
        return Err(Problem::bad("bad_query", format!("`limit` goes from 1 to {}", logs::LINES_MAX)));
    }
    let logs: Logs = logs::read(&site, run, step, after, limit).await?;
    Ok(Json(logs).into_response())
}

/// GET /api/v1/runs/{id}/diff.
pub async fn diff(
    State(site): State<Arc<Site>>,
    _caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Diff>, Problem> {
    let run = resolve(&site, &id).await?;
    let patch = site.app.diff(run).await?;
    let files = patch::files(&patch).into_iter();
    let files = files.map(|file| DiffFile { path: file.path, added: file.added, removed: file.removed }).collect();
    Ok(Json(Diff { task_id: run.to_string(), files, patch }))
}

/// GET /api/v1/runs/{id}/plan.
pub async fn plan(
    State(site): State<Arc<Site>>,
    _caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Plans>, Problem> {
    let run = resolve(&site, &id).await?;
    let (_, state) = site.app.load(run).await?;
    Ok(Json(Plans { plan: state.plan().cloned(), revisions: site.app.plans(run).await? }))
}
