//! Linux namespaces by `bwrap`: a root made of what is listed here and nothing else, no network unless granted.
//!
//! The system's programs and a few files of /etc are readable, the tools on PATH are, the workspace is writable at
//! [`WORKSPACE`]; HOME and /tmp are private, in memory, and bounded. All namespaces are new, every capability is gone,
//! the environment is cleared; [`super::inner`] closes what that leaves open. Where the network is an allow-list, there
//! is none but a port on the loopback that our proxy answers. When the first process ends the kernel kills the rest.
//! Unknown here: git, secrets, steps.

mod remedy;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::job::{Job, Origin, Place};
use super::protected::{Cover, protected};
use super::toolchains::SYSTEM;
use super::wicket::Wicket;
use super::{
    Command, Exit, Finished, Network, OutputSink, Sandbox, SandboxError, Settings, WORKSPACE, landlock, passable,
    real_workspace, run, text, within,
};

/// HOME of every command.
pub(super) const HOME: &str = "/home/run";
/// Folders that are the sandbox's own; what would cover one of them cannot be shared.
const OWN: [&str; 6] = [HOME, "/tmp", "/dev", "/proc", WORKSPACE, "/etc"];
/// The oldest `bwrap` with every option that is used here.
const OLDEST: (u32, u32) = (0, 6);

/// What of /etc programs need, where it exists: folders are bound, files are copied. Left out on purpose: whatever can
/// hold a password, a token or a key (`shadow`, `ssl/private`, `gitconfig`, `npmrc`, `pip.conf`, `ssh`).
#[rustfmt::skip]
const ETC: [&str; 24] = [
    "alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "debian_version", "fonts", "gai.conf",
    "host.conf", "ld.so.cache", "locale.alias", "localtime", "magic", "mime.types", "os-release", "perl", "php",
    "pki/ca-trust", "pki/tls/certs", "protocols", "services", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone",
];
/// A file of /etc that is larger is not what it should be.
const LARGEST_FILE: u64 = 4 << 20;
/// More of the same, with a version in their names.
const ETC_FAMILIES: [&str; 3] = ["java", "python3", "maven"];

/// Runs commands in a sandbox of their own.
#[derive(Debug)]
pub struct Bubblewrap {
    settings: Settings,
    program: String,
    /// Whether it can forbid further user namespaces.
    disable_userns: bool,
    shared: Vec<PathBuf>,
    root: bool,
}

impl Bubblewrap {
    /// Finds `bwrap` and what it will share.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] if it is missing or too old, or if a folder of `sandbox.read` cannot be shared.
    pub fn find(settings: &Settings) -> Result<Self, SandboxError> {
        // The distribution's own comes first: some grant user namespaces to that path alone.
        let places =
            std::iter::once(Path::new("/usr/bin")).chain(settings.toolchains.path.iter().map(PathBuf::as_path));
        let program = places.map(|folder| folder.join("bwrap")).find(|program| program.is_file()).ok_or_else(|| {
            SandboxError::Unavailable {
                what: "bubblewrap is not installed: there is no `bwrap`".into(),
                hint: "apt install bubblewrap (or dnf, pacman, zypper, apk: the package has the same name)".into(),
            }
        })?;
        let (major, minor) = remedy::version(&program)?;
        if (major, minor) < OLDEST {
            return Err(SandboxError::Unavailable {
                what: format!("bubblewrap {major}.{minor} is too old"),
                hint: format!("upgrade bubblewrap to {}.{} or later", OLDEST.0, OLDEST.1),
            });
        }
        let mut shared: BTreeSet<PathBuf> = settings.toolchains.bind.iter().cloned().collect();
        shared.retain(|path| !hidden(settings, path) && !covers(path));
        for path in &settings.read {
            shared.insert(readable(settings, path)?);
        }
        let shared = shared.into_iter().collect();
        let root = rustix::process::geteuid().is_root();
        Ok(Self {
            settings: settings.clone(),
            program: text(&program)?,
            disable_userns: (major, minor) >= (0, 8),
            shared,
            root,
        })
    }

    /// All of `bwrap`'s options for the command but files and variables, and what could not be protected.
    fn options(&self, command: &Command) -> Result<(Vec<String>, Vec<PathBuf>), SandboxError> {
        let workspace = real_workspace(command)?;
        let mut options = Options::default();
        options.add(&["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"]);
        options.add(&["--cap-drop", "ALL", "--hostname", "sandbox"]);
        if self.disable_userns {
            options.add(&["--disable-userns"]);
        }
        if command.network == Network::Full {
            options.add(&["--share-net"]);
        }
        for top in SYSTEM.iter().map(Path::new) {
            match fs::read_link(top) {
                Ok(target) => options.add(&["--symlink", &text(&target)?, &text(top)?]),
                Err(_) => options.bind("--ro-bind-try", top, top)?,
            }
        }
        for path in etc().iter().filter(|path| path.is_dir()) {
            options.bind("--ro-bind", path, path)?;
        }
        let size = command.limits.scratch_bytes.max(1 << 20).to_string();
        options.add(&["--proc", "/proc", "--dev", "/dev", "--size", &size, "--tmpfs", "/dev/shm"]);
        options.add(&["--perms", "1777", "--size", &size, "--tmpfs", "/tmp"]);
        options.add(&["--perms", "0700", "--size", &size, "--tmpfs", HOME]);
        for path in &self.shared {
            options.bind("--ro-bind-try", path, path)?;
        }
        self.mask(&mut options)?;
        options.add(&["--bind", &text(&workspace)?, WORKSPACE]);
        let protected = protected(command, &workspace)?;
        for Cover { path, read_only, .. } in &protected.covers {
            let how = if *read_only { "--ro-bind" } else { "--bind" };
            options.bind(how, &workspace.join(path), &Path::new(WORKSPACE).join(path))?;
        }
        let dir = Path::new(WORKSPACE).join(within(&command.workspace, &command.dir)?);
        options.add(&["--chdir", &text(&dir)?]);
        // Last, when every mount point exists. /proc too: run by root, a command could otherwise write the kernel's
        // settings, of which one names a program that the host then runs.
        options.add(&["--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"]);
        Ok((options.words, protected.not))
    }

    /// Covers what must stay out of sight and lies in a folder that is shared.
    fn mask(&self, options: &mut Options) -> Result<(), SandboxError> {
        let shared = SYSTEM.iter().map(PathBuf::from).chain(etc()).chain(self.shared.iter().cloned());
        let shared: Vec<(PathBuf, PathBuf)> =
            shared.filter_map(|shown| Some((shown.canonicalize().ok()?, shown))).collect();
        for path in self.settings.hide.iter().filter_map(|path| path.canonicalize().ok()) {
            for (real, shown) in &shared {
                let Ok(below) = path.strip_prefix(real) else { continue };
                match (path.is_dir(), text(&shown.join(below))?) {
                    (true, place) => options.add(&["--size", "4096", "--tmpfs", &place, "--remount-ro", &place]),
                    (false, place) => options.add(&["--ro-bind", "/dev/null", &place]),
                }
            }
        }
        Ok(())
    }

    /// The files of /etc: some of the host's, some of our own.
    fn files(&self, network: &Network) -> Result<Vec<(String, Origin)>, SandboxError> {
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let name = if self.root { "root" } else { "run" };
        let other = if user == 65534 { "" } else { "nobody:x:65534:65534::/:/bin/false\n" };
        let other_group = if group == 65534 { "" } else { "nogroup:x:65534:\n" };
        let mut files = vec![
            ("/etc/passwd".to_owned(), Origin::Text(format!("{name}:x:{user}:{group}::{HOME}:/bin/sh\n{other}"))),
            ("/etc/group".to_owned(), Origin::Text(format!("{name}:x:{group}:\n{other_group}"))),
            ("/etc/nsswitch.conf".to_owned(), Origin::Text("passwd: files\ngroup: files\nhosts: files dns\n".into())),
        ];
        let mut hosts = etc();
        match network {
            Network::Full => hosts.extend(["/etc/hosts", "/etc/resolv.conf"].map(PathBuf::from)),
            Network::None | Network::Domains(_) => {
                let local = "127.0.0.1 localhost sandbox\n::1 localhost\n";
                files.push(("/etc/hosts".to_owned(), Origin::Text(local.to_owned())));
            }
        }
        let readable = |path: &PathBuf| {
            let metadata = fs::metadata(path);
            metadata.is_ok_and(|found| found.is_file() && found.len() <= LARGEST_FILE) && fs::File::open(path).is_ok()
        };
        for path in hosts.into_iter().filter(readable) {
            files.push((text(&path)?, Origin::Host(text(&path)?)));
        }
        Ok(files)
    }
}

/// The parts of /etc that are shown and exist.
fn etc() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ETC.iter().map(|name| Path::new("/etc").join(name)).collect();
    for entry in fs::read_dir("/etc").into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| ETC_FAMILIES.iter().any(|family| name.starts_with(family))) {
            found.push(entry.path());
        }
    }
    found.retain(|path| path.exists());
    found
}

#[async_trait]
impl Sandbox for Bubblewrap {
    fn name(&self) -> &'static str {
        "bubblewrap"
    }

    fn isolates(&self) -> bool {
        true
    }

    fn caveats(&self) -> Vec<String> {
        let as_root = "devo runs as root: a normal user would be a second wall around its sandboxes";
        let alone = "this kernel has no Landlock that is recent enough (Linux 5.19, switched on): bubblewrap's mounts alone \
                     keep commands from writing elsewhere";
        let caveats = [(self.root, as_root), (!landlock::is_here(), alone)];
        caveats.into_iter().filter(|(holds, _)| *holds).map(|(_, caveat)| caveat.to_owned()).collect()
    }

    async fn probe(&self) -> Result<(), SandboxError> {
        let folder = tempfile::tempdir().map_err(|error| SandboxError::Setup { message: error.to_string() })?;
        let command = Command { timeout: Some(Duration::from_secs(10)), ..Command::new("true", folder.path()) };
        let failed = match self.exec(&command, &(), &CancellationToken::new()).await {
            Ok(finished) if finished.exit.is_success() => return Ok(()),
            Ok(Finished { exit: Exit::TimedOut, .. }) => "it took more than 10 seconds to start".to_owned(),
            Ok(finished) => format!("`true` ended with {:?}: {}", finished.exit, finished.stderr.text().trim()),
            Err(SandboxError::Setup { message }) => message,
            Err(other) => return Err(other),
        };
        let setting = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).ok();
        Err(SandboxError::Unavailable {
            hint: remedy::remedy(&failed, setting),
            what: format!("bubblewrap does not work here: {failed}"),
        })
    }

    async fn exec(
        &self,
        command: &Command,
        output: &dyn OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Finished, SandboxError> {
        passable("the script", command.script.len(), &[&command.script])?;
        let (options, unprotected) = self.options(command)?;
        let mut job = Job {
            script: command.script.clone(),
            env: self.settings.environment(command)?,
            place: Place::Bubblewrap {
                program: self.program.clone(),
                options,
                files: self.files(&command.network)?,
                home: HOME.to_owned(),
                handover: None,
            },
            limits: command.limits,
            disk: text(&command.workspace)?,
        };
        match &command.network {
            Network::Domains(domains) => {
                let wicket = Wicket::open(domains.clone(), &mut job)?;
                let run = run::run(&self.settings.supervisor, &job, command, unprotected, output, cancel);
                wicket.watch(output, run).await
            }
            Network::None | Network::Full => {
                run::run(&self.settings.supervisor, &job, command, unprotected, output, cancel).await
            }
        }
    }
}

#[derive(Default)]
struct Options {
    words: Vec<String>,
}

impl Options {
    fn add(&mut self, words: &[&str]) {
        self.words.extend(words.iter().map(|word| (*word).to_owned()));
    }

    fn bind(&mut self, how: &str, from: &Path, to: &Path) -> Result<(), SandboxError> {
        self.add(&[how, &text(from)?, &text(to)?]);
        Ok(())
    }
}

/// Whether the path is, or lies in, something that must stay out of sight.
fn hidden(settings: &Settings, path: &Path) -> bool {
    let real = path.canonicalize();
    let real = real.as_deref().unwrap_or(path);
    settings.hide.iter().any(|hide| real.starts_with(hide.canonicalize().as_deref().unwrap_or(hide)))
}

/// Whether sharing the path would cover a folder of the sandbox's own, or be covered by one.
fn covers(path: &Path) -> bool {
    OWN.iter().map(Path::new).any(|own| own.starts_with(path) || (own != Path::new("/tmp") && path.starts_with(own)))
}

/// A folder of `sandbox.read`, checked.
fn readable(settings: &Settings, path: &Path) -> Result<PathBuf, SandboxError> {
    let refuse = |why: &str| {
        Err(SandboxError::Unavailable {
            what: format!("`sandbox.read` in devo.yaml: `{}` {why}", path.display()),
            hint: "name folders by absolute paths that exist, each no wider than commands need".into(),
        })
    };
    match path {
        path if !path.is_absolute() => refuse("is not an absolute path"),
        path if !path.exists() => refuse("does not exist"),
        path if hidden(settings, path) => {
            refuse("is, or lies in, what commands must not see: devo's home, or a file of a secret")
        }
        path if covers(path) => refuse("would cover the sandbox's own folders"),
        path => Ok(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Supervisor, Surroundings};
    use super::*;

    fn settings() -> Settings {
        Settings::new(Supervisor::this_program(), &Surroundings { path: "/usr/bin".into(), ..Surroundings::default() })
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let real = folder.path().canonicalize().expect("it exists");
        (folder, real)
    }

    #[test]
    fn what_commands_must_not_see_cannot_be_shared() {
        let (_folder, home) = folder();
        fs::create_dir(home.join("inner")).expect("a folder");
        let mut settings = settings();
        settings.hide = vec![home.clone()];
        for path in
            [home.join("inner"), home.clone(), "/".into(), "/home".into(), "relative".into(), "/nowhere/at/all".into()]
        {
            settings.read = vec![path.clone()];
            assert!(matches!(Bubblewrap::find(&settings), Err(SandboxError::Unavailable { .. })), "{}", path.display());
        }
        // Sharing what lies above is fine: what is hidden in it is covered.
        let (_above, above) = folder();
        fs::create_dir_all(above.join("x/secret")).expect("folders");
        settings.hide = vec![above.join("x/secret")];
        settings.read = vec![above.join("x")];
        let sandbox = Bubblewrap::find(&settings).expect("it is installed and the folder can be shared");
        let mut options = Options::default();
        sandbox.mask(&mut options).expect("plain paths");
        assert!(options.words.contains(&above.join("x/secret").display().to_string()), "{:?}", options.words);
        // A file is named for what it is.
        fs::write(above.join("x/key"), "k").expect("a file");
        (settings.hide, settings.read) = (vec![above.join("x/key")], vec![above.join("x/key")]);
        let refused = Bubblewrap::find(&settings).expect_err("the file holds a secret");
        assert!(refused.to_string().contains("a file of a secret"), "{refused}");
    }
}
