//! What the tools do that read and edit. The executor's writing and running tools are performed by the step that owns the
//! workspace and the sandbox.

mod arguments;
mod catalog;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::edits::{self, EditError, find_placeholder};
use super::files::{FileError, Kind, RepoPath, Source, StopNow};
use super::folder::Folder;
use super::guard::Guard;
use super::outline;
use super::repo_map::repo_map;
use super::search::{Output, Query, find_files, list, search};
use super::talk::answer;
use super::truncate::{
    GLOB_PATHS, READ_BYTES, READ_BYTES_MOST, READ_LINE, READ_LINES, REFUSAL_BYTES, RESULTS_BYTES, SEARCH_HITS,
    cut_line, cut_middle, fit_together,
};
use crate::providers::{ToolCall, ToolResult};
use crate::sandboxes::WORKSPACE;

pub use arguments::{arguments, canonical, describe};
pub use catalog::{executor_tools, planner_tools};

/// Files above this are not read or edited by tools, in bytes.
const FILE_MAX: u64 = 4 * 1024 * 1024;
/// A reading call ends after this, with what it found so far.
const CALL_TIME: Duration = Duration::from_secs(10);
/// Room for the heading of a read range, in bytes: a path and some words.
const HEADING: usize = 400;
/// Files of fewer lines may shrink as they like.
const SHRINK_LINES: usize = 200;
/// New text of a file that the model may write at once, in bytes.
const WRITE_MAX: usize = 512 * 1024;

/// The answers to the planner's reading calls, together within their limit. Once `cancelled`, nothing more is read.
pub fn read_all(calls: &[ToolCall], source: &dyn Source, cancelled: StopNow<'_>) -> Vec<ToolResult> {
    let mut results: Vec<ToolResult> = calls
        .iter()
        .map(|call| {
            if cancelled() {
                return answer(call, "refused: the run is being stopped", true);
            }
            match plan_read(call, source, cancelled) {
                Ok(text) => answer(call, text, false),
                Err(text) => answer(call, cut_middle(&text, REFUSAL_BYTES, 50, None), true),
            }
        })
        .collect();
    fit(&mut results);
    results
}

/// Cuts the largest results until all together fit.
pub fn fit(results: &mut [ToolResult]) {
    let mut texts: Vec<&mut String> = results.iter_mut().map(|result| &mut result.text).collect();
    fit_together(&mut texts, RESULTS_BYTES);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MapArguments {
    focus: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListArguments {
    #[serde(alias = "dir_path")]
    path: String,
    #[serde(default)]
    depth: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GlobArguments {
    #[serde(alias = "pattern")]
    glob: String,
    #[serde(default, alias = "dir_path")]
    path: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchArguments {
    pattern: String,
    #[serde(default, alias = "dir_path")]
    path: Option<String>,
    #[serde(default, alias = "include_pattern")]
    glob: Option<String>,
    #[serde(default, alias = "fixed_strings")]
    literal: bool,
    #[serde(default)]
    output: Option<String>,
    #[serde(default)]
    names_only: bool,
    #[serde(default)]
    context: usize,
    #[serde(default, alias = "total_max_matches")]
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadArguments {
    #[serde(alias = "file_path")]
    path: String,
    #[serde(default)]
    start_line: Option<usize>,
    #[serde(default)]
    end_line: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutlineArguments {
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogArguments {
    path: String,
    #[serde(default)]
    limit: Option<usize>,
}

fn plan_read(call: &ToolCall, source: &dyn Source, cancelled: StopNow<'_>) -> Result<String, String> {
    match call.name.as_str() {
        "repo_map" => {
            let focus = arguments::<MapArguments>(call)?.focus;
            within(CALL_TIME, cancelled, |stop| repo_map(source, &focus, 16 * 1024, stop))
                .map_err(|error| error.to_string())
        }
        "list_dir" | "list_directory" | "find_files" | "glob" | "search" | "grep_search" | "read_file" => {
            read(call, source, cancelled)
        }
        "git_log" => {
            let given = arguments::<LogArguments>(call)?;
            let limit = given.limit.unwrap_or(20).clamp(1, 50);
            let found = source.history(&at(&given.path)?, limit).map_err(|error| error.to_string())?;
            Ok(if found.is_empty() { "no commit touched it".to_owned() } else { found.join("\n") })
        }
        "outline" => {
            let path = at(&arguments::<OutlineArguments>(call)?.path)?;
            let language = outline::language(path.as_str())
                .ok_or_else(|| format!("there is no outline for {}: read the file", path.as_str()))?;
            let text = text_of(source, &path)?;
            Ok(outline::render(&outline::outline(language, &text)))
        }
        other => {
            let names: Vec<String> = planner_tools().into_iter().map(|tool| tool.name).collect();
            Err(format!("there is no tool `{other}`; the tools are: {}", names.join(", ")))
        }
    }
}

/// Work that must stop when it is cancelled or has taken so long.
pub fn within<T>(time: Duration, cancelled: StopNow<'_>, work: impl FnOnce(StopNow<'_>) -> T) -> T {
    let until = Instant::now() + time;
    work(&|| cancelled() || Instant::now() >= until)
}

/// The reading tools that planner and executor share, under both sets of names. They take up to some ten seconds: not for a
/// thread that others wait for.
pub fn read(call: &ToolCall, source: &dyn Source, cancelled: StopNow<'_>) -> Result<String, String> {
    within(CALL_TIME, cancelled, |stop| read_within(call, source, stop))
}

fn read_within(call: &ToolCall, source: &dyn Source, stop: StopNow<'_>) -> Result<String, String> {
    match canonical(&call.name) {
        "list_directory" => {
            let given = arguments::<ListArguments>(call)?;
            list(source, &at(&given.path)?, given.depth.unwrap_or(1), stop).map_err(|error| error.to_string())
        }
        "glob" => {
            let given = arguments::<GlobArguments>(call)?;
            find_files(
                source,
                &given.glob,
                &at(given.path.as_deref().unwrap_or("."))?,
                given.limit.unwrap_or(GLOB_PATHS),
                stop,
            )
            .map_err(|error| error.to_string())
        }
        "grep_search" => {
            let given = arguments::<SearchArguments>(call)?;
            let output = match given.output.as_deref() {
                Some("files") => Output::Files,
                Some("count") => Output::Count,
                _ if given.names_only => Output::Files,
                _ => Output::Lines,
            };
            let query = Query {
                pattern: given.pattern,
                path: at(given.path.as_deref().unwrap_or("."))?,
                glob: given.glob,
                fixed: given.literal,
                output,
                context: given.context,
                limit: given.limit.unwrap_or(SEARCH_HITS),
            };
            search(source, &query, stop).map_err(|error| error.to_string())
        }
        "read_file" => {
            let given = arguments::<ReadArguments>(call)?;
            let path = at(&given.path)?;
            let text = text_of(source, &path)?;
            Ok(lines(path.as_str(), &text, given.start_line, given.end_line))
        }
        other => Err(format!("`{other}` does not read")),
    }
}

/// The path of a `read_file`, for the record of what was read.
pub fn read_path(call: &ToolCall) -> Option<String> {
    Some(at(&arguments::<ReadArguments>(call).ok()?.path).ok()?.as_str().to_owned())
}

fn at(path: &str) -> Result<RepoPath, String> {
    // What a command prints shows the workspace where the sandbox has it.
    let inside = path.strip_prefix(WORKSPACE).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let path = inside.map_or(path, |rest| rest.trim_start_matches('/'));
    RepoPath::parse(path).map_err(|error| hinted(&error))
}

fn hinted(error: &FileError) -> String {
    match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

fn text_of(source: &dyn Source, path: &RepoPath) -> Result<String, String> {
    let content = source.read(path, FILE_MAX).map_err(|error| hinted(&error))?;
    if content.is_cut() {
        return Err(format!("{} has {} bytes; tools take files up to {FILE_MAX}", path.as_str(), content.size));
    }
    if content.is_binary() {
        return Err(format!("{} is not text", path.as_str()));
    }
    String::from_utf8(content.bytes).map_err(|_| format!("{} is not UTF-8 text", path.as_str()))
}

/// A range of lines with a heading that says what is shown and how to go on.
pub fn lines(name: &str, text: &str, start: Option<usize>, end: Option<usize>) -> String {
    let total = text.lines().count();
    if total == 0 {
        return format!("{name}: empty");
    }
    let start = start.unwrap_or(1).max(1);
    if start > total {
        return format!("{name}: has {total} lines; nothing from line {start}");
    }
    let wanted = end.unwrap_or_else(|| start.saturating_add(READ_LINES - 1)).clamp(start, total);
    let most = if end.is_some() { READ_BYTES_MOST - HEADING } else { READ_BYTES };
    let mut shown = String::new();
    let mut last = start - 1;
    for line in text.lines().skip(start - 1).take(wanted + 1 - start) {
        let line = cut_line(line, READ_LINE);
        if shown.len() + line.len() + 1 > most {
            break;
        }
        shown.push_str(&line);
        shown.push('\n');
        last += 1;
    }
    let more = if last < total { format!("; go on with start_line {}", last + 1) } else { String::new() };
    let more = if last < wanted || end.is_none() { more } else { String::new() };
    format!("{name}: lines {start}-{last} of {total}{more}\n{shown}")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplaceArguments {
    file_path: String,
    old_string: String,
    new_string: String,
    #[serde(default)]
    allow_multiple: bool,
    #[serde(default, rename = "instruction")]
    _instruction: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteArguments {
    file_path: String,
    content: String,
}

/// The answer to calls beyond the step's limits; the stop rules leave it out.
pub const LIMIT_REACHED: &str = "refused: the limit is reached";

/// What every refusal of a protected file says; the stop rules count it.
pub const PROTECTED: &str = "is protected:";

fn unprotected(guard: &Guard, path: &RepoPath) -> Result<(), String> {
    match guard.protects(path.as_str()) {
        Some(why) => Err(format!(
            "{} {PROTECTED} {why}. If the plan cannot be met without it, call `finish` with `blocked`.",
            path.as_str()
        )),
        None => Ok(()),
    }
}

/// Performs `replace`.
pub fn replace(call: &ToolCall, folder: &Folder, guard: &Guard) -> Result<String, String> {
    let given = arguments::<ReplaceArguments>(call)?;
    let path = at(&given.file_path)?;
    unprotected(guard, &path)?;
    if given.old_string.is_empty() {
        return Err(EditError::Empty.to_string());
    }
    let text = text_of(folder, &path)?;
    let applied = edits::replace(&text, &given.old_string, &given.new_string, given.allow_multiple)
        .map_err(|error| error.to_string())?;
    folder.write(&path, applied.text.as_bytes()).map_err(|error| hinted(&error))?;
    Ok(applied.report(path.as_str()))
}

/// Performs `write_file`; `was_read` says whether the model has seen the file's text in this run, `warned` keeps the files
/// that it was told it is about to cut down.
pub fn write_file(
    call: &ToolCall,
    folder: &Folder,
    guard: &Guard,
    was_read: impl Fn(&str) -> bool,
    warned: &mut BTreeSet<String>,
) -> Result<String, String> {
    let given = arguments::<WriteArguments>(call)?;
    let path = at(&given.file_path)?;
    unprotected(guard, &path)?;
    if given.content.len() > WRITE_MAX {
        return Err(format!("the text has {} bytes; {WRITE_MAX} can be written at once", given.content.len()));
    }
    let exists = folder.metadata(&path).is_ok_and(|entry| entry.kind == Kind::File);
    if exists && !was_read(path.as_str()) {
        return Err(format!("{path} exists and you have not read it: read it first, or use `replace`"));
    }
    let old = if exists { text_of(folder, &path)? } else { String::new() };
    if let Some(line) = find_placeholder(&given.content, &old) {
        return Err(EditError::Placeholder { line }.to_string());
    }
    let (before, count) = (old.lines().count(), given.content.lines().count());
    if before > SHRINK_LINES && count * 2 < before && warned.insert(path.as_str().to_owned()) {
        return Err(format!(
            "{path} has {before} lines and would have {count}: nothing was written. If that is meant, make the same call \
             again; else use `replace`"
        ));
    }
    let content = with_line_ends_of(&old, given.content);
    folder.write(&path, content.as_bytes()).map_err(|error| hinted(&error))?;
    Ok(format!("{} {path}, {count} lines", if exists { "rewrote" } else { "wrote" }))
}

/// A file that has CRLF keeps it.
fn with_line_ends_of(old: &str, new: String) -> String {
    let ends = old.matches('\n').count();
    if ends > 0 && old.matches("\r\n").count() * 2 > ends {
        new.replace("\r\n", "\n").replace('\n', "\r\n")
    } else {
        new
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::agent::files::{MemoryTree, TreeSource};

    fn call(name: &str, arguments: Value) -> ToolCall {
        ToolCall { id: "1".into(), name: name.into(), arguments, invalid: None }
    }

    #[test]
    fn tools_are_the_same_bytes_every_time_and_small() {
        for tools in [planner_tools, executor_tools] {
            let bytes = serde_json::to_string(&tools()).unwrap();
            assert_eq!(bytes, serde_json::to_string(&tools()).unwrap());
            assert!(bytes.len() < 12 * 1024, "{}", bytes.len());
        }
    }

    #[test]
    fn reading_answers_every_call_and_refuses_with_words() {
        let tree = MemoryTree::new([("src/a.rs", "fn a() {}\nfn b() {}\n"), (".env", "X=1")]);
        let source = TreeSource::new(tree).unwrap();
        let calls = [
            call("read_file", json!({"path": "src/a.rs", "start_line": 2})),
            call("read_file", json!({"path": "../etc/passwd"})),
            call("read_file", json!({"path": ".env"})),
            call("search", json!({"pattern": "fn b"})),
            call("write_file", json!({"file_path": "x", "content": "y"})),
            call("read_file", json!({"wrong": 1})),
            call("outline", json!({"path": "src/a.rs"})),
        ];
        let results = read_all(&calls, &source, &|| false);
        assert_eq!(results.len(), calls.len());
        assert_eq!(results[0].text, "src/a.rs: lines 2-2 of 2\nfn b() {}\n");
        let errors: Vec<bool> = results.iter().map(|result| result.is_error).collect();
        assert_eq!(errors, [false, true, true, false, true, true, false], "{results:?}");
        assert!(results[4].text.contains("there is no tool `write_file`"));
    }

    #[test]
    fn once_cancelled_nothing_more_is_read() {
        let source = TreeSource::new(MemoryTree::new([("a", "text\n")])).unwrap();
        let asked = std::cell::Cell::new(0);
        let cancelled = || {
            asked.set(asked.get() + 1);
            true
        };
        let calls: Vec<_> = (0..50).map(|i| call("search", json!({"pattern": format!("x{i}")}))).collect();
        let results = read_all(&calls, &source, &cancelled);
        assert!(results.len() == 50 && results.iter().all(|result| result.is_error), "{results:?}");
        assert!(results[0].text.contains("being stopped") && asked.get() == 50, "{}", asked.get());
    }

    #[test]
    fn writing_is_guarded() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.py"), "one\ntwo\n").unwrap();
        let folder = Folder::open(dir.path(), []).unwrap();
        let plan = json!({"title": "t", "summary": "s", "steps": [], "criteria": []});
        let guard = Guard::new(["a.py".to_owned()], &serde_json::from_value(plan).unwrap());
        let mut warned = BTreeSet::new();
        let edit = call("replace", json!({"file_path": "a.py", "old_string": "two", "new_string": "three"}));
        assert!(replace(&edit, &folder, &guard).unwrap().contains("edited a.py"));
        assert_eq!(std::fs::read_to_string(dir.path().join("a.py")).unwrap(), "one\nthree\n");
        let blind = call("write_file", json!({"file_path": "a.py", "content": "x"}));
        assert!(write_file(&blind, &folder, &guard, |_| false, &mut warned).unwrap_err().contains("have not read it"));
        let test = call("write_file", json!({"file_path": "tests/test_a.py", "content": "x"}));
        assert!(write_file(&test, &folder, &guard, |_| true, &mut warned).unwrap_err().contains("protected"));
        let outside = call("write_file", json!({"file_path": "../x", "content": "x"}));
        assert!(write_file(&outside, &folder, &guard, |_| true, &mut warned).is_err());
        let new = call("write_file", json!({"file_path": "pkg/new.py", "content": "x\n"}));
        assert_eq!(write_file(&new, &folder, &guard, |_| false, &mut warned).unwrap(), "wrote pkg/new.py, 1 lines");
    }

    #[test]
    fn a_whole_file_is_written_with_care() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("dos.txt"), "a\r\nb\r\n").unwrap();
        std::fs::write(dir.path().join("long.py"), "x = 1\n".repeat(300)).unwrap();
        let folder = Folder::open(dir.path(), []).unwrap();
        let plan = json!({"title": "t", "summary": "s", "steps": [], "criteria": []});
        let guard = Guard::new([], &serde_json::from_value(plan).unwrap());
        let mut warned = BTreeSet::new();
        let mut write = |path: &str, content: &str| {
            let call = call("write_file", json!({"file_path": path, "content": content}));
            write_file(&call, &folder, &guard, |_| true, &mut warned)
        };
        write("dos.txt", "c\nd\n").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("dos.txt")).unwrap(), "c\r\nd\r\n");
        assert!(write("long.py", "x = 1\n# ... rest unchanged ...\n").unwrap_err().contains("placeholder"));
        assert!(write("long.py", "x = 1\n").unwrap_err().contains("300 lines and would have 1"));
        assert_eq!(write("long.py", "x = 1\n").unwrap(), "rewrote long.py, 1 lines");
        assert!(write("..", "x").is_err() && write(".git/config", "x").is_err() && write(".env", "x").is_err());
        // As a command prints it.
        assert!(write(&format!("{WORKSPACE}/new.py"), "x\n").unwrap().contains("wrote new.py"));
        assert!(write(&format!("{WORKSPACE}x/new.py"), "x\n").is_err());
    }

    #[test]
    fn arguments_are_read_kindly_and_faults_are_named() {
        let tree = MemoryTree::new([("a.py", "1\n2\n3\n")]);
        let source = TreeSource::new(tree).unwrap();
        let kind = call("default_api.read_file", json!({"file_path": "a.py", "start_line": "2", "end_line": 2.0}));
        assert_eq!(read(&kind, &source, &|| false).unwrap(), "a.py: lines 2-2 of 3\n2\n");
        let null = call("cat", json!({"file_path": "a.py", "start_line": null}));
        assert_eq!(read(&null, &source, &|| false).unwrap(), "a.py: lines 1-3 of 3\n1\n2\n3\n");
        let fault = |arguments: Value| read(&call("read_file", arguments), &source, &|| false).unwrap_err();
        assert!(
            fault(json!({"file_path": "a.py", "start_line": "two"})).contains("`start_line` must be a whole number")
        );
        assert!(fault(json!({"file_path": ["a.py"]})).contains("`file_path` must be a text"));
        assert!(fault(json!({"file_path": "a.py", "line": "3"})).contains("unknown field `line`"));
        assert!(fault(json!({"start_line": 1})).contains("missing field"));
        assert!(fault(json!(["a.py"])).contains("must be an object"));
        let past = call("read_file", json!({"file_path": "a.py", "start_line": 9}));
        assert_eq!(read(&past, &source, &|| false).unwrap(), "a.py: has 3 lines; nothing from line 9");
        let huge = call("read_file", json!({"file_path": "a.py", "start_line": u64::MAX, "end_line": 1}));
        assert!(read(&huge, &source, &|| false).is_ok());
        let long = lines("x", &"y\n".repeat(1000), None, None);
        assert!(long.starts_with("x: lines 1-400 of 1000; go on with start_line 401\n"), "{}", &long[..60]);
        let wide = lines("x", &format!("{}\n", "é".repeat(2000)).repeat(100), Some(1), Some(100));
        assert!(wide.len() <= READ_BYTES_MOST && wide.contains("; go on with start_line"));
    }
}
