//! The names that a source file defines, found by line patterns per family of languages.
//!
//! It is lexical: quick, tolerant of broken files, and wrong now and then (a definition in a string, an odd layout).
//! Pure; it knows no files.

use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;

use super::truncate::cut_line;

/// Longer lines are generated or data.
const LINE: usize = 600;
/// The most names of one file.
const SYMBOLS: usize = 2_000;
/// Characters of a signature.
const SIGNATURE: usize = 120;
/// Bytes of a rendered outline.
const RENDERED: usize = 8 * 1024;

/// A family of languages that one pattern reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    /// Rust.
    Rust,
    /// Python.
    Python,
    /// JavaScript and TypeScript.
    JavaScript,
    /// Go.
    Go,
    /// Java, Kotlin, C#, Scala.
    Java,
    /// C and C++.
    C,
    /// Ruby.
    Ruby,
    /// PHP.
    Php,
    /// Shell.
    Shell,
}

/// The language of a path, by its extension.
pub fn language(path: &str) -> Option<Language> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase())?;
    Some(match extension.as_str() {
        "rs" => Language::Rust,
        "py" | "pyi" => Language::Python,
        "js" | "jsx" | "mjs" | "cjs" | "ts" | "tsx" | "mts" | "cts" | "vue" | "svelte" => Language::JavaScript,
        "go" => Language::Go,
        "java" | "kt" | "kts" | "cs" | "scala" => Language::Java,
        "c" | "h" | "cc" | "cpp" | "cxx" | "hh" | "hpp" | "hxx" => Language::C,
        "rb" | "rake" => Language::Ruby,
        "php" => Language::Php,
        "sh" | "bash" | "zsh" => Language::Shell,
        _ => return None,
    })
}

/// One defined name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The name.
    pub name: String,
    /// What the language calls it: `fn`, `class`, …
    pub kind: String,
    /// From 1.
    pub line: usize,
    /// The line, trimmed and cut.
    pub signature: String,
    /// Blanks before it (a tab counts 4): how deep it stands.
    pub indent: usize,
}

/// The names that a text defines, in order.
pub fn outline(language: Language, text: &str) -> Vec<Symbol> {
    let patterns = patterns(language);
    let mut symbols = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.len() > LINE || symbols.len() >= SYMBOLS {
            continue;
        }
        let trimmed = line.trim_start();
        if trimmed.is_empty() || is_comment(language, trimmed) {
            continue;
        }
        let Some((kind, name)) = patterns.iter().find_map(|pattern| pattern.read(line)) else { continue };
        let blanks = &line[..line.len() - trimmed.len()];
        symbols.push(Symbol {
            name,
            kind,
            line: index + 1,
            signature: cut_line(trimmed.trim_end().trim_end_matches(['{', ':']).trim_end(), SIGNATURE),
            indent: blanks.chars().map(|c| if c == '\t' { 4 } else { 1 }).sum(),
        });
    }
    symbols
}

/// An outline as lines `12: fn name(…)`, at most 8 KB.
pub fn render(symbols: &[Symbol]) -> String {
    let mut text = String::new();
    for (index, symbol) in symbols.iter().enumerate() {
        let line = format!("{}: {}{}\n", symbol.line, " ".repeat(symbol.indent.min(24)), symbol.signature);
        if text.len() + line.len() > RENDERED - 60 {
            let _ = writeln!(text, "[{} more names]", symbols.len() - index);
            break;
        }
        text.push_str(&line);
    }
    text
}

fn is_comment(language: Language, line: &str) -> bool {
    match language {
        Language::Python | Language::Ruby | Language::Shell => line.starts_with('#'),
        Language::Php => ["//", "#", "*", "/*"].iter().any(|mark| line.starts_with(mark)),
        Language::C => ["//", "*", "/*"].iter().any(|mark| line.starts_with(mark)),
        _ => ["//", "* ", "*/", "/*"].iter().any(|mark| line.starts_with(mark)),
    }
}

/// A pattern with a group `name`, and `kind` or a fixed word for it.
struct Pattern {
    regex: Regex,
    kind: &'static str,
}

impl Pattern {
    fn read(&self, line: &str) -> Option<(String, String)> {
        let found = self.regex.captures(line)?;
        let name = found.name("name")?.as_str().trim();
        // Words that look like calls or definitions but are statements.
        let statements = [
            "if",
            "for",
            "while",
            "switch",
            "catch",
            "return",
            "else",
            "do",
            "match",
            "function",
            "new",
            "throw",
            "await",
            "sizeof",
            "defined",
            "foreach",
            "using",
            "lock",
            "constructor(",
            "super",
        ];
        if name.is_empty() || statements.contains(&name) {
            return None;
        }
        let kind = found.name("kind").map_or(self.kind, |kind| kind.as_str());
        Some((kind.split_whitespace().collect::<Vec<_>>().join(" "), name.to_owned()))
    }
}

fn patterns(language: Language) -> &'static [Pattern] {
    fn make(sources: &[(&'static str, &str)]) -> Vec<Pattern> {
        let pattern = |(kind, source): &(&'static str, &str)| Pattern {
            regex: Regex::new(source).expect("a fixed pattern"),
            kind,
        };
        sources.iter().map(pattern).collect()
    }
    macro_rules! family {
        ($($kind:literal => $source:literal),+ $(,)?) => {{
            static PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| make(&[$(($kind, $source)),+]));
            &PATTERNS
        }};
    }
    match language {
        Language::Rust => family!(
            "" => r#"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:default\s+)?(?:(?:async|const|unsafe|extern(?:\s+"[^"]*")?)\s+)*(?P<kind>fn|struct|enum|trait|type|mod|union|macro_rules!|static(?:\s+mut)?|const)\s+(?P<name>[A-Za-z_]\w*)"#,
            "impl" => r"^\s*(?:unsafe\s+)?impl(?:<.*?>)?\s+(?:.+\sfor\s+)?(?P<name>[A-Za-z_][\w:]*)",
        ),
        Language::Python => family!(
            "" => r"^\s*(?:async\s+)?(?P<kind>def|class)\s+(?P<name>\w+)",
            "const" => r"^(?P<name>[A-Z][A-Z0-9_]{2,})\s*(?::[^=]+)?=[^=]",
        ),
        Language::JavaScript => family!(
            "" => r"^\s*(?:export\s+)?(?:default\s+)?(?:declare\s+)?(?:abstract\s+)?(?:async\s+)?(?P<kind>function|class|interface|enum|type|namespace)\b\s*\*?\s*(?P<name>[A-Za-z_$][\w$]*)",
            "" => r"^\s*(?:export\s+)?(?P<kind>const|let|var)\s+(?P<name>[A-Za-z_$][\w$]*)\s*(?::[^=]+)?=\s*(?:async\b\s*)?(?:\([^)]*\)?.*=>|\($|function\b|[A-Za-z_$][\w$]*\s*=>|class\b)",
            "" => r"^export\s+(?P<kind>const|let|var)\s+(?P<name>[A-Za-z_$][\w$]*)",
            "method" => r"^\s+(?:(?:public|private|protected|static|async|readonly|override|abstract|get|set)\s+)*\*?(?P<name>#?[A-Za-z_$][\w$]*)\s*(?:<[^>]*>)?\([^;]*\)\s*(?::\s*[^{;=]+)?\{\s*$",
        ),
        Language::Go => family!(
            "func" => r"^func\s+(?:\([^)]*\)\s*)?(?P<name>\w+)",
            "" => r"^(?P<kind>type|var|const)\s+(?P<name>\w+)",
        ),
        Language::Java => family!(
            "" => r"^\s*(?:(?:public|private|protected|internal|static|final|abstract|sealed|open|data|partial|inner|inline|value|readonly|case|implicit|non-sealed)\s+)*(?P<kind>(?:enum\s+|annotation\s+|companion\s+|case\s+)?(?:class|object)|interface|@interface|enum|record|struct|trait|namespace)\s+(?P<name>[A-Za-z_][\w.]*)",
            "" => r"^\s*(?:(?:public|private|protected|internal|override|open|inline|suspend|operator|infix|abstract|final|tailrec)\s+)*(?P<kind>fun|def)\s+(?:<[^>]*>\s*)?(?:[\w<>?]+\.)?(?P<name>\w+)",
            "method" => r"^\s+(?:(?:public|private|protected|internal|static|final|abstract|synchronized|native|override|virtual|async|sealed|default|extern|unsafe|new)\s+)+(?:<[^>]+>\s*)?(?:[\w<>\[\],.?]+\s+)*(?P<name>[A-Za-z_]\w*)\s*\([^;=]*$",
        ),
        Language::C => family!(
            "" => r"^\s*(?:template\s*<[^>]*>\s*)?(?:typedef\s+)?(?P<kind>class|struct|enum(?:\s+class)?|union|namespace)\s+(?:[A-Z_]+\s+)?(?P<name>[A-Za-z_]\w*)\s*(?:final\s*)?(?::[^;]*)?\{?\s*$",
            "define" => r"^#\s*define\s+(?P<name>[A-Za-z_]\w*)",
            "function" => r"^(?:[A-Za-z_][\w:<>,*&\s]*[\s*&])?(?P<name>[A-Za-z_~][\w:~]*)\s*\([^;]*$",
        ),
        Language::Ruby => family!(
            "" => r"^\s*(?P<kind>def|class|module)\s+(?:self\.)?(?P<name>[A-Za-z_][\w:]*[?!=]?)",
        ),
        Language::Php => family!(
            "" => r"^\s*(?:(?:abstract|final|public|private|protected|static|readonly)\s+)*(?P<kind>function|class|interface|trait|enum|namespace)\s+&?(?P<name>\w+)",
        ),
        Language::Shell => family!(
            "function" => r"^\s*(?:function\s+)?(?P<name>[A-Za-z_][\w-]*)\s*\(\)",
            "function" => r"^\s*function\s+(?P<name>[A-Za-z_][\w-]*)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str, text: &str) -> Vec<String> {
        let language = language(path).expect("a known language");
        outline(language, text).into_iter().map(|s| format!("{}:{} {}", s.line, s.kind, s.name)).collect()
    }

    #[test]
    fn each_family() {
        assert_eq!(
            names(
                "a.rs",
                "pub(crate) async fn go<T>(x: T) {\n    let fn_ = 1;\n}\npub struct A;\nimpl<T: Into<U>> From<B> for A<T> {\n    const fn k() {}\n}\n// fn no() {}\nmacro_rules! m {\nimpl Deep {\npub const LIMIT: usize = 1;\nmod tests {"
            ),
            [
                "1:fn go",
                "4:struct A",
                "5:impl A",
                "6:fn k",
                "9:macro_rules! m",
                "10:impl Deep",
                "11:const LIMIT",
                "12:mod tests"
            ]
        );
        assert_eq!(
            names("a.py", "LIMIT = 3\nclass A(B):\n    async def go(self):\n        x == 1\n# def no():\nlimit = 2\n"),
            ["1:const LIMIT", "2:class A", "3:def go"]
        );
        assert_eq!(
            names(
                "a.tsx",
                "export default function App() {\nexport const f = async (x) => {\nclass A {\n  private async load(id: string): Promise<X> {\n    if (x) {\n    foo(a) {\nexport interface I {\ntype T = {\nconst n = 3;\nexport const K = 3;"
            ),
            [
                "1:function App",
                "2:const f",
                "3:class A",
                "4:method load",
                "6:method foo",
                "7:interface I",
                "8:type T",
                "10:const K"
            ]
        );
        assert_eq!(
            names("a.go", "func (s *S) Go(x int) error {\ntype S struct {\nfunc main() {\n\tx := 1"),
            ["1:func Go", "2:type S", "3:func main"]
        );
        assert_eq!(
            names(
                "A.java",
                "public final class A extends B {\n    private static List<String> names(int x) {\n        return foo(x);\n    }\n    @Override public void run() {\nrecord P(int x) {}"
            ),
            ["1:class A", "2:method names", "6:record P"]
        );
        assert_eq!(names("a.kt", "data class A(val x: Int)\nsuspend fun String.go() {}"), ["1:class A", "2:fun go"]);
        assert_eq!(
            names(
                "a.cpp",
                "#define MAX 3\nclass A : public B {\nint A::go(int x) {\n  go(x);\nstatic void f(\nint declared(int);\nint main() {"
            ),
            ["1:define MAX", "2:class A", "3:function A::go", "5:function f", "7:function main"]
        );
        assert_eq!(names("a.rb", "class A\n  def self.go!\n  def x?(a)"), ["1:class A", "2:def go!", "3:def x?"]);
        assert_eq!(
            names("a.php", "final class A {\n  public static function go($x) {"),
            ["1:class A", "2:function go"]
        );
        assert_eq!(names("a.sh", "go() {\nfunction other {\n  echo x"), ["1:function go", "2:function other"]);
        assert_eq!(language("Makefile"), None);
    }

    #[test]
    fn long_files_stay_bounded() {
        let text = "def f(x):\n".repeat(5_000);
        let symbols = outline(Language::Python, &text);
        assert_eq!(symbols.len(), SYMBOLS);
        let shown = render(&symbols);
        assert!(shown.len() <= RENDERED && shown.ends_with("more names]\n"));
        assert!(outline(Language::Python, &format!("def f({}):", "x".repeat(1000))).is_empty());
    }
}
