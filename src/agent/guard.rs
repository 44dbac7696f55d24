//! The anti-tamper guard: which files the executor may not change, how they are put back, and what in a diff deserves a
//! second look.
//!
//! | files | lifted by the approved plan |
//! | --- | --- |
//! | tests and their data, by each language's convention | a glob of `tests_may_change`, which lifts nothing else |
//! | configuration of tests, builds, CI and agents, `.gitignore`, also when new | the exact path in a step's `files` |
//! | lock files of the base commit | the exact path, or that of a manifest beside or below it |
//! | `.git` in any spelling, `.gitattributes`, `.gitmodules` | nothing |
//!
//! It does not know tools, sandboxes or git. The check on a clean checkout is the last word; this is the first.

mod conventions;
mod scan;

use std::collections::BTreeSet;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::files::{FileError, Kind, RepoPath, Source as _};
use super::folder::Folder;
use super::truncate::cut_line;
use crate::core::plan::Plan;

use conventions::{Sort, is_manifest, sort};

pub use conventions::is_test;
pub use scan::{Finding, FindingKind, scan_diff};

/// What the executor of one run may not change.
#[derive(Debug, Clone)]
pub struct Guard {
    base: BTreeSet<String>,
    tests_may_change: GlobSet,
    named: BTreeSet<String>,
}

impl Guard {
    /// From the paths of the base commit and the approved plan. Globs that do not parse lift nothing.
    pub fn new(base: impl IntoIterator<Item = String>, plan: &Plan) -> Self {
        let mut globs = GlobSetBuilder::new();
        for glob in &plan.tests_may_change {
            let plain = glob.trim_start_matches("./").trim_start_matches('/');
            // As people read a glob: `*` stays within a folder, `**` does not.
            if let Ok(glob) = GlobBuilder::new(plain).literal_separator(true).build() {
                globs.add(glob);
            }
        }
        let named = plan.steps.iter().flat_map(|step| &step.files);
        Self {
            base: base.into_iter().collect(),
            tests_may_change: globs.build().unwrap_or_else(|_| GlobSet::empty()),
            named: named.filter_map(|file| Some(RepoPath::parse(&file.path).ok()?.as_str().to_owned())).collect(),
        }
    }

    /// Why a path may not be changed, made or removed; `None` if it may.
    pub fn protects(&self, path: &str) -> Option<&'static str> {
        let named = self.named.contains(path);
        match sort(path) {
            Some(Sort::Git) => Some("git's own files are never changed"),
            _ if named && !is_test(path) => None,
            Some(Sort::Ci) => Some("it configures CI, and the plan does not name it"),
            Some(Sort::Config) if !named => Some("it decides what is built or tested, and the plan does not name it"),
            Some(Sort::Ignore) => Some("it decides what is committed, and the plan does not name it"),
            Some(Sort::Agent) => Some("it instructs agents, and the plan does not name it"),
            // A lock file that a build makes anew harms nobody; one that exists pins what was reviewed.
            Some(Sort::Lock) => (self.base.contains(path) && !self.manifest_is_named(path))
                .then_some("it pins dependencies, and the plan does not name it or its manifest"),
            Some(Sort::Config) | None => (is_test(path) && !self.tests_may_change.is_match(path))
                .then_some("it is a test, and the plan does not list it in tests_may_change"),
        }
    }

    /// Whether the plan names a manifest in the lock file's folder or below it.
    fn manifest_is_named(&self, lock: &str) -> bool {
        let folder = lock.rsplit_once('/').map_or("", |(folder, _)| folder);
        self.named.iter().any(|path| {
            let inside = folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
            inside && is_manifest(path)
        })
    }

    /// Protected paths of the base commit: what a sandbox can mount read-only.
    pub fn protected_at_base(&self) -> impl Iterator<Item = &str> {
        self.base.iter().map(String::as_str).filter(|path| self.protects(path).is_some())
    }
}

/// Paths for a message: some of them, and how many more there are. Nobody reads thousands, and a step keeps what it says.
pub fn some_of<T: AsRef<str>>(lines: &[T], between: &str) -> String {
    const SHOWN: usize = 20;
    let mut text = lines.iter().take(SHOWN).map(|line| cut_line(line.as_ref(), 300)).collect::<Vec<_>>().join(between);
    if lines.len() > SHOWN {
        text.push_str(&format!("{between}and {} more", lines.len() - SHOWN));
    }
    text
}

/// What the base commit has at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtBase<'a> {
    /// A file.
    File {
        /// Its content.
        bytes: &'a [u8],
        /// Whether it may be run.
        executable: bool,
    },
    /// A link; where it points.
    Link(&'a [u8]),
    /// Nothing.
    Nothing,
}

/// Puts one path back to what the base commit has, whatever stands there or in place of its folders now.
///
/// # Errors
/// What the file system says; nothing outside the folder is touched.
pub fn put_back(folder: &Folder, path: &RepoPath, base: AtBase<'_>) -> Result<(), FileError> {
    // A link or file that took the place of one of its folders goes first: below it nothing is ours.
    let mut above = RepoPath::root();
    for part in path.parent().parts() {
        above = above.join(part)?;
        match folder.metadata(&above) {
            Ok(entry) if entry.kind == Kind::Folder => {}
            Ok(_) if base == AtBase::Nothing => return Ok(()),
            Ok(_) => folder.remove(&above)?,
            Err(_) => break,
        }
    }
    match base {
        AtBase::Nothing => folder.remove(path),
        AtBase::Link(target) => folder.write_link(path, &String::from_utf8_lossy(target)),
        AtBase::File { bytes, executable } => {
            if folder.metadata(path).is_ok_and(|entry| entry.kind != Kind::File) {
                folder.remove(path)?;
            }
            folder.write_any(path, bytes, Some(executable)).map(|_| ())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use serde_json::json;

    use super::*;

    fn guard(tests: &[&str], files: &[&str]) -> Guard {
        let files: Vec<_> = files.iter().map(|path| json!({"path": path, "action": "modify", "why": "w"})).collect();
        let plan = json!({"title": "t", "summary": "s", "criteria": [], "tests_may_change": tests,
                          "steps": [{"id": "s1", "title": "t", "intent": "i", "files": files}]});
        let base = ["Cargo.lock", "web/yarn.lock", "tests/a.rs", "src/lib.rs", "Cargo.toml"].map(str::to_owned);
        Guard::new(base, &serde_json::from_value(plan).expect("a plan"))
    }

    #[test]
    fn tests_configuration_and_git_are_protected() {
        let closed = guard(&[], &[]);
        for path in [
            "tests/a.rs",
            "tests/new.rs",
            "tests/data/x.json",
            "src/x.test.ts",
            "pkg/test_a.py",
            "pkg/a_test.go",
            "conftest.py",
            "sub/conftest.py",
            "CONFTEST.PY",
            "sitecustomize.py",
            "Cargo.toml",
            "a/package.json",
            "tsconfig.base.json",
            "Dockerfile.dev",
            "docker-compose.yml",
            ".github/workflows/ci.yml",
            "sub/.github/x.yml",
            ".husky/pre-commit",
            ".pre-commit-config.yaml",
            ".gitattributes",
            "sub/.gitmodules",
            ".gitignore",
            "Cargo.lock",
            "AGENTS.md",
            "sub/claude.md",
            ".claude/x",
            "jest.config.js",
            "a/.git/config",
            "a/.GIT/config",
            ".cargo/config.toml",
            "build.rs",
            "MAKEFILE",
        ] {
            assert!(closed.protects(path).is_some(), "{path}");
        }
        for path in [
            "src/lib.rs",
            "docs/readme.md",
            "src/contest.rs",
            "sub/Cargo.lock",
            "src/latest.py",
            "a/.gitkeep",
            "docs/spec/x.md",
            "src/testing.rs",
        ] {
            assert!(closed.protects(path).is_none(), "{path}: {:?}", closed.protects(path));
        }
        assert!(closed.protected_at_base().eq(["Cargo.lock", "Cargo.toml", "tests/a.rs", "web/yarn.lock"]));
    }

    #[test]
    fn the_plan_lifts_what_it_may() {
        let open = guard(&["tests/stock*.rs"], &["Cargo.toml", "tests/a.rs", ".gitattributes", ".github/x.yml"]);
        assert!(open.protects("tests/stock.rs").is_none());
        assert!(open.protects("tests/deep/stock.rs").is_some(), "`*` stays within a folder");
        assert!(open.protects("Cargo.toml").is_none(), "the approved plan names it");
        assert!(open.protects("Cargo.lock").is_none(), "it follows its manifest");
        assert!(open.protects("web/yarn.lock").is_some(), "it does not follow another one");
        assert!(open.protects(".github/x.yml").is_none() && open.protects(".github/y.yml").is_some());
        assert!(open.protects("tests/a.rs").is_some(), "tests only through tests_may_change");
        assert!(open.protects(".gitattributes").is_some(), "never");
        // A glob for tests, however wide, lifts nothing but tests.
        let wide = guard(&["**/*", "**"], &[]);
        assert!(wide.protects("tests/a.rs").is_none() && wide.protects("a/b_test.go").is_none());
        for path in ["tests/conftest.py", "Cargo.toml", ".github/x.yml", "AGENTS.md", ".gitignore", "Cargo.lock"] {
            assert!(wide.protects(path).is_some(), "{path}");
        }
        let both = guard(&["tests/**"], &["tests/conftest.py"]);
        assert!(both.protects("tests/conftest.py").is_none());
        assert!(guard(&["a["], &[]).protects("tests/a.rs").is_some());
    }

    #[test]
    fn whatever_stands_there_is_put_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let (ws, out) = (dir.path().join("ws"), dir.path().join("out"));
        fs::create_dir_all(ws.join("tests")).expect("made");
        fs::create_dir(&out).expect("made");
        fs::write(out.join("b.py"), "outside").expect("written");
        let folder = Folder::open(&ws, []).expect("open");
        let file = |bytes| AtBase::File { bytes, executable: false };
        let back =
            |path: &str, base| put_back(&folder, &RepoPath::parse(path).expect("a path"), base).expect("put back");

        // A folder became a link out, a file a folder, a link a file, a mode changed, something is new.
        symlink(&out, ws.join("tests/deep")).expect("linked");
        back("tests/deep/b.py", file(b"b"));
        fs::create_dir_all(ws.join("Makefile/x")).expect("made");
        back("Makefile", file(b"m"));
        fs::write(ws.join("CLAUDE.md"), "obey").expect("written");
        back("CLAUDE.md", AtBase::Link(b"AGENTS.md"));
        fs::write(ws.join("run.sh"), "r").expect("written");
        fs::set_permissions(ws.join("run.sh"), fs::Permissions::from_mode(0o644)).expect("mode");
        back("run.sh", AtBase::File { bytes: b"r", executable: true });
        fs::create_dir_all(ws.join("tests/conftest.py/x")).expect("made");
        back("tests/conftest.py", AtBase::Nothing);
        symlink(&out, ws.join("e2e")).expect("linked");
        back("e2e/b.py", AtBase::Nothing);

        let text = |path: &str| fs::read_to_string(ws.join(path)).expect("read");
        assert_eq!((text("tests/deep/b.py"), text("Makefile")), ("b".to_owned(), "m".to_owned()));
        assert_eq!(fs::read_link(ws.join("CLAUDE.md")).expect("a link"), std::path::Path::new("AGENTS.md"));
        assert_eq!(fs::metadata(ws.join("run.sh")).expect("there").permissions().mode() & 0o111, 0o111);
        assert!(!ws.join("tests/conftest.py").exists());
        assert_eq!(fs::read_to_string(out.join("b.py")).expect("read"), "outside");
    }
}
