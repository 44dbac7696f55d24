//! The lines that a change brings, for whoever looks for something in them. What it looks for is not known here.

use git2::DiffLineType;

use super::TreeId;
use super::diff::compare;
use super::error::{Error, Result};
use super::folder::shown;
use super::worktree::{Worktree, missing};

impl Worktree {
    /// Hands over every line that `to` has and `from` has not: path, number of the line from 1, its bytes with their end. Of a
    /// file that has no lines to compare (binary, larger than 8 MiB, or so called by an attribute) every line is handed over.
    /// Paths come first as a line 0 of their own, where the file is new or has another name.
    pub fn additions(&self, from: TreeId, to: TreeId, see: &mut dyn FnMut(&str, usize, &[u8])) -> Result<()> {
        let repo = self.repository()?;
        let comparing = || Error::objects("comparing trees");
        let diff = compare(&repo, from, to, true)?;
        for index in 0..diff.deltas().len() {
            let patch = git2::Patch::from_diff(&diff, index).map_err(comparing())?;
            let Some(delta) = patch.as_ref().map(git2::Patch::delta).or_else(|| diff.get_delta(index)) else {
                continue;
            };
            let (old, new) = (delta.old_file(), delta.new_file());
            // A submodule's id, and a file that is gone, hold nothing.
            if !new.exists() || matches!(new.mode(), git2::FileMode::Commit) {
                continue;
            }
            let bytes = new.path_bytes().unwrap_or_default();
            let path = shown(bytes);
            if !old.exists() || old.path_bytes() != new.path_bytes() {
                see(&path, 0, bytes);
            }
            match patch.as_ref().filter(|_| !delta.flags().is_binary()) {
                Some(patch) => {
                    for hunk in 0..patch.num_hunks() {
                        for at in 0..patch.num_lines_in_hunk(hunk).map_err(comparing())? {
                            let line = patch.line_in_hunk(hunk, at).map_err(comparing())?;
                            if line.origin_value() == DiffLineType::Addition {
                                see(&path, line.new_lineno().unwrap_or_default() as usize, line.content());
                            }
                        }
                    }
                }
                None => {
                    let blob = repo.find_blob(new.id()).map_err(|_| missing("blob", new.id()))?;
                    for (at, line) in blob.content().split_inclusive(|byte| *byte == b'\n').enumerate() {
                        see(&path, at + 1, line);
                    }
                }
            }
        }
        Ok(())
    }
}
