//! `devo serve`: the daemon. It owns the home, drives every open run, and serves the channels.

use std::sync::Arc;
use std::time::Duration;

use super::drive::stop_on_signals;
use super::{Cx, Entry, Group, plain};
use crate::app::Desk;
use crate::error::{Error, Exit};
use crate::frontends::{CHANNELS, Channel};

pub const ENTRY: Entry = Entry {
    name: "serve",
    group: Group::Work,
    about: "The daemon: takes tasks and drives runs",
    examples: "devo serve\n\
               devo serve -v --home /opt/dev-orchestrator",
    augment: plain,
    run: |cx, _| serve(cx),
};

/// Before a channel that failed is opened again.
const AGAIN: Duration = Duration::from_secs(5);

fn serve(cx: &Cx) -> Result<Exit, Error> {
    let app = Arc::new(cx.app()?);
    cx.wait_on_all_cores(async {
        let owned = app.engine("devo serve")?;
        let stop = stop_on_signals()?;
        let desk = Desk::new(app.clone(), owned.engine.clone(), stop.clone());
        let mut channels: Vec<Arc<dyn Channel>> = Vec::new();
        for open in CHANNELS {
            channels.extend(open(&app)?.map(Arc::from));
        }
        let taken = desk.take_up().await?;
        cx.note(&format!("serving {} · {taken} open runs", app.home.display()));
        let posted = tokio::spawn(desk.clone().serve_posted());
        let mut serving = tokio::task::JoinSet::new();
        for channel in channels {
            if let Some(said) = channel.says() {
                cx.note(&format!("{}: {said}", channel.name()));
            }
            serving.spawn(keep_open(channel, desk.clone()));
        }
        stop.cancelled().await;
        cx.note("stopping: what runs is being put down; once more to leave at once");
        while serving.join_next().await.is_some() {}
        desk.drained().await;
        // It only loops and logs; it has nothing to report.
        let _ = posted.await;
        drop(owned);
        Ok(Exit::Completed)
    })
}

/// Serves a channel until the daemon stops, whatever happens to the channel.
async fn keep_open(channel: Arc<dyn Channel>, desk: Arc<Desk>) {
    let stopping = desk.stopping();
    while !stopping.is_cancelled() {
        match channel.serve(desk.clone()).await {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(channel = channel.name(), error = %error.to_text().trim_end(), "channel failed");
            }
        }
        tokio::select! {
            () = stopping.cancelled() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}
