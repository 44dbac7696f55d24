//! `devo diff`: what a run changed, as a patch.

use clap::Args as _;
use serde_json::{Value, json};

use super::screen::Ink;
use super::{Cx, Entry, Group, parsed};
use crate::error::{Error, Exit};
use crate::frontends::doc::word;
use crate::secrets::printable;

pub const ENTRY: Entry = Entry {
    name: "diff",
    group: Group::Look,
    about: "What a run changed, as a patch",
    examples: "devo diff 3f2a9c1e\n\
               devo diff 3f2a9c1e | git apply",
    augment: Args::augment_args,
    run: |cx, matches| diff(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The run: its id, the beginning of it, or its short id
    run: String,
}

fn diff(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let app = cx.app_in_spite()?;
    cx.wait(async {
        let run = app.resolve_run(&args.run).await?;
        let patch = app.diff(run).await?;
        if cx.json {
            cx.out.line(&json!({"task_id": run, "patch": patch}).to_string());
        } else if cx.out.terminal {
            cx.out.write(&colored(cx, &patch));
        } else {
            // A program applies it: not a byte may differ.
            cx.out.write(&patch);
        }
        if patch.is_empty() {
            cx.note(nothing(&app.document(run).await?));
        }
        Ok(Exit::Completed)
    })
}

/// Why there is nothing to show.
fn nothing(doc: &Value) -> &'static str {
    match (word(doc, "/repo"), word(doc, "/status")) {
        ("", _) => "the run works on no repository, so there is no change to show",
        (_, "COMPLETED" | "FAILED" | "ABORTED") => "nothing was changed",
        _ => "nothing has changed yet",
    }
}

fn colored(cx: &Cx, patch: &str) -> String {
    let paint = |line: &str| {
        let shown = printable(line);
        let ink = match line.as_bytes() {
            [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] | [b'd', b'i', b'f', b'f', ..] => Ink::Bold,
            [b'+', ..] => Ink::Green,
            [b'-', ..] => Ink::Red,
            [b'@', ..] => Ink::Cyan,
            _ => return shown + "\n",
        };
        cx.out.screen.paint(ink, &shown) + "\n"
    };
    patch.lines().map(paint).collect()
}
