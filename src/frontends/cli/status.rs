//! `devo status`: one run in detail, or the table of runs.

use std::collections::HashSet;

use clap::Args as _;
use serde_json::{Value, json};

use super::{Cx, Entry, Group, parsed, show};
use crate::app::App;
use crate::error::{Error, Exit};
use crate::frontends::doc::word;
use crate::journal::RunRow;

/// Runs that the table shows unless told otherwise.
const ROWS: usize = 50;

pub const ENTRY: Entry = Entry {
    name: "status",
    group: Group::Look,
    about: "One run in detail, or the table of runs",
    examples: "devo status\n\
               devo status 3f2a9c1e\n\
               devo status 3f2a9c1e --json | jq -r .links.compare",
    augment: Args::augment_args,
    run: |cx, matches| status(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The run: its id, the beginning of it, or its short id
    run: Option<String>,
    /// How many runs the table shows; what is open is always shown, then what is over, newest first
    #[arg(long, value_name = "N", default_value_t = ROWS, conflicts_with = "run")]
    limit: usize,
}

fn status(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let app = cx.app_in_spite()?;
    cx.wait(async {
        match &args.run {
            Some(text) => one(cx, &app, text).await,
            None => all(cx, &app, args.limit).await,
        }
    })
}

async fn one(cx: &Cx, app: &App, text: &str) -> Result<Exit, Error> {
    let run = app.resolve_run(text).await?;
    let doc = app.document(run).await?;
    if cx.json {
        cx.out.line(&doc.to_string());
    } else {
        let open = !matches!(word(&doc, "/status"), "QUEUED" | "COMPLETED" | "FAILED" | "ABORTED");
        let idle = open.then(|| app.undriven(run)).flatten();
        cx.out.write(&show::status(&cx.out.screen, &cx.devo, &doc, idle.as_deref(), app.clock.now()));
    }
    Ok(Exit::Completed)
}

async fn all(cx: &Cx, app: &App, limit: usize) -> Result<Exit, Error> {
    // What is open comes whole and first, however old it is; the limit cuts what is over.
    let mut runs = app.journal.open_rows().await?;
    runs.sort_by_key(|row| (row.summary.waiting_for.is_none(), std::cmp::Reverse(row.updated_at)));
    let open: HashSet<_> = runs.iter().map(|row| row.id).collect();
    let newest = app.journal.runs(limit.saturating_add(open.len()).saturating_add(1)).await?;
    let mut over: Vec<RunRow> = newest.into_iter().filter(|row| !open.contains(&row.id)).collect();
    let room = limit.saturating_sub(open.len());
    let cut = over.len() > room;
    over.truncate(room);
    let mut rows: Vec<Value> = runs.iter().map(row).collect();
    rows.extend(app.queued().await?.iter().map(|task| brief(&app.queued_document(task))));
    rows.extend(over.iter().map(row));
    if cx.json {
        cx.out.line(&Value::Array(rows).to_string());
    } else if rows.is_empty() {
        cx.note(&format!("no run yet; `{} run TASK.yaml` starts one", cx.devo));
    } else {
        cx.out.write(&show::table(&cx.out.screen, &rows, app.clock.now()));
        if cut {
            cx.note(&format!("older runs that are over are left out; more with: {} status --limit N", cx.devo));
        }
    }
    Ok(Exit::Completed)
}

/// A run of the table, with the document's keys.
fn row(row: &RunRow) -> Value {
    let waiting = row.summary.waiting_for.as_ref().map(|kind| json!({"kind": kind}));
    json!({
        "task_id": row.id, "short_id": row.id.short(), "pipeline": row.summary.pipeline, "task": row.summary.task,
        "status": row.summary.status, "waiting_for": waiting, "repo": row.summary.repo,
        "created_at": row.created_at, "updated_at": row.updated_at,
    })
}

/// The same of a submitted one.
fn brief(doc: &Value) -> Value {
    let keys = ["task_id", "short_id", "pipeline", "task", "status", "waiting_for", "repo", "created_at", "updated_at"];
    keys.iter().map(|key| ((*key).to_owned(), doc[*key].clone())).collect()
}
