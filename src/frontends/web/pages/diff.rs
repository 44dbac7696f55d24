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
/// The longest comment, in letters, as its box and the message about it say.
const COMMENT_MAX: usize = 4_000;
/// The longest name of a file in it, in letters.
const PATH_MAX: usize = 500;
/// What the text of the next task may take in an address, in bytes: a request's head has room for no more than 64 KiB.
const ADDRESS_MAX: usize = 54 * 1024;

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
    let path: String = form.field("path").chars().take(PATH_MAX).collect();
    // Browsers count the end of a line as one letter, and send two.
    let text = form.field("text").replace("\r\n", "\n");
    if text.is_empty() || text.chars().count() > COMMENT_MAX {
        return Err(failed(Problem::bad("bad_comment", frame.w.comment_size)));
    }
    let comment = if path.is_empty() { text } else { format!("{path}: {text}") };
    let doc = site.desk.document(run).await.map_err(|error| failed(error.into()))?;
    if word(&doc, "/waiting_for/kind") == "approval" {
        let signal = Signal::Revise { text: comment };
        let sent = site.desk.signal(run, signal, form.visitor.person.who("web")).await;
        sent.map_err(|error| failed(error.into()))?;
        return Ok(Redirect::to(&format!("/runs/{run}?done=revise")).into_response());
    }
    // There is no plan to revise any more: the comment begins the next task.
    let comment = format!("{} {}: {comment}", frame.w.about_run, run.short());
    let task = next_task(word(&doc, "/task"), &comment);
    let (pipeline, repo) = (encoded(word(&doc, "/pipeline")), encoded(word(&doc, "/repo")));
    let to = format!("/new?pipeline={pipeline}&repo={repo}&task={}", encoded(&task));
    Ok(Redirect::to(&to).into_response())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A task with a comment behind it; where an address has no room for both, it is the task that is cut.
fn next_task(task: &str, comment: &str) -> String {
    let mut left = ADDRESS_MAX.saturating_sub(encoded(&format!("…\n\n{comment}")).len());
    let fits = |char: &char| {
        let room = left.checked_sub(encoded(char.encode_utf8(&mut [0; 4])).len());
        left = room.unwrap_or(0);
        room.is_some()
    };
    let kept: String = task.chars().take_while(fits).collect();
    let mark = if kept.len() < task.len() { "…" } else { "" };
    format!("{kept}{mark}\n\n{comment}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_is_cut_and_not_the_comment() {
        assert_eq!(next_task("Old.", "About run x: new"), "Old.\n\nAbout run x: new");
        let comment = "🦀".repeat(COMMENT_MAX);
        for task in ["a".repeat(9_000), "ñ".repeat(60_000), String::new()] {
            let all = next_task(&task, "About run x: new");
            assert!(all.starts_with(&task) == (task.len() < 10_000) && all.ends_with("\n\nAbout run x: new"), "{all}");
            let all = next_task(&task, &comment);
            assert!(all.ends_with(&comment) && encoded(&all).len() <= ADDRESS_MAX, "{}", encoded(&all).len());
        }
    }
}
