//! Where the commands of a run execute: the extension point, its words, and the list.
//!
//! A [`Sandbox`] runs one shell command in a workspace and answers how it ended. What holds for all of them: the
//! environment is an allow-list, output is bounded, and when the command ends (by itself, by its time limit, by a
//! cancellation, or because the engine was killed) every process it started is dead, `setsid` and double forks
//! included. The conformance suite in `tests/sandboxes.rs` holds each sandbox to that.
//!
//! Unknown here: steps, runs, configuration files, git, and which paths are worth protecting.

mod bubblewrap;
mod capture;
mod cgroup;
pub mod docker;
pub mod forward;
mod handover;
mod host;
mod inner;
mod job;
mod landlock;
mod leftovers;
mod protected;
pub mod proxy;
mod run;
mod seccomp;
mod supervisor;
mod tap;
mod toolchains;
mod tree;
mod wicket;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::core::domain::Domain;
use crate::core::service::Services;

pub use bubblewrap::Bubblewrap;
pub use capture::Captured;
pub use docker::Docker;
pub use host::Host;
pub use inner::{INNER_WORD, enter};
pub use leftovers::leftovers;
pub use run::Supervisor;
pub use supervisor::{SUPERVISOR_WORD, supervise};
pub use toolchains::{Surroundings, Toolchains};

/// A place where commands run. Cheap to share; whatever it keeps warm belongs to one run.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Its word in configuration: `host`, `bubblewrap`, `docker`.
    fn name(&self) -> &'static str;

    /// Whether the host's files, network and processes are out of a command's reach.
    fn isolates(&self) -> bool;

    /// What a person must be told wherever this sandbox is used; empty when there is nothing.
    fn caveats(&self) -> Vec<String>;

    /// Runs a trivial command for real, so that a missing or blocked sandbox is known before work starts.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`], with the remedy.
    async fn probe(&self) -> Result<(), SandboxError>;

    /// Runs one command to its end. Dropping the future kills the command as a cancellation does.
    ///
    /// # Errors
    /// Only when the command could not be run or watched; a command that fails is a [`Finished`].
    async fn exec(
        &self,
        command: &Command,
        output: &dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Finished, SandboxError>;

    /// Ends what was kept for the commands of a scope ([`Command::scope`]): its services and their network.
    async fn release(&self, scope: &str) {
        let _ = scope;
    }

    /// Ends everything that was kept warm for the run. Called once, when nobody will run a command any more; what a
    /// killed engine leaves is swept at the next start.
    async fn close(&self) {}
}

/// One command of a run.
#[derive(Debug, Clone)]
pub struct Command {
    /// Text for `sh -c`.
    pub script: String,
    /// Where it starts: the workspace, or a folder in it (absolute, or relative to the workspace).
    pub dir: PathBuf,
    /// The run's folder, the only host folder that is writable. An isolating sandbox shows it as [`WORKSPACE`].
    pub workspace: PathBuf,
    /// Paths in the workspace that the command must not change. See [`Finished::unprotected`].
    pub read_only: Vec<PathBuf>,
    /// Variables beside PATH, HOME, LANG and TZ; an entry of those names replaces the sandbox's own.
    pub env: Vec<(String, String)>,
    /// Longest wall time, measured by a monotonic clock; `None` is no limit.
    pub timeout: Option<Duration>,
    /// What the command may reach.
    pub network: Network,
    /// Services that must be ready before it starts, reachable by their names.
    pub services: Arc<Services>,
    /// Commands of one scope (a step's attempt) share their services; see [`Sandbox::release`].
    pub scope: String,
    /// What it may use.
    pub limits: Limits,
}

impl Command {
    /// A command in the workspace's top folder with nothing granted and the default limits.
    pub fn new(script: impl Into<String>, workspace: impl Into<PathBuf>) -> Self {
        let workspace = workspace.into();
        Self {
            script: script.into(),
            dir: workspace.clone(),
            workspace,
            read_only: Vec::new(),
            env: Vec::new(),
            timeout: None,
            network: Network::None,
            services: Arc::default(),
            scope: String::new(),
            limits: Limits::default(),
        }
    }
}

/// Where an isolating sandbox shows the workspace, so that paths in outputs and in recorded requests never vary.
pub const WORKSPACE: &str = "/workspace";

/// What a command may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Nothing but its own loopback, where the sandbox isolates.
    None,
    /// These domains, through a proxy of ours; each refusal is told by [`OutputSink::note`].
    Domains(Arc<[Domain]>),
    /// The host's network as it is, the host's loopback included, and where Linux is older than 6.12 its abstract sockets.
    Full,
}

/// What one command may use. Memory and processes are held by a control group where one can be made, else by looking
/// four times a second; `bubblewrap` as a normal user also has a hard limit on processes. Address space is not
/// limited: runtimes reserve far more than they use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of each stream that are kept: the first fifth and the last four fifths.
    pub output_bytes: usize,
    /// Bytes of each stream that reach the [`OutputSink`].
    pub live_bytes: u64,
    /// Bytes of memory of all its processes together.
    pub memory_bytes: u64,
    /// Processes and threads alive at once.
    pub pids: u64,
    /// Bytes of the largest file it may write.
    pub file_bytes: u64,
    /// Bytes of its private HOME, and again of its private /tmp, where the sandbox isolates.
    pub scratch_bytes: u64,
    /// Open files per process.
    pub open_files: u64,
    /// The command ends when the workspace's file system has fewer bytes free than this.
    pub disk_free_bytes: u64,
}

const MIB: u64 = 1 << 20;

impl Default for Limits {
    /// Generous for a test suite of a large project, tight enough that a few runs share a small machine.
    fn default() -> Self {
        Self {
            output_bytes: 4 << 20,
            live_bytes: 8 * MIB,
            memory_bytes: 4096 * MIB,
            pids: 512,
            file_bytes: 4096 * MIB,
            scratch_bytes: 1024 * MIB,
            open_files: 4096,
            disk_free_bytes: 200 * MIB,
        }
    }
}

/// One of the two streams of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Receives output as it is printed. Called from the task that runs the command: it must not block for long.
pub trait OutputSink: Send + Sync {
    /// Some bytes, cut anywhere.
    fn chunk(&self, stream: Stream, bytes: &[u8]);

    /// The stream went over [`Limits::live_bytes`]: nothing more of it will come. Called once.
    fn cut(&self, stream: Stream) {
        let _ = stream;
    }

    /// A sentence of the sandbox's own: the progress of a pull or a build, a refused connection.
    fn note(&self, text: &str) {
        let _ = text;
    }
}

/// A sink for those who only want the end.
impl OutputSink for () {
    fn chunk(&self, _: Stream, _: &[u8]) {}
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal killed it. A code of 128 plus a deadly signal is told as the signal: shells and sandboxes report
    /// a killed command so, and nobody can tell the two apart.
    Signal(i32),
    /// Its time limit; everything it started was killed.
    TimedOut,
    /// The caller's wish; everything it started was killed.
    Cancelled,
}

impl Exit {
    /// The code as a shell would give it; `None` for a time limit and a cancellation.
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(signal) => Some(128 + signal),
            Self::TimedOut | Self::Cancelled => None,
        }
    }

    /// Whether the command returned 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    /// A shell's code as an exit: 128 plus a signal whose default is to kill is that signal.
    fn from_code(code: i32) -> Self {
        const HARMLESS: [i32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];
        match code - 128 {
            signal @ 1..=31 if !HARMLESS.contains(&signal) => Self::Signal(signal),
            _ => Self::Code(code),
        }
    }
}

/// A limit that a command ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitHit {
    /// [`Limits::memory_bytes`]
    Memory,
    /// [`Limits::pids`]
    Pids,
    /// [`Limits::file_bytes`]
    FileSize,
    /// [`Limits::disk_free_bytes`]
    Disk,
}

/// What became of a command.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// What it printed.
    pub stdout: Captured,
    /// What it complained of.
    pub stderr: Captured,
    /// Wall time, the sandbox's own start included.
    pub duration: Duration,
    /// The limits that it ran into, as far as they can be seen from outside.
    pub limits_hit: Vec<LimitHit>,
    /// The paths of [`Command::read_only`], as given, that could not be protected: all of them where the sandbox does
    /// not isolate, else those that did not exist, lie behind a link, or were too many. Who asked for the protection
    /// compares them before and after.
    pub unprotected: Vec<PathBuf>,
}

/// Why a command could not be run or watched.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The sandbox is missing or blocked on this machine.
    #[error("{what}")]
    Unavailable {
        /// What is missing, or what refused.
        what: String,
        /// What mends it.
        hint: String,
    },
    /// `host` was asked for without the explicit permission that it needs.
    #[error("the `host` sandbox runs commands without isolation and was not explicitly allowed")]
    HostNotAllowed,
    /// The configuration names a sandbox that does not exist.
    #[error("there is no sandbox `{given}`")]
    Unknown {
        /// The word in the configuration.
        given: String,
    },
    /// A path leaves the workspace or cannot be used.
    #[error("`{}` {why}", path.display())]
    Path {
        /// As it was given.
        path: PathBuf,
        /// A fragment that completes the sentence.
        why: &'static str,
    },
    /// The script or a variable cannot be passed to a program.
    #[error("{what} {why}")]
    Unpassable {
        /// The script, or the variable's name.
        what: String,
        /// A fragment that completes the sentence.
        why: &'static str,
    },
    /// The sandbox could not be set up for this command, which did not run.
    #[error("the sandbox could not be set up: {message}")]
    Setup {
        /// What the sandbox said.
        message: String,
    },
    /// The container that a command ran in is gone, or its end could not be confirmed.
    #[error("the command's container {what}")]
    Container {
        /// A fragment that completes the sentence.
        what: String,
        /// Whether it is certain that nothing in it lives: only then may the command be run again.
        gone: bool,
    },
    /// A service that the command needs did not come up; the command did not run.
    #[error("the service `{name}` {what}{}", tail(log))]
    Service {
        /// Its name.
        name: String,
        /// A fragment that completes the sentence.
        what: String,
        /// The last lines that it printed; may be empty.
        log: String,
        /// What mends it.
        hint: String,
    },
    /// The process that watches the command could not be started, or is gone.
    #[error("the command's supervisor {what}")]
    Supervisor {
        /// A fragment that completes the sentence.
        what: String,
        /// The system's reason, if there is one.
        #[source]
        source: Option<std::io::Error>,
    },
}

fn tail(log: &str) -> String {
    if log.is_empty() { "; it printed nothing".to_owned() } else { format!("; its log ends with:\n{log}") }
}

impl SandboxError {
    /// What to do next, where a person can do something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unavailable { hint, .. } | Self::Service { hint, .. } => Some(hint.clone()),
            Self::HostNotAllowed => {
                Some("set `sandbox: {type: bubblewrap}`, or `sandbox: {type: host}` in devo.yaml to accept that".into())
            }
            Self::Unknown { .. } => Some("known are: bubblewrap, docker, host".into()),
            Self::Setup { .. } => Some("run `devo doctor`: it tries the sandbox and names what is missing".into()),
            Self::Container { .. } => Some("run the step again: the next command gets a new container".into()),
            Self::Path { .. } | Self::Unpassable { .. } | Self::Supervisor { .. } => None,
        }
    }
}

/// The sandboxes that configuration can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxKind {
    /// Linux namespaces by `bwrap`.
    Bubblewrap,
    /// No isolation.
    Host,
    /// A container kept warm, by Docker's API.
    Docker,
}

impl std::str::FromStr for SandboxKind {
    type Err = SandboxError;

    fn from_str(word: &str) -> Result<Self, SandboxError> {
        match word {
            "bubblewrap" => Ok(Self::Bubblewrap),
            "host" => Ok(Self::Host),
            "docker" => Ok(Self::Docker),
            _ => Err(SandboxError::Unknown { given: word.to_owned() }),
        }
    }
}

/// What the sandboxes are made from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program that watches commands.
    pub supervisor: Supervisor,
    /// The tools that commands find.
    pub toolchains: Arc<Toolchains>,
    /// Further host folders that commands may read (`sandbox.read`).
    pub read: Vec<PathBuf>,
    /// Host paths that stay out of sight even where a bound folder holds them: the home with journal and keys, and files of
    /// secrets elsewhere.
    pub hide: Vec<PathBuf>,
    /// Who allowed `host`, in words that are shown; `None` refuses it.
    pub host_allowed: Option<String>,
    /// LANG of every command.
    pub lang: String,
    /// TZ of every command, where the engine has one.
    pub tz: Option<String>,
    /// What `docker` needs beside all this; `None` refuses it.
    pub docker: Option<docker::Settings>,
}

impl Settings {
    /// Nothing shared, nothing hidden, `host` refused; tools, language and time zone as found.
    pub fn new(supervisor: Supervisor, surroundings: &Surroundings) -> Self {
        Self {
            supervisor,
            toolchains: Arc::new(Toolchains::discover(surroundings)),
            read: Vec::new(),
            hide: Vec::new(),
            host_allowed: None,
            lang: surroundings.lang.clone().unwrap_or_else(|| "C.UTF-8".to_owned()),
            tz: surroundings.tz.clone(),
            docker: None,
        }
    }

    /// All that a command's environment holds; what the command brings wins. HOME is the sandbox's own affair.
    fn environment(&self, command: &Command) -> Result<Vec<(String, String)>, SandboxError> {
        let path: Result<Vec<_>, _> = self.toolchains.path.iter().map(|folder| text(folder)).collect();
        let mut variables =
            BTreeMap::from([("PATH".to_owned(), path?.join(":")), ("LANG".to_owned(), self.lang.clone())]);
        variables.extend(self.tz.iter().map(|tz| ("TZ".to_owned(), tz.clone())));
        variables.extend(checked(command)?);
        Ok(variables.into_iter().collect())
    }
}

/// The command's own variables, if they can be passed to a program.
fn checked(command: &Command) -> Result<Vec<(String, String)>, SandboxError> {
    for (name, value) in &command.env {
        passable(&format!("the variable `{}`", name.escape_debug()), name.len() + 1 + value.len(), &[name, value])?;
        if name.is_empty() || name.contains('=') {
            let what = format!("the variable `{}`", name.escape_debug());
            return Err(SandboxError::Unpassable { what, why: "has a name that is empty or holds `=`" });
        }
    }
    Ok(command.env.clone())
}

/// Refuses what `execve` would refuse later, with words that name it.
fn passable(what: &str, len: usize, parts: &[&str]) -> Result<(), SandboxError> {
    /// The kernel's limit for one argument or variable, its closing zero included.
    const LONGEST: usize = 128 << 10;
    let refuse = |why| Err(SandboxError::Unpassable { what: what.to_owned(), why });
    match () {
        () if parts.iter().any(|part| part.contains('\0')) => refuse("holds a zero byte"),
        () if len >= LONGEST => refuse("is longer than the 128 KiB that a program can be given"),
        () => Ok(()),
    }
}

/// Makes the sandbox of that kind. It is not tried: see [`Sandbox::probe`].
///
/// # Errors
/// [`SandboxError::Unavailable`] or [`SandboxError::HostNotAllowed`]; never another sandbox instead.
pub fn open(kind: SandboxKind, settings: &Settings) -> Result<Arc<dyn Sandbox>, SandboxError> {
    match kind {
        SandboxKind::Bubblewrap => Ok(Arc::new(Bubblewrap::find(settings)?)),
        SandboxKind::Host => match &settings.host_allowed {
            Some(reason) => Ok(Arc::new(Host::explicitly(reason, settings))),
            None => Err(SandboxError::HostNotAllowed),
        },
        SandboxKind::Docker => match &settings.docker {
            Some(docker) => Ok(Arc::new(docker::Docker::new(settings, docker))),
            None => Err(SandboxError::Unavailable {
                what: "the `docker` sandbox is not configured: nothing says which image to use".into(),
                hint: "set `sandbox: {type: docker, image: NAME}` in devo.yaml".into(),
            }),
        },
    }
}

/// The path relative to the workspace. Purely by name: links are the business of whoever follows them.
fn within(workspace: &Path, path: &Path) -> Result<PathBuf, SandboxError> {
    let refuse = |why| SandboxError::Path { path: path.to_owned(), why };
    let relative = match path.strip_prefix(workspace) {
        Ok(relative) => relative,
        Err(_) if path.is_absolute() => return Err(refuse("is outside the workspace")),
        Err(_) => path,
    };
    let mut clean = PathBuf::new();
    for component in relative.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(refuse("is outside the workspace")),
        }
    }
    Ok(clean)
}

/// The path as text: what is handed to another program as options or JSON must be UTF-8.
fn text(path: &Path) -> Result<String, SandboxError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| SandboxError::Path { path: path.to_owned(), why: "is not valid UTF-8" })
}

/// The workspace with its links resolved.
fn real_workspace(command: &Command) -> Result<PathBuf, SandboxError> {
    let refuse = |why| SandboxError::Path { path: command.workspace.clone(), why };
    if !command.workspace.is_absolute() {
        return Err(refuse("is not an absolute path"));
    }
    let real = command.workspace.canonicalize().map_err(|_| refuse("cannot be opened as a workspace"))?;
    match real.is_dir() {
        true if real.parent().is_some() => Ok(real),
        true => Err(refuse("cannot be a workspace")),
        false => Err(refuse("is not a folder")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_within_the_workspace() {
        let workspace = Path::new("/w/s");
        for (given, wanted) in
            [("/w/s", Some("")), ("/w/s/a/b", Some("a/b")), ("a/./b", Some("a/b")), (".", Some("")), ("", Some(""))]
        {
            assert_eq!(within(workspace, Path::new(given)).ok().as_deref(), wanted.map(Path::new), "{given}");
        }
        for given in ["/w/other", "/w/s2", "..", "a/../../b", "/", "/w/s/../x"] {
            assert!(within(workspace, Path::new(given)).is_err(), "{given}");
        }
    }

    #[test]
    fn a_shells_code_tells_the_signal() {
        for (code, wanted) in [
            (0, Exit::Code(0)),
            (127, Exit::Code(127)),
            (128, Exit::Code(128)),
            (137, Exit::Signal(9)),
            (145, Exit::Code(145)),
            (255, Exit::Code(255)),
        ] {
            assert_eq!(Exit::from_code(code), wanted);
            assert_eq!(Exit::from_code(code).code(), Some(code));
        }
    }

    #[test]
    fn nothing_is_a_fallback() {
        let settings = Settings::new(Supervisor::this_program(), &Surroundings::default());
        assert!(matches!(open(SandboxKind::Host, &settings), Err(SandboxError::HostNotAllowed)));
        let docker = open("docker".parse().expect("known word"), &settings).err().expect("it has no image");
        assert!(docker.to_string().contains("docker"), "{docker}");
        assert!("dockr".parse::<SandboxKind>().is_err());
    }

    #[test]
    fn the_environment_is_an_allow_list_that_the_command_extends() {
        let settings = Settings::new(Supervisor::this_program(), &Surroundings::default());
        let mut command = Command::new("true", "/w");
        command.env = vec![("LANG".into(), "de_DE.UTF-8".into()), ("A".into(), "1\n2".into())];
        let variables = settings.environment(&command).expect("all can be passed");
        let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["A", "LANG", "PATH"]);
        assert!(variables.contains(&("LANG".into(), "de_DE.UTF-8".into())));
        for (name, value) in [("A=B", "x".to_owned()), ("", "x".into()), ("A", "\0".into()), ("A", "x".repeat(1 << 17))]
        {
            command.env = vec![(name.into(), value)];
            assert!(settings.environment(&command).is_err(), "{name}");
        }
    }
}
