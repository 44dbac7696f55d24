//! Removing what was made: by its labels, so that nothing has to be remembered, and in an order that always works.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::NetworkDisconnectRequest;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
};

use super::super::super::SandboxError;
use super::{Made, SERVICE_LABEL, SERVICES_LABEL, logs, setup};

impl Made {
    pub(super) async fn remove(&self) {
        self.requests.close();
        self.requests.wait().await;
        let label = format!("{SERVICES_LABEL}={}", self.network);
        self.keep_logs(&label).await;
        if let Err(error) = remove_labelled(&self.docker, &[&label]).await {
            tracing::warn!(network = self.network, %error, "services are left; they are swept later");
        }
    }

    async fn keep_logs(&self, label: &str) {
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filter(&[label])).build();
        for container in self.docker.list_containers(Some(options)).await.unwrap_or_default() {
            let labels = container.labels.unwrap_or_default();
            let (Some(id), Some(name)) = (container.id, labels.get(SERVICE_LABEL)) else { continue };
            // The log of what runs has no end. A container that has ended refuses; that is as good.
            let _ = self.docker.kill_container(&id, None).await;
            if let Err(error) = logs::keep(&self.docker, &id, &self.logs, name, &self.masker).await {
                tracing::warn!(service = name, %error, "the log of a service is lost");
            }
        }
    }
}

/// Removes every container that carries all of these labels (`NAME=VALUE`, or `NAME` with any value), its anonymous
/// volumes with it, then every such network, from which foreign containers are taken out. What is gone already is fine.
/// Gives how many objects were there.
///
/// # Errors
/// [`SandboxError::Setup`] with what is left; everything else was removed all the same.
pub async fn remove_labelled(docker: &Docker, labels: &[&str]) -> Result<usize, SandboxError> {
    let cannot = |error: bollard::errors::Error| setup("list what is to be removed", error);
    let mut left = Vec::new();
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filter(labels)).build();
    let containers = docker.list_containers(Some(options)).await.map_err(cannot)?;
    let mut removed = containers.len();
    for id in containers.into_iter().filter_map(|container| container.id) {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        if let Err(error) = docker.remove_container(&id, Some(options)).await
            && !gone(&error, &[404, 409])
        {
            left.push(format!("container {id}: {error}"));
        }
    }
    let options = ListNetworksOptionsBuilder::default().filters(&filter(labels)).build();
    let networks = docker.list_networks(Some(options)).await.map_err(cannot)?;
    removed += networks.len();
    for id in networks.into_iter().filter_map(|network| network.id) {
        let inside = docker.inspect_network(&id, None).await.ok().and_then(|network| network.containers);
        for container in inside.unwrap_or_default().into_keys() {
            let request = NetworkDisconnectRequest { container, force: Some(true) };
            // If it stays in, removing the network says so.
            let _ = docker.disconnect_network(&id, request).await;
        }
        if let Err(error) = docker.remove_network(&id).await
            && !gone(&error, &[404])
        {
            left.push(format!("network {id}: {error}"));
        }
    }
    if left.is_empty() { Ok(removed) } else { Err(setup("remove everything", left.join("; "))) }
}

fn filter(labels: &[&str]) -> HashMap<String, Vec<String>> {
    [("label".to_owned(), labels.iter().map(|label| (*label).to_owned()).collect())].into()
}

/// Whether somebody else was faster: it is not there, or (409, of a container) its removal is under way.
fn gone(error: &bollard::errors::Error, codes: &[u16]) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code, .. } if codes.contains(status_code))
}
