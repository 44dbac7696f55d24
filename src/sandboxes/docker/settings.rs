//! What the sandbox of a run is made from, and how that becomes the description of a container.
//!
//! Knows nothing of the daemon.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::super::SandboxError;
use super::compose::{self, Beside};
use super::description::{Build, Description, Origin};
use super::image::Source;
use super::{Unfit, devcontainer};
use crate::secrets::Masker;

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
    /// Parses YAML of the repository, given its path and content, into JSON; merge keys may stay.
    pub yaml: Yaml,
    /// The folder in which the output of services is left.
    pub logs: PathBuf,
    /// What must not be stored.
    pub masker: Masker,
    /// Whether the container's root can be written.
    pub writable: bool,
    /// Another runtime of the daemon (`runsc`).
    pub runtime: Option<String>,
    /// Processors' worth of time; all of them if not given.
    pub cpus: Option<f64>,
}

/// See [`Settings::yaml`].
pub type Yaml = Arc<dyn Fn(&str, &[u8]) -> Result<Value, String> + Send + Sync>;

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
    /// devo.yaml: a Dockerfile.
    Build(Build),
    /// The repository: a `devcontainer.json`, by its path.
    Devcontainer(String),
    /// The repository: a compose file, by its path, and the service that commands run in; its only one if not given.
    Compose(String, Option<String>),
}

impl Settings {
    /// What the container is made from. Reads the repository, and may block.
    pub(super) fn describe(&self) -> Result<Description, SandboxError> {
        let plain =
            |origin| Description { origin, env: BTreeMap::new(), user: None, services: Vec::new(), said: Vec::new() };
        let unreadable = |file: &str, why: String| SandboxError::Unavailable {
            what: format!("`{file}` cannot be read at the run's base commit: {why}"),
            hint: "check the path under `sandbox` in devo.yaml; what is not committed is not seen".into(),
        };
        let unfit = |wrong: Unfit| SandboxError::Unavailable {
            what: format!("the repository's container cannot be made as it says\n{wrong}"),
            hint: "mend the file on the base branch, or choose `image` or `dockerfile` under `sandbox` in devo.yaml"
                .into(),
        };
        match &self.described {
            Described::Image(name) => Ok(plain(Origin::Image(name.clone()))),
            Described::Build(build) => Ok(plain(Origin::Build(build.clone()))),
            Described::Devcontainer(file) => {
                let text = self.source.file(file).map_err(|why| unreadable(file, why))?;
                let text = String::from_utf8(text).map_err(|_| unreadable(file, "it is not UTF-8".to_owned()))?;
                devcontainer::read(&text, file, &*self.source, &*self.yaml).map_err(unfit)
            }
            Described::Compose(file, service) => {
                let bytes = self.source.file(file).map_err(|why| unreadable(file, why))?;
                let document = (self.yaml)(file, &bytes).map_err(|why| unreadable(file, why))?;
                compose::read(&document, file, service.as_deref(), Beside::Needed, &*self.source).map_err(unfit)
            }
        }
    }
}
