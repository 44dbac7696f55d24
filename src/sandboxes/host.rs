//! Commands on the host itself: no isolation, for those who asked for it in so many words.
//!
//! What it does give: an allow-listed environment, a private HOME, time, output and resource limits, and the death of
//! everything that a command started. Set-user-id programs (`sudo`) gain nothing in it. It cannot take the network away.

use std::path::PathBuf;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::job::{Job, Place};
use super::{
    Command, Finished, Network, OutputSink, Sandbox, SandboxError, Settings, passable, real_workspace, run, text,
    within,
};

/// Runs commands as ordinary processes of the engine's user.
#[derive(Debug)]
pub struct Host {
    settings: Settings,
    reason: String,
    home_parent: PathBuf,
}

impl Host {
    /// `reason` says who allowed it, in words that are shown on every run (`devo.yaml: sandbox.type is host`).
    pub fn explicitly(reason: &str, settings: &Settings) -> Self {
        Self { settings: settings.clone(), reason: reason.to_owned(), home_parent: std::env::temp_dir() }
    }
}

#[async_trait]
impl Sandbox for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn isolates(&self) -> bool {
        false
    }

    fn caveats(&self) -> Vec<String> {
        vec![format!("commands run on this machine without isolation ({})", self.reason)]
    }

    async fn probe(&self) -> Result<(), SandboxError> {
        let folder = tempfile::tempdir().map_err(|error| SandboxError::Setup { message: error.to_string() })?;
        let finished = self.exec(&Command::new("true", folder.path()), &(), &CancellationToken::new()).await?;
        match finished.exit.is_success() {
            true => Ok(()),
            false => Err(SandboxError::Unavailable {
                what: format!("`true` does not run on this machine: {:?}", finished.exit),
                hint: "check that /bin/sh works".into(),
            }),
        }
    }

    async fn exec(
        &self,
        command: &Command,
        output: &dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Finished, SandboxError> {
        if let Network::Domains(_) = command.network {
            return Err(SandboxError::Unavailable {
                what: "the `host` sandbox cannot keep an allow-list of domains: its commands reach the whole network"
                    .into(),
                hint: "use `sandbox: {type: bubblewrap}`, or take `network` away from the step or repository".into(),
            });
        }
        passable("the script", command.script.len(), &[&command.script])?;
        let workspace = real_workspace(command)?;
        let refuse = |why| SandboxError::Path { path: command.dir.clone(), why };
        let dir = command.workspace.join(within(&command.workspace, &command.dir)?);
        let dir = dir.canonicalize().map_err(|_| refuse("cannot be opened"))?;
        if !dir.starts_with(&workspace) {
            return Err(refuse("leads out of the workspace"));
        }
        if !dir.is_dir() {
            return Err(refuse("is not a folder"));
        }
        let job = Job {
            script: command.script.clone(),
            env: self.settings.environment(command)?,
            place: Place::Host { dir: text(&dir)?, home_parent: text(&self.home_parent)? },
            limits: command.limits,
            disk: text(&workspace)?,
        };
        run::run(&self.settings.supervisor, &job, command, command.read_only.clone(), output, cancel).await
    }
}
