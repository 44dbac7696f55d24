//! The tools as they are described to models. The planner's list has nothing that writes.

use serde_json::{Value, json};

use super::super::plan_loop::SUBMIT;
use crate::core::plan::Plan;
use crate::providers::ToolSpec;

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
        spec(
            "git_log",
            "The newest commits that touched a path: date, author, subject.",
            json!({"path": text, "limit": {"type": "integer", "minimum": 1, "maximum": 50}}),
            &["path"],
        ),
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
            "Runs a shell command in the working copy; it reaches no host that the repository does not allow.",
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
