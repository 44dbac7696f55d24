//! `devo reject`: turns the plan down, which ends the run.

use clap::Args as _;

use super::{Cx, Entry, Group, parsed, signal};
use crate::core::request::Signal;
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "reject",
    group: Group::Decide,
    about: "Turn the plan down, and end the run",
    examples: "devo reject 3f2a9c1e --note \"not now\"",
    augment: Args::augment_args,
    run: |cx, matches| reject(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The run: its id, the beginning of it, or its short id
    run: String,
    /// A remark that is kept
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

fn reject(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let app = cx.app_in_spite()?;
    cx.wait(async {
        let run = app.resolve_run(&args.run).await?;
        signal::send(cx, &app, run, Signal::Reject { note: args.note.clone() }, "rejected").await
    })
}
