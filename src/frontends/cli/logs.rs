//! `devo logs`: the lines that a run's steps left, merged by time.

use std::time::{Duration, Instant};

use clap::Args as _;

use super::desktop::Desktop;
use super::screen::{Ink, clip, pad};
use super::{Cx, Entry, Group, parsed};
use crate::app::App;
use crate::core::id::{RunId, StepId};
use crate::engine::Line;
use crate::error::{Error, Exit};
use crate::frontends::lines::Reader;
use crate::secrets::printable;
use crate::steps::Stream;

/// Between two looks for more.
const POLL: Duration = Duration::from_millis(200);
/// Between two looks whether anybody drives the run.
const ALIVE: Duration = Duration::from_secs(1);

pub const ENTRY: Entry = Entry {
    name: "logs",
    group: Group::Look,
    about: "What the steps of a run said",
    examples: "devo logs 3f2a9c1e\n\
               devo logs 3f2a9c1e --step test --follow",
    augment: Args::augment_args,
    run: |cx, matches| logs(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The run: its id, the beginning of it, or its short id
    run: String,
    /// Only this step
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Stay until the run ends
    #[arg(long, short = 'f')]
    follow: bool,
}

fn logs(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let step = match &args.step {
        Some(text) => Some(StepId::new(text).map_err(|error| Error::usage(error.to_string()))?),
        None => None,
    };
    let app = cx.app_in_spite()?;
    cx.wait(async {
        let run = app.resolve_run(&args.run).await?;
        let (graph, state) = match crate::engine::load(app.journal.as_ref(), run).await {
            Ok(loaded) => loaded,
            Err(crate::engine::EngineError::Unknown(_)) => {
                return Err(Error::refused(
                    "queued",
                    format!("run {} is only submitted and has not begun", run.short()),
                )
                .hint(format!("{} resume {}", cx.devo, run.short())));
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(step) = &step
            && graph.find(step).is_none()
        {
            let names: Vec<&str> = graph.nodes().take(20).map(|node| node.id.as_str()).collect();
            return Err(Error::refused("unknown_step", format!("the run has no step `{step}`"))
                .hint(format!("its steps are {}", names.join(", "))));
        }
        let width = graph.nodes().map(|node| node.id.as_str().len()).max().unwrap_or(0).min(20);
        let desktop = Desktop::new(cx, args.follow && app.config().notify.desktop);
        let (mut seq, name) = (state.seq(), state.spec().task.clone());
        let mut reader = Reader::new(app.run_dir(run).join("logs"), step);
        let (mut looked, mut told) = (None::<Instant>, false);
        loop {
            // Asked before the lines are read: what was written before the end is told.
            let ended = !args.follow || has_ended(&app, run).await?;
            reader.pass(|line| {
                if cx.json {
                    cx.out.line(&serde_json::to_string(line).expect("a line is plain data"));
                } else {
                    cx.out.line(&text(cx, line, width));
                }
                !cx.out.closed()
            })?;
            if args.follow {
                for event in app.journal.events(run, seq).await? {
                    seq = event.seq;
                    desktop.hear(&cx.err, run, &name, &event);
                }
            }
            if ended || cx.out.closed() {
                return Ok(Exit::Completed);
            }
            if looked.is_none_or(|at| at.elapsed() >= ALIVE) {
                looked = Some(Instant::now());
                let idle = app.undriven(run);
                if let Some(why) = idle.as_ref().filter(|_| !told) {
                    cx.note(&format!("{why}: {} resume {}", cx.devo, run.short()));
                }
                told = idle.is_some();
            }
            tokio::time::sleep(POLL).await;
        }
    })
}

async fn has_ended(app: &App, run: RunId) -> Result<bool, Error> {
    Ok(!app.journal.open_runs().await?.contains(&run))
}

fn text(cx: &Cx, line: &Line, width: usize) -> String {
    let screen = &cx.out.screen;
    let at = line.at.to_string();
    // The time of day is enough on a screen; --json has the date.
    let at = at.get(11..19).unwrap_or(&at);
    let step = pad(&clip(line.step.as_str(), width), width);
    let lead = screen.paint(Ink::Dim, &format!("{at} {step} |"));
    let text = printable(&line.text);
    match line.stream {
        Stream::Note => format!("{lead} {}", screen.paint(Ink::Bold, &text)),
        Stream::Stdout => format!("{lead} {text}"),
        Stream::Stderr => format!("{lead} {}", screen.paint(Ink::Yellow, &text)),
    }
}
