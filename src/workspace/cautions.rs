//! What a tree holds that a workspace will lack: the contents of Git LFS files, and submodules. To be said aloud before a run
//! tests against pointers and empty folders.

use std::collections::BTreeMap;

use super::error::Result;
use super::folder::as_path;
use super::tree::{FileKind, TreeFile, TreeView};

/// How a pointer begins.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
/// A pointer is smaller.
const POINTER_MAX: u64 = 1024;
/// A larger file of attributes is not looked at.
const ATTRIBUTES_MAX: usize = 256 << 10;
/// Pointers that are looked for; beyond, "at least" is said.
const POINTERS_MAX: usize = 10_000;

impl TreeView {
    /// Sentences for a person, none if a workspace of this tree is whole.
    pub fn cautions(&self) -> Result<Vec<String>> {
        let files = self.files()?;
        let mut said = Vec::new();
        let submodules: Vec<&TreeFile> = files.iter().filter(|file| file.kind == FileKind::Submodule).collect();
        if let Some(first) = submodules.first() {
            let (count, stay) = match submodules.len() {
                1 => ("a submodule".to_owned(), "its folder stays empty"),
                count => (format!("{count} submodules"), "their folders stay empty"),
            };
            said.push(format!(
                "the repository has {count} ({}): {stay} in the workspace, and the commit stays",
                first.path
            ));
        }
        let (pointers, first) = self.pointers(files)?;
        if let Some(first) = first {
            let least = if pointers == POINTERS_MAX { "at least " } else { "" };
            let files = if pointers == 1 { "file is" } else { "files are" };
            said.push(format!(
                "{least}{pointers} {files} kept with Git LFS ({first}), which is not fetched: the workspace and the tests see \
                 the pointers, not the contents"
            ));
        }
        Ok(said)
    }

    /// How many files are pointers, and one of them.
    fn pointers(&self, files: &[TreeFile]) -> Result<(usize, Option<String>)> {
        // Rules by the folder of their file, with its slash.
        let mut rules = BTreeMap::new();
        for file in files.iter().filter(|file| file.path.rsplit('/').next() == Some(".gitattributes")) {
            if matches!(file.kind, FileKind::File | FileKind::Executable) && file.size <= ATTRIBUTES_MAX as u64 {
                let text = self.read(&file.path, ATTRIBUTES_MAX)?.bytes;
                let mut builder = ignore::gitignore::GitignoreBuilder::new("");
                let mut any = false;
                for line in String::from_utf8_lossy(&text).lines() {
                    let mut words = line.split_whitespace();
                    if let (Some(pattern), true) = (words.next(), words.any(|word| word == "filter=lfs")) {
                        // A pattern that is none matches nothing, as with git.
                        any |= builder.add_line(None, pattern).is_ok();
                    }
                }
                if let (true, Ok(matcher)) = (any, builder.build()) {
                    rules.insert(file.path[..file.path.len() - ".gitattributes".len()].to_owned(), matcher);
                }
            }
        }
        let (mut count, mut first) = (0, None);
        if rules.is_empty() {
            return Ok((count, first));
        }
        for file in files.iter().filter(|file| file.size < POINTER_MAX && file.kind != FileKind::Submodule) {
            let named = rules.iter().any(|(folder, matcher)| {
                file.path.strip_prefix(folder.as_str()).is_some_and(|rest| {
                    matcher.matched_path_or_any_parents(as_path(rest.as_bytes()), false).is_ignore()
                })
            });
            if named && self.read(&file.path, POINTER.len())?.bytes == POINTER {
                count += 1;
                first.get_or_insert_with(|| file.path.clone());
                if count == POINTERS_MAX {
                    break;
                }
            }
        }
        Ok((count, first))
    }
}
