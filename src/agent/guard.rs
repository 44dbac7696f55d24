//! The files that the executor must not change, and the look for tampering in what it did change.
//!
//! What is protected, and what lifts it (decided here, said to the person with the plan):
//!
//! | files | when | lifted by |
//! | --- | --- | --- |
//! | tests and their data, by each language's convention | in the base commit | `tests_may_change` of the approved plan |
//! | test and build configuration, lock files, `.gitignore` | also when new | the exact path in the approved plan's `files` (a lock file also by its manifest) |
//! | CI, `.gitattributes`, `.gitmodules`, agents' and editors' settings | also when new | nothing |
//!
//! It does not know tools, sandboxes or git; the gate on a clean checkout is the last word, this is the first.

mod conventions;
mod scan;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::files::{FileError, Kind, RepoPath, Source as _, Tree};
use super::folder::Folder;
use crate::core::plan::Plan;

pub use conventions::is_test_path;
pub use scan::{Finding, FindingKind, scan_diff};

/// Bytes of one protected file that are hashed; a longer one is also told apart by its size.
const HASHED: u64 = 64 * 1024 * 1024;

/// Why a path is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A test, or data of tests, that the base commit has.
    Test,
    /// Configuration of tests or of the build.
    Config,
    /// A lock file.
    Lock,
    /// What runs after a push, or on a commit.
    Ci,
    /// Git's own settings in the tree.
    Git,
    /// What agents and editors obey.
    Agent,
}

impl Reason {
    /// For the model: what it is, and the honest way out.
    pub fn text(self) -> &'static str {
        match self {
            Self::Test => {
                "it is a test of the base commit that the approved plan does not allow to change; \
                 make the code fit the test, add a new test file, or call finish with criteria_conflict"
            }
            Self::Config => {
                "it configures tests or the build and the approved plan does not name it; \
                 work without changing it, or call finish with blocked"
            }
            Self::Lock => {
                "it is a lock file whose manifest the approved plan does not name; work without new dependencies"
            }
            Self::Ci => "it is part of continuous integration, which is never changed here",
            Self::Git => "it is git's own, which is never changed here",
            Self::Agent => "it instructs agents or editors, which is never changed here",
        }
    }
}

/// A glob of the plan that cannot be read.
#[derive(Debug, Error)]
#[error("`{glob}` in tests_may_change is not a glob: {source}")]
pub struct BadGlob {
    glob: String,
    source: globset::Error,
}

/// The protected paths of one run.
#[derive(Debug, Clone)]
pub struct Protected {
    base: HashSet<String>,
    may_change: GlobSet,
    named: HashSet<String>,
}

impl Protected {
    /// `base_files`: every path of the base commit. `plan_files`: every path that the approved plan's steps name.
    pub fn new(
        base_files: impl IntoIterator<Item = String>,
        tests_may_change: &[String],
        plan_files: impl IntoIterator<Item = String>,
    ) -> Result<Self, BadGlob> {
        let mut globs = GlobSetBuilder::new();
        for glob in tests_may_change {
            let bad = |source| BadGlob { glob: glob.clone(), source };
            let plain = glob.trim_start_matches("./").trim_start_matches('/');
            globs.add(GlobBuilder::new(plain).literal_separator(true).build().map_err(bad)?);
        }
        let bad = |source| BadGlob { glob: tests_may_change.join(", "), source };
        let clean = |path: String| RepoPath::parse(&path).map(|path| path.as_str().to_owned()).ok();
        Ok(Self {
            base: base_files.into_iter().collect(),
            may_change: globs.build().map_err(bad)?,
            named: plan_files.into_iter().filter_map(clean).collect(),
        })
    }

    /// From an approved plan.
    pub fn of_plan(base_files: impl IntoIterator<Item = String>, plan: &Plan) -> Result<Self, BadGlob> {
        let files = plan.steps.iter().flat_map(|step| &step.files).map(|file| file.path.clone());
        Self::new(base_files, &plan.tests_may_change, files)
    }

    /// Why a path must not be written, removed or created; none where it may.
    pub fn is_protected(&self, path: &str) -> Option<Reason> {
        let reason = conventions::config(path).or_else(|| {
            (self.base.contains(path) && is_test_path(path) && !self.may_change.is_match(path)).then_some(Reason::Test)
        })?;
        let lifted = match reason {
            Reason::Test | Reason::Ci | Reason::Agent => false,
            Reason::Git => path.ends_with(".gitignore") && self.named.contains(path),
            Reason::Config => self.named.contains(path),
            Reason::Lock => self.named.contains(path) || self.manifest_is_named(path),
        };
        (!lifted).then_some(reason)
    }

    /// Whether the plan names a manifest in the lock file's folder or below it.
    fn manifest_is_named(&self, lock: &str) -> bool {
        let folder = lock.rsplit_once('/').map_or("", |(folder, _)| folder);
        self.named.iter().any(|path| {
            let inside = folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
            inside && conventions::is_manifest(path)
        })
    }

    /// The base commit's files that are protected: what a sandbox mounts read-only.
    pub fn base_paths(&self) -> Vec<String> {
        let mut paths: Vec<String> =
            self.base.iter().filter(|path| self.is_protected(path).is_some()).cloned().collect();
        paths.sort_unstable();
        paths
    }
}

/// What stands at a protected path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    kind: Kind,
    executable: bool,
    hash: [u8; 32],
}

/// The protected files of a folder at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    marks: BTreeMap<String, Mark>,
}

/// A protected file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tampered {
    /// From the root.
    pub path: String,
    /// What happened.
    pub what: Tampering,
    executable: bool,
    link: bool,
}

/// What happened to a protected file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tampering {
    /// Other content, mode or kind.
    Changed,
    /// It is gone.
    Removed,
    /// It was not there.
    Added,
}

/// Looks at all protected files, for sandboxes that cannot mount them read-only: once before and once after a command.
pub fn snapshot(folder: &Folder, protected: &Protected) -> Result<Snapshot, FileError> {
    let mut marks = BTreeMap::new();
    let walk = folder.walk(&RepoPath::root())?;
    let found = walk.entries.into_iter().map(|entry| entry.path).filter(|path| protected.is_protected(path).is_some());
    for path in found.chain(protected.base_paths()) {
        let Ok(parsed) = RepoPath::parse(&path) else { continue };
        match mark(folder, &parsed) {
            Ok(mark) => {
                marks.insert(path, mark);
            }
            // Not there, or behind something that is now a file or a link: gone.
            Err(FileError::NotFound { .. } | FileError::Link { .. } | FileError::Io { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Snapshot { marks })
}

fn mark(folder: &Folder, path: &RepoPath) -> Result<Mark, FileError> {
    let entry = folder.metadata(path)?;
    let mut hash = Sha256::new();
    match entry.kind {
        Kind::File => {
            let content = folder.read_any(path, HASHED)?;
            hash.update(content.size.to_le_bytes());
            hash.update(&content.bytes);
        }
        Kind::Link => hash.update(folder.link(path).unwrap_or_default()),
        Kind::Folder | Kind::Other => {}
    }
    Ok(Mark { kind: entry.kind, executable: entry.executable, hash: hash.finalize().into() })
}

impl Snapshot {
    /// What differs now; `later` is a snapshot of the same folder.
    pub fn changes(&self, later: &Self) -> Vec<Tampered> {
        let tampered = |path: &String, mark: &Mark, what| Tampered {
            path: path.clone(),
            what,
            executable: mark.executable,
            link: mark.kind == Kind::Link,
        };
        let mut changes = Vec::new();
        for (path, mark) in &self.marks {
            match later.marks.get(path) {
                Some(now) if now == mark => {}
                Some(_) => changes.push(tampered(path, mark, Tampering::Changed)),
                None => changes.push(tampered(path, mark, Tampering::Removed)),
            }
        }
        let added = later.marks.iter().filter(|(path, _)| !self.marks.contains_key(*path));
        changes.extend(added.map(|(path, mark)| tampered(path, mark, Tampering::Added)));
        changes
    }
}

/// Puts protected files back to the base commit's content, and removes new ones.
pub fn restore(folder: &Folder, base: &dyn Tree, changes: &[Tampered]) -> Result<(), FileError> {
    for change in changes {
        let path = RepoPath::parse(&change.path)?;
        if change.what == Tampering::Added {
            folder.remove(&path)?;
            continue;
        }
        // Whatever took the place of one of its folders goes first.
        let mut above = RepoPath::root();
        for part in path.parent().parts() {
            above = above.join(part)?;
            match folder.metadata(&above) {
                Ok(entry) if entry.kind == Kind::Folder => {}
                Ok(_) => {
                    folder.remove(&above)?;
                    break;
                }
                Err(_) => break,
            }
        }
        if folder.metadata(&path).is_ok_and(|entry| entry.kind != Kind::File) {
            folder.remove(&path)?;
        }
        let content = base.blob(&change.path, u64::MAX)?;
        match change.link {
            true => folder.write_link(&path, &String::from_utf8_lossy(&content))?,
            false => {
                folder.write_any(&path, &content, Some(change.executable))?;
            }
        }
    }
    Ok(())
}

/// What the model is told after files were put back.
pub fn restored_note(changes: &[Tampered]) -> String {
    let mut text = String::from("[protected files were changed by the command and have been put back:");
    for change in changes.iter().take(10) {
        let _ = write!(text, " {}", change.path);
    }
    if changes.len() > 10 {
        let _ = write!(text, " and {} more", changes.len() - 10);
    }
    text.push_str("; make the code fit them instead, or call finish with criteria_conflict]\n");
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::files::MemoryTree;
    use super::*;

    fn protected(tests_may_change: &[&str], named: &[&str]) -> Protected {
        let base = [
            "src/main.rs",
            "tests/test_a.py",
            "tests/data/x.json",
            "src/price_test.go",
            "web/a.spec.ts",
            "Cargo.toml",
            "sub/Cargo.toml",
            ".gitignore",
        ];
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Protected::new(owned(&base), &owned(tests_may_change), owned(named)).expect("good globs")
    }

    #[test]
    fn the_table_holds() {
        let plain = protected(&[], &[]);
        let cases = [
            ("src/main.rs", None),
            ("tests/test_a.py", Some(Reason::Test)),
            ("tests/data/x.json", Some(Reason::Test)),
            ("src/price_test.go", Some(Reason::Test)),
            ("web/a.spec.ts", Some(Reason::Test)),
            // New tests are welcome, new configuration of tests is not.
            ("tests/test_new.py", None),
            ("tests/conftest.py", Some(Reason::Config)),
            ("CONFTEST.PY", Some(Reason::Config)),
            ("sitecustomize.py", Some(Reason::Config)),
            ("Cargo.toml", Some(Reason::Config)),
            ("build.rs", Some(Reason::Config)),
            (".cargo/config.toml", Some(Reason::Config)),
            ("a/package.json", Some(Reason::Config)),
            ("jest.config.mjs", Some(Reason::Config)),
            ("Makefile", Some(Reason::Config)),
            ("Cargo.lock", Some(Reason::Lock)),
            ("web/pnpm-lock.yaml", Some(Reason::Lock)),
            (".github/workflows/ci.yml", Some(Reason::Ci)),
            (".gitlab-ci.yml", Some(Reason::Ci)),
            (".husky/pre-commit", Some(Reason::Ci)),
            (".gitattributes", Some(Reason::Git)),
            ("sub/.gitmodules", Some(Reason::Git)),
            (".gitignore", Some(Reason::Git)),
            ("a/.gitkeep", None),
            ("AGENTS.md", Some(Reason::Agent)),
            ("sub/claude.md", Some(Reason::Agent)),
            (".cursor/rules/x", Some(Reason::Agent)),
            (".vscode/settings.json", Some(Reason::Agent)),
            ("src/package.rs", None),
            ("docs/testing.md", None),
            ("src/contest.py", None),
        ];
        for (path, reason) in cases {
            assert_eq!(plain.is_protected(path), reason, "{path}");
        }
        assert_eq!(
            plain.base_paths(),
            [
                ".gitignore",
                "Cargo.toml",
                "src/price_test.go",
                "sub/Cargo.toml",
                "tests/data/x.json",
                "tests/test_a.py",
                "web/a.spec.ts"
            ]
        );
    }

    #[test]
    fn the_plan_lifts_what_it_may() {
        let open = protected(
            &["tests/**", "**/*"],
            &["Cargo.toml", ".gitignore", ".gitattributes", ".github/x.yml", "AGENTS.md", "web/a.spec.ts"],
        );
        for path in ["tests/test_a.py", "tests/data/x.json", "web/a.spec.ts", "Cargo.toml", "Cargo.lock", ".gitignore"]
        {
            assert_eq!(open.is_protected(path), None, "{path}");
        }
        for path in
            ["tests/conftest.py", "sub/Cargo.toml", ".gitattributes", ".github/x.yml", "AGENTS.md", "sub/Cargo.lock"]
        {
            assert!(open.is_protected(path).is_some(), "{path}");
        }
        // Naming a test in `files` is not the same as allowing it to change.
        assert_eq!(protected(&[], &["web/a.spec.ts"]).is_protected("web/a.spec.ts"), Some(Reason::Test));
        // `*` stays within a folder.
        assert!(protected(&["tests/*"], &[]).is_protected("tests/data/x.json").is_some());
        assert!(Protected::new([], &["a[".to_owned()], []).is_err());
    }

    #[test]
    fn tampering_is_seen_and_undone() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = [
            ("tests/a.py", "a"),
            ("tests/deep/b.py", "b"),
            ("Makefile", "m"),
            ("src/x.py", "x"),
            ("tests/run.sh", "r"),
        ];
        let base = MemoryTree::new(files);
        let folder = Folder::open(dir.path(), files.iter().map(|(path, _)| (*path).to_owned())).expect("open");
        for (path, text) in files {
            folder.write(&RepoPath::parse(path).expect("a path"), text.as_bytes()).expect("written");
        }
        let guard = Protected::new(files.iter().map(|(path, _)| (*path).to_owned()), &[], []).expect("no globs");
        let before = snapshot(&folder, &guard).expect("a snapshot");
        assert!(before.changes(&snapshot(&folder, &guard).expect("a snapshot")).is_empty());

        let at = |path: &str| dir.path().join(path);
        fs::write(at("src/x.py"), "may change").expect("written");
        fs::write(at("tests/a.py"), "weaker").expect("written");
        fs::remove_dir_all(at("tests/deep")).expect("removed");
        fs::create_dir(dir.path().join("elsewhere")).expect("made");
        std::os::unix::fs::symlink("../elsewhere", at("tests/deep")).expect("linked");
        fs::remove_file(at("Makefile")).expect("removed");
        fs::create_dir(at("Makefile")).expect("made");
        fs::write(at("tests/conftest.py"), "fake").expect("written");
        // An ignore rule hides nothing.
        fs::write(at(".gitignore"), "conftest.py\ntests\n").expect("written");
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(at("tests/run.sh"), fs::Permissions::from_mode(0o755)).expect("mode");

        let changes = before.changes(&snapshot(&folder, &guard).expect("a snapshot"));
        let seen: Vec<&str> = changes.iter().map(|c| c.path.as_str()).collect();
        assert_eq!(seen, ["Makefile", "tests/a.py", "tests/deep/b.py", "tests/run.sh", ".gitignore"]);
        restore(&folder, &base, &changes).expect("restored");
        // With the ignore rule gone the rest shows.
        let changes = before.changes(&snapshot(&folder, &guard).expect("a snapshot"));
        assert_eq!(
            changes.iter().map(|c| (c.path.as_str(), c.what)).collect::<Vec<_>>(),
            [("tests/conftest.py", Tampering::Added)]
        );
        restore(&folder, &base, &changes).expect("restored");
        assert!(before.changes(&snapshot(&folder, &guard).expect("a snapshot")).is_empty());
        assert_eq!(fs::read_to_string(at("src/x.py")).expect("read"), "may change");
        assert_eq!(fs::read_dir(dir.path().join("elsewhere")).expect("a folder").count(), 0);
    }
}
