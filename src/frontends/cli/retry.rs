//! `devo retry`: a failed run again from a step; finished steps are kept.

use clap::Args as _;

use super::desktop::Desktop;
use super::drive::{Job, drive, stop_on_signals, who};
use super::hands::Hands;
use super::run::WatchArgs;
use super::signal::post;
use super::{Cx, Entry, Group, parsed, remote};
use crate::app::Owner;
use crate::core::id::StepId;
use crate::core::request::{Request, Signal};
use crate::engine::Answer;
use crate::error::{Error, Exit};
use crate::journal::Verdict;

pub const ENTRY: Entry = Entry {
    name: "retry",
    group: Group::Work,
    about: "Run a failed run again, finished steps kept",
    examples: "devo retry 3f2a9c1e                # from what failed\n\
               devo retry 3f2a9c1e --from build",
    augment: Args::augment_args,
    run: |cx, matches| retry(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The run: its id, the beginning of it, or its short id
    run: String,
    /// The step to begin with; what follows it runs again as well
    #[arg(long, value_name = "STEP")]
    from: Option<String>,
    #[command(flatten)]
    watch: WatchArgs,
}

fn retry(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let from = match &args.from {
        Some(text) => Some(StepId::new(text).map_err(|error| Error::usage(error.to_string()))?),
        None => None,
    };
    let app = cx.app()?;
    cx.wait_on_all_cores(async {
        let run = app.resolve_run(&args.run).await?;
        let request = Request { signal: Signal::Retry { from }, who: who() };
        // A run that has ended does not go on; how it stands says what there is to do. Looked at before it is asked: it may end
        // right after it refused because it had not.
        let open = app.journal.row(run).await?.is_some_and(|row| !row.summary.ended);
        let command = if open { "resume" } else { "status" };
        let refused = |refused| Err(Error::from(refused).hint(format!("{} {command} {}", cx.devo, run.short())));
        let owned = match app.owner(&format!("devo retry {}", run.short())).await? {
            Owner::Here(owned) => owned,
            Owner::Daemon(_) => {
                return match post(cx, &app, run, request).await? {
                    Verdict::Refused(why) => refused(why),
                    Verdict::Recorded => remote::follow(cx, &app, run, args.watch.stays(), true).await,
                };
            }
        };
        let stop = stop_on_signals()?;
        let feed = owned.engine.subscribe();
        if let Answer::Refused(why) = owned.engine.submit(run, request).await? {
            return refused(why);
        }
        let job = Job {
            run,
            hands: Hands::Here(owned.engine.clone()),
            journal: app.journal.clone(),
            run_dir: app.run_dir(run),
            feed,
            watch: args.watch.stays(),
            yes: false,
            desktop: Desktop::new(cx, app.config().notify.desktop),
        };
        let ended = drive(cx, job, stop).await;
        drop(owned);
        ended
    })
}
