//! The tools that models see, and what the reading ones do. The planner's list has nothing that writes; the executor's writing
//! and running tools are performed by the step that owns the workspace and the sandbox.

use serde::Deserialize;
use serde_json::{Value, json};

use super::edits;
use super::files::{RepoPath, Source};
use super::folder::Folder;
use super::guard::Guard;
use super::outline;
use super::plan_loop::SUBMIT;
use super::repo_map::repo_map;
use super::search::{Output, Query, find_files, list, search};
use super::talk::answer;
use super::truncate::{
    READ_BYTES, READ_BYTES_MOST, READ_LINE, READ_LINES, REFUSAL_BYTES, RESULTS_BYTES, cut_line, cut_middle,
    fit_together,
};
use crate::core::plan::Plan;
use crate::providers::{ToolCall, ToolResult, ToolSpec};

/// Files above this are not read or edited by tools, in bytes.
const FILE_MAX: u64 = 4 * 1024 * 1024;
/// New text of a file that the model may write at once, in bytes.
const WRITE_MAX: usize = 512 * 1024;

fn spec(name: &str, description: &str, properties: Value, required: &[&str]) -> ToolSpec {
    let schema =
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    ToolSpec { name: name.to_owned(), description: description.to_owned(), schema }
}

/// The planner's tools: they read, and one submits.
pub fn planner_tools() -> Vec<ToolSpec> {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer", "minimum": 1});
    let mut plan = schemars::schema_for!(Plan).to_value();
    if let Some(object) = plan.as_object_mut() {
        object.remove("$schema");
        object.remove("title");
    }
    vec![
        spec(
            "repo_map",
            "Files and the names that they define, the ones most related to `focus` first.",
            json!({"focus": {"type": "array", "items": text, "description": "paths, symbols or words"}}),
            &["focus"],
        ),
        spec(
            "list_dir",
            "Names in a folder, to a depth.",
            json!({"path": text, "depth": {"type": "integer", "minimum": 1, "maximum": 4}}),
            &["path"],
        ),
        spec(
            "find_files",
            "Paths that match a glob like `src/**/*.rs`.",
            json!({"glob": text, "path": text}),
            &["glob"],
        ),
        spec(
            "search",
            "Lines that match a regular expression (or a text, with literal).",
            json!({"pattern": text, "path": text, "glob": text, "literal": {"type": "boolean"},
                   "output": {"enum": ["lines", "files", "count"]}, "context": {"type": "integer", "minimum": 0, "maximum": 10}}),
            &["pattern"],
        ),
        spec(
            "read_file",
            "The text of a file; 400 lines unless a range is given.",
            json!({"path": text, "start_line": number, "end_line": number}),
            &["path"],
        ),
        spec("outline", "What a source file defines, with line numbers.", json!({"path": text}), &["path"]),
        ToolSpec {
            name: SUBMIT.to_owned(),
            description:
                "Ends your work with the plan. If it is refused, mend every fault that is listed and call it again."
                    .to_owned(),
            schema: plan,
        },
    ]
}

/// The executor's tools, the same bytes in every request.
pub fn executor_tools() -> Vec<ToolSpec> {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer", "minimum": 1});
    vec![
        spec(
            "read_file",
            "The text of a file; 400 lines unless a range is given.",
            json!({"file_path": text, "start_line": number, "end_line": number}),
            &["file_path"],
        ),
        spec(
            "grep_search",
            "Lines that match a regular expression (or a text, with fixed_strings).",
            json!({"pattern": text, "dir_path": text, "include_pattern": text, "fixed_strings": {"type": "boolean"},
                   "names_only": {"type": "boolean"}, "context": {"type": "integer", "minimum": 0, "maximum": 10}}),
            &["pattern"],
        ),
        spec(
            "glob",
            "Paths that match a glob like `src/**/*.py`.",
            json!({"pattern": text, "dir_path": text}),
            &["pattern"],
        ),
        spec("list_directory", "Names in a folder.", json!({"dir_path": text}), &["dir_path"]),
        spec(
            "replace",
            "Replaces text in a file. old_string must stand there exactly once, with enough lines around it; allow_multiple \
              replaces every place.",
            json!({"file_path": text, "old_string": text, "new_string": text, "allow_multiple": {"type": "boolean"},
                   "instruction": {"type": "string", "description": "why, in one line"}}),
            &["file_path", "old_string", "new_string"],
        ),
        spec(
            "write_file",
            "Writes a whole file; folders are made. An existing file must have been read first.",
            json!({"file_path": text, "content": text}),
            &["file_path", "content"],
        ),
        spec(
            "run_tests",
            "Runs a check of the repository and gives a digest of what fails.",
            json!({"check": {"type": "string", "description": "a check's name; `test` if not given"}}),
            &[],
        ),
        spec(
            "run_shell_command",
            "Runs a shell command in the working copy, without network.",
            json!({"command": text, "dir_path": text, "timeout_s": {"type": "integer", "minimum": 1, "maximum": 600}}),
            &["command"],
        ),
        spec(
            "read_output",
            "More of the output of an earlier command, by the id that was given with it.",
            json!({"id": text, "start_line": number, "end_line": number, "pattern": text}),
            &["id"],
        ),
        spec(
            "finish",
            "Ends your work. With `done` the checks are run; only they count.",
            json!({"status": {"enum": ["done", "blocked", "criteria_conflict"]}, "summary": text,
                   "evidence": {"type": "array", "items": {"type": "object", "properties": {"criterion": text, "proof": text},
                                "required": ["criterion", "proof"]}}}),
            &["status", "summary"],
        ),
    ]
}

/// Other names that models use for the executor's tools.
const ALIASES: &[(&str, &str)] = &[
    ("edit_file", "replace"),
    ("edit", "replace"),
    ("str_replace", "replace"),
    ("create_file", "write_file"),
    ("run_command", "run_shell_command"),
    ("bash", "run_shell_command"),
    ("shell", "run_shell_command"),
    ("grep", "grep_search"),
    ("search", "grep_search"),
    ("find_files", "glob"),
    ("list_dir", "list_directory"),
    ("ls", "list_directory"),
    ("test", "run_tests"),
];

/// The name that the tool has here.
pub fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, tool)| tool)
}

/// A call in one short line, for people.
pub fn describe(call: &ToolCall) -> String {
    let argument = ["file_path", "path", "pattern", "glob", "command", "check", "dir_path", "id", "status", "title"]
        .iter()
        .find_map(|key| call.arguments[*key].as_str())
        .unwrap_or_default();
    let argument: String = argument.lines().next().unwrap_or_default().chars().take(80).collect();
    format!("{} {argument}", canonical(&call.name)).trim_end().to_owned()
}

/// Arguments as a type, or what is wrong with them for the model.
pub fn arguments<T: serde::de::DeserializeOwned>(call: &ToolCall) -> Result<T, String> {
    if let Some(invalid) = &call.invalid {
        return Err(format!("the arguments are not JSON: {}", cut_line(invalid, 200)));
    }
    serde_json::from_value(call.arguments.clone())
        .map_err(|error| format!("the arguments of `{}` do not fit: {error}", call.name))
}

/// The answers to the planner's reading calls, together within their limit.
pub fn read_all(calls: &[ToolCall], source: &dyn Source) -> Vec<ToolResult> {
    let mut results: Vec<ToolResult> = calls
        .iter()
        .map(|call| match plan_read(call, source) {
            Ok(text) => answer(call, text, false),
            Err(text) => answer(call, cut_middle(&text, REFUSAL_BYTES, 50, None), true),
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

fn plan_read(call: &ToolCall, source: &dyn Source) -> Result<String, String> {
    match call.name.as_str() {
        "repo_map" => {
            let focus = arguments::<MapArguments>(call)?.focus;
            repo_map(source, &focus, 16 * 1024).map_err(|error| error.to_string())
        }
        "list_dir" | "list_directory" | "find_files" | "glob" | "search" | "grep_search" | "read_file" => {
            read(call, source)
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

/// The reading tools that planner and executor share, under both sets of names.
pub fn read(call: &ToolCall, source: &dyn Source) -> Result<String, String> {
    match canonical(&call.name) {
        "list_directory" => {
            let given = arguments::<ListArguments>(call)?;
            list(source, &at(&given.path)?, given.depth.unwrap_or(1)).map_err(|error| error.to_string())
        }
        "glob" => {
            let given = arguments::<GlobArguments>(call)?;
            find_files(source, &given.glob, &at(given.path.as_deref().unwrap_or("."))?, 100)
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
                limit: 100,
            };
            search(source, &query).map_err(|error| error.to_string())
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
    RepoPath::parse(path).map_err(|error| error.to_string())
}

fn text_of(source: &dyn Source, path: &RepoPath) -> Result<String, String> {
    let content = source.read(path, FILE_MAX).map_err(|error| match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    })?;
    if content.is_cut() {
        return Err(format!("{} has {} bytes; tools take files up to {FILE_MAX}", path.as_str(), content.size));
    }
    if content.is_binary() {
        return Err(format!("{} is not text", path.as_str()));
    }
    String::from_utf8(content.bytes).map_err(|_| format!("{} is not UTF-8 text", path.as_str()))
}

/// A range of lines with a heading that says what is shown.
pub fn lines(name: &str, text: &str, start: Option<usize>, end: Option<usize>) -> String {
    let total = text.lines().count();
    let start = start.unwrap_or(1).max(1);
    let ranged = end.is_some();
    let end = end.unwrap_or(start + READ_LINES - 1).min(total);
    let most = if ranged { READ_BYTES_MOST } else { READ_BYTES };
    let mut shown = String::new();
    let mut last = start.saturating_sub(1);
    for line in text.lines().skip(start - 1).take((end + 1).saturating_sub(start)) {
        let line = cut_line(line, READ_LINE);
        if shown.len() + line.len() > most {
            break;
        }
        shown.push_str(&line);
        shown.push('\n');
        last += 1;
    }
    if total == 0 {
        return format!("{name}: empty");
    }
    format!("{name}: lines {start}-{last} of {total}\n{shown}")
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
    let text = text_of(folder, &path)?;
    let applied = edits::replace(&text, &given.old_string, &given.new_string, given.allow_multiple)
        .map_err(|error| error.to_string())?;
    folder.write(&path, applied.text.as_bytes()).map_err(|error| error.to_string())?;
    Ok(applied.report(path.as_str()))
}

/// Performs `write_file`; `was_read` says whether the model has seen the file's text in this run.
pub fn write_file(
    call: &ToolCall,
    folder: &Folder,
    guard: &Guard,
    was_read: impl Fn(&str) -> bool,
) -> Result<String, String> {
    let given = arguments::<WriteArguments>(call)?;
    let path = at(&given.file_path)?;
    unprotected(guard, &path)?;
    if given.content.len() > WRITE_MAX {
        return Err(format!("the text has {} bytes; {WRITE_MAX} can be written at once", given.content.len()));
    }
    let exists = folder.metadata(&path).is_ok();
    if exists && !was_read(path.as_str()) {
        return Err(format!("{} exists and you have not read it: read it first, or use `replace`", path.as_str()));
    }
    folder.write(&path, given.content.as_bytes()).map_err(|error| error.to_string())?;
    let count = given.content.lines().count();
    Ok(format!("{} {}, {count} lines", if exists { "rewrote" } else { "wrote" }, path.as_str()))
}

#[cfg(test)]
mod tests {
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
        let results = read_all(&calls, &source);
        assert_eq!(results.len(), calls.len());
        assert_eq!(results[0].text, "src/a.rs: lines 2-2 of 2\nfn b() {}\n");
        let errors: Vec<bool> = results.iter().map(|result| result.is_error).collect();
        assert_eq!(errors, [false, true, true, false, true, true, false], "{results:?}");
        assert!(results[4].text.contains("there is no tool `write_file`"));
    }

    #[test]
    fn writing_is_guarded() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.py"), "one\ntwo\n").unwrap();
        let folder = Folder::open(dir.path(), []).unwrap();
        let plan = json!({"title": "t", "summary": "s", "steps": [], "criteria": []});
        let guard = Guard::new(["a.py".to_owned()], &serde_json::from_value(plan).unwrap());
        let edit = call("replace", json!({"file_path": "a.py", "old_string": "two", "new_string": "three"}));
        assert!(replace(&edit, &folder, &guard).unwrap().contains("edited a.py"));
        assert_eq!(std::fs::read_to_string(dir.path().join("a.py")).unwrap(), "one\nthree\n");
        let blind = call("write_file", json!({"file_path": "a.py", "content": "x"}));
        assert!(write_file(&blind, &folder, &guard, |_| false).unwrap_err().contains("have not read it"));
        let test = call("write_file", json!({"file_path": "tests/test_a.py", "content": "x"}));
        assert!(write_file(&test, &folder, &guard, |_| true).unwrap_err().contains("protected"));
        let outside = call("write_file", json!({"file_path": "../x", "content": "x"}));
        assert!(write_file(&outside, &folder, &guard, |_| true).is_err());
        let new = call("write_file", json!({"file_path": "pkg/new.py", "content": "x\n"}));
        assert_eq!(write_file(&new, &folder, &guard, |_| false).unwrap(), "wrote pkg/new.py, 1 lines");
    }
}
