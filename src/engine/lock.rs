//! One engine per home: a kernel lock on a file, so that a dead engine's lock is gone with it.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::workspace::FileLock;

/// Held as long as this lives.
#[derive(Debug)]
pub struct HomeLock {
    _lock: FileLock,
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

/// How long a dead owner's lock may stay: a child that it was just making holds its files until it becomes what it is
/// meant to be.
const ORPHANED: Duration = Duration::from_secs(5);

impl HomeLock {
    /// Takes the home; waits only for what a dead owner left. `about` is shown to whoever comes second.
    pub fn take(home: &Path, about: &str) -> Result<Self, LockError> {
        let path = home.join("engine.lock");
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let since = Instant::now();
        let lock = loop {
            if let Some(lock) = FileLock::try_take(&file).map_err(failed)? {
                break lock;
            }
            let holder = Self::holder(home);
            if process_of(&holder).is_none_or(lives) || since.elapsed() >= ORPHANED {
                return Err(LockError::Held { holder });
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{about} (process {})", std::process::id()).map_err(failed)?;
        Ok(Self { _lock: lock })
    }

    /// What the last owner of a home wrote about itself; it may have gone.
    pub fn holder(home: &Path) -> String {
        std::fs::read_to_string(home.join("engine.lock")).unwrap_or_default().trim().to_owned()
    }

    /// Whether somebody owns the home now.
    pub fn holder_lives(home: &Path) -> bool {
        // A process that we see is not asked by the lock: the question would keep out an owner who comes just now.
        if process_of(&Self::holder(home)).is_some_and(lives) {
            return true;
        }
        let Ok(file) = File::open(home.join("engine.lock")) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }
}

/// The process that wrote a holder's text.
fn process_of(holder: &str) -> Option<u32> {
    holder.rsplit_once("(process ")?.1.trim_end_matches(')').parse().ok()
}

fn lives(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
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

    #[test]
    fn a_child_of_a_dead_owner_is_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let held = HomeLock::take(home.path(), "devo serve").unwrap();
        // No process has this number: the owner died, and somebody else has its open file for a moment longer.
        std::fs::write(home.path().join("engine.lock"), "devo serve (process 4194305)").unwrap();
        let child = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(held);
        });
        HomeLock::take(home.path(), "devo serve").unwrap();
        child.join().unwrap();
    }
}
