//! The daemon: reached, asked what it is, and its refusals put into words with their remedy.

use std::io;
use std::path::Path;

use bollard::Docker;
use bollard::errors::Error;

use super::super::SandboxError;
use crate::core::failure::chain;

/// The oldest API with everything that is used here; Docker 20.10 has it.
const OLDEST: (usize, usize) = (1, 41);
const SOCKET: &str = "unix:///var/run/docker.sock";

/// A daemon that answers.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    pub docker: Docker,
    /// Whether it runs as an ordinary user, who is root to its containers.
    pub rootless: bool,
}

/// Connects to the daemon of `DOCKER_HOST`, or to the usual one.
///
/// # Errors
/// [`SandboxError::Unavailable`], with the remedy.
pub(super) async fn connect() -> Result<Daemon, SandboxError> {
    let host = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()).unwrap_or_else(|| SOCKET.to_owned());
    let Some(socket) = host.strip_prefix("unix://") else {
        return Err(SandboxError::Unavailable {
            what: format!("DOCKER_HOST is `{host}`, and a daemon on another machine cannot see a run's files"),
            hint: "unset DOCKER_HOST, or point it at a socket of this machine: unix:///var/run/docker.sock".into(),
        });
    };
    // Looked at by hand first: the client says the same of a missing and of a forbidden socket.
    if let Err(error) = tokio::net::UnixStream::connect(socket).await {
        return Err(unreachable(Path::new(socket), &error));
    }
    let failed = |error: Error| explain("the docker daemon does not answer", &error);
    let docker = Docker::connect_with_host(&host).map_err(failed)?.negotiate_version().await.map_err(failed)?;
    let version = docker.client_version();
    if (version.major_version, version.minor_version) < OLDEST {
        return Err(SandboxError::Unavailable {
            what: format!(
                "the docker daemon is too old: it speaks API {}.{}, and {}.{} is needed",
                version.major_version, version.minor_version, OLDEST.0, OLDEST.1
            ),
            hint: "upgrade to Docker 20.10 or newer".into(),
        });
    }
    let info = docker.info().await.map_err(failed)?;
    if info.os_type.as_deref().is_some_and(|system| system != "linux") {
        return Err(SandboxError::Unavailable {
            what: "the docker daemon runs containers of another system than Linux".into(),
            hint: "switch it to Linux containers".into(),
        });
    }
    let rootless = info.security_options.unwrap_or_default().iter().any(|option| option.contains("name=rootless"));
    Ok(Daemon { docker, rootless })
}

fn unreachable(socket: &Path, error: &io::Error) -> SandboxError {
    let shown = socket.display();
    let (what, hint) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            format!("this user may not use the docker daemon at {shown}"),
            "sudo usermod -aG docker \"$USER\", then log in again (whoever is in that group is as good as root on this \
             machine), or `sandbox: {type: bubblewrap}` in devo.yaml",
        ),
        io::ErrorKind::NotFound => (
            format!("the docker daemon does not run: there is no {shown}"),
            "sudo systemctl start docker (and if it is not installed: apt install docker.io), or \
             `sandbox: {type: bubblewrap}` in devo.yaml",
        ),
        io::ErrorKind::ConnectionRefused => {
            (format!("the docker daemon does not run: nobody listens at {shown}"), "sudo systemctl start docker")
        }
        _ => (format!("the docker daemon cannot be reached at {shown}: {error}"), "sudo systemctl status docker"),
    };
    SandboxError::Unavailable { what, hint: hint.into() }
}

/// What the daemon said, without the client's own words around it.
pub(super) fn said(error: &Error) -> String {
    let text = match error {
        Error::DockerResponseServerError { message, .. } => message.clone(),
        Error::DockerStreamError { error } => error.clone(),
        Error::RequestTimeoutError => "it did not answer in time".to_owned(),
        other => chain(other),
    };
    text.trim().chars().take(2000).collect()
}

/// The status with which the daemon refused, if it did.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// An error of the daemon as one of the sandbox, with the remedy where there is a known one.
pub(super) fn explain(doing: &str, error: &Error) -> SandboxError {
    let text = said(error);
    let hint = match text.to_lowercase() {
        text if text.contains("bind source path does not exist") || text.contains("bind mount") => {
            "the daemon does not see this machine's files (a daemon in a virtual machine or in a container cannot be used)"
        }
        text if text.contains("no space left") => "make room where docker keeps its data: docker system df",
        text if text.contains("unknown runtime") || text.contains("unknown or invalid runtime") => {
            "install that runtime and name it in /etc/docker/daemon.json, or leave `sandbox.runtime` out of devo.yaml"
        }
        text if text.contains("nanocpus") || text.contains("range of cpus") => {
            "set `sandbox.limits.cpus` in devo.yaml to no more than this machine has"
        }
        _ => "sudo systemctl status docker, and `devo doctor`",
    };
    SandboxError::Unavailable { what: format!("{doing}: {text}"), hint: hint.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_remedy() {
        let hint = |kind: io::ErrorKind| unreachable(Path::new("/s"), &kind.into()).hint().unwrap_or_default();
        assert!(hint(io::ErrorKind::PermissionDenied).contains("usermod -aG docker"));
        assert!(hint(io::ErrorKind::PermissionDenied).contains("as good as root"));
        assert!(hint(io::ErrorKind::NotFound).contains("systemctl start docker"));
        assert!(hint(io::ErrorKind::ConnectionRefused).contains("systemctl start docker"));
        let message = "invalid mount config for type \"bind\": bind source path does not exist: /x".to_owned();
        let error = explain("x", &Error::DockerResponseServerError { status_code: 400, message });
        assert!(error.to_string().starts_with("x: invalid mount"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("does not see")));
    }
}
