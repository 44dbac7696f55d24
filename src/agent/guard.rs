//! The anti-tamper guard: which files the executor may not change, and what in a diff deserves a second look.
//!
//! Tests, test and build configuration, CI, lock files and agent instructions are protected. The approved plan lifts the
//! protection of tests through `tests_may_change`, and of configuration by naming the exact file; nothing lifts it from git's
//! own files.

use std::collections::BTreeSet;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use super::files::is_git_name;
use crate::core::plan::Plan;

/// Folders whose files are tests.
const TEST_FOLDERS: &[&str] = &["test", "tests", "__tests__", "spec", "specs", "e2e", "testdata"];
/// Names of test files by convention; `*` at one end.
const TEST_NAMES: &[&str] = &[
    "test_*",
    "*_test.py",
    "*_test.go",
    "*_test.rs",
    "*_test.rb",
    "*_spec.rb",
    "*Test.java",
    "*Tests.java",
    "*IT.java",
    "*Test.kt",
    "*Test.php",
    "*Tests.cs",
    "*_test.dart",
    "*_test.exs",
    "tests.rs",
];
/// A part of the name that makes a JavaScript or TypeScript file a test.
const TEST_INFIXES: &[&str] = &[".test.", ".spec."];
/// Configuration that decides what is built, tested and run.
const CONFIG: &[&str] = &[
    "conftest.py",
    "pytest.ini",
    "tox.ini",
    "setup.cfg",
    "setup.py",
    "noxfile.py",
    "pyproject.toml",
    "package.json",
    "tsconfig.json",
    "Cargo.toml",
    "build.rs",
    "rust-toolchain",
    "rust-toolchain.toml",
    "clippy.toml",
    "go.mod",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
    "settings.gradle",
    "Makefile",
    "makefile",
    "GNUmakefile",
    "justfile",
    "CMakeLists.txt",
    "Rakefile",
    "Gemfile",
    "composer.json",
    "phpunit.xml",
    "phpunit.xml.dist",
    "Jenkinsfile",
    "azure-pipelines.yml",
    ".travis.yml",
    "Dockerfile",
];
/// The same, by the start of the name.
const CONFIG_STARTS: &[&str] =
    &["jest.config.", "vitest.config.", "karma.conf.", ".mocharc", "playwright.config.", "requirements"];
/// Folders of configuration.
const CONFIG_FOLDERS: &[&str] = &[".cargo", ".circleci", ".buildkite", ".devcontainer", ".vscode", ".idea"];
const LOCKS: &[&str] = &[
    "Cargo.lock",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "bun.lockb",
    "poetry.lock",
    "uv.lock",
    "Pipfile.lock",
    "Gemfile.lock",
    "composer.lock",
    "go.sum",
];
const AGENT_FILES: &[&str] = &["AGENTS.md", "CLAUDE.md", "GEMINI.md", ".mcp.json", ".cursorrules"];
const AGENT_FOLDERS: &[&str] = &[".claude", ".cursor", ".gemini", ".aider", ".codex"];

/// Whether a path is a test by convention.
pub fn is_test(path: &str) -> bool {
    let (folders, name) = split(path);
    let by_name = TEST_NAMES.iter().any(|pattern| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (_, Some(start)) => name.starts_with(start) && name.ends_with(".py"),
        _ => name == *pattern,
    });
    by_name
        || TEST_INFIXES.iter().any(|infix| name.contains(infix))
        || folders.iter().any(|folder| TEST_FOLDERS.contains(&folder.to_ascii_lowercase().as_str()))
}

fn split(path: &str) -> (Vec<&str>, &str) {
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop().unwrap_or_default();
    (parts, name)
}

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
        for glob in plan.tests_may_change.iter().filter_map(|glob| Glob::new(glob).ok()) {
            globs.add(glob);
        }
        let named = plan.steps.iter().flat_map(|step| &step.files).map(|file| file.path.clone()).collect();
        Self {
            base: base.into_iter().collect(),
            tests_may_change: globs.build().unwrap_or_else(|_| GlobSet::empty()),
            named,
        }
    }

    /// Why a path may not be changed; `None` if it may.
    pub fn protects(&self, path: &str) -> Option<&'static str> {
        let (folders, name) = split(path);
        let parts = || folders.iter().copied().chain([name]);
        if parts().any(is_git_name) || name == ".gitattributes" || name == ".gitmodules" {
            return Some("git's own files are never changed");
        }
        let allowed_test = self.tests_may_change.is_match(path);
        if allowed_test {
            return None;
        }
        if is_test(path) {
            return Some("it is a test, and the plan does not list it in tests_may_change");
        }
        if self.named.contains(path) {
            return None;
        }
        let ci = folders.first().is_some_and(|first| first.starts_with(".git")) || name.starts_with(".gitlab-ci");
        if ci {
            return Some("it configures CI, and the plan does not name it");
        }
        if CONFIG.contains(&name)
            || CONFIG_STARTS.iter().any(|start| name.starts_with(start))
            || folders.iter().any(|folder| CONFIG_FOLDERS.contains(folder))
        {
            return Some("it decides what is built or tested, and the plan does not name it");
        }
        if name == ".gitignore" {
            return Some("it decides what is committed, and the plan does not name it");
        }
        // A lock file that a build makes anew harms nobody; one that exists pins what was reviewed.
        if LOCKS.contains(&name) && self.base.contains(path) {
            return Some("it pins dependencies, and the plan does not name it");
        }
        let agent = AGENT_FILES.contains(&name) || folders.iter().any(|folder| AGENT_FOLDERS.contains(folder));
        agent.then_some("it instructs agents, and the plan does not name it")
    }

    /// Protected paths of the base commit: what a sandbox can mount read-only.
    pub fn protected_at_base(&self) -> impl Iterator<Item = &str> {
        self.base.iter().map(String::as_str).filter(|path| self.protects(path).is_some())
    }
}

/// Something in a diff that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `skipped_test`, `removed_assertion`, `test_detection`, `early_exit`.
    pub code: String,
    /// The file.
    pub path: String,
    /// The line of the diff.
    pub line: String,
}

/// The most findings that are kept.
const FINDINGS_MAX: usize = 20;
const SKIPS: &[&str] = &[
    "#[ignore",
    "@pytest.mark.skip",
    "@pytest.mark.xfail",
    "pytest.skip(",
    "unittest.skip",
    "t.Skip(",
    "it.skip(",
    "test.skip(",
    "describe.skip(",
    "it.only(",
    "test.only(",
    "describe.only(",
    "xit('",
    "xdescribe(",
    "@Disabled",
    "@Ignore",
];
const ASSERTIONS: &[&str] = &["assert", "expect(", "require.", "should.", "EXPECT_", "ASSERT_"];
const DETECTION: &[&str] = &[
    "PYTEST_CURRENT_TEST",
    "JEST_WORKER_ID",
    "import pytest",
    "from pytest",
    "sys.modules['pytest']",
    "NODE_ENV === 'test'",
    "cfg!(test)",
];
const EXITS: &[&str] = &["os._exit(", "sys.exit(0)", "process.exit(0)", "std::process::exit(0)", "os.Exit(0)"];

/// Looks through a unified diff. It finds what is worth a look; it proves nothing.
pub fn scan_diff(patch: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut path = "";
    let (mut removed, mut added): (Vec<&str>, usize) = (Vec::new(), 0);
    let close = |path: &str, removed: &mut Vec<&str>, added: &mut usize, findings: &mut Vec<Finding>| {
        if is_test(path) && removed.len() > *added {
            let line = removed[*added].trim().chars().take(200).collect();
            findings.push(Finding { code: "removed_assertion".to_owned(), path: path.to_owned(), line });
        }
        removed.clear();
        *added = 0;
    };
    for line in patch.lines() {
        if let Some(new) = line.strip_prefix("+++ ") {
            close(path, &mut removed, &mut added, &mut findings);
            path = new.strip_prefix("b/").unwrap_or(new);
            continue;
        }
        let asserts = |text: &str| ASSERTIONS.iter().any(|word| text.contains(word));
        if let Some(text) = line.strip_prefix('-').filter(|text| !text.starts_with("--") && asserts(text)) {
            removed.push(text);
        }
        let Some(text) = line.strip_prefix('+') else { continue };
        added += usize::from(asserts(text));
        let found = [
            ("skipped_test", SKIPS, true),
            ("test_detection", DETECTION, !is_test(path)),
            ("early_exit", EXITS, !is_test(path)),
        ]
        .into_iter()
        .find(|(_, words, counts)| *counts && words.iter().any(|word| text.contains(word)));
        if let Some((code, _, _)) = found {
            let line = text.trim().chars().take(200).collect();
            findings.push(Finding { code: code.to_owned(), path: path.to_owned(), line });
        }
    }
    close(path, &mut removed, &mut added, &mut findings);
    findings.truncate(FINDINGS_MAX);
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn guard(tests: &[&str], files: &[&str]) -> Guard {
        let files: Vec<_> = files.iter().map(|path| json!({"path": path, "action": "modify", "why": "w"})).collect();
        let plan = json!({"title": "t", "summary": "s", "criteria": [], "tests_may_change": tests,
                          "steps": [{"id": "s1", "title": "t", "intent": "i", "files": files}]});
        let base = ["Cargo.lock", "tests/a.rs", "src/lib.rs", "Cargo.toml"].map(str::to_owned);
        Guard::new(base, &serde_json::from_value(plan).unwrap())
    }

    #[test]
    fn tests_configuration_and_git_are_protected_and_the_plan_lifts_what_it_may() {
        let closed = guard(&[], &[]);
        for path in [
            "tests/a.rs",
            "tests/new.rs",
            "src/x.test.ts",
            "pkg/test_a.py",
            "pkg/a_test.go",
            "conftest.py",
            "sub/conftest.py",
            "Cargo.toml",
            ".github/workflows/ci.yml",
            ".gitattributes",
            ".gitignore",
            "Cargo.lock",
            "AGENTS.md",
            ".claude/x",
            "jest.config.js",
            "a/.git/config",
            "a/.GIT/config",
            ".cargo/config.toml",
            "build.rs",
        ] {
            assert!(closed.protects(path).is_some(), "{path}");
        }
        for path in ["src/lib.rs", "docs/readme.md", "src/contest.rs", "sub/Cargo.lock", "src/latest.py"] {
            assert!(closed.protects(path).is_none(), "{path}: {:?}", closed.protects(path));
        }
        let open = guard(&["tests/stock*.rs"], &["Cargo.toml", "tests/a.rs", ".gitattributes"]);
        assert!(open.protects("tests/stock.rs").is_none());
        assert!(open.protects("Cargo.toml").is_none(), "the approved plan names it");
        assert!(open.protects("tests/a.rs").is_some(), "tests only through tests_may_change");
        assert!(open.protects(".gitattributes").is_some(), "never");
        assert!(closed.protected_at_base().eq(["Cargo.lock", "Cargo.toml", "tests/a.rs"]));
    }

    #[test]
    fn a_diff_that_weakens_tests_is_found() {
        let patch = "+++ b/tests/a.rs\n-    assert_eq!(a, 1);\n+    let _ = a;\n+#[ignore]\n+++ b/src/a.py\n+if os.environ.get('PYTEST_CURRENT_TEST'):\n+    os._exit(0)\n+++ b/src/b.rs\n-    assert!(x);\n";
        let codes: Vec<_> = scan_diff(patch).into_iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["skipped_test", "removed_assertion", "test_detection", "early_exit"]);
        assert!(scan_diff("+++ b/tests/a.rs\n-    assert_eq!(a, 1);\n+    assert_eq!(a, 2);\n").is_empty());
    }
}
