//! What snapshots and restores share: entries of the index, the times of files, names and modes.

use std::collections::HashMap;
use std::path::Path;

use git2::{Index, IndexEntry, IndexTime, Oid, Repository, Tree};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::CommitId;
use super::error::{Error, Result};
use super::folder::shown;
use super::worktree::missing;

/// Folders inside folders; each level of a walk holds one open file.
pub(super) const DEPTH_MAX: usize = 128;
/// A change within this time of an earlier one may leave a file's times as they were.
const GRAIN_NS: i128 = 50_000_000;
/// The same on a file system that counts whole seconds.
const COARSE_GRAIN_NS: i128 = 2_000_000_000;

const SECOND_NS: i128 = 1_000_000_000;

/// Modes of entries.
pub(super) const MODE_TREE: u32 = 0o040_000;
pub(super) const MODE_LINK: u32 = 0o120_000;
pub(super) const MODE_SUBMODULE: u32 = 0o160_000;
pub(super) const MODE_FILE: u32 = 0o100_644;
pub(super) const MODE_EXECUTABLE: u32 = 0o100_755;

pub(super) fn tree_of(repo: &Repository, commit: CommitId) -> Result<Tree<'_>> {
    repo.find_commit(commit.0).and_then(|found| found.tree()).map_err(|_| missing("commit", commit.0))
}

/// The index between two snapshots; a damaged one is started anew, for it only saves work.
pub(super) fn open_index(git_dir: &Path) -> Result<Index> {
    let path = git_dir.join("index");
    match Index::open(&path) {
        Ok(index) => Ok(index),
        Err(_) => {
            super::worktree::remove_dir(&path)?;
            Index::open(&path).map_err(Error::objects("opening the index"))
        }
    }
}

pub(super) fn entries(index: &Index) -> HashMap<Vec<u8>, IndexEntry> {
    index.iter().map(|entry| (entry.path.clone(), entry)).collect()
}

/// The file system's own idea of now, in nanoseconds, which is what the times of files are compared with.
pub(super) fn now_of(git_dir: &Path) -> Result<i128> {
    let path = git_dir.join("devo-clock");
    let failed = || Error::io("writing", &path);
    std::fs::write(&path, b".").map_err(failed())?;
    let stat = rustix::fs::stat(&path).map_err(Error::errno("reading", &path))?;
    Ok(changed_at(&stat))
}

fn changed_at(stat: &Stat) -> i128 {
    i128::from(stat.st_ctime) * SECOND_NS + i128::from(stat.st_ctime_nsec)
}

/// Wraps on purpose: an index has room for 32 bits, and only equality counts.
pub(super) fn entry(path: &[u8], stat: &Stat, mode: u32, id: Oid) -> IndexEntry {
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
pub(super) fn distrust_if_fresh(entry: &mut IndexEntry, settled: i128) {
    let grain = if entry.ctime.nanoseconds() == 0 { COARSE_GRAIN_NS } else { GRAIN_NS };
    let seconds = settled.div_euclid(SECOND_NS) as i32;
    let age = i128::from(seconds.wrapping_sub(entry.ctime.seconds())) * SECOND_NS + settled.rem_euclid(SECOND_NS)
        - i128::from(entry.ctime.nanoseconds());
    if age < grain {
        entry.ctime = IndexTime::new(0, 0);
        entry.mtime = IndexTime::new(0, 0);
    }
}

pub(super) fn unchanged(known: &IndexEntry, stat: &Stat, mode: u32) -> bool {
    let now = entry(&[], stat, mode, known.id);
    known.ctime.seconds() != 0
        && (known.ctime, known.mtime) == (now.ctime, now.mtime)
        && (known.dev, known.ino, known.file_size) == (now.dev, now.ino, now.file_size)
        && (known.uid, known.gid, known.mode) == (now.uid, now.gid, now.mode)
}

pub(super) fn mode_of(stat: &Stat) -> u32 {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => MODE_LINK,
        _ if stat.st_mode & 0o100 != 0 => MODE_EXECUTABLE,
        _ => MODE_FILE,
    }
}

/// A name as file systems that fold names see it: no case, no trailing dots and spaces, no NTFS streams, none of the
/// characters that HFS+ leaves out.
pub(super) fn folded(name: &[u8]) -> Option<String> {
    let seen: String = std::str::from_utf8(name)
        .ok()?
        .chars()
        .filter(
            |c| !matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}'),
        )
        .flat_map(char::to_lowercase)
        .collect();
    Some(seen.split(':').next()?.trim_end_matches(['.', ' ']).to_owned())
}

/// `.git` as some file system could spell it, NTFS's short name included.
pub(super) fn is_dot_git(name: &[u8]) -> bool {
    folded(name).is_some_and(|name| name == ".git" || name == "git~1")
}

/// A name in a tree that must not reach a disk.
pub(super) fn is_hostile(name: &[u8]) -> bool {
    name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) || is_dot_git(name)
}

pub(super) fn push_name(path: &mut Vec<u8>, name: &[u8]) -> usize {
    let before = path.len();
    if before > 0 {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    before
}

/// The length that the paths of a folder's items have before the item's own name.
pub(super) fn prefix(path: &[u8]) -> usize {
    if path.is_empty() { 0 } else { path.len() + 1 }
}

pub(super) fn failed(doing: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error {
    Error::errno(doing, shown(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an entry of a file that changed at (s, ns) is believed when the clock stood at (s, ns).
    fn believed(changed: (i64, u32), now: (i64, i128)) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let mut stat = rustix::fs::stat(folder.path()).unwrap();
        (stat.st_ctime, stat.st_ctime_nsec) = (changed.0, changed.1.into());
        let mut known = entry(b"x", &stat, MODE_FILE, Oid::ZERO_SHA1);
        distrust_if_fresh(&mut known, i128::from(now.0) * SECOND_NS + now.1);
        unchanged(&known, &stat, MODE_FILE)
    }

    #[test]
    fn fresh_times_are_not_believed() {
        assert!(
            !believed((100, 5), (100, 5)) && !believed((100, 5), (100, 40_000_000)) && !believed((101, 5), (100, 5))
        );
        assert!(believed((100, 5), (100, 60_000_000)) && believed((99, 990_000_000), (100, 50_000_000)));
        // A file system that counts whole seconds, and a year in which these no longer fit 32 bits.
        assert!(!believed((100, 0), (101, 900_000_000)) && believed((100, 0), (102, 0)));
        let late = i64::from(i32::MAX);
        assert!(believed((late, 5), (late + 9, 5)) && !believed((late + 9, 5), (late + 9, 6)));
    }

    #[test]
    fn every_spelling_of_git_is_known() {
        for name in [".git", ".GIT", ".git. .", ".git::$INDEX_ALLOCATION", "GIT~1", ".g\u{200d}it"] {
            assert!(is_dot_git(name.as_bytes()) && is_hostile(name.as_bytes()), "{name}");
        }
        for name in [".gitignore", "git", ".gitx", "x.git", ".git-", "git~10"] {
            assert!(!is_dot_git(name.as_bytes()) && !is_hostile(name.as_bytes()), "{name}");
        }
    }
}
