//! The workspace on disk: reading and writing that cannot leave the folder, whatever a command in the sandbox left there.
//!
//! Every path is opened by the kernel relative to the folder's own descriptor, with no link followed anywhere and no way
//! up; nothing special (pipe, device) is ever opened for its content, and what exists is replaced by rename, never
//! written in place. It does not know which files are protected (`guard`) or what an edit means (`edits`).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ignore::Match;
use ignore::gitignore::Gitignore;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::files::{
    Content, Entry, FileError, Kind, RepoPath, Source, StopNow, WALK_LIMIT, Walk, check_secret_content,
    check_secret_name,
};
use crate::workspace::{IGNORE_TEXT_MAX, ignore_rules};

/// The most entries that one folder lists.
const FOLDER_LIMIT: usize = 20_000;
/// How deep a walk goes.
const DEPTH_LIMIT: usize = 100;
/// Compiled rules are kept for as many bytes of .gitignore files.
const IGNORE_KEPT: usize = 4 * 1024 * 1024;
/// How often a confined open is tried while the kernel sees a rename elsewhere (EAGAIN).
const OPEN_TRIES: usize = 32;

/// A folder on disk as the root of all paths.
#[derive(Debug)]
pub struct Folder {
    root: OwnedFd,
    path: PathBuf,
    tracked: HashSet<String>,
    /// The folders that hold a tracked path.
    tracked_folders: HashSet<String>,
    compiled: Mutex<Compiled>,
}

/// Compiled .gitignore files by folder, each with the bytes that it was compiled from: a path is looked up far more often than
/// a file of rules changes.
#[derive(Debug, Default)]
struct Compiled {
    by_folder: HashMap<RepoPath, (Vec<u8>, Arc<Gitignore>)>,
    bytes: usize,
    #[cfg(test)]
    count: usize,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Whether the file is new.
    pub created: bool,
}

impl Folder {
    /// Opens the root. `tracked` are the paths of the base commit: an ignore rule never hides them.
    pub fn open(path: &Path, tracked: impl IntoIterator<Item = String>) -> Result<Self, FileError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let shown = || path.display().to_string();
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| FileError::Io { path: shown(), source: errno.into() })?;
        let tracked: HashSet<String> = tracked.into_iter().collect();
        let mut tracked_folders = HashSet::new();
        for path in &tracked {
            let mut above = path.as_str();
            while let Some((folder, _)) = above.rsplit_once('/')
                && tracked_folders.insert(folder.to_owned())
            {
                above = folder;
            }
        }
        let folder = Self { root, path: path.to_owned(), tracked, tracked_folders, compiled: Mutex::default() };
        // Says at once, not at the first tool call, that the kernel cannot confine.
        folder.at(&RepoPath::root(), OFlags::PATH)?;
        Ok(folder)
    }

    /// Where it is, for display and for the sandbox; never to open files by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, path: &RepoPath, flags: OFlags) -> Result<OwnedFd, FileError> {
        let name = if path.is_root() { "." } else { path.as_str() };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        for _ in 0..OPEN_TRIES {
            match rustix::fs::openat2(&self.root, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(errno) => return Err(failed(path, errno)),
                Ok(fd) => return Ok(fd),
            }
        }
        Err(failed(path, Errno::AGAIN))
    }

    /// The entry and a descriptor that cannot read; links are not followed but seen.
    fn look(&self, path: &RepoPath) -> Result<(OwnedFd, Entry, u32), FileError> {
        let fd = self.at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| failed(path, errno))?;
        Ok((fd, entry(path.as_str().to_owned(), &stat), stat.st_mode))
    }

    /// The content of a regular file with no question about secrets or ignore rules: for hashing and restoring.
    pub fn read_any(&self, path: &RepoPath, cap: u64) -> Result<Content, FileError> {
        let (fd, entry, _) = self.look(path)?;
        match entry.kind {
            Kind::File => {}
            Kind::Link => return Err(FileError::Link { path: path.to_string(), target: link_target(&fd) }),
            Kind::Folder => return Err(FileError::NotFile { path: path.to_string(), what: "a folder" }),
            Kind::Other => return Err(FileError::NotFile { path: path.to_string(), what: "a pipe, socket or device" }),
        }
        // It may have been swapped since: non-blocking, so that a pipe cannot hold us, and looked at again.
        let fd = self.at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW)?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| failed(path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(FileError::NotFile { path: path.to_string(), what: "a pipe, socket or device" });
        }
        let mut bytes = Vec::new();
        File::from(fd).take(cap).read_to_end(&mut bytes).map_err(|e| io(path, e))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0).max(bytes.len() as u64);
        Ok(Content { bytes, size })
    }

    /// Where a link points; `None` for everything else.
    pub fn link(&self, path: &RepoPath) -> Option<String> {
        let (fd, entry, _) = self.look(path).ok()?;
        (entry.kind == Kind::Link).then(|| link_target(&fd)).flatten()
    }

    /// Replaces or creates a file: all or nothing, mode kept, folders made on the way.
    pub fn write(&self, path: &RepoPath, bytes: &[u8]) -> Result<Written, FileError> {
        check_secret_name(path)?;
        if let Some(rule) = self.ignored(path, false) {
            return Err(FileError::Ignored { path: path.to_string(), rule });
        }
        self.write_any(path, bytes, None)
    }

    /// Like [`Folder::write`] with no question about secrets or ignore rules, and the executable bit as asked for.
    pub fn write_any(&self, path: &RepoPath, bytes: &[u8], executable: Option<bool>) -> Result<Written, FileError> {
        if path.is_root() {
            return Err(FileError::NotFile { path: path.to_string(), what: "a folder" });
        }
        let parent = self.make_folders(&path.parent())?;
        let old = match rustix::fs::statat(&parent, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match entry(String::new(), &stat).kind {
                Kind::File => Some(stat.st_mode & 0o777),
                Kind::Folder => return Err(FileError::NotFile { path: path.to_string(), what: "a folder" }),
                Kind::Link => return Err(FileError::Link { path: path.to_string(), target: self.link(path) }),
                Kind::Other => {
                    return Err(FileError::NotFile { path: path.to_string(), what: "a pipe, socket or device" });
                }
            },
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed(path, errno)),
        };
        let mode = match executable {
            None => old,
            Some(true) => Some(old.unwrap_or(0o644) | 0o111),
            Some(false) => Some(old.unwrap_or(0o644) & !0o111),
        };
        let (name, fd) = temporary(&parent, path)?;
        let mut file = File::from(fd);
        let done = file
            .write_all(bytes)
            .map_err(|e| io(path, e))
            .and_then(|()| {
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode.unwrap_or(0o644))).map_err(|e| failed(path, e))
            })
            .and_then(|()| rustix::fs::renameat(&parent, &name, &parent, path.name()).map_err(|e| failed(path, e)));
        if done.is_err() {
            // The first error is the one that counts.
            let _ = rustix::fs::unlinkat(&parent, &name, AtFlags::empty());
        }
        done.map(|()| Written { created: old.is_none() })
    }

    /// Puts a link where the base commit had one; nothing here ever follows it.
    pub fn write_link(&self, path: &RepoPath, target: &str) -> Result<(), FileError> {
        let parent = self.make_folders(&path.parent())?;
        self.remove(path)?;
        rustix::fs::symlinkat(target, &parent, path.name()).map_err(|errno| failed(path, errno))
    }

    /// Removes a file, link, pipe or (with all that is in it) folder; nothing there is fine.
    pub fn remove(&self, path: &RepoPath) -> Result<(), FileError> {
        if path.is_root() {
            return Err(FileError::Path { path: ".".to_owned(), why: "the root cannot be removed" });
        }
        let kind = match self.look(path) {
            Ok((_, entry, _)) => entry.kind,
            Err(FileError::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        let parent = self.at(&path.parent(), OFlags::PATH | OFlags::DIRECTORY)?;
        self.remove_at(&parent, path.name(), kind == Kind::Folder, 0).map_err(|errno| failed(path, errno))
    }

    fn remove_at(&self, parent: &OwnedFd, name: &str, folder: bool, depth: usize) -> Result<(), Errno> {
        if !folder {
            return rustix::fs::unlinkat(parent, name, AtFlags::empty());
        }
        if depth > DEPTH_LIMIT {
            return Err(Errno::NAMETOOLONG);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let fd = rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)?;
        for item in Dir::read_from(&fd)? {
            let item = item?;
            let bytes = item.file_name();
            if matches!(bytes.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = rustix::fs::statat(&fd, bytes, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            match bytes.to_str() {
                Ok(name) => self.remove_at(&fd, name, is_folder, depth + 1)?,
                Err(_) => rustix::fs::unlinkat(&fd, bytes, AtFlags::empty())?,
            }
        }
        rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
    }

    fn make_folders(&self, dir: &RepoPath) -> Result<OwnedFd, FileError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.at(dir, flags) {
            Err(FileError::NotFound { .. }) => {}
            done => return done,
        }
        let mut here = RepoPath::root();
        let mut fd = self.at(&here, flags)?;
        for part in dir.parts() {
            let next = here.join(part)?;
            fd = match self.at(&next, flags) {
                Err(FileError::NotFound { .. }) => {
                    match rustix::fs::mkdirat(&fd, part, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(failed(&next, errno)),
                    }
                    self.at(&next, flags)?
                }
                other => other?,
            };
            here = next;
        }
        Ok(fd)
    }

    /// The rule that ignores a path, unless the base commit holds it.
    pub fn ignored(&self, path: &RepoPath, is_folder: bool) -> Option<String> {
        if self.tracked.contains(path.as_str()) {
            return None;
        }
        let mut rules = Rules::default();
        let mut here = RepoPath::root();
        let count = path.parts().count();
        for (index, part) in path.parts().enumerate() {
            rules.enter(self, &here);
            here = here.join(part).ok()?;
            if let Some(rule) = rules.matched(&here, is_folder || index + 1 < count) {
                return Some(rule);
            }
        }
        None
    }

    /// All entries of one folder by name; `.git` and names that no path can spell are left out.
    fn entries(&self, dir: &RepoPath) -> Result<Vec<Entry>, FileError> {
        let fd = self.at(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK).map_err(|e| match e {
            FileError::Io { source, .. } if source.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => {
                FileError::NotFolder { path: dir.to_string() }
            }
            e => e,
        })?;
        let mut found = Vec::new();
        for item in Dir::read_from(&fd).map_err(|errno| failed(dir, errno))?.take(FOLDER_LIMIT) {
            let item = item.map_err(|errno| failed(dir, errno))?;
            let Ok(name) = item.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let Ok(path) = dir.join(name) else { continue };
            // Gone since it was listed: not there.
            let Ok(stat) = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            found.push(entry(path.as_str().to_owned(), &stat));
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn walk_into(
        &self,
        dir: &RepoPath,
        rules: &mut Rules,
        only_tracked: bool,
        walk: &mut Walk,
        stop: StopNow<'_>,
    ) -> Result<(), FileError> {
        if rules.levels.len() > DEPTH_LIMIT {
            walk.complete = false;
            return Ok(());
        }
        rules.enter(self, dir);
        for entry in self.entries(dir)? {
            if walk.entries.len() >= WALK_LIMIT || stop() {
                walk.complete = false;
                break;
            }
            let path = RepoPath::parse(&entry.path)?;
            let folder = entry.kind == Kind::Folder;
            let ignored = only_tracked || rules.matched(&path, folder).is_some();
            if folder {
                if !ignored || self.holds_tracked(&path) {
                    match self.walk_into(&path, rules, ignored, walk, stop) {
                        Ok(()) => {}
                        // A folder that went away, cannot be read or became a link holds nothing for us.
                        Err(FileError::Unsupported) => return Err(FileError::Unsupported),
                        Err(_) => walk.complete = false,
                    }
                }
            } else if !ignored || self.tracked.contains(&entry.path) {
                walk.entries.push(entry);
            }
        }
        rules.leave();
        Ok(())
    }

    fn holds_tracked(&self, dir: &RepoPath) -> bool {
        match dir.is_root() {
            true => !self.tracked.is_empty(),
            false => self.tracked_folders.contains(dir.as_str()) || self.tracked.contains(dir.as_str()),
        }
    }
}

impl Source for Folder {
    fn list(&self, dir: &RepoPath, stop: StopNow<'_>) -> Result<Vec<Entry>, FileError> {
        let mut entries = self.entries(dir)?;
        let (mut rules, only_tracked) = Rules::above(self, dir)?;
        rules.enter(self, dir);
        entries.retain(|entry| {
            let Ok(path) = RepoPath::parse(&entry.path) else { return false };
            if stop() {
                return false;
            }
            let folder = entry.kind == Kind::Folder;
            let ignored = only_tracked || rules.matched(&path, folder).is_some();
            !ignored || self.tracked.contains(&entry.path) || (folder && self.holds_tracked(&path))
        });
        Ok(entries)
    }

    fn walk(&self, dir: &RepoPath, stop: StopNow<'_>) -> Result<Walk, FileError> {
        let (mut rules, only_tracked) = Rules::above(self, dir)?;
        let mut walk = Walk { entries: Vec::new(), complete: true };
        self.walk_into(dir, &mut rules, only_tracked, &mut walk, stop)?;
        walk.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(walk)
    }

    fn metadata(&self, path: &RepoPath) -> Result<Entry, FileError> {
        self.look(path).map(|(_, entry, _)| entry)
    }

    fn read(&self, path: &RepoPath, cap: u64) -> Result<Content, FileError> {
        check_secret_name(path)?;
        let content = self.read_any(path, cap)?;
        if let Some(rule) = self.ignored(path, false) {
            return Err(FileError::Ignored { path: path.to_string(), rule });
        }
        check_secret_content(path, &content.bytes)?;
        Ok(content)
    }
}

/// The ignore rules of the folders from the root down to where a walk stands.
#[derive(Default)]
struct Rules {
    levels: Vec<(RepoPath, Arc<Gitignore>)>,
}

impl Rules {
    /// The rules of the folders above this one, and whether one of them ignores it.
    fn above(folder: &Folder, dir: &RepoPath) -> Result<(Self, bool), FileError> {
        let mut rules = Self::default();
        let mut here = RepoPath::root();
        let mut ignored = false;
        for part in dir.parts() {
            rules.enter(folder, &here);
            here = here.join(part)?;
            ignored |= rules.matched(&here, true).is_some();
        }
        Ok((rules, ignored))
    }

    fn enter(&mut self, folder: &Folder, dir: &RepoPath) {
        let content = dir.join(".gitignore").and_then(|file| folder.read_any(&file, IGNORE_TEXT_MAX));
        let rules = match content {
            Err(_) => Arc::new(Gitignore::empty()),
            Ok(content) => folder.compiled.lock().unwrap_or_else(PoisonError::into_inner).rules(dir, content.bytes),
        };
        self.levels.push((dir.clone(), rules));
    }

    fn leave(&mut self) {
        self.levels.pop();
    }

    fn matched(&self, path: &RepoPath, is_folder: bool) -> Option<String> {
        for (dir, rules) in self.levels.iter().rev() {
            let rest = match dir.is_root() {
                true => path.as_str(),
                false => path.as_str().strip_prefix(dir.as_str())?.strip_prefix('/')?,
            };
            match rules.matched(rest, is_folder) {
                Match::Ignore(glob) => return Some(format!("{} in {dir}/.gitignore", glob.original())),
                Match::Whitelist(_) => return None,
                Match::None => {}
            }
        }
        None
    }
}

impl Compiled {
    fn rules(&mut self, dir: &RepoPath, bytes: Vec<u8>) -> Arc<Gitignore> {
        if let Some((known, rules)) = self.by_folder.get(dir)
            && *known == bytes
        {
            return Arc::clone(rules);
        }
        let rules = Arc::new(ignore_rules(&bytes).unwrap_or_else(Gitignore::empty));
        #[cfg(test)]
        {
            self.count += 1;
        }
        self.bytes += bytes.len();
        if self.bytes > IGNORE_KEPT {
            self.bytes = bytes.len();
            self.by_folder.clear();
        }
        self.by_folder.insert(dir.clone(), (bytes, Arc::clone(&rules)));
        rules
    }
}

/// A new empty file beside the one to write.
fn temporary(parent: &OwnedFd, path: &RepoPath) -> Result<(String, OwnedFd), FileError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..16 {
        let name = format!(".devo-{:016x}.tmp", fastrand::u64(..));
        match rustix::fs::openat(parent, &name, flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => return Ok((name, fd)),
            Err(Errno::EXIST) => continue,
            Err(errno) => return Err(failed(path, errno)),
        }
    }
    Err(failed(path, Errno::EXIST))
}

fn entry(path: String, stat: &rustix::fs::Stat) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    };
    let size = if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
    Entry { path, kind, size, executable: kind == Kind::File && stat.st_mode & 0o111 != 0 }
}

fn link_target(fd: &OwnedFd) -> Option<String> {
    let target = rustix::fs::readlinkat(fd, "", Vec::new()).ok()?;
    target.into_string().ok()
}

fn failed(path: &RepoPath, errno: Errno) -> FileError {
    let path = path.to_string();
    match errno {
        Errno::NOENT => FileError::NotFound { path },
        Errno::LOOP => FileError::Link { path, target: None },
        Errno::XDEV => FileError::Path { path, why: "it leads out of the workspace" },
        Errno::NAMETOOLONG => FileError::Path { path, why: "a part of it is too long" },
        Errno::NOSYS => FileError::Unsupported,
        errno => FileError::Io { path, source: errno.into() },
    }
}

fn io(path: &RepoPath, source: std::io::Error) -> FileError {
    FileError::Io { path: path.to_string(), source }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn at(path: &str) -> RepoPath {
        RepoPath::parse(path).expect("a good path")
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join("ws")).expect("a folder");
        let folder = Folder::open(&dir.path().join("ws"), []).expect("an open folder");
        (dir, folder)
    }

    #[test]
    fn links_out_are_neither_read_nor_written() {
        let (dir, folder) = folder();
        let secret = dir.path().join("secret");
        fs::write(&secret, "outside").expect("a file");
        fs::create_dir(dir.path().join("out")).expect("a folder");
        let ws = dir.path().join("ws");
        symlink(&secret, ws.join("file")).expect("a link");
        symlink("../secret", ws.join("up")).expect("a link");
        symlink(dir.path().join("out"), ws.join("sub")).expect("a link");
        symlink("/proc/self/environ", ws.join("environ")).expect("a link");
        for path in ["file", "up", "sub/x", "environ"] {
            assert!(matches!(folder.read(&at(path), 100), Err(FileError::Link { .. })), "{path}");
            assert!(
                matches!(folder.write(&at(path), b"x"), Err(FileError::Link { .. } | FileError::Io { .. })),
                "{path}"
            );
        }
        assert!(folder.list(&at("sub"), &|| false).is_err());
        assert!(folder.write(&at("sub/deep/er"), b"x").is_err());
        assert_eq!(fs::read_to_string(&secret).expect("still there"), "outside");
        assert_eq!(fs::read_dir(dir.path().join("out")).expect("a folder").count(), 0);
        let kinds: Vec<Kind> =
            folder.walk(&RepoPath::root(), &|| false).expect("a walk").entries.iter().map(|e| e.kind).collect();
        assert_eq!(kinds, [Kind::Link; 4]);
        // Removing a link removes the link.
        folder.remove(&at("sub")).expect("removed");
        assert!(dir.path().join("out").is_dir());
    }

    #[test]
    fn a_folder_swapped_for_a_link_while_writing_never_leads_out() {
        let (dir, folder) = folder();
        let (ws, out) = (dir.path().join("ws"), dir.path().join("out"));
        fs::create_dir(&out).expect("a folder");
        fs::write(out.join("f"), "outside").expect("a file");
        fs::create_dir(ws.join("d")).expect("a folder");
        let stop = AtomicBool::new(false);
        let mut leaked = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                symlink(&out, ws.join("l")).expect("a link");
                while !stop.load(Ordering::Relaxed) {
                    // d: folder → link out → folder …
                    let _ = fs::rename(ws.join("d"), ws.join("keep"));
                    let _ = fs::rename(ws.join("l"), ws.join("d"));
                    let _ = fs::rename(ws.join("d"), ws.join("l"));
                    let _ = fs::rename(ws.join("keep"), ws.join("d"));
                }
            });
            for _ in 0..3000 {
                let read = folder.read(&at("d/f"), 100);
                leaked += usize::from(read.is_ok_and(|content| content.bytes != b"inside"));
                let _ = folder.write(&at("d/f"), b"inside");
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(leaked, 0);
        assert_eq!(fs::read_to_string(out.join("f")).expect("still there"), "outside");
        assert_eq!(fs::read_dir(&out).expect("a folder").count(), 1);
    }

    #[test]
    fn special_files_neither_block_nor_open() {
        let (dir, folder) = folder();
        let pipe = dir.path().join("ws/pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
        assert!(matches!(folder.read(&at("pipe"), 10), Err(FileError::NotFile { .. })));
        assert!(matches!(folder.write(&at("pipe"), b"x"), Err(FileError::NotFile { .. })));
        assert!(matches!(folder.list(&at("pipe"), &|| false), Err(FileError::NotFolder { .. })));
        let devices = Folder::open(Path::new("/dev"), []).expect("an open folder");
        assert!(matches!(devices.read(&at("zero"), 10), Err(FileError::NotFile { .. })));
        assert!(matches!(devices.write(&at("null"), b"x"), Err(FileError::NotFile { .. })));
    }

    #[test]
    fn writes_keep_the_mode_make_folders_and_leave_no_trace() {
        let (dir, folder) = folder();
        let ws = dir.path().join("ws");
        assert!(folder.write(&at("a/b/c.sh"), b"one").expect("written").created);
        fs::set_permissions(ws.join("a/b/c.sh"), fs::Permissions::from_mode(0o750)).expect("a mode");
        assert!(!folder.write(&at("a/b/c.sh"), b"two").expect("written").created);
        let mode = fs::metadata(ws.join("a/b/c.sh")).expect("a file").permissions().mode() & 0o7777;
        assert_eq!((mode, fs::read(ws.join("a/b/c.sh")).expect("read")), (0o750, b"two".to_vec()));
        assert!(matches!(folder.write(&at("a/b"), b"x"), Err(FileError::NotFile { .. })));
        assert!(folder.write(&at("a/b/c.sh/d"), b"x").is_err());
        assert_eq!(fs::read_dir(ws.join("a/b")).expect("a folder").count(), 1, "no temporary file is left");
        // A hard link elsewhere keeps its own content.
        fs::hard_link(ws.join("a/b/c.sh"), dir.path().join("twin")).expect("a link");
        folder.write(&at("a/b/c.sh"), b"three").expect("written");
        assert_eq!(fs::read(dir.path().join("twin")).expect("read"), b"two");
        folder.remove(&at("a")).expect("removed");
        assert_eq!(fs::read_dir(&ws).expect("a folder").count(), 0);
    }

    #[test]
    fn rules_are_compiled_once_however_many_files_are_asked_for() {
        let (dir, folder) = folder();
        let ws = dir.path().join("ws");
        let rules: String = (0..5_000).map(|i| format!("*.gone{i}\n")).collect();
        fs::write(ws.join(".gitignore"), &rules).expect("a file");
        fs::create_dir(ws.join("sub")).expect("a folder");
        for i in 0..500 {
            fs::write(ws.join(format!("sub/f{i}.txt")), "x").expect("a file");
        }
        fs::write(ws.join("sub/x.gone7"), "x").expect("a file");
        let never = &|| false;
        assert_eq!(folder.list(&at("sub"), never).expect("a list").len(), 500);
        assert_eq!(folder.walk(&RepoPath::root(), never).expect("a walk").entries.len(), 501);
        for i in 0..500 {
            assert!(folder.read(&at(&format!("sub/f{i}.txt")), 10).is_ok());
        }
        let compiled = || folder.compiled.lock().expect("not poisoned").count;
        assert_eq!(compiled(), 1);
        // Another text is another set of rules; one with too many rules is not applied.
        fs::write(ws.join(".gitignore"), "sub/\n").expect("a file");
        assert!(folder.list(&at("sub"), never).expect("a list").is_empty());
        fs::write(ws.join(".gitignore"), rules + "*.txt\n").expect("a file");
        assert_eq!(folder.list(&at("sub"), never).expect("a list").len(), 501);
        assert_eq!(compiled(), 3);
        assert!(folder.list(&at("sub"), &|| true).expect("a list").is_empty(), "told to stop at once");
    }

    #[test]
    fn ignored_secret_huge_and_odd_files() {
        let (dir, _) = folder();
        let ws = dir.path().join("ws");
        fs::create_dir_all(ws.join("build/keep")).expect("folders");
        fs::create_dir_all(ws.join("src/gen")).expect("folders");
        fs::create_dir_all(ws.join(".git")).expect("folders");
        for (path, text) in [
            (".gitignore", "build/\n*.log\n!keep.log\n"),
            ("build/out.txt", "o"),
            ("build/keep/tracked.txt", "t"),
            ("a.log", "l"),
            ("keep.log", "k"),
            ("src/.gitignore", "/gen\n"),
            ("src/gen/x.rs", "g"),
            ("src/main.rs", "m"),
            (".env", "K=1"),
            (".git/config", "c"),
        ] {
            fs::write(ws.join(path), text).expect("a file");
        }
        fs::write(ws.join("latin"), b"caf\xe9").expect("a file");
        let huge = File::create(ws.join("huge")).expect("a file");
        huge.set_len(1 << 40).expect("a hole");
        use std::os::unix::ffi::OsStrExt as _;
        fs::write(ws.join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").expect("a file");

        let folder = Folder::open(&ws, ["build/keep/tracked.txt".to_owned()]).expect("an open folder");
        let walk = folder.walk(&RepoPath::root(), &|| false).expect("a walk");
        let paths: Vec<&str> = walk.entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                ".env",
                ".gitignore",
                "build/keep/tracked.txt",
                "huge",
                "keep.log",
                "latin",
                "src/.gitignore",
                "src/main.rs"
            ]
        );
        assert!(matches!(folder.read(&at("build/out.txt"), 10), Err(FileError::Ignored { .. })));
        assert!(matches!(folder.read(&at("src/gen/x.rs"), 10), Err(FileError::Ignored { .. })));
        assert!(folder.read(&at("build/keep/tracked.txt"), 10).is_ok());
        assert!(folder.read(&at("keep.log"), 10).is_ok());
        assert!(matches!(folder.write(&at("b.log"), b"x"), Err(FileError::Ignored { .. })));
        assert!(matches!(folder.read(&at(".env"), 10), Err(FileError::Secret { .. })));
        assert!(matches!(folder.write(&at("x/.env"), b"x"), Err(FileError::Secret { .. })));
        let content = folder.read(&at("huge"), 10).expect("its start");
        assert_eq!((content.bytes.len(), content.size, content.is_binary()), (10, 1 << 40, true));
        let names: Vec<String> =
            folder.list(&RepoPath::root(), &|| false).expect("a list").into_iter().map(|e| e.path).collect();
        assert!(names.contains(&"build".to_owned()) && !names.iter().any(|n| n == ".git" || n == "a.log"));
    }
}
