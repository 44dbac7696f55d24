//! `devo answer`: answers a step's question, or gives more budget.

use clap::Args as _;

use super::{Cx, Entry, Group, parsed, signal};
use crate::core::request::Signal;
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "answer",
    group: Group::Decide,
    about: "Answer a question, or give more budget",
    examples: "devo answer 3f2a9c1e \"the second one\"\n\
               devo answer 3f2a9c1e 2.50               # dollars, where the run asks for more budget\n\
               devo answer 3f2a9c1e \"500000 tokens\"",
    augment: Args::augment_args,
    run: |cx, matches| answer(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The run: its id, the beginning of it, or its short id
    run: String,
    /// The answer
    #[arg(required = true, num_args = 1.., allow_negative_numbers = true)]
    text: Vec<String>,
}

fn answer(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let app = cx.app_in_spite()?;
    cx.wait(async {
        let run = app.resolve_run(&args.run).await?;
        let signal = Signal::Answer { text: args.text.join(" ") };
        signal::send(cx, &app, run, signal, "answered").await
    })
}
