//! Tree → workspace, without filters and without following a link.
//!
//! The ignore rules that count are those of the tree that is restored, so that a snapshot taken right after gives that very
//! tree; what the base commit has is never taken for ignored.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use git2::{Index, IndexEntry, ObjectType, Oid, Repository, Tree};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::TreeId;
use super::entries::*;
use super::error::{Error, Result};
use super::folder::{Folder, Item, shown};
use super::git::make_private;
use super::ignored::{IGNORE_TEXT_MAX, Rules};
use super::worktree::{Worktree, missing};

impl Worktree {
    /// Puts the workspace back to a tree: changed, missing and new files; ignored ones stay. Files that are as they should
    /// be are not touched, so that their times stay.
    pub fn restore(&self, tree: TreeId) -> Result<()> {
        let _lock = self.lock()?;
        restore(self, tree, Others::IgnoredStay)
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

/// What becomes of files that the tree does not have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// Those that are ignored stay: a run made them.
    IgnoredStay,
    /// All go: there was no run yet.
    Go,
}

/// As [`Worktree::restore`], for who holds the lock.
pub(super) fn restore(worktree: &Worktree, tree: TreeId, others: Others) -> Result<()> {
    let repo = worktree.repository()?;
    let workspace = worktree.workspace();
    let root = Folder::root(&workspace).map_err(Error::errno("opening", &workspace))?;
    let mut index = open_index(&worktree.git_dir())?;
    let mut putting = Putting { others, ..Putting::new(&repo, entries(&index)) };
    let base = tree_of(&repo, worktree.base())?;
    let tree = repo.find_tree(tree.0).map_err(|_| missing("tree", tree.0))?;
    putting.folder(&root, &mut Vec::new(), Some(&tree), Some(&base), false, 0)?;
    // Nobody else writes meanwhile, so what was written a grain before the end cannot change unnoticed after it.
    let settled = now_of(&worktree.git_dir())?;
    write_index(&mut index, putting.present, settled)
}

fn write_index(index: &mut Index, present: Vec<IndexEntry>, settled: i128) -> Result<()> {
    index.clear().map_err(Error::objects("writing the index"))?;
    for mut entry in present {
        distrust_if_fresh(&mut entry, settled);
        index.add(&entry).map_err(Error::objects("writing the index"))?;
    }
    index.write().map_err(Error::objects("writing the index"))
}

/// Writes exactly the files of a tree to `dest`, which is new, and what is known of them to `<beside>/index`.
pub(super) fn checkout_known(
    repo: &Repository,
    tree: TreeId,
    dest: &Path,
    beside: &Path,
    cancelled: &dyn Fn() -> bool,
) -> Result<()> {
    let tree = repo.find_tree(tree.0).map_err(|_| missing("tree", tree.0))?;
    make_private(dest)?;
    let root = Folder::root(dest).map_err(Error::errno("opening", dest))?;
    let mut putting = Putting { others: Others::Go, cancelled, ..Putting::new(repo, HashMap::new()) };
    putting.folder(&root, &mut Vec::new(), Some(&tree), None, false, 0)?;
    let settled = now_of(beside)?;
    write_index(&mut open_index(beside)?, putting.present, settled)
}

fn checkout_clean(repo: &Repository, tree: TreeId, dest: &Path) -> Result<()> {
    let tree = repo.find_tree(tree.0).map_err(|_| missing("tree", tree.0))?;
    make_private(dest)?;
    let root = Folder::root(dest).map_err(Error::errno("opening", dest))?;
    root.empty().map_err(Error::errno("emptying", dest))?;
    Putting::new(repo, HashMap::new()).folder(&root, &mut Vec::new(), Some(&tree), None, false, 0)
}

/// A walk that makes a folder what a tree says.
struct Putting<'a> {
    repo: &'a Repository,
    others: Others,
    /// Asked before every file.
    cancelled: &'a dyn Fn() -> bool,
    rules: Rules,
    /// What is known of files by their times.
    known: HashMap<Vec<u8>, IndexEntry>,
    /// What is there now.
    present: Vec<IndexEntry>,
}

impl<'a> Putting<'a> {
    fn new(repo: &'a Repository, known: HashMap<Vec<u8>, IndexEntry>) -> Self {
        Self {
            repo,
            others: Others::IgnoredStay,
            cancelled: &|| false,
            rules: Rules::default(),
            known,
            present: Vec::new(),
        }
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
            let text = at.small_file(b".gitignore", IGNORE_TEXT_MAX).map_err(failed("reading", path))?;
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
        if self.others == Others::Go {
            return at.remove(name).map_err(failed("removing", path));
        }
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
        if (self.cancelled)() {
            return Err(Error::Cancelled { what: "checking out" });
        }
        let link = mode == MODE_LINK;
        // Old repositories have odd modes; git reads the executable bit out of them as well.
        let wanted = match mode {
            MODE_LINK => MODE_LINK,
            mode if mode & 0o100 != 0 => MODE_EXECUTABLE,
            _ => MODE_FILE,
        };
        let found = at.stat(name).map_err(failed("reading", path))?;
        let taken = found.is_some();
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
        let holds = as_known || (same_kind && self.holds(at, name, path, link, id)?);
        if !holds {
            let blob = self.repo.find_blob(id).map_err(|error| match error.code() {
                git2::ErrorCode::NotFound => missing("blob", id),
                _ => Error::objects("reading a file of the tree")(error),
            })?;
            if taken {
                at.remove(name).map_err(failed("removing", path))?;
            }
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
