//! Which tools a command finds: the folders of its PATH, and what of the host must be readable for them to work.
//!
//! Found by looking, never by running: a shim or a proxy would decide by the folder it runs in. Version managers are
//! resolved to the version that is the user's default, so that their shims and configuration are not needed inside.
//! No folder that holds more than tools is shared: not the user's home, not `~/.local`, not `~/.cargo`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Always visible, read-only, in every sandbox.
pub(super) const SYSTEM: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"];
/// Where commands look after everything else.
const SYSTEM_PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Bounds for a PATH that is out of hand.
const MOST_ENTRIES: usize = 128;
const MOST_LINKS: usize = 2000;
/// Version files and settings are a few lines.
const LONGEST_FILE: u64 = 64 << 10;

/// What the engine's own environment says, read once and passed as values.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// PATH.
    pub path: OsString,
    /// The user's home folder.
    pub home: Option<PathBuf>,
    /// LANG.
    pub lang: Option<String>,
    /// TZ.
    pub tz: Option<String>,
    /// RUSTUP_HOME.
    pub rustup_home: Option<PathBuf>,
    /// RUSTUP_TOOLCHAIN.
    pub rustup_toolchain: Option<String>,
    /// PYENV_VERSION.
    pub pyenv_version: Option<String>,
}

impl Surroundings {
    /// Reads this process's environment.
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            path: std::env::var_os("PATH").unwrap_or_default(),
            home: path("HOME"),
            lang: text("LANG"),
            tz: text("TZ"),
            rustup_home: path("RUSTUP_HOME"),
            rustup_toolchain: text("RUSTUP_TOOLCHAIN"),
            pyenv_version: text("PYENV_VERSION"),
        }
    }
}

/// The tools of this machine as commands see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Toolchains {
    /// PATH of every command, in every sandbox.
    pub path: Vec<PathBuf>,
    /// Host folders and files that an isolating sandbox shows read-only, at their own paths, beside the system's.
    pub bind: Vec<PathBuf>,
}

impl Toolchains {
    /// Looks along that PATH. Reads some folders: once per process is enough.
    pub fn discover(surroundings: &Surroundings) -> Self {
        let mut search = Search { home: surroundings.home.clone(), ..Search::default() };
        let entries: Vec<PathBuf> = std::env::split_paths(&surroundings.path)
            // An empty or relative entry would mean the workspace: a repository could then bring its own `git`.
            .filter(|entry| entry.is_absolute() && !entry.components().any(|part| part == Component::ParentDir))
            .take(MOST_ENTRIES)
            .collect();
        for entry in entries.iter().map(PathBuf::as_path).chain(SYSTEM_PATH.iter().map(Path::new)) {
            search.entry(entry, surroundings);
        }
        Self { path: search.path, bind: minimal(search.bind) }
    }
}

#[derive(Default)]
struct Search {
    home: Option<PathBuf>,
    path: Vec<PathBuf>,
    bind: BTreeSet<PathBuf>,
}

impl Search {
    fn entry(&mut self, entry: &Path, surroundings: &Surroundings) {
        if !entry.is_dir() || self.path.iter().any(|known| known == entry) {
            return;
        }
        if is_system(entry) {
            self.path.push(entry.to_owned());
            return;
        }
        if entry.join("rustup").exists()
            && let Some(toolchain) = rust_toolchain(surroundings)
        {
            self.folder_of_tools(&toolchain.join("bin"));
        }
        match shims(entry, surroundings) {
            Some(versions) => versions.iter().for_each(|version| self.folder_of_tools(&version.join("bin"))),
            None => self.folder_of_tools(entry),
        }
    }

    /// A folder of programs, with what they need.
    fn folder_of_tools(&mut self, folder: &Path) {
        let Ok(real) = folder.canonicalize() else { return };
        if self.is_private(&real) || self.path.iter().any(|known| known == folder) {
            return;
        }
        self.path.push(folder.to_owned());
        self.share(folder);
        self.share(&real);
        self.prefix_of(&real);
        // `~/.local/bin` and its like are links into the places where the tools are installed.
        for entry in fs::read_dir(&real).into_iter().flatten().flatten().take(MOST_LINKS) {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink())
                && let Ok(target) = entry.path().canonicalize()
                && !target.starts_with(&real)
            {
                match target.parent().filter(|parent| !self.is_private(parent)) {
                    Some(parent) if self.prefix_of(parent) => {}
                    _ => self.share(&target),
                }
            }
        }
    }

    /// Shares `X` for `X/bin` where `X` is an installation. Says whether it did.
    fn prefix_of(&mut self, folder: &Path) -> bool {
        let Some(prefix) = folder.parent().filter(|_| folder.file_name().is_some_and(|name| name == "bin")) else {
            return false;
        };
        let installation = ["lib", "lib64", "libexec", "pkg/tool", "pyvenv.cfg"];
        if self.is_private(prefix) || !installation.iter().any(|part| prefix.join(part).exists()) {
            return false;
        }
        self.share(prefix);
        // A virtual environment runs the interpreter that it was made from.
        if let Some(settings) = read(&prefix.join("pyvenv.cfg")) {
            let home = settings.lines().find_map(|line| line.split_once('=').filter(|(key, _)| key.trim() == "home"));
            if let Some(base) = home.and_then(|(_, home)| Path::new(home.trim()).canonicalize().ok())
                && !is_system(&base)
                && base != folder
            {
                self.prefix_of(&base);
            }
        }
        true
    }

    fn share(&mut self, path: &Path) {
        if !is_system(path) && !self.is_private(path) {
            self.bind.insert(path.to_owned());
        }
    }

    /// Whether the folder holds, or may hold, more than tools.
    fn is_private(&self, folder: &Path) -> bool {
        const MIXED: [&str; 14] = [
            "",
            ".local",
            ".local/share",
            ".local/lib",
            ".config",
            ".cache",
            ".cargo",
            ".rustup",
            ".ssh",
            ".gnupg",
            ".aws",
            ".docker",
            ".kube",
            "go",
        ];
        const TOP: [&str; 14] = [
            "/", "/home", "/root", "/opt", "/var", "/etc", "/tmp", "/run", "/srv", "/mnt", "/media", "/dev", "/proc",
            "/sys",
        ];
        let within = ["/dev", "/proc", "/sys", "/etc", "/run"].iter().any(|top| folder.starts_with(top));
        within
            || TOP.iter().any(|top| folder == Path::new(top))
            || self.home.as_deref().is_some_and(|home| {
                let homes = [Some(home.to_owned()), home.canonicalize().ok()];
                homes.iter().flatten().any(|home| {
                    home.starts_with(folder)
                        || folder.strip_prefix(home).is_ok_and(|rest| MIXED.iter().any(|m| rest == Path::new(m)))
                })
            })
    }
}

/// Whether every sandbox shows it anyway.
fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|top| path.starts_with(top))
}

/// Without those that lie in another.
fn minimal(folders: BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::new();
    for folder in folders {
        if !kept.iter().any(|above| folder.starts_with(above)) {
            kept.push(folder);
        }
    }
    kept
}

/// A small text file.
fn read(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LONGEST_FILE {
        return None;
    }
    fs::read_to_string(path).ok()
}

/// The folder of the default Rust toolchain: what `rustup` would choose outside of any project.
fn rust_toolchain(surroundings: &Surroundings) -> Option<PathBuf> {
    let home = match &surroundings.rustup_home {
        Some(home) => home.clone(),
        None => surroundings.home.as_ref()?.join(".rustup"),
    };
    let name = surroundings.rustup_toolchain.clone().or_else(|| {
        let settings = read(&home.join("settings.toml"))?;
        let value = settings
            .lines()
            .find_map(|line| line.trim().strip_prefix("default_toolchain")?.trim().strip_prefix('='))?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    })?;
    let folder = home.join("toolchains");
    let exact = plain(&name).map(|name| folder.join(name)).filter(|toolchain| toolchain.join("bin").is_dir());
    exact.or_else(|| {
        // `stable` stands for the one of this machine: `stable-x86_64-unknown-linux-gnu`.
        let machine = format!("{name}-{}-", std::env::consts::ARCH);
        let mut names: Vec<_> = fs::read_dir(&folder).ok()?.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        let found = names.into_iter().find(|entry| entry.to_str().is_some_and(|entry| entry.starts_with(&machine)))?;
        Some(folder.join(found))
    })
}

/// The version folders behind a folder of shims (pyenv, rbenv, nodenv: `ROOT/shims`, `ROOT/versions/V`, `ROOT/version`).
fn shims(entry: &Path, surroundings: &Surroundings) -> Option<Vec<PathBuf>> {
    let root = entry.parent().filter(|_| entry.file_name().is_some_and(|name| name == "shims"))?;
    let versions = root.join("versions");
    if !versions.is_dir() {
        return None;
    }
    let chosen = match &surroundings.pyenv_version {
        Some(version) if root.join("libexec/pyenv").exists() => version.replace(':', "\n"),
        _ => read(&root.join("version")).unwrap_or_default(),
    };
    // Without a choice, and for `system`, the system's own come later in PATH.
    Some(chosen.split_whitespace().filter_map(plain).map(|name| versions.join(name)).collect())
}

/// A name that is one folder, not a way out of it.
fn plain(name: &str) -> Option<&str> {
    let mut parts = Path::new(name).components();
    (matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A home with a rustup, a pyenv, an nvm, a `~/.local/bin` with links, and things that are nobody's business.
    fn home() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = folder.path().canonicalize().expect("it exists").join("home");
        for sub in [
            ".cargo/bin",
            ".rustup/toolchains/stable-x86_64-unknown-linux-gnu/bin",
            ".rustup/toolchains/nightly/bin",
            ".rustup/toolchains/stable-aarch64-unknown-linux-gnu/bin",
            ".rustup/toolchains/stable-x86_64-unknown-linux-gnu/lib",
            ".pyenv/shims",
            ".pyenv/versions/3.12.1/bin",
            ".pyenv/versions/3.12.1/lib",
            ".pyenv/versions/3.9.0/bin",
            ".nvm/versions/node/v20/bin",
            ".nvm/versions/node/v20/lib",
            ".local/bin",
            ".local/lib",
            ".ssh",
            "bin",
            "lib",
            ".local/share/pipx/venvs/black/bin",
            ".local/share/pipx/venvs/black/lib",
            "work/.venv/bin",
            "go/bin",
            "go/pkg/tool",
        ] {
            fs::create_dir_all(home.join(sub)).expect("folders");
        }
        for file in [
            ".cargo/bin/rustup",
            ".cargo/credentials.toml",
            ".ssh/id",
            ".local/share/pipx/venvs/black/bin/black",
            "notes",
        ] {
            fs::write(home.join(file), "").expect("a file");
        }
        fs::write(home.join(".rustup/settings.toml"), "version = \"12\"\ndefault_toolchain = \"stable\"\n")
            .expect("a file");
        fs::write(home.join(".pyenv/version"), "3.12.1\n../../..\n").expect("a file");
        fs::write(
            home.join("work/.venv/pyvenv.cfg"),
            format!("home = {}\n", home.join(".pyenv/versions/3.9.0/bin").display()),
        )
        .expect("a file");
        fs::create_dir(home.join(".pyenv/versions/3.9.0/lib")).expect("a folder");
        symlink(home.join(".local/share/pipx/venvs/black/bin/black"), home.join(".local/bin/black")).expect("a link");
        symlink(home.join("notes"), home.join(".local/bin/notes")).expect("a link");
        (folder, home)
    }

    fn discover(home: &Path, path: &[&str]) -> (Vec<String>, Vec<String>) {
        let entries = path.iter().map(|entry| home.join(entry));
        let surroundings = Surroundings {
            path: std::env::join_paths(entries).expect("no colons"),
            home: Some(home.to_owned()),
            ..Surroundings::default()
        };
        let found = Toolchains::discover(&surroundings);
        let names = |paths: Vec<PathBuf>| {
            let ours = paths.into_iter().filter_map(|path| Some(path.strip_prefix(home).ok()?.to_str()?.to_owned()));
            ours.collect()
        };
        (names(found.path), names(found.bind))
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn rustup_becomes_the_default_toolchain_and_brings_no_credentials() {
        let (_folder, home) = home();
        let toolchain = ".rustup/toolchains/stable-x86_64-unknown-linux-gnu";
        let (path, bind) = discover(&home, &[".cargo/bin"]);
        assert_eq!(path, [format!("{toolchain}/bin").as_str(), ".cargo/bin"]);
        assert_eq!(bind, [".cargo/bin", toolchain]);
    }

    #[test]
    fn shims_become_the_chosen_versions() {
        let (_folder, home) = home();
        assert_eq!(
            discover(&home, &[".pyenv/shims"]),
            (vec![".pyenv/versions/3.12.1/bin".to_owned()], vec![".pyenv/versions/3.12.1".to_owned()])
        );
    }

    #[test]
    fn an_installation_is_shared_whole_and_a_mixed_folder_never() {
        let (_folder, home) = home();
        for (entry, wanted) in [
            (".nvm/versions/node/v20/bin", &[".nvm/versions/node/v20"][..]),
            ("bin", &["bin"]),
            (".local/bin", &[".local/bin", ".local/share/pipx/venvs/black", "notes"]),
            ("work/.venv/bin", &[".pyenv/versions/3.9.0", "work/.venv"]),
            ("go/bin", &["go/bin"]),
            (".ssh", &[]),
            ("", &[]),
            ("nowhere", &[]),
        ] {
            assert_eq!(discover(&home, &[entry]).1, wanted, "{entry}");
        }
    }

    #[test]
    fn entries_that_mean_the_workspace_or_too_much_are_left_out() {
        let surroundings = Surroundings {
            path: OsString::from(":.:bin:/usr/bin/../../etc:/etc:/:/usr/bin:/usr/bin"),
            ..Surroundings::default()
        };
        let found = Toolchains::discover(&surroundings);
        assert_eq!(found.path.first().map(PathBuf::as_path), Some(Path::new("/usr/bin")));
        assert!(found.path.iter().all(|entry| is_system(entry)), "{:?}", found.path);
        assert_eq!(found.path.iter().filter(|entry| *entry == Path::new("/usr/bin")).count(), 1);
        assert!(found.bind.is_empty());
    }
}
