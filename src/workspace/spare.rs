//! Spare workspaces: a checkout of a large repository made ahead, so that the next run need not wait for one.
//!
//! `<home>/repos/<key>.spare` holds `workspace`, the `index` that belongs to it, and the system's start in which both were
//! made. It gets its name when it is whole, is taken by one rename, and is then an ordinary workspace of a tree that is not
//! the wanted one yet: a restore compares every file with the index, writes what differs and removes what is too much. An
//! index of an earlier start is not believed, for contents may be lost with the power, and every file is read. So nothing
//! depends on a spare but the time that it saves. No sandbox sees one before it is taken, and none ever comes back.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository};

use super::error::{Error, Result};
use super::git::make_private;
use super::lock::FileLock;
use super::restore::checkout_known;
use super::store::Store;
use super::worktree::{Worktree, missing, remove_dir};
use super::{CommitId, TreeId};

/// A checkout of fewer files is quick enough.
const FILES_LEAST: u64 = 2_000;
/// As is one of fewer bytes.
const BYTES_LEAST: u64 = 50 << 20;
/// Files and folders of a tree that are counted.
const ENTRIES_MAX: u64 = 2_000_000;
/// What a file takes on a disk is a multiple of this.
const BLOCK: u64 = 4096;
/// Room that has to be there, as a multiple of the spare's size.
const ROOM: u64 = 3;

/// What came of preparing a spare workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// There is one now.
    Made,
    /// There was one.
    Ready,
    /// Another process makes one.
    Busy,
    /// The repository is small: checking it out costs less than looking after a spare.
    Small,
    /// The disk is too full.
    NoRoom,
    /// Runs lie on another disk, to which nothing can be moved.
    Apart,
}

impl Store {
    /// Makes a spare workspace with the files of `commit` for the next run that starts from this clone, if the repository
    /// is large enough and there is none. The run's folder `beside` says where runs lie; `keep_free` bytes of the disk stay
    /// free. What a call that ended early left is removed, by itself or by the next one.
    pub fn prepare_spare(
        &self,
        commit: CommitId,
        beside: &Path,
        keep_free: u64,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Prepared> {
        self.prepare_spare_of(commit, beside, (FILES_LEAST, BYTES_LEAST), keep_free, cancelled)
    }

    /// The same with what counts as large: more than so many files, or bytes.
    pub(super) fn prepare_spare_of(
        &self,
        commit: CommitId,
        beside: &Path,
        least: (u64, u64),
        keep_free: u64,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Prepared> {
        let (spare, repos) = (self.spare(), self.repos());
        let device =
            |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev).map_err(Error::errno("reading", path));
        if spare.exists() {
            return Ok(Prepared::Ready);
        }
        if device(repos)? != device(beside)? {
            return Ok(Prepared::Apart);
        }
        let repo = self.repository()?;
        let tree = repo.find_commit(commit.0).map_err(|_| missing("commit", commit.0))?.tree_id();
        let (files, bytes) = extent(&repo, tree, cancelled)?;
        if files <= least.0 && bytes <= least.1 {
            return Ok(Prepared::Small);
        }
        let lock_path = spare.with_extension("spare.lock");
        let Some(lock) = FileLock::try_at(&lock_path)? else { return Ok(Prepared::Busy) };
        let fresh = spare.with_extension("spare.new");
        // Whoever made it is dead: it would hold the lock.
        remove_dir(&fresh)?;
        let disk = rustix::fs::statvfs(repos).map_err(Error::errno("reading", repos))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < bytes.saturating_mul(ROOM).saturating_add(keep_free) {
            return Ok(Prepared::NoRoom);
        }
        let made = make(&repo, TreeId(tree), &fresh, cancelled).and_then(|()| publish(&fresh, &spare));
        if !matches!(made, Ok(true)) {
            remove_dir(&fresh)?;
        }
        drop(lock);
        Ok(if made? { Prepared::Made } else { Prepared::Ready })
    }

    /// Where a spare workspace stands, if there is one.
    pub(super) fn spare(&self) -> PathBuf {
        self.path().with_extension("spare")
    }

    fn repos(&self) -> &Path {
        self.path().parent().expect("a clone stands in a folder")
    }
}

/// Makes a spare, if there is one, the workspace of a run that has none; `false` if there is none, or none that is sound.
pub(super) fn take(store: &Store, run: &Worktree, run_dir: &Path) -> Result<bool> {
    let taken = run_dir.join("spare");
    // Of a start that was cut short.
    remove_dir(&taken)?;
    if std::fs::rename(store.spare(), &taken).is_err() {
        return Ok(false);
    }
    if become_workspace(&taken, run).is_err() {
        discard(run)?;
        remove_dir(&taken)?;
        return Ok(false);
    }
    remove_dir(&taken)?;
    Ok(true)
}

/// Removes the files and the index of a run that no sandbox has seen yet.
pub(super) fn discard(run: &Worktree) -> Result<()> {
    remove_dir(&run.workspace())?;
    remove_dir(&run.git_dir().join("index"))
}

fn become_workspace(taken: &Path, run: &Worktree) -> Result<()> {
    let into = |name: &str, to: &Path| std::fs::rename(taken.join(name), to).map_err(Error::io("making", to));
    // Without an index the files are read.
    if start_of_system().is_some_and(|now| std::fs::read(taken.join("start")).is_ok_and(|made| made == now)) {
        into("index", &run.git_dir().join("index"))?;
    }
    into("workspace", &run.workspace())
}

fn make(repo: &Repository, tree: TreeId, fresh: &Path, cancelled: &dyn Fn() -> bool) -> Result<()> {
    make_private(fresh)?;
    // Never forced to the disk: that would hold up whoever else waits for it.
    checkout_known(repo, tree, &fresh.join("workspace"), fresh, cancelled)?;
    let path = fresh.join("start");
    std::fs::write(&path, start_of_system().unwrap_or_default()).map_err(Error::io("writing", &path))
}

/// What tells one start of the system from every other.
fn start_of_system() -> Option<Vec<u8>> {
    std::fs::read("/proc/sys/kernel/random/boot_id").ok().filter(|id| !id.is_empty())
}

/// Gives a spare its name; `false` if another one has it.
fn publish(fresh: &Path, spare: &Path) -> Result<bool> {
    match std::fs::rename(fresh, spare) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => Ok(false),
        Err(error) => Err(Error::io("making", spare)(error)),
    }
}

/// How many files a tree has, and what they take on a disk.
fn extent(repo: &Repository, tree: Oid, cancelled: &dyn Fn() -> bool) -> Result<(u64, u64)> {
    let odb = repo.odb().map_err(Error::objects("opening the objects"))?;
    let (mut files, mut bytes, mut entries) = (0, 0_u64, 0);
    let mut open = vec![tree];
    while let Some(id) = open.pop() {
        let tree = repo.find_tree(id).map_err(|_| missing("tree", id))?;
        for entry in &tree {
            if cancelled() {
                return Err(Error::Cancelled { what: "looking at a tree" });
            }
            // Trees that name one another again and again can be far larger than their objects.
            entries += 1;
            if entries > ENTRIES_MAX {
                let what = "the number of files in the repository".to_owned();
                return Err(Error::TooLarge { what, limit: ENTRIES_MAX.to_string() });
            }
            match entry.kind() {
                Some(ObjectType::Tree) => open.push(entry.id()),
                Some(ObjectType::Blob) => {
                    let (size, _) = odb.read_header(entry.id()).map_err(|_| missing("blob", entry.id()))?;
                    files += 1;
                    bytes = bytes.saturating_add((size as u64).next_multiple_of(BLOCK));
                }
                _ => {}
            }
        }
    }
    Ok((files, bytes))
}
