//! The containers beside a command (a database, a queue) and the private network on which it finds them by name.
//!
//! The network has no way out: it is internal, its bridge has no address of the host, and its resolver has nobody to
//! ask, so that neither the host nor the world can be reached, not even by a question for a name. Whatever happens, the
//! network and the containers go together: at the end, after a failure, a cancellation or a lost future, and after a
//! killed engine by their labels. Unknown here: pipelines, configuration, and whose commands join.

mod logs;
mod ready;
mod remove;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, NetworkCreateRequest,
    NetworkingConfig, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{CreateContainerOptionsBuilder, UploadToContainerOptionsBuilder};
use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{OutputSink, SandboxError};
use super::description::{Copied, ServiceDescription};
use super::image::{self, Source};
use crate::secrets::Masker;

pub use remove::remove_labelled;

/// The label that names the set of services that an object belongs to: its network's name.
pub const SERVICES_LABEL: &str = "dev.devo.services";
/// The label that names the service that a container is.
pub const SERVICE_LABEL: &str = "dev.devo.service";

/// Memory of one service, swap included: more than what databases and queues take at rest, and a runaway still leaves
/// room on a small machine.
const MEMORY_BYTES: i64 = 2 << 30;
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
/// A resolver that is never there: the embedded one then knows the names of the set and no others. The container's own
/// loopback refuses at once, where an unused address would be waited for.
const NO_RESOLVER: &str = "127.0.0.1";

/// Where services are made, for whom, and what they may be made from.
pub struct Ground<'a> {
    /// The engine.
    pub docker: &'a Docker,
    /// Labels of everything that is made: the home's and the run's.
    pub labels: &'a HashMap<String, String>,
    /// What the names of objects start with: letters, digits and `-`.
    pub prefix: &'a str,
    /// The folder in which the services' output is left, `NAME.log` each, when they are removed. Made if needed.
    pub logs: &'a Path,
    /// What must not be stored.
    pub masker: &'a Masker,
    /// The files of the run's base commit.
    pub source: &'a dyn Source,
}

/// Services that are up, and their network. [`ServiceSet::stop`] removes them; so does dropping, in the background.
pub struct ServiceSet {
    made: Arc<Made>,
    stopped: bool,
}

/// What removing needs to know.
struct Made {
    docker: Docker,
    network: String,
    logs: std::path::PathBuf,
    masker: Masker,
    /// Requests that make something: removing waits for them, or what a dropped future asked for would come after.
    requests: TaskTracker,
}

impl ServiceSet {
    /// Starts the services, each once those that it needs are ready, and waits until all are. `None` is a cancellation.
    /// Nothing is left behind if this fails or is cancelled.
    ///
    /// # Errors
    /// [`SandboxError::Service`] for one that does not come up, with the end of its log; those of [`image::ensure`];
    /// [`SandboxError::Setup`] if the engine refuses.
    pub async fn start(
        ground: &Ground<'_>,
        services: &[ServiceDescription],
        progress: &dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Option<Self>, SandboxError> {
        let waves = waves(services)?;
        let made = Made {
            docker: ground.docker.clone(),
            network: format!("{}-{:08x}", ground.prefix, fastrand::u32(..)),
            logs: ground.logs.to_owned(),
            masker: ground.masker.clone(),
            requests: TaskTracker::new(),
        };
        let set = Self { made: Arc::new(made), stopped: false };
        let up = tokio::select! {
            up = set.bring_up(ground, &waves, progress, cancel) => up.map(|()| !cancel.is_cancelled()),
            () = cancel.cancelled() => Ok(false),
        };
        match up {
            Ok(true) => Ok(Some(set)),
            _ if cancel.is_cancelled() => {
                set.stop().await;
                Ok(None)
            }
            up => {
                set.stop().await;
                up.map(|_| None)
            }
        }
    }

    /// The network that a command's container joins to reach the services by their names. Such a container also needs
    /// [`ServiceSet::dns`] and [`ServiceSet::dns_search`], or its questions for names leave by the host's resolvers.
    pub fn network(&self) -> &str {
        &self.made.network
    }

    /// `HostConfig.Dns` of a container in the network.
    pub fn dns() -> Vec<String> {
        vec![NO_RESOLVER.to_owned()]
    }

    /// `HostConfig.DnsSearch` of a container in the network: none of the host's domains.
    pub fn dns_search() -> Vec<String> {
        vec![".".to_owned()]
    }

    /// Removes the services, whose output is then in the folder that was given, and the network; a container that is
    /// still in it is taken out. What cannot be removed is logged, and swept with the run's other objects.
    pub async fn stop(mut self) {
        self.made.remove().await;
        self.stopped = true;
    }

    async fn bring_up(
        &self,
        ground: &Ground<'_>,
        waves: &[Vec<&ServiceDescription>],
        progress: &dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<(), SandboxError> {
        self.made.create_network(self.labels(ground)).await?;
        for wave in waves {
            try_join_all(wave.iter().map(|service| self.one(ground, service, progress, cancel))).await?;
        }
        Ok(())
    }

    async fn one(
        &self,
        ground: &Ground<'_>,
        service: &ServiceDescription,
        progress: &dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<(), SandboxError> {
        let began = std::time::Instant::now();
        let image = image::ensure(ground.docker, &service.origin, ground.source, progress, cancel).await?;
        let check = ready::check(ground.docker, service, &image).await?;
        let mut labels = self.labels(ground);
        labels.insert(SERVICE_LABEL.to_owned(), service.name.clone());
        let archive = archive(&service.copies, ground.source).map_err(|what| refused(service, &what))?;
        let body = body(service, image, labels, &self.made.network);
        let id = self.made.create_container(service, body, archive).await?;
        let within = Duration::from_secs(service.ready_within_s);
        ready::wait(&self.made.docker, &id, service, &check, within).await?;
        let seconds = began.elapsed().as_secs_f64();
        progress.note(&format!("the service `{}` is ready after {seconds:.1} s", service.name));
        Ok(())
    }

    fn labels(&self, ground: &Ground<'_>) -> HashMap<String, String> {
        let mut labels = ground.labels.clone();
        labels.insert(SERVICES_LABEL.to_owned(), self.made.network.clone());
        labels
    }
}

impl Drop for ServiceSet {
    fn drop(&mut self) {
        if !self.stopped
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let made = Arc::clone(&self.made);
            runtime.spawn(async move { made.remove().await });
        }
    }
}

impl Made {
    /// A request that makes something: it is sent to its end even if nobody waits for it any more.
    async fn request<T: Send + 'static>(
        &self,
        doing: &str,
        request: impl Future<Output = Result<T, bollard::errors::Error>> + Send + 'static,
    ) -> Result<T, SandboxError> {
        let sent = self.requests.spawn(request).await;
        let error = match sent {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(setup(doing, error))
    }

    async fn create_network(&self, labels: HashMap<String, String>) -> Result<(), SandboxError> {
        let options = [("com.docker.network.bridge.inhibit_ipv4".to_owned(), "true".to_owned())];
        let request = NetworkCreateRequest {
            name: self.network.clone(),
            driver: Some("bridge".to_owned()),
            internal: Some(true),
            attachable: Some(false),
            enable_ipv6: Some(false),
            options: Some(options.into()),
            labels: Some(labels),
            ..Default::default()
        };
        let docker = self.docker.clone();
        self.request("make the services' network", async move { docker.create_network(request).await }).await?;
        Ok(())
    }

    /// Makes and starts a container; gives its id.
    async fn create_container(
        &self,
        service: &ServiceDescription,
        body: ContainerCreateBody,
        archive: Option<Vec<u8>>,
    ) -> Result<String, SandboxError> {
        let name = format!("{}-{}", self.network, service.name);
        let doing = format!("make the service `{}`", service.name);
        let docker = self.docker.clone();
        let made = async move {
            let options = CreateContainerOptionsBuilder::default().name(&name).build();
            docker.create_container(Some(options), body).await
        };
        let id = self.request(&doing, made).await?.id;
        if let Some(archive) = archive {
            let options = UploadToContainerOptionsBuilder::default().path("/").build();
            let sent = self.docker.upload_to_container(&id, Some(options), bollard::body_full(archive.into()));
            sent.await.map_err(|error| setup(&format!("copy files to the service `{}`", service.name), error))?;
        }
        let (docker, started) = (self.docker.clone(), id.clone());
        let start = async move { docker.start_container(&started, None).await };
        self.request(&doing, start).await.map_err(|error| refused(service, &error.to_string()))?;
        Ok(id)
    }
}

fn body(
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

/// Services in the order in which they can be started: those of one wave need only those of waves before.
fn waves(services: &[ServiceDescription]) -> Result<Vec<Vec<&ServiceDescription>>, SandboxError> {
    let mut names = BTreeSet::new();
    for service in services {
        if !is_host_name(&service.name) || !service.aliases.iter().all(|alias| is_host_name(alias)) {
            return Err(setup("name a service", format!("`{}` cannot be a host name", service.name)));
        }
        if !names.insert(service.name.as_str()) {
            return Err(setup("name a service", format!("there are two `{}`", service.name)));
        }
    }
    let mut waves = Vec::new();
    let mut ready: BTreeSet<&str> = BTreeSet::new();
    let mut rest: Vec<&ServiceDescription> = services.iter().collect();
    while !rest.is_empty() {
        let can = |service: &&ServiceDescription| service.needs.iter().all(|need| ready.contains(need.as_str()));
        let (wave, later): (Vec<_>, Vec<_>) = rest.into_iter().partition(can);
        if wave.is_empty() {
            let waiting: Vec<String> = later.iter().map(|service| format!("`{}`", service.name)).collect();
            return Err(setup(
                "start services",
                format!("what these need is not there or needs them: {}", waiting.join(", ")),
            ));
        }
        ready.extend(wave.iter().map(|service| service.name.as_str()));
        waves.push(wave);
        rest = later;
    }
    Ok(waves)
}

/// Whether a text can name a container and be found by name: a compose file allows more than devo.yaml does.
pub(super) fn is_host_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// The files of the repository that a service gets, as an archive to unpack at `/`.
fn archive(copies: &[Copied], source: &dyn Source) -> Result<Option<Vec<u8>>, String> {
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

fn setup(doing: &str, error: impl std::fmt::Display) -> SandboxError {
    SandboxError::Setup { message: format!("cannot {doing}: {error}") }
}

fn refused(service: &ServiceDescription, what: &str) -> SandboxError {
    SandboxError::Service {
        name: service.name.clone(),
        what: what.to_owned(),
        log: String::new(),
        hint: "look at its image, `command` and `entrypoint`".into(),
    }
}
