//! Services that commands need beside them (a database, a queue): what devo.yaml and pipelines say of one.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A container that runs beside a step's commands, which reach it by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The image: `postgres:17`.
    pub image: String,
    /// Variables of the container.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What it runs: words for the image's entry point, as in `docker run IMAGE …`: `postgres -c fsync=off`. No shell
    /// reads them. The image's own command if not given.
    #[serde(default)]
    pub command: Option<String>,
    /// A command that succeeds in the container once it is ready: `pg_isready`. Without one, the image's own health
    /// check counts; without that, a started container is ready.
    #[serde(default)]
    pub ready: Option<String>,
    /// How long it may take to become ready, in seconds; 60 if not given.
    #[serde(default)]
    pub ready_within_s: Option<u64>,
}

/// Services by name. A name is a host name to the commands: letters, digits and `-`.
pub type Services = BTreeMap<String, Service>;

/// Whether a text can name a service.
pub fn is_service_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
