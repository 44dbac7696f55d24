//! What a container is made from and how, whoever said it: devo.yaml, a `devcontainer.json`, a compose file. Pure data.

use std::collections::BTreeMap;

use super::super::SandboxError;
use crate::core::service::Service;

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
    /// Variables beside those of the image; see [`Description::env_over`].
    pub env: BTreeMap<String, String>,
    /// Who its files belong to and its commands would run as, by name or number, where someone said it.
    pub user: Option<String>,
    /// What runs beside it, in the order in which it is started.
    pub services: Vec<ServiceDescription>,
    /// What a person should know: keys that were left out on purpose.
    pub said: Vec<String>,
}

impl Description {
    /// The variables, once those of the image are known (`NAME=value` each): `${containerEnv:NAME}` stands for one of
    /// them, `${containerEnv:NAME:else}` has a default.
    pub fn env_over(&self, image: &[String]) -> BTreeMap<String, String> {
        let of = |name: &str| image.iter().find_map(|pair| pair.split_once('=').filter(|(known, _)| *known == name));
        let resolved = |text: &String| {
            let mut out = String::new();
            let mut rest = text.as_str();
            while let Some((before, after)) = rest.split_once(CONTAINER_ENV) {
                let Some((inner, after)) = after.split_once('}') else { break };
                let (name, other) = inner.split_once(':').unwrap_or((inner, ""));
                out.push_str(before);
                out.push_str(of(name).map_or(other, |(_, value)| value));
                rest = after;
            }
            out + rest
        };
        self.env.iter().map(|(name, value)| (name.clone(), resolved(value))).collect()
    }
}

/// What a reference to one of the container's variables starts with; it ends with a brace.
pub(super) const CONTAINER_ENV: &str = "${containerEnv:";

/// A container beside the commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceDescription {
    /// Its host name.
    pub name: String,
    /// Further names that it is reached by.
    pub aliases: Vec<String>,
    /// Services that must be ready before it is started, by name.
    pub needs: Vec<String>,
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
    /// Folders on disk of its own, which are removed with it.
    pub volumes: Vec<String>,
    /// Files of the run's base commit that it gets.
    pub copies: Vec<Copied>,
    /// Who it runs as; the image's own user if not given.
    pub user: Option<String>,
    /// Where it starts; the image's own folder if not given.
    pub working_dir: Option<String>,
}

/// How long a service may take to become ready where nobody said it, in seconds.
pub const READY_WITHIN_S: u64 = 60;

impl ServiceDescription {
    /// A service that is its image and nothing more.
    pub fn new(name: impl Into<String>, origin: Origin) -> Self {
        Self {
            name: name.into(),
            aliases: Vec::new(),
            needs: Vec::new(),
            origin,
            env: BTreeMap::new(),
            entrypoint: None,
            command: None,
            ready: Ready::Image,
            ready_within_s: READY_WITHIN_S,
            tmpfs: BTreeMap::new(),
            volumes: Vec::new(),
            copies: Vec::new(),
            user: None,
            working_dir: None,
        }
    }

    /// What devo.yaml or a pipeline says of a service.
    ///
    /// # Errors
    /// [`SandboxError::Service`] for a command whose quotes do not match.
    pub fn configured(name: &str, service: &Service) -> Result<Self, SandboxError> {
        let command = service.command.as_ref().map(|text| {
            shlex::split(text).ok_or_else(|| SandboxError::Service {
                name: name.to_owned(),
                what: "cannot be started: the quotes of its `command` do not match".into(),
                log: String::new(),
                hint: format!("close the quote in: {text}"),
            })
        });
        let ready = service.ready.as_ref().map(|script| Ready::Command(shell(script)));
        Ok(Self {
            env: service.env.clone(),
            command: command.transpose()?,
            ready: ready.unwrap_or(Ready::Image),
            ready_within_s: service.ready_within_s.unwrap_or(READY_WITHIN_S),
            ..Self::new(name, Origin::Image(service.image.clone()))
        })
    }
}

/// A text as a command of the container's shell.
pub(super) fn shell(script: &str) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()]
}

/// A file or folder of the repository, and where a service finds its copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The path in the repository; `""` is all of it.
    pub from: String,
    /// The absolute path in the container.
    pub to: String,
}

/// What tells that a service is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// This command, run in the container until it succeeds.
    Command(Vec<String>),
    /// The image's own health check; without one, that it runs.
    Image,
    /// That it runs.
    Started,
    /// That it ended with success: a migration, a set-up.
    Completed,
}
