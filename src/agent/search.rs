//! Looking for text and files: search by content, by path, and the listing of folders. Bounded in files, bytes and hits, and
//! in time by whoever asks: a pattern that is slow to look for is cut short between two pieces of a file.
//!
//! It works on any [`Source`] in this process; it does not know who asks.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read;

use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkMatch};
use thiserror::Error;

use super::files::{FileError, Kind, RepoPath, Source, StopNow};
use super::truncate::{GLOB_PATHS, LIST_NAMES, SEARCH_BYTES, SEARCH_HITS, SEARCH_LINE, cut_line};

/// Larger files are not searched.
const FILE_BYTES: u64 = 2 * 1024 * 1024;
/// One search reads no more than this in all.
const TOTAL_BYTES: u64 = 64 * 1024 * 1024;
/// A file with a longer line is not searched: within a line, nothing can be stopped.
const LINE_BYTES: usize = 512 * 1024;
/// The compiled pattern, in bytes; its size times that of a line is what one step of a search may cost.
const PROGRAM_BYTES: usize = 1024 * 1024;
/// What a search keeps to be quick, in bytes.
const CACHE_BYTES: usize = 4 * 1024 * 1024;
/// The most hits that are counted past those shown.
const COUNTED: usize = 10_000;
/// The longest pattern.
const PATTERN_BYTES: usize = 2_000;
/// The most lines of context on each side.
const CONTEXT: usize = 10;

/// What a search gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// `path:line: text`.
    #[default]
    Lines,
    /// Paths.
    Files,
    /// Paths with the number of lines that match.
    Count,
}

/// A search by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// A regular expression (Rust's), or a text where `fixed`.
    pub pattern: String,
    /// Where to look: a folder or one file.
    pub path: RepoPath,
    /// Only files whose path (or, without `/`, whose name) matches.
    pub glob: Option<String>,
    /// Take the pattern as text.
    pub fixed: bool,
    /// What to give.
    pub output: Output,
    /// Lines of context on each side, at most 10.
    pub context: usize,
    /// The most hits, at most 100.
    pub limit: usize,
}

/// Why a search is refused.
#[derive(Debug, Error)]
pub enum SearchError {
    /// Not a regular expression.
    #[error(
        "the pattern is not a regular expression: {message}\nset fixed_strings (literal) to look for the text as it is, or escape it: `{escaped}`"
    )]
    Pattern {
        /// The reason, one line.
        message: String,
        /// The pattern as text, escaped.
        escaped: String,
    },
    /// Nothing to look for, or too much.
    #[error("the pattern is {0}")]
    PatternSize(&'static str),
    /// Not a glob.
    #[error("`{glob}` is not a glob: {message}; for example `src/**/*.py`")]
    Glob {
        /// As given.
        glob: String,
        /// The reason.
        message: String,
    },
    /// A path that cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Searches; the text is at most 8 KB and says what it left out, also where it had to stop.
pub fn search(source: &dyn Source, query: &Query, stop: StopNow<'_>) -> Result<String, SearchError> {
    match query.pattern.len() {
        0 => return Err(SearchError::PatternSize("empty")),
        length if length > PATTERN_BYTES => return Err(SearchError::PatternSize("longer than 2,000 bytes")),
        _ => {}
    }
    let matcher = matcher(&query.pattern, query.fixed)?;
    let wanted = query.glob.as_deref().map(path_glob).transpose()?;
    let entry = source.metadata(&query.path)?;
    let (files, complete) = match entry.kind {
        Kind::Folder => {
            let walk = source.walk(&query.path, stop)?;
            (walk.entries, walk.complete)
        }
        _ => (vec![entry.clone()], true),
    };
    let mut searcher = SearcherBuilder::new()
        .line_number(true)
        .binary_detection(BinaryDetection::quit(0))
        .before_context(if query.output == Output::Lines { query.context.min(CONTEXT) } else { 0 })
        .after_context(if query.output == Output::Lines { query.context.min(CONTEXT) } else { 0 })
        .heap_limit(Some(LINE_BYTES))
        .build();
    let mut found = Found::new(query.output, query.limit.clamp(1, SEARCH_HITS));
    let (mut read, mut skipped, mut searched) = (0u64, 0usize, 0usize);
    let mut stopped = false;
    for file in files.iter().filter(|file| file.kind == Kind::File) {
        if stop() {
            stopped = true;
            break;
        }
        if wanted.as_ref().is_some_and(|wanted| !wanted.matches(&file.path)) {
            continue;
        }
        if file.size > FILE_BYTES || read.saturating_add(file.size) > TOTAL_BYTES {
            skipped += 1;
            continue;
        }
        if found.hits >= COUNTED {
            break;
        }
        let Ok(path) = RepoPath::parse(&file.path) else { continue };
        let content = match source.read(&path, FILE_BYTES) {
            Ok(content) if content.is_binary() => continue,
            Ok(content) => content,
            // The one file asked for answers why; among many it is left out.
            Err(e) if entry.kind != Kind::Folder => return Err(e.into()),
            Err(_) => continue,
        };
        read += content.bytes.len() as u64;
        found.start(&file.path);
        let bytes = without_cr(content.bytes);
        let asking = Asking { rest: &bytes, stop };
        let done = searcher.search_reader(&matcher, asking, &mut found);
        found.end();
        if done.is_err() && stop() {
            stopped = true;
            break;
        }
        skipped += usize::from(done.is_err());
        searched += 1;
    }
    Ok(found.finish(skipped, complete, stopped.then_some(searched)))
}

/// The bytes of a file in pieces; between two of them it is asked whether the search must stop.
struct Asking<'a> {
    rest: &'a [u8],
    stop: StopNow<'a>,
}

impl Read for Asking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if (self.stop)() {
            return Err(std::io::Error::other("stopped"));
        }
        self.rest.read(buffer)
    }
}

fn matcher(pattern: &str, fixed: bool) -> Result<RegexMatcher, SearchError> {
    let built = RegexMatcherBuilder::new()
        .fixed_strings(fixed)
        .line_terminator(Some(b'\n'))
        .size_limit(PROGRAM_BYTES)
        .dfa_size_limit(CACHE_BYTES)
        .build(pattern);
    built.map_err(|e| {
        let text = e.to_string();
        if text.contains("size limit") {
            return SearchError::PatternSize("too large: use fewer or smaller repetitions");
        }
        let reason = text.lines().rev().find_map(|line| line.trim().strip_prefix("error: ")).unwrap_or(text.trim());
        SearchError::Pattern {
            message: cut_line(&reason.replace('\n', " "), 300),
            escaped: cut_line(&regex::escape(pattern), 300),
        }
    })
}

/// CRLF as LF, so that `$` means the same in every file.
fn without_cr(bytes: Vec<u8>) -> Vec<u8> {
    if !bytes.contains(&b'\r') {
        return bytes;
    }
    let kept = |index: &usize| !(bytes[*index] == b'\r' && bytes.get(index + 1) == Some(&b'\n'));
    (0..bytes.len()).filter(kept).map(|index| bytes[index]).collect()
}

/// Collects the hits of all files, within the limits.
struct Found {
    output: Output,
    limit: usize,
    text: String,
    path: String,
    in_file: usize,
    hits: usize,
    shown: usize,
    files: usize,
    full: bool,
}

impl Found {
    fn new(output: Output, limit: usize) -> Self {
        Self {
            output,
            limit,
            text: String::new(),
            path: String::new(),
            in_file: 0,
            hits: 0,
            shown: 0,
            files: 0,
            full: false,
        }
    }

    fn start(&mut self, path: &str) {
        path.clone_into(&mut self.path);
        self.in_file = 0;
    }

    fn end(&mut self) {
        if self.in_file == 0 {
            return;
        }
        self.files += 1;
        match self.output {
            Output::Lines => {}
            Output::Files => self.push(format!("{}\n", self.path), true),
            Output::Count => self.push(format!("{}: {}\n", self.path, self.in_file), true),
        }
    }

    fn push(&mut self, line: String, is_hit: bool) {
        if self.full || (is_hit && self.shown >= self.limit) || self.text.len() + line.len() > SEARCH_BYTES - 200 {
            self.full |= is_hit;
            return;
        }
        self.shown += usize::from(is_hit);
        self.text.push_str(&line);
    }

    fn line(&mut self, number: Option<u64>, mark: char, bytes: &[u8], is_hit: bool) {
        let line = String::from_utf8_lossy(bytes);
        let line = cut_line(line.trim_end_matches(['\n', '\r']), SEARCH_LINE);
        self.push(format!("{}{mark}{}{mark} {line}\n", self.path, number.unwrap_or(0)), is_hit);
    }

    /// `stopped` is the number of files that were searched before it had to stop.
    fn finish(mut self, skipped: usize, complete: bool, stopped: Option<usize>) -> String {
        if self.hits == 0 {
            self.text.push_str(if stopped.is_some() { "no matches so far\n" } else { "no matches\n" });
        } else {
            let more = if self.hits >= COUNTED { "at least " } else { "" };
            let _ = write!(self.text, "[{more}{} matching lines in {} files", self.hits, self.files);
            if self.full {
                let what = if self.output == Output::Lines { "lines" } else { "files" };
                let _ = write!(self.text, "; {} {what} shown: narrow the pattern, the path or the glob", self.shown);
            }
            self.text.push_str("]\n");
        }
        if skipped > 0 {
            let _ = writeln!(self.text, "[{skipped} files not searched: too large or with lines too long]");
        }
        if let Some(files) = stopped {
            let _ = writeln!(
                self.text,
                "[stopped after {files} files, because it took too long: use a simpler pattern, a plain text, a subfolder or a glob]"
            );
        } else if !complete {
            self.text.push_str("[the folder holds more files than were searched; name a subfolder]\n");
        }
        self.text
    }
}

impl Sink for &mut Found {
    type Error = std::io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, Self::Error> {
        self.in_file += 1;
        self.hits += 1;
        if self.output == Output::Lines {
            self.line(found.line_number(), ':', found.bytes(), true);
        }
        Ok(self.hits < COUNTED && self.output != Output::Files)
    }

    fn context(&mut self, _: &Searcher, found: &SinkContext<'_>) -> Result<bool, Self::Error> {
        self.line(found.line_number(), '-', found.bytes(), false);
        Ok(true)
    }

    fn context_break(&mut self, _: &Searcher) -> Result<bool, Self::Error> {
        self.push("--\n".to_owned(), false);
        Ok(true)
    }
}

/// A glob on whole paths; one without `/` is tried on the name, as people write it.
pub struct PathGlob {
    matcher: GlobMatcher,
    on_name: bool,
}

impl PathGlob {
    /// Whether a path matches.
    pub fn matches(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.matcher.is_match(if self.on_name { name } else { path })
    }
}

/// Reads a glob: `*` stays within a folder, `**` does not, `{a,b}` and `[ab]` work, a leading `./` or `/` is dropped.
pub fn path_glob(glob: &str) -> Result<PathGlob, SearchError> {
    let refuse = |message: String| SearchError::Glob { glob: cut_line(glob, 200), message };
    if glob.len() > PATTERN_BYTES {
        return Err(refuse("it is too long".to_owned()));
    }
    let plain = glob.trim_start_matches("./").trim_start_matches('/');
    let matcher = GlobBuilder::new(plain).literal_separator(true).build().map_err(|e| refuse(e.kind().to_string()))?;
    Ok(PathGlob { matcher: matcher.compile_matcher(), on_name: !plain.contains('/') })
}

/// The files whose path below `dir` (or from the root, or whose name) matches; at most `limit` (100) of them.
pub fn find_files(
    source: &dyn Source,
    glob: &str,
    dir: &RepoPath,
    limit: usize,
    stop: StopNow<'_>,
) -> Result<String, SearchError> {
    let wanted = path_glob(glob)?;
    let walk = source.walk(dir, stop)?;
    let below = |path: &str| match dir.is_root() {
        true => None,
        false => path.strip_prefix(dir.as_str()).map(|rest| wanted.matches(rest.trim_start_matches('/'))),
    };
    let found: Vec<&str> = walk
        .entries
        .iter()
        .map(|entry| entry.path.as_str())
        .take_while(|_| !stop())
        .filter(|path| wanted.matches(path) || below(path).unwrap_or(false))
        .collect();
    let shown = limit.clamp(1, GLOB_PATHS);
    let mut text = String::new();
    for path in found.iter().take(shown) {
        if text.len() + path.len() > SEARCH_BYTES - 200 {
            break;
        }
        let _ = writeln!(text, "{path}");
    }
    let lines = text.lines().count();
    match found.len() {
        0 => text.push_str("no files match\n"),
        all if all > lines => {
            let _ = writeln!(text, "[{lines} of {all} files shown: narrow the glob]");
        }
        _ => {}
    }
    if stop() {
        text.push_str("[stopped, because it took too long: name a subfolder or use a simpler glob]\n");
    } else if !walk.complete {
        text.push_str("[the folder holds more files than were looked at; name a subfolder]\n");
    }
    Ok(text)
}

/// A folder's entries, folders with `/`, `depth` levels (at most 4), at most 200 names.
pub fn list(source: &dyn Source, dir: &RepoPath, depth: usize, stop: StopNow<'_>) -> Result<String, SearchError> {
    let mut text = String::new();
    let mut names = 0;
    // Breadth first, so that a large subfolder does not hide its siblings; printed in path order.
    let mut level = vec![dir.clone()];
    let mut lines: BTreeSet<(String, String)> = BTreeSet::new();
    let mut left_out = 0;
    for deep in 0..depth.clamp(1, 4) {
        let mut next = Vec::new();
        for folder in &level {
            if stop() {
                break;
            }
            let entries = match source.list(folder, stop) {
                Ok(entries) => entries,
                Err(e) if deep == 0 => return Err(e.into()),
                Err(_) => continue,
            };
            for entry in entries {
                if names >= LIST_NAMES {
                    left_out += 1;
                    continue;
                }
                names += 1;
                let line = match entry.kind {
                    Kind::Folder => format!("{}/", entry.path),
                    Kind::File => format!("{} ({} bytes)", entry.path, entry.size),
                    Kind::Link => format!("{} (link)", entry.path),
                    Kind::Other => format!("{} (special)", entry.path),
                };
                if entry.kind == Kind::Folder
                    && let Ok(path) = RepoPath::parse(&entry.path)
                {
                    next.push(path);
                }
                lines.insert((entry.path, line));
            }
        }
        level = next;
    }
    for (_, line) in lines {
        if text.len() + line.len() > SEARCH_BYTES - 200 {
            left_out += 1;
            continue;
        }
        let _ = writeln!(text, "{line}");
    }
    let stopped = stop();
    if text.is_empty() && !stopped {
        text.push_str("(empty)\n");
    }
    if stopped {
        text.push_str("[stopped, because it took too long: list a subfolder, or fewer levels]\n");
    }
    if left_out > 0 {
        let _ = writeln!(text, "[at least {left_out} more names: list a subfolder or use the glob tool]");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::files::{MemoryTree, TreeSource};
    use super::*;

    fn never() -> bool {
        false
    }

    fn source() -> TreeSource<MemoryTree> {
        TreeSource::new(MemoryTree::new([
            ("src/a.py", b"def stock():\r\n    return 1\r\n# stock\r\n".to_vec()),
            ("src/deep/b.py", b"x = stock()\n".to_vec()),
            ("src/c.rs", b"fn stock() {}\n".to_vec()),
            ("img.bin", b"stock\0stock".to_vec()),
            (".env", b"stock=1".to_vec()),
            ("long.txt", format!("stock {}\n", "é".repeat(500)).into_bytes()),
            ("many.txt", "needle\n".repeat(400).into_bytes()),
            ("weird[1].txt", b"a.b(c\n".to_vec()),
        ]))
        .expect("a tree")
    }

    fn query(pattern: &str) -> Query {
        Query {
            pattern: pattern.to_owned(),
            path: RepoPath::root(),
            glob: None,
            fixed: false,
            output: Output::Lines,
            context: 0,
            limit: 100,
        }
    }

    #[test]
    fn lines_files_and_counts() {
        let source = source();
        let text =
            search(&source, &Query { glob: Some("*.py".to_owned()), ..query(r"stock\(\)") }, &never).expect("found");
        assert_eq!(text, "src/a.py:1: def stock():\nsrc/deep/b.py:1: x = stock()\n[2 matching lines in 2 files]\n");
        let text = search(&source, &Query { output: Output::Files, ..query("stock") }, &never).expect("found");
        assert!(text.starts_with("long.txt\nsrc/a.py\nsrc/c.rs\nsrc/deep/b.py\n"), "{text}");
        let text =
            search(&source, &Query { output: Output::Count, glob: Some("src/*.py".into()), ..query("stock") }, &never);
        assert_eq!(text.expect("found"), "src/a.py: 2\n[2 matching lines in 1 files]\n");
        let at = Query { path: RepoPath::parse("src/a.py").expect("a path"), context: 1, ..query("return") };
        let text = search(&source, &at, &never).expect("found");
        assert_eq!(
            text,
            "src/a.py-1- def stock():\nsrc/a.py:2:     return 1\nsrc/a.py-3- # stock\n[1 matching lines in 1 files]\n"
        );
        // `$` sees the line's end in a CRLF file too.
        assert!(search(&source, &query("return 1$"), &never).expect("found").contains("src/a.py:2"));
        assert_eq!(search(&source, &query("absent"), &never).expect("found"), "no matches\n");
    }

    #[test]
    fn limits_hold_and_are_said() {
        let source = source();
        let text = search(&source, &query("needle"), &never).expect("found");
        assert!(text.len() <= SEARCH_BYTES && text.lines().count() == 101, "{text}");
        assert!(
            text.ends_with(
                "[400 matching lines in 1 files; 100 lines shown: narrow the pattern, the path or the glob]\n"
            )
        );
        let text = search(&source, &query("stock é+"), &never).expect("found");
        assert!(text.lines().next().expect("a line").chars().count() < 250, "{text}");
    }

    #[test]
    fn bad_patterns_say_what_to_do() {
        let source = source();
        let error = search(&source, &query("a.b(c"), &never).expect_err("refused").to_string();
        assert!(
            error.contains("unclosed group") && error.contains("fixed_strings") && error.contains(r"a\.b\(c"),
            "{error}"
        );
        assert!(
            search(&source, &Query { fixed: true, ..query("a.b(c") }, &never)
                .expect("found")
                .starts_with("weird[1].txt:1:")
        );
        assert!(search(&source, &query(""), &never).is_err());
        assert!(search(&source, &query(&"(a{1,1000}){1,1000}".repeat(3)), &never).is_err());
        let error = search(&source, &Query { glob: Some("src/[".into()), ..query("x") }, &never).expect_err("refused");
        assert!(matches!(error, SearchError::Glob { .. }));
        let secret = Query { path: RepoPath::parse(".env").expect("a path"), ..query("stock") };
        assert!(matches!(search(&source, &secret, &never), Err(SearchError::File(FileError::Secret { .. }))));
    }

    #[test]
    fn what_takes_long_ends_when_told_and_says_so() {
        let asked = std::cell::Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() > 20
        };
        let many = TreeSource::new(MemoryTree::new((0..100).map(|i| (format!("f{i:03}"), "text\n")))).expect("a tree");
        let text = search(&many, &query("absent"), &stop).expect("an answer");
        assert!(text.starts_with("no matches so far\n[stopped after ") && text.contains("simpler pattern"), "{text}");
        assert!(asked.get() < 30, "it went on after it was told: {}", asked.get());
        // Also within a file, between two pieces of it.
        asked.set(0);
        let long = TreeSource::new(MemoryTree::new([("long", "text\n".repeat(400_000))])).expect("a tree");
        let text = search(&long, &query("absent"), &stop).expect("an answer");
        assert!(text.contains("[stopped after 0 files"), "{text}");
        let root = RepoPath::root();
        assert!(find_files(&many, "*", &root, 100, &|| true).expect("an answer").contains("[stopped"));
        assert!(list(&many, &root, 1, &|| true).expect("an answer").contains("[stopped"));
    }

    #[test]
    fn a_pattern_made_to_be_slow_cannot_hold_out_long() {
        let line = format!("{}\n", "abc def 012 ".repeat(150));
        let source = TreeSource::new(MemoryTree::new(
            (0..4).map(|i| (format!("f{i}"), line.repeat(2 * 1024 * 1024 / line.len() - 1))),
        ))
        .expect("a tree");
        for most in [900, 200] {
            let pattern = format!("[a-z0-9 ]*(?:a|e)[^\\n]{{1,{most}}}[b-d][^\\n]{{1,{most}}}Q");
            let begin = std::time::Instant::now();
            let stop = || begin.elapsed().as_secs() >= 1;
            let said = search(&source, &query(&pattern), &stop).unwrap_or_else(|error| error.to_string());
            // All of it took minutes.
            assert!(begin.elapsed().as_secs() < 45, "{:?}", begin.elapsed());
            assert!(said.contains("stopped") || said.contains("too large") || said.contains("no matches\n"), "{said}");
        }
    }

    #[test]
    fn globs_and_lists() {
        let source = source();
        let root = RepoPath::root();
        let src = RepoPath::parse("src").expect("a path");
        assert_eq!(find_files(&source, "**/*.py", &root, 100, &never).expect("found"), "src/a.py\nsrc/deep/b.py\n");
        assert_eq!(find_files(&source, "b.py", &root, 100, &never).expect("found"), "src/deep/b.py\n");
        assert_eq!(find_files(&source, "deep/*", &src, 100, &never).expect("found"), "src/deep/b.py\n");
        assert_eq!(
            find_files(&source, "src/*.{rs,py}", &root, 1, &never).expect("found"),
            "src/a.py\n[1 of 2 files shown: narrow the glob]\n"
        );
        assert_eq!(find_files(&source, "*.zig", &root, 9, &never).expect("found"), "no files match\n");
        assert_eq!(
            list(&source, &src, 1, &never).expect("a list"),
            "src/a.py (37 bytes)\nsrc/c.rs (14 bytes)\nsrc/deep/\n"
        );
        assert!(list(&source, &src, 2, &never).expect("a list").contains("src/deep/b.py"));
        let many = TreeSource::new(MemoryTree::new((0..300).map(|i| (format!("f{i:03}"), "")))).expect("a tree");
        let text = list(&many, &root, 1, &never).expect("a list");
        assert!(text.ends_with("[at least 100 more names: list a subfolder or use the glob tool]\n"), "{text}");
    }
}
