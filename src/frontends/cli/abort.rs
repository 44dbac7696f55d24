//! `devo abort`: ends a run; a second time ends its clean-up as well.

use clap::Args as _;

use super::{Cx, Entry, Group, parsed, signal};
use crate::core::request::Signal;
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "abort",
    group: Group::Decide,
    about: "End a run",
    examples: "devo abort 3f2a9c1e    # once more ends its clean-up steps as well",
    augment: Args::augment_args,
    run: |cx, matches| abort(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The run: its id, the beginning of it, or its short id
    run: String,
}

fn abort(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let app = cx.app_in_spite()?;
    cx.wait(async {
        let run = app.resolve_run(&args.run).await?;
        signal::send(cx, &app, run, Signal::Abort, "aborted").await
    })
}
