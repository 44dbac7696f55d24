//! Replacing one text by another in a file: exact first, then a short ladder of tolerant rungs, none of which may choose
//! between two places. Pure functions on strings; it knows no files, paths or tools.

mod nearest;
mod placeholder;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use thiserror::Error;

pub use nearest::nearest_lines;
pub use placeholder::find_placeholder;

use super::truncate::{cut_middle, floor_char_boundary};

/// The most bytes of the region shown after an edit.
const SHOWN: usize = 1_300;
/// Lines shown on each side of an edit.
const AROUND: usize = 5;
/// How many places an ambiguity names.
const PLACES_NAMED: usize = 10;
/// More look-alikes than this are not compared one by one.
const CANDIDATES: usize = 256;

/// How tolerant the match was; each rung is tried only when the one before matched nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// Byte for byte.
    Exact,
    /// LF and CRLF taken as the same.
    LineEnds,
    /// Blanks at line ends ignored.
    TrailingSpace,
    /// The whole block indented differently; the new text was indented to fit.
    Indentation,
    /// Runs of blanks within the lines taken as one.
    InnerSpace,
    /// One level of backslash escapes removed from both texts.
    Unescaped,
}

impl Rung {
    /// For the model; `None` for the exact match.
    pub fn note(self) -> Option<&'static str> {
        match self {
            Self::Exact => None,
            Self::LineEnds => Some("matched after line ends (LF/CRLF) were made equal"),
            Self::TrailingSpace => Some("matched with blanks at line ends ignored"),
            Self::Indentation => Some("matched with another indentation; the new text was indented to fit"),
            Self::InnerSpace => Some("matched with runs of blanks taken as one; check the spacing"),
            Self::Unescaped => Some("matched after one level of backslash escapes was removed from both texts"),
        }
    }
}

/// A done edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The whole new text.
    pub text: String,
    /// How the place was found.
    pub rung: Rung,
    /// Whether copied line numbers were removed from the old text first.
    pub numbers_removed: bool,
    /// First and last line, from 1, of each changed place in the new text.
    pub places: Vec<(usize, usize)>,
}

impl Applied {
    /// What the model reads: the lines, a named tolerance, and the new text with a few lines around it; under 1.5 KB.
    pub fn report(&self, path: &str) -> String {
        let mut out = match self.places.as_slice() {
            [(first, last)] => format!("edited {path}, now lines {first}-{last}"),
            places => {
                let lines: Vec<String> = places.iter().take(PLACES_NAMED).map(|(first, _)| first.to_string()).collect();
                let more = if places.len() > PLACES_NAMED { ", …" } else { "" };
                format!("edited {path} in {} places, at lines {}{more}", places.len(), lines.join(", "))
            }
        };
        let numbers = self.numbers_removed.then_some("line numbers were removed from the given text");
        for note in self.rung.note().into_iter().chain(numbers) {
            out.push_str("; ");
            out.push_str(note);
        }
        if let Some((first, last)) = self.places.first() {
            let from = first.saturating_sub(AROUND).max(1);
            let shown: String = self.text.split_inclusive('\n').skip(from - 1).take(last + AROUND + 1 - from).collect();
            out.push_str(&format!("\nfrom line {from}:\n"));
            out.push_str(&cut_middle(&shown.replace("\r\n", "\n"), SHOWN, 50, None));
        }
        out
    }
}

/// Why an edit is refused. The text is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EditError {
    /// Nothing to look for.
    #[error("old_string is empty; use write_file for a new file, or give the lines beside which to insert")]
    Empty,
    /// Nothing to change.
    #[error("old_string and new_string are the same; nothing to change")]
    Equal,
    /// The new text leaves code out.
    #[error(
        "new_string holds a placeholder (`{line}`) instead of the code; write all of the new lines, or replace less"
    )]
    Placeholder {
        /// The line.
        line: String,
    },
    /// More than one place.
    #[error(
        "old_string stands in {} places, at lines {}{}; add lines around it until it is unique{}",
        if *.more { format!("more than {}", .lines.len()) } else { .lines.len().to_string() },
        .lines.iter().map(usize::to_string).collect::<Vec<_>>().join(" and "),
        .rung.note().map(|note| format!(" ({note})")).unwrap_or_default(),
        if *.rung == Rung::Exact { ", or set allow_multiple to change every one" } else { ", exactly as it stands in the file" }
    )]
    Ambiguous {
        /// The first places, from 1.
        lines: Vec<usize>,
        /// Whether there are more.
        more: bool,
        /// Where on the ladder.
        rung: Rung,
    },
    /// No place.
    #[error("old_string does not stand in the file{}", match .nearest {
        None => format!(", nor anything like it; the file has {} lines: read it first", .lines),
        Some((first, text)) => format!("; nothing was changed. The most similar lines, as they stand from line {first}:\n{text}"),
    })]
    NotFound {
        /// Lines of the file.
        lines: usize,
        /// The first line's number and the most similar lines, at most about 1.7 KB.
        nearest: Option<(usize, String)>,
    },
}

/// Replaces `old` by `new` where it stands exactly once (with `all`: wherever it stands literally).
///
/// The file's own line ends and its final newline are kept; no other byte changes.
pub fn replace(text: &str, old: &str, new: &str, all: bool) -> Result<Applied, EditError> {
    if old.is_empty() {
        return Err(EditError::Empty);
    }
    if lf(old) == lf(new) {
        return Err(EditError::Equal);
    }
    if let Some(line) = find_placeholder(new, old) {
        return Err(EditError::Placeholder { line });
    }
    if let Some(applied) = climb(text, old, new, all, false)? {
        return Ok(applied);
    }
    if let (Some(old), Some(new)) = (without_numbers(old, true), without_numbers(new, false))
        && let Some(applied) = climb(text, &old, &new, all, true)?
    {
        return Ok(applied);
    }
    Err(EditError::NotFound { lines: text.lines().count(), nearest: nearest_lines(text, old) })
}

/// A byte range of the text and what comes there.
struct Place {
    start: usize,
    end: usize,
    new: String,
}

fn climb(text: &str, old: &str, new: &str, all: bool, numbers_removed: bool) -> Result<Option<Applied>, EditError> {
    let apply = |rung, places| apply(text, rung, numbers_removed, places);
    // 1: exact.
    let starts = literal(text, old, all);
    // A match that begins or ends inside a CRLF is one of the next rung.
    let splits = |at: usize| at > 0 && text.as_bytes()[at - 1] == b'\r' && text.as_bytes().get(at) == Some(&b'\n');
    if !starts.is_empty() && !starts.iter().any(|start| splits(*start) || splits(start + old.len())) {
        let ranges = unique(text, &starts, all, Rung::Exact)?.iter().map(|start| (*start, start + old.len()));
        return apply(Rung::Exact, ranges.map(|(start, end)| fitted(text, start, end, new)).collect()).map(Some);
    }
    // 2: line ends.
    let (old, new) = (lf(old), lf(new));
    if let Some(places) = line_ends(text, &old, &new, all, Rung::LineEnds)? {
        return apply(Rung::LineEnds, places).map(Some);
    }
    // 3 to 5: whole lines.
    let lines = Lines::of(text);
    let (old_body, new_body) = match (old.strip_suffix('\n'), new.strip_suffix('\n')) {
        (Some(old), Some(new)) => (old, new),
        (Some(old), None) => (old, &*new),
        (None, _) => (&*old, &*new),
    };
    let wanted: Vec<&str> = old_body.split('\n').collect();
    if wanted.iter().any(|line| !line.trim().is_empty()) {
        let whole_lines_go = new.is_empty() && old.ends_with('\n');
        for rung in [Rung::TrailingSpace, Rung::Indentation, Rung::InnerSpace] {
            let starts = lines.windows(&wanted, rung);
            if starts.is_empty() {
                continue;
            }
            let offsets: Vec<usize> = starts.iter().map(|index| lines.at[*index].0).collect();
            unique(text, &offsets, false, rung)?;
            let window = starts[0]..starts[0] + wanted.len();
            let (start, last) = (lines.at[window.start].0, lines.at[window.end - 1]);
            let end = if whole_lines_go { last.2 } else { last.1 };
            let new = match rung {
                Rung::TrailingSpace => Cow::Borrowed(new_body),
                _ => Cow::Owned(indent_like(&wanted, &lines.contents(text, window), new_body)),
            };
            return apply(rung, vec![fitted(text, start, end, &new)]).map(Some);
        }
    }
    // 6: one level of escapes.
    if let Some(plain) = unescape(&old) {
        let plain_new = unescape(&new).unwrap_or_else(|| new.clone().into_owned());
        if let Some(places) = line_ends(text, &plain, &plain_new, false, Rung::Unescaped)? {
            return apply(Rung::Unescaped, places).map(Some);
        }
    }
    Ok(None)
}

/// Where `old` stands: with `all` every place without overlap, else the first few, overlapping ones too.
fn literal(text: &str, old: &str, all: bool) -> Vec<usize> {
    if all {
        return text.match_indices(old).map(|(start, _)| start).collect();
    }
    let step = old.chars().next().map_or(1, char::len_utf8);
    let mut starts = Vec::new();
    let mut from = 0;
    while starts.len() <= PLACES_NAMED
        && let Some(found) = text[from..].find(old)
    {
        starts.push(from + found);
        from += found + step;
    }
    starts
}

fn unique<'a>(text: &str, starts: &'a [usize], all: bool, rung: Rung) -> Result<&'a [usize], EditError> {
    if all || starts.len() == 1 {
        return Ok(starts);
    }
    let lines: Vec<usize> = starts.iter().take(PLACES_NAMED).map(|start| line_of(text, *start)).collect();
    Err(EditError::Ambiguous { more: starts.len() > PLACES_NAMED, lines, rung })
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count()
}

/// The text with CRLF as LF.
fn lf(text: &str) -> Cow<'_, str> {
    if text.contains("\r\n") { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) }
}

fn line_ends(text: &str, old: &str, new: &str, all: bool, rung: Rung) -> Result<Option<Vec<Place>>, EditError> {
    let plain = lf(text);
    let starts = literal(&plain, old, all);
    if starts.is_empty() {
        return Ok(None);
    }
    let starts = unique(&plain, &starts, all, rung)?;
    let mut wanted = starts.iter().flat_map(|start| [*start, start + old.len()]);
    let mut ranges = Vec::new();
    // Positions in the LF text back to the file's own, in one pass: they come sorted.
    let bytes = text.as_bytes();
    let (mut here, mut there) = (0, 0);
    let mut seek = |target: usize| {
        while there < target {
            here += if bytes[here] == b'\r' && bytes.get(here + 1) == Some(&b'\n') { 2 } else { 1 };
            there += 1;
        }
        here
    };
    while let (Some(start), Some(end)) = (wanted.next(), wanted.next()) {
        let start = seek(start);
        ranges.push((start, seek(end)));
    }
    Ok(Some(ranges.into_iter().map(|(start, end)| fitted(text, start, end, new)).collect()))
}

/// The new text with the line ends of the place it goes to.
fn fitted(text: &str, start: usize, end: usize, new: &str) -> Place {
    let new = lf(new);
    let crlf = new.contains('\n') && {
        let region = &text[start..end];
        if region.contains('\n') { region.contains("\r\n") } else { mostly_crlf(text) }
    };
    Place { start, end, new: if crlf { new.replace('\n', "\r\n") } else { new.into_owned() } }
}

fn mostly_crlf(text: &str) -> bool {
    let all = text.bytes().filter(|byte| *byte == b'\n').count();
    all > 0 && text.matches("\r\n").count() * 2 > all
}

fn apply(text: &str, rung: Rung, numbers_removed: bool, places: Vec<Place>) -> Result<Applied, EditError> {
    let mut out = String::with_capacity(text.len() + places.iter().map(|place| place.new.len()).sum::<usize>() + 2);
    let mut ranges = Vec::with_capacity(places.len());
    let (mut copied, mut line) = (0, 1);
    for place in &places {
        let kept = &text[copied..place.start];
        line += kept.bytes().filter(|byte| *byte == b'\n').count();
        let added = place.new.bytes().filter(|byte| *byte == b'\n').count();
        let last = line + added - usize::from(place.new.ends_with('\n'));
        ranges.push((line, last.max(line)));
        line += added;
        out.push_str(kept);
        out.push_str(&place.new);
        copied = place.end;
    }
    out.push_str(&text[copied..]);
    if text.ends_with('\n') && !out.ends_with('\n') && !out.is_empty() {
        out.push_str(if text.ends_with("\r\n") { "\r\n" } else { "\n" });
    }
    if out == text {
        return Err(EditError::Equal);
    }
    Ok(Applied { text: out, rung, numbers_removed, places: ranges })
}

/// A text's lines: start, end, end with the line's own end.
struct Lines<'a> {
    text: &'a str,
    at: Vec<(usize, usize, usize)>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let mut at = Vec::new();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let end = start + line.len();
            let body = line.strip_suffix('\n').map_or(line, |body| body.strip_suffix('\r').unwrap_or(body));
            at.push((start, start + body.len(), end));
            start = end;
        }
        Self { text, at }
    }

    fn contents(&self, text: &'a str, window: std::ops::Range<usize>) -> Vec<&'a str> {
        self.at[window].iter().map(|(start, end, _)| &text[*start..*end]).collect()
    }

    /// The first lines at which all wanted lines follow, alike as the rung says; at most a few.
    fn windows(&self, wanted: &[&str], rung: Rung) -> Vec<usize> {
        let key = |line: &'a str| -> Cow<'a, str> { line_key(line, rung) };
        let mut ids: HashMap<Cow<'_, str>, usize> = HashMap::new();
        let mut pattern = Vec::with_capacity(wanted.len());
        for line in wanted {
            let next = ids.len();
            pattern.push(*ids.entry(line_key(line, rung)).or_insert(next));
        }
        let limit = if rung == Rung::Indentation { CANDIDATES } else { PLACES_NAMED + 1 };
        let lines = self.at.iter().map(|(start, end, _)| ids.get(&key(&self.text[*start..*end])).copied());
        let mut found = find_sequence(lines, &pattern, limit);
        if rung == Rung::Indentation && found.len() < CANDIDATES {
            found.retain(|index| same_shift(wanted, &self.contents(self.text, *index..index + wanted.len())));
            found.truncate(PLACES_NAMED + 1);
        }
        found
    }
}

fn line_key(line: &str, rung: Rung) -> Cow<'_, str> {
    match rung {
        Rung::TrailingSpace => Cow::Borrowed(line.trim_end()),
        Rung::Indentation => Cow::Borrowed(line.trim()),
        _ => Cow::Owned(line.split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

/// Knuth-Morris-Pratt, so that a file of equal lines costs no more than any other.
fn find_sequence(lines: impl Iterator<Item = Option<usize>>, pattern: &[usize], limit: usize) -> Vec<usize> {
    let mut fallback = vec![0; pattern.len()];
    let mut k = 0;
    for i in 1..pattern.len() {
        while k > 0 && pattern[i] != pattern[k] {
            k = fallback[k - 1];
        }
        k += usize::from(pattern[i] == pattern[k]);
        fallback[i] = k;
    }
    let mut found = Vec::new();
    let mut matched = 0;
    for (index, line) in lines.enumerate() {
        while matched > 0 && line != Some(pattern[matched]) {
            matched = fallback[matched - 1];
        }
        matched += usize::from(line == Some(pattern[matched]));
        if matched == pattern.len() {
            found.push(index + 1 - pattern.len());
            if found.len() >= limit {
                break;
            }
            matched = fallback[matched - 1];
        }
    }
    found
}

fn indent(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}

/// Whether two blocks, alike but for blanks around the lines, differ by one common indentation.
fn same_shift(a: &[&str], b: &[&str]) -> bool {
    let common = |lines: &[&str]| -> usize {
        let mut solid = lines.iter().filter(|line| !line.trim().is_empty()).map(|line| indent(line));
        let Some(first) = solid.next() else { return 0 };
        let alike = |x: &str| first.bytes().zip(x.bytes()).take_while(|(a, b)| a == b).count();
        let shared = solid.map(alike).min().unwrap_or(first.len()).min(first.len());
        floor_char_boundary(first, shared)
    };
    let (cut_a, cut_b) = (common(a), common(b));
    a.iter().zip(b).all(|(a, b)| a.trim().is_empty() || a[cut_a..].trim_end() == b[cut_b..].trim_end())
}

/// Gives the new lines the indentation that the matched lines have in the file.
fn indent_like(old: &[&str], real: &[&str], new: &str) -> String {
    let mut known: Vec<(&str, &str)> = Vec::new();
    for (old, real) in old.iter().zip(real).filter(|(old, _)| !old.trim().is_empty()) {
        if !known.iter().any(|(from, _)| *from == indent(old)) {
            known.push((indent(old), indent(real)));
        }
    }
    known.sort_by_key(|(from, _)| from.len());
    let unit = |indents: &mut dyn Iterator<Item = &str>| -> usize {
        let mut widths: Vec<usize> = indents.filter(|i| i.bytes().all(|b| b == b' ')).map(str::len).collect();
        widths.sort_unstable();
        widths.dedup();
        let steps = widths.windows(2).map(|pair| pair[1] - pair[0]).min();
        steps.or_else(|| widths.first().copied().filter(|w| (2..=8).contains(w))).unwrap_or(4)
    };
    let tabs = known.iter().any(|(_, to)| to.contains('\t'));
    let old_unit = unit(&mut known.iter().map(|(from, _)| *from));
    let real_unit = unit(&mut known.iter().map(|(_, to)| *to));
    let convert = |blanks: &str| match (tabs, blanks.contains('\t')) {
        (true, false) => "\t".repeat(blanks.len() / old_unit) + &" ".repeat(blanks.len() % old_unit),
        (false, true) => blanks.replace('\t', &" ".repeat(real_unit)),
        _ => blanks.to_owned(),
    };
    let fit = |line: &str| -> String {
        let (blanks, rest) = (indent(line), line.trim_start());
        if rest.is_empty() {
            return String::new();
        }
        if let Some((from, to)) = known.iter().rev().find(|(from, _)| blanks.starts_with(from)) {
            return format!("{to}{}{rest}", convert(&blanks[from.len()..]));
        }
        // Less indented than every matched line: take the same off the file's own.
        let Some((from, to)) = known.first() else { return line.to_owned() };
        let off = convert(from.strip_prefix(blanks).unwrap_or(""));
        format!("{}{rest}", to.strip_suffix(off.as_str()).unwrap_or(""))
    };
    new.split('\n').map(fit).collect::<Vec<_>>().join("\n")
}

/// The text with `\n`, `\t`, `\"` and the like as what they mean; none where nothing was escaped.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut changed = false;
    while let Some(c) = chars.next() {
        let plain = match (c, chars.peek()) {
            ('\\', Some('n')) => '\n',
            ('\\', Some('t')) => '\t',
            ('\\', Some('r')) => '\r',
            ('\\', Some(next @ ('"' | '\'' | '`' | '\\' | '/' | '$'))) => *next,
            _ => {
                out.push(c);
                continue;
            }
        };
        changed = true;
        chars.next();
        out.push(plain);
    }
    changed.then(|| lf(&out).into_owned())
}

/// The text without line numbers copied from a listing: only where every line has one (and they rise by one).
fn without_numbers(text: &str, required: bool) -> Option<String> {
    static NUMBER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^[ \t]*(\d{1,7})(?:[ \t]*[|:→-] ?|\t)").expect("a fixed pattern"));
    let body = text.strip_suffix('\n').unwrap_or(text);
    let mut out = String::with_capacity(text.len());
    let mut last: Option<u32> = None;
    let mut numbered = 0;
    for line in body.split('\n') {
        let Some(found) = NUMBER.captures(line) else {
            if required {
                return None;
            }
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let number: u32 = found[1].parse().ok()?;
        if required && last.is_some_and(|last| number != last + 1) {
            return None;
        }
        last = Some(number);
        numbered += 1;
        out.push_str(&line[found[0].len()..]);
        out.push('\n');
    }
    let total = body.split('\n').count();
    // A new text with some lines numbered and some not says nothing clear.
    if numbered == 0 {
        return (!required).then(|| text.to_owned());
    }
    if numbered != total {
        return None;
    }
    if !text.ends_with('\n') {
        out.pop();
    }
    Some(out)
}

#[cfg(test)]
mod tests;
