//! What a container is made from and how, whoever said it: devo.yaml, a `devcontainer.json`, a compose file. Pure data.

use std::collections::BTreeMap;

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A name, pulled if it is not there: `rust:1.95`.
    Image(String),
    /// Built from files of the run's base commit.
    Build(Build),
}

/// A build from a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Build {
    /// The context: a folder of the repository, `""` for all of it.
    pub context: String,
    /// The Dockerfile: a path in the repository (not in the context).
    pub dockerfile: String,
    /// The stage to build; the last one if not given.
    pub target: Option<String>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
}

/// The container that commands run in, and what must run beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its image.
    pub origin: Origin,
    /// Variables beside those of the image.
    pub env: BTreeMap<String, String>,
    /// Who its files belong to and its commands would run as, by name or number, where someone said it.
    pub user: Option<String>,
    /// What runs beside it, in the order in which it is started.
    pub services: Vec<ServiceDescription>,
    /// What a person should know: keys that were left out on purpose.
    pub said: Vec<String>,
}

/// A container beside the commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceDescription {
    /// Its host name.
    pub name: String,
    /// Its image.
    pub origin: Origin,
    /// Its variables.
    pub env: BTreeMap<String, String>,
    /// Its entry point; the image's own if not given.
    pub entrypoint: Option<Vec<String>>,
    /// Its command; the image's own if not given.
    pub command: Option<Vec<String>>,
    /// What tells that it is ready.
    pub ready: Ready,
    /// How long that may take, in seconds.
    pub ready_within_s: u64,
    /// Folders in memory: path, and size in bytes where it is bounded.
    pub tmpfs: BTreeMap<String, Option<u64>>,
    /// Who it runs as; the image's own user if not given.
    pub user: Option<String>,
    /// Where it starts; the image's own folder if not given.
    pub working_dir: Option<String>,
}

/// What tells that a service is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// This command, run in the container until it succeeds.
    Command(Vec<String>),
    /// The image's own health check; without one, that it runs.
    Image,
}
