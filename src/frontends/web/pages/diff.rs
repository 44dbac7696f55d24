//! What a run changed, file by file; a comment on a file becomes a revision, or the beginning of the next task.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Redirect};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::show::{DiffLine, patch_lines};
use super::{Frame, Page, page, problem_page};
use crate::config::UserRole;
use crate::core::request::Signal;
use crate::frontends::doc::word;
use crate::frontends::web::Site;
use crate::frontends::web::api::runs::resolve;
use crate::frontends::web::guard::{SignedForm, Visitor};
use crate::frontends::web::patch;
use crate::frontends::web::problem::Problem;

/// The most of a patch that a page shows, in bytes; the rest is for `git`.
const SHOWN_MAX: usize = 400 * 1024;
/// The longest comment, in bytes: it travels in an address.
const COMMENT_MAX: usize = 4 * 1024;

#[derive(Serialize)]
struct File {
    path: String,
    added: usize,
    removed: usize,
    lines: Vec<DiffLine>,
    left_out: bool,
}

/// GET /runs/{id}/diff.
pub async fn show(
    State(site): State<Arc<Site>>,
    visitor: Visitor,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&visitor)).await;
    let failed = |problem: Problem| problem_page(&site, &frame, &problem);
    let run = resolve(&site, &id).await.map_err(failed)?;
    let doc = site.desk.document(run).await.map_err(|error| failed(error.into()))?;
    let patch = site.app.diff(run).await.map_err(|error| failed(error.into()))?;
    let mut shown = 0;
    let files: Vec<File> = patch::files(&patch)
        .into_iter()
        .map(|file| {
            shown += file.text.len();
            let left_out = shown > SHOWN_MAX;
            let lines = if left_out { Vec::new() } else { patch_lines(file.text) };
            File { path: file.path, added: file.added, removed: file.removed, lines, left_out }
        })
        .collect();
    let (added, removed) = files.iter().fold((0, 0), |(a, r), file| (a + file.added, r + file.removed));
    let revises = word(&doc, "/waiting_for/kind") == "approval";
    let values = serde_json::json!({
        "id": run, "short": run.short(), "files": files, "added": added, "removed": removed, "revises": revises,
        "task": word(&doc, "/task"),
    });
    page(&site, &frame, StatusCode::OK, "diff.html", &values)
}

/// POST /runs/{id}/comment.
pub async fn comment(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
    form: SignedForm,
) -> Page {
    let frame = Frame::of(&site, &headers, &uri, Some(&form.visitor)).await;
    let failed = |problem: Problem| problem_page(&site, &frame, &problem);
    let run = resolve(&site, &id).await.map_err(failed)?;
    if !form.visitor.person.may(UserRole::Submitter) {
        return Err(failed(Problem::forbidden(frame.w.may_not)));
    }
    let (path, text) = (form.field("path"), form.field("text"));
    if text.is_empty() || text.len() > COMMENT_MAX {
        return Err(failed(Problem::bad("bad_comment", frame.w.comment_size)));
    }
    let comment = if path.is_empty() { text.to_owned() } else { format!("{path}: {text}") };
    let doc = site.desk.document(run).await.map_err(|error| failed(error.into()))?;
    if word(&doc, "/waiting_for/kind") == "approval" {
        let signal = Signal::Revise { text: comment };
        let sent = site.desk.signal(run, signal, form.visitor.person.who("web")).await;
        sent.map_err(|error| failed(error.into()))?;
        return Ok(Redirect::to(&format!("/runs/{run}?done=revise")).into_response());
    }
    // There is no plan to revise any more: the comment begins the next task.
    let task = format!("{}\n\n{} {}: {comment}", word(&doc, "/task"), frame.w.about_run, run.short());
    let task: String = task.chars().take(2 * COMMENT_MAX).collect();
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let (pipeline, repo) = (encoded(word(&doc, "/pipeline")), encoded(word(&doc, "/repo")));
    let to = format!("/new?pipeline={pipeline}&repo={repo}&task={}", encoded(&task));
    Ok(Redirect::to(&to).into_response())
}
