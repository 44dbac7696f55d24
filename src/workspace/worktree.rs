//! A run's git dir and workspace: made, found again after a crash, committed to.
//!
//! `<run>/git` is a bare git dir of our own, `<run>/workspace` plain files without any `.git`. Only the workspace is shown
//! to a sandbox. All changes go through one lock per run; locks that a dead process left inside the git dir are cleared.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use git2::{Oid, Repository};
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::folder::Folder;
use super::git::{Patience, make_private};
use super::lock::lock_file;
use super::protect::BranchName;
use super::restore::Others;
use super::store::Store;
use super::tree::TreeView;
use super::{CommitId, TreeId, restore, snapshot, spare};
use crate::core::time::Timestamp;

/// Commits of one run that are looked through; a run makes one per round.
const COMMITS_MAX: usize = 1000;
/// The longest message of a commit, in bytes.
const MESSAGE_MAX: usize = 64 << 10;
/// How long a call waits for another one on the same run.
const PATIENCE: Duration = Duration::from_secs(60);

/// A run's workspace and the git dir beside it. Cheap to clone; every call opens what it needs.
#[derive(Debug, Clone)]
pub struct Worktree {
    run_dir: PathBuf,
    base: CommitId,
    branch: BranchName,
}

/// Who made a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// For instance `devo`.
    pub name: String,
    /// For instance `devo@localhost`.
    pub email: String,
}

/// A commit to be written. The same values always give the same id.
#[derive(Debug, Clone)]
pub struct NewCommit<'a> {
    /// What it holds.
    pub tree: TreeId,
    /// The one commit before it.
    pub parent: CommitId,
    /// Subject, blank line, body, trailers.
    pub message: &'a str,
    /// Who wrote the change.
    pub author: &'a Author,
    /// Who commits it.
    pub committer: &'a Author,
    /// Author's and committer's date; whole seconds count.
    pub date: Timestamp,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Origin {
    base: CommitId,
    branch: BranchName,
}

impl Worktree {
    /// Makes the workspace of a run: the files of `base`, and `branch` at that commit. Doing it again is harmless: a whole
    /// one is left as it is, a half-made one is made anew, one of another base or branch is an error.
    pub fn create(run_dir: &Path, store: &Store, base: CommitId, branch: &BranchName) -> Result<Self> {
        make_private(run_dir)?;
        let this = Self { run_dir: run_dir.to_owned(), base, branch: branch.clone() };
        let lock = this.lock()?;
        let git_dir = this.git_dir();
        match this.origin()? {
            Some(found) => this.check_origin(&found)?,
            None => {
                let store_repo = store.repository()?;
                store_repo.find_commit(base.0).map_err(|_| missing("commit", base.0))?;
                let fresh = this.run_dir.join("git.new");
                remove_dir(&fresh)?;
                remove_dir(&git_dir)?;
                write_bare(&fresh, branch.as_str(), Some(store.path()), true)?;
                // Where the clone's history ends, so that git looks for nothing behind it when it pushes.
                match std::fs::read(store.path().join("shallow")) {
                    Ok(ends) => write_synced(&fresh.join("shallow"), &ends)?,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(Error::io("reading", store.path().join("shallow"))(error)),
                }
                let origin = Origin { base, branch: branch.clone() };
                write_synced(&fresh.join("devo-origin"), &serde_json::to_vec(&origin).expect("plain data is JSON"))?;
                open_bare(&fresh)?
                    .reference(&branch.full(), base.0, true, "")
                    .map_err(Error::objects("making the branch"))?;
                std::fs::rename(&fresh, &git_dir).map_err(Error::io("making", &git_dir))?;
                sync_dir(&this.run_dir)?;
            }
        }
        write_alternates(&git_dir, store.path())?;
        let ready = git_dir.join("devo-ready");
        if !ready.exists() || !this.workspace().exists() {
            let tree = this.tree_of(base)?;
            let taken = !this.workspace().exists() && spare::take(store, &this, run_dir)?;
            make_private(&this.workspace())?;
            match restore::restore(&this, tree, Others::Go) {
                // Whatever is wrong with a spare, it holds up no run.
                Err(_) if taken => {
                    spare::discard(&this)?;
                    make_private(&this.workspace())?;
                    restore::restore(&this, tree, Others::Go)?;
                }
                other => other?,
            }
            write_synced(&ready, b"")?;
        }
        drop(lock);
        Ok(this)
    }

    /// Finds the workspace that [`Worktree::create`] made.
    pub fn open(run_dir: &Path, store: &Store) -> Result<Self> {
        let this = Self::find(run_dir)?.ok_or_else(|| Error::NoWorkspace { path: run_dir.to_owned() })?;
        write_alternates(&this.git_dir(), store.path())?;
        Ok(this)
    }

    /// The same for looking: it takes the store for granted where it was, and `None` where no whole workspace was made yet.
    pub fn find(run_dir: &Path) -> Result<Option<Self>> {
        let Some(origin) = read_origin(&run_dir.join("git"))? else { return Ok(None) };
        let this = Self { run_dir: run_dir.to_owned(), base: origin.base, branch: origin.branch };
        let whole = this.git_dir().join("devo-ready").exists() && this.workspace().is_dir();
        Ok(whole.then_some(this))
    }

    /// Removes the workspace and the git dir of a run, snapshots included.
    pub fn remove(run_dir: &Path) -> Result<()> {
        for name in ["workspace", "spare", "git.new", "git"] {
            remove_dir(&run_dir.join(name))?;
        }
        match std::fs::remove_file(run_dir.join("git.lock")) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io("removing", run_dir.join("git.lock"))(error))
            }
            _ => Ok(()),
        }
    }

    /// The files that a sandbox may see and change.
    pub fn workspace(&self) -> PathBuf {
        self.run_dir.join("workspace")
    }

    /// The git dir, which no sandbox may see.
    pub fn git_dir(&self) -> PathBuf {
        self.run_dir.join("git")
    }

    /// The commit that the run started from.
    pub fn base(&self) -> CommitId {
        self.base
    }

    /// The run's branch.
    pub fn branch(&self) -> &BranchName {
        &self.branch
    }

    /// The commit that the run's branch is at.
    pub fn head(&self) -> Result<CommitId> {
        head(&self.repository()?, &self.branch)
    }

    /// The tree of a commit.
    pub fn tree_of(&self, commit: CommitId) -> Result<TreeId> {
        let repo = self.repository()?;
        let commit = repo.find_commit(commit.0).map_err(|_| missing("commit", commit.0))?;
        Ok(TreeId(commit.tree_id()))
    }

    /// A read-only view of a tree of this run, for instance of a snapshot.
    pub fn view(&self, tree: TreeId) -> Result<TreeView> {
        TreeView::new(self.repository()?, tree, None)
    }

    /// The tree that a snapshot's label stands for.
    pub fn snapshot_of(&self, label: &str) -> Result<Option<TreeId>> {
        let repo = self.repository()?;
        match repo.refname_to_id(&snapshot::label_ref(label)?) {
            Ok(id) => Ok(Some(TreeId(id))),
            Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
            Err(error) => Err(Error::objects("looking for a snapshot")(error)),
        }
    }

    /// Writes a commit and moves the run's branch from its parent to it. Repeating it gives the same id and changes
    /// nothing; a branch that stands elsewhere is not moved.
    pub fn commit(&self, new: &NewCommit<'_>) -> Result<CommitId> {
        let _lock = self.lock()?;
        let repo = self.repository()?;
        let parent = repo.find_commit(new.parent.0).map_err(|_| missing("commit", new.parent.0))?;
        if parent.tree_id() == new.tree.0 {
            return Err(Error::NothingToCommit { parent: new.parent.to_string() });
        }
        let tree = repo.find_tree(new.tree.0).map_err(|_| missing("tree", new.tree.0))?;
        let bad = |why: &str| Error::BadCommit { why: why.to_owned() };
        if new.message.trim().is_empty() || new.message.contains('\0') {
            return Err(bad("its message is empty or holds a NUL"));
        }
        if new.message.len() > MESSAGE_MAX {
            return Err(bad("its message is longer than 64 KiB"));
        }
        let message = git2::message_prettify(new.message, None).map_err(|error| bad(error.message()))?;
        let time = git2::Time::new(new.date.0.div_euclid(1000), 0);
        let sign = |who: &Author| {
            if [&who.name, &who.email].iter().any(|text| text.chars().any(char::is_control)) {
                return Err(bad("a name or an address holds control characters"));
            }
            git2::Signature::new(&who.name, &who.email, &time).map_err(|error| bad(error.message()))
        };
        let (author, committer) = (sign(new.author)?, sign(new.committer)?);
        let buffer = repo
            .commit_create_buffer(&author, &committer, &message, &tree, &[&parent])
            .map_err(Error::objects("writing the commit"))?;
        let odb = repo.odb().map_err(Error::objects("writing the commit"))?;
        let id = odb.write(git2::ObjectType::Commit, &buffer).map_err(Error::objects("writing the commit"))?;

        let found = head(&repo, &self.branch)?;
        if found.0 == id {
            return Ok(found);
        }
        let moved = |found: CommitId| Error::BranchMoved {
            branch: self.branch.to_string(),
            found: found.to_string(),
            expected: new.parent.to_string(),
        };
        if found != new.parent {
            return Err(moved(found));
        }
        match repo.reference_matching(&self.branch.full(), id, true, new.parent.0, "") {
            Ok(_) => Ok(CommitId(id)),
            Err(error) if error.code() == git2::ErrorCode::Modified => Err(moved(head(&repo, &self.branch)?)),
            Err(error) => Err(Error::objects("moving the branch")(error)),
        }
    }

    /// The newest commit of this run whose message has the trailer `key: value`.
    pub fn find_commit_by_trailer(&self, key: &str, value: &str) -> Result<Option<CommitId>> {
        let repo = self.repository()?;
        for id in self.own_commits(&repo, self.head()?)? {
            let commit = repo.find_commit(id).map_err(Error::objects("reading a commit"))?;
            let Ok(trailers) = git2::message_trailers_bytes(commit.message_raw_bytes()) else { continue };
            if trailers
                .iter()
                .any(|(k, v)| k.eq_ignore_ascii_case(key.as_bytes()) && v.trim_ascii() == value.as_bytes())
            {
                return Ok(Some(CommitId(id)));
            }
        }
        Ok(None)
    }

    /// The commits from `tip` down to the base, without it, newest first; empty if `tip` does not stand on the base.
    pub(super) fn own_commits(&self, repo: &Repository, tip: CommitId) -> Result<Vec<Oid>> {
        let mut ids = Vec::new();
        let mut at = tip.0;
        while at != self.base.0 {
            if ids.len() == COMMITS_MAX {
                return Ok(Vec::new());
            }
            ids.push(at);
            let commit = repo.find_commit(at).map_err(|_| missing("commit", at))?;
            match commit.parent_id(0) {
                Ok(parent) => at = parent,
                Err(_) => return Ok(Vec::new()),
            }
        }
        Ok(ids)
    }

    pub(super) fn repository(&self) -> Result<Repository> {
        open_bare(&self.git_dir())
    }

    /// Keeps every other call that changes this run out, other processes included, until the file is closed.
    pub(super) fn lock(&self) -> Result<File> {
        let patience = Patience::of(PATIENCE);
        let lock = lock_file(&self.run_dir.join("git.lock"), patience, "waiting for the run's git dir")?;
        // Whoever made these is dead: it would hold the lock.
        clear_stale_locks(&self.git_dir())?;
        Ok(lock)
    }

    fn origin(&self) -> Result<Option<Origin>> {
        read_origin(&self.git_dir())
    }

    fn check_origin(&self, found: &Origin) -> Result<()> {
        if found.base == self.base && found.branch == self.branch {
            return Ok(());
        }
        Err(Error::OtherWorkspace {
            path: self.run_dir.clone(),
            found: format!("{} on {}", found.branch, found.base),
            wanted: format!("{} on {}", self.branch, self.base),
        })
    }
}

fn head(repo: &Repository, branch: &BranchName) -> Result<CommitId> {
    repo.refname_to_id(&branch.full()).map(CommitId).map_err(Error::objects("reading the branch"))
}

pub(super) fn missing(kind: &'static str, id: Oid) -> Error {
    Error::MissingObject { kind, id: id.to_string() }
}

fn read_origin(git_dir: &Path) -> Result<Option<Origin>> {
    let path = git_dir.join("devo-origin");
    match std::fs::read(&path) {
        // One that does not parse was never whole: it is written before its folder gets its name.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::io("reading", path)(error)),
    }
}

/// Opens a bare git dir; configuration of the user or the system has no say in what is done with it.
pub(super) fn open_bare(path: &Path) -> Result<Repository> {
    Repository::open_bare(path).map_err(Error::objects("opening the git dir"))
}

/// Writes an empty bare git dir: no template, no hooks, only our configuration. `branch` is what HEAD names.
pub(super) fn write_bare(path: &Path, branch: &str, alternate: Option<&Path>, durable: bool) -> Result<()> {
    make_private(path)?;
    for folder in ["objects/info", "objects/pack", "refs/heads"] {
        make_private(&path.join(folder))?;
    }
    let config = format!(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n\tlogAllRefUpdates = false\n\
         \tautocrlf = false\n\tsymlinks = true\n{}[gc]\n\tauto = 0\n",
        if durable { "\tfsyncObjectFiles = true\n" } else { "" }
    );
    write_synced(&path.join("config"), config.as_bytes())?;
    write_synced(&path.join("HEAD"), format!("ref: refs/heads/{branch}\n").as_bytes())?;
    match alternate {
        Some(store) => write_alternates(path, store),
        None => Ok(()),
    }
}

/// Points to the objects of the bare clone; written anew where the home has moved.
fn write_alternates(git_dir: &Path, store: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = git_dir.join("objects/info/alternates");
    let mut wanted = store.join("objects").as_os_str().as_bytes().to_vec();
    wanted.push(b'\n');
    if std::fs::read(&path).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    write_synced(&path, &wanted)
}

/// Writes a file whole or not at all, to the disk.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    let failed = || Error::io("writing", path);
    let mut file = File::create(&fresh).map_err(failed())?;
    file.write_all(bytes).map_err(failed())?;
    file.sync_all().map_err(failed())?;
    std::fs::rename(&fresh, path).map_err(failed())?;
    sync_dir(path.parent().expect("a file stands in a folder"))
}

pub(super) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(Error::io("writing", path))
}

/// Removes a folder with all that is in it, following nothing; nothing there is fine.
pub(super) fn remove_dir(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    match Folder::root(parent) {
        Ok(folder) => folder.remove(name.as_encoded_bytes()).map_err(Error::errno("removing", path)),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(Error::errno("removing", path)(error)),
    }
}

/// Removes `*.lock` files of refs and index, and unfinished packs. Only for who holds our own lock.
pub(super) fn clear_stale_locks(git_dir: &Path) -> Result<()> {
    fn visit(folder: &Path, depth: usize) -> std::io::Result<()> {
        let entries = match std::fs::read_dir(folder) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            // Branches nest a few levels; a bound keeps a damaged folder from mattering.
            if kind.is_dir() && depth < 20 {
                visit(&entry.path(), depth + 1)?;
            } else if kind.is_file() && entry.path().extension().is_some_and(|end| end == "lock") {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
    let failed = || Error::io("clearing old locks in", git_dir);
    visit(&git_dir.join("refs"), 0).map_err(failed())?;
    for name in ["index.lock", "HEAD.lock", "packed-refs.lock", "shallow.lock", "config.lock"] {
        match std::fs::remove_file(git_dir.join(name)) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(failed()(error));
            }
            _ => {}
        }
    }
    for entry in std::fs::read_dir(git_dir.join("objects/pack")).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"tmp_") {
            std::fs::remove_file(entry.path()).map_err(failed())?;
        }
    }
    Ok(())
}
