//! Finds "... rest unchanged ..." where code should stand. Pure.

use std::sync::LazyLock;

use regex::Regex;

/// Longer lines are prose or data, not a placeholder.
const LONGEST: usize = 120;

/// A line of `new` that stands for code left out, unless the same line stands in `old`.
pub fn find_placeholder(new: &str, old: &str) -> Option<String> {
    static LEFT_OUT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)\b(rest|remaining|remainder|existing|previous|other|unchanged|same|omitted|snip(ped)?)\b")
            .expect("a fixed pattern")
    });
    static WHAT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?i)\b(rest|code|lines?|implementation|methods?|functions?|class(es)?|file|contents?|unchanged|tests?|imports?|logic|fields?|above|below|before|omitted|snip(ped)?|same)\b",
        )
        .expect("a fixed pattern")
    });
    static SENTENCE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?i)^(the )?(rest|remainder) of (the |this )?\w+( \w+){0,3} ((is|are|remains?|stays?) )?(unchanged|the same|as before|omitted|here)[.!]?$",
        )
        .expect("a fixed pattern")
    });
    new.lines().map(str::trim).filter(|line| !line.is_empty() && line.len() <= LONGEST).find_map(|line| {
        let words = bare(line);
        let dots = ["...", "…"];
        let dotted = dots.iter().any(|d| words.starts_with(d) || words.ends_with(d));
        let inner = words.trim_matches(|c: char| c == '.' || c == '…' || c.is_whitespace());
        let found = (dotted && LEFT_OUT.is_match(inner) && WHAT.is_match(inner) && inner.split_whitespace().count() <= 8)
            // A sentence without dots counts only in a comment.
            || (words != line && SENTENCE.is_match(inner));
        (found && !old.lines().any(|old| old.trim() == line)).then(|| line.to_owned())
    })
}

/// The line without comment marks and brackets around it.
fn bare(line: &str) -> &str {
    let starts = ["//", "/*", "{/*", "<!--", "--", "#", ";", "%", "*", "(", "[", "'", "\""];
    let ends = ["*/}", "*/", "-->", ")", "]", "'", "\""];
    let mut words = line;
    loop {
        let before = words;
        for start in starts {
            words = words.strip_prefix(start).unwrap_or(words).trim_start();
        }
        for end in ends {
            words = words.strip_suffix(end).unwrap_or(words).trim_end();
        }
        if words == before {
            return words;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_and_ordinary_lines_are_not() {
        for line in [
            "// ... rest unchanged ...",
            "# ... existing code ...",
            "    # ... (rest of the function unchanged)",
            "... rest of the file ...",
            "/* … other methods … */",
            "<!-- ... unchanged ... -->",
            "// The rest of the code remains the same.",
            "{/* ... rest of the code ... */}",
        ] {
            assert!(find_placeholder(&format!("a\n{line}\nb"), "a").is_some(), "{line}");
            assert!(find_placeholder(&format!("a\n{line}\nb"), &format!("x\n{line}\n")).is_none(), "{line}");
        }
        for line in [
            "let (first, ...rest) = args;",
            "foo(...args, other);",
            "const { a, ...rest } = code;",
            "print('...')",
            "# ...",
            "...",
            "// the other file is read before this one",
            "def test(self, ...): ...",
            "for the rest of the code see the manual",
            "raise NotImplementedError(...)",
        ] {
            assert!(find_placeholder(line, "").is_none(), "{line}");
        }
    }
}
