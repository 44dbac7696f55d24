//! `.gitignore` rules on the way down a tree. Knows neither the disk nor a repository: the texts are handed in.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::folder::as_path;

/// A larger `.gitignore` is not applied: compiling it would take seconds.
pub const IGNORE_TEXT_MAX: u64 = 256 << 10;
/// Of the rules of one file.
const RULES_MAX: usize = 5000;

/// The rules of the folders from the root down to where the walk stands.
#[derive(Default)]
pub(super) struct Rules {
    levels: Vec<Option<Level>>,
}

struct Level {
    /// The length of the folder's path with its slash; 0 for the root.
    prefix: usize,
    matcher: Gitignore,
}

impl Rules {
    /// Enters a folder whose path (with a slash at its end, empty for the root) has this length, with the text of its
    /// `.gitignore`. `false` if there is one that cannot be applied.
    pub fn enter(&mut self, prefix: usize, text: Option<&[u8]>) -> bool {
        let level = text.map(|text| compile(prefix, text));
        let applied = !matches!(level, Some(None));
        self.levels.push(level.flatten());
        applied
    }

    /// Leaves the folder that was entered last.
    pub fn leave(&mut self) {
        self.levels.pop();
    }

    /// Whether the path, relative to the root, is ignored by the rules so far. A folder above it that is ignored is the
    /// caller's to remember.
    pub fn ignore(&self, path: &[u8], is_folder: bool) -> bool {
        for level in self.levels.iter().rev().flatten() {
            let found = level.matcher.matched(as_path(&path[level.prefix..]), is_folder);
            if !found.is_none() {
                return found.is_ignore();
            }
        }
        false
    }
}

fn compile(prefix: usize, text: &[u8]) -> Option<Level> {
    Some(Level { prefix, matcher: ignore_rules(text)? })
}

/// The rules of a `.gitignore`, for paths relative to its own folder; `None` for one that is too large to be applied.
pub fn ignore_rules(text: &[u8]) -> Option<Gitignore> {
    if text.len() as u64 > IGNORE_TEXT_MAX {
        return None;
    }
    let text = String::from_utf8_lossy(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text));
    let mut builder = GitignoreBuilder::new("");
    for (count, line) in text.lines().enumerate() {
        if count >= RULES_MAX {
            return None;
        }
        // A line that is no pattern matches nothing, as with git.
        let _ = builder.add_line(None, line);
    }
    builder.build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeper_rules_win_and_are_relative_to_their_folder() {
        let mut rules = Rules::default();
        assert!(rules.enter(0, Some(b"*.log\n/build/\ntarget/\n[bad\n")));
        assert!(rules.ignore(b"a.log", false) && rules.ignore(b"x/a.log", false));
        assert!(rules.ignore(b"build", true) && !rules.ignore(b"build", false) && !rules.ignore(b"x/build", true));
        assert!(rules.enter(2, Some(b"!keep.log\n/only\n")));
        assert!(!rules.ignore(b"x/keep.log", false) && rules.ignore(b"x/only", false));
        assert!(rules.ignore(b"x/target", true) && !rules.ignore(b"x/y/only", false));
        rules.leave();
        assert!(rules.ignore(b"x/keep.log", false));
        assert!(!rules.enter(0, Some(&b"a\n".repeat(RULES_MAX + 1))));
        assert!(!rules.ignore(b"a", false));
    }
}
