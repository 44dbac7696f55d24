//! A patch, file by file, for lists and pages. It reads git's format and nothing else.

/// A file of a patch.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PatchFile<'p> {
    /// Its path.
    pub path: String,
    /// Lines that came.
    pub added: usize,
    /// Lines that went.
    pub removed: usize,
    /// Its part of the patch.
    pub text: &'p str,
}

/// The files of a patch, in its order.
pub fn files(patch: &str) -> Vec<PatchFile<'_>> {
    let mut starts: Vec<usize> = Vec::new();
    let mut at = 0;
    for line in patch.split_inclusive('\n') {
        if line.starts_with("diff --git ") {
            starts.push(at);
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([patch.len()]);
    starts.iter().zip(ends).map(|(start, end)| file(&patch[*start..end])).collect()
}

fn file(text: &str) -> PatchFile<'_> {
    let (mut added, mut removed, mut inside) = (0, 0, false);
    let mut path = None;
    for line in text.lines() {
        if line.starts_with("@@") {
            inside = true;
        } else if inside && line.starts_with('+') {
            added += 1;
        } else if inside && line.starts_with('-') {
            removed += 1;
        } else if !inside && let Some(name) = line.strip_prefix("+++ ").or_else(|| line.strip_prefix("--- ")) {
            // The new name counts, unless the file goes.
            if name != "/dev/null" {
                path = Some(name.get(2..).unwrap_or(name).trim_matches('"').to_owned());
            }
        }
    }
    // Without content (a mode, a binary) only the first line has the name, twice.
    let first = text.lines().next().unwrap_or_default();
    let path = path.unwrap_or_else(|| {
        let both = first.strip_prefix("diff --git ").unwrap_or(first);
        both.get(both.len() / 2 + 1..).and_then(|name| name.strip_prefix("b/")).unwrap_or(both).to_owned()
    });
    PatchFile { path, added, removed, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_falls_into_its_files() {
        let patch = "diff --git a/a.rs b/a.rs\nindex 1..2 100644\n--- a/a.rs\n+++ b/a.rs\n@@ -1,2 +1,2 @@\n-old\n+new\n+++ more\n ctx\ndiff --git a/gone b/gone\ndeleted file mode 100644\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\ndiff --git a/img.png b/img.png\nBinary files differ\n";
        let found = files(patch);
        let short: Vec<_> = found.iter().map(|file| (file.path.as_str(), file.added, file.removed)).collect();
        assert_eq!(short, [("a.rs", 2, 1), ("gone", 0, 1), ("img.png", 0, 0)]);
        assert_eq!(found.iter().map(|file| file.text).collect::<String>(), patch);
        assert!(files("").is_empty());
    }
}
