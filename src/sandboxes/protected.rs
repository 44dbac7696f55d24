//! What a command must not change in its workspace, as mounts over it. Knows neither `bwrap` nor docker, nor why a path is
//! worth protecting.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Command, SandboxError, within};

/// Mounts get slow by the square of their number; beyond this the caller's comparison has to do.
const MOST_PROTECTED: usize = 256;

/// A path of the workspace that gets a mount of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cover {
    /// Relative to the workspace.
    pub path: PathBuf,
    /// Else it only cannot be moved away.
    pub read_only: bool,
    /// Device and inode: a mount stays with the file that it was made for, not with its name.
    pub file: (u64, u64),
}

/// How the paths of [`Command::read_only`] are protected.
#[derive(Debug, Default)]
pub(super) struct Protected {
    /// Folders before what they hold.
    pub covers: Vec<Cover>,
    /// As they came: what does not exist, lies behind a link, or is too much.
    pub not: Vec<PathBuf>,
}

/// Finds the mounts for the command's read-only paths.
///
/// Every folder above a protected path becomes a mount point of its own: a mount point cannot be renamed, so nobody can
/// move the protected path out of the way together with its folder and put another in its place.
///
/// # Errors
/// A path that leaves the workspace.
pub(super) fn protected(command: &Command, workspace: &Path) -> Result<Protected, SandboxError> {
    let mut not = Vec::new();
    let mut wanted = BTreeSet::new();
    for path in &command.read_only {
        let relative = within(&command.workspace, path)?;
        match is_plain(workspace, &relative) && relative.to_str().is_some() && wanted.len() < MOST_PROTECTED {
            true => drop(wanted.insert(relative)),
            false => not.push(path.clone()),
        }
    }
    // Sorted, a folder comes before what it holds: what lies in a read-only one needs nothing more.
    let mut read_only: Vec<PathBuf> = Vec::new();
    for path in wanted {
        if !read_only.iter().any(|above| path.starts_with(above)) {
            read_only.push(path);
        }
    }
    let above = read_only.iter().flat_map(|path| path.ancestors().skip(1));
    let above: BTreeSet<&Path> = above.filter(|folder| !folder.as_os_str().is_empty()).collect();
    let mounts: BTreeSet<(&Path, bool)> = above
        .into_iter()
        .map(|folder| (folder, false))
        .chain(read_only.iter().map(|path| (path.as_path(), true)))
        .collect();
    let cover = |(path, read_only): (&Path, bool)| {
        // It was there an instant ago; should it be gone, the mount fails and says so.
        let file = fs::symlink_metadata(workspace.join(path)).map_or((0, 0), |found| (found.dev(), found.ino()));
        Cover { path: path.to_owned(), read_only, file }
    };
    Ok(Protected { covers: mounts.into_iter().map(cover).collect(), not })
}

/// Whether the path exists and is a file or folder without a link on the way: a mount would follow one to the host.
/// Nobody writes to the workspace between this look and the mount: a run's commands never run side by side.
fn is_plain(workspace: &Path, relative: &Path) -> bool {
    let mut path = workspace.to_owned();
    relative.components().all(|part| {
        path.push(part);
        fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir() || metadata.is_file())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_exists_without_links_is_protected_and_its_folders_are_pinned() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let workspace = folder.path().canonicalize().expect("it exists");
        fs::create_dir_all(workspace.join("a/b/c")).expect("folders");
        fs::write(workspace.join("a/b/t.py"), "").expect("a file");
        symlink("/etc", workspace.join("link")).expect("a link");
        let mut command = Command::new("true", &workspace);
        command.read_only =
            ["a/b/t.py", "a/b/c", "a/b/c/d", "link/passwd", "link", "absent"].map(PathBuf::from).to_vec();
        let found = protected(&command, &workspace).expect("all paths are within");
        assert_eq!(found.not, ["a/b/c/d", "link/passwd", "link", "absent"].map(PathBuf::from));
        let covers: Vec<_> =
            found.covers.iter().map(|cover| (cover.path.to_str().expect("text"), cover.read_only)).collect();
        assert_eq!(covers, [("a", false), ("a/b", false), ("a/b/c", true), ("a/b/t.py", true)]);
        // Another file under the name is another cover.
        fs::write(workspace.join("new"), "").expect("a file");
        fs::rename(workspace.join("new"), workspace.join("a/b/t.py")).expect("ours");
        assert_ne!(protected(&command, &workspace).expect("all paths are within").covers[3], found.covers[3]);
        command.read_only = vec!["../x".into()];
        assert!(protected(&command, &workspace).is_err());
    }
}
