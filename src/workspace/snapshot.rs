//! Workspace → tree, without filters and without following a link.
//!
//! A snapshot depends on the files and on the base commit alone: what the base has is taken though a `.gitignore` names it,
//! everything else obeys the workspace's own `.gitignore` files. The index only saves work: it remembers what a file held
//! when it had these times, this inode and this size.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};

use git2::{Index, IndexEntry, ObjectType, Odb, Oid, Repository, Tree};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::TreeId;
use super::entries::*;
use super::error::{Error, Result};
use super::folder::{Folder, as_path, shown};
use super::ignored::{IGNORE_TEXT_MAX, Rules};
use super::worktree::Worktree;

/// Files of one workspace.
const FILES_MAX: usize = 1_000_000;
/// One file.
const FILE_MAX: u64 = 1 << 30;
/// Files up to here are read whole, larger ones in pieces.
const WHOLE_MAX: u64 = 32 << 20;
/// Of the list of what was left out.
const REPORTED_MAX: usize = 100;

/// What the workspace held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The tree, kept by a ref.
    pub tree: TreeId,
    /// What is in the workspace but not in the tree, ignored files aside; the first 100.
    pub left_out: Vec<LeftOut>,
    /// How many there are in all.
    pub left_out_count: usize,
}

/// Something that a snapshot does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Relative to the workspace, for people.
    pub path: String,
    /// Why.
    pub why: Why,
}

/// Why something is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A `.git`, in any spelling.
    Git,
    /// The inside of a submodule; the submodule stays at its commit.
    Submodule,
    /// A pipe, socket or device.
    Special,
    /// More than 128 folders deep.
    TooDeep,
    /// A name that git does not take.
    Name,
    /// A `.gitignore` that is too long; its rules did not apply.
    IgnoreRules,
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = match self.why {
            Why::Git => "a repository inside the workspace is not taken",
            Why::Submodule => "what is in a submodule is not taken",
            Why::Special => "pipes, sockets and devices are not taken",
            Why::TooDeep => "folders this deep are not taken",
            Why::Name => "git does not take this name",
            Why::IgnoreRules => "it is too long, so its rules did not apply",
        };
        write!(f, "{}: {why}", self.path)
    }
}

impl Worktree {
    /// Takes the workspace as it is. `label` (`[A-Za-z0-9._-]`) keeps the tree; a label that is used again moves.
    pub fn snapshot(&self, label: &str) -> Result<Snapshot> {
        let reference = label_ref(label)?;
        let _lock = self.lock()?;
        let repo = self.repository()?;
        let base = tree_of(&repo, self.base())?;
        let index = open_index(&self.git_dir())?;
        let workspace = self.workspace();
        let root = Folder::root(&workspace).map_err(Error::errno("opening", &workspace))?;
        let mut taking = Taking {
            repo: &repo,
            odb: repo.odb().map_err(Error::objects("opening the objects"))?,
            known: entries(&index),
            index,
            rules: Rules::default(),
            settled: now_of(&self.git_dir())?,
            files: 0,
            left_out: Vec::new(),
            left_out_count: 0,
            changed: false,
        };
        taking.folder(&root, &mut Vec::new(), Some(&base), false, 0)?;
        let gone: Vec<Vec<u8>> = taking.known.drain().map(|(path, _)| path).collect();
        for path in &gone {
            // An entry may have left already, when a folder took its file's place.
            let _ = taking.index.remove(as_path(path), 0);
        }
        let tree = taking.index.write_tree_to(&repo).map_err(Error::objects("writing the snapshot"))?;
        if taking.changed || !gone.is_empty() {
            taking.index.write().map_err(Error::objects("writing the index"))?;
        }
        repo.reference(&reference, tree, true, "").map_err(Error::objects("keeping the snapshot"))?;
        Ok(Snapshot { tree: TreeId(tree), left_out: taking.left_out, left_out_count: taking.left_out_count })
    }
}

/// The ref that keeps a snapshot.
pub(super) fn label_ref(label: &str) -> Result<String> {
    let name = format!("refs/devo/snapshots/{label}");
    let sound = label.len() <= 120
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && git2::Reference::is_valid_name(&name);
    if sound {
        Ok(name)
    } else {
        Err(Error::BadBranch { name: shown(label.as_bytes()), why: "it cannot label a snapshot" })
    }
}

/// A walk that takes a snapshot.
struct Taking<'a> {
    repo: &'a Repository,
    odb: Odb<'a>,
    index: Index,
    /// Entries of the index that were not met yet.
    known: HashMap<Vec<u8>, IndexEntry>,
    rules: Rules,
    settled: i128,
    files: usize,
    left_out: Vec<LeftOut>,
    left_out_count: usize,
    changed: bool,
}

impl Taking<'_> {
    fn folder(
        &mut self,
        at: &Folder,
        path: &mut Vec<u8>,
        base: Option<&Tree>,
        ignored: bool,
        depth: usize,
    ) -> Result<()> {
        let items = at.items().map_err(failed("reading", path))?;
        // As git: rules inside an ignored folder do not count.
        let text = match items.iter().any(|item| item.name == b".gitignore" && item.kind == FileType::RegularFile) {
            true if !ignored => Some(at.small_file(b".gitignore", IGNORE_TEXT_MAX).map_err(failed("reading", path))?),
            _ => None,
        };
        let too_long = matches!(text, Some(None));
        let applied = self.rules.enter(prefix(path), text.flatten().as_deref());
        if too_long || !applied {
            let before = push_name(path, b".gitignore");
            self.leave_out(path, Why::IgnoreRules);
            path.truncate(before);
        }
        for item in items {
            let before = push_name(path, &item.name);
            self.item(at, &item.name, item.kind, path, base, ignored, depth)?;
            path.truncate(before);
        }
        self.rules.leave();
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // where the walk stands
    fn item(
        &mut self,
        at: &Folder,
        name: &[u8],
        kind: FileType,
        path: &mut Vec<u8>,
        base: Option<&Tree>,
        ignored: bool,
        depth: usize,
    ) -> Result<()> {
        let in_base = base.and_then(|tree| tree.get_name_bytes(name));
        let folder = kind == FileType::Directory;
        // A file of the base is taken in any case, which spares most files the question.
        let file_in_base = !folder && in_base.as_ref().is_some_and(|found| found.kind() == Some(ObjectType::Blob));
        let ignored = ignored || (!file_in_base && self.rules.ignore(path, folder));
        if is_dot_git(name) {
            if !ignored {
                self.leave_out(path, Why::Git);
            }
            return Ok(());
        }
        if let Some(link) = in_base.as_ref().filter(|found| found.filemode() as u32 == MODE_SUBMODULE) {
            return self.submodule(at, name, folder, path, link.id());
        }
        match kind {
            FileType::Directory => {
                let sub_base = match in_base.filter(|found| found.kind() == Some(ObjectType::Tree)) {
                    Some(found) => Some(
                        self.repo.find_tree(found.id()).map_err(|_| super::worktree::missing("tree", found.id()))?,
                    ),
                    None if ignored => return Ok(()),
                    None => None,
                };
                if depth + 1 >= DEPTH_MAX {
                    self.leave_out(path, Why::TooDeep);
                    return Ok(());
                }
                match at.sub(name) {
                    Ok(sub) => self.folder(&sub, path, sub_base.as_ref(), ignored, depth + 1),
                    // Gone or exchanged meanwhile: as if it had never been there.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                    Err(error) => Err(failed("reading", path)(error)),
                }
            }
            FileType::RegularFile | FileType::Symlink => {
                if ignored && !file_in_base {
                    return Ok(());
                }
                // Git refuses a link by this name, for it would be followed elsewhere.
                if kind == FileType::Symlink && !file_in_base && folded(name).is_some_and(|name| name == ".gitmodules")
                {
                    self.leave_out(path, Why::Name);
                    return Ok(());
                }
                self.file(at, name, path)
            }
            _ => {
                if !ignored {
                    self.leave_out(path, Why::Special);
                }
                Ok(())
            }
        }
    }

    fn file(&mut self, at: &Folder, name: &[u8], path: &[u8]) -> Result<()> {
        self.files += 1;
        if self.files > FILES_MAX {
            let what = "the number of files in the workspace".to_owned();
            return Err(Error::TooLarge { what, limit: FILES_MAX.to_string() });
        }
        // One that is gone by now stays among the known, and leaves the index with them.
        let Some(stat) = at.stat(name).map_err(failed("reading", path))? else { return Ok(()) };
        if self.known.get(path).is_some_and(|known| unchanged(known, &stat, mode_of(&stat))) {
            self.known.remove(path);
            return Ok(());
        }
        let (stat, id) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = at.link_target(name).map_err(failed("reading", path))?;
                (stat, self.odb.write(ObjectType::Blob, &target).map_err(Error::objects("writing the snapshot"))?)
            }
            _ => match at.open(name) {
                Ok((file, stat)) => (stat, self.contents(file, stat.st_size as u64, path)?),
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(failed("reading", path)(error)),
            },
        };
        let mut new = entry(path, &stat, mode_of(&stat), id);
        distrust_if_fresh(&mut new, self.settled);
        self.changed = true;
        match self.index.add(&new) {
            Ok(()) => {
                self.known.remove(path);
                Ok(())
            }
            // A name that libgit2 does not take. What the index had under it goes with the known.
            Err(error) if error.class() == git2::ErrorClass::Index => {
                self.leave_out(path, Why::Name);
                Ok(())
            }
            Err(error) => Err(Error::objects("writing the snapshot")(error)),
        }
    }

    fn contents(&self, mut file: std::fs::File, size: u64, path: &[u8]) -> Result<Oid> {
        if size > FILE_MAX {
            let what = format!("the size of {}", shown(path));
            return Err(Error::TooLarge { what, limit: "1 GiB".to_owned() });
        }
        let reading = || Error::io("reading", shown(path));
        let writing = || Error::objects("writing the snapshot");
        if size <= WHOLE_MAX {
            let mut bytes = Vec::with_capacity(size as usize);
            file.take(WHOLE_MAX + 1).read_to_end(&mut bytes).map_err(reading())?;
            return self.odb.write(ObjectType::Blob, &bytes).map_err(writing());
        }
        let mut writer = self.odb.writer(size as usize, ObjectType::Blob).map_err(writing())?;
        let mut left = size as usize;
        let mut chunk = vec![0_u8; 1 << 20];
        while left > 0 {
            let most = left.min(chunk.len());
            file.read_exact(&mut chunk[..most]).map_err(reading())?;
            writer.write_all(&chunk[..most]).map_err(Error::io("writing the snapshot of", shown(path)))?;
            left -= most;
        }
        writer.finalize().map_err(writing())
    }

    /// A submodule stays at its commit while its folder stands; what is in the folder is not ours.
    fn submodule(&mut self, at: &Folder, name: &[u8], folder: bool, path: &[u8], id: Oid) -> Result<()> {
        let empty = folder && at.sub(name).and_then(|sub| sub.items()).is_ok_and(|items| items.is_empty());
        if !empty {
            self.leave_out(path, Why::Submodule);
        }
        let Some(stat) = at.stat(name).map_err(failed("reading", path))? else { return Ok(()) };
        let known = self.known.remove(path);
        if known.is_some_and(|known| known.mode == MODE_SUBMODULE && known.id == id) {
            return Ok(());
        }
        self.changed = true;
        self.index.add(&entry(path, &stat, MODE_SUBMODULE, id)).map_err(Error::objects("writing the snapshot"))
    }

    fn leave_out(&mut self, path: &[u8], why: Why) {
        self.left_out_count += 1;
        if self.left_out.len() < REPORTED_MAX {
            self.left_out.push(LeftOut { path: shown(path), why });
        }
    }
}
