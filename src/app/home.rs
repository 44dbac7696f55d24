//! Where the home is, and making one. It does not know what devo.yaml says.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::shipped;
use crate::error::Error;

/// The configuration's file name.
pub const CONFIG: &str = "devo.yaml";
/// What `devo init` leaves so that a folder above the current one counts as a home.
pub const MARKER: &str = ".devo-home";
/// The home of a machine-wide installation.
const SYSTEM: &str = "/opt/dev-orchestrator";
/// Folders of a home beside the ones that are shipped.
const FOLDERS: &[&str] =
    &["schemas", "inbox", "inbox/claimed", "inbox/done", "inbox/rejected", "repos", "runs", "logs"];
/// What the home's own git does not keep. The marker stays out so that a copy of the home is no home by itself.
const IGNORED: &str = "# What devo makes while it works, and what is private to this machine.\n\
    /.devo-home\n/.journal\n/engine.lock\n/inbox/\n/logs/\n/repos/\n/runs/\n/state.db*\n/token\n";

/// The commented configuration that a new home starts with.
pub(super) const STARTER: &str = include_str!("devo.yaml");

/// Where to look for a home.
#[derive(Debug, Clone)]
pub struct Places {
    /// `--home` or `$DEVO_HOME`.
    pub explicit: Option<PathBuf>,
    /// Where the search for a marked folder begins.
    pub current: Option<PathBuf>,
    /// The machine-wide home.
    pub system: PathBuf,
    /// `$XDG_DATA_HOME/devo`.
    pub data: Option<PathBuf>,
}

impl Places {
    /// From the environment.
    pub fn from_env(explicit: Option<PathBuf>) -> Self {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
        Self {
            explicit,
            current: std::env::current_dir().ok(),
            system: SYSTEM.into(),
            data: data.map(|data| data.join("devo")),
        }
    }

    /// The home, whose devo.yaml exists.
    pub fn find(&self) -> Result<PathBuf, Error> {
        if let Some(home) = &self.explicit {
            let home = std::path::absolute(home).unwrap_or_else(|_| home.clone());
            if home.join(CONFIG).is_file() {
                return Ok(home);
            }
            return Err(Error::refused("no_home", format!("{} is not a home: it holds no {CONFIG}", home.display()))
                .hint(format!("devo init {}", home.display())));
        }
        let mut foreign = None;
        for folder in self.current.iter().flat_map(|current| current.ancestors()) {
            if folder.join(CONFIG).is_file() && folder.join(MARKER).symlink_metadata().is_ok() {
                if marked(folder) && !inside_a_run(folder) {
                    return Ok(folder.to_owned());
                }
                foreign.get_or_insert(folder);
            }
        }
        let rest = std::iter::once(&self.system).chain(&self.data);
        if let Some(home) = rest.into_iter().find(|home| home.join(CONFIG).is_file()) {
            return Ok(home.clone());
        }
        let error = Error::refused("no_home", "there is no home here");
        Err(match foreign {
            Some(folder) => {
                let why =
                    format!("{} looks like one, but `devo init` did not make it on this machine", folder.display());
                let hint = format!("if it is yours: devo --home {} …; otherwise: devo init DIR", folder.display());
                Error { causes: vec![why], ..error }.hint(hint)
            }
            None => error.hint("make one with `devo init DIR`, or name one with --home or $DEVO_HOME"),
        })
    }
}

/// Whether the folder's marker was written by `devo init`, here and by this user. A repository can bring a file of that
/// name, but not one that holds the number which this file system gave it.
fn marked(folder: &Path) -> bool {
    let path = folder.join(MARKER);
    let Ok(meta) = path.symlink_metadata() else { return false };
    let ours = meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw() && meta.len() < 4096;
    ours && std::fs::read_to_string(&path).is_ok_and(|text| text == marker_text(meta.ino()))
}

fn marker_text(inode: u64) -> String {
    format!("devo init made this home. Keep this file out of version control.\n{inode}\n")
}

/// Whether the folder lies below the `runs/` of a home: what a run checked out is never a home.
fn inside_a_run(folder: &Path) -> bool {
    let mut above = folder.ancestors().zip(folder.ancestors().skip(1));
    above.any(|(child, parent)| child.ends_with("runs") && parent.join(MARKER).exists())
}

/// What `devo init` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The home.
    pub home: PathBuf,
    /// Why it is not under git, if it is not.
    pub without_git: Option<String>,
}

/// Makes a home; refuses to touch one that is there.
pub fn make(folder: &Path) -> Result<Made, Error> {
    let home = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let failed = |what: &Path, source: std::io::Error| {
        Error::machine("init", format!("cannot write {}", what.display()), &source)
            .hint("choose a folder that you may write to: devo init DIR")
    };
    let known = [CONFIG, MARKER, "state.db", "ai", "pipelines", "schemas", "inbox", "runs", "repos"];
    if let Some(found) = known.iter().find(|name| home.join(name).symlink_metadata().is_ok()) {
        return Err(Error::refused("exists", format!("{} already holds {found}; nothing was changed", home.display()))
            .hint("choose an empty folder: devo init DIR"));
    }
    private_folder(&home).map_err(|source| failed(&home, source))?;
    for folder in FOLDERS {
        let path = home.join(folder);
        private_folder(&path).map_err(|source| failed(&path, source))?;
    }
    let mut files: Vec<(String, Vec<u8>)> = shipped::files();
    files.push((CONFIG.to_owned(), STARTER.as_bytes().to_vec()));
    if home.join(".gitignore").symlink_metadata().is_err() {
        files.push((".gitignore".to_owned(), IGNORED.as_bytes().to_vec()));
    }
    for (name, bytes) in &files {
        let path = home.join(name);
        if let Some(parent) = path.parent() {
            private_folder(parent).map_err(|source| failed(parent, source))?;
        }
        private_file(&path, bytes).map_err(|source| failed(&path, source))?;
    }
    // The marker comes last: a home that is half made is none.
    write_marker(&home).map_err(|source| failed(&home.join(MARKER), source))?;
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let without_git = under_git(&home, &names).err();
    Ok(Made { home, without_git })
}

fn write_marker(home: &Path) -> std::io::Result<()> {
    let path = home.join(MARKER);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let inode = file.metadata()?.ino();
    file.write_all(marker_text(inode).as_bytes())
}

/// Makes a folder that only its owner can look into; one that is there stays as it is.
fn private_folder(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn private_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

/// Puts the home under git with a first commit, so that every later change of policy or prompt has a date and an author.
fn under_git(home: &Path, names: &[&str]) -> Result<(), String> {
    if home.join(".git").symlink_metadata().is_ok() {
        return Err("the folder is under git already; commit the new files yourself".to_owned());
    }
    let git = |args: &[&str]| -> Result<(), String> {
        let output = Command::new("git")
            .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "commit.gpgSign=false"])
            .args(args)
            .current_dir(home)
            .env("GIT_TERMINAL_PROMPT", "0")
            // The caller's repository, if it runs us from a hook, is not ours.
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("git cannot be started: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("git {} failed: {}", args[0], said.lines().last().unwrap_or("no word from it")))
    };
    git(&["init", "-q", "-b", "main", "."])?;
    // Only what was written just now: the folder may hold other files.
    let mut add = vec!["add", "--"];
    add.extend(names);
    git(&add)?;
    let commit = ["commit", "-q", "--no-verify", "-m", "The home that devo init made"];
    // A machine without an identity still gets its first commit.
    git(&commit).or_else(|_| {
        let mut named = vec!["-c", "user.name=devo", "-c", "user.email=devo@localhost"];
        named.extend(commit);
        git(&named)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(current: &Path) -> Places {
        let nowhere = PathBuf::from("/nonexistent/devo");
        Places { explicit: None, current: Some(current.to_owned()), system: nowhere.clone(), data: Some(nowhere) }
    }

    #[test]
    fn a_made_home_is_found_from_below_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let made = make(&home).unwrap();
        assert_eq!(made.without_git, None);
        assert_eq!(places(&home.join("inbox/done")).find().unwrap(), home);
        let error = make(&home).unwrap_err();
        assert_eq!((error.code.as_str(), error.exit.code()), ("exists", 2));
        for (name, mode) in [("", 0o700), ("inbox/claimed", 0o700), (CONFIG, 0o600), (MARKER, 0o600)] {
            assert_eq!(home.join(name).metadata().unwrap().mode() & 0o777, mode, "{name}");
        }
        let kept = Command::new("git").args(["status", "--porcelain"]).current_dir(&home).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&kept.stdout), "", "everything that counts is committed, the rest ignored");
    }

    #[test]
    fn a_repository_cannot_bring_its_own_policy() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        make(&home).unwrap();
        // A clone that carries a copy of a real home's files.
        let clone = dir.path().join("clone");
        std::fs::create_dir(&clone).unwrap();
        for name in [CONFIG, MARKER] {
            std::fs::copy(home.join(name), clone.join(name)).unwrap();
        }
        let error = places(&clone).find().unwrap_err();
        assert!(error.to_text().contains("`devo init` did not make it on this machine"), "{}", error.to_text());
        // Even a true marker below runs/ does not count; the home around it does.
        let inside = home.join("runs/x/workspace");
        make(&inside).unwrap();
        assert_eq!(places(&inside).find().unwrap(), home);
    }

    #[test]
    fn explicit_comes_first_and_must_be_a_home() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        make(&home).unwrap();
        let explicit = Places { explicit: Some(dir.path().to_owned()), ..places(&home) };
        assert_eq!(explicit.find().unwrap_err().exit.code(), 2);
        let data = Places { data: Some(home.clone()), ..places(dir.path()) };
        assert_eq!(data.find().unwrap(), home);
    }
}
