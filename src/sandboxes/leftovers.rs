//! What killed commands left on this machine outside of any workspace: private folders of supervisors that are dead. (Their
//! control groups go with the next command: see `cgroup`.)

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Before the number of the supervisor's process.
pub(super) const HOME_PREFIX: &str = "devo-home-";
/// Another process may still be at removing it.
const SETTLED: Duration = Duration::from_secs(600);

/// The folders that dead supervisors of this user left.
pub fn leftovers() -> Vec<PathBuf> {
    in_folder(&std::env::temp_dir())
}

fn in_folder(folder: &Path) -> Vec<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let dead = |name: &str| {
        let pid = name.strip_prefix(HOME_PREFIX)?.split_once('-')?.0.parse::<u32>().ok()?;
        (!Path::new("/proc").join(pid.to_string()).exists()).then_some(())
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| {
        let Ok(meta) = entry.path().symlink_metadata() else { return false };
        let settled =
            meta.modified().is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > SETTLED));
        meta.is_dir() && meta.uid() == user && settled && entry.file_name().to_str().and_then(dead).is_some()
    });
    ours.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_the_dead_are_left_over() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Above the largest number that a process can have.
        let dead = format!("{HOME_PREFIX}4194305-x");
        for name in [dead.as_str(), &format!("{HOME_PREFIX}{}-x", std::process::id()), "devo-home-x", "other"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
            let hour_ago = SystemTime::now() - Duration::from_secs(3600);
            let opened = std::fs::File::open(folder.path().join(name)).expect("a folder");
            opened.set_modified(hour_ago).expect("ours");
        }
        std::fs::create_dir(folder.path().join(format!("{HOME_PREFIX}4194306-x"))).expect("a folder");
        assert_eq!(in_folder(folder.path()), [folder.path().join(dead)]);
    }
}
