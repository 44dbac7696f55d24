//! Locks on files by the kernel: gone with whoever holds them, and free at once when they are let go.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::error::{Error, Result};
use super::git::Patience;

/// An exclusive lock, held as long as this lives.
///
/// Letting it go unlocks. To close the file is not enough: a process that is just being made has a copy of it until it becomes
/// what it is meant to be.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Locks a file without waiting; `None` if somebody else has it.
    ///
    /// # Errors
    /// The file system's.
    pub fn try_take(file: &File) -> std::io::Result<Option<Self>> {
        Ok(if lock(file)? { Some(Self(file.try_clone()?)) } else { None })
    }

    /// The same for a path, whose file is made if it is not there.
    pub(super) fn try_at(path: &Path) -> Result<Option<Self>> {
        open(path).and_then(|file| Self::try_take(&file)).map_err(Error::io("locking", path))
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // If it fails, closing the file does the same a little later.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Waits for a lock that ends with the file, and with every process that got it: a git that outlives its engine keeps it.
pub(super) fn lock_file(path: &Path, patience: Patience<'_>, what: &'static str) -> Result<File> {
    let failed = || Error::io("locking", path);
    let file = open(path).map_err(failed())?;
    let deadline = Instant::now() + patience.timeout;
    while !lock(&file).map_err(failed())? {
        if (patience.cancelled)() {
            return Err(Error::Cancelled { what });
        }
        if Instant::now() >= deadline {
            return Err(Error::Busy { path: path.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(file)
}

/// Whether the file could be locked now.
fn lock(file: &File) -> std::io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_was_let_go_is_free_even_if_a_copy_of_its_file_lives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = open(&path).unwrap();
        let lock = FileLock::try_take(&file).unwrap().unwrap();
        // What a process that is being made has.
        let copy = file.try_clone().unwrap();
        assert!(FileLock::try_at(&path).unwrap().is_none());
        drop((lock, file));
        assert!(FileLock::try_at(&path).unwrap().is_some());
        drop(copy);
    }
}
