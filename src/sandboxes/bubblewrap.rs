//! `bubblewrap`: an unprivileged container per command. Its root holds what is listed here and nothing else: the system's
//! programs, toolchains of PATH, a private HOME and /tmp, and the workspace at [`WORKSPACE`]. No network unless allowed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Command, Exit, Finished, Output, Sandbox, SandboxError, Stream, Toolchains, WORKSPACE, spawn};

const NAME: &str = "bubblewrap";
const HOME: &str = "/home/devo";
/// Enough for a compiler's temporary files, and a bound on what a command can put into memory.
const TMP_BYTES: &str = "2147483648";
/// What programs need of /etc; where a name is missing on the host it is missing inside.
const ETC: &[&str] = &[
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "pki",
    "ssl",
    "timezone",
];
/// Names are looked up with these, only where the network is allowed.
const ETC_NETWORK: &[&str] = &["hosts", "resolv.conf", "services", "protocols"];

/// Commands run in containers made by `bwrap`.
pub struct Bubblewrap {
    exe: PathBuf,
    bwrap: PathBuf,
    tools: Toolchains,
    read: Vec<PathBuf>,
    /// Generated /etc/passwd and /etc/group.
    etc: tempfile::TempDir,
}

impl Bubblewrap {
    /// Finds `bwrap`. `exe` is this program; `read` are more folders to bind read-only at their own place.
    pub fn new(exe: &Path, tools: Toolchains, read: Vec<PathBuf>) -> Result<Self, SandboxError> {
        // The distribution's own: AppArmor profiles grant namespaces to that path only.
        let bwrap = ["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"].map(PathBuf::from);
        let bwrap = bwrap.into_iter().find(|path| path.is_file()).ok_or_else(|| SandboxError::Unavailable {
            sandbox: NAME,
            why: "bwrap is not installed".to_owned(),
            remedy:
                "install it: `sudo apt-get install bubblewrap`; or say `sandbox: {type: host}` in devo.yaml to run \
                     without any sandbox"
                    .to_owned(),
        })?;
        let missing = read.iter().find(|path| !path.exists());
        if let Some(missing) = missing {
            return Err(SandboxError::Unavailable {
                sandbox: NAME,
                why: format!("`sandbox.read` names {}, which does not exist", missing.display()),
                remedy: "mend `sandbox.read` in devo.yaml".to_owned(),
            });
        }
        let write = |dir: &Path| -> std::io::Result<()> {
            std::fs::write(dir.join("passwd"), "devo:x:1000:1000:devo:/home/devo:/bin/sh\n")?;
            std::fs::write(dir.join("group"), "devo:x:1000:\n")
        };
        let etc = tempfile::Builder::new().prefix("devo-etc-").tempdir();
        let etc = etc.and_then(|dir| write(dir.path()).map(|()| dir));
        let etc = etc.map_err(|error| SandboxError::Start(format!("no folder for /etc/passwd: {error}")))?;
        Ok(Self { exe: exe.to_owned(), bwrap, tools, read, etc })
    }

    fn argv(&self, command: &Command) -> Vec<OsString> {
        let mut args = Args(vec![self.bwrap.clone().into_os_string()]);
        args.add(["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--hostname", "devo"]);
        args.add(["--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]);
        if command.network {
            args.add(["--share-net"]);
        }
        args.add(["--ro-bind", "/usr", "/usr"]);
        for name in ["/bin", "/sbin", "/lib", "/lib64", "/lib32"] {
            match std::fs::read_link(name) {
                Ok(target) => args.add([OsString::from("--symlink"), target.into(), name.into()]),
                Err(_) if Path::new(name).is_dir() => args.add(["--ro-bind", name, name]),
                Err(_) => {}
            }
        }
        let network = if command.network { ETC_NETWORK } else { &[] };
        for name in ETC.iter().chain(network) {
            let path = format!("/etc/{name}");
            args.add(["--ro-bind-try", &path, &path]);
        }
        for name in ["passwd", "group"] {
            args.add([
                OsString::from("--ro-bind"),
                self.etc.path().join(name).into(),
                OsString::from(format!("/etc/{name}")),
            ]);
        }
        args.add(["--proc", "/proc", "--dev", "/dev"]);
        args.add(["--size", TMP_BYTES, "--tmpfs", "/tmp", "--size", TMP_BYTES, "--tmpfs", HOME]);
        for path in self.tools.bind.iter().chain(&self.read) {
            args.add([OsString::from("--ro-bind"), path.into(), path.into()]);
        }
        args.add([OsString::from("--bind"), command.workspace.clone().into(), WORKSPACE.into()]);
        for path in &command.read_only {
            let inside = Path::new(WORKSPACE).join(path);
            args.add([OsString::from("--ro-bind"), command.workspace.join(path).into(), inside.into()]);
        }
        let path = self.tools.variable();
        for (name, value) in [("PATH", path.as_str()), ("HOME", HOME), ("LANG", "C.UTF-8"), ("TZ", "UTC")] {
            args.add(["--setenv", name, value]);
        }
        for (name, value) in &command.env {
            args.add(["--setenv", name, value]);
        }
        let dir = Path::new(WORKSPACE).join(&command.dir);
        args.add([OsString::from("--chdir"), dir.into()]);
        args.add(["--", "/bin/sh", "-c", &command.script]);
        args.0
    }
}

struct Args(Vec<OsString>);

impl Args {
    fn add<T: Into<OsString>>(&mut self, args: impl IntoIterator<Item = T>) {
        self.0.extend(args.into_iter().map(Into::into));
    }
}

#[async_trait]
impl Sandbox for Bubblewrap {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn exec(
        &self,
        command: &Command,
        output: &dyn Output,
        cancel: &CancellationToken,
    ) -> Result<Finished, SandboxError> {
        // bwrap itself gets an empty environment as well: a preloaded library would be code on the host.
        spawn::run(&self.exe, self.argv(command), Vec::new(), Path::new("/"), command, output, cancel).await
    }

    async fn probe(&self) -> Result<(), SandboxError> {
        let dir = tempfile::tempdir().map_err(|error| SandboxError::Start(error.to_string()))?;
        let command = Command {
            script: "exit 42".to_owned(),
            workspace: dir.path().to_owned(),
            dir: PathBuf::new(),
            read_only: Vec::new(),
            env: Vec::new(),
            timeout: Some(std::time::Duration::from_secs(10)),
            network: false,
            keep: 4096,
        };
        let done = self.exec(&command, &Silent, &CancellationToken::new()).await?;
        if done.exit == Exit::Code(42) {
            return Ok(());
        }
        let remedy = "this kernel or an AppArmor rule forbids user namespaces. On Ubuntu 24.04 load the profile that comes \
                      with AppArmor: `sudo apt-get install apparmor-profiles && sudo ln -s \
                      /usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/ && sudo apparmor_parser -r \
                      /etc/apparmor.d/bwrap-userns-restrict`";
        Err(SandboxError::Unavailable {
            sandbox: NAME,
            why: done.stderr.text().trim().to_owned(),
            remedy: remedy.to_owned(),
        })
    }
}

struct Silent;

impl Output for Silent {
    fn line(&self, _stream: Stream, _text: &str) {}
}
