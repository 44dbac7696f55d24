//! Calls as models write them: names that mean one of ours, and arguments that mean what the tool takes.

use serde_json::Value;

use super::super::truncate::cut_line;
use crate::providers::ToolCall;

/// Other names that models use for the executor's tools.
const ALIASES: &[(&str, &str)] = &[
    ("edit_file", "replace"),
    ("edit", "replace"),
    ("str_replace", "replace"),
    ("search_replace", "replace"),
    ("create_file", "write_file"),
    ("write", "write_file"),
    ("read", "read_file"),
    ("view", "read_file"),
    ("view_file", "read_file"),
    ("cat", "read_file"),
    ("run_command", "run_shell_command"),
    ("execute_command", "run_shell_command"),
    ("bash", "run_shell_command"),
    ("shell", "run_shell_command"),
    ("terminal", "run_shell_command"),
    ("grep", "grep_search"),
    ("search", "grep_search"),
    ("search_file_content", "grep_search"),
    ("find_files", "glob"),
    ("list_dir", "list_directory"),
    ("list_files", "list_directory"),
    ("ls", "list_directory"),
    ("test", "run_tests"),
    ("run_test", "run_tests"),
];

/// The name that the tool has here.
pub fn canonical(name: &str) -> &str {
    // Some models put the name of an invented module in front.
    let name = ["default_api.", "default_api:", "functions."]
        .iter()
        .find_map(|start| name.strip_prefix(start))
        .unwrap_or(name);
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
    let given = coerced(&call.arguments);
    let read = match given.is_object() {
        // The reader would take a list for an object, in the order of the fields.
        false => Err("they must be an object".to_owned()),
        true => {
            serde_json::from_value(given.clone()).map_err(|error| misfit(&given).unwrap_or_else(|| error.to_string()))
        }
    };
    read.map_err(|why| format!("the arguments of `{}` do not fit: {why}", cut_line(&call.name, 60)))
}

/// Fields that are whole numbers, in any tool.
const NUMBERS: &[&str] =
    &["start_line", "end_line", "context", "depth", "limit", "total_max_matches", "timeout_s", "max_failures"];
/// Fields that are true or false.
const FLAGS: &[&str] = &["literal", "fixed_strings", "names_only", "allow_multiple"];
/// Fields that are lists or objects; all others are texts.
const NESTED: &[&str] = &["focus", "evidence"];

/// Numbers and flags given as text become what they mean, and fields set to null are left out.
fn coerced(arguments: &Value) -> Value {
    let fields = match arguments {
        Value::Object(fields) => fields,
        // A tool that needs nothing, called with nothing.
        Value::Null => return Value::Object(serde_json::Map::new()),
        other => return other.clone(),
    };
    let plain = |(name, value): (&String, &Value)| {
        let value = match value {
            Value::String(text) if NUMBERS.contains(&name.as_str()) => {
                text.trim().parse::<u64>().map_or_else(|_| value.clone(), Value::from)
            }
            // `as` is exact here: the number is whole and small.
            Value::Number(number) if NUMBERS.contains(&name.as_str()) => match number.as_f64() {
                Some(n) if n.fract() == 0.0 && (0.0..1e9).contains(&n) => Value::from(n as u64),
                _ => value.clone(),
            },
            Value::String(text) if FLAGS.contains(&name.as_str()) => match text.trim().to_ascii_lowercase().as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => value.clone(),
            },
            _ => value.clone(),
        };
        (name.clone(), value)
    };
    Value::Object(fields.iter().filter(|(_, value)| !value.is_null()).map(plain).collect())
}

/// The first field of a wrong type, by name: the reader of JSON names only the type.
fn misfit(arguments: &Value) -> Option<String> {
    arguments.as_object()?.iter().find_map(|(name, value)| {
        let wanted = match name.as_str() {
            name if NESTED.contains(&name) => return None,
            name if NUMBERS.contains(&name) => (!value.is_u64()).then_some("a whole number, 0 or more"),
            name if FLAGS.contains(&name) => (!value.is_boolean()).then_some("true or false"),
            _ => (!value.is_string()).then_some("a text"),
        }?;
        Some(format!("`{}` must be {wanted}; it is {}", cut_line(name, 60), cut_line(&value.to_string(), 80)))
    })
}
