//! What the container of a service is allowed, given and made from.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, NetworkingConfig,
    RestartPolicy, RestartPolicyNameEnum,
};

use super::super::description::{Copied, ServiceDescription};
use super::super::image::Source;
use super::{ServiceSet, logs};

/// Memory of one service, swap included: more than what databases and queues take at rest, and a runaway still leaves
/// room on a small machine.
pub(super) const MEMORY_BYTES: i64 = 2 << 30;
/// Processes and threads of one service: a database's connections are processes, a Java server has some 200 threads.
const PIDS: i64 = 1024;
/// Shared memory of one service. The engine's 64 MiB are too few for the parallel queries of postgres.
const SHM_BYTES: i64 = 256 << 20;
/// What images of databases need to make a folder theirs and to become a user of their own: they start as root, `chown`
/// their data (CHOWN, FOWNER, DAC_OVERRIDE) and drop to their user (SETUID, SETGID). Nothing of it reaches beyond the
/// container; left out of the engine's default are NET_RAW, MKNOD, SYS_CHROOT, SETFCAP, SETPCAP, AUDIT_WRITE, KILL and
/// NET_BIND_SERVICE (low ports are open to everyone in a container's own network).
const CAPABILITIES: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"];
/// The most bytes of files that one service gets from the repository: settings and fixtures, not builds.
const COPIED_MAX: usize = 64 << 20;
/// The container of a service.
pub(super) fn body(
    service: &ServiceDescription,
    image: String,
    labels: HashMap<String, String>,
    network: &str,
) -> ContainerCreateBody {
    let endpoint = EndpointSettings {
        aliases: Some(std::iter::once(&service.name).chain(&service.aliases).cloned().collect()),
        ..Default::default()
    };
    let tmpfs = service.tmpfs.iter().map(|(path, bytes)| {
        let size = bytes.map_or(String::new(), |bytes| format!(",size={bytes}"));
        (path.clone(), format!("rw,nosuid,nodev{size}"))
    });
    let log = [("max-size", logs::ENGINE_SIZE), ("max-file", "2")];
    ContainerCreateBody {
        hostname: Some(service.name.clone()),
        image: Some(image),
        user: service.user.clone(),
        env: Some(service.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: service.command.clone(),
        entrypoint: service.entrypoint.clone(),
        working_dir: service.working_dir.clone(),
        volumes: Some(service.volumes.clone()),
        labels: Some(labels),
        // We ask ourselves, and more often: the engine would ask for the first time after 30 seconds.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }),
        networking_config: Some(NetworkingConfig { endpoints_config: Some([(network.to_owned(), endpoint)].into()) }),
        host_config: Some(HostConfig {
            network_mode: Some(network.to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            privileged: Some(false),
            publish_all_ports: Some(false),
            ipc_mode: Some("private".to_owned()),
            init: Some(true),
            auto_remove: Some(false),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            memory: Some(MEMORY_BYTES),
            memory_swap: Some(MEMORY_BYTES),
            pids_limit: Some(PIDS),
            shm_size: Some(SHM_BYTES),
            dns: Some(ServiceSet::dns()),
            dns_search: Some(ServiceSet::dns_search()),
            dns_options: Some(ServiceSet::dns_options()),
            tmpfs: Some(tmpfs.collect()),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(log.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The files of the repository that a service gets, as an archive to unpack at `/`.
pub(super) fn archive(copies: &[Copied], source: &dyn Source) -> Result<Option<Vec<u8>>, String> {
    if copies.is_empty() {
        return Ok(None);
    }
    let mut archive = tar::Builder::new(Vec::new());
    let mut total = 0;
    for copied in copies {
        let cannot = |why: String| format!("cannot get `{}` of the repository: {why}", copied.from);
        let below = source.files(&copied.from).unwrap_or_default();
        let files = match below.is_empty() {
            // No folder: a file.
            true => vec![(copied.to.clone(), source.file(&copied.from).map_err(cannot)?, false, false)],
            false => below
                .into_iter()
                .map(|file| (format!("{}/{}", copied.to, file.path), file.content, file.executable, file.link))
                .collect(),
        };
        for (path, content, executable, link) in files {
            total += content.len();
            if total > COPIED_MAX {
                return Err(cannot(format!("with it there would be more than {COPIED_MAX} bytes")));
            }
            let mut header = tar::Header::new_gnu();
            header.set_mode(if executable { 0o755 } else { 0o644 });
            let path = path.trim_start_matches('/');
            let written = if link {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                let target = String::from_utf8_lossy(&content).into_owned();
                archive.append_link(&mut header, path, target)
            } else {
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, path, content.as_slice())
            };
            written.map_err(|error| cannot(error.to_string()))?;
        }
    }
    archive.into_inner().map(Some).map_err(|error| error.to_string())
}
