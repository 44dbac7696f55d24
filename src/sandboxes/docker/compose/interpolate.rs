//! `${NAME}` in a compose file, for an environment in which nothing is set: the engine's own is nobody's business.

use serde_json::{Map, Value};

use super::super::unfit::{At, Findings, shown};

/// The deepest nesting of defaults in defaults.
const DEPTH_MAX: usize = 8;

/// Replaces variables in every text, keys apart.
pub(super) fn interpolate(found: &mut Findings, at: &At, value: &Value) -> Value {
    match value {
        Value::String(text) if text.contains('$') => match replaced(text, 0, found) {
            Ok(text) => Value::String(text),
            Err(why) => {
                found.refuse(at, why, "write the value into the file, or a default: `${NAME:-value}`");
                Value::String(String::new())
            }
        },
        Value::Array(items) => {
            Value::Array(items.iter().enumerate().map(|(n, item)| interpolate(found, &at.index(n), item)).collect())
        }
        Value::Object(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, value)| (key.clone(), interpolate(found, &at.key(key), value)))
                .collect::<Map<_, _>>(),
        ),
        value => value.clone(),
    }
}

/// The text with its variables replaced.
pub(super) fn replaced(text: &str, depth: usize, found: &mut Findings) -> Result<String, String> {
    if depth > DEPTH_MAX {
        return Err("has defaults in defaults too deep".to_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after).ok_or_else(|| format!("`{}` has a `${{` without `}}`", shown(text)))?;
            out.push_str(&braced(&after[..end], depth, found)?);
            rest = &after[end + 1..];
        } else {
            let name = name_of(rest);
            if name.is_empty() {
                return Err(format!("`{}` has a `$` before no name (`$$` is a dollar)", shown(text)));
            }
            unset(name, found);
            rest = &rest[name.len()..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// What stands between the braces.
fn braced(inner: &str, depth: usize, found: &mut Findings) -> Result<String, String> {
    let name = name_of(inner);
    let rest = &inner[name.len()..];
    if name.is_empty() {
        return Err(format!("`${{{}}}` names no variable", shown(inner)));
    }
    let (operator, word) =
        rest.split_at(rest.find(|char| !matches!(char, ':' | '-' | '?' | '+')).unwrap_or(rest.len()));
    // `:-` and the like are one or two characters; what follows belongs to the word (`${A:--1}`).
    let cut = if operator.starts_with(':') { operator.len().min(2) } else { operator.len().min(1) };
    let word = format!("{}{word}", &operator[cut..]);
    match &operator[..cut] {
        "" if word.is_empty() => {
            unset(name, found);
            Ok(String::new())
        }
        ":-" | "-" => replaced(&word, depth + 1, found),
        ":+" | "+" => Ok(String::new()),
        ":?" | "?" => Err(format!("needs the variable `{name}` of the environment, which is never given to it")),
        _ => Err(format!("`${{{}}}` is not understood", shown(inner))),
    }
}

/// Where the brace closes that was opened just before.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'$' if bytes.peek().is_some_and(|(_, next)| *next == b'{') => depth += 1,
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn name_of(text: &str) -> &str {
    let end = text.find(|char: char| !(char.is_ascii_alphanumeric() || char == '_')).unwrap_or(text.len());
    if text.starts_with(|first: char| first.is_ascii_digit()) { "" } else { &text[..end] }
}

fn unset(name: &str, found: &mut Findings) {
    found.say(format!("`${{{}}}` is empty: the environment is not read", shown(name)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_defaults_have_values() {
        for (text, wanted) in [
            ("a", Some("a")),
            ("${A}", Some("")),
            ("x$A.y", Some("x.y")),
            ("${A:-b}", Some("b")),
            ("${A-b}", Some("b")),
            ("${A:-}", Some("")),
            ("${A:--1}", Some("-1")),
            ("${A:-${B:-c}}d", Some("cd")),
            ("${A:+b}", Some("")),
            ("$$A", Some("$A")),
            ("postgres:${V:-17}-alpine", Some("postgres:17-alpine")),
            ("http://${H:-db}:5432/x", Some("http://db:5432/x")),
            ("${A:?no}", None),
            ("${A?}", None),
            ("${A", None),
            ("${}", None),
            ("${1}", None),
            ("$", None),
            ("$ x", None),
            ("${A!b}", None),
            ("${PATH}", Some("")),
        ] {
            assert_eq!(replaced(text, 0, &mut Findings::default()).ok().as_deref(), wanted, "{text}");
        }
        let deep = "${A:-".repeat(1000) + &"}".repeat(1000);
        assert!(replaced(&deep, 0, &mut Findings::default()).is_err());
    }
}
