//! Values of a compose file: variables, durations, sizes, files of variables.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::unfit::{At, Findings, shown};
use super::interpolate::replaced;

/// Variables: a mapping, or a list of `NAME=value`. One without a value would come from the environment.
pub(super) fn variables(found: &mut Findings, at: &At, value: &Value) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                if value.is_null() {
                    unset(found, name);
                } else if let Some(value) = found.text(&at.key(name), value) {
                    add(found, at, &mut out, name, value);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let at = at.index(index);
                let Some(text) = found.text(&at, item) else { continue };
                match text.split_once('=') {
                    Some((name, value)) => add(found, &at, &mut out, name, value.to_owned()),
                    None => unset(found, &text),
                }
            }
        }
        _ => found.refuse(at, "must be a mapping or a list", "write `{NAME: value}` or `[NAME=value]`"),
    }
    out
}

fn add(found: &mut Findings, at: &At, out: &mut BTreeMap<String, String>, name: &str, value: String) {
    if is_variable(name) {
        out.insert(name.to_owned(), value);
    } else {
        found.refuse(at, format!("has `{}`, which names no variable", shown(name)), "write `NAME: value`");
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !name.contains(char::is_whitespace)
}

fn unset(found: &mut Findings, name: &str) {
    found.say(format!("the variable `{}` has no value: the environment is not read", shown(name)));
}

/// A file of variables.
pub(super) fn env_file(found: &mut Findings, at: &At, text: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            unset(found, line);
            continue;
        };
        match quoted(value.trim(), found) {
            Ok(value) => add(found, at, &mut out, name.trim(), value),
            Err(why) => found.refuse(at, format!("`{}` {why}", shown(name)), "quote it with ' to have it as it is"),
        }
    }
    out
}

fn quoted(value: &str, found: &mut Findings) -> Result<String, String> {
    if let Some(rest) = value.strip_prefix('\'') {
        let (value, _) = rest.split_once('\'').ok_or("has a quote that is not closed")?;
        return Ok(value.to_owned());
    }
    if let Some(rest) = value.strip_prefix('"') {
        let mut out = String::new();
        let mut chars = rest.chars();
        loop {
            match chars.next().ok_or("has a quote that is not closed")? {
                '"' => return replaced(&out, 0, found),
                '\\' => match chars.next().ok_or("has a quote that is not closed")? {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    '$' => out.push_str("$$"),
                    other => out.push(other),
                },
                other => out.push(other),
            }
        }
    }
    let end = value.find(" #").unwrap_or(value.len());
    replaced(value[..end].trim_end(), 0, found)
}

/// A duration in whole seconds, rounded up: `1m30s`, `500ms`, or a number of seconds.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let mut total = 0.0_f64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|char: char| !(char.is_ascii_digit() || char == '.')).unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|char: char| char.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" | "" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    // A day is more than anything waits here; the cast is then exact.
    (total.is_finite() && total <= 86_400.0).then(|| total.ceil() as u64)
}

/// A size in bytes: `64m`, `1gb`, `512`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let shift = match &text[end..] {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        for (text, wanted) in [
            ("10s", Some(10)),
            ("1m30s", Some(90)),
            ("500ms", Some(1)),
            ("1.5s", Some(2)),
            ("5", Some(5)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1y", None),
            ("999999999h", None),
        ] {
            assert_eq!(seconds(text), wanted, "{text}");
        }
        for (text, wanted) in
            [("64m", Some(64 << 20)), ("1GB", Some(1 << 30)), ("7", Some(7)), ("0", None), ("m", None), ("1x", None)]
        {
            assert_eq!(bytes(text), wanted, "{text}");
        }
        assert_eq!(bytes("99999999999999999999g"), None);
        assert_eq!(bytes("99999999999999999g"), None);
    }

    #[test]
    fn files_of_variables() {
        let text = "# c\nA=1\nexport B = two # said\nC='$x'\nD=\"a\\n\\$b${Z:-c}\"\nE\nF=a#b\n";
        let mut found = Findings::default();
        let read = env_file(&mut found, &At::default(), text);
        let wanted = [("A", "1"), ("B", "two"), ("C", "$x"), ("D", "a\n$bc"), ("F", "a#b")];
        assert_eq!(read, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(found.close("f").unwrap(), ["the variable `E` has no value: the environment is not read"]);
        for text in ["A='x", "A=\"x", "=x", "A B=x", "A=${X?}"] {
            let mut found = Findings::default();
            env_file(&mut found, &At::default(), text);
            assert!(found.close("f").is_err(), "{text}");
        }
    }
}
