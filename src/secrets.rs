//! Values that must never be stored or shown, and the one place that masks them.
//!
//! A [`Masker`] knows the engine's own credentials and a pipeline's secrets; whoever writes text that came from outside
//! (a command's output, a provider's error) to the journal, a log, a prompt or a screen passes it through first.
//! `source` is where secrets come from.

pub mod source;

use std::ops::Range;
use std::sync::{Arc, LazyLock, RwLock};

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use regex::Regex;
use secrecy::{ExposeSecret as _, SecretString};

/// What stands where a secret stood.
pub const MASK: &str = "***";
/// Shorter values and lines are not masked: they would blank out ordinary words.
const SHORTEST: usize = 6;

/// Replaces known secret values, each of their lines, and their base64, URL and JSON forms, also where line breaks stand
/// within one. Clones share the values.
#[derive(Clone, Default)]
pub struct Masker {
    shared: Arc<RwLock<Known>>,
}

#[derive(Default)]
struct Known {
    /// Sorted; without line breaks.
    forms: Vec<Vec<u8>>,
    /// The same backwards, sorted.
    backwards: Vec<Vec<u8>>,
    longest: usize,
    automaton: Option<AhoCorasick>,
}

/// Whether a secret could be told apart from ordinary words and masked.
pub fn maskable(secret: &SecretString) -> bool {
    secret.expose_secret().trim().len() >= SHORTEST
}

/// Everything that a value may look like.
fn forms_of(part: &str) -> Vec<String> {
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    /// What forms leave as it is, and what RFC 3986 does.
    const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');
    const UNRESERVED: &AsciiSet = &FORM.remove(b'~');
    let json = serde_json::to_string(part).expect("text is JSON");
    let mut forms = vec![
        part.to_owned(),
        json[1..json.len() - 1].to_owned(),
        STANDARD_NO_PAD.encode(part),
        URL_SAFE_NO_PAD.encode(part),
    ];
    forms.extend([NON_ALPHANUMERIC, FORM, UNRESERVED].map(|kept| utf8_percent_encode(part, kept).to_string()));
    // In the middle of something encoded (`user:TOKEN`) the value begins at another bit: what depends on it alone.
    for before in 0..3 {
        let text = [&[0; 3][..before], part.as_bytes()].concat();
        let (first, last) = ((before * 8).div_ceil(6), text.len() * 8 / 6);
        forms.extend(
            [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)].map(|all| all[first..last].to_owned()),
        );
    }
    forms
}

impl Masker {
    /// Adds a secret; texts masked from now on lose it.
    pub fn add(&self, secret: &SecretString) {
        let value = secret.expose_secret();
        let parts = std::iter::once(value).chain(value.lines()).map(str::trim).filter(|part| part.len() >= SHORTEST);
        // With its line breaks encoded, and as the lines follow one another.
        let forms = parts.flat_map(|part| forms_of(part).into_iter().chain(forms_of(&without_breaks(part))));
        let forms: Vec<Vec<u8>> = forms.map(|form| without_breaks(&form).into_bytes()).collect();
        let mut known = self.shared.write().expect("no holder of this lock can panic");
        known.forms.extend(forms);
        known.forms.sort_unstable();
        known.forms.dedup();
        known.backwards = known.forms.iter().map(|form| form.iter().rev().copied().collect()).collect();
        known.backwards.sort_unstable();
        known.longest = known.forms.iter().map(Vec::len).max().unwrap_or(0);
        known.automaton = AhoCorasick::new(&known.forms).ok();
    }

    /// The text without secrets.
    pub fn mask(&self, text: &str) -> String {
        self.mask_part(text, false, false)
    }

    /// The text without secrets, where something may have been cut off before or after it: a piece of a secret at that end
    /// goes as well.
    pub fn mask_part(&self, text: &str, cut_before: bool, cut_after: bool) -> String {
        let known = self.shared.read().expect("no holder of this lock can panic");
        if known.automaton.is_none() {
            return text.to_owned();
        }
        let shown = without_breaks(text);
        let mut ranges = known.found(shown.as_bytes());
        if cut_before {
            ranges.extend(known.end_of_one(shown.as_bytes()).map(|end| 0..end));
        }
        if cut_after {
            ranges.extend(known.begun(shown.as_bytes()).map(|start| start..shown.len()));
        }
        cover(text, &merged(ranges))
    }

    /// Whether the text holds a secret.
    pub fn found_in(&self, text: &str) -> bool {
        let known = self.shared.read().expect("no holder of this lock can panic");
        known.automaton.as_ref().is_some_and(|automaton| automaton.is_match(&without_breaks(text)))
    }
}

impl Known {
    /// Where secrets stand; they may overlap.
    fn found(&self, shown: &[u8]) -> Vec<Range<usize>> {
        let found = self.automaton.iter().flat_map(|automaton| automaton.find_overlapping_iter(shown));
        found.map(|found| found.range()).collect()
    }

    /// Where the longest beginning of a secret stands that reaches to the end of the text and could go on. One that is
    /// shorter than what is masked at all does not count.
    fn begun(&self, shown: &[u8]) -> Option<usize> {
        let first = shown.len().saturating_sub(self.longest.saturating_sub(1));
        let last = (shown.len() + 1).saturating_sub(SHORTEST);
        (first..last).find(|at| begins_one(&self.forms, &shown[*at..]))
    }

    /// Where the longest end of a secret ends that the text begins with.
    fn end_of_one(&self, shown: &[u8]) -> Option<usize> {
        let most = shown.len().min(self.longest.saturating_sub(1));
        let backwards: Vec<u8> = shown[..most].iter().rev().copied().collect();
        (0..(most + 1).saturating_sub(SHORTEST))
            .find(|skipped| begins_one(&self.backwards, &backwards[*skipped..]))
            .map(|skipped| most - skipped)
    }
}

/// Whether one of the sorted words begins with this and goes on.
fn begins_one(words: &[Vec<u8>], beginning: &[u8]) -> bool {
    let at = words.partition_point(|word| word.as_slice() <= beginning);
    words.get(at).is_some_and(|word| word.starts_with(beginning))
}

/// Line breaks do not hide a secret: programs wrap what they print.
fn without_breaks(text: &str) -> String {
    text.chars().filter(|char| !is_break(*char)).collect()
}

fn is_break(char: char) -> bool {
    matches!(char, '\n' | '\r')
}

/// Sorted, and joined where they touch.
fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

/// The text with a mask over each range, which are places in the text without its line breaks.
fn cover(text: &str, ranges: &[Range<usize>]) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut ranges, mut at) = (ranges.iter().peekable(), 0);
    for char in text.chars() {
        while ranges.next_if(|range| range.end <= at).is_some() {}
        let covering = ranges.peek().filter(|range| range.start <= at);
        let wide = if is_break(char) { 0 } else { char.len_utf8() };
        match covering {
            // A break just before a secret stays; one within goes.
            Some(range) if wide == 0 && range.start == at => out.push(char),
            Some(range) if wide > 0 && range.start == at => out.push_str(MASK),
            Some(_) => {}
            None => out.push(char),
        }
        at += wide;
    }
    out
}

/// Masks a text that comes line by line: a line is held back while it may be the beginning of a secret that the next one
/// goes on with. Lines may also be pieces of a longer one.
pub struct LineMasker {
    masker: Masker,
    /// The end of what was let go, from the first of `starts` on: a secret may have begun there with fewer characters than
    /// are masked at all.
    before: String,
    held: Vec<String>,
    /// Where, in `before` and what is held, a secret may have begun that is not whole yet.
    starts: Vec<usize>,
}

impl LineMasker {
    /// With what the masker knows, and what it will learn.
    pub fn new(masker: &Masker) -> Self {
        Self { masker: masker.clone(), before: String::new(), held: Vec::new(), starts: Vec::new() }
    }

    /// Takes the next line; the lines that are known to hold no secret now come back.
    pub fn line(&mut self, line: String) -> Vec<String> {
        self.held.push(line);
        self.let_go(false)
    }

    /// The rest. What may be the beginning of a secret is masked: whether the stream was cut is not known here.
    pub fn finish(&mut self) -> Vec<String> {
        self.let_go(true)
    }

    fn let_go(&mut self, all: bool) -> Vec<String> {
        let known = self.masker.shared.read().expect("no holder of this lock can panic");
        if known.automaton.is_none() {
            return std::mem::take(&mut self.held);
        }
        let lines: Vec<String> = self.held.iter().map(|line| without_breaks(line)).collect();
        let shown = format!("{}{}", self.before, lines.concat());
        // Whatever came before the last line was looked at when it came.
        let new = if all { shown.len() } else { shown.len() - lines.last().map_or(0, String::len) };
        let bytes = shown.as_bytes();
        self.starts.retain(|at| begins_one(&known.forms, &bytes[*at..]));
        self.starts.extend((new..shown.len()).filter(|at| begins_one(&known.forms, &bytes[*at..])));
        let open = self.starts.iter().copied().find(|at| shown.len() - at >= SHORTEST);
        let mut ranges = known.found(bytes);
        if all {
            ranges.extend(open.map(|start| start..shown.len()));
        }
        let ranges = merged(ranges);
        let (mut at, mut free) = (self.before.len(), 0);
        let mut out = Vec::new();
        for (line, without) in self.held.iter().zip(&lines) {
            let end = at + without.len();
            if !all && open.is_some_and(|open| end > open) {
                break;
            }
            let own = ranges.iter().filter(|range| range.start < end && range.end > at);
            let own: Vec<Range<usize>> = own.map(|range| range.start.max(at) - at..range.end.min(end) - at).collect();
            out.push(cover(line, &own));
            (at, free) = (end, free + 1);
        }
        self.held.drain(..free);
        let spanning = ranges.iter().find(|range| range.start < at && at < range.end).map(|range| range.start);
        let keep = self.starts.first().copied().into_iter().chain(spanning).fold(at, usize::min);
        self.starts.iter_mut().for_each(|start| *start -= keep);
        self.before = shown[keep..at].to_owned();
        out
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
            char if steers(char) => {}
            char => out.push(char),
        }
    }
    out
}

/// Whether a character reorders what is read, or is a control character.
pub fn steers(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
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

    fn masker_of(values: &[&str]) -> Masker {
        let masker = Masker::default();
        values.iter().for_each(|value| masker.add(&SecretString::from((*value).to_owned())));
        masker
    }

    #[test]
    fn a_value_is_found_within_something_encoded_and_over_wrapped_lines() {
        let secret = "tok_9f8e7d6c5b4a-XYZ~1";
        let masker = masker_of(&[secret]);
        for before in ["", "u", "us", "user:"] {
            for after in ["", "\n", ":x", "zz"] {
                let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{before}{secret}{after}"));
                let masked = masker.mask(&encoded);
                assert!(masked.contains(MASK) && masked.len() <= encoded.len() - 20, "{before} {after}: {masked}");
            }
        }
        assert_eq!(masker.mask("a tok_9f8e7\nd6c5b4a-X\r\nYZ~1 b"), "a *** b");
        assert_eq!(masker.mask("\ntok_9f8e7d6c5b4a-XYZ~1\n"), "\n***\n");
        assert_eq!(masker.mask("tok_9f8e7d6c5b4a-XYZ%7E1"), MASK);
    }

    #[test]
    fn a_cut_leaves_no_piece() {
        let masker = masker_of(&["abcdefghijkl"]);
        assert_eq!(masker.mask_part("x abcdefgh", false, true), "x ***");
        assert_eq!(masker.mask_part("x abcdefgh", false, false), "x abcdefgh");
        assert_eq!(masker.mask_part("fghijkl x", true, false), "*** x");
        assert_eq!(masker.mask_part("fghijkl", true, true), "***");
        assert_eq!(masker.mask_part("x abcde", false, true), "x abcde", "shorter than what is masked at all");
    }

    #[test]
    fn lines_wait_only_while_they_may_begin_a_secret() {
        let masker = masker_of(&["first-line\nsecond-line"]);
        let mut lines = LineMasker::new(&masker);
        assert_eq!(lines.line("plain".to_owned()), ["plain"]);
        assert_eq!(lines.line("a first-line".to_owned()), Vec::<String>::new());
        assert_eq!(lines.line("second-line".to_owned()), ["a ***", "***"]);
        assert_eq!(lines.line("xfir".to_owned()), ["xfir"], "too little to hold a line for");
        assert_eq!(lines.line("st-line y".to_owned()), ["*** y"], "and what follows it is masked");
        assert_eq!(lines.line("a first-".to_owned()), Vec::<String>::new());
        assert_eq!(lines.finish(), ["a ***"], "nobody knows what was cut");
    }

    proptest::proptest! {
        /// Wherever a text is cut into lines, fewer characters of a secret come out than are masked at all.
        #[test]
        fn no_way_to_cut_a_text_shows_a_secret(
            before in "[xyü ]{0,12}", between in "[xyü ]{0,3}", order in 0_usize..2,
            cuts in proptest::collection::vec(0_usize..90, 0..14),
        ) {
            let secrets = ["abab-é-ababaabba-ab", "ba-abab-aéba-abé"];
            let masker = masker_of(&secrets);
            let text = format!("{before}{}{between}{}x", secrets[order], secrets[1 - order]);
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|at| text.is_char_boundary(*at)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let mut lines = LineMasker::new(&masker);
            let mut out: Vec<String> = pieces.iter().flat_map(|piece| lines.line((*piece).to_owned())).collect();
            out.extend(lines.finish());
            proptest::prop_assert_eq!(out.len(), pieces.len(), "every line comes out, and once");
            let of_secrets = |text: &str| text.chars().filter(|char| "ab-é".contains(*char)).map(char::len_utf8).sum::<usize>();
            proptest::prop_assert!(of_secrets(&out.concat()) <= 2 * (SHORTEST - 1), "{:?}", out);
            proptest::prop_assert_eq!(of_secrets(&masker.mask(&pieces.join("\n"))), 0);
            // And so for what is left of a text that was cut.
            for at in cuts {
                let (head, tail) = text.split_at(at);
                let kept = [masker.mask_part(head, false, true), masker.mask_part(tail, true, false)].concat();
                proptest::prop_assert!(of_secrets(&kept) <= 2 * (SHORTEST - 1), "{}", kept);
            }
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
