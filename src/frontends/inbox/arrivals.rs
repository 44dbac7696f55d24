//! Which files of the folder are complete. It knows names and stamps; what is in the files, and who takes them, is known
//! elsewhere.
//!
//! The system's notices are hints that make it quick: a file is complete when it was closed after writing, or renamed into
//! place. Without notices (a full table of watches, a network file system, files that were there before us) a file is
//! complete when two looks find it unchanged and no process that we can see has it open for writing.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::writers::{FileId, file_id, written};
use super::{NAME_MAX, NAMES_MAX, entries, is_task_name};

/// Between two looks while notices arrive: they may be lost.
const RESCAN: Duration = Duration::from_secs(2);
/// Between two looks while there are none, and before a second look at a file that nothing was told about.
const SETTLE: Duration = Duration::from_millis(500);
/// An empty file is likely about to be filled.
const EMPTY_SETTLE: Duration = Duration::from_secs(5);
/// Before the system is asked again for a watch that it refused.
const WATCH_AGAIN: Duration = Duration::from_secs(30);
/// Names that are remembered; beyond it, files are judged as if nothing had been told.
const MARKS_MAX: usize = 100_000;

/// What was told of a name since it was last taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// It appeared; who made it may not have opened it (a link).
    Made,
    /// It appeared and was opened, perhaps for writing.
    Opened,
    /// It is being written.
    Writing,
    /// It was closed after writing, or renamed into place.
    Complete,
}

#[derive(Default)]
struct Told {
    marks: HashMap<OsString, Mark>,
}

impl Told {
    /// Takes a notice in; says whether somebody should look.
    fn take(&mut self, event: &notify::Event, folder: &Path) -> bool {
        if event.need_rescan() || self.marks.len() > MARKS_MAX {
            self.marks.clear();
            return true;
        }
        let mut look = false;
        // Both halves of a rename inside the folder come on their own as well.
        if matches!(event.kind, EventKind::Modify(ModifyKind::Name(RenameMode::Both))) {
            return false;
        }
        for path in &event.paths {
            let Some(name) = path.file_name().filter(|name| is_task_name(name)) else {
                // The folder itself went or changed.
                look |= path == folder
                    && matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
                continue;
            };
            let before = self.marks.get(name).copied();
            let after = match event.kind {
                EventKind::Create(CreateKind::File) => Some(Mark::Made),
                EventKind::Access(AccessKind::Open(_)) if before == Some(Mark::Made) => Some(Mark::Opened),
                EventKind::Access(AccessKind::Close(AccessMode::Read)) if before == Some(Mark::Opened) => {
                    Some(Mark::Made)
                }
                EventKind::Modify(ModifyKind::Data(_)) => Some(Mark::Writing),
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Mark::Complete),
                EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => None,
                _ => before,
            };
            look |= after == Some(Mark::Complete);
            match after {
                Some(mark) => self.marks.insert(name.to_owned(), mark),
                None => self.marks.remove(name),
            };
        }
        look
    }
}

/// A state of a file that a writer would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    id: FileId,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        let (modified, changed) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        Self { id: file_id(meta), size: meta.len(), modified, changed }
    }
}

/// What one look found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Complete files, in the order of their names.
    pub ready: Vec<OsString>,
    /// What is named like a task and can never be one, with the reason.
    pub odd: Vec<(OsString, &'static str)>,
}

/// Watches a folder.
pub struct Arrivals {
    folder: PathBuf,
    told: Arc<Mutex<Told>>,
    wake: Arc<Notify>,
    watch: Option<(RecommendedWatcher, FileId)>,
    /// When the system may be asked for a watch.
    ask: Option<Instant>,
    /// Files that nothing was told about, as they were found first.
    seen: HashMap<OsString, (Stamp, Instant)>,
    /// Folders that were complained about.
    ignored: HashSet<OsString>,
    /// There were more tasks than one look takes in, and it was said.
    cut: bool,
}

impl Arrivals {
    /// Watches a folder, which need not be there yet. Without `notices` it only looks.
    pub fn of(folder: &Path, notices: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            told: Arc::default(),
            wake: Arc::default(),
            watch: None,
            ask: notices.then(Instant::now),
            seen: HashMap::new(),
            ignored: HashSet::new(),
            cut: false,
        }
    }

    /// Waits until a look is worth it.
    pub async fn wait(&self) {
        let soon = self.watch.is_none() || !self.seen.is_empty();
        tokio::select! {
            () = self.wake.notified() => {}
            () = tokio::time::sleep(if soon { SETTLE } else { RESCAN }) => {}
        }
    }

    /// Looks at the folder once. Blocks on the file system.
    pub fn look(&mut self) -> Found {
        // Before the listing: what happens after it is told.
        self.keep_watch();
        let mut found = Found::default();
        let (mut unsure, mut present) = (Vec::new(), HashSet::new());
        // What is no task does not count, however much of it there is.
        let mut tasks = entries(&self.folder).filter(|entry| is_task_name(&entry.file_name()));
        for entry in tasks.by_ref().take(NAMES_MAX) {
            let name = entry.file_name();
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                if self.ignored.len() < 1000 && self.ignored.insert(name.clone()) {
                    tracing::warn!(folder = ?name, "a folder in the inbox is not a task; it is left alone");
                }
                continue;
            }
            if name.as_bytes().len() > NAME_MAX {
                found.odd.push((name, "its name is too long: 200 bytes at most"));
                continue;
            }
            if !meta.is_file() {
                found.odd.push((
                    name,
                    "it is not a regular file: links, pipes, sockets and devices are not followed or read",
                ));
                continue;
            }
            let mark = self.told.lock().expect("no holder of this lock can panic").marks.get(&name).copied();
            match mark {
                Some(Mark::Complete) if meta.len() > 0 => found.ready.push(name),
                Some(Mark::Writing | Mark::Opened) => {}
                _ => {
                    present.insert(name.clone());
                    if self.unchanged(&name, &meta) {
                        unsure.push((name, file_id(&meta)));
                    }
                }
            }
        }
        let cut = tasks.next().is_some();
        if cut && !self.cut {
            tracing::warn!("more than {NAMES_MAX} tasks lie in the inbox; the rest is taken when these are gone");
        }
        self.cut = cut;
        self.seen.retain(|name, _| present.contains(name));
        let wanted: HashSet<FileId> = unsure.iter().map(|(_, id)| *id).collect();
        let busy = written(&wanted);
        found.ready.extend(unsure.into_iter().filter(|(_, id)| !busy.contains(id)).map(|(name, _)| name));
        found.ready.sort();
        let mut told = self.told.lock().expect("no holder of this lock can panic");
        for name in &found.ready {
            self.seen.remove(name);
            // What is told from here on is about a later state, or another file of that name.
            told.marks.remove(name);
        }
        found
    }

    /// Whether someone writes to a file of this name since it was found complete.
    pub fn is_touched(&self, name: &OsStr) -> bool {
        let told = self.told.lock().expect("no holder of this lock can panic");
        matches!(told.marks.get(name), Some(Mark::Writing | Mark::Opened))
    }

    /// Whether a file is as it was at an earlier look, long enough ago.
    fn unchanged(&mut self, name: &OsStr, meta: &Metadata) -> bool {
        let stamp = Stamp::of(meta);
        let patience = if stamp.size == 0 { EMPTY_SETTLE } else { SETTLE };
        match self.seen.get(name) {
            Some((known, since)) if *known == stamp => since.elapsed() >= patience,
            _ => {
                self.seen.insert(name.to_owned(), (stamp, Instant::now()));
                false
            }
        }
    }

    /// Watches the folder that is there now: it may have come late, or been replaced.
    fn keep_watch(&mut self) {
        let here = std::fs::metadata(&self.folder).ok().map(|meta| file_id(&meta));
        if self.watch.as_ref().is_some_and(|(_, watched)| Some(*watched) == here) {
            return;
        }
        self.watch = None;
        self.told.lock().expect("no holder of this lock can panic").marks.clear();
        let (Some(here), Some(ask)) = (here, self.ask) else { return };
        if Instant::now() < ask {
            return;
        }
        match self.start_watch() {
            Ok(watcher) => {
                self.watch = Some((watcher, here));
                self.ask = Some(Instant::now());
            }
            Err(error) => {
                tracing::warn!(%error, "the system gives no notices of the inbox; it is looked at twice a second");
                self.ask = Some(Instant::now() + WATCH_AGAIN);
            }
        }
    }

    fn start_watch(&self) -> notify::Result<RecommendedWatcher> {
        let (told, wake, folder) = (self.told.clone(), self.wake.clone(), self.folder.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let look = match event {
                Ok(event) => told.lock().expect("no holder of this lock can panic").take(&event, &folder),
                Err(_) => true,
            };
            if look {
                wake.notify_one();
            }
        })?;
        watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Looks until something is found; the test's own time limit ends what never comes.
    async fn found(arrivals: &mut Arrivals) -> Found {
        loop {
            let found = arrivals.look();
            if found != Found::default() {
                return found;
            }
            arrivals.wait().await;
        }
    }

    fn names(found: &Found) -> Vec<&str> {
        found.ready.iter().map(|name| name.to_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_never_ready() {
        for notices in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut arrivals = Arrivals::of(dir.path(), notices);
            arrivals.look();
            let path = dir.path().join("slow.yaml");
            let mut file = std::fs::File::create(&path).unwrap();
            file.write_all(b"pipeline: whole\n").unwrap();
            file.sync_all().unwrap();
            // Others come and are found, with the slow one open all the time, and unchanged.
            for round in 0..3 {
                std::fs::write(dir.path().join("other.yaml"), format!("round: {round}")).unwrap();
                assert_eq!(names(&found(&mut arrivals).await), ["other.yaml"], "notices: {notices}");
                std::fs::remove_file(dir.path().join("other.yaml")).unwrap();
            }
            file.write_all(b"task: more\n").unwrap();
            drop(file);
            assert_eq!(names(&found(&mut arrivals).await), ["slow.yaml"]);
        }
    }

    #[tokio::test]
    async fn what_was_there_and_what_is_renamed_in_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("before.yml"), "a: 1").unwrap();
        let mut arrivals = Arrivals::of(dir.path(), true);
        assert_eq!(names(&found(&mut arrivals).await), ["before.yml"]);
        std::fs::remove_file(dir.path().join("before.yml")).unwrap();
        std::fs::write(dir.path().join(".half"), "a: 1").unwrap();
        std::fs::rename(dir.path().join(".half"), dir.path().join("in.yaml")).unwrap();
        assert_eq!(names(&found(&mut arrivals).await), ["in.yaml"]);
        std::fs::remove_file(dir.path().join("in.yaml")).unwrap();
        let outside = dir.path().join("kept.txt");
        std::fs::write(&outside, "a: 1").unwrap();
        std::fs::hard_link(&outside, dir.path().join("linked.yaml")).unwrap();
        assert_eq!(names(&found(&mut arrivals).await), ["linked.yaml"]);
    }

    #[tokio::test]
    async fn a_folder_may_come_late_and_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = dir.path().join("inbox");
        let mut arrivals = Arrivals::of(&inbox, true);
        assert_eq!(arrivals.look(), Found::default());
        for round in 0..2 {
            std::fs::create_dir(&inbox).unwrap();
            std::fs::write(inbox.join("a.yaml"), format!("round: {round}")).unwrap();
            assert_eq!(names(&found(&mut arrivals).await), ["a.yaml"]);
            assert!(arrivals.watch.is_some());
            std::fs::remove_dir_all(&inbox).unwrap();
        }
    }

    #[test]
    fn what_can_never_be_a_task_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("/dev/zero", path("link.yaml")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo.yaml"), 0o600.into()).unwrap();
        std::fs::create_dir(path("folder.yaml")).unwrap();
        std::fs::write(path(&format!("{}.yaml", "x".repeat(240))), "a: 1").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket.yaml")).unwrap();
        let mut arrivals = Arrivals::of(dir.path(), false);
        let found = arrivals.look();
        assert_eq!((found.ready.len(), found.odd.len()), (0, 4), "{found:?}");
    }

    #[tokio::test]
    async fn an_empty_file_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut arrivals = Arrivals::of(dir.path(), true);
        arrivals.look();
        std::fs::write(dir.path().join("empty.yaml"), "").unwrap();
        std::fs::write(dir.path().join("full.yaml"), "a: 1").unwrap();
        assert_eq!(names(&found(&mut arrivals).await), ["full.yaml"]);
        std::fs::write(dir.path().join("empty.yaml"), "b: 2").unwrap();
        std::fs::remove_file(dir.path().join("full.yaml")).unwrap();
        assert_eq!(names(&found(&mut arrivals).await), ["empty.yaml"]);
    }
}
