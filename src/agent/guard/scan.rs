//! Looks through a diff for the ways in which a test is made to pass without the code being right. Pure.
//!
//! It is a list of known tricks, by line patterns: a finding is a reason to look, no proof; no finding is no proof either.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::conventions::{is_test, sort};

/// The most findings of one diff.
const FINDINGS: usize = 200;
/// Longer lines are data.
const LINE: usize = 2_000;
/// Characters of a shown line.
const SHOWN: usize = 160;

/// Something in a diff that a person should see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file.
    pub path: String,
    /// The line, from 1: in the new file, or in the old one for what was removed.
    pub line: usize,
    /// What it looks like.
    pub code: FindingKind,
    /// The line, trimmed and cut.
    pub text: String,
}

/// What a finding looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A test is skipped, ignored, expected to fail, or made the only one.
    Skip,
    /// More assertions go than come.
    AssertionRemoved,
    /// More tests go than come, or a test file is deleted.
    TestRemoved,
    /// Product code imports or patches a test framework.
    FrameworkTouched,
    /// Product code asks whether it is being tested.
    TestDetected,
    /// The process ends before the tests can say so.
    ProcessExit,
    /// Everything is made equal to everything.
    EqualityOverridden,
    /// Configuration makes tests run less, or something else run.
    ConfigWeakened,
}

impl FindingKind {
    /// For a person.
    pub fn text(self) -> &'static str {
        match self {
            Self::Skip => "a test is skipped, expected to fail, or made the only one",
            Self::AssertionRemoved => "more assertions are removed than added",
            Self::TestRemoved => "tests are removed",
            Self::FrameworkTouched => "product code imports or patches a test framework",
            Self::TestDetected => "product code asks whether it is being tested",
            Self::ProcessExit => "the process is ended from within",
            Self::EqualityOverridden => "a comparison is overridden to be always true",
            Self::ConfigWeakened => "configuration changes which tests run",
        }
    }
}

macro_rules! pattern {
    ($name:ident, $source:literal) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($source).expect("a fixed pattern"));
    };
}

pattern!(
    SKIP,
    r#"(?x)
    @?pytest\.mark\.(?:skip|skipif|xfail)\b | \bpytest\.(?:skip|xfail|importorskip)\( | @(?:unittest\.)?(?:skip|skipIf|skipUnless|expectedFailure)\b
    | \bself\.skipTest\( | \bSkipTest\b | \b__test__\s*=\s*False | \bcollect_ignore | \#\[\s*ignore\b | \#\[\s*cfg_attr\([^)]*ignore
    | \bt\.Skip(?:f|Now)?\( | \b(?:it|test|describe|context|suite)\.(?:skip|only|todo|failing|fixme|skipIf|runIf)\b | \b(?:xit|xdescribe|xtest|fit|fdescribe)\(
    | @(?:Disabled|Ignore)\b | \bGTEST_SKIP\b | \bDISABLED_\w | \bmarkTest(?:Skipped|Incomplete)\b | \[(?:Ignore|Fact\(Skip|Theory\(Skip) | \{\s*skip:\s*(?:true|['"])
    "#
);
pattern!(
    ASSERTION,
    r"(?x)
    \bassert\w*\s*[!(\s] | \bexpect\s*\( | \.should\b | \bt\.(?:Error|Fatal|Fail)\w*\( | \brequire\.\w+\( | \bassertThat\b | \b(?:EXPECT|ASSERT|REQUIRE|CHECK)_?\w*\(
    | \bself\.(?:assert|fail)\w*\( | \bpytest\.raises\b | \bAssert\.\w+\( | \bt\.(?:is|deepEqual|equal|ok|throws)\(
    "
);
pattern!(
    TEST,
    r#"(?x)
    ^\s*(?:async\s+)?def\s+test | ^\s*\#\[(?:\w+::)*test\b | ^func\s+(?:Test|Fuzz)\w* | ^\s*(?:it|test|describe)(?:\.each\b.*)?\s*\(\s*['"`]
    | @(?:Test|ParameterizedTest)\b | \bTEST(?:_F|_P)?\( | \[(?:Fact|Theory|Test|TestMethod)\] | ^\s*(?:it|scenario)\s+['"] | ^\s*(?:public\s+)?function\s+test\w*\(
    "#
);
pattern!(
    FRAMEWORK,
    r#"(?x)
    ^\s*(?:import|from)\s+(?:_?pytest|pluggy|unittest|nose|hypothesis|doctest)\b | \bsys\.modules\s*\[ | \bimportlib\.import_module\(\s*['"](?:_?pytest|unittest)
    | \brequire\(\s*['"](?:jest|@jest/[\w-]+|mocha|vitest|chai|ava|tap|node:test|node:assert|assert|jasmine)['"]
    | \bfrom\s+['"](?:jest|@jest/[\w-]+|mocha|vitest|chai|ava|tap|node:test|jasmine)['"]
    | ^\s*(?:\w+\s+)?"testing"\s*$ | \bimport\s+"testing" | \b(?:globalThis|global|window)\.(?:expect|it|test|describe|assert)\s*= | \bmonkeypatch\b | \bmock\.patch\b
    | \bpytest_\w+\s*\( | \bimport\s+(?:static\s+)?(?:org\.junit|org\.testng|kotlin\.test)\b | \busing\s+(?:Xunit|NUnit)\b | \bbuiltins\.\w+\s*=
    "#
);
pattern!(
    DETECTED,
    r#"(?x)
    \bPYTEST_\w+ | ['"](?:_?pytest|unittest|nose)['"]\s+(?:not\s+)?in\s+sys\.(?:modules|argv) | \bJEST_WORKER_ID\b | \bVITEST(?:_\w+)?\b | \bNODE_TEST_CONTEXT\b | \bNODE_ENV\b.{0,6}['"]test['"]
    | \bcfg!\(\s*test\s*\) | \bRUST_TEST_\w+ | \bNEXTEST(?:_\w+)?\b | \btesting\.Testing\(\) | \bflag\.Lookup\(\s*"test\. | \bRSpec\b.*\bdefined | \bMOCHA_\w+ | \binspect\.stack\(\) | \bsys\._getframe\(
    "#
);
pattern!(
    EXIT,
    r"(?x) \bos\._exit\( | \bos\.kill\(\s*os\.getpid | \bos\.abort\( | \batexit\.register\( | \bprocess\.reallyExit\b | \bprocess\.on\(\s*['\x22]exit | \bsignal\.raise_signal\("
);
pattern!(EXIT_AT_IMPORT, r"^(?:sys\.exit\(|exit\(|quit\(|raise SystemExit|process\.exit\()");
pattern!(
    EQUALITY,
    r"\bdef\s+__(?:eq|ne|lt|le|gt|ge|bool|contains)__\s*\(|\bfn\s+(?:eq|partial_cmp)\s*\(|\bboolean\s+equals\s*\(|\boverride\s+bool\s+Equals\s*\(|\boperator\s*=="
);
pattern!(ALWAYS, r"^\s*(?:return\s+)?(?i:true)\s*;?\s*\}?\s*$|(?:[:{=]\s*|\breturn\s+)(?i:true)\s*;?\s*\}?\s*$");
pattern!(
    CONFIG,
    r#"(?x)
    "(?:pre|post)?test(?::[\w-]+)?"\s*: | \baddopts\b | \btestpaths\b | \bnorecursedirs\b | --(?:ignore|deselect|passWithNoTests|testPathIgnorePatterns)\b | \btestPathIgnorePatterns\b | \btestMatch\b
    | ^\s*(?:harness|test|doctest)\s*=\s*(?:false|true) | \bautotests\s*= | ^\s*\[\[test\]\] | \bfail_under\b | \bcollect_ignore
    "#
);

#[derive(Default)]
struct File {
    assertions: Balance,
    tests: Balance,
}

/// How many lines of a sort come and go, with the first that goes.
#[derive(Default)]
struct Balance {
    added: usize,
    removed: usize,
    first: Option<(usize, String)>,
}

impl Balance {
    fn remove(&mut self, line: usize, text: &str) {
        self.removed += 1;
        self.first.get_or_insert_with(|| (line, text.to_owned()));
    }
}

/// Looks through a patch in unified format (`diff --git`, `---`, `+++`, `@@`).
pub fn scan_diff(patch: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut files: BTreeMap<String, File> = BTreeMap::new();
    let (mut old_path, mut path) = (String::new(), String::new());
    let (mut old_line, mut new_line) = (0usize, 0usize);
    // Lines of the hunk still to come, so that a removed `--- x` is not read as a head.
    let (mut old_left, mut new_left) = (0usize, 0usize);
    let mut equality = 0usize;
    for line in patch.lines() {
        if old_left == 0 && new_left == 0 {
            if let Some(rest) = line.strip_prefix("--- ") {
                old_path = patch_path(rest);
            } else if let Some(rest) = line.strip_prefix("+++ ") {
                path = patch_path(rest);
                if path == "/dev/null" && is_test(&old_path) {
                    findings.push(finding(&old_path, 1, FindingKind::TestRemoved, "the file is deleted"));
                }
                if path == "/dev/null" {
                    path.clone_from(&old_path);
                }
            } else if let Some((old, new)) = hunk(line) {
                ((old_line, old_left), (new_line, new_left)) = (old, new);
                equality = 0;
            }
            continue;
        }
        let (mark, text) = line.split_at_checked(1).unwrap_or((" ", ""));
        let text = &text[..text.floor_char_boundary(LINE)];
        let relevant = is_test(&path) || path.ends_with(".rs");
        match mark {
            "-" => {
                old_left = old_left.saturating_sub(1);
                if relevant {
                    let file = files.entry(path.clone()).or_default();
                    if ASSERTION.is_match(text) {
                        file.assertions.remove(old_line, text);
                    }
                    if TEST.is_match(text) {
                        file.tests.remove(old_line, text);
                    }
                }
                old_line += 1;
            }
            "+" => {
                new_left = new_left.saturating_sub(1);
                if relevant {
                    let file = files.entry(path.clone()).or_default();
                    file.assertions.added += usize::from(ASSERTION.is_match(text));
                    file.tests.added += usize::from(TEST.is_match(text));
                }
                for kind in added(&path, text, &mut equality) {
                    findings.push(finding(&path, new_line, kind, text));
                }
                new_line += 1;
            }
            "\\" => {}
            _ => {
                old_left = old_left.saturating_sub(1);
                new_left = new_left.saturating_sub(1);
                (old_line, new_line) = (old_line + 1, new_line + 1);
            }
        }
        if findings.len() >= FINDINGS {
            break;
        }
    }
    for (path, file) in files {
        for (balance, kind) in
            [(file.tests, FindingKind::TestRemoved), (file.assertions, FindingKind::AssertionRemoved)]
        {
            if balance.removed > balance.added
                && let Some((line, text)) = balance.first
            {
                findings.push(finding(&path, line, kind, &text));
            }
        }
    }
    findings
}

fn added(path: &str, text: &str, equality: &mut usize) -> Vec<FindingKind> {
    let trimmed = text.trim_start();
    let comment = ["//", "# ", "* ", "/*", "<!--"].iter().any(|mark| trimmed.starts_with(mark));
    let prose = [".md", ".rst", ".txt", ".adoc"].iter().any(|end| path.ends_with(end));
    if comment || prose || trimmed.is_empty() {
        return Vec::new();
    }
    let mut kinds = Vec::new();
    if SKIP.is_match(text) {
        kinds.push(FindingKind::Skip);
    }
    if !is_test(path) {
        if FRAMEWORK.is_match(text) {
            kinds.push(FindingKind::FrameworkTouched);
        }
        if DETECTED.is_match(text) {
            kinds.push(FindingKind::TestDetected);
        }
    }
    if EXIT.is_match(text) || EXIT_AT_IMPORT.is_match(text) {
        kinds.push(FindingKind::ProcessExit);
    }
    // `__eq__` and, within three lines, nothing but `return True`.
    if EQUALITY.is_match(text) {
        *equality = 4;
    }
    if *equality > 0 {
        *equality -= 1;
        if ALWAYS.is_match(text) {
            kinds.push(FindingKind::EqualityOverridden);
            *equality = 0;
        }
    }
    if sort(path).is_some() && CONFIG.is_match(text) {
        kinds.push(FindingKind::ConfigWeakened);
    }
    kinds
}

fn finding(path: &str, line: usize, kind: FindingKind, text: &str) -> Finding {
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    Finding { code: kind, path: path.to_owned(), line, text }
}

/// The path of a `---` or `+++` line, without git's `a/` or `b/`.
fn patch_path(text: &str) -> String {
    let text = text.split('\t').next().unwrap_or(text).trim_matches('"');
    text.strip_prefix("a/").or_else(|| text.strip_prefix("b/")).unwrap_or(text).to_owned()
}

/// Start and length on both sides of `@@ -a,b +c,d @@`.
fn hunk(line: &str) -> Option<((usize, usize), (usize, usize))> {
    pattern!(HUNK, r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@");
    let found = HUNK.captures(line)?;
    let number = |index: usize| found.get(index).map_or(Some(1), |n| n.as_str().parse().ok());
    Some(((number(1)?, number(2)?), (number(3)?, number(4)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(path: &str, removed: &[&str], added: &[&str]) -> String {
        let lines = |mark: &str, lines: &[&str]| lines.iter().map(|l| format!("{mark}{l}\n")).collect::<String>();
        format!(
            "diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -10,{} +10,{} @@ def x\n context\n{}{}",
            removed.len() + 1,
            added.len() + 1,
            lines("-", removed),
            lines("+", added)
        )
    }

    fn kinds(path: &str, removed: &[&str], added: &[&str]) -> Vec<FindingKind> {
        scan_diff(&patch(path, removed, added)).into_iter().map(|f| f.code).collect()
    }

    #[test]
    fn tricks_are_found() {
        use FindingKind::*;
        let cases: &[(&str, &[&str], &[&str], FindingKind)] = &[
            ("tests/test_a.py", &[], &["@pytest.mark.skip(reason='x')"], Skip),
            ("tests/test_a.py", &[], &["    @unittest.expectedFailure"], Skip),
            ("src/lib.rs", &[], &["    #[ignore = \"slow\"]"], Skip),
            ("a_test.go", &[], &["\tt.Skip(\"later\")"], Skip),
            ("a.test.ts", &[], &["  it.only('x', () => {"], Skip),
            ("a.test.ts", &[], &["xit('x', () => {"], Skip),
            ("ATest.java", &[], &["    @Disabled"], Skip),
            ("tests/test_a.py", &["    assert total(3) == -3"], &["    total(3)"], AssertionRemoved),
            ("src/lib.rs", &["        assert_eq!(a, b);"], &[], AssertionRemoved),
            ("tests/test_a.py", &["def test_x():", "    pass"], &[], TestRemoved),
            ("shop/sale.py", &[], &["import pytest"], FrameworkTouched),
            ("shop/sale.py", &[], &["sys.modules['x'] = 1"], FrameworkTouched),
            ("src/a.js", &[], &["const { expect } = require('vitest')"], FrameworkTouched),
            ("shop/sale.go", &[], &["\t\"testing\""], FrameworkTouched),
            ("shop/sale.py", &[], &["if os.environ.get('PYTEST_CURRENT_TEST'):"], TestDetected),
            ("shop/sale.py", &[], &["if 'pytest' in sys.modules:"], TestDetected),
            ("src/a.ts", &[], &["if (process.env.NODE_ENV === 'test') {"], TestDetected),
            ("src/a.rs", &[], &["    if cfg!(test) {"], TestDetected),
            ("shop/sale.py", &[], &["    os._exit(0)"], ProcessExit),
            ("shop/sale.py", &[], &["sys.exit(0)"], ProcessExit),
            ("src/a.js", &[], &["process.exit(0);"], ProcessExit),
            ("shop/sale.py", &[], &["    def __eq__(self, other):", "        return True"], EqualityOverridden),
            ("src/a.rs", &[], &["    fn eq(&self, other: &Self) -> bool { true }"], EqualityOverridden),
            ("package.json", &["    \"test\": \"jest\""], &["    \"test\": \"true\""], ConfigWeakened),
            ("pyproject.toml", &[], &["addopts = \"--deselect tests/test_a.py\""], ConfigWeakened),
        ];
        for (path, removed, added, kind) in cases {
            assert_eq!(kinds(path, removed, added), [*kind], "{path} {removed:?} {added:?}");
        }
        let found = scan_diff(&patch("tests/test_a.py", &[], &["x = 1", "pytest.skip('no')"]));
        assert_eq!((found[0].line, found[0].text.as_str()), (12, "pytest.skip('no')"));
        let deleted = "--- a/tests/test_a.py\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-def test_a(): pass\n";
        assert_eq!(scan_diff(deleted)[0].code, FindingKind::TestRemoved);
    }

    #[test]
    fn honest_work_is_left_alone() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "shop/sale.py",
                &["    return stock"],
                &["    if stock < 0:", "        raise ValueError('negative stock')", "    return stock"],
            ),
            ("tests/test_new.py", &[], &["import pytest", "def test_y():", "    assert f() == 1"]),
            ("tests/test_a.py", &["    assert f(1) == 1"], &["    assert f(1) == 2"]),
            ("src/main.rs", &[], &["    std::process::exit(code);", "    // skip the #[ignore] ones"]),
            ("src/a.py", &[], &["    def __eq__(self, other):", "        return self.x == other.x"]),
            ("src/cli.py", &[], &["    sys.exit(main())"]),
            ("README.md", &[], &["Run `pytest.skip(` and import pytest"]),
            ("src/a.rs", &["fn a() {}"], &["fn b() -> bool {", "    true", "}"]),
            ("src/iterator.ts", &[], &["items.skip(3); unit(4); exit();"]),
            ("Cargo.toml", &[], &["serde = \"1\""]),
            ("src/a.sql", &["-- x", "++ y"], &["++ b/tests/z"]),
        ];
        for (path, removed, added) in cases {
            assert_eq!(kinds(path, removed, added), [], "{path} {added:?}");
        }
        assert!(scan_diff("not a patch\n@@ -99999999999999999999,1 +1 @@\n+x").is_empty());
    }
}
