//! File access below an open folder, one name at a time, that never follows a link: whatever a sandbox left there, nothing
//! outside is read, written or removed. Knows no git.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Opens nothing through a link, and does not outlive us in a child.
const SAFE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

/// An open folder.
pub(super) struct Folder {
    fd: OwnedFd,
}

/// A name in a folder and what it is; a link is a link.
pub(super) struct Item {
    pub name: Vec<u8>,
    pub kind: FileType,
}

type Result<T> = std::result::Result<T, Errno>;

impl Folder {
    /// Opens the root; its last component may not be a link.
    pub fn root(path: &Path) -> Result<Self> {
        let fd = rustix::fs::open(path, SAFE | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        Ok(Self { fd })
    }

    /// Opens a folder in this one. One that its owner may not use is made usable.
    pub fn sub(&self, name: &[u8]) -> Result<Self> {
        let flags = SAFE | OFlags::DIRECTORY | OFlags::RDONLY;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::ACCESS) => {
                let place = rustix::fs::openat(&self.fd, name, SAFE | OFlags::DIRECTORY | OFlags::PATH, Mode::empty())?;
                make_usable(&place)?;
                rustix::fs::openat(&self.fd, name, flags, Mode::empty())?
            }
            other => other?,
        };
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        if !mode.contains(Mode::RWXU) {
            // Best effort: someone else's folder stays as it is, and what is then done in it says so.
            let _ = rustix::fs::fchmod(&fd, mode | Mode::RWXU);
        }
        Ok(Self { fd })
    }

    /// Makes a folder and opens it; one that is there is opened.
    pub fn make(&self, name: &[u8]) -> Result<Self> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => self.sub(name),
            Err(error) => Err(error),
        }
    }

    /// All names but `.` and `..`, sorted.
    pub fn items(&self) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match self.stat(name)? {
                    Some(stat) => FileType::from_raw_mode(stat.st_mode),
                    None => continue,
                },
                kind => kind,
            };
            items.push(Item { name: name.to_vec(), kind });
        }
        items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(items)
    }

    /// What a name is; `None` if there is nothing.
    pub fn stat(&self, name: &[u8]) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file for reading; anything else is `INVAL`.
    pub fn open(&self, name: &[u8]) -> Result<(File, Stat)> {
        // Without NONBLOCK a pipe that took the file's place would hold us.
        let flags = SAFE | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        Ok((File::from(fd), stat))
    }

    /// A regular file of at most `most` bytes; `None` if it is missing, something else, or larger.
    pub fn small_file(&self, name: &[u8], most: u64) -> Result<Option<Vec<u8>>> {
        let (file, stat) = match self.open(name) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::LOOP | Errno::INVAL | Errno::NXIO | Errno::ISDIR) => return Ok(None),
            Err(error) => return Err(error),
        };
        if stat.st_size as u64 > most {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(most + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok((bytes.len() as u64 <= most).then_some(bytes))
    }

    /// Where a link points.
    pub fn link_target(&self, name: &[u8]) -> Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, name, Vec::new())?.into_bytes())
    }

    /// Writes a new file; the name must be free. A file that was there is never written into: it may have other names.
    pub fn write(&self, name: &[u8], bytes: &[u8], executable: bool) -> Result<()> {
        let flags = SAFE | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(fd);
        file.write_all(bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        rustix::fs::fchmod(&file, file_mode(executable))
    }

    /// Sets or clears the executable bits of a regular file.
    pub fn set_executable(&self, name: &[u8], executable: bool) -> Result<()> {
        let (file, _) = self.open(name)?;
        rustix::fs::fchmod(&file, file_mode(executable))
    }

    /// Makes a link; the name must be free.
    pub fn link(&self, name: &[u8], target: &[u8]) -> Result<()> {
        rustix::fs::symlinkat(target, &self.fd, name)
    }

    /// Removes whatever has the name, a folder with all that is in it; nothing there is fine.
    pub fn remove(&self, name: &[u8]) -> Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // Linux says ISDIR, POSIX says PERM.
            Err(Errno::ISDIR | Errno::PERM) => {
                self.sub(name)?.empty()?;
                rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a folder if nothing is in it; says whether it is gone.
    pub fn remove_if_empty(&self, name: &[u8]) -> Result<bool> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes all that is in the folder. Folders inside folders are first moved up, so that neither the stack nor the
    /// number of open files grows with the depth.
    pub fn empty(&self) -> Result<()> {
        let mut moved = 0_u64;
        loop {
            let items = self.items()?;
            if items.is_empty() {
                return Ok(());
            }
            for item in items {
                if item.kind != FileType::Directory {
                    rustix::fs::unlinkat(&self.fd, item.name.as_slice(), AtFlags::empty())?;
                    continue;
                }
                let sub = self.sub(&item.name)?;
                for inner in sub.items()? {
                    let name = inner.name.as_slice();
                    if inner.kind != FileType::Directory {
                        rustix::fs::unlinkat(&sub.fd, name, AtFlags::empty())?;
                    } else if !sub.remove_if_empty(name)? {
                        // A folder can be moved only if it may be written: its `..` changes.
                        drop(sub.sub(name)?);
                        loop {
                            moved += 1;
                            let free = format!(".devo-removed-{moved}");
                            match self.rename_into(&sub, name, free.as_bytes()) {
                                Err(Errno::EXIST) => {}
                                other => break other?,
                            }
                        }
                    }
                }
                rustix::fs::unlinkat(&self.fd, item.name.as_slice(), AtFlags::REMOVEDIR)?;
            }
        }
    }

    fn rename_into(&self, from: &Self, name: &[u8], to: &[u8]) -> Result<()> {
        if self.stat(to)?.is_some() {
            return Err(Errno::EXIST);
        }
        rustix::fs::renameat(&from.fd, name, &self.fd, to)
    }
}

fn file_mode(executable: bool) -> Mode {
    Mode::from_raw_mode(if executable { 0o755 } else { 0o644 })
}

/// Gives the owner every right to a folder that cannot be opened for reading. Through `/proc`, which leads to the very
/// folder that is open: a name could be exchanged for a link meanwhile.
fn make_usable(place: &OwnedFd) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", place.as_fd().as_raw_fd());
    rustix::fs::chmod(path, Mode::RWXU)
}

/// A path below a root, for messages: bytes as text, 200 characters at most.
pub(super) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut out: String = text.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(200).is_some() {
        out.push('…');
    }
    out
}

/// Bytes as a path.
pub(super) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn removing_stays_inside_and_copes_with_depth_and_rights() {
        let temp = tempfile::tempdir().unwrap();
        let (outside, inside) = (temp.path().join("outside"), temp.path().join("inside"));
        std::fs::create_dir_all(outside.join("sub")).unwrap();
        std::fs::write(outside.join("sub/keep"), "x").unwrap();
        std::fs::create_dir_all(inside.join("victim/locked/in")).unwrap();
        symlink(&outside, inside.join("victim/link")).unwrap();
        symlink(&outside, inside.join("victim/locked/in/link")).unwrap();
        std::fs::create_dir(inside.join("victim/.devo-removed-1")).unwrap();
        std::fs::set_permissions(inside.join("victim/locked"), std::fs::Permissions::from_mode(0o000)).unwrap();
        // Deeper than a path can be long: built by descending.
        let mut folder = Folder::root(&inside.join("victim")).unwrap();
        for _ in 0..3000 {
            folder = folder.make(b"deep").unwrap();
        }
        drop(folder);

        let root = Folder::root(&inside).unwrap();
        root.remove(b"victim").unwrap();
        root.remove(b"victim").unwrap();
        assert!(root.items().unwrap().is_empty());
        assert!(outside.join("sub/keep").exists());
    }

    #[test]
    fn links_are_neither_opened_nor_entered_nor_written_through() {
        let temp = tempfile::tempdir().unwrap();
        let secret = temp.path().join("secret");
        std::fs::write(&secret, "s").unwrap();
        let inside = temp.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        symlink(&secret, inside.join("file")).unwrap();
        symlink(temp.path(), inside.join("dir")).unwrap();
        symlink(temp.path(), temp.path().join("root")).unwrap();
        let folder = Folder::root(&inside).unwrap();
        assert!(folder.open(b"file").is_err());
        assert!(folder.small_file(b"file", 10).unwrap().is_none());
        assert!(folder.sub(b"dir").is_err());
        assert!(folder.make(b"dir").is_err());
        assert!(folder.write(b"file", b"x", false).is_err());
        assert!(folder.set_executable(b"file", true).is_err());
        assert!(Folder::root(&temp.path().join("root")).is_err());
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "s");
        assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o111, 0);
    }

    #[test]
    fn a_pipe_does_not_hold_us() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::root(temp.path()).unwrap();
        rustix::fs::mknodat(&folder.fd, "pipe", FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        assert!(folder.open(b"pipe").is_err());
        assert!(folder.small_file(b"pipe", 10).unwrap().is_none());
    }
}
