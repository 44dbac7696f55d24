//! `devo validate`: every problem of a file at once, with its place.

use std::path::PathBuf;

use clap::Args as _;
use serde_json::{Value, json};

use super::{Cx, Entry, Group, parsed};
use crate::app;
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "validate",
    group: Group::Write,
    about: "Check pipelines, tasks and devo.yaml",
    examples: "devo validate pipelines/*.yaml\n\
               devo validate task.yaml --json | jq '.[].problems'",
    augment: Args::augment_args,
    run: |cx, matches| validate(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

fn validate(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let mut all = Vec::new();
    let mut errors = 0;
    for file in &args.files {
        let problems = app::validate(&cx.settings, file)?;
        let wrong = problems.iter().filter(|problem| problem.level == "error").count();
        errors += wrong;
        if !cx.json {
            for problem in &problems {
                cx.out.write(&format!("{}\n", problem.rendered.trim_end()));
            }
            if wrong == 0 {
                cx.note(&format!("{}: valid", file.display()));
            }
        }
        all.push(json!({"file": file, "valid": wrong == 0, "problems": problems}));
    }
    if cx.json {
        cx.out.line(&Value::Array(all).to_string());
    } else if errors > 0 {
        cx.note(&format!("{errors} {}", if errors == 1 { "problem" } else { "problems" }));
    }
    Ok(if errors == 0 { Exit::Completed } else { Exit::Refused })
}
