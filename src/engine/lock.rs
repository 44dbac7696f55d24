//! One engine per home: a kernel lock on a file, so that a dead engine's lock is gone with it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Held as long as this lives.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

/// Why the home is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another engine owns it.
    #[error("another devo owns this home: {holder}")]
    Held {
        /// What it wrote about itself.
        holder: String,
    },
    /// The file system says no.
    #[error("cannot lock {path}: {source}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl HomeLock {
    /// Takes the home without waiting. `about` is shown to whoever comes second.
    pub fn take(home: &Path, about: &str) -> Result<Self, LockError> {
        let path = home.join("engine.lock");
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // What it says is a courtesy: an unreadable text must not hide the fact.
                let _ = file.read_to_string(&mut holder);
                return Err(LockError::Held { holder: holder.trim().to_owned() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{about} (process {})", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }

    /// What the last owner of a home wrote about itself; it may have gone.
    pub fn holder(home: &Path) -> String {
        std::fs::read_to_string(home.join("engine.lock")).unwrap_or_default().trim().to_owned()
    }

    /// Whether somebody owns the home now.
    pub fn holder_lives(home: &Path) -> bool {
        let holder = Self::holder(home);
        let pid = holder.rsplit_once("(process ").and_then(|(_, rest)| rest.trim_end_matches(')').parse::<u32>().ok());
        // A process that we see is not asked by the lock: the question would keep out an owner who comes just now.
        if pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
            return true;
        }
        let Ok(file) = File::open(home.join("engine.lock")) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_is_first_and_a_dropped_lock_is_free() {
        let home = tempfile::tempdir().unwrap();
        let first = HomeLock::take(home.path(), "devo serve").unwrap();
        let error = HomeLock::take(home.path(), "devo run").unwrap_err();
        assert!(error.to_string().contains("devo serve (process "), "{error}");
        assert!(HomeLock::holder_lives(home.path()));
        drop(first);
        HomeLock::take(home.path(), "devo run").unwrap();
        std::fs::write(home.path().join("engine.lock"), "devo serve (process 4194305)").unwrap();
        assert!(!HomeLock::holder_lives(home.path()), "no process has this number");
    }
}
