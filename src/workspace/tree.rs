//! A read-only view of a tree for those who may not write: names, sizes and contents out of git's objects.
//!
//! Nothing is on a disk, so nothing can be followed: a link is its own text.

use std::collections::{BinaryHeap, HashSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock};

use git2::{Oid, Repository};

use super::error::{Error, Result};
use super::store::shallow_ends;
use super::worktree::missing;
use super::{CommitId, TreeId};
use crate::core::time::Timestamp;

/// Files of one tree.
const FILES_MAX: usize = 1_000_000;
/// Folders inside folders.
const DEPTH_MAX: usize = 256;
/// A larger file is not read at all: git's objects are read whole.
const READ_MAX: u64 = 64 << 20;
/// Commits that one question about the history looks at.
const HISTORY_MAX: usize = 20_000;

/// A tree that can be looked at from several threads.
pub struct TreeView {
    repo: Mutex<Repository>,
    tree: TreeId,
    commit: Option<CommitId>,
    files: OnceLock<Vec<TreeFile>>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file.
    File,
    /// A file that may be run.
    Executable,
    /// A link; its content is where it points. Never followed.
    Link,
    /// A submodule, which has no content here.
    Submodule,
}

/// A file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFile {
    /// Relative to the root, with `/`; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// In bytes; 0 for a submodule.
    pub size: u64,
    /// The id of the blob (or of a submodule's commit): equal ids, equal contents.
    pub id: String,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The beginning of it.
    pub bytes: Vec<u8>,
    /// Of the whole file, in bytes.
    pub size: u64,
    /// What it is.
    pub kind: FileKind,
}

/// A commit in a file's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// 40 hex digits.
    pub commit: String,
    /// The author's date.
    pub date: Timestamp,
    /// The author's name.
    pub author: String,
    /// The first line of the message.
    pub subject: String,
}

impl std::fmt::Debug for TreeView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TreeView({})", self.tree)
    }
}

impl TreeView {
    pub(super) fn new(repo: Repository, tree: TreeId, commit: Option<CommitId>) -> Result<Self> {
        repo.find_tree(tree.0).map_err(|_| missing("tree", tree.0))?;
        Ok(Self { repo: Mutex::new(repo), tree, commit, files: OnceLock::new() })
    }

    /// The tree's id.
    pub fn id(&self) -> TreeId {
        self.tree
    }

    /// Every file, sorted by path; read once.
    pub fn files(&self) -> Result<&[TreeFile]> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let mut files = Vec::new();
        {
            let repo = self.repo();
            let odb = repo.odb().map_err(Error::objects("opening the objects"))?;
            // Trees that are still to be read, with the path that leads to them.
            let mut open = vec![(String::new(), self.tree.0, 0)];
            while let Some((folder, id, depth)) = open.pop() {
                let tree = repo.find_tree(id).map_err(|_| missing("tree", id))?;
                for entry in &tree {
                    let path = format!("{folder}{}", String::from_utf8_lossy(entry.name_bytes()));
                    let id = entry.id();
                    let Some(kind) = kind_of(entry.filemode_raw()) else {
                        if depth < DEPTH_MAX {
                            open.push((path + "/", id, depth + 1));
                        }
                        continue;
                    };
                    let size = match kind {
                        FileKind::Submodule => 0,
                        _ => odb.read_header(id).map_err(|_| missing("blob", id))?.0 as u64,
                    };
                    if files.len() == FILES_MAX {
                        let what = "the number of files in the repository".to_owned();
                        return Err(Error::TooLarge { what, limit: FILES_MAX.to_string() });
                    }
                    files.push(TreeFile { path, kind, size, id: id.to_string() });
                }
            }
        }
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(self.files.get_or_init(|| files))
    }

    /// Whether there is a file, a link or a submodule at the path.
    pub fn has_file(&self, path: &str) -> bool {
        self.find(path).is_ok_and(|(_, mode)| kind_of(mode).is_some())
    }

    /// The first `most` bytes of a file, or where a link points.
    pub fn read(&self, path: &str, most: usize) -> Result<Content> {
        let (id, mode) = self.find(path)?;
        let kind = kind_of(mode).filter(|kind| *kind != FileKind::Submodule);
        let kind = kind.ok_or_else(|| Error::NoSuchPath { path: path.to_owned() })?;
        let repo = self.repo();
        let odb = repo.odb().map_err(Error::objects("opening the objects"))?;
        let (size, _) = odb.read_header(id).map_err(|_| missing("blob", id))?;
        if size as u64 > READ_MAX {
            return Err(Error::TooLarge { what: format!("the size of {path}"), limit: "64 MiB".to_owned() });
        }
        let object = odb.read(id).map_err(|_| missing("blob", id))?;
        Ok(Content { bytes: object.data()[..size.min(most)].to_vec(), size: size as u64, kind })
    }

    /// The newest commits that changed a file or folder (an empty path: any commit), up to `limit`, out of the last 20,000.
    /// Nothing for a view of a tree that is no commit's.
    pub fn log(&self, path: &str, limit: usize) -> Result<Vec<LogEntry>> {
        let reading = || Error::objects("reading the history");
        let Some(commit) = self.commit else { return Ok(Vec::new()) };
        let path = path.trim_matches('/');
        let repo = self.repo();
        let ends = shallow_ends(repo.path())?;
        let ids: Vec<Oid> = if !ends.is_empty() {
            newest_first(&repo, commit.0, &ends)?
        } else {
            let mut walk = repo.revwalk().map_err(reading())?;
            walk.set_sorting(git2::Sort::TIME | git2::Sort::TOPOLOGICAL).map_err(reading())?;
            walk.push(commit.0).map_err(reading())?;
            walk.take(HISTORY_MAX).collect::<std::result::Result<_, _>>().map_err(reading())?
        };
        let at = |commit: &git2::Commit<'_>| -> Result<Option<Oid>> {
            let tree = commit.tree().map_err(reading())?;
            Ok(tree.get_path(Path::new(path)).ok().map(|entry| entry.id()))
        };
        let mut log = Vec::new();
        for id in ids {
            if log.len() >= limit {
                break;
            }
            let commit = repo.find_commit(id).map_err(reading())?;
            if !path.is_empty() {
                // Where a shallow history ends nobody can say what changed.
                if ends.contains(&id) {
                    continue;
                }
                let here = at(&commit)?;
                let mut changed = commit.parent_count() > 0 || here.is_some();
                for parent in commit.parents() {
                    changed &= at(&parent)? != here;
                }
                if !changed {
                    continue;
                }
            }
            let author = commit.author();
            log.push(LogEntry {
                commit: commit.id().to_string(),
                date: Timestamp(author.when().seconds().saturating_mul(1000)),
                author: String::from_utf8_lossy(author.name_bytes()).into_owned(),
                subject: String::from_utf8_lossy(commit.summary_bytes().unwrap_or_default()).into_owned(),
            });
        }
        Ok(log)
    }

    fn find(&self, path: &str) -> Result<(Oid, i32)> {
        let none = || Error::NoSuchPath { path: path.chars().take(200).collect() };
        if path.is_empty() || path.starts_with('/') || path.contains('\0') {
            return Err(none());
        }
        let repo = self.repo();
        let tree = repo.find_tree(self.tree.0).map_err(|_| missing("tree", self.tree.0))?;
        let entry = tree.get_path(Path::new(path)).map_err(|_| none())?;
        Ok((entry.id(), entry.filemode_raw()))
    }

    fn repo(&self) -> MutexGuard<'_, Repository> {
        // Reading leaves nothing half done, so a panic of another reader does not matter.
        self.repo.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The commits of a history that ends early, by date; libgit2's own walk does not know of such ends.
fn newest_first(repo: &Repository, tip: Oid, ends: &[Oid]) -> Result<Vec<Oid>> {
    let reading = || Error::objects("reading the history");
    let date = |id: Oid| repo.find_commit(id).map(|commit| commit.time().seconds()).map_err(reading());
    let (mut seen, mut ids) = (HashSet::from([tip]), Vec::new());
    let mut open = BinaryHeap::from([(date(tip)?, tip)]);
    while let Some((_, id)) = open.pop().filter(|_| ids.len() < HISTORY_MAX) {
        ids.push(id);
        if ends.contains(&id) {
            continue;
        }
        for parent in repo.find_commit(id).map_err(reading())?.parent_ids() {
            if seen.insert(parent) {
                open.push((date(parent)?, parent));
            }
        }
    }
    Ok(ids)
}

/// `None` for a folder.
fn kind_of(mode: i32) -> Option<FileKind> {
    match mode & 0o170_000 {
        0o040_000 => None,
        0o120_000 => Some(FileKind::Link),
        0o160_000 => Some(FileKind::Submodule),
        _ if mode & 0o100 != 0 => Some(FileKind::Executable),
        _ => Some(FileKind::File),
    }
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<TreeView>();
};
