//! Values of single keys: each is what it should be, or a mistake with its place.

use super::Reader;
use crate::core::budget::Usd;
use crate::yaml::{Key, Kind, Node};

impl<'d> Reader<'d> {
    /// The entries of a mapping; anything else is a mistake.
    pub fn map(&mut self, node: &'d Node, what: &str) -> &'d [(Key, Node)] {
        if !matches!(node.kind, Kind::Map(_)) {
            self.fault(
                node.span.clone(),
                "wrong_type",
                format!("{what} must be a mapping, and this is {}", node.describe()),
            );
        }
        node.entries()
    }

    pub fn known_keys(&mut self, entries: &'d [(Key, Node)], known: &[&str], what: &str) {
        for (key, _) in entries {
            if !known.contains(&key.text.as_str()) {
                self.fault(key.span.clone(), "unknown_key", format!("{what} has no key `{}`", key.text));
                self.advise(|fault| fault.suggest(&key.text, known.iter().copied()));
            }
        }
    }

    pub fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        match &node.kind {
            Kind::Text(text) => Some(text.clone()),
            Kind::Map(entries) if looks_like_template(entries) => {
                self.fault(node.span.clone(), "unquoted_template", format!("{what} is a template without quotes"));
                self.advise(|fault| fault.help("YAML reads {{ … }} as a mapping: write \"{{ … }}\""));
                None
            }
            _ => {
                self.fault(
                    node.span.clone(),
                    "wrong_type",
                    format!("{what} must be text, and this is {}", node.describe()),
                );
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, node: &Node, what: &str) -> bool {
        match node.kind {
            Kind::Bool(value) => value,
            _ => {
                let message = format!("{what} must be true or false, and this is {}", node.describe());
                self.fault(node.span.clone(), "wrong_type", message);
                false
            }
        }
    }

    pub(in crate::pipeline) fn whole(&mut self, node: &Node, what: &str, least: u64) -> Option<u64> {
        let number = match &node.kind {
            Kind::Number(number) => number.as_u64(),
            _ => None,
        };
        let fits = number.filter(|number| *number >= least);
        if fits.is_none() {
            self.fault(node.span.clone(), "bad_number", format!("{what} must be a whole number of at least {least}"));
        }
        fits
    }

    pub(super) fn dollars(&mut self, node: &Node, what: &str) -> Option<Usd> {
        let number = match &node.kind {
            Kind::Number(number) => number.as_f64().filter(|number| *number > 0.0 && *number <= 1e6),
            _ => None,
        };
        if number.is_none() {
            self.fault(node.span.clone(), "impossible_limit", format!("{what} must be a number of dollars above 0"));
        }
        number.map(Usd::from_dollars)
    }

    pub(super) fn duration(&mut self, node: &Node, what: &str) -> Option<u64> {
        let parsed = node.as_str().and_then(parse_duration);
        if parsed.is_none() {
            self.fault(node.span.clone(), "bad_duration", format!("{what} must be a duration above 0"));
            self.advise(|fault| fault.help("like `500ms`, `90s`, `30m`, `2h` or `1d`"));
        }
        parsed
    }
}

pub(super) fn looks_like_template(entries: &[(Key, Node)]) -> bool {
    matches!(entries, [(key, value)] if key.text.is_empty() && value.kind == Kind::Null)
}

/// `500ms`, `90s`, `30m`, `2h`, `1d`: milliseconds, above 0 and at most 30 days.
pub(crate) fn parse_duration(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let (factor, number) = UNITS.iter().find_map(|(unit, factor)| Some((factor, text.strip_suffix(unit)?)))?;
    let number: u64 = number.parse().ok()?;
    number.checked_mul(*factor).filter(|ms| (1..=30 * 86_400_000).contains(ms))
}
