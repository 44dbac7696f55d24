//! `devo gc`: what runs that are over left on disk. The journal stays as it is: a run that was cleared is still shown, with its
//! logs, and only cannot be retried.
//!
//! It runs under the home's lock, so nothing that it looks at is in use. What commands left may be hostile: links are removed
//! and never followed, folders without permissions are opened, and no depth of folders is too much.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::App;
use crate::core::event::{CassetteUse, EventBody};
use crate::core::id::RunId;
use crate::core::time::Timestamp;
use crate::engine::{CLEARED, HomeLock};
use crate::error::Error;
use crate::journal::RunRow;

/// What of a run's folder stays: its logs are small and bounded.
const KEPT: &[&str] = &["logs", CLEARED];

/// What is old enough, and whether it goes.
#[derive(Debug, Clone, Copy)]
pub struct GcWish {
    /// Milliseconds since the run ended.
    pub older_than_ms: u64,
}

/// Something that nobody needs any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// `workspace`: the files of a run that ended; `orphan`: a run's folder without a run; `cassette`: a recording;
    /// `sandbox`: what a killed command left on the machine; `spare`: a workspace that was made ahead.
    pub kind: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// The run's short id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Bytes on disk.
    pub bytes: u64,
    /// Why it could not be removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl App {
    /// What [`App::gc`] would remove; needs no lock, and may be outdated by what runs.
    pub async fn gc_candidates(&self, wish: GcWish) -> Result<Vec<Leftover>, Error> {
        let rows = self.journal.runs(i64::MAX as usize).await?;
        let now = self.clock.now();
        let old = |at: Timestamp| now.since(at) >= wish.older_than_ms;
        let mut found = Vec::new();
        let mut ended = Vec::new();
        for row in rows.iter().filter(|row| row.summary.ended && old(row.updated_at)) {
            let dir = self.run_dir(row.id);
            if contents(&dir).next().is_none() {
                continue;
            }
            let bytes = contents(&dir).map(|path| size(&path)).sum();
            found.push(Leftover { kind: "workspace", path: dir, run: Some(row.id.short()), bytes, error: None });
            ended.push(row);
        }
        found.extend(self.orphans(&rows, &old));
        found.extend(self.cassettes(&ended, &rows).await?);
        found.extend(self.spares(&old));
        found.extend(crate::sandboxes::leftovers().into_iter().map(|path| {
            let bytes = size(&path);
            Leftover { kind: "sandbox", path, run: None, bytes, error: None }
        }));
        Ok(found)
    }

    /// Removes what old runs left, and says what it was, and how many containers and networks of docker went beside it. The
    /// lock says that no engine works in this home.
    pub async fn gc(&self, _lock: &HomeLock, wish: GcWish) -> Result<(Vec<Leftover>, usize), Error> {
        let mut found = self.gc_candidates(wish).await?;
        let swept = self.shop().sweep().await;
        for leftover in &mut found {
            let removed = match leftover.kind {
                "workspace" => clear(&leftover.path),
                _ => remove(&leftover.path),
            };
            leftover.error = removed.err().map(|error| error.to_string());
        }
        Ok((found, swept))
    }

    /// Folders under `runs/` that are named like a run and belong to none.
    fn orphans(&self, rows: &[RunRow], old: &dyn Fn(Timestamp) -> bool) -> Vec<Leftover> {
        let known: std::collections::HashSet<RunId> = rows.iter().map(|row| row.id).collect();
        let entries = fs::read_dir(self.home.join("runs")).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let run: RunId = entry.file_name().to_str()?.parse().ok()?;
                let meta = entry.path().symlink_metadata().ok()?;
                if known.contains(&run) || !meta.is_dir() || !old(changed(&meta)) {
                    return None;
                }
                let (path, bytes) = (entry.path(), size(&entry.path()));
                Some(Leftover { kind: "orphan", path, run: Some(run.short()), bytes, error: None })
            })
            .collect()
    }

    /// Spare workspaces that no run took for as long, that belong to no repository of devo.yaml, or that are half made.
    fn spares(&self, old: &dyn Fn(Timestamp) -> bool) -> Vec<Leftover> {
        let entries = fs::read_dir(self.home.join("repos")).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let meta = entry.path().symlink_metadata().ok()?;
                let used = match (name.strip_suffix(".spare"), name.strip_suffix(".spare.new")) {
                    (Some(key), _) => self.shop().config.repos.contains_key(key) && !old(changed(&meta)),
                    (_, Some(_)) => false,
                    _ => return None,
                };
                let (path, bytes) = (entry.path(), size(&entry.path()));
                (!used).then_some(Leftover { kind: "spare", path, run: None, bytes, error: None })
            })
            .collect()
    }

    /// Recordings of these runs that lie in the home and that no other run uses.
    async fn cassettes(&self, ended: &[&RunRow], rows: &[RunRow]) -> Result<Vec<Leftover>, Error> {
        let Ok(home) = self.home.canonicalize() else { return Ok(Vec::new()) };
        let mut found: Vec<Leftover> = Vec::new();
        for row in ended {
            let Some(CassetteUse::Record(path)) = self.cassette_of(row.id).await? else { continue };
            // Resolved: a link in the home may lead out of it.
            let Ok(path) = Path::new(&path).canonicalize() else { continue };
            if path.starts_with(&home) && path.is_file() && !found.iter().any(|known| known.path == path) {
                let bytes = size(&path);
                found.push(Leftover { kind: "cassette", path, run: Some(row.id.short()), bytes, error: None });
            }
        }
        if !found.is_empty() {
            for row in rows.iter().filter(|row| !ended.iter().any(|ended| ended.id == row.id)) {
                if let Some(CassetteUse::Record(used) | CassetteUse::Replay(used)) = self.cassette_of(row.id).await? {
                    let used = Path::new(&used).canonicalize().unwrap_or_default();
                    found.retain(|cassette| cassette.path != used);
                }
            }
        }
        Ok(found)
    }

    async fn cassette_of(&self, run: RunId) -> Result<Option<CassetteUse>, Error> {
        let events = self.journal.events(run, 0).await?;
        Ok(events.into_iter().find_map(|event| match event.body {
            EventBody::Accepted(spec) => spec.cassette,
            _ => None,
        }))
    }
}

fn changed(meta: &fs::Metadata) -> Timestamp {
    Timestamp(meta.mtime().saturating_mul(1000))
}

/// What of a run's folder can go; nothing where it is a link.
fn contents(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let real = dir.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    let entries = real.then(|| fs::read_dir(dir)).into_iter().flatten().flatten().flatten();
    let entries = entries.filter(|entry| !KEPT.iter().any(|kept| entry.file_name() == *kept));
    entries.map(|entry| entry.path())
}

/// Removes a run's files and leaves word of it, first: a clearing that was cut short goes on the next time, and nobody
/// retries half a run.
fn clear(dir: &Path) -> io::Result<()> {
    let mut word = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(CLEARED))?;
    word.write_all(b"`devo gc` removed the workspace of this run\n")?;
    contents(dir).try_for_each(|path| remove(&path))
}

/// Removes a file, a link or a folder with all that is in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let meta = path.symlink_metadata()?;
    if !meta.is_dir() {
        return fs::remove_file(path);
    }
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        // Locked, or deeper than the system lets anyone go at once.
        Err(_) => remove_level_by_level(path),
    }
}

/// Removes a folder without ever going deeper than one level into it: what lies deeper is moved up first.
fn remove_level_by_level(top: &Path) -> io::Result<()> {
    let device = top.symlink_metadata()?.dev();
    open(top)?;
    loop {
        let mut folders = false;
        for entry in fs::read_dir(top)? {
            let path = entry?.path();
            if !is_folder(&path, device)? {
                fs::remove_file(&path)?;
                continue;
            }
            folders = true;
            open(&path)?;
            for inner in fs::read_dir(&path)? {
                let inner = inner?.path();
                if is_folder(&inner, device)? {
                    // To move a folder is to change its `..`, which takes the right to write it.
                    open(&inner)?;
                    fs::rename(&inner, top.join(format!("devo-gc-{:016x}", fastrand::u64(..))))?;
                } else {
                    fs::remove_file(&inner)?;
                }
            }
            fs::remove_dir(&path)?;
        }
        if !folders {
            return fs::remove_dir(top);
        }
    }
}

fn is_folder(path: &Path, device: u64) -> io::Result<bool> {
    let meta = path.symlink_metadata()?;
    if meta.dev() != device {
        return Err(io::Error::other(format!("{} is another file system, mounted there", path.display())));
    }
    Ok(meta.is_dir())
}

fn open(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

/// Bytes on disk, as far as can be looked; links count as themselves.
fn size(path: &Path) -> u64 {
    let mut bytes = 0_u64;
    let mut next = vec![path.to_owned()];
    while let Some(path) = next.pop() {
        let Ok(meta) = path.symlink_metadata() else { continue };
        bytes = bytes.saturating_add(meta.blocks().saturating_mul(512));
        if meta.is_dir() {
            next.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_folders_go_and_what_links_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        for (link, at) in [("link", "."), ("link", "a/b"), ("devo-gc-x", "a")] {
            std::os::unix::fs::symlink(&outside, top.join(at).join(link)).unwrap();
        }
        fs::write(top.join("a/b/c/file"), "x").unwrap();
        for locked in ["a/b/c", "a/b", "a", "."] {
            fs::set_permissions(top.join(locked), Permissions::from_mode(0o000)).unwrap();
        }
        remove_level_by_level(&top).unwrap();
        assert!(!top.exists());
        assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "x");
        let link = dir.path().join("to-outside");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        remove(&link).unwrap();
        assert!(outside.join("precious").exists() && !link.exists());
    }

    #[test]
    fn no_depth_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        // Deeper than a process may hold folders open: each folder is made beside the chain and the chain moved into it.
        for _ in 0..1_500 {
            let outer = dir.path().join("outer");
            fs::create_dir(&outer).unwrap();
            fs::rename(&top, outer.join("d")).unwrap();
            fs::rename(&outer, &top).unwrap();
        }
        assert!(size(&top) > 0);
        remove_level_by_level(&top).unwrap();
        assert!(!top.exists());
    }
}
