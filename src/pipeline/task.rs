//! A task file: what is asked for, of which pipeline, on which repository.

use serde_json::{Map, Value};

use super::read::{Reader, read_node};
use super::{Input, InputKind, Pipeline};
use crate::yaml::{Diagnostic, Document, Kind, Node, nearest};

const KEYS: &[&str] = &["pipeline", "repo", "task", "inputs", "key", "notify"];
/// The longest idempotency key, in bytes.
const KEY_MAX: usize = 200;

/// Which pipeline a task wants.
#[derive(Debug, Clone, PartialEq)]
pub enum PipelineRef {
    /// A name under `pipelines/`.
    Named(String),
    /// One that stands in the task itself.
    Inline(Box<Pipeline>),
}

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The pipeline.
    pub pipeline: PipelineRef,
    /// A key of the configured repositories, or a path or URL.
    pub repo: Option<String>,
    /// What is asked for.
    pub task: Option<String>,
    /// By name.
    pub inputs: Map<String, Value>,
    /// The idempotency key.
    pub key: Option<String>,
    /// Who is told.
    pub notify: Vec<String>,
}

/// Reads a task out of a parsed file.
pub fn read_task(document: &Document) -> Result<Task, Vec<Diagnostic>> {
    let mut reader = Reader::new(document);
    let root = &document.root;
    let entries = reader.map(root, "a task");
    reader.known_keys(entries, KEYS, "a task");
    let pipeline = match root.get("pipeline") {
        None => {
            reader.fault(root.span.clone(), "missing_key", "a task needs a `pipeline`").help =
                Some("like `pipeline: dev-task`".to_owned());
            None
        }
        Some(node) => inline_or_named(&mut reader, document, node),
    };
    let text =
        |reader: &mut Reader<'_>, key: &str| root.get(key).and_then(|node| reader.text(node, &format!("`{key}`")));
    let repo = text(&mut reader, "repo");
    let task = text(&mut reader, "task");
    let key = text(&mut reader, "key");
    if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > KEY_MAX) {
        let span = root.get("key").map_or(0..0, |node| node.span.clone());
        reader.fault(span, "bad_key", format!("`key` must have 1 to {KEY_MAX} bytes"));
    }
    let inputs = root.get("inputs").filter(|node| node.kind != Kind::Null).map_or_else(Map::new, |node| {
        reader.map(node, "`inputs`").iter().map(|(key, node)| (key.text.clone(), node.to_json())).collect()
    });
    let notify = root.get("notify").map_or_else(Vec::new, |node| match &node.kind {
        Kind::List(items) => items.iter().filter_map(|item| reader.text(item, "an entry of `notify`")).collect(),
        _ => {
            reader.fault(node.span.clone(), "wrong_type", "`notify` must be a list");
            Vec::new()
        }
    });
    match pipeline {
        Some(pipeline) if reader.wrong.is_empty() => Ok(Task { pipeline, repo, task, inputs, key, notify }),
        _ => Err(reader.wrong),
    }
}

fn inline_or_named<'d>(reader: &mut Reader<'d>, document: &Document, node: &'d Node) -> Option<PipelineRef> {
    if !matches!(node.kind, Kind::Map(_)) {
        return reader.text(node, "`pipeline`").map(PipelineRef::Named);
    }
    match read_node(document, node) {
        Ok(mut pipeline) => {
            if node.get("name").is_none() {
                pipeline.name = "inline".to_owned();
            }
            // The stored text must be a pipeline by itself: a resumed run reads it again.
            pipeline.text = serde_json::to_string_pretty(&node.to_json()).expect("a tree is JSON");
            Some(PipelineRef::Inline(Box::new(pipeline)))
        }
        Err(wrong) => {
            reader.wrong.extend(wrong);
            None
        }
    }
}

/// Text from a command line as a value of an input's type.
pub fn coerce(kind: InputKind, text: &str) -> Option<Value> {
    match kind {
        InputKind::String => Some(Value::String(text.to_owned())),
        // A whole number stays one: `7` is not `7.0` in a command.
        InputKind::Number | InputKind::Integer if text.parse::<i64>().is_ok() => {
            text.parse::<i64>().ok().map(Value::from)
        }
        InputKind::Number => text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from),
        InputKind::Integer => None,
        InputKind::Boolean => text.parse::<bool>().ok().map(Value::Bool),
    }
}

/// The complete inputs of a run: what was given, `repo` and `task` under their names, defaults; or every mistake.
pub fn fill_inputs(
    pipeline: &Pipeline,
    mut given: Map<String, Value>,
    repo: Option<&str>,
    task: Option<&str>,
) -> Result<Map<String, Value>, Vec<String>> {
    let mut wrong = Vec::new();
    let names: Vec<&str> = pipeline.inputs.iter().map(|(name, _)| name.as_str()).collect();
    for name in given.keys() {
        if !names.contains(&name.as_str()) {
            let near =
                nearest(name, names.iter().copied()).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            wrong.push(format!("the pipeline `{}` has no input `{name}`{near}", pipeline.name));
        }
    }
    for (name, value) in [("repo", repo), ("task", task)] {
        if let Some(value) = value.filter(|_| names.contains(&name)) {
            given.entry(name).or_insert_with(|| Value::String(value.to_owned()));
        }
    }
    let mut inputs = Map::new();
    for (name, input) in &pipeline.inputs {
        match given.remove(name) {
            Some(value) => match misfit(input, &value) {
                None if input.required && value.as_str().is_some_and(|text| text.trim().is_empty()) => {
                    wrong.push(format!("input `{name}` is required, and it is empty"));
                }
                None => {
                    inputs.insert(name.clone(), value);
                }
                Some(why) => wrong.push(format!("input `{name}` {why}")),
            },
            None if input.required => {
                let how =
                    if name == "repo" || name == "task" { format!("--{name}") } else { format!("--input {name}=…") };
                wrong.push(format!("input `{name}` is required; give it with `{how}` or in the task file"));
            }
            None => {
                inputs.insert(name.clone(), input.default.clone().unwrap_or(Value::Null));
            }
        }
    }
    if wrong.is_empty() { Ok(inputs) } else { Err(wrong) }
}

fn misfit(input: &Input, value: &Value) -> Option<String> {
    if !input.kind.fits(value) {
        let article = if input.kind == InputKind::Integer { "an" } else { "a" };
        return Some(format!("must be {article} {}, and {value} is not", input.kind.name()));
    }
    let choices = input.choices.as_ref()?;
    (!choices.contains(value)).then(|| {
        let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
        format!("must be one of {}", choices.join(", "))
    })
}
