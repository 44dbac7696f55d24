//! A control group per command, where this process may make one: hard limits on memory and on processes.
//!
//! Version 2 where the group of this process (or its parent, when the engine sits in a leaf of its own, as with systemd's
//! `Delegate=pids memory` and `DelegateSubgroup=engine`) is ours to divide; version 1 where its `pids` and `memory`
//! hierarchies are writable. Anything else is no group, and the caller watches instead. Knows nothing of sandboxes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{LimitHit, Limits};

/// A group of its own for one command. Removed on drop, which is in vain while a process is left in it.
#[derive(Debug)]
pub(super) struct Group {
    parts: Vec<Part>,
}

/// One folder: the whole group in version 2, one controller's in version 1.
#[derive(Debug)]
struct Part {
    folder: PathBuf,
    /// Where this process came from and returns to.
    origin: PathBuf,
    counts: &'static [Count],
}

/// A file with a line `KEY N`: N times a limit was met.
#[derive(Debug)]
struct Count {
    file: &'static str,
    key: &'static str,
    hit: LimitHit,
}

const PIDS: Count = Count { file: "pids.events", key: "max", hit: LimitHit::Pids };
const MEMORY_2: Count = Count { file: "memory.events", key: "oom_kill", hit: LimitHit::Memory };
const MEMORY_1: Count = Count { file: "memory.oom_control", key: "oom_kill", hit: LimitHit::Memory };

impl Group {
    /// A fresh group with these limits; `None` where this machine gives us none, or gives only half of it.
    pub fn create(limits: &Limits) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let name = format!("devo-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let (pids, memory) = (limits.pids.to_string(), limits.memory_bytes.to_string());
        Self::create_2(&folder_of(&groups, &mounts, None)?, &name, &pids, &memory).or_else(|| {
            let (pids_home, memory_home) =
                (folder_of(&groups, &mounts, Some("pids"))?, folder_of(&groups, &mounts, Some("memory"))?);
            let pids = Part::create(&pids_home, &pids_home, &name, &[("pids.max", &pids)], &[PIDS])?;
            let mut group = Self { parts: vec![pids] };
            let limit = [("memory.limit_in_bytes", memory.as_str())];
            group.parts.push(Part::create(&memory_home, &memory_home, &name, &limit, &[MEMORY_1])?);
            Some(group)
        })
    }

    fn create_2(home: &Path, name: &str, pids: &str, memory: &str) -> Option<Self> {
        [Some(home), home.parent()].into_iter().flatten().find_map(|parent| {
            if !fs::read_to_string(parent.join("cgroup.subtree_control")).ok()?.contains("pids") {
                // Refused where it is not delegated or holds processes of its own; the next file then does not exist.
                let _ = fs::write(parent.join("cgroup.subtree_control"), "+pids +memory");
            }
            let limits = [("pids.max", pids), ("memory.max", memory)];
            Some(Self { parts: vec![Part::create(parent, home, name, &limits, &[PIDS, MEMORY_2])?] })
        })
    }

    /// Moves this process in, so that what it starts is in from its first instant. False, and unmoved, if refused.
    pub fn enter(&self) -> bool {
        let entered = self.parts.iter().all(|part| join(&part.folder));
        if !entered {
            self.leave();
        }
        entered
    }

    /// Moves this process back, out of reach of the command's limits.
    pub fn leave(&self) {
        for part in &self.parts {
            join(&part.origin);
        }
    }

    /// The limits that were met so far.
    pub fn hits(&self) -> Vec<LimitHit> {
        let met = |folder: &Path, count: &Count| {
            let text = fs::read_to_string(folder.join(count.file)).unwrap_or_default();
            let number = text.lines().find_map(|line| line.strip_prefix(count.key)?.trim().parse::<u64>().ok());
            number.is_some_and(|number| number > 0)
        };
        let counts = self.parts.iter().flat_map(|part| part.counts.iter().map(|count| (&part.folder, count)));
        counts.filter(|(folder, count)| met(folder, count)).map(|(_, count)| count.hit).collect()
    }
}

impl Part {
    fn create(
        parent: &Path,
        origin: &Path,
        name: &str,
        limits: &[(&str, &str)],
        counts: &'static [Count],
    ) -> Option<Self> {
        sweep(parent);
        let folder = parent.join(name);
        fs::create_dir(&folder).ok()?;
        let part = Self { folder, origin: origin.to_owned(), counts };
        // Written only where it exists: on an ordinary folder a write would make a file and limit nothing.
        let set = |(file, value): &(&str, &str)| {
            let file = part.folder.join(file);
            file.exists() && fs::write(file, value).is_ok()
        };
        limits.iter().all(set).then_some(part)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // A group stays busy for an instant after its last process was collected.
        for pause_ms in [0, 1, 5, 20, 50] {
            std::thread::sleep(Duration::from_millis(pause_ms));
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
        }
    }
}

/// Removes empty groups of supervisors that were killed and could not.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix("devo-")?.split_once('-')?.0.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Moves this process into the group.
fn join(folder: &Path) -> bool {
    fs::write(folder.join("cgroup.procs"), "0").is_ok()
}

/// The folder of this process's group: of version 2, or of that controller of version 1.
fn folder_of(groups: &str, mounts: &str, controller: Option<&str>) -> Option<PathBuf> {
    let group = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        match controller {
            None => controllers.is_empty(),
            Some(controller) => controllers.split(',').any(|each| each == controller),
        }
        .then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let filesystem: Vec<&str> = filesystem.split(' ').collect();
        let mount: Vec<&str> = mount.split(' ').collect();
        let ours = match controller {
            None => *filesystem.first()? == "cgroup2",
            Some(controller) => {
                *filesystem.first()? == "cgroup" && filesystem.get(2)?.split(',').any(|option| option == controller)
            }
        };
        let below = Path::new(group).strip_prefix(mount.get(3)?).ok()?;
        ours.then(|| Path::new(mount.get(4).copied().unwrap_or_default()).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_folder_of_either_version() {
        let groups = "8:pids:/\n4:cpu,memory:/a/b\n0::/user.slice/x.service/engine\n";
        let mounts = "30 20 0:1 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      31 20 0:2 /a /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      32 20 0:3 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        for (controller, wanted) in [
            (Some("pids"), "/sys/fs/cgroup/pids/"),
            (Some("memory"), "/sys/fs/cgroup/memory/b"),
            (None, "/sys/fs/cgroup/unified/user.slice/x.service/engine"),
        ] {
            assert_eq!(folder_of(groups, mounts, controller), Some(PathBuf::from(wanted)));
        }
        assert_eq!(folder_of(groups, mounts, Some("freezer")), None);
        assert_eq!(folder_of("", "", None), None);
    }

    #[test]
    fn an_ordinary_folder_is_no_group_and_is_left_as_it_was() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = folder.path().join("engine");
        fs::create_dir(&home).expect("a folder");
        fs::write(folder.path().join("cgroup.subtree_control"), "memory pids").expect("a file");
        assert!(Group::create_2(&home, "devo-test", "10", "1000").is_none());
        assert_eq!(fs::read_dir(&home).expect("a folder").count(), 0);
        assert!(!folder.path().join("devo-test").exists());
    }
}
