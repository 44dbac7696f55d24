//! JSON Schemas of pipelines and tasks, draft-07, for editors; the reader's own checks go further.

use serde_json::{Map, Value, json};

use crate::core::service::Service;
use crate::steps::{KINDS, TAKES_SECRETS};

const DRAFT: &str = "http://json-schema.org/draft-07/schema#";
const ID: &str = "^[A-Za-z_][A-Za-z0-9_-]{0,63}$";

fn duration() -> Value {
    json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "examples": ["90s", "30m", "2h"]})
}

/// Schemas of types stand on their own; inside another one their heading would mislead.
fn own_schema(schema: schemars::Schema) -> Value {
    let mut value = schema.to_value();
    let mut definitions = Value::Null;
    if let Some(object) = value.as_object_mut() {
        object.remove("$schema");
        object.remove("title");
        definitions = object.remove("$defs").unwrap_or_default();
    }
    inline(&mut value, &definitions);
    value
}

/// Puts definitions where they are referred to: references would point into the schema that this one becomes a part of.
fn inline(value: &mut Value, definitions: &Value) {
    match value {
        Value::Object(object) => {
            let named = object.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
            if let Some(definition) = named.map(|name| definitions[name].clone()) {
                object.remove("$ref");
                for (key, part) in definition.as_object().into_iter().flatten() {
                    object.entry(key).or_insert_with(|| part.clone());
                }
            }
            object.values_mut().for_each(|part| inline(part, definitions));
        }
        Value::Array(items) => items.iter_mut().for_each(|part| inline(part, definitions)),
        _ => {}
    }
}

/// The schema of a pipeline file.
pub fn pipeline_schema() -> Value {
    let mut schema = body();
    schema["$schema"] = json!(DRAFT);
    schema["title"] = json!("dev-orchestrator pipeline");
    schema
}

fn body() -> Value {
    let id = json!({"type": "string", "pattern": ID});
    let mut variants = Vec::new();
    for kind in KINDS {
        let own = own_schema((kind.schema)());
        let mut properties = common();
        if !TAKES_SECRETS.contains(&kind.name) {
            properties.shift_remove("secrets");
        }
        properties.insert("type".to_owned(), json!({"const": kind.name, "description": kind.summary}));
        for (name, property) in own["properties"].as_object().into_iter().flatten() {
            properties.insert(name.clone(), property.clone());
        }
        let mut required = vec![json!("type")];
        required.extend(own["required"].as_array().into_iter().flatten().cloned());
        let then = json!({"properties": properties, "required": required, "additionalProperties": false});
        variants
            .push(json!({"if": {"properties": {"type": {"const": kind.name}}, "required": ["type"]}, "then": then}));
    }
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    json!({
        "type": "object",
        "required": ["steps"],
        "additionalProperties": false,
        "properties": {
            "name": {"type": "string"},
            "description": {"type": "string"},
            "inputs": {"type": "object", "additionalProperties": {
                "type": "object", "additionalProperties": false,
                "properties": {
                    "type": {"enum": ["string", "number", "integer", "boolean"]},
                    "required": {"type": "boolean"}, "default": {}, "enum": {"type": "array"},
                    "description": {"type": "string"},
                },
            }},
            "limits": {
                "type": "object", "additionalProperties": false, "description": "what a run may spend",
                "properties": {
                    "usd": {"type": "number", "exclusiveMinimum": 0}, "tokens": {"type": "integer", "minimum": 1},
                    "wall": duration(),
                },
            },
            "steps": {"type": "object", "minProperties": 1, "propertyNames": id, "additionalProperties": {
                "type": "object", "required": ["type"], "properties": {"type": {"enum": names}}, "allOf": variants,
            }},
        },
    })
}

fn common() -> Map<String, Value> {
    let id = json!({"type": "string", "pattern": ID});
    let all = json!({
        "needs": {"description": "steps that come first", "anyOf": [id, {"type": "array", "items": id}]},
        "if": {"description": "a bare expression; false skips the step", "type": ["string", "boolean"]},
        "timeout": duration(),
        "retry": {"type": "object", "additionalProperties": false, "properties": {
            "attempts": {"type": "integer", "minimum": 1, "maximum": 100}, "delay": duration(),
            "backoff": {"type": "number", "minimum": 1, "maximum": 100}, "max_delay": duration(),
        }},
        "on_failure": {"anyOf": [{"const": "continue"}, {
            "type": "object", "required": ["rewind"], "additionalProperties": false,
            "properties": {"rewind": id, "rounds": {"type": "integer", "minimum": 1}},
        }]},
        "always": {"type": "boolean", "description": "runs after failures as well, for clean-up"},
        "env": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
        "network": {"type": "array", "items": {"type": "string"},
            "description": "domains that its commands may reach, instead of the repository's; [] is none"},
        "secrets": {"type": "array", "items": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}, "uniqueItems": true,
            "description": "names from devo.yaml's `secrets`; `shell` and `test` get them as variables"},
        "services": {"type": "object", "additionalProperties": own_schema(schemars::schema_for!(Service)),
            "propertyNames": {"pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
            "description": "containers beside its commands, by host name; they need a docker sandbox"},
        "description": {"type": "string"},
    });
    all.as_object().cloned().unwrap_or_default()
}

/// The schema of a task file.
pub fn task_schema() -> Value {
    json!({
        "$schema": DRAFT,
        "title": "dev-orchestrator task",
        "type": "object",
        "required": ["pipeline"],
        "additionalProperties": false,
        "properties": {
            "pipeline": {"description": "a name under pipelines/, or a pipeline itself", "anyOf": [{"type": "string"}, body()]},
            "repo": {"type": "string", "description": "a key of devo.yaml's repos"},
            "task": {"type": "string", "description": "what is asked for, in any language"},
            "inputs": {"type": ["object", "null"]},
            "key": {"type": "string", "description": "the same key twice is one run"},
            "notify": {"type": "array", "items": {"type": "string"}},
        },
    })
}
