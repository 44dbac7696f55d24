//! An event as programs read it: the lines of `run --json` and the data of server-sent events are the same.

use serde_json::{Map, Value, json};

use crate::core::event::Event;

/// An event as the contract's envelope: `event` first, then the run's id where it begins, `seq`, `at`, and the rest.
pub fn envelope(event: &Event) -> Value {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(event) else { unreachable!("an event is a JSON object") };
    let mut ordered = Map::new();
    for name in ["event", "task_id", "seq", "at", "step"] {
        if let Some(value) = fields.shift_remove(name) {
            ordered.insert(name.to_owned(), value);
        }
    }
    ordered.extend(fields);
    Value::Object(ordered)
}

/// What a stream ends with: the run's document.
pub fn result(document: &Value) -> Value {
    json!({"event": "result", "run": document})
}
