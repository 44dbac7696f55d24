//! What a run's sandbox keeps warm, given back in time: the services of an attempt when it ends, everything when the run is
//! driven no longer or only waits. A sandbox that hangs (a daemon that does not answer) never holds the run.
//!
//! It does not know what a sandbox keeps.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::core::graph::StepIndex;
use crate::sandboxes::Sandbox;

/// Longer than a healthy daemon takes to remove a few containers; what is left then is swept at the next start.
const WITHIN: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(10) };

/// The sandbox of one run, as far as it keeps something.
pub(super) struct Rooms {
    sandbox: Arc<dyn Sandbox>,
    /// By step: what is being given back.
    going: HashMap<StepIndex, JoinHandle<()>>,
    /// Whether the sandbox was closed; it is not used again.
    vacant: Option<JoinHandle<()>>,
}

impl Rooms {
    pub fn new(sandbox: Arc<dyn Sandbox>) -> Self {
        Self { sandbox, going: HashMap::new(), vacant: None }
    }

    /// Begins to give back what a scope had.
    pub fn release(&mut self, at: StepIndex, scope: String) {
        let sandbox = self.sandbox.clone();
        let earlier = self.going.remove(&at);
        let release = async move {
            if let Some(earlier) = earlier {
                let _ = earlier.await;
            }
            if tokio::time::timeout(WITHIN, sandbox.release(&scope)).await.is_err() {
                tracing::warn!("the sandbox did not give back in time what {scope} used; the next start sweeps it");
            }
        };
        self.going.insert(at, tokio::spawn(release));
    }

    /// Waits until what a step had before is given back.
    pub fn freed(&mut self, at: StepIndex) -> impl Future<Output = ()> + Send + 'static {
        let going = self.going.remove(&at);
        async move {
            if let Some(going) = going {
                // It only waits and logs: there is nothing to report.
                let _ = going.await;
            }
        }
    }

    /// Begins to close the sandbox, once: nothing runs in it, and nothing will for a while.
    pub fn vacate(&mut self) {
        if self.vacant.is_none() {
            self.vacant =
                Some(tokio::spawn(close(self.sandbox.clone(), self.going.drain().map(|(_, going)| going).collect())));
        }
    }

    /// Whether the sandbox was closed.
    pub fn is_vacant(&self) -> bool {
        self.vacant.is_some()
    }

    /// Goes on in another sandbox.
    pub fn enter(&mut self, sandbox: Arc<dyn Sandbox>) {
        self.sandbox = sandbox;
        self.vacant = None;
    }

    /// Closes the sandbox and waits for it, as long as that takes a healthy one.
    pub async fn close(&mut self) {
        let vacant = self.vacant.take();
        let going = self.going.drain().map(|(_, going)| going).chain(vacant).collect();
        // Also after `vacate`: a closed sandbox may have gone on, and closing twice costs nothing.
        close(self.sandbox.clone(), going).await;
    }
}

async fn close(sandbox: Arc<dyn Sandbox>, going: Vec<JoinHandle<()>>) {
    let all = async {
        for going in going {
            // It only waits and logs: there is nothing to report.
            let _ = going.await;
        }
        sandbox.close().await;
    };
    if tokio::time::timeout(WITHIN, all).await.is_err() {
        tracing::warn!("the sandbox did not close in time; what it left is swept at the next start");
    }
}
