//! `devo plan`: shows a run's plan, which is what `approve` will then mean.

use clap::Args as _;
use serde_json::Value;

use super::{Cx, Entry, Group, parsed, show, shown};
use crate::core::id::RunId;
use crate::error::{Error, Exit};
use crate::frontends::doc::{plan_of, waits_for, word};

pub const ENTRY: Entry = Entry {
    name: "plan",
    group: Group::Decide,
    about: "Show a run's plan",
    examples: "devo plan 3f2a9c1e\n\
               devo plan 3f2a9c1e --json | jq .hash",
    augment: Args::augment_args,
    run: |cx, matches| plan(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The run: its id, the beginning of it, or its short id
    run: String,
}

fn plan(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let app = cx.app_in_spite()?;
    cx.wait(async {
        let run = app.resolve_run(&args.run).await?;
        let doc = app.document(run).await?;
        let Some(plan) = plan_of(&doc) else {
            return Err(no_plan(cx, run, &doc));
        };
        if cx.json {
            cx.out.line(&doc["plan"].to_string());
        } else {
            cx.out.write(&show::plan(&cx.out.screen, &plan));
        }
        shown::remember(&app.run_dir(run), &plan);
        if waits_for(&doc) == Some("approval") {
            let id = run.short();
            let devo = &cx.devo;
            cx.note(&format!("\n{devo} approve {id}\n{devo} revise {id} \"what to change\"\n{devo} reject {id}"));
        }
        Ok(Exit::Completed)
    })
}

/// What is said of a run without a plan.
pub fn no_plan(cx: &Cx, run: RunId, doc: &Value) -> Error {
    let status = word(doc, "/status");
    let open = matches!(status, "QUEUED" | "PLANNING");
    let message = format!("run {} has no plan{}: it is {status}", run.short(), if open { " yet" } else { "" });
    Error::refused("no_plan", message).hint(format!("{} status {}", cx.devo, run.short()))
}
