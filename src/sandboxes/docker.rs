//! Containers by Docker's API: one per workspace and kind of network, kept warm, every command in it ended for good.
//!
//! Nothing of the host is in a container but the run's workspace and the files of this program. It has no capability,
//! gains none, has no network unless granted, and a root that cannot be written. What survives from one command to the
//! next is the workspace and the container's private HOME and /tmp. Unknown here: git, secrets, steps, devo.yaml.

mod build;
mod container;
mod daemon;
pub mod description;
mod exec;
pub mod image;
mod init;
mod lanes;
mod payload;
mod sweep;
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

use super::{
    Captured, Command, Exit, Finished, Network, OutputSink, Sandbox, SandboxError, WORKSPACE, checked, passable,
    real_workspace, text, within,
};
use container::{Container, HOME, Plan};
use daemon::Daemon;
use description::{Description, Origin};
use lanes::{Key, Lanes};
use payload::Payload;

pub use description::Build;
pub use image::Source;
pub use init::{INIT_WORD, init};
pub use sweep::sweep;

/// The label that names the home whose engine made an object; sweeping looks for it.
pub const HOME_LABEL: &str = "dev.devo.home";
/// The label that names the run that an object belongs to.
pub const RUN_LABEL: &str = "dev.devo.run";

/// PATH where an image sets none; what docker itself would take.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Variables of an image that would change our own program in its container.
const LOADER_VARIABLES: [&str; 5] = ["LD_", "GLIBC_", "GCONV_", "MALLOC_", "RUST_"];

/// What the sandbox of a run is made from.
#[derive(Clone)]
pub struct Settings {
    /// The home, for labels.
    pub home: String,
    /// The run, for labels and names.
    pub run: String,
    /// What says how the container is made.
    pub described: Described,
    /// The files of the run's base commit.
    pub source: Arc<dyn Source>,
    /// Whether the container's root can be written.
    pub writable: bool,
    /// Another runtime of the daemon (`runsc`).
    pub runtime: Option<String>,
    /// Processors' worth of time; all of them if not given.
    pub cpus: Option<f64>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({}, {:?})", self.run, self.described)
    }
}

/// Who says how the container is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Described {
    /// devo.yaml: an image's name.
    Image(String),
    /// A Dockerfile.
    Build(Build),
}

/// Runs commands in containers that are kept warm.
#[derive(Debug)]
pub struct Docker {
    settings: super::Settings,
    own: Settings,
    prepared: Mutex<Option<Arc<Prepared>>>,
    lanes: Arc<Lanes>,
}

/// What is found out once, at the first command.
#[derive(Debug)]
struct Prepared {
    daemon: Daemon,
    description: Description,
    /// The image's id.
    image: String,
    /// The variables of the image, as it has them.
    env: Vec<(String, String)>,
    payload: Payload,
}

impl Docker {
    /// Nothing is asked of the daemon yet.
    pub fn new(settings: &super::Settings, own: &Settings) -> Self {
        Self { settings: settings.clone(), own: own.clone(), prepared: Mutex::default(), lanes: Lanes::new() }
    }

    /// Whether the daemon is there and can be used.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`], with the remedy.
    pub async fn reach() -> Result<(), SandboxError> {
        daemon::connect().await.map(drop)
    }

    fn description(&self) -> Description {
        let origin = match &self.own.described {
            Described::Image(name) => Origin::Image(name.clone()),
            Described::Build(build) => Origin::Build(build.clone()),
        };
        Description { origin, env: BTreeMap::new(), user: None, services: Vec::new(), said: Vec::new() }
    }

    /// The daemon, the image and all that; commands that come meanwhile wait for the first.
    async fn prepare(&self, output: &dyn OutputSink) -> Result<Arc<Prepared>, SandboxError> {
        let mut prepared = self.prepared.lock().await;
        if let Some(prepared) = &*prepared {
            return Ok(prepared.clone());
        }
        let daemon = daemon::connect().await?;
        let description = self.description();
        for said in &description.said {
            output.note(said);
        }
        let image = image::ensure(&daemon.docker, &description.origin, &self.own.source, output).await?;
        let env = image::variables(&daemon.docker, &image).await?;
        let payload = Payload::of(self.settings.supervisor.path()).map_err(|error| SandboxError::Setup {
            message: format!("devo's own program cannot be shown in a container: {error}"),
        })?;
        Ok(prepared.insert(Arc::new(Prepared { daemon, description, image, env, payload })).clone())
    }

    /// A container for the command: a warm one, or a new one.
    async fn container(&self, prepared: &Arc<Prepared>, key: &Key) -> Result<Container, SandboxError> {
        if let Some(container) = self.lanes.warm(key) {
            return Ok(container);
        }
        let short: String = self.own.run.chars().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect();
        let plan = Plan {
            name: format!("devo-{short}-{:016x}", fastrand::u64(..)),
            image: prepared.image.clone(),
            unset: prepared
                .env
                .iter()
                .map(|(name, _)| name.clone())
                .filter(|name| LOADER_VARIABLES.iter().any(|prefix| name.starts_with(prefix)))
                .collect(),
            labels: self.labels(),
            workspace: key.workspace.clone(),
            owner: if prepared.daemon.rootless { (0, 0) } else { key.owner },
            shown: Vec::new(),
            network: key.network.clone(),
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
    fn environment(&self, prepared: &Prepared, command: &Command) -> Result<Vec<(String, String)>, SandboxError> {
        let own = [("PATH", PATH), ("LANG", "C.UTF-8")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut variables: BTreeMap<String, String> = own.into();
        variables.extend(prepared.env.iter().cloned());
        variables.extend(prepared.description.env.clone());
        variables.extend(self.settings.tz.iter().map(|tz| ("TZ".to_owned(), tz.clone())));
        variables.insert("HOME".to_owned(), HOME.to_owned());
        variables.extend(checked(command)?);
        Ok(variables.into_iter().collect())
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

    async fn probe(&self) -> Result<(), SandboxError> {
        let folder = tempfile::tempdir().map_err(|error| SandboxError::Setup { message: error.to_string() })?;
        let command = Command { timeout: Some(Duration::from_secs(30)), ..Command::new("true", folder.path()) };
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
        let workspace = real_workspace(command)?;
        let dir = text(&Path::new(WORKSPACE).join(within(&command.workspace, &command.dir)?))?;
        checked(command)?;
        let cancelled = |start: Instant| {
            let nothing = Captured::default;
            Ok(exec::finished(Exit::Cancelled, nothing(), nothing(), start.elapsed(), Vec::new(), command))
        };
        if cancel.is_cancelled() {
            return cancelled(start);
        }
        let metadata = workspace.metadata().map_err(|_| SandboxError::Path {
            path: command.workspace.clone(),
            why: "cannot be opened as a workspace",
        })?;
        let key = Key {
            workspace,
            folder: (metadata.dev(), metadata.ino()),
            owner: (metadata.uid(), metadata.gid()),
            network: network(&command.network)?,
            scope: String::new(),
            limits: command.limits,
        };
        let ready = async {
            let room = self.lanes.room().await;
            let prepared = self.prepare(output).await?;
            let env = self.environment(&prepared, command)?;
            let container = self.container(&prepared, &key).await?;
            Ok((self.lanes.lane(key, container, room), env))
        };
        let (lane, env) = tokio::select! {
            ready = ready => ready?,
            () = cancel.cancelled() => return cancelled(start),
        };
        let order = wire::Command { script: command.script.clone(), dir, env };
        exec::run(lane, order, command, output, cancel, start).await
    }

    async fn release(&self, scope: &str) {
        self.lanes.release(scope).await;
    }

    async fn close(&self) {
        self.lanes.close().await;
    }
}

/// The daemon's word for a network.
fn network(network: &Network) -> Result<String, SandboxError> {
    match network {
        Network::None => Ok("none".to_owned()),
        Network::Full => Ok("bridge".to_owned()),
        Network::Domains(_) => Err(SandboxError::Setup { message: "no proxy yet".into() }),
    }
}
