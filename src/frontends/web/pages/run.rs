//! A run's page: how it stands, the one thing to do now, its plan, its steps and what they say.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::show::{DiffLine, StepLine, link, need_word, plan_changes, status_word, steps};
use super::{Frame, Page, page, problem_page};
use crate::core::graph::Graph;
use crate::core::id::{RunId, StepId};
use crate::core::plan::PlanRecord;
use crate::error::Error;
use crate::frontends::causes::cause;
use crate::frontends::doc::{error_of, failed_step, plan_of, time, title, word};
use crate::frontends::drawing;
use crate::frontends::figures::{dollars, duration, tokens};
use crate::frontends::web::Site;
use crate::frontends::web::api::logs;
use crate::frontends::web::api::runs::{resolve, role_of, signal_of};
use crate::frontends::web::api::shapes::{Logs, SignalBody, SignalWord};
use crate::frontends::web::guard::{SignedForm, Visitor};
use crate::frontends::web::problem::Problem;

/// Lines of the log that the page begins with.
const TAIL: usize = 120;
/// Lines of the log's own page.
const LOG_PAGE: usize = 2_000;
/// Larger graphs are not drawn.
const DRAWN_STEPS: usize = 80;
/// Steps that the page lists; more are counted.
const LISTED_STEPS: usize = 300;

/// What the page is asked for.
#[derive(Debug, Default, Deserialize)]
pub struct RunQuery {
    done: Option<String>,
    /// `live`: only what the script exchanges is looked at.
    part: Option<String>,
}

#[derive(Serialize)]
struct RoleCost {
    role: String,
    calls: u64,
    tokens: String,
    usd: String,
}

#[derive(Serialize)]
struct LinkLine {
    name: String,
    text: String,
    href: Option<String>,
}

#[derive(Serialize)]
struct Revision {
    number: u32,
    title: String,
    changes: Vec<DiffLine>,
}

#[derive(Serialize)]
struct Values {
    id: String,
    short: String,
    title: String,
    task: String,
    pipeline: String,
    repo: String,
    base: String,
    branch: String,
    commit: String,
    sandbox: String,
    status: String,
    status_word: &'static str,
    need: &'static str,
    /// `approve`, `answer`, `retry`, `open`, `abort` or nothing: what matters now.
    action: &'static str,
    waiting: String,
    question: String,
    since: String,
    step_now: usize,
    step_count: usize,
    step_name: String,
    elapsed: String,
    usd: String,
    usage: Vec<RoleCost>,
    plan: Option<PlanRecord>,
    plan_short: String,
    base_short: String,
    estimate: String,
    approval: Value,
    revisions: Vec<Revision>,
    failed: Option<StepLine>,
    error: Value,
    /// What kind of failure it is, where the reader's language has a sentence for it.
    cause: &'static str,
    standing: String,
    steps: Vec<StepLine>,
    more_steps: usize,
    links: Vec<LinkLine>,
    main_link: Option<String>,
    created_at: String,
    updated_at: String,
    ended: bool,
    drawn: bool,
    has_diff: bool,
    log: Vec<crate::frontends::web::api::shapes::LogLine>,
    log_place: String,
    seq: u64,
    notice: String,
    notice_kind: &'static str,
}

/// GET /r/{id}: the short address that messages carry.
pub async fn short(Path(id): Path<String>) -> Redirect {
    let id: String = id.chars().filter(|c| c.is_ascii_hexdigit() || *c == '-').take(36).collect();
    Redirect::to(&format!("/runs/{id}"))
}

/// Everything that the page shows; the log, which its script reads for itself, only where it is asked for.
async fn values(site: &Site, frame: &Frame, run: RunId, log: bool) -> Result<Values, Problem> {
    let known = site.stands(run).await?;
    let doc = site.document_of(run, known.as_deref()).await?;
    let w = frame.w;
    let status = word(&doc, "/status").to_owned();
    let waiting = word(&doc, "/waiting_for/kind").to_owned();
    let ended = ["COMPLETED", "FAILED", "ABORTED"].contains(&status.as_str());
    let plan = plan_of(&doc);
    let mut lines = steps(w, &doc);
    let step_count = lines.len();
    let over = |state: &str| ["succeeded", "skipped", "failed", "cancelled"].contains(&state);
    let states: Vec<&str> = doc["steps"].as_array().into_iter().flatten().map(|step| word(step, "/state")).collect();
    let done = states.iter().filter(|state| over(state)).count();
    let active = states.iter().position(|state| *state == "running" || *state == "waiting");
    let name_of = |at: usize| word(&doc["steps"][at], "/id").to_owned();
    let now = site.app.clock.now();
    let (created, updated) = (time(&doc, "/created_at").unwrap_or(now), time(&doc, "/updated_at").unwrap_or(now));
    let elapsed = duration(if ended { updated } else { now }.since(created));
    let failed_at = failed_step(&doc).and_then(|step| lines.iter().position(|line| line.id == word(step, "/id")));
    let failed = failed_at.map(|at| lines.remove(at));
    let links = links(&doc);
    let main_link = links.iter().rev().find_map(|link| link.href.clone());
    let action = match (waiting.as_str(), status.as_str()) {
        ("approval", _) => "approve",
        ("answer" | "budget", _) => "answer",
        (_, "FAILED") => "retry",
        (_, "ABORTED") if known.as_ref().is_some_and(|stand| !stand.state.rejected()) => "retry",
        (_, "COMPLETED") if main_link.is_some() => "open",
        (_, "QUEUED" | "PLANNING" | "PLANNED" | "EXECUTING") => "abort",
        _ => "",
    };
    let plans: &[PlanRecord] = known.as_ref().map_or(&[], |stand| &stand.plans);
    let revisions = plans
        .iter()
        .zip(plans.iter().skip(1))
        .map(|(old, new)| Revision {
            number: new.revision,
            title: new.plan.title.clone(),
            changes: plan_changes(old, new),
        })
        .rev()
        .collect();
    let logs = match log {
        true => logs::read(site, run, None, None, TAIL).await.ok(),
        false => None,
    };
    let logs = logs.unwrap_or(Logs { lines: vec![], next: None });
    let usd = doc["usage"]["usd"].as_f64().unwrap_or(0.0);
    let more_steps = lines.len().saturating_sub(LISTED_STEPS);
    lines.truncate(LISTED_STEPS);
    let seq = known.as_ref().map_or(0, |stand| stand.state.seq());
    let task = word(&doc, "/task").to_owned();
    Ok(Values {
        id: run.to_string(),
        short: run.short(),
        title: title(&doc),
        task,
        pipeline: word(&doc, "/pipeline").to_owned(),
        repo: word(&doc, "/repo").to_owned(),
        base: word(&doc, "/base").to_owned(),
        branch: word(&doc, "/branch").to_owned(),
        commit: word(&doc, "/commit").chars().take(12).collect(),
        sandbox: word(&doc, "/sandbox").to_owned(),
        status_word: status_word(w, &status),
        need: need_word(w, Some(waiting.as_str()).filter(|kind| !kind.is_empty()), &status),
        action,
        question: word(&doc, "/waiting_for/question").to_owned(),
        since: word(&doc, "/waiting_for/since").to_owned(),
        waiting,
        step_now: active.or(failed_at).map_or(done, |at| at + 1),
        step_count,
        step_name: active.or(failed_at).map(name_of).unwrap_or_default(),
        elapsed,
        usd: dollars(usd),
        usage: usage(&doc),
        plan_short: plan
            .as_ref()
            .map(|plan| plan.hash.trim_start_matches("sha256:").chars().take(12).collect())
            .unwrap_or_default(),
        base_short: plan.as_ref().map(|plan| plan.base_commit.chars().take(12).collect()).unwrap_or_default(),
        estimate: plan
            .as_ref()
            .filter(|plan| plan.estimate.usd > 0.0)
            .map(|plan| dollars(plan.estimate.usd))
            .unwrap_or_default(),
        plan,
        approval: doc["approval"].clone(),
        revisions,
        error: doc["error"].clone(),
        cause: cause(frame.lang, word(error_of(&doc), "/code")),
        standing: word(&doc, "/standing").to_owned(),
        failed,
        steps: lines,
        more_steps,
        links,
        main_link,
        created_at: created.to_string(),
        updated_at: updated.to_string(),
        ended,
        drawn: step_count > 1 && step_count <= DRAWN_STEPS,
        has_diff: !word(&doc, "/branch").is_empty(),
        log_place: logs.next.unwrap_or_default(),
        log: logs.lines,
        seq,
        status,
        notice: String::new(),
        notice_kind: "",
    })
}

fn links(doc: &Value) -> Vec<LinkLine> {
    let all = doc["links"].as_object();
    let line = |(name, text): (&String, &Value)| {
        let text = text.as_str()?.to_owned();
        Some(LinkLine { name: name.clone(), href: link(&text).map(str::to_owned), text })
    };
    all.into_iter().flatten().filter_map(line).collect()
}

fn usage(doc: &Value) -> Vec<RoleCost> {
    let roles = doc.pointer("/usage/by_role").and_then(Value::as_object);
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let line = |(role, spent): (&String, &Value)| RoleCost {
        role: role.clone(),
        calls: number(&spent["calls"]),
        tokens: tokens(number(&spent["input_tokens"]) + number(&spent["output_tokens"])),
        usd: dollars(spent["usd"].as_f64().unwrap_or(0.0)),
    };
    roles.into_iter().flatten().map(line).collect()
}

/// GET /runs/{id}.
pub async fn show(
    State(site): State<Arc<Site>>,
    visitor: Visitor,
    Path(id): Path<String>,
    Query(asked): Query<RunQuery>,
    headers: HeaderMap,
    uri: Uri,
) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&visitor)).await;
    let failed = |problem: Problem| problem_page(&site, &frame, &problem);
    let run = resolve(&site, &id).await.map_err(failed)?;
    let whole = asked.part.as_deref() != Some("live");
    let mut values = values(&site, &frame, run, whole).await.map_err(failed)?;
    values.notice = said(&frame, asked.done.as_deref().unwrap_or_default()).to_owned();
    values.notice_kind = "good";
    page(&site, &frame, StatusCode::OK, "run.html", &values)
}

/// What is said after a word was recorded.
fn said(frame: &Frame, word: &str) -> &'static str {
    match word {
        "approve" => frame.w.said_approve,
        "revise" => frame.w.said_revise,
        "reject" => frame.w.said_reject,
        "answer" => frame.w.said_answer,
        "abort" => frame.w.said_abort,
        "retry" => frame.w.said_retry,
        _ => "",
    }
}

/// POST /runs/{id}/signals: a button or a box of the page.
pub async fn signal(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
    form: SignedForm,
) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&form.visitor)).await;
    let failed = |problem: Problem| problem_page(&site, &frame, &problem);
    let run = resolve(&site, &id).await.map_err(failed)?;
    let signal: SignalWord = serde_json::from_value(Value::String(form.field("signal").to_owned()))
        .map_err(|_| failed(Problem::bad("bad_signal", frame.w.no_such_word)))?;
    let person = &form.visitor.person;
    if !person.may(role_of(signal)) {
        return Err(failed(Problem::forbidden(frame.w.may_not)));
    }
    let given = |name: &str| Some(form.field(name).to_owned()).filter(|text| !text.is_empty());
    let body = SignalBody { signal, text: given("text"), plan_hash: given("plan_hash"), from: given("from") };
    let sent = match signal_of(body) {
        Ok(signal) => site.desk.signal(run, signal, person.who("web")).await.map_err(Problem::from),
        Err(problem) => Err(problem),
    };
    match sent {
        Ok(()) => Ok(Redirect::to(&format!("/runs/{run}?done={}", form.field("signal"))).into_response()),
        Err(problem) if problem.status < 500 => {
            // What is true now stands on the page; what was written is not lost: the browser has it.
            let mut values = values(&site, &frame, run, true).await.map_err(failed)?;
            values.notice = frame.lang.refusal(&problem.code, &problem.detail).to_owned();
            values.notice_kind = "bad";
            page(&site, &frame, problem.status(), "run.html", &values)
        }
        Err(problem) => Err(failed(problem)),
    }
}

/// GET /runs/{id}/graph.svg.
pub async fn graph(
    State(site): State<Arc<Site>>,
    _visitor: Visitor,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let run = resolve(&site, &id).await?;
    let (graph, state): (Graph, _) = site.app.load(run).await?;
    if graph.len() > DRAWN_STEPS {
        return Err(Problem::not_found("this graph is too large to be drawn"));
    }
    let phases: Vec<&str> = (0..graph.len()).map(|at| state.phase(at).as_str()).collect();
    let svg = drawing::svg(&graph, Some(&phases));
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], svg).into_response())
}

/// What lines are asked for.
#[derive(Debug, Default, Deserialize)]
pub struct LogsQuery {
    step: Option<String>,
}

/// GET /runs/{id}/logs: more of the log than the run's page shows.
pub async fn logs(
    State(site): State<Arc<Site>>,
    visitor: Visitor,
    Path(id): Path<String>,
    Query(asked): Query<LogsQuery>,
    headers: HeaderMap,
    uri: Uri,
) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&visitor)).await;
    let failed = |problem: Problem| problem_page(&site, &frame, &problem);
    let run = resolve(&site, &id).await.map_err(failed)?;
    let step = asked.step.as_deref().filter(|step| !step.is_empty()).map(StepId::new).transpose();
    let step = step.map_err(|error| failed(Problem::bad("unknown_step", error.to_string())))?;
    let name = step.as_ref().map(ToString::to_string);
    let of_error = |error: Error| failed(Problem::from(error));
    let (graph, _) = site.app.load(run).await.map_err(of_error)?;
    let logs = logs::read(&site, run, step, None, LOG_PAGE).await.map_err(of_error)?;
    let steps: Vec<&str> = graph.nodes().take(LISTED_STEPS).map(|node| node.id.as_str()).collect();
    let full = logs.lines.len() == LOG_PAGE;
    let values = serde_json::json!({
        "id": run, "short": run.short(), "step": name, "steps": steps, "log": logs.lines, "full": full,
        "count": LOG_PAGE,
    });
    page(&site, &frame, StatusCode::OK, "logs.html", &values)
}
