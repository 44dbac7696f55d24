//! What the service manager is told: ready, reloading, stopping, alive, and in a few words how it goes. Without one, nothing
//! is told to nobody.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::app::Desk;

/// Between two words about how it goes.
const STATUS: Duration = Duration::from_secs(10);

/// The daemon as a service.
pub struct Service {
    telling: tokio::task::JoinHandle<()>,
}

impl Service {
    /// Says that the daemon is ready, and from now on that it is alive.
    pub fn start(desk: Arc<Desk>) -> Self {
        say(&[NotifyState::Ready, NotifyState::Status(&status(&desk))]);
        let telling = tokio::spawn(async move {
            let watchdog = sd_notify::watchdog_enabled();
            // Twice as often as the manager wants it.
            let period = watchdog.map_or(STATUS, |within| STATUS.min(within / 2)).max(Duration::from_millis(10));
            loop {
                tokio::time::sleep(period).await;
                let text = status(&desk);
                // Alive is who gets an answer from the journal; one that hangs is left to the manager.
                if watchdog.is_some() && answers(&desk, period).await {
                    say(&[NotifyState::Watchdog, NotifyState::Status(&text)]);
                } else {
                    say(&[NotifyState::Status(&text)]);
                }
            }
        });
        Self { telling }
    }

    /// Says that the settings are being read, reads them, and says that it is done.
    pub async fn reloading(&self, read: impl Future<Output = ()>) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => say(&[NotifyState::Reloading, now]),
            Err(_) => say(&[NotifyState::Reloading]),
        }
        read.await;
        say(&[NotifyState::Ready]);
    }

    /// Says that the daemon ends.
    pub fn stopping(&self) {
        self.telling.abort();
        say(&[NotifyState::Stopping, NotifyState::Status("putting down what runs")]);
    }
}

async fn answers(desk: &Desk, within: Duration) -> bool {
    matches!(tokio::time::timeout(within, desk.app.journal.feed_end()).await, Ok(Ok(_)))
}

fn status(desk: &Desk) -> String {
    let (driven, waiting, resting) = desk.counts();
    format!("{driven} runs at work, {waiting} queued, {resting} wait for a person")
}

fn say(words: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}
