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
            let owner = Owner::read(&path);
            if owner.lives().unwrap_or(true) || since.elapsed() >= ORPHANED {
                return Err(LockError::Held { holder: owner.about });
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let process = std::process::id();
        let mut text = format!("{about} (process {process})\n");
        if let Some(birth) = birth(process) {
            text.push_str(&format!("{BORN}{birth}\n"));
        }
        file.write_all(text.as_bytes()).map_err(failed)?;
        Ok(Self { _lock: lock })
    }

    /// What the last owner of a home wrote about itself; it may have gone.
    pub fn holder(home: &Path) -> String {
        Owner::read(&home.join("engine.lock")).about
    }

    /// Whether somebody owns the home now.
    pub fn holder_lives(home: &Path) -> bool {
        // Whose process we see is not asked by the lock: the question would keep out an owner who comes just now.
        let path = home.join("engine.lock");
        if Owner::read(&path).lives() == Some(true) {
            return true;
        }
        let Ok(file) = File::open(path) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }
}

/// Before the birth of the process, in the file.
const BORN: &str = "born ";

/// What the last owner wrote.
struct Owner {
    /// For people.
    about: String,
    process: Option<u32>,
    birth: Option<String>,
}

impl Owner {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines();
        let about = lines.next().unwrap_or_default().trim().to_owned();
        let process = about.rsplit_once("(process ").and_then(|(_, number)| number.trim_end_matches(')').parse().ok());
        Self { process, birth: lines.find_map(|line| line.strip_prefix(BORN)).map(str::to_owned), about }
    }

    /// Whether the process that wrote this is there; `None` where that cannot be told.
    fn lives(&self) -> Option<bool> {
        match (birth(self.process?), &self.birth) {
            (None, _) => Some(false),
            // Numbers are given anew, and in containers all engines may have the same one.
            (Some(now), Some(then)) => Some(now == *then),
            (Some(_), None) => None,
        }
    }
}

/// What tells a process from others that have its number before or after it: when it began, in clock ticks since the
/// machine did, and which start of the machine that was (proc_pid_stat(5), field 22; proc_sys_kernel(5)).
fn birth(process: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before it may hold anything, also spaces and brackets.
    let began = stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{began} {}", boot.trim()))
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
    fn another_process_of_the_same_number_is_not_the_owner() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("engine.lock");
        drop(HomeLock::take(home.path(), "devo serve").unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() == 2, "{text}");
        assert_eq!(HomeLock::holder(home.path()), format!("devo serve (process {})", std::process::id()));
        assert!(HomeLock::holder_lives(home.path()), "the process that wrote it is this one");
        // Process 1 is always there; this is what an engine leaves that was the first process of a container, and what an
        // earlier version leaves.
        for left in ["devo serve (process 1)\nborn 1 of-another-boot\n", "devo serve (process 1)"] {
            std::fs::write(&path, left).unwrap();
            assert!(!HomeLock::holder_lives(home.path()), "{left}");
        }
        let _held = HomeLock::take(home.path(), "devo serve").unwrap();
        std::fs::write(&path, "devo serve (process 1)\nborn 1 of-another-boot\n").unwrap();
        assert!(HomeLock::holder_lives(home.path()), "the lock itself says so: the owner may be in a container");
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
