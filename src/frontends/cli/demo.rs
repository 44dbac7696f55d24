//! `devo demo`: the whole flow on a sample repository, offline.

use std::path::PathBuf;

use clap::Args as _;
use serde_json::Value;

use super::run::start;
use super::{Cx, Entry, Group, parsed};
use crate::app::{App, Places, Settings, TaskRequest, TaskSource, demo};
use crate::core::event::{CassetteUse, Who};
use crate::core::id::RunId;
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "demo",
    group: Group::Start,
    about: "Watch the whole flow on a sample, offline",
    examples: "devo demo",
    augment: Args::augment_args,
    run: |cx, matches| run(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// Make the recording anew, with the models that the environment names
    #[arg(long, value_name = "FILE", hide = true)]
    record: Option<PathBuf>,
}

fn run(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    cx.wait_on_all_cores(async {
        let prepared = demo::prepare().await?;
        let home = prepared.home.clone();
        let mut cx = cx.at(Settings { places: Places::from_env(Some(home.clone())) });
        // The demo is there to be watched: what the steps do is told as well.
        cx.verbose = cx.verbose.max(1);
        cx.note("demo: a sample shop, a bare remote, and a recording in place of the two models (scripted replies);");
        cx.note("everything else is real: worktree, edits, sandboxed tests, commit and push");
        if let Some(why) = &prepared.unconfined {
            cx.note(&format!("no sandbox works here ({why}): the recording's own commands run on the host"));
        }
        let app = App::open(&cx.settings)?;
        let cassette = match &args.record {
            Some(path) => {
                let path =
                    std::path::absolute(path).map_err(|error| Error::machine("path", "no current folder", &error))?;
                CassetteUse::Record(path.display().to_string())
            }
            None => CassetteUse::Replay(prepared.cassette.display().to_string()),
        };
        let request = TaskRequest {
            source: TaskSource::Words {
                pipeline: "dev-task".to_owned(),
                repo: Some(demo::REPO.to_owned()),
                task: Some(demo::TASK.to_owned()),
                inputs: Vec::new(),
            },
            id: Some(RunId(uuid::Uuid::now_v7())),
            cassette: Some(cassette),
            key: None,
            who: Who { by: "demo".to_owned(), channel: "cli".to_owned() },
        };
        let spec = app.new_run(request).await?;
        let run = spec.task_id;
        let owned = app.engine("devo demo").await?;
        let ended = start(&cx, &app, owned, spec, true, true).await?;
        if !cx.json {
            further(&cx, &app, run, &home.display().to_string()).await?;
        }
        Ok(ended)
    })
}

/// Where to look next.
async fn further(cx: &Cx, app: &App, run: RunId, home: &str) -> Result<(), Error> {
    let document: Value = app.document(run).await?;
    let short = run.short();
    let cost = document["usage"]["usd"].as_f64().unwrap_or(0.0);
    cx.out.line("");
    cx.out.line(&format!("The recording's calls would have cost {cost:.4} USD; this demo made none. Look further:"));
    // The result has named `diff` and `logs` already.
    for command in ["status", "plan"] {
        cx.out.line(&format!("  devo --home {home} {command} {short}"));
    }
    if let Some(branch) = document["branch"].as_str() {
        let remote = std::path::Path::new(home).with_file_name("remote.git");
        cx.out.line(&format!("  git -C {} show {branch}", remote.display()));
    }
    cx.out.line("Next: `devo init`, name a repository in devo.yaml, set the keys, `devo doctor`, `devo run`.");
    Ok(())
}
