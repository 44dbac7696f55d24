//! The services of a run, by scope: started by the first command that needs them, kept for the others of its scope.
//!
//! Knows nothing of commands and of how a service is started.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as Turn;

use super::super::SandboxError;
use super::services::ServiceSet;

/// Sets of services that are up.
#[derive(Default)]
pub(super) struct Scopes(Mutex<HashMap<String, Arc<Turn<Option<ServiceSet>>>>>);

impl Scopes {
    fn sets(&self) -> MutexGuard<'_, HashMap<String, Arc<Turn<Option<ServiceSet>>>>> {
        // What it guards is never half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network of a scope's services, which `start` starts if they are not up. Commands that come meanwhile wait.
    pub async fn network(
        &self,
        scope: &str,
        start: impl Future<Output = Result<Option<ServiceSet>, SandboxError>>,
    ) -> Result<Option<String>, SandboxError> {
        let turn = self.sets().entry(scope.to_owned()).or_default().clone();
        let mut set = turn.lock().await;
        if set.is_none() {
            *set = start.await?;
        }
        Ok(set.as_ref().map(|set| set.network().to_owned()))
    }

    /// Ends the services of a scope.
    pub async fn release(&self, scope: &str) {
        let turn = self.sets().remove(scope);
        stop(turn).await;
    }

    /// Ends all services.
    pub async fn close(&self) {
        let turns: Vec<_> = self.sets().drain().map(|(_, turn)| turn).collect();
        futures_util::future::join_all(turns.into_iter().map(|turn| stop(Some(turn)))).await;
    }
}

async fn stop(turn: Option<Arc<Turn<Option<ServiceSet>>>>) {
    let Some(turn) = turn else { return };
    if let Some(set) = turn.lock().await.take() {
        set.stop().await;
    }
}
