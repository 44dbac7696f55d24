//! The one place that starts the system's `git`: which environment, which options, for how long, and what its errors mean.
//!
//! Git gets no configuration but ours, no prompt, one transport, and no work tree. It runs in a process group of its own
//! that is killed when time is up, when the caller cancels, and when git itself has ended.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use secrecy::{ExposeSecret as _, SecretString};

use super::error::{Error, Result};
use super::meaning::{clean, meaning};
use super::remote::{Kind, Remote};

/// The oldest git that is used.
pub const MINIMUM_GIT: (u32, u32) = (2, 30);
/// Options from the environment, by which a token reaches git unseen, came with this one.
const TOKEN_GIT: (u32, u32) = (2, 31);
/// Of standard output; a listing of 100,000 branches is about 8 MB.
const OUTPUT_MAX: usize = 16 << 20;
/// Of standard error, from its end.
const ERRORS_MAX: usize = 64 << 10;
/// How often a waiting call asks whether it is cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// How long a caller waits, and how it stops waiting.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// The most that the whole call may take.
    pub timeout: Duration,
    /// Asked about 20 times a second; `true` stops the call.
    pub cancelled: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    /// Waits up to `timeout`, never cancelled.
    pub fn of(timeout: Duration) -> Self {
        Patience { timeout, cancelled: &|| false }
    }
}

/// What opens a remote; everything optional. Given to git alone, for one call.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// For https: sent as a password to the remote's own host, in a header that only git's environment holds.
    pub token: Option<SecretString>,
    /// Where the token was read from, for messages: the name of a variable.
    pub token_name: Option<String>,
    /// The user beside the token, where the address names none.
    pub user: Option<String>,
    /// The agent's socket (`SSH_AUTH_SOCK`).
    pub ssh_auth_sock: Option<PathBuf>,
    /// A private key's file; without it ssh looks in its usual places.
    pub ssh_key: Option<PathBuf>,
    /// A file of known host keys; without it ssh uses that of the user.
    pub known_hosts: Option<PathBuf>,
    /// A proxy for https, with its own credentials if it has some.
    pub https_proxy: Option<SecretString>,
    /// Hosts that are reached without the proxy, as in `no_proxy`.
    pub no_proxy: Option<String>,
}

impl Credentials {
    /// What is sent as `user:password` to an https remote; `None` without a token or a password in the address.
    pub fn login(&self, remote: &Remote) -> Option<SecretString> {
        let secret = self.token.as_ref().or(remote.password())?;
        // What forges ask for beside a token where nothing names a user; most take any name.
        let anyone = if remote.shown().contains("bitbucket") { "x-token-auth" } else { "x-access-token" };
        let user = self.user.as_deref().or(remote.user()).unwrap_or(anyone);
        Some(SecretString::from(format!("{user}:{}", secret.expose_secret())))
    }
}

/// A `git` that was found and is new enough.
#[derive(Debug, Clone)]
pub struct Git {
    program: PathBuf,
    version: (u32, u32),
    version_text: String,
    path: OsString,
    nowhere: PathBuf,
}

/// One call of git.
pub(super) struct Call<'a> {
    /// For errors: `fetch`, `push`, …
    pub what: &'static str,
    /// A bare git dir.
    pub git_dir: Option<&'a Path>,
    /// The remote that is spoken to.
    pub remote: &'a Remote,
    pub credentials: &'a Credentials,
    /// The verb and what follows.
    pub args: &'a [OsString],
    /// A lock file: handed to git as its standard input, so that the lock lasts as long as git, even past our death.
    pub hold: Option<&'a File>,
    pub patience: Patience<'a>,
}

/// What a call printed; `ok` is its exit status.
pub(super) struct Output {
    pub ok: bool,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Git {
    /// Finds git on `path` (the value of `PATH`; relative entries are skipped) and checks its version. `nowhere` is a
    /// folder that is made, stays empty, and is git's home and current folder.
    pub fn find(path: &OsStr, nowhere: &Path) -> Result<Self> {
        let folders: Vec<PathBuf> = std::env::split_paths(path).filter(|folder| folder.is_absolute()).collect();
        let program = folders.iter().map(|folder| folder.join("git")).find(|git| is_executable(git));
        let program = program.ok_or(Error::GitMissing)?;
        let path = std::env::join_paths(&folders).map_err(|_| Error::GitMissing)?;
        make_private(nowhere)?;
        let mut git = Self { program, version: (0, 0), version_text: String::new(), path, nowhere: nowhere.to_owned() };
        let mut command = git.command();
        command.arg("version");
        let output = run(command, "version", None, Patience::of(Duration::from_secs(20)))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (version, version_text) =
            read_version(&text).ok_or_else(|| Error::Git { what: "version", said: clean(&output.stderr) })?;
        if version < MINIMUM_GIT {
            let needed = format!("{}.{}", MINIMUM_GIT.0, MINIMUM_GIT.1);
            return Err(Error::GitOld { found: version_text, needed });
        }
        (git.version, git.version_text) = (version, version_text);
        Ok(git)
    }

    /// As git names it: `2.47.3`.
    pub fn version(&self) -> &str {
        &self.version_text
    }

    /// The file that is run.
    pub fn program(&self) -> &Path {
        &self.program
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .current_dir(&self.nowhere)
            .env("PATH", &self.path)
            .env("HOME", &self.nowhere)
            .env("XDG_CONFIG_HOME", &self.nowhere)
            .env("LANG", "C.UTF-8")
            .env("LC_ALL", "C.UTF-8")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "")
            .env("SSH_ASKPASS", "")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_ADVICE", "0");
        command
    }

    /// Runs one call to its end; a status other than 0 is no error here.
    pub(super) fn run(&self, call: &Call<'_>) -> Result<Output> {
        let mut command = self.command();
        command.env("GIT_ALLOW_PROTOCOL", call.remote.protocol());
        let secret = self.authorize(&mut command, call.remote, call.credentials)?;
        for option in [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "core.attributesFile=/dev/null",
            "core.excludesFile=/dev/null",
            "core.askPass=",
            "core.pager=cat",
            "core.alternateRefsCommand=",
            "commit.gpgSign=false",
            "push.gpgSign=false",
            "push.followTags=false",
            "credential.helper=",
            "protocol.ext.allow=never",
            "submodule.recurse=false",
            "fetch.recurseSubmodules=false",
            "safe.bareRepository=explicit",
            "gc.auto=0",
            "maintenance.auto=false",
            "protocol.version=2",
        ] {
            command.arg("-c").arg(option);
        }
        // A header with credentials must not travel to another host.
        command.arg("-c").arg(format!("http.followRedirects={}", if secret { "false" } else { "initial" }));
        if let Some(git_dir) = call.git_dir {
            let mut option = OsString::from("--git-dir=");
            option.push(git_dir);
            command.arg(option);
        }
        command.args(call.args);
        run(command, call.what, call.hold, call.patience)
    }

    /// As [`Git::run`], with a bad status as the error that its text means.
    pub(super) fn run_ok(&self, call: &Call<'_>) -> Result<Output> {
        let output = self.run(call)?;
        if output.ok { Ok(output) } else { Err(meaning(call.what, call.remote, call.credentials, &output.stderr)) }
    }

    /// Puts what opens the remote into git's environment; says whether a header with credentials is among it.
    fn authorize(&self, command: &mut Command, remote: &Remote, credentials: &Credentials) -> Result<bool> {
        match remote.kind() {
            Kind::Local(_) => Ok(false),
            Kind::Ssh { .. } => {
                if let Some(sock) = &credentials.ssh_auth_sock {
                    command.env("SSH_AUTH_SOCK", sock);
                }
                command.env("GIT_SSH_COMMAND", ssh_command(credentials)?).env("GIT_SSH_VARIANT", "ssh");
                Ok(false)
            }
            Kind::Web { scheme, host, .. } => {
                if let Some(proxy) = &credentials.https_proxy {
                    command.env("https_proxy", proxy.expose_secret());
                }
                if let Some(hosts) = &credentials.no_proxy {
                    command.env("no_proxy", hosts);
                }
                let Some(login) = credentials.login(remote) else { return Ok(false) };
                if self.version < TOKEN_GIT {
                    let needed = format!("{}.{}, to pass a token unseen,", TOKEN_GIT.0, TOKEN_GIT.1);
                    return Err(Error::GitOld { found: self.version_text.clone(), needed });
                }
                let login = base64::engine::general_purpose::STANDARD.encode(login.expose_secret());
                let header = format!("Authorization: Basic {login}");
                command
                    .env("GIT_CONFIG_COUNT", "1")
                    .env("GIT_CONFIG_KEY_0", format!("http.{scheme}://{host}/.extraHeader"))
                    .env("GIT_CONFIG_VALUE_0", header);
                Ok(true)
            }
        }
    }
}

/// How git starts ssh. Asks nothing, takes no host key that it does not know, forwards nothing, shares no connection (that
/// would leave a process behind), and notices a server that is gone. Besides, ssh reads the user's own `~/.ssh`, found by the
/// password database: `HOME` is of no account to it.
fn ssh_command(credentials: &Credentials) -> Result<OsString> {
    let mut ssh = OsString::from(
        "ssh -oBatchMode=yes -oStrictHostKeyChecking=yes -oClearAllForwardings=yes -oForwardAgent=no \
         -oPermitLocalCommand=no -oControlMaster=no -oControlPath=none -oConnectTimeout=30 -oServerAliveInterval=15 \
         -oServerAliveCountMax=4",
    );
    if let Some(file) = &credentials.known_hosts {
        ssh.push(" -oUserKnownHostsFile=");
        ssh.push(shell_quoted(file)?);
    }
    if let Some(key) = &credentials.ssh_key {
        ssh.push(" -oIdentitiesOnly=yes -i ");
        ssh.push(shell_quoted(key)?);
    }
    Ok(ssh)
}

/// For `sh`, which is how git starts ssh.
fn shell_quoted(path: &Path) -> Result<String> {
    let refused = || Error::Io {
        doing: "giving ssh the file",
        path: path.to_owned(),
        source: std::io::Error::from(std::io::ErrorKind::InvalidInput),
    };
    let text = path.to_str().filter(|text| path.is_absolute() && !text.chars().any(char::is_control));
    Ok(format!("'{}'", text.ok_or_else(refused)?.replace('\'', r"'\''")))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Makes a folder that only its owner may enter.
pub(super) fn make_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("making the folder", path))
}

fn read_version(text: &str) -> Option<((u32, u32), String)> {
    let version = text.strip_prefix("git version ")?.split_whitespace().next()?;
    let mut parts = version.split('.').map(str::parse::<u32>);
    Some(((parts.next()?.ok()?, parts.next()?.ok()?), version.chars().take(40).collect()))
}

/// Runs a command in its own process group until it ends, is cancelled or is late; then kills what is left of the group.
fn run(mut command: Command, what: &'static str, hold: Option<&File>, patience: Patience<'_>) -> Result<Output> {
    if (patience.cancelled)() {
        return Err(Error::Cancelled { what });
    }
    let failed = |source| Error::io("starting git", "")(source);
    let stdin = match hold {
        Some(file) => Stdio::from(file.try_clone().map_err(failed)?),
        None => Stdio::null(),
    };
    command.process_group(0).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let deadline = Instant::now() + patience.timeout;
    let mut child = command.spawn().map_err(failed)?;
    let group = Pid::from_child(&child);
    let collected = collect(&mut child, group, what, deadline, patience);
    // The child is not reaped yet, so its number still names this group and no other.
    let _ = kill_process_group(group, Signal::KILL);
    let status = child.wait().map_err(failed)?;
    let (stdout, stderr) = collected?;
    Ok(Output { ok: status.success(), stdout, stderr })
}

fn collect(
    child: &mut std::process::Child,
    pid: Pid,
    what: &'static str,
    deadline: Instant,
    patience: Patience<'_>,
) -> Result<(Vec<u8>, Vec<u8>)> {
    let failed = Error::errno("waiting for git", "");
    let end = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
    let mut stdout = child.stdout.take().expect("it was asked for");
    let mut stderr = child.stderr.take().expect("it was asked for");
    for fd in [stdout.as_fd(), stderr.as_fd()] {
        rustix::io::ioctl_fionbio(fd, true).map_err(Error::errno("reading from git", ""))?;
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut out_open, mut err_open) = (true, true);
    loop {
        let ended = {
            let mut fds = vec![PollFd::new(&end, PollFlags::IN)];
            if out_open {
                fds.push(PollFd::new(&stdout, PollFlags::IN));
            }
            if err_open {
                fds.push(PollFd::new(&stderr, PollFlags::IN));
            }
            let wait = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as _ };
            match poll(&mut fds, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::errno("waiting for git", "")(error)),
            }
            !fds[0].revents().is_empty()
        };
        // Also after the end: what it printed last is still in the pipes. A pipe that stays open is not waited for.
        out_open = out_open && drain(&mut stdout, &mut out, OUTPUT_MAX, false)?;
        err_open = err_open && drain(&mut stderr, &mut err, ERRORS_MAX, true)?;
        if ended {
            break;
        }
        if (patience.cancelled)() {
            return Err(Error::Cancelled { what });
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout { what, seconds: patience.timeout.as_secs() });
        }
    }
    if out.len() > OUTPUT_MAX {
        return Err(Error::TooLarge { what: format!("the output of git {what}"), limit: "16 MiB".to_owned() });
    }
    Ok((out, err))
}

/// Reads what is there; `false` at the end. Keeps one byte more than `most`, or the last `most` bytes.
fn drain(pipe: &mut impl std::io::Read, into: &mut Vec<u8>, most: usize, keep_end: bool) -> Result<bool> {
    let mut chunk = [0_u8; 16 << 10];
    // Bounded, so that a flood of output cannot keep the caller from looking at the time.
    for _ in 0..256 {
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(read) if keep_end => {
                into.extend_from_slice(&chunk[..read]);
                if into.len() > 2 * most {
                    into.drain(..into.len() - most);
                }
            }
            Ok(read) => into.extend_from_slice(&chunk[..read.min((most + 1).saturating_sub(into.len()))]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("reading from git", "")(error)),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(read_version("git version 2.47.3\n").unwrap(), ((2, 47), "2.47.3".to_owned()));
        assert_eq!(read_version("git version 2.39.5 (Apple Git-154)\n").unwrap().0, (2, 39));
        assert!(read_version("hub version 1").is_none());
    }

    fn patience() -> Patience<'static> {
        Patience::of(Duration::from_secs(600))
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command
    }

    #[test]
    fn a_late_or_cancelled_call_dies_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", pid_file.display());
        let error = run(
            shell(&script),
            "fetch",
            None,
            Patience { timeout: Duration::from_secs(600), cancelled: &|| pid_file.exists() },
        );
        assert!(matches!(error, Err(Error::Cancelled { .. })));
        let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        // Killed with the group, if not yet gone.
        if let Ok(end) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) {
            let most = Timespec { tv_sec: 60, tv_nsec: 0 };
            assert_eq!(poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&most)).unwrap(), 1);
        }

        let late = run(shell("sleep 1000"), "fetch", None, Patience::of(Duration::from_millis(1)));
        assert!(matches!(late, Err(Error::Timeout { .. })));
    }

    #[test]
    fn a_child_that_keeps_the_pipe_does_not_hold_the_call() {
        let output =
            run(shell("sleep 1000 & echo done"), "fetch", None, Patience::of(Duration::from_secs(600))).unwrap();
        assert_eq!((output.ok, output.stdout.as_slice()), (true, b"done\n".as_slice()));
    }

    #[test]
    fn the_lock_is_gits_as_well() {
        let lock = tempfile::NamedTempFile::new().unwrap();
        let output = run(shell("readlink /proc/$$/fd/0"), "push", Some(lock.as_file()), patience()).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), lock.path().to_str().unwrap());
    }

    #[test]
    fn output_is_bounded() {
        let flood = run(shell("head -c 40000000 /dev/zero"), "fetch", None, Patience::of(Duration::from_secs(600)));
        assert!(matches!(flood, Err(Error::TooLarge { .. })));
        let errors = run(shell("head -c 4000000 /dev/zero >&2"), "fetch", None, Patience::of(Duration::from_secs(600)));
        assert!(errors.unwrap().stderr.len() <= 2 * ERRORS_MAX);
    }

    #[test]
    fn a_token_is_in_the_environment_only_and_bound_to_its_host() {
        let folder = tempfile::tempdir().unwrap();
        let git = Git {
            program: "/usr/bin/git".into(),
            version: (2, 47),
            version_text: "2.47".into(),
            path: "/usr/bin".into(),
            nowhere: folder.path().to_owned(),
        };
        let remote = Remote::parse("https://github.com/acme/shop", Path::new("/")).unwrap();
        let credentials = Credentials { token: Some("tok-123456".to_owned().into()), ..Credentials::default() };
        let mut command = git.command();
        assert!(git.authorize(&mut command, &remote, &credentials).unwrap());
        assert_eq!(command.get_args().count(), 0);
        let env = |name: &str| {
            command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value).unwrap().to_str().unwrap()
        };
        assert_eq!(env("GIT_CONFIG_KEY_0"), "http.https://github.com/.extraHeader");
        let header = env("GIT_CONFIG_VALUE_0").strip_prefix("Authorization: Basic ").unwrap();
        let login = base64::engine::general_purpose::STANDARD.decode(header).unwrap();
        assert_eq!(login, b"x-access-token:tok-123456");

        let old = Git { version: (2, 30), ..git };
        assert!(matches!(old.authorize(&mut old.command(), &remote, &credentials), Err(Error::GitOld { .. })));
    }
}
