//! What varies by nature, and is made equal before a request is compared with a recording: [`RULES`] and [`FIELDS`] are
//! the whole list. Knows no provider and no file.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// A pattern in texts, and what is compared in its place.
#[derive(Debug)]
pub struct Rule {
    /// What it is, for a person.
    pub what: &'static str,
    /// The pattern.
    pub pattern: &'static str,
    /// What stands for it; `$1` is the pattern's group.
    pub stands: &'static str,
}

/// Applied to every text of a request, in this order.
pub const RULES: &[Rule] = &[
    Rule {
        what: "the folder of a run, wherever the home is",
        pattern: r#"(?:/[^\s/"'`:]+)*/runs/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"#,
        stands: "<run>",
    },
    Rule {
        what: "ids of runs and other UUIDs",
        pattern: r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b",
        stands: "<uuid>",
    },
    Rule { what: "the short id in a task branch", pattern: r"\btask/[0-9a-f]{8}-", stands: "task/<id>-" },
    Rule {
        what: "instants (RFC 3339)",
        pattern: r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?",
        stands: "<time>",
    },
    Rule { what: "hashes (SHA-256)", pattern: r"\b[0-9a-f]{64}\b", stands: "<sha256>" },
    Rule { what: "commits and other git objects", pattern: r"\b[0-9a-f]{40}\b", stands: "<sha>" },
    Rule { what: "the hash in the name of a build product", pattern: r"-[0-9a-f]{16}\b", stands: "-<hash>" },
    Rule {
        what: "temporary folders",
        pattern: r#"(?:/private)?(?:/var/folders/[^\s/"'`:]+/[^\s/"'`:]+/T|/var/tmp|/tmp)/[^\s/"'`:,)\]]+"#,
        stands: "<tmp>",
    },
    Rule {
        what: "ports on this machine",
        pattern: r"\b(127\.0\.0\.1|localhost|\[::1\]):\d{1,5}\b",
        stands: "$1:<port>",
    },
    Rule { what: "threads in a panic", pattern: r"(thread '[^'\n]*') \(\d+\)", stands: "$1 (<thread>)" },
    Rule { what: "addresses in memory", pattern: r"\b0x[0-9a-f]{8,16}\b", stands: "<address>" },
    Rule { what: "durations of node's test reports", pattern: r"\bduration_ms:? \d+(?:\.\d+)?", stands: "<duration>" },
    Rule {
        what: "durations",
        pattern: r"\b\d+(?:\.\d+)?(?:\s?(?:ns|µs|us|ms|secs?|seconds?)|s|\ss)\b",
        stands: "<duration>",
    },
];

/// Fields whose number depends on what is left of a budget, not on the conversation: compared as 0.
pub const FIELDS: &[&str] = &["max_tokens", "max_completion_tokens", "maxOutputTokens", "budget_tokens"];

static PATTERNS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    let compile = |rule: &Rule| (Regex::new(rule.pattern).expect("a test compiles every rule"), rule.stands);
    RULES.iter().map(compile).collect()
});

/// A text with its varying parts made equal. Doing it twice changes nothing more.
pub fn text(text: &str) -> String {
    let mut out = text.to_owned();
    for (pattern, stands) in PATTERNS.iter() {
        if let std::borrow::Cow::Owned(changed) = pattern.replace_all(&out, *stands) {
            out = changed;
        }
    }
    out
}

/// A JSON value in canonical form: keys sorted, texts normalised, [`FIELDS`] zero.
pub fn value(from: &Value) -> Value {
    match from {
        Value::String(said) => Value::String(text(said)),
        Value::Array(items) => items.iter().map(value).collect(),
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            let mut out = Map::new();
            for name in names {
                let field = &fields[name];
                let zero = FIELDS.contains(&name.as_str()) && field.is_number();
                out.insert(name.clone(), if zero { 0.into() } else { value(field) });
            }
            Value::Object(out)
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_rule_takes_what_it_is_for_and_no_more() {
        let run = "0193b2c0-7e1f-7abc-8def-0123456789ab";
        let sha = "0123456789abcdef0123456789abcdef01234567";
        for (given, wanted) in [
            (format!("in /home/u/h/runs/{run}/workspace/a.py:3"), "in <run>/workspace/a.py:3".to_owned()),
            (format!("run {run}."), "run <uuid>.".into()),
            ("on task/0a1b2c3d-validar-stock".into(), "on task/<id>-validar-stock".into()),
            ("at 2026-11-22T10:00:00.123Z ok".into(), "at <time> ok".into()),
            (format!("base {sha}, sha256:{sha}{}", &sha[..24]), "base <sha>, sha256:<sha256>".into()),
            (
                "Running target/debug/deps/sales-0123456789abcdef".into(),
                "Running target/debug/deps/sales-<hash>".into(),
            ),
            ("/tmp/.tmpAb1/x.py and /private/var/folders/a/b/T/c/d".into(), "<tmp>/x.py and <tmp>/d".into()),
            ("http://127.0.0.1:43123/x localhost:80".into(), "http://127.0.0.1:<port>/x localhost:<port>".into()),
            ("thread 'a::b' (12345) panicked".into(), "thread 'a::b' (<thread>) panicked".into()),
            ("<A object at 0x7f1234567890>".into(), "<A object at <address>>".into()),
            ("1 passed in 0.12s; finished in 0.00s; took 12 ms".into(), {
                "1 passed in <duration>; finished in <duration>; took <duration>".into()
            }),
            ("Ran 3 tests in 1.5 seconds\n# duration_ms 4.2".into(), {
                "Ran 3 tests in <duration>\n# <duration>".into()
            }),
            ("3 passed, 12 items, line 40, 5 stocks, v1.2.3, 0x10".into(), {
                "3 passed, 12 items, line 40, 5 stocks, v1.2.3, 0x10".into()
            }),
        ] {
            assert_eq!(text(&given), wanted);
            assert_eq!(text(&wanted), wanted, "twice");
        }
    }

    #[test]
    fn order_of_keys_and_room_for_the_reply_do_not_count() {
        let a = json!({"b": "in 1s", "a": [1], "max_tokens": 9});
        let b = json!({"max_tokens": 7, "a": [1], "b": "in 2s"});
        assert_eq!(value(&a).to_string(), value(&b).to_string());
        assert_ne!(value(&a), value(&json!({"b": "in 1s", "a": [2], "max_tokens": 9})));
    }
}
