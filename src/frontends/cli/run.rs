//! `devo run`: accepts a task and drives it here.

use std::path::{Path, PathBuf};

use clap::Args as _;
use serde_json::json;

use super::desktop::Desktop;
use super::drive::{Job, drive, stop_on_signals};
use super::hands::Hands;
use super::screen::Ink;
use super::task::TaskWords;
use super::{Cx, Entry, Group, parsed, remote};
use crate::app::{App, Owned, Owner};
use crate::core::event::{CassetteUse, RunSpec};
use crate::error::{Error, Exit};
use crate::frontends::figures::{dollars, duration, tokens};
use crate::journal::Acceptance;

pub const ENTRY: Entry = Entry {
    name: "run",
    group: Group::Work,
    about: "Run a task here, and watch it",
    examples: "devo run task.yaml\n\
               devo run --repo shop --task \"Validar stock negativo en ventas\"\n\
               devo run --pipeline nightly --input level=3 --no-watch    # exit code 3 when a person is needed\n\
               devo run task.yaml --yes --json | jq .event",
    augment: Args::augment_args,
    run: |cx, matches| run(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    #[command(flatten)]
    words: TaskWords,
    /// Approve the first plan that is valid
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    watch: WatchArgs,
    /// Record the model calls to this cassette
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    record: Option<PathBuf>,
    /// Answer the model calls from this cassette: no key, no network
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Check everything and show what would run
    #[arg(long)]
    dry_run: bool,
}

/// Whether to stay while a person is needed.
#[derive(Debug, Clone, clap::Args)]
pub struct WatchArgs {
    /// Stay until the run ends, also while a person is needed [default]
    #[arg(long, overrides_with = "no_watch")]
    watch: bool,
    /// Leave when a person is needed, with exit code 3; where a daemon drives, print the run's id and leave
    #[arg(long)]
    no_watch: bool,
}

impl WatchArgs {
    /// Whether to stay.
    pub fn stays(&self) -> bool {
        !self.no_watch
    }
}

fn run(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let cassette = match (&args.record, &args.replay) {
        (Some(path), _) => Some(CassetteUse::Record(absolute(path)?)),
        (_, Some(path)) => Some(CassetteUse::Replay(absolute(path)?)),
        _ => None,
    };
    let request = args.words.request(cassette)?;
    let app = cx.app()?;
    cx.wait_on_all_cores(async {
        if args.dry_run {
            let spec = app.new_run(request).await?;
            return Ok(show_dry(cx, &spec));
        }
        let (source, cassette) = (request.source.clone(), request.cassette.clone());
        let spec = app.new_run(request).await?;
        match app.owner(&format!("devo run {}", spec.task_id.short())).await? {
            Owner::Here(owned) => start(cx, &app, owned, spec, args.watch.stays(), args.yes).await,
            Owner::Daemon(holder) if args.yes => {
                let message =
                    format!("`--yes` approves only what this command drives itself, and {holder} owns this home");
                Err(Error::refused("yes_is_local", message)
                    .hint("run it without --yes; the plan is shown here and can be approved here"))
            }
            Owner::Daemon(_) => remote::run(cx, &app, spec, &source, cassette, args.watch.stays()).await,
        }
    })
}

fn absolute(path: &Path) -> Result<String, Error> {
    let path =
        std::path::absolute(path).map_err(|error| Error::machine("path", "there is no current folder", &error))?;
    path.into_os_string().into_string().map_err(|_| Error::usage("a cassette's path must be UTF-8"))
}

/// Accepts a run and drives it; a known key goes on with the run that has it.
pub async fn start(cx: &Cx, app: &App, owned: Owned, spec: RunSpec, watch: bool, yes: bool) -> Result<Exit, Error> {
    let (new, pipeline, sandbox) = (spec.task_id, spec.pipeline.clone(), spec.sandbox.clone());
    let stop = stop_on_signals()?;
    let feed = owned.engine.subscribe();
    let run = match owned.engine.accept(spec).await? {
        Acceptance::New => {
            cx.note(&format!("run {} · {pipeline} · {new}", new.short()));
            new
        }
        Acceptance::Existing(run) => {
            cx.note(&format!("run {} has this key already: going on with it", run.short()));
            run
        }
    };
    // Said on every run, as an unconfined command is nothing to get used to.
    if sandbox == "host" {
        cx.note("commands of this run are not confined: its sandbox is the host");
    }
    let job = Job {
        run,
        hands: Hands::Here(owned.engine.clone()),
        journal: app.journal.clone(),
        run_dir: app.run_dir(run),
        feed,
        watch,
        yes,
        desktop: Desktop::new(cx, app.config().notify.desktop),
    };
    let ended = drive(cx, job, stop).await;
    drop(owned);
    ended
}

fn show_dry(cx: &Cx, spec: &RunSpec) -> Exit {
    if cx.json {
        cx.out.line(&json!({"event": "dry_run", "spec": spec}).to_string());
        return Exit::Completed;
    }
    let screen = &cx.out.screen;
    let mut text = format!("{} · {}\n", screen.paint(Ink::Bold, &screen.clip(&spec.pipeline, 60)), spec.pipeline_hash);
    text.push_str(&screen.paragraph("  ", "  ", &spec.task));
    let limits = [
        spec.limits.usd.map(|usd| dollars(usd.dollars())),
        spec.limits.tokens.map(|count| format!("{} tokens", tokens(count))),
        spec.limits.wall_ms.map(duration),
    ];
    let facts = [
        ("repo", spec.repo.clone().unwrap_or_default()),
        ("base", spec.base.clone().unwrap_or_default()),
        ("sandbox", spec.sandbox.clone()),
        ("limits", limits.into_iter().flatten().collect::<Vec<_>>().join(", ")),
        ("key", spec.key.clone().unwrap_or_default()),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("  {} {}\n", screen.paint(Ink::Dim, &format!("{name:<8}")), screen.clip(value, 80)));
    }
    for (name, value) in &spec.inputs {
        text.push_str(&screen.paragraph("  input    ", "           ", &format!("{name} = {value}")));
    }
    for node in &spec.graph {
        let needs: Vec<&str> = node.needs.iter().map(|need| need.as_str()).collect();
        let after = if needs.is_empty() { String::new() } else { format!("  after {}", needs.join(", ")) };
        text.push_str(&format!("  · {}  {}{}\n", node.id, node.kind, screen.paint(Ink::Dim, &after)));
    }
    text.push_str("nothing was run, asked or written\n");
    cx.out.write(&text);
    Exit::Completed
}
