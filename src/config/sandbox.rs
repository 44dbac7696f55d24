//! `sandbox:`: where commands run and what they may use.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// Where commands run.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// `bubblewrap`, `docker`, or `host` for none at all.
    #[serde(default, rename = "type")]
    pub kind: SandboxType,
    /// More folders that commands may read, with `bubblewrap`.
    #[serde(default)]
    pub read: Vec<PathBuf>,
    /// docker: the image of the container, pulled if it is not there. One of `image`, `dockerfile`, `devcontainer` and
    /// `compose` says what the container is.
    #[serde(default)]
    pub image: Option<String>,
    /// docker: a Dockerfile of the repository, as it is at the run's base commit.
    #[serde(default)]
    pub dockerfile: Option<String>,
    /// docker: the folder of the repository that `dockerfile` is built from; all of it if not given.
    #[serde(default)]
    pub context: Option<String>,
    /// docker: a `devcontainer.json` of the repository.
    #[serde(default)]
    pub devcontainer: Option<String>,
    /// docker: a compose file of the repository.
    #[serde(default)]
    pub compose: Option<String>,
    /// docker: the service of the `compose` file that commands run in; the others that it depends on run beside it.
    #[serde(default)]
    pub service: Option<String>,
    /// docker: whether commands may write outside of the workspace, HOME and /tmp, where their user may.
    #[serde(default)]
    pub writable: bool,
    /// docker: another runtime that the daemon knows, like `runsc`.
    #[serde(default)]
    pub runtime: Option<String>,
    /// What one command may use.
    #[serde(default)]
    pub limits: SandboxLimits,
}

/// What one command may use; what is not given has a default that suits the tests of a large project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxLimits {
    /// Memory of all its processes, in MiB; 4096 if not given.
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// docker: processors' worth of time, like `1.5`; all of them if not given.
    #[serde(default)]
    pub cpus: Option<f64>,
    /// Processes and threads at once; 512 if not given.
    #[serde(default)]
    pub pids: Option<u64>,
    /// It ends when the disk of the workspace has less room than this, in MiB; 200 if not given.
    #[serde(default)]
    pub disk_free_mib: Option<u64>,
}

/// A sandbox's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxType {
    /// An unprivileged container per command.
    #[default]
    Bubblewrap,
    /// No sandbox: commands run as the engine's user.
    Host,
    /// A container per workspace, kept warm, by a docker daemon on this machine.
    Docker,
}

impl SandboxType {
    /// Its name in devo.yaml.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bubblewrap => "bubblewrap",
            Self::Host => "host",
            Self::Docker => "docker",
        }
    }
}

/// Less than this and not even a shell starts in a container.
const MEMORY_MIN_MIB: u64 = 16;
/// More than any machine has; a longer number is a mistake.
const LIMIT_MAX: u64 = 1 << 32;

impl Sandbox {
    /// The four keys that say what a container is, with their values.
    fn sources(&self) -> [(&'static str, Option<&String>); 4] {
        [
            ("image", self.image.as_ref()),
            ("dockerfile", self.dockerfile.as_ref()),
            ("devcontainer", self.devcontainer.as_ref()),
            ("compose", self.compose.as_ref()),
        ]
    }

    /// What the schema cannot say: where, what, and what to do.
    pub(super) fn mistakes(&self) -> Vec<(String, String, &'static str)> {
        let mut wrong = Vec::new();
        let given: Vec<&str> =
            self.sources().iter().filter(|(_, value)| value.is_some()).map(|(key, _)| *key).collect();
        let more = [("context", self.context.is_some()), ("service", self.service.is_some())];
        let more = more.into_iter().chain([("writable", self.writable), ("runtime", self.runtime.is_some())]);
        match (self.kind, given.as_slice()) {
            (SandboxType::Docker, [_]) => {}
            (SandboxType::Docker, []) => wrong.push((
                "/type".to_owned(),
                "nothing says which container docker shall make".to_owned(),
                "add one of `image: NAME`, `dockerfile: PATH`, `devcontainer: PATH`, `compose: PATH`",
            )),
            (SandboxType::Docker, [first, others @ ..]) => wrong.extend(others.iter().map(|other| {
                (
                    format!("/{other}"),
                    format!("`{first}` and `{other}` both say what the container is"),
                    "keep one of them",
                )
            })),
            (other, _) => {
                let docker_only = more.clone().filter(|(_, given)| *given).map(|(key, _)| key);
                let limits = self.limits.cpus.map(|_| "limits/cpus");
                wrong.extend(given.iter().copied().chain(docker_only).chain(limits).map(|key| {
                    let message =
                        format!("`{}` is for the docker sandbox, and this is {}", key.replace('/', "."), other.name());
                    (format!("/{key}"), message, "set `type: docker`, or leave it out")
                }));
            }
        }
        if self.kind == SandboxType::Docker {
            for (key, needed, there) in
                [("context", "dockerfile", self.dockerfile.is_some()), ("service", "compose", self.compose.is_some())]
            {
                if !there && more.clone().any(|(known, given)| known == key && given) {
                    wrong.push((format!("/{key}"), format!("`{key}` goes with `{needed}`"), "leave it out"));
                }
            }
            for (key, value) in self.sources().into_iter().chain([("context", self.context.as_ref())]) {
                let Some(value) = value else { continue };
                let bad = if key == "image" { value.trim().is_empty() } else { !is_repo_path(value) };
                if bad {
                    let help = "use a path in the repository, without `..`; for `image` a name like `rust:1.95`";
                    wrong.push((format!("/{key}"), format!("`{}` cannot be a {key}", value.escape_debug()), help));
                }
            }
        }
        let limits = self.limits;
        for (key, value, least) in [
            ("memory_mib", limits.memory_mib, MEMORY_MIN_MIB),
            ("pids", limits.pids, 1),
            ("disk_free_mib", limits.disk_free_mib, 0),
        ] {
            if value.is_some_and(|value| !(least..=LIMIT_MAX).contains(&value)) {
                let message = format!("`{key}` must be {least} to {LIMIT_MAX}");
                wrong.push((format!("/limits/{key}"), message, "choose a larger number, or leave it out"));
            }
        }
        if limits.cpus.is_some_and(|cpus| !(0.01..=100_000.0).contains(&cpus)) {
            let message = "`cpus` must be 0.01 or more".to_owned();
            wrong.push(("/limits/cpus".to_owned(), message, "like `1.5`; leave it out for all of them"));
        }
        wrong
    }
}

/// Whether a text is a path that stays in a repository.
fn is_repo_path(text: &str) -> bool {
    use std::path::{Component, Path};
    let inside = |component| matches!(component, Component::Normal(_) | Component::CurDir);
    !text.trim().is_empty() && !text.contains('\0') && Path::new(text).components().all(inside)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, FILE};

    #[test]
    fn a_container_is_described_once_and_only_for_docker() {
        let found = |sandbox: &str| {
            let wrong = Config::read(FILE, format!("sandbox: {sandbox}\n").as_bytes()).err().unwrap_or_default();
            wrong.iter().map(|fault| fault.message.clone()).collect::<Vec<_>>().join("; ")
        };
        for good in [
            "{type: docker, image: \"rust:1.95\"}",
            "{type: docker, dockerfile: docker/Dockerfile, context: ., writable: true, runtime: runsc}",
            "{type: docker, devcontainer: .devcontainer/devcontainer.json}",
            "{type: docker, compose: compose.yaml, service: app, limits: {cpus: 1.5, memory_mib: 512, pids: 64}}",
            "{type: bubblewrap, limits: {memory_mib: 512, pids: 64, disk_free_mib: 0}}",
        ] {
            assert_eq!(found(good), "", "{good}");
        }
        for (bad, wanted) in [
            ("{type: docker}", "nothing says which container"),
            ("{type: docker, image: a, compose: b}", "`image` and `compose` both"),
            ("{image: a}", "`image` is for the docker sandbox, and this is bubblewrap"),
            ("{type: host, limits: {cpus: 1}}", "`limits.cpus` is for the docker sandbox"),
            ("{type: docker, image: a, context: b}", "`context` goes with `dockerfile`"),
            ("{type: docker, image: a, service: b}", "`service` goes with `compose`"),
            ("{type: docker, dockerfile: ../Dockerfile}", "cannot be a dockerfile"),
            ("{type: docker, compose: /etc/compose.yaml}", "cannot be a compose"),
            ("{type: docker, image: \" \"}", "cannot be a image"),
            ("{type: docker, image: a, limits: {memory_mib: 1}}", "`memory_mib` must be"),
            ("{type: docker, image: a, limits: {cpus: -1}}", "`cpus` must be"),
            ("{type: docker, image: a, limits: {pids: -1}}", "pids"),
            ("{type: docker, imag: a}", "has no key `imag`"),
        ] {
            assert!(found(bad).contains(wanted), "{bad}: {}", found(bad));
        }
        let wrong = Config::read(
            FILE,
            b"repos:\n  a:\n    url: x\n    sandbox:\n      type: docker\n      image: a\n      compose: b\n",
        );
        assert_eq!(wrong.unwrap_err()[0].line, 7);
    }
}
