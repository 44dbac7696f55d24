//! `devo resume`: goes on with a run where it stood, or starts one that was submitted.

use clap::Args as _;

use super::desktop::Desktop;
use super::drive::{Job, drive, stop_on_signals, who};
use super::hands::Hands;
use super::run::{WatchArgs, start};
use super::{Cx, Entry, Group, parsed, remote};
use crate::app::{App, Desk, Owned, Owner, TaskRequest, TaskSource};
use crate::core::id::RunId;
use crate::error::{Error, Exit};
use crate::frontends::inbox::Aside;

pub const ENTRY: Entry = Entry {
    name: "resume",
    group: Group::Work,
    about: "Go on with a run where it stood",
    examples: "devo resume 3f2a9c1e\n\
               devo resume 3f2a9c1e --no-watch    # exit code 3 when a person is needed",
    augment: Args::augment_args,
    run: |cx, matches| resume(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// The run: its id, the beginning of it, or its short id
    run: String,
    #[command(flatten)]
    watch: WatchArgs,
}

fn resume(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    // A daemon goes on with the settings that it has; only work here needs devo.yaml.
    let app = App::open_in_spite(&cx.settings)?;
    cx.wait_on_all_cores(async {
        let run = app.resolve_run(&args.run).await?;
        let watch = args.watch.stays();
        // The lock first: two that resume the same task must not both have it.
        let owned = match app.owner(&format!("devo resume {}", run.short())).await? {
            Owner::Here(owned) => match &app.broken {
                Some(wrong) => return Err(wrong.clone()),
                None => owned,
            },
            // It drives every open run, and takes what is submitted.
            Owner::Daemon(_) => {
                let submitted = app.journal.row(run).await?.is_none();
                let run = if submitted { remote::accepted(cx, &app, run).await? } else { run };
                // One that stands still is tried again now, not at the daemon's next look.
                Desk::ask_from_elsewhere(&app, run).await?;
                return remote::follow(cx, &app, run, watch, !submitted).await;
            }
        };
        if app.journal.row(run).await?.is_none() {
            return start_submitted(cx, &app, owned, run, watch).await;
        }
        if let Some(queued) = app.inbox.find(run) {
            // Whoever claimed it died between the acceptance and putting the file away.
            app.inbox.done(&app.inbox.claim(queued.id)?)?;
        }
        go_on(cx, &app, owned, run, watch).await
    })
}

/// Drives a run that the journal has.
async fn go_on(cx: &Cx, app: &App, owned: Owned, run: RunId, watch: bool) -> Result<Exit, Error> {
    let stop = stop_on_signals()?;
    let job = Job {
        run,
        hands: Hands::Here(owned.engine.clone()),
        journal: app.journal.clone(),
        run_dir: app.run_dir(run),
        feed: owned.engine.subscribe(),
        watch,
        yes: false,
        desktop: Desktop::new(cx, app.config().notify.desktop),
    };
    let ended = drive(cx, job, stop).await;
    drop(owned);
    ended
}

/// Takes a task out of the inbox: it becomes a run, or is rejected with the reason beside it.
async fn start_submitted(cx: &Cx, app: &App, owned: Owned, run: RunId, watch: bool) -> Result<Exit, Error> {
    let claimed = app.inbox.claim(run)?;
    let name = claimed.name.to_string_lossy().into_owned();
    let prepared = match claimed.read() {
        Ok(text) => {
            let source = TaskSource::File { name, text };
            let aside = Aside::of(app, run).await?.unwrap_or_default();
            let who = aside.who.unwrap_or_else(who);
            app.new_run(TaskRequest { source, id: Some(run), cassette: aside.cassette, key: None, who }).await
        }
        Err(error) => Err(error),
    };
    match prepared {
        Ok(spec) => {
            let ended = start(cx, app, owned, spec, watch, false).await;
            // Accepted, or a run with its key exists: either way the journal has it now.
            let accepted = !app.journal.events(run, 0).await?.is_empty();
            if accepted || ended.is_ok() {
                app.inbox.done(&claimed)?;
            }
            ended
        }
        Err(error) if error.exit == Exit::Refused => {
            let reason = app.inbox.reject(&claimed, &error.to_text())?;
            Err(Error {
                causes: [error.causes, vec![format!("the reason is kept in {}", reason.display())]].concat(),
                ..error
            })
        }
        // The machine failed, not the task: it stays and can be tried again.
        Err(error) => Err(error),
    }
}
