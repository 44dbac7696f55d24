//! Server-sent events of a whole body, as the JSON of their `data` fields. Knows no provider.

use serde_json::Value;

/// One event: its JSON, or the word with which some servers end a stream.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// The JSON of the event's data.
    Json(Value),
    /// `[DONE]`.
    Done,
}

/// A data field that is not JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotJson;

/// Whether a body is an event stream (some gateways forget the content type).
pub(super) fn is_stream(content_type: Option<&str>, body: &str) -> bool {
    let start = body.trim_start_matches(['\u{feff}', '\r', '\n']);
    content_type.is_some_and(|kind| kind.trim_start().starts_with("text/event-stream"))
        || ["data:", "event:", "id:", ":"].iter().any(|field| start.starts_with(field))
}

/// The events of a body. An event that the end of the body cuts is dropped: what it would have ended has no end.
pub(super) fn events(body: &str) -> Result<Vec<Event>, NotJson> {
    let mut events = Vec::new();
    let mut data: Option<String> = None;
    for line in lines(body.trim_start_matches('\u{feff}')) {
        if line.is_empty() {
            match data.take() {
                Some(text) if text.trim() == "[DONE]" => events.push(Event::Done),
                Some(text) => events.push(Event::Json(serde_json::from_str(&text).map_err(|_| NotJson)?)),
                None => {}
            }
        } else if let Some(value) = line.strip_prefix("data:") {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut data {
                Some(text) => {
                    text.push('\n');
                    text.push_str(value);
                }
                None => data = Some(value.to_owned()),
            }
        }
    }
    // A last event without its empty line still counts if it is whole.
    if let Some(text) = data {
        if text.trim() == "[DONE]" {
            events.push(Event::Done);
        } else if let Ok(value) = serde_json::from_str(&text) {
            events.push(Event::Json(value));
        }
    }
    Ok(events)
}

/// The lines, ended by LF, CRLF or CR.
fn lines(body: &str) -> impl Iterator<Item = &str> {
    body.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_line_ends_comments_and_split_data() {
        let body = ": hello\r\nevent: a\r\ndata: {\"x\":\r\ndata: 1}\r\n\r\nid: 7\rdata:{\"y\":2}\r\rdata: [DONE]\n\n";
        let wanted = vec![Event::Json(json!({"x": 1})), Event::Json(json!({"y": 2})), Event::Done];
        assert_eq!(events(body).unwrap(), wanted);
        assert!(is_stream(None, body));
    }

    #[test]
    fn a_cut_event_is_dropped_and_a_broken_one_is_an_error() {
        assert_eq!(events("data: {\"x\":1}\n\ndata: {\"y\"").unwrap(), vec![Event::Json(json!({"x": 1}))]);
        assert_eq!(events("data: {\"x\"\n\ndata: {}\n\n").unwrap_err(), NotJson);
        assert!(!is_stream(Some("application/json"), "{\"data:\":1}"));
    }
}
