//! Whether a file fits a schema, told in words and places of the file.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use serde_json::Value;

use super::FILE;
use crate::yaml::{Diagnostic, Document, Node, Span};

/// Every place where a value does not fit a schema.
pub(super) fn against_schema(document: &Document, value: &Value, schema: &Value) -> Vec<Diagnostic> {
    let validator = jsonschema::validator_for(schema).expect("a derived schema is a schema");
    let mut wrong = Vec::new();
    for error in validator.iter_errors(value) {
        tell(document, schema, &error, &mut wrong);
    }
    wrong.sort_by_key(|fault| (fault.line, fault.column));
    wrong
}

/// An error in words; of several ways in which a value could have fitted, the one that it comes near to.
fn tell(document: &Document, schema: &Value, error: &ValidationError<'_>, wrong: &mut Vec<Diagnostic>) {
    let pointer = error.instance_path().to_string();
    let key = pointer.trim_start_matches('/').replace('/', ".");
    let span = || document.root.locate(&pointer);
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let node = node_at(&document.root, &pointer);
            let known = known_keys(schema, &pointer);
            for name in unexpected {
                let span = node.and_then(|node| node.entry(name)).map_or(0..0, |(key, _)| key.span.clone());
                let place = if key.is_empty() { FILE.to_owned() } else { format!("`{key}`") };
                let fault = document.diagnostic(span, "unknown_key", format!("{place} has no key `{name}`"));
                wrong.push(fault.suggest(name, known.iter().map(String::as_str)));
            }
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            let words = words_of(context.iter().flatten(), &pointer);
            if !words.is_empty() {
                return wrong.push(none_of(document, span(), &key, error.instance(), &words));
            }
            let other_type = |ways: &&Vec<ValidationError<'_>>| {
                !ways.iter().any(|inner| {
                    matches!(inner.kind(), ValidationErrorKind::Type { .. })
                        && inner.instance_path().to_string() == pointer
                })
            };
            match context.iter().find(other_type) {
                Some(ways) => ways.iter().for_each(|inner| tell(document, schema, inner, wrong)),
                None => wrong.push(plain(document, span(), &key, error)),
            }
        }
        ValidationErrorKind::Enum { .. } | ValidationErrorKind::Constant { .. } => {
            let words = words_of(std::iter::once(error), &pointer);
            wrong.push(none_of(document, span(), &key, error.instance(), &words));
        }
        _ => wrong.push(plain(document, span(), &key, error)),
    }
}

/// The texts that would have been right at this very place.
fn words_of<'e>(errors: impl Iterator<Item = &'e ValidationError<'e>>, place: &str) -> Vec<String> {
    let mut words = Vec::new();
    for error in errors.filter(|error| error.instance_path().to_string() == place) {
        match error.kind() {
            ValidationErrorKind::Enum { options } => {
                words.extend(options.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
            }
            ValidationErrorKind::Constant { expected_value } => {
                words.extend(expected_value.as_str().map(str::to_owned))
            }
            ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
                words.extend(words_of(context.iter().flatten(), place));
            }
            _ => {}
        }
    }
    words
}

fn none_of(document: &Document, span: Span, key: &str, given: &Value, words: &[String]) -> Diagnostic {
    let shown: String = given.to_string().chars().take(100).collect();
    let fault = document.diagnostic(span, "wrong_value", format!("`{key}`: {shown} is none of {}", words.join(", ")));
    match given.as_str() {
        Some(text) => fault.suggest(text, words.iter().map(String::as_str)),
        None => fault,
    }
}

fn plain(document: &Document, span: Span, key: &str, error: &ValidationError<'_>) -> Diagnostic {
    let text: String = error.to_string().chars().take(300).collect();
    let message = if key.is_empty() { text } else { format!("`{key}`: {text}") };
    document.diagnostic(span, "wrong_value", message)
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
