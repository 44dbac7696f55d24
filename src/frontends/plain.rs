//! Foreign text on its way to people: without what steers or reorders, and cut to a length.

use crate::secrets::printable;

/// UTF-16 units.
pub fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

/// Foreign text without what steers or reorders; line breaks stay.
pub fn clean(text: &str) -> String {
    text.trim().lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// The first line that says something, at most `room` units long.
pub fn line(text: &str, room: usize) -> String {
    clip(&printable(text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim()), room)
}

/// Cuts to `room` units, with a mark; never within a character.
pub fn clip(text: &str, room: usize) -> String {
    if units(text) <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(1); // for the mark
    let mut out = String::new();
    for char in text.chars() {
        let Some(rest) = left.checked_sub(char.len_utf16()) else { break };
        left = rest;
        out.push(char);
    }
    out.truncate(out.trim_end().len());
    out.push('…');
    out
}
