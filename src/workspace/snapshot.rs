//! Workspace → tree and tree → workspace, without filters and without following a link.
//!
//! A snapshot depends on the files and on the base commit alone: what the base has is taken though a `.gitignore` names
//! it, everything else obeys the workspace's own `.gitignore` files. A restore obeys those of the tree that it restores, so
//! that a snapshot taken right after it gives that very tree. The index only saves work: it remembers what a file held
//! when it had these times, this inode and this size.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::path::Path;

use git2::{Index, IndexEntry, IndexTime, ObjectType, Odb, Oid, Repository, Tree};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::folder::{Folder, Item, as_path, shown};
use super::git::make_private;
use super::ignored::{Rules, TEXT_MAX};
use super::worktree::{Worktree, missing};
use super::{CommitId, TreeId};

/// Folders inside folders; each level of a walk holds one open file.
const DEPTH_MAX: usize = 128;
/// Files of one workspace.
const FILES_MAX: usize = 1_000_000;
/// One file.
const FILE_MAX: u64 = 1 << 30;
/// Files up to here are read whole, larger ones in pieces.
const WHOLE_MAX: u64 = 32 << 20;
/// Of the list of what was left out.
const REPORTED_MAX: usize = 100;
/// A change within this time of an earlier one may leave a file's times as they were.
const GRAIN_NS: i128 = 50_000_000;
/// The same on a file system that counts whole seconds.
const COARSE_GRAIN_NS: i128 = 2_000_000_000;

/// Modes of entries.
const MODE_TREE: u32 = 0o040_000;
const MODE_LINK: u32 = 0o120_000;
const MODE_SUBMODULE: u32 = 0o160_000;
const MODE_FILE: u32 = 0o100_644;
const MODE_EXECUTABLE: u32 = 0o100_755;

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

    /// Puts the workspace back to a tree: changed, missing and new files; ignored ones stay. Files that are as they should
    /// be are not touched, so that their times stay.
    pub fn restore(&self, tree: TreeId) -> Result<()> {
        let _lock = self.lock()?;
        restore(self, tree)
    }

    /// Writes exactly the files of a tree to `dest`, which is made, or emptied if it is there. Submodules are empty
    /// folders. `dest` may not be in the workspace.
    pub fn checkout_clean(&self, tree: TreeId, dest: &Path) -> Result<()> {
        if !dest.is_absolute() || dest.starts_with(self.workspace()) || dest.starts_with(self.git_dir()) {
            return Err(Error::io("checking out into", dest)(std::io::ErrorKind::InvalidInput.into()));
        }
        let repo = self.repository()?;
        checkout_clean(&repo, tree, dest)
    }
}

/// As [`Worktree::restore`], for who holds the lock.
pub(super) fn restore(worktree: &Worktree, tree: TreeId) -> Result<()> {
    let repo = worktree.repository()?;
    let workspace = worktree.workspace();
    let root = Folder::root(&workspace).map_err(Error::errno("opening", &workspace))?;
    let mut index = open_index(&worktree.git_dir())?;
    let mut putting = Putting::new(&repo, entries(&index));
    let base = tree_of(&repo, worktree.base())?;
    let tree = repo.find_tree(tree.0).map_err(|_| missing("tree", tree.0))?;
    putting.folder(&root, &mut Vec::new(), Some(&tree), Some(&base), false, 0)?;
    // Nobody else writes meanwhile, so what was written a grain before the end cannot change unnoticed after it.
    let settled = now_of(&worktree.git_dir())?;
    index.clear().map_err(Error::objects("writing the index"))?;
    for mut entry in putting.present {
        distrust_if_fresh(&mut entry, settled);
        index.add(&entry).map_err(Error::objects("writing the index"))?;
    }
    index.write().map_err(Error::objects("writing the index"))
}

fn checkout_clean(repo: &Repository, tree: TreeId, dest: &Path) -> Result<()> {
    let tree = repo.find_tree(tree.0).map_err(|_| missing("tree", tree.0))?;
    make_private(dest)?;
    let root = Folder::root(dest).map_err(Error::errno("opening", dest))?;
    root.empty().map_err(Error::errno("emptying", dest))?;
    Putting::new(repo, HashMap::new()).folder(&root, &mut Vec::new(), Some(&tree), None, false, 0)
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

fn tree_of(repo: &Repository, commit: CommitId) -> Result<Tree<'_>> {
    repo.find_commit(commit.0).and_then(|found| found.tree()).map_err(|_| missing("commit", commit.0))
}

/// The index between two snapshots; a damaged one is started anew, for it only saves work.
fn open_index(git_dir: &Path) -> Result<Index> {
    let path = git_dir.join("index");
    match Index::open(&path) {
        Ok(index) => Ok(index),
        Err(_) => {
            super::worktree::remove_dir(&path)?;
            Index::open(&path).map_err(Error::objects("opening the index"))
        }
    }
}

fn entries(index: &Index) -> HashMap<Vec<u8>, IndexEntry> {
    index.iter().map(|entry| (entry.path.clone(), entry)).collect()
}

/// The file system's own idea of now, in nanoseconds, which is what the times of files are compared with.
fn now_of(git_dir: &Path) -> Result<i128> {
    let path = git_dir.join("devo-clock");
    let failed = || Error::io("writing", &path);
    std::fs::write(&path, b".").map_err(failed())?;
    let stat = rustix::fs::stat(&path).map_err(Error::errno("reading", &path))?;
    Ok(changed_at(&stat))
}

fn changed_at(stat: &Stat) -> i128 {
    i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec)
}

/// Wraps on purpose: an index has room for 32 bits, and only equality counts.
fn entry(path: &[u8], stat: &Stat, mode: u32, id: Oid) -> IndexEntry {
    IndexEntry {
        ctime: IndexTime::new(stat.st_ctime as i32, stat.st_ctime_nsec as u32),
        mtime: IndexTime::new(stat.st_mtime as i32, stat.st_mtime_nsec as u32),
        dev: stat.st_dev as u32,
        ino: stat.st_ino as u32,
        mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        file_size: stat.st_size as u32,
        id,
        flags: 0,
        flags_extended: 0,
        path: path.to_vec(),
    }
}

/// Makes an entry match no file if the file could still change without its times showing it.
fn distrust_if_fresh(entry: &mut IndexEntry, settled: i128) {
    let at = i128::from(entry.ctime.seconds()) * 1_000_000_000 + i128::from(entry.ctime.nanoseconds());
    let grain = if entry.ctime.nanoseconds() == 0 { COARSE_GRAIN_NS } else { GRAIN_NS };
    if at > settled - grain {
        entry.ctime = IndexTime::new(0, 0);
        entry.mtime = IndexTime::new(0, 0);
    }
}

fn unchanged(known: &IndexEntry, stat: &Stat, mode: u32) -> bool {
    let now = entry(&[], stat, mode, known.id);
    known.ctime.seconds() != 0
        && (known.ctime, known.mtime) == (now.ctime, now.mtime)
        && (known.dev, known.ino, known.file_size) == (now.dev, now.ino, now.file_size)
        && (known.uid, known.gid, known.mode) == (now.uid, now.gid, now.mode)
}

fn mode_of(stat: &Stat) -> u32 {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => MODE_LINK,
        _ if stat.st_mode & 0o100 != 0 => MODE_EXECUTABLE,
        _ => MODE_FILE,
    }
}

/// `.git` as some file system could spell it: case, trailing dots and spaces, NTFS's short name and streams, characters that
/// HFS+ leaves out.
pub(super) fn is_dot_git(name: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(name) else { return false };
    let seen: String = text
        .chars()
        .filter(
            |c| !matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}'),
        )
        .flat_map(char::to_lowercase)
        .collect();
    let stem = seen.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
    stem == ".git" || stem == "git~1"
}

/// A name in a tree that must not reach a disk.
fn is_hostile(name: &[u8]) -> bool {
    name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) || is_dot_git(name)
}

fn push_name(path: &mut Vec<u8>, name: &[u8]) -> usize {
    let before = path.len();
    if before > 0 {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    before
}

/// The length that the paths of a folder's items have before the item's own name.
fn prefix(path: &[u8]) -> usize {
    if path.is_empty() { 0 } else { path.len() + 1 }
}

fn failed(doing: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error {
    Error::errno(doing, shown(path))
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
            true if !ignored => Some(at.small_file(b".gitignore", TEXT_MAX).map_err(failed("reading", path))?),
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
        let ignored = ignored || ((folder || in_base.is_none()) && self.rules.ignore(path, folder));
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
                    Some(found) => Some(self.repo.find_tree(found.id()).map_err(|_| missing("tree", found.id()))?),
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
                if ignored && in_base.is_none_or(|found| found.kind() != Some(ObjectType::Blob)) {
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
            // For instance a `.gitmodules` that is a link. What the index had under that name goes with the known.
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

/// A walk that makes a folder what a tree says.
struct Putting<'a> {
    repo: &'a Repository,
    rules: Rules,
    /// What is known of files by their times.
    known: HashMap<Vec<u8>, IndexEntry>,
    /// What is there now.
    present: Vec<IndexEntry>,
}

impl<'a> Putting<'a> {
    fn new(repo: &'a Repository, known: HashMap<Vec<u8>, IndexEntry>) -> Self {
        Self { repo, rules: Rules::default(), known, present: Vec::new() }
    }

    /// `tree` is `None` in a folder that the tree does not have: everything goes but what is ignored and not in the base.
    fn folder(
        &mut self,
        at: &Folder,
        path: &mut Vec<u8>,
        tree: Option<&Tree>,
        base: Option<&Tree>,
        ignored: bool,
        depth: usize,
    ) -> Result<()> {
        if depth >= DEPTH_MAX {
            let what = format!("the depth of {}", shown(path));
            return Err(Error::TooLarge { what, limit: format!("{DEPTH_MAX} folders") });
        }
        if let Some(bad) = tree.into_iter().flatten().find(|found| is_hostile(found.name_bytes())) {
            push_name(path, bad.name_bytes());
            return Err(Error::HostilePath { path: shown(path) });
        }
        self.enter(at, path, tree, ignored)?;
        for item in at.items().map_err(failed("reading", path))? {
            if tree.is_some_and(|tree| tree.get_name_bytes(&item.name).is_some()) {
                continue;
            }
            let before = push_name(path, &item.name);
            self.extra(at, &item, path, base, ignored, depth)?;
            path.truncate(before);
        }
        for found in tree.into_iter().flatten() {
            let before = push_name(path, found.name_bytes());
            match found.filemode_raw() as u32 {
                MODE_TREE => {
                    let sub_tree = self.repo.find_tree(found.id()).map_err(|_| missing("tree", found.id()))?;
                    let sub = self.make(at, found.name_bytes(), path)?;
                    let sub_base = self.sub_tree(base, found.name_bytes())?;
                    let ignored = ignored || self.rules.ignore(path, true);
                    self.folder(&sub, path, Some(&sub_tree), sub_base.as_ref(), ignored, depth + 1)?;
                }
                MODE_SUBMODULE => {
                    let sub = self.make(at, found.name_bytes(), path)?;
                    sub.empty().map_err(failed("emptying", path))?;
                    if let Some(stat) = at.stat(found.name_bytes()).map_err(failed("reading", path))? {
                        self.present.push(entry(path, &stat, MODE_SUBMODULE, found.id()));
                    }
                }
                mode => self.file(at, found.name_bytes(), path, mode, found.id())?,
            }
            path.truncate(before);
        }
        self.rules.leave();
        Ok(())
    }

    /// Enters the rules of a folder. A folder that the tree does not have may bring rules that ignore themselves too, as
    /// caches of tools do: a snapshot never saw it, so it stays.
    fn enter(&mut self, at: &Folder, path: &[u8], tree: Option<&Tree>, ignored: bool) -> Result<()> {
        let prefix = prefix(path);
        let Some(tree) = tree else {
            let text = at.small_file(b".gitignore", TEXT_MAX).map_err(failed("reading", path))?;
            self.rules.enter(prefix, text.filter(|_| !ignored).as_deref());
            let mut own = path.to_vec();
            push_name(&mut own, b".gitignore");
            if !self.rules.ignore(&own, false) {
                self.rules.leave();
                self.rules.enter(prefix, None);
            }
            return Ok(());
        };
        let found =
            tree.get_name_bytes(b".gitignore").filter(|found| !ignored && is_file_mode(found.filemode_raw() as u32));
        let blob =
            found.map(|found| self.repo.find_blob(found.id()).map_err(|_| missing("blob", found.id()))).transpose()?;
        self.rules.enter(prefix, blob.as_ref().map(git2::Blob::content));
        Ok(())
    }

    fn sub_tree(&self, tree: Option<&Tree>, name: &[u8]) -> Result<Option<Tree<'a>>> {
        let found =
            tree.and_then(|tree| tree.get_name_bytes(name)).filter(|found| found.kind() == Some(ObjectType::Tree));
        found.map(|found| self.repo.find_tree(found.id()).map_err(|_| missing("tree", found.id()))).transpose()
    }

    /// Something that the tree does not have.
    fn extra(
        &mut self,
        at: &Folder,
        item: &Item,
        path: &mut Vec<u8>,
        base: Option<&Tree>,
        ignored: bool,
        depth: usize,
    ) -> Result<()> {
        let name = item.name.as_slice();
        let folder = item.kind == FileType::Directory;
        let in_base = base.and_then(|tree| tree.get_name_bytes(name));
        let mode = in_base.as_ref().map_or(0, |found| found.filemode_raw() as u32);
        let ignored = ignored || self.rules.ignore(path, folder);
        // What the base has is never ignored: a snapshot would take it.
        let stays = match mode {
            MODE_SUBMODULE => false,
            MODE_TREE if folder => false,
            0 | MODE_TREE => ignored,
            _ => ignored && folder,
        };
        if stays {
            return Ok(());
        }
        // Inside a folder there may be something that is ignored, and stays. Too deep to look: nothing stays.
        if folder && mode != MODE_SUBMODULE && !is_dot_git(name) && depth + 1 < DEPTH_MAX {
            let sub = at.sub(name).map_err(failed("reading", path))?;
            let sub_base = self.sub_tree(base, name)?;
            self.folder(&sub, path, None, sub_base.as_ref(), ignored, depth + 1)?;
            at.remove_if_empty(name).map_err(failed("removing", path))?;
            return Ok(());
        }
        at.remove(name).map_err(failed("removing", path))
    }

    /// Opens the folder that has to be there, in place of whatever is.
    fn make(&self, at: &Folder, name: &[u8], path: &[u8]) -> Result<Folder> {
        let stat = at.stat(name).map_err(failed("reading", path))?;
        if stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory) {
            at.remove(name).map_err(failed("removing", path))?;
        }
        at.make(name).map_err(failed("making", path))
    }

    /// Makes a file or link what it has to be; one that is so already is not touched.
    fn file(&mut self, at: &Folder, name: &[u8], path: &[u8], mode: u32, id: Oid) -> Result<()> {
        let link = mode == MODE_LINK;
        // Old repositories have odd modes; git reads the executable bit out of them as well.
        let wanted = match mode {
            MODE_LINK => MODE_LINK,
            mode if mode & 0o100 != 0 => MODE_EXECUTABLE,
            _ => MODE_FILE,
        };
        let found = at.stat(name).map_err(failed("reading", path))?;
        // One that has other names as well is written anew, so that it changes with none of them.
        let found = found.filter(|stat| stat.st_nlink == 1);
        let same_kind = found.as_ref().is_some_and(|stat| match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => link,
            FileType::RegularFile => !link,
            _ => false,
        });
        let as_known = found.as_ref().is_some_and(|stat| {
            self.known.get(path).is_some_and(|known| known.id == id && unchanged(known, stat, wanted))
        });
        if !(as_known || same_kind && self.holds(at, name, path, link, id)?) {
            let blob = self.repo.find_blob(id).map_err(|error| match error.code() {
                git2::ErrorCode::NotFound => missing("blob", id),
                _ => Error::objects("reading a file of the tree")(error),
            })?;
            at.remove(name).map_err(failed("removing", path))?;
            if link {
                if blob.content().is_empty() || blob.content().contains(&0) {
                    return Err(Error::HostilePath { path: shown(path) });
                }
                at.link(name, blob.content()).map_err(failed("writing", path))?;
            } else {
                at.write(name, blob.content(), wanted == MODE_EXECUTABLE).map_err(failed("writing", path))?;
            }
        } else if found.as_ref().is_some_and(|stat| mode_of(stat) != wanted) {
            at.set_executable(name, wanted == MODE_EXECUTABLE).map_err(failed("writing", path))?;
        }
        let stat = at.stat(name).map_err(failed("reading", path))?;
        let stat = stat.ok_or(Errno::NOENT).map_err(failed("reading", path))?;
        self.present.push(entry(path, &stat, wanted, id));
        Ok(())
    }

    /// Whether a file or link of the right kind holds the blob.
    fn holds(&self, at: &Folder, name: &[u8], path: &[u8], link: bool, id: Oid) -> Result<bool> {
        let bytes = if link {
            at.link_target(name).map_err(failed("reading", path))?
        } else {
            let odb = self.repo.odb().map_err(Error::objects("opening the objects"))?;
            let Ok((size, _)) = odb.read_header(id) else { return Ok(false) };
            match at.open(name) {
                Ok((file, stat)) if stat.st_size as u64 == size as u64 => {
                    let mut bytes = Vec::new();
                    file.take(size as u64 + 1).read_to_end(&mut bytes).map_err(Error::io("reading", shown(path)))?;
                    bytes
                }
                // Not readable: it is written anew.
                _ => return Ok(false),
            }
        };
        Ok(Oid::hash_object(ObjectType::Blob, &bytes).is_ok_and(|found| found == id))
    }
}

fn is_file_mode(mode: u32) -> bool {
    mode & 0o170_000 == 0o100_000
}
