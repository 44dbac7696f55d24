//! The folder that tasks are dropped into: `inbox/` → `claimed/` → `done/` or `rejected/`.
//!
//! Any `*.yaml` or `*.yml` is a task; a submitted one is named by its run's id. This module moves and reads files; what a task
//! means, and whether a run exists, is known elsewhere. While a file is claimed its name carries the id of its run, so that
//! whoever finds it after a crash makes the same run of it and no second one.

mod arrivals;
mod channel;
mod writers;

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

use crate::core::id::RunId;
use crate::core::time::Timestamp;
use crate::error::{Error, Exit};

pub use channel::{Aside, NAME, open};

/// The largest task file, in bytes.
pub const TASK_MAX: u64 = 1024 * 1024;
/// Tasks that one look at a folder takes in; more wait for the next look.
const NAMES_MAX: usize = 20_000;
/// The longest name of a file, in bytes: room is needed for an id and for `.error.txt` below the system's 255.
const NAME_MAX: usize = 200;
/// The folders of an inbox.
const FOLDERS: [&str; 3] = ["claimed", "done", "rejected"];

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

/// A file that was taken out of the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The run that it becomes.
    pub id: RunId,
    /// The name under which it was dropped.
    pub name: OsString,
    /// Where it lies.
    pub path: PathBuf,
}

impl Queued {
    /// Its text, if it is a regular file: whatever else lies there is neither followed nor waited for.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(&self) -> Result<String, Error> {
        read_regular(&self.path, self.path.file_name().unwrap_or_default())
    }

    /// When it was submitted: the time within the id.
    pub fn at(&self) -> Timestamp {
        let Some(stamp) = self.id.0.get_timestamp() else { return Timestamp(0) };
        let (seconds, nanos) = stamp.to_unix();
        Timestamp(i64::try_from(seconds).unwrap_or(0).saturating_mul(1000) + i64::from(nanos / 1_000_000))
    }
}

impl Claimed {
    /// Its text, if it is a regular file: whatever else lies there is neither followed nor waited for.
    ///
    /// # Errors
    /// Why it cannot be read; [`Exit::Refused`] where that is about the file.
    pub fn read(&self) -> Result<String, Error> {
        read_regular(&self.path, &self.name)
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

    /// Where the reasons lie if the submitted task of this run is rejected.
    pub fn reason_of(&self, id: RunId) -> PathBuf {
        self.folder.join("rejected").join(format!("{id}.yaml.error.txt"))
    }

    /// Submitted tasks that were not taken, and taken ones whose end is open; newest first.
    pub fn queued(&self) -> Vec<Queued> {
        let submitted = entries(&self.folder).filter_map(|entry| {
            let id = submitted_id(&entry.file_name()).filter(|_| is_file(&entry))?;
            Some(Queued { id, path: entry.path() })
        });
        let mut found = first(&self.folder, submitted);
        found.extend(self.claimed().into_iter().map(|claimed| Queued { id: claimed.id, path: claimed.path }));
        found.sort_by_key(|queued| std::cmp::Reverse(queued.id));
        found.dedup_by_key(|queued| queued.id);
        found
    }

    /// The submitted task of a run.
    pub fn find(&self, id: RunId) -> Option<Queued> {
        let path = self.folder.join(format!("{id}.yaml"));
        if path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            return Some(Queued { id, path });
        }
        self.claimed().into_iter().find(|claimed| claimed.id == id).map(|claimed| Queued { id, path: claimed.path })
    }

    /// Files that were taken and not put away, by whoever owned the home before or a moment ago; oldest run first.
    pub fn claimed(&self) -> Vec<Claimed> {
        let folder = self.folder.join("claimed");
        let claimed =
            entries(&folder).filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir())).filter_map(|entry| {
                let (id, name) = parse_claimed(&entry.file_name())?;
                Some(Claimed { id, name, path: entry.path() })
            });
        let mut found = first(&folder, claimed);
        found.sort_by_key(|claimed| claimed.id);
        found
    }

    /// Takes a submitted task out of the inbox; only one of several takers gets it. One that was taken before is given again:
    /// whoever took it died, or the caller owns the home.
    pub fn claim(&self, id: RunId) -> Result<Claimed, Error> {
        let failed = |error: &std::io::Error| {
            Error::machine("inbox", format!("cannot take the task {id} out of the inbox"), error)
        };
        match self.take(OsStr::new(&format!("{id}.yaml")), id) {
            Ok(claimed) => Ok(claimed),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {
                self.claimed().into_iter().find(|claimed| claimed.id == id).ok_or_else(|| failed(&error))
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// Takes a file out of the inbox by one rename, as the task of the run `id`. Submitted ones keep the id of their name.
    ///
    /// # Errors
    /// `NotFound` where another taker was faster; `AlreadyExists` where a file of the same run is being taken in.
    fn take(&self, name: &OsStr, id: RunId) -> std::io::Result<Claimed> {
        let id = submitted_id(name).unwrap_or(id);
        let path = self.folder.join("claimed").join(claimed_name(name, id));
        rename_new(&self.folder.join(name), &path)?;
        Ok(Claimed { id, name: name.to_owned(), path })
    }

    /// Puts a claimed task away: it is a run now.
    pub fn done(&self, claimed: &Claimed) -> Result<(), Error> {
        let folder = self.folder.join("done");
        for name in free_names(&claimed.name, claimed.id) {
            match rename_new(&claimed.path, &folder.join(name)) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(cannot_put_away(claimed, "done", &error)),
            }
        }
        Err(cannot_put_away(claimed, "done", &ErrorKind::AlreadyExists.into()))
    }

    /// Puts a claimed file away with the reason beside it; the answer is the reason's file. The reason is on disk before the
    /// file moves: nothing is ever rejected without words.
    pub fn reject(&self, claimed: &Claimed, why: &str) -> Result<PathBuf, Error> {
        let folder = self.folder.join("rejected");
        let failed = |error: &std::io::Error| cannot_put_away(claimed, "rejected", error);
        let part = folder.join(format!(".{}.part", claimed.id));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.write_all(why.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| {
            let _ = std::fs::remove_file(&part);
            failed(&error)
        })?;
        for name in free_names(&claimed.name, claimed.id) {
            let path = folder.join(&name);
            if path.symlink_metadata().is_ok() {
                continue;
            }
            let mut reason = path.clone().into_os_string();
            reason.push(".error.txt");
            // A reason without its file is left from a crash between the two renames.
            std::fs::rename(&part, &reason).map_err(|error| failed(&error))?;
            return match rename_new(&claimed.path, &path) {
                Ok(()) => Ok(reason.into()),
                Err(error) => Err(failed(&error)),
            };
        }
        Err(failed(&ErrorKind::AlreadyExists.into()))
    }

    /// Makes the folders that are missing.
    fn make_folders(&self) -> std::io::Result<()> {
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o700);
        FOLDERS.iter().try_for_each(|name| make.create(self.folder.join(name)))
    }
}

fn cannot_put_away(claimed: &Claimed, folder: &str, error: &std::io::Error) -> Error {
    Error::machine("inbox", format!("cannot move {} to {folder}", claimed.path.display()), error)
}

fn entries(folder: &Path) -> impl Iterator<Item = std::fs::DirEntry> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten()
}

/// As many of the tasks of a folder as one look takes in; says so where there are more. What is no task does not count.
fn first<T>(folder: &Path, mut tasks: impl Iterator<Item = T>) -> Vec<T> {
    static SAID: std::sync::Once = std::sync::Once::new();
    let found: Vec<T> = tasks.by_ref().take(NAMES_MAX).collect();
    if tasks.next().is_some() {
        SAID.call_once(|| {
            tracing::warn!(folder = %folder.display(), "more than {NAMES_MAX} tasks lie here; the rest is seen when these are gone");
        });
    }
    found
}

fn is_file(entry: &std::fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_file())
}

/// Whether a name in the inbox is a task's: hidden names, halves (`.tmp`, `.part`) and backups (`~`) are nobody's.
fn is_task_name(name: &OsStr) -> bool {
    let name = name.as_bytes().to_ascii_lowercase();
    !name.starts_with(b".") && (name.ends_with(b".yaml") || name.ends_with(b".yml"))
}

/// The run of a file that `devo submit` named.
fn submitted_id(name: &OsStr) -> Option<RunId> {
    let id: RunId = name.to_str()?.strip_suffix(".yaml")?.parse().ok()?;
    // Only its own spelling: another one could name the same run by a second file.
    (name.to_str()? == format!("{id}.yaml")).then_some(id)
}

/// A name in parts: before the last dot, and from it on.
fn stem_and_extension(name: &OsStr) -> (&[u8], &[u8]) {
    let name = name.as_bytes();
    name.split_at(name.iter().rposition(|byte| *byte == b'.').unwrap_or(name.len()))
}

fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let (stem, extension) = stem_and_extension(name);
    OsString::from_vec([stem, suffix.as_bytes(), extension].concat())
}

/// The name of a claimed file: its own, with the id of its run before the extension.
fn claimed_name(name: &OsStr, id: RunId) -> OsString {
    if submitted_id(name) == Some(id) { name.to_owned() } else { with_suffix(name, &format!(".{id}")) }
}

/// The run and the own name of a claimed file.
fn parse_claimed(name: &OsStr) -> Option<(RunId, OsString)> {
    if let Some(id) = submitted_id(name) {
        return Some((id, name.to_owned()));
    }
    let (stem, extension) = stem_and_extension(name);
    let dot = stem.iter().rposition(|byte| *byte == b'.')?;
    let id: RunId = std::str::from_utf8(&stem[dot + 1..]).ok()?.parse().ok()?;
    Some((id, OsString::from_vec([&stem[..dot], extension].concat())))
}

/// Names to try for a file, ending with one that only this run can have.
fn free_names(name: &OsStr, id: RunId) -> Vec<OsString> {
    let mut names = vec![name.to_owned()];
    names.extend((1..10).map(|number| with_suffix(name, &format!("-{number}"))));
    names.extend([with_suffix(name, &format!("-{}", id.short())), with_suffix(name, &format!("-{id}"))]);
    names
}

/// Renames to a name that must be free; nothing is ever replaced.
fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // File systems that cannot promise it can link, which refuses to replace as well.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads a task's text: a regular amount of UTF-8, whatever the path is.
pub fn read_task(path: &Path) -> Result<String, Error> {
    let shown = path.display();
    let open = if path == Path::new("-") { File::open("/dev/stdin") } else { File::open(path) };
    let file = open.map_err(|error| {
        let error = Error::machine("task_file", format!("cannot read {shown}"), &error).exit(Exit::Refused);
        error.hint("give the path of a task file, or name the work with --pipeline, --repo and --task")
    })?;
    read_text(file, &shown.to_string())
}

/// Reads a file that somebody dropped, which must be a regular one: a pipe would wait for ever, and a link may lead anywhere.
fn read_regular(path: &Path, name: &OsStr) -> Result<String, Error> {
    use rustix::io::Errno;
    let shown = crate::secrets::printable(&name.to_string_lossy());
    let failed = |error: std::io::Error| {
        let message = format!("cannot read {shown}");
        match Errno::from_io_error(&error) {
            // The machine is short of something for now; everything else is about this file.
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Error::machine("inbox", message, &error),
            _ => Error::machine("task_file", message, &error)
                .exit(Exit::Refused)
                .hint("drop a regular file that the daemon's user may read"),
        }
    };
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::refused("not_a_file", format!("{shown} is not a regular file"))
            .hint("links, pipes, sockets and devices are not followed or read"));
    }
    read_text(file, &shown)
}

fn read_text(file: File, shown: &str) -> Result<String, Error> {
    let mut bytes = Vec::new();
    if let Err(error) = file.take(TASK_MAX + 1).read_to_end(&mut bytes) {
        let error = Error::machine("task_file", format!("cannot read {shown}"), &error);
        return Err(error.exit(Exit::Refused));
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
        assert_eq!(std::fs::read_to_string(reason).unwrap(), "error: no");
        assert!(inbox.queued().is_empty());
        assert!(inbox.claim(one).is_err());
    }

    #[test]
    fn names_are_kept_and_never_collide() {
        let (dir, inbox) = inbox();
        let drop = |name: &[u8], text: &str| {
            let name = OsStr::from_bytes(name);
            std::fs::write(dir.path().join("inbox").join(name), text).unwrap();
            inbox.take(name, RunId(uuid::Uuid::now_v7())).unwrap()
        };
        for number in 0..30 {
            let claimed = drop(b"fix: it.v2.yaml", &number.to_string());
            assert_eq!(inbox.claimed(), std::slice::from_ref(&claimed), "the id is found again");
            inbox.done(&claimed).unwrap();
        }
        let mut kept: Vec<String> = std::fs::read_dir(dir.path().join("inbox/done"))
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        kept.sort_by_key(|text| text.parse::<u32>().unwrap());
        assert_eq!(kept, (0..30).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_eq!(std::fs::read_to_string(dir.path().join("inbox/done/fix: it.v2.yaml")).unwrap(), "0");
        let claimed = drop(b"\xff\n.yml", "x");
        assert_eq!(inbox.claimed()[0].name.as_bytes(), b"\xff\n.yml");
        assert_eq!(inbox.reject(&claimed, "no").unwrap().file_name().unwrap().as_bytes(), b"\xff\n.yml.error.txt");
    }

    #[test]
    fn a_reason_that_lost_its_file_in_a_crash_is_used_again() {
        let (dir, inbox) = inbox();
        std::fs::write(dir.path().join("inbox/a.yaml"), "x").unwrap();
        std::fs::write(dir.path().join("inbox/rejected/a.yaml.error.txt"), "half").unwrap();
        let claimed = inbox.take(OsStr::new("a.yaml"), RunId(uuid::Uuid::now_v7())).unwrap();
        inbox.reject(&claimed, "whole").unwrap();
        let mut names: Vec<_> = entries(&dir.path().join("inbox/rejected")).map(|entry| entry.file_name()).collect();
        names.sort();
        assert_eq!(names, ["a.yaml", "a.yaml.error.txt"]);
        assert_eq!(std::fs::read_to_string(dir.path().join("inbox/rejected/a.yaml.error.txt")).unwrap(), "whole");
    }

    #[test]
    fn only_regular_small_text_is_read() {
        let (dir, inbox) = inbox();
        let path = |name: &str| dir.path().join("inbox").join(name);
        rustix::fs::mkfifoat(CWD, path("fifo.yaml"), 0o600.into()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path("link.yaml")).unwrap();
        for name in ["fifo.yaml", "link.yaml"] {
            let claimed = inbox.take(OsStr::new(name), RunId(uuid::Uuid::now_v7())).unwrap();
            assert!(claimed.read().is_err(), "{name}");
        }
        std::fs::write(path("good.yaml"), "a: 1").unwrap();
        let claimed = inbox.take(OsStr::new("good.yaml"), RunId(uuid::Uuid::now_v7())).unwrap();
        assert_eq!(claimed.read().unwrap(), "a: 1");
    }

    #[test]
    fn whatever_else_lies_there_the_tasks_are_found() {
        let (dir, inbox) = inbox();
        let path = |name: &str| dir.path().join("inbox").join(name);
        for number in 0..2 * NAMES_MAX {
            File::create(path(&format!("{number}.txt"))).unwrap();
        }
        let tasks = 20;
        for number in 0..tasks {
            std::fs::write(path(&format!("dropped-{number}.yaml")), "a: 1").unwrap();
            inbox.put(RunId(uuid::Uuid::now_v7()), "a: 1").unwrap();
        }
        assert_eq!(inbox.queued().len(), tasks);
        let mut arrivals = arrivals::Arrivals::of(&path(""), false);
        arrivals.look();
        std::thread::sleep(std::time::Duration::from_millis(600));
        assert_eq!(arrivals.look().ready.len(), 2 * tasks);
    }

    #[test]
    fn what_is_nobodys_is_not_a_task() {
        for name in [".a.yaml", "a.yaml~", "a.tmp", "a.yaml.part", "a.json", "yaml", ".yaml", ".YAML"] {
            assert!(!is_task_name(OsStr::new(name)), "{name}");
        }
        for name in ["a.yaml", "a.yml", "a.YAML", "-rf.yaml", "..yaml.yaml"] {
            assert_eq!(is_task_name(OsStr::new(name)), !name.starts_with('.'), "{name}");
        }
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
