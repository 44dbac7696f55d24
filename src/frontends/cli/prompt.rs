//! `devo prompt show`: what a step would say to its model, without saying it.

use clap::{Args as _, Subcommand};
use serde_json::{Value, json};

use super::screen::Ink;
use super::task::TaskWords;
use super::{Cx, Entry, Group, parsed};
use crate::error::{Error, Exit};
use crate::secrets::printable;

pub const ENTRY: Entry = Entry {
    name: "prompt",
    group: Group::Write,
    about: "Show a step's prompt, rendered (no call)",
    examples: "devo prompt show plan --task task.yaml",
    augment: Args::augment_args,
    run: |cx, matches| {
        let Args { action: Action::Show(args) } = parsed(matches)?;
        show(cx, &args)
    },
};

#[derive(Debug, clap::Args)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the rendered prompt of a step
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The step's id in the task's pipeline
    step: String,
    /// A task file
    #[arg(long, value_name = "TASK.yaml", required = true)]
    task: std::path::PathBuf,
}

fn show(cx: &Cx, args: &ShowArgs) -> Result<Exit, Error> {
    let words = TaskWords { file: Some(args.task.clone()), pipeline: None, repo: None, task: None, inputs: Vec::new() };
    let request = words.request(None)?;
    let app = cx.app()?;
    let prompts = cx.wait(app.prompts(&args.step, request))?;
    if cx.json {
        let all: Vec<Value> = prompts
            .iter()
            .map(|prompt| json!({"part": prompt.part, "files": prompt.files, "text": prompt.text}))
            .collect();
        cx.out.line(&json!({"step": args.step, "prompts": all}).to_string());
        return Ok(Exit::Completed);
    }
    for prompt in &prompts {
        let files: Vec<&str> = prompt.files.iter().map(|file| file.path.as_str()).collect();
        let head = format!("── {} ── {}", prompt.part, files.join(" "));
        cx.out.line(&cx.out.screen.paint(Ink::Dim, &printable(&head)));
        for line in prompt.text.lines() {
            cx.out.line(&printable(line));
        }
    }
    Ok(Exit::Completed)
}
