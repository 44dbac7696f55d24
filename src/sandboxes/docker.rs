//! Containers by Docker's API: one per workspace and kind of network, kept warm, every command in it ended for good.
//!
//! Nothing of the host is in a container but the run's workspace and the files of this program. It has no capability,
//! gains none, has no network unless granted, and a root that cannot be written. What survives from one command to the
//! next is the workspace and the container's private HOME and /tmp. Unknown here: git, secrets, steps, devo.yaml.

mod build;
pub mod compose;
mod container;
mod daemon;
pub mod description;
pub mod devcontainer;
mod exec;
pub mod image;
mod init;
mod lanes;
mod payload;
mod scopes;
pub mod services;
mod settings;
mod sweep;
mod unfit;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::container::{Container, HOME, Plan};
use self::daemon::Daemon;
use self::description::{Description, ServiceDescription};
use self::lanes::{Key, Lane, Lanes};
use self::payload::Payload;
use self::scopes::Scopes;
use self::services::{Ground, ServiceSet};
use super::protected::{Cover, Protected, protected};
use super::{
    Captured, Command, Exit, Finished, Network, OutputSink, Sandbox, SandboxError, WORKSPACE, checked, passable, proxy,
    real_workspace, text, within,
};

pub use description::Build;
pub use image::Source;
pub use init::{INIT_WORD, init};
pub use settings::{Described, Settings, Yaml};
pub use sweep::sweep;
pub use unfit::{Problem, Unfit};

/// Whether the daemon has an image already.
///
/// # Errors
/// [`SandboxError::Unavailable`] if it cannot be asked, with the remedy.
pub async fn has_image(name: &str) -> Result<bool, SandboxError> {
    Ok(image::find(&daemon::connect().await?.docker, name).await?.is_some())
}

/// The label that names the home whose engine made an object; sweeping looks for it.
pub const HOME_LABEL: &str = "dev.devo.home";
/// The label that names the run that an object belongs to.
pub const RUN_LABEL: &str = "dev.devo.run";

/// PATH where an image sets none; what docker itself would take.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The scope of the command that only tries the sandbox: services are not for it.
const PROBE: &str = " probe";
/// Variables of an image that would change our own program in its container.
const LOADER_VARIABLES: [&str; 5] = ["LD_", "GLIBC_", "GCONV_", "MALLOC_", "RUST_"];

/// Runs commands in containers that are kept warm.
pub struct Docker {
    settings: super::Settings,
    own: Settings,
    prepared: Mutex<Option<Arc<Prepared>>>,
    lanes: Arc<Lanes>,
    scopes: Scopes,
}

impl fmt::Debug for Docker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Docker({:?})", self.own)
    }
}

/// What is found out once, at the first command.
#[derive(Debug)]
struct Prepared {
    daemon: Daemon,
    description: Description,
    /// The image's id.
    image: String,
    /// The variables of the image and of the description.
    env: BTreeMap<String, String>,
    payload: Payload,
}

impl Docker {
    /// Nothing is asked of the daemon yet.
    pub fn new(settings: &super::Settings, own: &Settings) -> Self {
        let (settings, own) = (settings.clone(), own.clone());
        Self { settings, own, prepared: Mutex::default(), lanes: Lanes::new(), scopes: Scopes::default() }
    }

    /// The daemon, the image and all that; commands that come meanwhile wait for the first.
    async fn prepare(
        &self,
        output: &dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Arc<Prepared>, SandboxError> {
        let mut prepared = self.prepared.lock().await;
        if let Some(prepared) = &*prepared {
            return Ok(prepared.clone());
        }
        let daemon = daemon::connect().await?;
        let own = self.own.clone();
        let description = tokio::task::spawn_blocking(move || own.describe())
            .await
            .map_err(|error| SandboxError::Setup { message: format!("reading the repository failed: {error}") })??;
        for said in &description.said {
            output.note(said);
        }
        let image = image::ensure(&daemon.docker, &description.origin, &*self.own.source, output, cancel).await?;
        let of_image = image::variables(&daemon.docker, &image).await?;
        let mut env: BTreeMap<String, String> = of_image
            .iter()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        env.extend(description.env_over(&of_image));
        if let Some(user) = &description.user {
            env.extend(["USER", "LOGNAME"].map(|name| (name.to_owned(), user.clone())));
            output.note(&format!(
                "commands run as the owner of the workspace; `{user}`, which the repository names, is only in USER"
            ));
        }
        let payload = Payload::of(self.settings.supervisor.path()).map_err(|error| SandboxError::Setup {
            message: format!("devo's own program cannot be shown in a container: {error}"),
        })?;
        Ok(prepared.insert(Arc::new(Prepared { daemon, description, image, env, payload })).clone())
    }

    /// Where the command's container is, and what it shares with others. `None` is a cancellation.
    async fn key(
        &self,
        prepared: &Prepared,
        command: &Command,
        services: &[ServiceDescription],
        covers: Vec<Cover>,
        output: &dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Option<Key>, SandboxError> {
        let workspace = real_workspace(command)?;
        let folder = workspace.metadata().map_err(|_| SandboxError::Path {
            path: command.workspace.clone(),
            why: "cannot be opened as a workspace",
        })?;
        let full = command.network == Network::Full;
        let mut key = Key {
            workspace,
            folder: (folder.dev(), folder.ino()),
            owner: if prepared.daemon.rootless { (0, 0) } else { (folder.uid(), folder.gid()) },
            network: if full { "bridge" } else { "none" }.to_owned(),
            outside: false,
            proxied: matches!(command.network, Network::Domains(_)),
            scope: String::new(),
            covers,
            limits: command.limits,
        };
        if services.is_empty() {
            return Ok(Some(key));
        }
        let harmless =
            |letter: char| if letter.is_ascii_alphanumeric() || "._-".contains(letter) { letter } else { '-' };
        let folder: String = command.scope.chars().map(harmless).collect();
        let labels = self.labels();
        let ground = Ground {
            docker: &prepared.daemon.docker,
            labels: &labels,
            prefix: &self.name(),
            logs: &self.own.logs.join(folder.trim_start_matches('.')),
            masker: &self.own.masker,
            source: &*self.own.source,
        };
        let start = ServiceSet::start(&ground, services, output, cancel);
        let Some(network) = self.scopes.network(&command.scope, start).await? else { return Ok(None) };
        (key.network, key.outside, key.scope) = (network, full, command.scope.clone());
        Ok(Some(key))
    }

    /// The services that a command needs: the repository's and its own, which take the place of those of their name.
    fn services(&self, prepared: &Prepared, command: &Command) -> Result<Vec<ServiceDescription>, SandboxError> {
        if command.scope == PROBE {
            return Ok(Vec::new());
        }
        let mut services = prepared.description.services.clone();
        services.retain(|service| !command.services.contains_key(&service.name));
        for (name, service) in &*command.services {
            services.push(ServiceDescription::configured(name, service)?);
        }
        Ok(services)
    }

    /// What the names of our objects start with.
    fn name(&self) -> String {
        let run: String = self.own.run.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("devo-{}", &run[run.len().saturating_sub(8)..])
    }

    /// A container for the command: a warm one, or a new one.
    async fn container(&self, prepared: &Arc<Prepared>, key: &Key) -> Result<Container, SandboxError> {
        if let Some(container) = self.lanes.warm(key) {
            return Ok(container);
        }
        let plan = Plan {
            name: format!("{}-{:016x}", self.name(), fastrand::u64(..)),
            image: prepared.image.clone(),
            unset: prepared
                .env
                .keys()
                .filter(|name| LOADER_VARIABLES.iter().any(|prefix| name.starts_with(prefix)))
                .cloned()
                .collect(),
            labels: self.labels(),
            workspace: key.workspace.clone(),
            covers: key.covers.clone(),
            owner: key.owner,
            network: key.network.clone(),
            outside: key.outside,
            proxied: key.proxied,
            limits: key.limits,
            cpus: self.own.cpus,
            writable: self.own.writable,
            runtime: self.own.runtime.clone(),
        };
        // On a task of its own: whoever waits may go away, and a container that is half made must still be removed.
        let prepared = prepared.clone();
        let made =
            tokio::spawn(async move { Container::start(&prepared.daemon.docker, &plan, &prepared.payload).await });
        made.await.map_err(|error| SandboxError::Setup { message: format!("making a container failed: {error}") })?
    }

    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([(HOME_LABEL.to_owned(), self.own.home.clone()), (RUN_LABEL.to_owned(), self.own.run.clone())])
    }

    /// The whole environment of a command: the image's, the description's, ours, its own; the later wins.
    fn environment(
        &self,
        prepared: &Prepared,
        command: &Command,
        services: &[ServiceDescription],
    ) -> Result<Vec<(String, String)>, SandboxError> {
        let own = [("PATH", PATH), ("LANG", "C.UTF-8")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut variables: BTreeMap<String, String> = own.into();
        variables.extend(prepared.env.clone());
        variables.extend(self.settings.tz.iter().map(|tz| ("TZ".to_owned(), tz.clone())));
        variables.insert("HOME".to_owned(), HOME.to_owned());
        if let Network::Domains(domains) = &command.network {
            let names = services.iter().flat_map(|service| std::iter::once(&service.name).chain(&service.aliases));
            variables.extend(proxy::variables(domains, &names.map(String::as_str).collect::<Vec<_>>()));
        }
        variables.extend(checked(command)?);
        Ok(variables.into_iter().collect())
    }

    /// A container with everything that the command needs, and its environment. `None` is a cancellation.
    async fn lane(
        &self,
        command: &Command,
        covers: Vec<Cover>,
        output: &dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Option<(Lane, Vec<(String, String)>)>, SandboxError> {
        let room = self.lanes.room().await;
        let prepared = self.prepare(output, cancel).await?;
        let services = self.services(&prepared, command)?;
        let env = self.environment(&prepared, command, &services)?;
        let Some(key) = self.key(&prepared, command, &services, covers, output, cancel).await? else { return Ok(None) };
        let container = self.container(&prepared, &key).await?;
        Ok(Some((self.lanes.lane(key, container, room), env)))
    }
}

#[async_trait]
impl Sandbox for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn isolates(&self) -> bool {
        true
    }

    fn caveats(&self) -> Vec<String> {
        let as_root = "devo runs as root: so do its commands in their containers, without any capability";
        rustix::process::geteuid().is_root().then(|| as_root.to_owned()).into_iter().collect()
    }

    /// Runs `true` where the image is there. Whatever must be pulled or built first is left to the first command, which
    /// can tell its progress; then only the daemon is tried.
    async fn probe(&self) -> Result<(), SandboxError> {
        let daemon = daemon::connect().await?;
        match &self.own.described {
            Described::Image(name) if image::find(&daemon.docker, name).await?.is_some() => {}
            _ => return Ok(()),
        }
        let folder = tempfile::tempdir().map_err(|error| SandboxError::Setup { message: error.to_string() })?;
        let mut command = Command { timeout: Some(Duration::from_secs(30)), ..Command::new("true", folder.path()) };
        command.scope = PROBE.to_owned();
        let finished = self.exec(&command, &(), &CancellationToken::new()).await;
        self.lanes.release("").await;
        match finished? {
            finished if finished.exit.is_success() => Ok(()),
            finished => Err(SandboxError::Unavailable {
                what: format!("`true` ended with {:?}: {}", finished.exit, finished.stderr.text().trim()),
                hint: "use an image with /bin/sh and the usual programs".into(),
            }),
        }
    }

    async fn exec(
        &self,
        command: &Command,
        output: &dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Finished, SandboxError> {
        let start = Instant::now();
        passable("the script", command.script.len(), &[&command.script])?;
        let Protected { covers, not } = protected(command, &real_workspace(command)?)?;
        let dir = text(&Path::new(WORKSPACE).join(within(&command.workspace, &command.dir)?))?;
        checked(command)?;
        let cancelled = || {
            let nothing = Captured::default;
            Ok(exec::finished(
                Exit::Cancelled,
                nothing(),
                nothing(),
                start.elapsed(),
                Vec::new(),
                command.read_only.clone(),
            ))
        };
        if cancel.is_cancelled() {
            return cancelled();
        }
        let lane = tokio::select! {
            lane = self.lane(command, covers, output, cancel) => lane,
            () = cancel.cancelled() => return cancelled(),
        };
        let Some((lane, env)) = (match lane {
            Err(_) if cancel.is_cancelled() => return cancelled(),
            lane => lane?,
        }) else {
            return cancelled();
        };
        let order = wire::Command { script: command.script.clone(), dir, env };
        let grant = match &command.network {
            Network::Domains(domains) => lane.proxy().map(|proxy| proxy.grant(domains.clone())),
            Network::None | Network::Full => None,
        };
        let run = exec::run(lane, order, command, not, output, cancel, start);
        match grant {
            Some(mut grant) => grant.tell(output, run).await,
            None => run.await,
        }
    }

    async fn release(&self, scope: &str) {
        // An empty scope is that of the containers without services, which stay warm.
        if !scope.is_empty() {
            self.lanes.release(scope).await;
        }
        self.scopes.release(scope).await;
    }

    async fn close(&self) {
        self.lanes.close().await;
        self.scopes.close().await;
    }
}
