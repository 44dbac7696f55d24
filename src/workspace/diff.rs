//! What changed between two trees: a patch for people, figures, paths. No external program, no filter, no textconv.

use git2::{Delta, DiffFindOptions, DiffFormat, DiffLineType, DiffOptions, Repository};
use serde::{Deserialize, Serialize};

use super::TreeId;
use super::error::{Error, Result};
use super::worktree::{Worktree, missing};

/// Renames are looked for among this many files.
const RENAMES_MAX: usize = 500;
/// A larger file is shown as changed, without its lines.
const TEXT_MAX: i64 = 8 << 20;

/// A unified diff as git prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// Bytes that are no UTF-8 are replaced; control characters of the files are in it.
    pub text: String,
    /// Whether it goes on after `text`, which then ends with a whole line.
    pub cut: bool,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Added,
    /// Its content or its mode differs.
    Modified,
    /// It is gone.
    Deleted,
    /// It has another path now.
    Renamed,
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFile {
    /// Where it is now, or was.
    pub path: String,
    /// Where it was, if it was renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What happened to it.
    pub change: Change,
    /// Lines that came; 0 for a binary file.
    pub added: usize,
    /// Lines that went; 0 for a binary file.
    pub removed: usize,
    /// Whether it has no lines to count.
    pub binary: bool,
}

/// The figures of a difference.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiffStat {
    /// Every file that differs, by path.
    pub files: Vec<ChangedFile>,
    /// Lines that came.
    pub added: usize,
    /// Lines that went.
    pub removed: usize,
}

impl DiffStat {
    /// `+12 −3 in 2 files`.
    pub fn summary(&self) -> String {
        let files = self.files.len();
        format!("+{} −{} in {files} file{}", self.added, self.removed, if files == 1 { "" } else { "s" })
    }
}

impl Worktree {
    /// The patch that leads from one tree to another, `most` bytes of it.
    pub fn diff(&self, from: TreeId, to: TreeId, most: usize) -> Result<Patch> {
        let repo = self.repository()?;
        let diff = compare(&repo, from, to, true)?;
        let mut bytes: Vec<u8> = Vec::new();
        let mut cut = false;
        let printed = diff.print(DiffFormat::Patch, |_, _, line| {
            let origin = match line.origin_value() {
                DiffLineType::Addition | DiffLineType::Deletion | DiffLineType::Context => Some(line.origin() as u8),
                _ => None,
            };
            // A file's header comes as one piece of several lines.
            for (at, part) in line.content().split_inclusive(|b| *b == b'\n').enumerate() {
                cut = bytes.len() + part.len() + 1 > most;
                if cut {
                    break;
                }
                bytes.extend(origin.filter(|_| at == 0));
                bytes.extend_from_slice(part);
            }
            !cut
        });
        // A callback that says stop makes libgit2 answer with an error.
        if !cut {
            printed.map_err(Error::objects("comparing trees"))?;
        }
        Ok(Patch { text: String::from_utf8_lossy(&bytes).into_owned(), cut })
    }

    /// How many lines of which files differ.
    pub fn diffstat(&self, from: TreeId, to: TreeId) -> Result<DiffStat> {
        let repo = self.repository()?;
        let diff = compare(&repo, from, to, true)?;
        let mut stat = DiffStat::default();
        for index in 0..diff.deltas().len() {
            let patch = git2::Patch::from_diff(&diff, index).map_err(Error::objects("comparing trees"))?;
            let Some(delta) = diff.get_delta(index) else { continue };
            let counted = patch.as_ref().map(git2::Patch::line_stats).transpose();
            let (_, added, removed) = counted.map_err(Error::objects("comparing trees"))?.unwrap_or_default();
            // Known only now: the content had to be looked at.
            let delta = patch.as_ref().map_or(delta, git2::Patch::delta);
            let path =
                |file: git2::DiffFile<'_>| file.path_bytes().map(|path| String::from_utf8_lossy(path).into_owned());
            let (old, new) = (path(delta.old_file()), path(delta.new_file()));
            let change = match delta.status() {
                Delta::Added | Delta::Copied => Change::Added,
                Delta::Deleted => Change::Deleted,
                Delta::Renamed => Change::Renamed,
                _ => Change::Modified,
            };
            let path = if change == Change::Deleted { old.clone().or(new) } else { new.or_else(|| old.clone()) };
            stat.files.push(ChangedFile {
                path: path.unwrap_or_default(),
                from: old.filter(|_| change == Change::Renamed),
                change,
                added,
                removed,
                binary: delta.flags().is_binary(),
            });
            stat.added += added;
            stat.removed += removed;
        }
        stat.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(stat)
    }

    /// Every path that differs, sorted; a renamed file counts with both of its paths.
    pub fn changed_paths(&self, from: TreeId, to: TreeId) -> Result<Vec<String>> {
        let repo = self.repository()?;
        let diff = compare(&repo, from, to, false)?;
        let paths = diff.deltas().flat_map(|delta| [delta.old_file().path_bytes(), delta.new_file().path_bytes()]);
        let mut paths: Vec<String> = paths.flatten().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        paths.sort_unstable();
        paths.dedup();
        Ok(paths)
    }
}

pub(super) fn compare(repo: &Repository, from: TreeId, to: TreeId, renames: bool) -> Result<git2::Diff<'_>> {
    let tree = |id: TreeId| repo.find_tree(id.0).map_err(|_| missing("tree", id.0));
    let mut options = DiffOptions::new();
    options.max_size(TEXT_MAX).include_typechange(true);
    let mut diff = repo
        .diff_tree_to_tree(Some(&tree(from)?), Some(&tree(to)?), Some(&mut options))
        .map_err(Error::objects("comparing trees"))?;
    if renames {
        let mut find = DiffFindOptions::new();
        find.renames(true).rename_limit(RENAMES_MAX);
        diff.find_similar(Some(&mut find)).map_err(Error::objects("comparing trees"))?;
    }
    Ok(diff)
}
