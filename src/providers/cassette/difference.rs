//! How a request differs from the nearest one of a recording, for a person. Decides nothing.

use std::time::Duration;

use serde_json::Value;
use similar::TextDiff;

use super::{Cassette, lock};
use crate::providers::normalise;

/// The longest explanation, in bytes.
const LONGEST: usize = 3000;
/// Longer lines are broken before they are compared, so that a change in one is found within it.
const LINE_MAX: usize = 160;

/// Names the nearest recorded request, the first place where the two differ, and how.
pub(super) fn explain(cassette: &Cassette, label: &str, provider: &str, now: &Value) -> String {
    let head = format!("the recording {} has no such request ({label}, {provider})", cassette.path.display());
    let now = leaves(now);
    let asked = lock(&cassette.asked).clone();
    let candidates = cassette.entries.iter().filter(|(_, _, entry)| entry.provider == provider);
    let nearest = candidates.map(|(line, key, entry)| {
        let then = leaves(&entry.request);
        let prefix = then.iter().zip(&now).take_while(|(a, b)| a == b).count();
        let fresh = !asked.contains_key(key);
        ((prefix, common(&then, &now), fresh), line, entry, then)
    });
    // The first of equals: `max_by_key` would take the last.
    let Some((_, line, entry, then)) = nearest.reduce(|best, next| if next.0 > best.0 { next } else { best }) else {
        return format!("{head}, nor any other call to {provider}");
    };
    let Some((place, recorded, asked)) = first_difference(&then, &now) else {
        return head;
    };
    let others = then.len().max(now.len()) - common(&then, &now).min(then.len().max(now.len()));
    let mut text =
        format!("{head}\nthe nearest is on line {line} ({}); the first difference is at {place}\n", entry.label);
    text.push_str(&differ(recorded, asked));
    if others > 1 {
        text.push_str(&format!("and about {} more places differ\n", others - 1));
    }
    cut(text.trim_end(), LONGEST)
}

/// The texts and numbers of a request with their places, in one order.
fn leaves(request: &Value) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let body = normalise::value(&request["body"]);
    walk(&body, String::new(), &mut out);
    out.push(("path".into(), request["path"].as_str().unwrap_or_default().to_owned()));
    out
}

fn walk(value: &Value, place: String, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let dot = if place.is_empty() { "" } else { "." };
                walk(value, format!("{place}{dot}{name}"), out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, value) in items.iter().enumerate() {
                walk(value, format!("{place}[{at}]"), out);
            }
        }
        Value::String(text) => out.push((place, text.clone())),
        other => out.push((place, other.to_string())),
    }
}

fn common(a: &[(String, String)], b: &[(String, String)]) -> usize {
    let known: std::collections::HashSet<_> = a.iter().collect();
    b.iter().filter(|leaf| known.contains(leaf)).count()
}

/// The first place where the two differ, with both texts; `None` stands for a place that one of them lacks.
fn first_difference<'a>(
    then: &'a [(String, String)],
    now: &'a [(String, String)],
) -> Option<(&'a str, Option<&'a str>, Option<&'a str>)> {
    let at = then.iter().zip(now).position(|(a, b)| a != b).unwrap_or(then.len().min(now.len()));
    match (then.get(at), now.get(at)) {
        (Some((place, a)), Some((other, b))) if place == other => Some((place, Some(a), Some(b))),
        // One of them has something in between that the other has not.
        (then_leaf, Some((place, text))) if then.iter().all(|(known, _)| known != place) || then_leaf.is_none() => {
            Some((place, None, Some(text)))
        }
        (Some((place, text)), _) => Some((place, Some(text), None)),
        (None, Some((place, text))) => Some((place, None, Some(text))),
        (None, None) => None,
    }
}

fn differ(recorded: Option<&str>, now: Option<&str>) -> String {
    let (old, new) = (wrap(recorded.unwrap_or_default()), wrap(now.unwrap_or_default()));
    let diff = TextDiff::configure().timeout(Duration::from_millis(500)).diff_lines(old.as_str(), new.as_str());
    let name = |there: Option<&str>, word: &str| match there {
        Some(_) => word.to_owned(),
        None => format!("{word}: nothing there"),
    };
    let mut text = diff
        .unified_diff()
        .context_radius(2)
        .missing_newline_hint(false)
        .header(&name(recorded, "recorded"), &name(now, "now"))
        .to_string();
    if text.len() > LONGEST - 600 {
        text = cut(&text, LONGEST - 600);
        text.push('\n');
    }
    text
}

/// Long lines in pieces.
fn wrap(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / LINE_MAX + 1);
    for line in text.lines() {
        let mut width = 0;
        for c in line.chars() {
            if width == LINE_MAX {
                out.push('\n');
                width = 0;
            }
            out.push(c);
            width += 1;
        }
        out.push('\n');
    }
    out
}

fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}\n[cut]", &text[..end])
}
