//! Sandboxes: where the commands of a run execute. They know commands, folders and limits; not runs, steps or git.
//!
//! A command is a shell text for `sh -c`. It sees what the caller's `env` gives and PATH, HOME (private), LANG and TZ. Every
//! process that it started is dead when [`Sandbox::exec`] returns, when the token fires, and when the engine dies.

mod bubblewrap;
mod capture;
mod host;
mod spawn;
pub mod supervisor;
mod toolchains;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::core::failure::Failure;

pub use bubblewrap::Bubblewrap;
pub use capture::Captured;
pub use host::Host;
pub use toolchains::Toolchains;

/// Where a sandboxed command sees the workspace, whatever its path on the host: outputs never differ by path.
pub const WORKSPACE: &str = "/workspace";

/// The names that configuration may use; those that do not exist yet are refused by name.
pub const KINDS: &[&str] = &["bubblewrap", "host", "docker"];

/// A command.
#[derive(Debug, Clone)]
pub struct Command {
    /// For `sh -c`.
    pub script: String,
    /// The folder that the command may write, on the host.
    pub workspace: PathBuf,
    /// Where it starts, relative to the workspace.
    pub dir: PathBuf,
    /// Paths inside the workspace that it may not change, relative; those that exist.
    pub read_only: Vec<PathBuf>,
    /// What it sees beside PATH, HOME, LANG and TZ.
    pub env: Vec<(String, String)>,
    /// Killed after this.
    pub timeout: Option<Duration>,
    /// Whether it may reach the network.
    pub network: bool,
    /// How much of each stream is kept, in bytes.
    pub keep: usize,
}

/// Which of a command's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Gets output as it comes, by lines; for people, never for decisions.
pub trait Output: Send + Sync {
    /// One line without its end, or a piece of a very long one.
    fn line(&self, stream: Stream, text: &str);
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself; 128 + n after signal n, as shells say it.
    Code(i32),
    /// At its time limit.
    TimedOut,
    /// Because the token fired.
    Cancelled,
}

/// A command that ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How.
    pub exit: Exit,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// How long it took.
    pub duration: Duration,
}

/// A place to run commands.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Its name in configuration.
    fn name(&self) -> &'static str;
    /// Runs a command to its end.
    async fn exec(
        &self,
        command: &Command,
        output: &dyn Output,
        cancel: &CancellationToken,
    ) -> Result<Finished, SandboxError>;
    /// Whether it works on this machine, found out by running something.
    async fn probe(&self) -> Result<(), SandboxError>;
}

/// Why a sandbox cannot run a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// It does not work on this machine.
    #[error("the {sandbox} sandbox does not work here: {why}")]
    Unavailable {
        /// Its name.
        sandbox: &'static str,
        /// What is missing.
        why: String,
        /// What mends it.
        remedy: String,
    },
    /// Configuration names one that does not exist.
    #[error("there is no sandbox `{0}`")]
    Unknown(String),
    /// The command could not be started.
    #[error("cannot start a command: {0}")]
    Start(String),
}

impl SandboxError {
    /// What a person can do.
    pub fn hint(&self) -> String {
        match self {
            Self::Unavailable { remedy, .. } => remedy.clone(),
            Self::Unknown(name) if name == "docker" => {
                "docker is not available in this version; use `sandbox: {type: bubblewrap}`".to_owned()
            }
            Self::Unknown(_) => "use `bubblewrap`, or `host` if nothing must be kept apart".to_owned(),
            Self::Start(_) => "see `devo doctor`".to_owned(),
        }
    }

    /// As a stored failure.
    pub fn to_failure(&self) -> Failure {
        Failure::terminal("sandbox", self.to_string()).hint(self.hint())
    }
}
