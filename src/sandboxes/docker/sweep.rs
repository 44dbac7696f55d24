//! Removes what engines that were killed left behind: containers and networks with a home's label.
//!
//! Knows nothing of runs but their ids.

use std::collections::HashMap;

use bollard::query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder};

use super::super::SandboxError;
use super::daemon::{connect, explain, said, status};
use super::{HOME_LABEL, RUN_LABEL, container};

/// Removes the containers and networks of a home whose run is not to be kept; says how many they were.
///
/// # Errors
/// [`SandboxError::Unavailable`] if the daemon cannot be asked. What cannot be removed is only logged.
pub async fn sweep(home: &str, keep: &(dyn Fn(&str) -> bool + Sync)) -> Result<usize, SandboxError> {
    let docker = connect().await?.docker;
    let filters = HashMap::from([("label", vec![format!("{HOME_LABEL}={home}")])]);
    let cannot = |error| explain("what is left of earlier runs cannot be looked up", &error);
    let of_nobody = |labels: &Option<HashMap<String, String>>| {
        labels.as_ref().and_then(|labels| labels.get(RUN_LABEL)).is_none_or(|run| !keep(run))
    };
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let mut removed = 0;
    for found in docker.list_containers(Some(options)).await.map_err(cannot)? {
        let Some(id) = found.id.filter(|_| of_nobody(&found.labels)) else { continue };
        match container::remove(&docker, &id).await {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!("{error}"),
        }
    }
    let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
    for found in docker.list_networks(Some(options)).await.map_err(cannot)? {
        let Some(id) = found.id.filter(|_| of_nobody(&found.labels)) else { continue };
        match docker.remove_network(&id).await {
            Ok(()) => removed += 1,
            Err(error) if status(&error) == Some(404) => {}
            Err(error) => tracing::warn!("a network of an earlier run cannot be removed: {}", said(&error)),
        }
    }
    Ok(removed)
}
