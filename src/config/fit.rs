//! Whether a file fits a schema, told in words and places of the file.

use serde_json::Value;

use super::FILE;
use crate::yaml::{Diagnostic, Document, Node};

/// Every place where a value does not fit a schema.
pub(super) fn against_schema(document: &Document, value: &Value, schema: &Value) -> Vec<Diagnostic> {
    let validator = jsonschema::validator_for(schema).expect("a derived schema is a schema");
    let mut wrong = Vec::new();
    for error in validator.iter_errors(value) {
        let pointer = error.instance_path().to_string();
        if let jsonschema::error::ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
            let node = node_at(&document.root, &pointer);
            let known = known_keys(schema, &pointer);
            for key in unexpected {
                let span = node.and_then(|node| node.entry(key)).map_or(0..0, |(key, _)| key.span.clone());
                let place = if pointer.is_empty() {
                    FILE.to_owned()
                } else {
                    format!("`{}`", pointer.trim_start_matches('/').replace('/', "."))
                };
                let fault = document.diagnostic(span, "unknown_key", format!("{place} has no key `{key}`"));
                wrong.push(fault.suggest(key, known.iter().map(String::as_str)));
            }
            continue;
        }
        let key = pointer.trim_start_matches('/').replace('/', ".");
        let text: String = error.to_string().chars().take(300).collect();
        let message = if key.is_empty() { text } else { format!("`{key}`: {text}") };
        wrong.push(document.diagnostic(document.root.locate(&pointer), "wrong_value", message));
    }
    wrong.sort_by_key(|fault| (fault.line, fault.column));
    wrong
}

fn node_at<'n>(root: &'n Node, pointer: &str) -> Option<&'n Node> {
    pointer.split('/').skip(1).try_fold(root, |node, part| node.get(part))
}

/// The property names at a place of a schema, following references, optional values and maps.
fn known_keys(schema: &Value, pointer: &str) -> Vec<String> {
    let mut current = follow(schema, schema);
    for part in pointer.split('/').skip(1) {
        let next = match &current["properties"][part] {
            Value::Null => &current["additionalProperties"],
            found => found,
        };
        current = follow(schema, next);
    }
    current["properties"].as_object().map_or_else(Vec::new, |properties| properties.keys().cloned().collect())
}

fn follow<'s>(schema: &'s Value, mut node: &'s Value) -> &'s Value {
    // Deeper than any derived schema refers.
    for _ in 0..8 {
        if let Some(reference) = node["$ref"].as_str() {
            node = schema.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
        } else if let Some(options) = node["anyOf"].as_array() {
            node = options.iter().find(|option| option["type"] != "null").unwrap_or(&Value::Null);
        } else {
            break;
        }
    }
    node
}
