//! `devo revise`: sends the plan back with what should be different.

use clap::Args as _;

use super::{Cx, Entry, Group, parsed, signal};
use crate::core::request::Signal;
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "revise",
    group: Group::Decide,
    about: "Send the plan back with what should change",
    examples: "devo revise 3f2a9c1e \"keep the public signature, and test the empty list\"",
    augment: Args::augment_args,
    run: |cx, matches| revise(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The run: its id, the beginning of it, or its short id
    run: String,
    /// What should change
    #[arg(required = true, num_args = 1..)]
    text: Vec<String>,
}

fn revise(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let app = cx.app_in_spite()?;
    cx.wait(async {
        let run = app.resolve_run(&args.run).await?;
        let signal = Signal::Revise { text: args.text.join(" ") };
        signal::send(cx, &app, run, signal, "sent back").await
    })
}
