//! One container: made hard to leave, attached to through its first process, and removed.
//!
//! It lives as long as its attachment: dropped, or with the engine dead, the daemon closes the container's standard
//! input, its first process ends, and the daemon removes it. Knows nothing of which command runs in it, or when.

use std::collections::HashMap;
use std::fmt;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType, NetworkConnectRequest,
    ResourcesUlimits,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
};
use bytes::BytesMut;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tempfile::TempDir;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::super::protected::Cover;
use super::super::proxy::Proxy;
use super::super::{Limits, SandboxError, WORKSPACE, job, text};
use super::daemon::{explain, said, status};
use super::payload::{PROXY_FOLDER, PROXY_SOCKET, Payload};
use super::services::ServiceSet;
use super::wire::{self, Order, Told};

/// HOME of every command.
pub(super) const HOME: &str = "/home/run";
/// A start takes a fraction of a second; this is for a machine on its knees.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Killing and removing, likewise.
const REMOVE_WITHIN: Duration = Duration::from_secs(30);
/// How long a daemon that does not answer may be restarting, and how often it is asked.
const BACK_WITHIN: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Of what the first process complains about, as much is kept.
const LONGEST_COMPLAINT: usize = 2000;
/// Processes and threads that are ours, beside the commands'.
const OWN_PIDS: u64 = 8;

/// What a container is made of.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub name: String,
    pub image: String,
    /// Variables of the image that would reach our own program; those of commands come with each command.
    pub unset: Vec<String>,
    pub labels: HashMap<String, String>,
    /// Bound at [`WORKSPACE`].
    pub workspace: PathBuf,
    /// Paths of it that get mounts of their own.
    pub covers: Vec<Cover>,
    /// Who everything in it runs as: whoever owns the workspace, so that its files stay theirs.
    pub owner: (u32, u32),
    /// The daemon's word: `none`, `bridge`, or the name of a network with services.
    pub network: String,
    /// Whether it is in the `bridge` too.
    pub outside: bool,
    /// Whether it gets a proxy of its own, at [`PORT`](super::super::proxy::PORT) of its loopback.
    pub proxied: bool,
    pub limits: Limits,
    pub cpus: Option<f64>,
    pub writable: bool,
    pub runtime: Option<String>,
}

impl Plan {
    /// Whether names are looked up in the services' network alone.
    fn is_closed(&self) -> bool {
        !self.outside && !["none", "bridge"].contains(&self.network.as_str())
    }

    fn body(&self, payload: &Payload, proxy: Option<&Own>) -> Result<ContainerCreateBody, SandboxError> {
        let (user, group) = self.owner;
        let bind = |source: &PathBuf, target: &str, read_only| -> Result<Mount, SandboxError> {
            Ok(Mount {
                typ: Some(MountType::BIND),
                source: Some(text(source)?),
                target: Some(target.to_owned()),
                read_only: Some(read_only),
                ..Mount::default()
            })
        };
        let mut mounts = vec![bind(&self.workspace, WORKSPACE, false)?];
        for cover in &self.covers {
            mounts.push(bind(
                &self.workspace.join(&cover.path),
                &text(&Path::new(WORKSPACE).join(&cover.path))?,
                cover.read_only,
            )?);
        }
        for (target, source) in &payload.files {
            mounts.push(bind(source, target, true)?);
        }
        if let Some(proxy) = proxy {
            mounts.push(bind(&proxy.folder.path().to_owned(), PROXY_FOLDER, true)?);
        }
        let size = self.limits.scratch_bytes.max(1 << 20);
        let tmpfs = HashMap::from([
            ("/tmp".to_owned(), format!("rw,exec,nosuid,nodev,mode=1777,size={size}")),
            (HOME.to_owned(), format!("rw,exec,nosuid,nodev,mode=0700,uid={user},gid={group},size={size}")),
        ]);
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let limit = |name: &str, value: u64| ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: Some(number(value)),
            hard: Some(number(value)),
        };
        let host = HostConfig {
            mounts: Some(mounts),
            tmpfs: Some(tmpfs),
            shm_size: Some(number(size)),
            network_mode: Some(self.network.clone()),
            dns: self.is_closed().then(ServiceSet::dns),
            dns_search: self.is_closed().then(ServiceSet::dns_search),
            dns_options: self.is_closed().then(ServiceSet::dns_options),
            ipc_mode: Some("private".to_owned()),
            // With users remapped its files would belong to nobody; as nobody it has no capability anyway.
            userns_mode: Some("host".to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            privileged: Some(false),
            readonly_rootfs: Some(!self.writable),
            runtime: self.runtime.clone(),
            memory: Some(number(self.limits.memory_bytes)),
            // The same as memory alone: no swap.
            memory_swap: Some(number(self.limits.memory_bytes)),
            nano_cpus: self.cpus.map(|cpus| (cpus * 1e9) as i64),
            pids_limit: Some(number(self.limits.pids.saturating_add(OWN_PIDS))),
            ulimits: Some(vec![
                limit("core", 0),
                limit("nofile", self.limits.open_files.max(64)),
                limit("fsize", self.limits.file_bytes),
            ]),
            // What the first process says is between it and the engine.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            auto_remove: Some(true),
            ..HostConfig::default()
        };
        Ok(ContainerCreateBody {
            image: Some(self.image.clone()),
            hostname: Some("sandbox".to_owned()),
            user: Some(format!("{user}:{group}")),
            // A name without a value is taken away.
            env: Some(self.unset.clone()),
            entrypoint: Some(payload.command.clone()),
            cmd: Some(Vec::new()),
            working_dir: Some("/".to_owned()),
            healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
            // The first process has no ear for a gentle signal, and a daemon that stops would wait for it.
            stop_signal: Some("SIGKILL".to_owned()),
            labels: Some(self.labels.clone()),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(true),
            stdin_once: Some(true),
            tty: Some(false),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        })
    }
}

/// A container that takes commands.
pub(super) struct Container {
    docker: Docker,
    id: String,
    orders: Pin<Box<dyn AsyncWrite + Send>>,
    told: Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>,
    buffer: BytesMut,
    /// What its first process, or the loader before it, complained about.
    complaint: Vec<u8>,
    proxy: Option<Own>,
    removed: bool,
}

/// The proxy of one container: what its commands are granted is nobody else's.
struct Own {
    proxy: Proxy,
    /// Seen by its owner alone, here and in the container.
    folder: TempDir,
}

impl Own {
    fn new((user, group): (u32, u32)) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("devo-").permissions(Permissions::from_mode(0o700)).tempdir()?;
        let socket = folder.path().join(PROXY_SOCKET);
        let proxy = Proxy::listen(&socket)?;
        // Whoever runs the engine as root may have a workspace of somebody else.
        if rustix::process::geteuid().is_root() && user != 0 {
            for path in [socket.as_path(), folder.path()] {
                chown(path, Some(user), Some(group))?;
            }
        }
        Ok(Self { proxy, folder })
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Container({})", self.id)
    }
}

impl Container {
    /// Makes and starts one, and waits until it takes commands.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] if the daemon refuses, [`SandboxError::Setup`] if our program does not run in it.
    pub async fn start(docker: &Docker, plan: &Plan, payload: &Payload) -> Result<Self, SandboxError> {
        let cannot = |error: Error| explain("no container can be made", &error);
        let proxy = plan.proxied.then(|| Own::new(plan.owner)).transpose().map_err(|error| SandboxError::Setup {
            message: format!("the proxy for its network cannot listen: {error}"),
        })?;
        let body = plan.body(payload, proxy.as_ref())?;
        let name = CreateContainerOptionsBuilder::default().name(&plan.name).build();
        let id = docker.create_container(Some(name), body).await.map_err(cannot)?.id;
        // From here on it is removed whatever happens: dropped below, or by this guard.
        let mut unattached = Unattached { docker, id: Some(id) };
        let id = unattached.id.clone().expect("it was put there on the line above");
        if plan.outside {
            let request = NetworkConnectRequest { container: id.clone(), ..NetworkConnectRequest::default() };
            docker.connect_network("bridge", request).await.map_err(cannot)?;
        }
        let streams = AttachContainerOptionsBuilder::default().stdin(true).stdout(true).stderr(true).stream(true);
        let attached = docker.attach_container(&id, Some(streams.build())).await.map_err(cannot)?;
        unattached.id = None;
        let mut container = Self {
            docker: docker.clone(),
            id,
            orders: attached.input,
            told: attached.output,
            buffer: BytesMut::new(),
            complaint: Vec::new(),
            proxy,
            removed: false,
        };
        container.docker.start_container(&container.id, None::<StartContainerOptions>).await.map_err(cannot)?;
        match timeout(START_WITHIN, container.next()).await {
            Ok(Some(Told::Ready)) => Ok(container),
            Ok(_) => {
                let message = format!("devo does not run in the image: {}", container.complaint());
                Err(SandboxError::Setup { message })
            }
            Err(_) => Err(SandboxError::Setup { message: "the container did not start in time".to_owned() }),
        }
    }

    /// Gives an order.
    pub async fn order(&mut self, order: &Order) -> io::Result<()> {
        self.orders.write_all(&job::frame(order)?).await?;
        self.orders.flush().await
    }

    /// What comes next; `None` when the container is gone. Safe to drop between polls.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            match wire::take(&mut self.buffer) {
                Ok(Some(told)) => return Some(told),
                Ok(None) => {}
                Err(error) => {
                    self.complain(error.to_string().as_bytes());
                    return None;
                }
            }
            match self.told.next().await? {
                Ok(LogOutput::StdOut { message }) => self.buffer.extend_from_slice(&message),
                Ok(LogOutput::StdErr { message } | LogOutput::Console { message }) => self.complain(&message),
                Ok(LogOutput::StdIn { .. }) => {}
                Err(_) => return None,
            }
        }
    }

    /// Its proxy, if it was made with one.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref().map(|own| &own.proxy)
    }

    /// Whether it ended while nobody used it, as far as it is known by now.
    pub fn is_gone(&mut self) -> bool {
        // Between commands it says nothing but its end.
        self.next().now_or_never().is_some()
    }

    fn complain(&mut self, bytes: &[u8]) {
        let room = LONGEST_COMPLAINT - self.complaint.len().min(LONGEST_COMPLAINT);
        self.complaint.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// What it complained about, for an error.
    pub fn complaint(&self) -> String {
        let text = String::from_utf8_lossy(&self.complaint);
        match text.trim() {
            "" => "it ended without a word".to_owned(),
            text => text.to_owned(),
        }
    }

    /// Kills and removes it, and waits until the daemon says that it is gone.
    ///
    /// # Errors
    /// It may still live.
    pub async fn remove(mut self) -> Result<(), SandboxError> {
        self.removed = true;
        remove(&self.docker, &self.id).await
    }

    /// The same for one that is lost, perhaps with its daemon: a restart takes it seconds, and it is asked until it answers.
    ///
    /// # Errors
    /// It may still live.
    pub async fn outlast(mut self) -> Result<(), SandboxError> {
        let until = Instant::now() + BACK_WITHIN;
        loop {
            match remove(&self.docker, &self.id).await {
                Err(_) if Instant::now() < until => tokio::time::sleep(ASK_EVERY).await,
                removed => {
                    self.removed = true;
                    return removed;
                }
            }
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The end of the attachment ends it; this is for a first process that does not listen any more.
        if !self.removed {
            remove_later(&self.docker, &self.id);
        }
    }
}

/// A container that was made and not attached to yet: nothing but this would remove it.
struct Unattached<'a> {
    docker: &'a Docker,
    id: Option<String>,
}

impl Drop for Unattached<'_> {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            remove_later(self.docker, id);
        }
    }
}

fn remove_later(docker: &Docker, id: &str) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let (docker, id) = (docker.clone(), id.to_owned());
        runtime.spawn(async move {
            if let Err(error) = remove(&docker, &id).await {
                tracing::warn!("{error}");
            }
        });
    }
}

/// Kills and removes a container. One that is gone, or going, is no error.
pub(super) async fn remove(docker: &Docker, id: &str) -> Result<(), SandboxError> {
    let left = |why: String| SandboxError::Container { what: format!("could not be removed: {why}"), gone: false };
    let work = async {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match docker.remove_container(id, Some(options)).await {
            Ok(()) => return Ok(()),
            Err(error) if status(&error) == Some(404) => return Ok(()),
            // It is being removed already.
            Err(error) if status(&error) == Some(409) => {}
            Err(error) => return Err(left(said(&error))),
        }
        loop {
            match docker.inspect_container(id, None).await {
                Err(error) if status(&error) == Some(404) => return Ok(()),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(REMOVE_WITHIN, work).await.unwrap_or_else(|_| Err(left("the daemon did not do it in time".to_owned())))
}
