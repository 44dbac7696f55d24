//! Values that must never be stored or shown, and the one place that masks them.
//!
//! A [`Masker`] knows the engine's own credentials and a pipeline's secrets; whoever writes text that came from outside
//! (a command's output, a provider's error) to the journal, a log, a prompt or a screen passes it through first.
//! `source` is where secrets come from.

pub mod source;

use std::sync::{Arc, LazyLock, RwLock};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use regex::Regex;
use secrecy::{ExposeSecret as _, SecretString};

/// What stands where a secret stood.
pub const MASK: &str = "***";
/// Shorter values and lines are not masked: they would blank out ordinary words.
const SHORTEST: usize = 6;

/// Replaces known secret values, each of their lines, and their base64, URL and JSON forms. Clones share the values.
#[derive(Clone, Default)]
pub struct Masker {
    shared: Arc<RwLock<Known>>,
}

#[derive(Default)]
struct Known {
    forms: Vec<String>,
    automaton: Option<AhoCorasick>,
}

impl Masker {
    /// Adds a secret; texts masked from now on lose it.
    pub fn add(&self, secret: &SecretString) {
        let value = secret.expose_secret();
        let mut forms: Vec<String> = Vec::new();
        for part in std::iter::once(value).chain(value.lines()).map(str::trim) {
            if part.len() < SHORTEST {
                continue;
            }
            let json = serde_json::to_string(part).expect("text is JSON");
            forms.extend([
                part.to_owned(),
                json[1..json.len() - 1].to_owned(),
                base64::engine::general_purpose::STANDARD_NO_PAD.encode(part),
                base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(part),
                percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC).to_string(),
            ]);
        }
        let mut known = self.shared.write().expect("no holder of this lock can panic");
        known.forms.extend(forms);
        known.forms.sort_unstable();
        known.forms.dedup();
        known.automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&known.forms).ok();
    }

    /// The text without secrets.
    pub fn mask(&self, text: &str) -> String {
        let known = self.shared.read().expect("no holder of this lock can panic");
        match &known.automaton {
            None => text.to_owned(),
            Some(automaton) => {
                let mut out = String::with_capacity(text.len());
                automaton.replace_all_with(text, &mut out, |_, _, out| {
                    out.push_str(MASK);
                    true
                });
                out
            }
        }
    }

    /// Whether the text holds a secret.
    pub fn found_in(&self, text: &str) -> bool {
        let known = self.shared.read().expect("no holder of this lock can panic");
        known.automaton.as_ref().is_some_and(|automaton| automaton.is_match(text))
    }
}

/// What a line looks like, if it looks like a key that someone forgot: a guess by well-known forms, no proof either way.
pub fn looks_like_a_key(line: &str) -> Option<&'static str> {
    static FORMS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let forms = [
            (r"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----", "a private key"),
            (r"\b(ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{36}\b|\bgithub_pat_[A-Za-z0-9_]{60,}", "a GitHub token"),
            (r"\bglpat-[A-Za-z0-9_-]{20}", "a GitLab token"),
            (r"\b(AKIA|ASIA)[A-Z0-9]{16}\b", "an AWS key"),
            (r"\bAIza[A-Za-z0-9_-]{35}", "a Google key"),
            (r"\bsk-(ant|proj)-[A-Za-z0-9_-]{20,}", "a key of a model provider"),
            (r"\bxox[abprs]-[A-Za-z0-9-]{10,}", "a Slack token"),
            (r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}\b", "a Telegram token"),
        ];
        forms.map(|(form, name)| (Regex::new(form).expect("a fixed pattern"), name)).into()
    });
    FORMS.iter().find(|(form, _)| form.is_match(line)).map(|(_, name)| *name)
}

impl std::fmt::Debug for Masker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Masker")
    }
}

/// One line of foreign text without anything that could steer a terminal or reorder what is read: escape sequences,
/// control characters and bidirectional marks go, tabs become spaces.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => out.push_str("    "),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}' => {}
            char if char.is_control() => {}
            char => out.push(char),
        }
    }
    out
}

/// Skips what follows an ESC: a CSI sequence to its final byte, an OSC (or other string) to its terminator.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => while chars.next().is_some_and(|char| !('\u{40}'..='\u{7e}').contains(&char)) {},
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(char) = chars.next() {
                if char == '\u{7}' || (char == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_values_lines_and_encodings_go() {
        let masker = Masker::default();
        masker.add(&SecretString::from("first-line-öf-key\nsecond+line/of=key".to_owned()));
        let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode("second+line/of=key");
        for (given, wanted) in [
            ("a first-line-öf-key\nsecond+line/of=key b", "a *** b".to_owned()),
            ("only second+line/of=key", "only ***".to_owned()),
            (encoded.as_str(), MASK.to_owned()),
            ("second%2Bline%2Fof%3Dkey", MASK.to_owned()),
            ("nothing", "nothing".to_owned()),
        ] {
            assert_eq!(masker.mask(given), wanted);
        }
    }

    #[test]
    fn short_values_stay_so_that_text_stays_readable() {
        let masker = Masker::default();
        masker.add(&SecretString::from("abc".to_owned()));
        assert_eq!(masker.mask("abcdef"), "abcdef");
    }

    #[test]
    fn forgotten_keys_are_recognised_by_their_form() {
        let telegram = format!("bot = \"12345678:AA{}\"", "x".repeat(33));
        for line in ["-----BEGIN OPENSSH PRIVATE KEY-----", "k: AKIAABCDEFGHIJKLMNOP", &telegram] {
            assert!(looks_like_a_key(line).is_some(), "{line}");
        }
        for line in ["-----BEGIN PUBLIC KEY-----", "AKIA", "sk-ant", "let key = env(\"GITHUB_TOKEN\");"] {
            assert_eq!(looks_like_a_key(line), None, "{line}");
        }
    }

    #[test]
    fn foreign_text_cannot_steer_a_terminal() {
        assert_eq!(printable("\u{1b}[31mred\u{1b}[0m\ta\u{7}"), "red    a");
        assert_eq!(printable("\u{1b}]0;title\u{7}x\u{1b}]8;;url\u{1b}\\y"), "xy");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{9b}31m"), "abc31m");
        assert_eq!(printable("ñandú ✓"), "ñandú ✓");
    }
}
