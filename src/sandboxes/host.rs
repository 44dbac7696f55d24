//! `host`: no sandbox at all, by explicit choice. Commands run as the engine's user and see the machine; their environment,
//! their private HOME and their death are the same as anywhere else.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Command, Finished, Output, Sandbox, SandboxError, Toolchains, spawn};

/// Commands run on the machine itself.
pub struct Host {
    exe: PathBuf,
    tools: Toolchains,
    home: tempfile::TempDir,
}

impl Host {
    /// Whoever calls this has the user's explicit word for it. `exe` is this program.
    pub fn explicitly(exe: &Path, tools: Toolchains) -> Result<Self, SandboxError> {
        let home = tempfile::Builder::new().prefix("devo-home-").tempdir();
        let home = home.map_err(|error| SandboxError::Start(format!("no folder for HOME: {error}")))?;
        Ok(Self { exe: exe.to_owned(), tools, home })
    }
}

#[async_trait]
impl Sandbox for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    async fn exec(
        &self,
        command: &Command,
        output: &dyn Output,
        cancel: &CancellationToken,
    ) -> Result<Finished, SandboxError> {
        let mut env = command.env.clone();
        env.extend([
            ("PATH".to_owned(), self.tools.variable()),
            ("HOME".to_owned(), self.home.path().display().to_string()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ("TZ".to_owned(), "UTC".to_owned()),
        ]);
        let argv = ["sh", "-c", &command.script].map(Into::into).to_vec();
        let dir = command.workspace.join(&command.dir);
        spawn::run(&self.exe, argv, env, &dir, command, output, cancel).await
    }

    async fn probe(&self) -> Result<(), SandboxError> {
        Ok(())
    }
}
