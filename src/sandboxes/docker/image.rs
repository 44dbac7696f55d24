//! Images: found, pulled or built, with their progress told. Knows nothing of containers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::super::{OutputSink, SandboxError};
use super::build;
use super::daemon::{self, explain, status};
use super::description::Origin;

/// A file of the run's base commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Relative to the folder that was asked for, with `/`.
    pub path: String,
    /// Its content; the target's text of a link.
    pub content: Vec<u8>,
    /// Whether it is executable.
    pub executable: bool,
    /// Whether it is a symbolic link.
    pub link: bool,
}

/// The files of a run's base commit: what a person approved, not what a command has written since.
pub trait Source: Send + Sync {
    /// Every file below a folder (`""` is the repository's root).
    ///
    /// # Errors
    /// A fragment that says why they cannot be read.
    fn files(&self, folder: &str) -> Result<Vec<SourceFile>, String>;

    /// One file.
    ///
    /// # Errors
    /// A fragment that says why it cannot be read.
    fn file(&self, path: &str) -> Result<Vec<u8>, String>;
}

/// How often the progress of a pull is told.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// Makes sure that an image is there; gives its id. Cancelled or dropped, it stops a pull or a build.
///
/// # Errors
/// [`SandboxError::Unavailable`], with the remedy.
pub async fn ensure(
    docker: &Docker,
    origin: &Origin,
    source: &dyn Source,
    progress: &dyn OutputSink,
    cancel: &CancellationToken,
) -> Result<String, SandboxError> {
    tokio::select! {
        made = made(docker, origin, source, progress) => made,
        () = cancel.cancelled() => Err(SandboxError::Setup { message: "it was cancelled before it had an image".into() }),
    }
}

async fn made(
    docker: &Docker,
    origin: &Origin,
    source: &dyn Source,
    progress: &dyn OutputSink,
) -> Result<String, SandboxError> {
    match origin {
        Origin::Image(name) => {
            if let Some(id) = find(docker, name).await? {
                return Ok(id);
            }
            pull(docker, name, progress).await?;
            find(docker, name).await?.ok_or_else(|| missing(name, "it was pulled and is not there"))
        }
        Origin::Build(build) => build::ensure(docker, build, source, progress).await,
    }
}

/// The variables that an image gives to what runs in it, `NAME=value` each.
pub(super) async fn variables(docker: &Docker, image: &str) -> Result<Vec<String>, SandboxError> {
    let found = docker.inspect_image(image).await.map_err(|error| explain("the image cannot be read", &error))?;
    Ok(found.config.and_then(|config| config.env).unwrap_or_default())
}

/// The id of an image that the daemon has.
pub(super) async fn find(docker: &Docker, name: &str) -> Result<Option<String>, SandboxError> {
    match docker.inspect_image(name).await {
        Ok(found) => Ok(Some(found.id.unwrap_or_else(|| name.to_owned()))),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(explain(&format!("the image `{name}` cannot be looked up"), &error)),
    }
}

fn missing(name: &str, why: &str) -> SandboxError {
    let hint = match why.to_lowercase() {
        why if why.contains("denied") || why.contains("unauthorized") || why.contains("authentication") => {
            format!("check the name; for a private image: docker login, then docker pull {name}")
        }
        why if why.contains("manifest") || why.contains("not found") => {
            format!("check the name and the tag in devo.yaml; docker pull {name} says more")
        }
        why if why.contains("invalid reference") => "write NAME, NAME:TAG or NAME@DIGEST, in lower case".to_owned(),
        _ => format!("with the network up: docker pull {name}; without one: docker load < FILE.tar"),
    };
    SandboxError::Unavailable { what: format!("the image `{name}` is not there and cannot be pulled: {why}"), hint }
}

/// The name as the daemon wants it: without a tag it would pull every one.
fn with_tag(name: &str) -> String {
    match name.rsplit('/').next().unwrap_or(name).contains([':', '@']) {
        true => name.to_owned(),
        false => format!("{name}:latest"),
    }
}

async fn pull(docker: &Docker, name: &str, progress: &dyn OutputSink) -> Result<(), SandboxError> {
    progress.note(&format!("pulling the image `{name}`"));
    let options = CreateImageOptionsBuilder::default().from_image(&with_tag(name)).build();
    let mut said = docker.create_image(Some(options), None, None);
    let (start, mut told) = (Instant::now(), Instant::now());
    let mut layers = Layers::default();
    while let Some(step) = said.next().await {
        let step = step.map_err(|error| missing(name, &daemon::said(&error)))?;
        layers.take(step);
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            progress.note(&format!("pulling the image `{name}`: {layers}"));
        }
    }
    progress.note(&format!("pulled the image `{name}` in {} s", start.elapsed().as_secs()));
    Ok(())
}

/// How far a pull has come.
#[derive(Debug, Default)]
struct Layers(BTreeMap<String, Layer>);

#[derive(Debug, Default)]
struct Layer {
    loaded: i64,
    total: i64,
    done: bool,
}

impl Layers {
    fn take(&mut self, step: CreateImageInfo) {
        let Some(id) = step.id else { return };
        let status = step.status.unwrap_or_default();
        if status.starts_with("Pulling from") {
            return;
        }
        let layer = self.0.entry(id).or_default();
        layer.done = status == "Pull complete" || status == "Already exists";
        if let Some(detail) = step.progress_detail.filter(|_| status == "Downloading") {
            (layer.loaded, layer.total) = (detail.current.unwrap_or(0), detail.total.unwrap_or(0));
        }
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = self.0.values().filter(|layer| layer.done).count();
        let loaded: i64 = self.0.values().map(|layer| layer.loaded).sum();
        let total: i64 = self.0.values().map(|layer| layer.total).sum();
        let mib = |bytes: i64| bytes / (1 << 20);
        write!(f, "{done} of {} layers, {} of {} MiB", self.0.len(), mib(loaded), mib(total))
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn one_tag_is_pulled_and_not_all() {
        for (name, wanted) in [
            ("rust", "rust:latest"),
            ("rust:1.95", "rust:1.95"),
            ("host:5000/rust", "host:5000/rust:latest"),
            ("host:5000/rust@sha256:00", "host:5000/rust@sha256:00"),
        ] {
            assert_eq!(with_tag(name), wanted);
        }
    }

    #[test]
    fn progress_counts_layers_and_bytes() {
        let mut layers = Layers::default();
        let step = |id: &str, status: &str, current, total| CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(ProgressDetail { current, total }),
            ..CreateImageInfo::default()
        };
        layers.take(step("latest", "Pulling from library/rust", None, None));
        layers.take(step("a", "Downloading", Some(3 << 20), Some(10 << 20)));
        layers.take(step("b", "Already exists", None, None));
        assert_eq!(layers.to_string(), "1 of 2 layers, 3 of 10 MiB");
        layers.take(step("a", "Extracting", Some(1), Some(2)));
        layers.take(step("a", "Pull complete", None, None));
        assert_eq!(layers.to_string(), "2 of 2 layers, 3 of 10 MiB");
    }
}
