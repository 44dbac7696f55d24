//! The folder that tasks are dropped into: `inbox/` → `claimed/` → `done/` or `rejected/`.
//!
//! A submitted task is a file named by its run's id. This module moves and reads files; what a task means, and whether a run
//! exists, is known elsewhere.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::core::id::RunId;
use crate::core::time::Timestamp;
use crate::error::Error;

/// The largest task file, in bytes.
pub const TASK_MAX: u64 = 1024 * 1024;
/// Names that one look at a folder takes in; more wait for the next look.
const NAMES_MAX: usize = 20_000;

/// The inbox of a home.
#[derive(Debug, Clone)]
pub struct Inbox {
    folder: PathBuf,
}

/// A submitted task that is not a run yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The run that it will be.
    pub id: RunId,
    /// Where it lies.
    pub path: PathBuf,
}

impl Queued {
    /// When it was submitted: the time within the id.
    pub fn at(&self) -> Timestamp {
        let Some(stamp) = self.id.0.get_timestamp() else { return Timestamp(0) };
        let (seconds, nanos) = stamp.to_unix();
        Timestamp(i64::try_from(seconds).unwrap_or(0).saturating_mul(1000) + i64::from(nanos / 1_000_000))
    }
}

impl Inbox {
    /// The inbox of a home.
    pub fn of(home: &Path) -> Self {
        Self { folder: home.join("inbox") }
    }

    /// Puts a task into the inbox: it is on disk under its name when this returns.
    pub fn put(&self, id: RunId, text: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(format!("{id}.yaml"));
        // Names with a dot are nobody's: a reader never sees half a file.
        let part = self.folder.join(format!(".{id}.part"));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&part, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        match write() {
            Ok(()) => Ok(path),
            Err(error) => {
                let _ = std::fs::remove_file(&part);
                let message = format!("cannot put the task into {}", self.folder.display());
                Err(Error::machine("inbox", message, &error).hint("`devo doctor` looks at the folder and the disk"))
            }
        }
    }

    /// Submitted tasks that were not taken, and taken ones whose end is open; newest first.
    pub fn queued(&self) -> Vec<Queued> {
        let mut found: Vec<Queued> = Vec::new();
        for folder in [self.folder.clone(), self.folder.join("claimed")] {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.take(NAMES_MAX).flatten() {
                let name = entry.file_name();
                let id = name.to_str().and_then(|name| name.strip_suffix(".yaml")).and_then(|name| name.parse().ok());
                let regular = entry.file_type().is_ok_and(|kind| kind.is_file());
                if let (Some(id), true) = (id, regular) {
                    found.push(Queued { id, path: entry.path() });
                }
            }
        }
        found.sort_by_key(|queued| std::cmp::Reverse(queued.id));
        found.dedup_by_key(|queued| queued.id);
        found
    }

    /// The submitted task of a run.
    pub fn find(&self, id: RunId) -> Option<Queued> {
        let paths = [self.folder.join(format!("{id}.yaml")), self.folder.join(format!("claimed/{id}.yaml"))];
        let path = paths.into_iter().find(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_file()))?;
        Some(Queued { id, path })
    }

    /// Takes a task out of the inbox; only one of several takers gets it. One that was taken before is given again: whoever
    /// took it died, or the caller owns the home.
    pub fn claim(&self, id: RunId) -> Result<PathBuf, Error> {
        let name = format!("{id}.yaml");
        let claimed = self.folder.join("claimed").join(&name);
        match std::fs::rename(self.folder.join(&name), &claimed) {
            Ok(()) => Ok(claimed),
            Err(error) if error.kind() == ErrorKind::NotFound && claimed.is_file() => Ok(claimed),
            Err(error) => Err(Error::machine("inbox", format!("cannot take the task {id} out of the inbox"), &error)),
        }
    }

    /// Puts a claimed task away: it is a run now.
    pub fn done(&self, claimed: &Path) -> Result<(), Error> {
        self.put_away(claimed, "done").map(|_| ())
    }

    /// Puts a claimed task away with the reason beside it; the answer is the reason's file.
    pub fn reject(&self, claimed: &Path, why: &str) -> Result<PathBuf, Error> {
        let kept = self.put_away(claimed, "rejected")?;
        let mut name = kept.as_os_str().to_owned();
        name.push(".error.txt");
        let path = PathBuf::from(name);
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(why.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| Error::machine("inbox", format!("cannot write {}", path.display()), &error))?;
        Ok(path)
    }

    /// Moves a file, with a suffix where the name is taken.
    fn put_away(&self, claimed: &Path, folder: &str) -> Result<PathBuf, Error> {
        let failed = |error: &std::io::Error| {
            Error::machine("inbox", format!("cannot move {} to {folder}", claimed.display()), error)
        };
        let name = claimed.file_name().and_then(|name| name.to_str()).unwrap_or("task.yaml");
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, "yaml"));
        let folder = self.folder.join(folder);
        for number in 0..1000u32 {
            let name = if number == 0 { name.to_owned() } else { format!("{stem}-{number}.{extension}") };
            let path = folder.join(name);
            // A link refuses to replace; a rename would.
            match std::fs::hard_link(claimed, &path) {
                Ok(()) => {
                    std::fs::remove_file(claimed).map_err(|error| failed(&error))?;
                    return Ok(path);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(failed(&ErrorKind::AlreadyExists.into()))
    }
}

/// Reads a task's text: a regular amount of UTF-8, whatever the path is.
pub fn read_task(path: &Path) -> Result<String, Error> {
    let shown = path.display();
    let open = if path == Path::new("-") { File::open("/dev/stdin") } else { File::open(path) };
    let file = open.map_err(|error| {
        let error = Error {
            exit: crate::error::Exit::Refused,
            ..Error::machine("task_file", format!("cannot read {shown}"), &error)
        };
        error.hint("give the path of a task file, or name the work with --pipeline, --repo and --task")
    })?;
    let mut bytes = Vec::new();
    if let Err(error) = file.take(TASK_MAX + 1).read_to_end(&mut bytes) {
        let error = Error::machine("task_file", format!("cannot read {shown}"), &error);
        return Err(error.exit(crate::error::Exit::Refused));
    }
    if bytes.len() as u64 > TASK_MAX {
        let message = format!("{shown} is larger than {} KiB, the most that a task file may have", TASK_MAX / 1024);
        return Err(Error::refused("too_large", message).hint("keep long material in the repository and refer to it"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::refused("not_utf8", format!("{shown} is not a task file: byte {at} is not UTF-8"))
            .hint("save it as UTF-8 text")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox() -> (tempfile::TempDir, Inbox) {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["inbox", "inbox/claimed", "inbox/done", "inbox/rejected"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let inbox = Inbox::of(dir.path());
        (dir, inbox)
    }

    #[test]
    fn a_task_goes_from_submitted_to_done_or_rejected() {
        let (dir, inbox) = inbox();
        let (one, two) = (RunId(uuid::Uuid::now_v7()), RunId(uuid::Uuid::now_v7()));
        inbox.put(one, "a: 1").unwrap();
        inbox.put(two, "b: 2").unwrap();
        assert_eq!(inbox.queued().iter().map(|queued| queued.id).collect::<Vec<_>>(), [two, one]);
        assert!(inbox.queued()[0].at().0 > 1_700_000_000_000);
        let claimed = inbox.claim(one).unwrap();
        assert_eq!(inbox.claim(one).unwrap(), claimed, "whoever took it first may have died");
        assert_eq!(inbox.queued().len(), 2, "it is not lost while its end is open");
        inbox.done(&claimed).unwrap();
        let claimed = inbox.claim(two).unwrap();
        std::fs::write(dir.path().join(format!("inbox/rejected/{two}.yaml")), "other").unwrap();
        let reason = inbox.reject(&claimed, "error: no").unwrap();
        assert!(reason.ends_with(format!("{two}-1.yaml.error.txt")), "{reason:?}");
        assert!(inbox.queued().is_empty());
        assert!(inbox.claim(one).is_err());
    }

    #[test]
    fn links_folders_and_halves_are_not_tasks() {
        let (dir, inbox) = inbox();
        let id = RunId(uuid::Uuid::now_v7());
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join(format!("inbox/{id}.yaml"))).unwrap();
        std::fs::write(dir.path().join(format!("inbox/.{id}.part")), "half").unwrap();
        std::fs::create_dir(dir.path().join("inbox/0193b2c0-7e1f-7abc-8def-0123456789ab.yaml")).unwrap();
        assert!(inbox.queued().is_empty());
        assert_eq!(inbox.find(id), None);
    }

    #[test]
    fn a_task_file_is_small_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("task.yaml");
        std::fs::write(&path, vec![b'a'; 10 * 1024 * 1024]).unwrap();
        assert_eq!(read_task(&path).unwrap_err().code, "too_large");
        std::fs::write(&path, b"ab\xff").unwrap();
        let error = read_task(&path).unwrap_err();
        assert!(error.message.contains("byte 2"), "{}", error.message);
        let error = read_task(&dir.path().join("none.yaml")).unwrap_err();
        assert_eq!(error.exit.code(), 2);
        assert!(read_task(dir.path()).is_err());
    }
}
