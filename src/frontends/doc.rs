//! Reads values out of a run's document, for every way of showing one. It does not know how they are shown.

use serde_json::Value;

use super::plain::line;
use crate::core::plan::PlanRecord;
use crate::core::time::Timestamp;

/// The longest title, in UTF-16 units.
const TITLE_MAX: usize = 160;

/// A text of a document by its JSON pointer; empty where there is none.
pub fn word<'d>(doc: &'d Value, pointer: &str) -> &'d str {
    doc.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number of a document; 0 where there is none.
pub fn number(doc: &Value, pointer: &str) -> u64 {
    doc.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// A time of a document.
pub fn time(doc: &Value, pointer: &str) -> Option<Timestamp> {
    serde_json::from_value(doc.pointer(pointer)?.clone()).ok()
}

/// The plan of a document.
pub fn plan_of(doc: &Value) -> Option<PlanRecord> {
    serde_json::from_value(doc.get("plan")?.clone()).ok()
}

/// What kind of word a run waits for.
pub fn waits_for(doc: &Value) -> Option<&str> {
    doc.pointer("/waiting_for/kind").and_then(Value::as_str)
}

/// What a run is called: its plan's title, else the first line of its task, else its pipeline.
pub fn title(doc: &Value) -> String {
    let names = ["/plan/title", "/task", "/pipeline"].map(|pointer| line(word(doc, pointer), TITLE_MAX));
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
}

/// The step that a run failed by, of its document; `None` where it failed by something else, or did not.
pub fn failed_step(doc: &Value) -> Option<&Value> {
    let id = doc["error"]["step"].as_str()?;
    doc["steps"].as_array()?.iter().find(|step| step["id"] == id)
}

/// Why a run failed: its step's error, or its own.
pub fn error_of(doc: &Value) -> &Value {
    failed_step(doc).map(|step| &step["error"]).filter(|error| error.is_object()).unwrap_or(&doc["error"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_is_called_by_the_first_name_that_says_something() {
        let doc = json!({"plan": {"title": " \n"}, "task": "Mend it\nsoon", "pipeline": "dev-task"});
        assert_eq!(title(&doc), "Mend it");
        assert_eq!(title(&json!({"plan": {"title": "A plan"}, "task": "t"})), "A plan");
        assert_eq!(title(&json!({"plan": null, "task": "", "pipeline": "dev-task"})), "dev-task");
        assert_eq!(title(&json!({"task": 3})), "");
    }

    #[test]
    fn what_is_not_there_or_of_another_kind_is_nothing() {
        let doc = json!({"a": {"b": "text", "n": 7}, "at": "2025-11-24T16:00:00.000Z"});
        assert_eq!((word(&doc, "/a/b"), word(&doc, "/a/n"), word(&doc, "/x/y")), ("text", "", ""));
        assert_eq!((number(&doc, "/a/n"), number(&doc, "/a/b")), (7, 0));
        assert!(time(&doc, "/at").is_some() && time(&doc, "/a/b").is_none());
        assert!(plan_of(&json!({"plan": null})).is_none());
        assert_eq!(waits_for(&json!({"waiting_for": {"kind": "approval"}})), Some("approval"));
        assert_eq!(waits_for(&json!({"waiting_for": null})), None);
    }
}
