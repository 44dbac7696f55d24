//! `devo submit`: puts a task into the inbox, for whoever runs the home.

use clap::Args as _;
use serde_json::json;

use super::remote::portable_text;
use super::task::TaskWords;
use super::{Cx, Entry, Group, parsed};
use crate::engine::HomeLock;
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "submit",
    group: Group::Work,
    about: "Leave a task in the inbox, and get its id",
    examples: "devo submit task.yaml\n\
               devo resume \"$(devo submit -q --repo shop --task 'Add a test')\"",
    augment: Args::augment_args,
    run: |cx, matches| submit(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    #[command(flatten)]
    words: TaskWords,
}

fn submit(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let request = args.words.request(None)?;
    let app = cx.app()?;
    let source = request.source.clone();
    // Whoever takes it checks it again; a mistake is better told now.
    let spec = cx.wait(app.new_run(request))?;
    let id = spec.task_id;
    app.inbox.put(id, &portable_text(&source, &spec))?;
    if cx.json {
        cx.out.line(&json!({"task_id": id, "short_id": id.short(), "status": "QUEUED"}).to_string());
    } else {
        cx.out.line(&id.to_string());
        cx.note(&if HomeLock::holder_lives(&app.home) {
            format!("it is in the inbox; follow it with: {} resume {}", cx.devo, id.short())
        } else {
            format!("it waits in the inbox; run it here with: {} resume {}", cx.devo, id.short())
        });
    }
    Ok(Exit::Completed)
}
