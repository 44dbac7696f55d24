//! Cleaning and cutting of what the model reads: no escape codes, no progress noise, and never more than a limit.
//!
//! Pure functions on text; it does not know which tool or command the text came from.

/// Lines that `read_file` gives where no range is named.
pub const READ_LINES: usize = 400;
/// Bytes that `read_file` gives where no range is named.
pub const READ_BYTES: usize = 12 * 1024;
/// Bytes that `read_file` gives at most.
pub const READ_BYTES_MOST: usize = 16 * 1024;
/// Characters of one line that `read_file` gives.
pub const READ_LINE: usize = 500;
/// Hits of a search.
pub const SEARCH_HITS: usize = 100;
/// Characters of one line of a search.
pub const SEARCH_LINE: usize = 200;
/// Bytes of a search's result.
pub const SEARCH_BYTES: usize = 8 * 1024;
/// Paths of a glob.
pub const GLOB_PATHS: usize = 100;
/// Names of a listed folder.
pub const LIST_NAMES: usize = 200;
/// Bytes of a command's output.
pub const SHELL_BYTES: usize = 10 * 1024;
/// Bytes of a test digest.
pub const DIGEST_BYTES: usize = 6 * 1024;
/// Bytes of a refusal.
pub const REFUSAL_BYTES: usize = 2 * 1024;
/// Bytes of all results of one request.
pub const RESULTS_BYTES: usize = 16 * 1024;
/// Per cent of a cut command output that come from its start.
pub const SHELL_HEAD: usize = 20;

/// Room for the line that says what was cut.
const MARKER: usize = 110;
/// Equal lines in a row that are written once with a count.
const REPEATS: usize = 3;

/// The largest character boundary at or before `at`.
pub fn floor_char_boundary(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}

/// A command's output as text: valid UTF-8, no escape or control codes, progress lines as they ended, repeats counted.
pub fn clean(bytes: &[u8]) -> String {
    let plain = without_codes(&String::from_utf8_lossy(bytes));
    let mut out = String::with_capacity(plain.len());
    let mut lines = plain.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let mut repeats = 0;
        while lines.peek() == Some(&line) {
            lines.next();
            repeats += 1;
        }
        out.push_str(line);
        match repeats {
            0 => {}
            _ if line.trim().is_empty() => {}
            _ if repeats + 1 < REPEATS => (0..repeats).for_each(|_| out.push_str(line)),
            _ => out.push_str(&format!("[the line above {repeats} more times]\n")),
        }
    }
    out
}

/// Drops escape sequences and control codes, applies backspaces, keeps of each line what its last carriage return left.
fn without_codes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut line_start = 0;
    // A carriage return erases only once something is written after it.
    let mut returned = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => {
                out.push('\n');
                line_start = out.len();
                returned = false;
            }
            '\r' => returned = true,
            '\u{8}' => {
                if out.len() > line_start {
                    out.pop();
                }
            }
            '\u{1b}' => match chars.next_if(|next| *next != '\n') {
                Some('[') => skip_csi(&mut chars),
                Some(']' | 'P' | 'X' | '^' | '_') => skip_string(&mut chars),
                Some(' '..='/') => {
                    // Intermediates, then one final character.
                    while chars.next_if(|next| matches!(next, ' '..='/')).is_some() {}
                    chars.next_if(|next| *next != '\n');
                }
                _ => {}
            },
            '\u{9b}' => skip_csi(&mut chars),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => skip_string(&mut chars),
            c if c != '\t' && c.is_control() => {}
            c => {
                if std::mem::take(&mut returned) {
                    out.truncate(line_start);
                }
                out.push(c);
            }
        }
    }
    out
}

fn skip_csi(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    chars.next_if(|c| matches!(c, '@'..='~'));
}

/// Skips to the terminator; a line end also ends it, so that an unterminated one cannot eat the rest.
fn skip_string(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    while let Some(c) = chars.next_if(|c| *c != '\n') {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => {
                chars.next_if(|c| *c == '\\');
                return;
            }
            _ => {}
        }
    }
}

/// The text, or its head and tail with a line between them that says what is missing; at most `limit` bytes.
///
/// `head` is the share of the head in per cent; `id` names the stored output that has everything.
pub fn cut_middle(text: &str, limit: usize, head: usize, id: Option<&str>) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let room = limit.saturating_sub(MARKER);
    let head_room = room * head.min(100) / 100;
    let mut head_end = text.floor_char_boundary(head_room);
    if let Some(line_end) = text[..head_end].rfind('\n').map(|at| at + 1)
        && line_end * 2 >= head_end
    {
        head_end = line_end;
    }
    let mut tail_start = text.ceil_char_boundary(text.len() - (room - head_room)).max(head_end);
    if let Some(line_start) = text[tail_start..].find('\n').map(|at| tail_start + at + 1)
        && (line_start - tail_start) * 2 <= text.len() - tail_start
        && line_start < text.len()
    {
        tail_start = line_start;
    }
    let cut = &text[head_end..tail_start];
    let lines = cut.bytes().filter(|byte| *byte == b'\n').count();
    let stored = id.map(|id| format!("; read_output id={id} has all")).unwrap_or_default();
    let marker = format!("[... {} bytes, {lines} lines cut{stored} ...]\n", cut.len());
    let line_end = if head_end > 0 && !text[..head_end].ends_with('\n') { "\n" } else { "" };
    let whole = format!("{}{line_end}{marker}{}", &text[..head_end], &text[tail_start..]);
    // Only a limit smaller than the marker gets here with more.
    if whole.len() > limit { whole[..whole.floor_char_boundary(limit)].to_owned() } else { whole }
}

/// One line of at most `limit` characters, with the number of those cut.
pub fn cut_line(line: &str, limit: usize) -> String {
    match line.char_indices().nth(limit) {
        None => line.to_owned(),
        Some((end, _)) => format!("{}… [{} more characters]", &line[..end], line[end..].chars().count()),
    }
}

/// Shortens the longest texts until all together hold at most `total` bytes.
pub fn fit_together(texts: &mut [&mut String], total: usize) {
    let mut lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
    if lengths.iter().sum::<usize>() <= total {
        return;
    }
    lengths.sort_unstable();
    // The level at which cutting every longer text makes them fit.
    let mut room = total;
    let mut level = 0;
    for (index, length) in lengths.iter().enumerate() {
        level = room / (lengths.len() - index);
        if *length > level {
            break;
        }
        room -= length;
    }
    for text in texts.iter_mut().filter(|text| text.len() > level) {
        **text = cut_middle(text, level, 50, None);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_progress_and_repeats_go() {
        let cases: [(&[u8], &str); 12] = [
            (b"\x1b[31mred\x1b[0m \x1b[1;38;5;12mx\x1b[K", "red x"),
            (b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "alink"),
            (b"\x1b]0;never ended\nnext", "\nnext"),
            (b" 10%\r 50%\r100%\ndone\r\n", "100%\ndone\n"),
            (b"kept\r\r\n", "kept\n"),
            (b"a\x08b\x00\x07c", "bc"),
            (b"x\nx\nx\nx\ny\n", "x\n[the line above 3 more times]\ny\n"),
            (b"x\nx\ny\n", "x\nx\ny\n"),
            (b"a\n\n\n\n\nb\n", "a\n\nb\n"),
            (b"caf\xe9\n", "caf\u{fffd}\n"),
            (b"\x1b(Bplain\x1bM\x1b=", "plain"),
            (b"\x1b", ""),
        ];
        for (given, wanted) in cases {
            assert_eq!(clean(given), wanted, "{given:?}");
        }
    }

    #[test]
    fn a_cut_says_what_is_missing_and_falls_on_line_ends() {
        let text: String = (0..2000).map(|i| format!("line {i}\n")).collect();
        let cut = cut_middle(&text, SHELL_BYTES, SHELL_HEAD, Some("o17"));
        assert!(cut.len() <= SHELL_BYTES && cut.len() > SHELL_BYTES - 200);
        assert!(cut.starts_with("line 0\n") && cut.ends_with("line 1999\n"));
        let marker = cut.lines().find(|line| line.starts_with("[...")).expect("a marker");
        assert!(marker.ends_with("cut; read_output id=o17 has all ...]"), "{marker}");
        assert!(cut.lines().all(|line| line == marker || text.lines().any(|whole| whole == line)));
        assert!(cut.find("[...").expect("a marker") * 3 < cut.len(), "head is the small part");
        assert_eq!(cut_line("añb", 2), "añ… [1 more characters]");
    }

    #[test]
    fn the_largest_are_cut_first() {
        let (mut a, mut b, mut c) = ("a".repeat(100), "b".repeat(30_000), "c".repeat(20_000));
        fit_together(&mut [&mut a, &mut b, &mut c], RESULTS_BYTES);
        assert_eq!(a.len(), 100);
        assert!(a.len() + b.len() + c.len() <= RESULTS_BYTES && b.len() > 7_000 && c.len() > 7_000);
    }

    proptest! {
        #[test]
        fn a_cut_never_exceeds_its_limit(text in "(\\PC|\n){0,400}", limit in 0usize..600, head in 0usize..=100) {
            prop_assert!(cut_middle(&text, limit, head, Some("o1")).len() <= limit.max(text.len().min(limit)));
        }

        #[test]
        fn clean_text_has_no_codes_and_stays_clean(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let once = clean(&bytes);
            prop_assert!(once.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
        }
    }
}
