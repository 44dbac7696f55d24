//! The channels of a running daemon: each is opened, kept open whatever happens to it, and opened anew where its settings
//! have changed. It does not know what a channel does.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::app::Desk;
use crate::error::Error;
use crate::frontends::{CHANNELS, Channel, Way};

/// Before a channel that failed is opened again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a channel may take to end before it is opened anew; what it still sends is then sent again, as after a kill.
const ENDING: Duration = Duration::from_secs(5);

/// A channel's place.
struct Door {
    way: &'static Way,
    /// The settings that it was opened with.
    settings: String,
    /// Until it is served.
    channel: Option<Arc<dyn Channel>>,
    open: Option<Open>,
}

struct Open {
    leave: CancellationToken,
    serving: JoinHandle<()>,
}

/// Every channel of a daemon.
pub struct Doors {
    desk: Arc<Desk>,
    all: Vec<Door>,
}

impl Doors {
    /// Channels that are configured; none of them serves yet.
    ///
    /// # Errors
    /// What one of them lacks.
    pub fn new(desk: &Arc<Desk>) -> Result<Self, Error> {
        let all = CHANNELS.iter().map(|way| {
            let channel = (way.open)(&desk.app)?.map(Arc::from);
            Ok(Door { way, settings: (way.settings)(&desk.app.config()), channel, open: None })
        });
        Ok(Self { desk: desk.clone(), all: all.collect::<Result<_, Error>>()? })
    }

    /// Begins to serve.
    pub fn open(&mut self) {
        for door in &mut self.all {
            door.open = door.channel.take().map(|channel| begin(channel, &self.desk));
        }
    }

    /// Opens those anew whose settings are others now. Where the new ones cannot be used, it goes on with the old ones.
    pub async fn reopen(&mut self) {
        for door in &mut self.all {
            let settings = (door.way.settings)(&self.desk.app.config());
            if settings == door.settings {
                continue;
            }
            match (door.way.open)(&self.desk.app) {
                Err(error) => {
                    let error = error.to_text();
                    tracing::error!(error = %error.trim_end(), "a channel cannot be opened with its new settings; it is as before");
                }
                Ok(channel) => {
                    if let Some(old) = door.open.take() {
                        old.leave.cancel();
                        let mut serving = old.serving;
                        if tokio::time::timeout(ENDING, &mut serving).await.is_err() {
                            serving.abort();
                        }
                    }
                    door.settings = settings;
                    door.open = channel.map(|channel| {
                        tracing::info!(channel = channel.name(), "opened anew: its settings changed");
                        begin(Arc::from(channel), &self.desk)
                    });
                }
            }
        }
    }

    /// Waits until all have ended; call it after the stop.
    pub async fn closed(self) {
        for open in self.all.into_iter().filter_map(|door| door.open) {
            // What failed was logged where it failed.
            let _ = open.serving.await;
        }
    }
}

fn begin(channel: Arc<dyn Channel>, desk: &Arc<Desk>) -> Open {
    if let Some(said) = channel.says() {
        tracing::info!(channel = channel.name(), "{said}");
    }
    let (desk, leave) = desk.for_channel();
    Open { leave, serving: tokio::spawn(keep_open(channel, desk)) }
}

/// Serves a channel until it shall leave, whatever happens to the channel.
async fn keep_open(channel: Arc<dyn Channel>, desk: Arc<Desk>) {
    let stopping = desk.stopping();
    while !stopping.is_cancelled() {
        // A task of its own: a channel's bug ends neither the daemon nor another channel.
        let (served, at) = (channel.clone(), desk.clone());
        let serving = AbortOnDropHandle::new(tokio::spawn(async move { served.serve(at).await }));
        match serving.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(channel = channel.name(), error = %error.to_text().trim_end(), "channel failed");
            }
            Err(error) => tracing::error!(channel = channel.name(), %error, "channel failed by a bug"),
        }
        tokio::select! {
            () = stopping.cancelled() => {}
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}
