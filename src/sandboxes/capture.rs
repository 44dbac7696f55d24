//! What is kept of a stream: its head and its tail within a bound, and how much there was.
//!
//! Knows nothing of processes; escape codes and secrets are the reader's business.

use std::collections::VecDeque;

/// The share of the bound that goes to the beginning: errors of a build stand at the end more often than at the start.
const HEAD_PERCENT: usize = 20;

/// A stream's bytes, bounded: all of them, or the first fifth and the last four fifths of the bound.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_limit: usize,
    tail_limit: usize,
    total: u64,
}

impl Captured {
    /// Keeps at most so many bytes.
    pub fn bounded(limit: usize) -> Self {
        let head_limit = limit / 100 * HEAD_PERCENT + limit % 100 * HEAD_PERCENT / 100;
        Self { head_limit, tail_limit: limit - head_limit, ..Self::default() }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let (first, rest) = bytes.split_at(bytes.len().min(self.head_limit - self.head.len()));
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(self.tail_limit)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.tail_limit);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// Bytes that were not kept.
    pub fn cut_bytes(&self) -> u64 {
        self.total - (self.head.len() + self.tail.len()) as u64
    }

    /// The bytes as they came, if all were kept.
    pub fn whole(&self) -> Option<Vec<u8>> {
        (self.cut_bytes() == 0).then(|| self.head.iter().chain(&self.tail).copied().collect())
    }

    /// For people and models: valid UTF-8, with a line that says what was cut where something was.
    pub fn text(&self) -> String {
        self.text_of(|part, _, _| part.to_owned())
    }

    /// As [`Captured::text`], with each part passed through `edit`, which also hears whether a cut follows the part and
    /// whether one comes before it.
    pub fn text_of(&self, edit: impl Fn(&str, bool, bool) -> String) -> String {
        if let Some(whole) = self.whole() {
            return edit(&String::from_utf8_lossy(&whole), false, false);
        }
        // A character that the cut went through is cut bytes, not bad bytes.
        let head = match std::str::from_utf8(&self.head) {
            Err(broken) if broken.error_len().is_none() => &self.head[..broken.valid_up_to()],
            _ => &self.head,
        };
        let continuation = self.tail.iter().take(3).take_while(|byte| *byte & 0xC0 == 0x80).count();
        let tail: Vec<u8> = self.tail.iter().skip(continuation).copied().collect();
        let cut = self.total - (head.len() + tail.len()) as u64;
        let (head, tail) = (String::from_utf8_lossy(head), String::from_utf8_lossy(&tail));
        let (head, tail) = (edit(&head, true, false), edit(&tail, false, true));
        format!("{head}\n[… {cut} of {} bytes cut …]\n{tail}", self.total)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capture(limit: usize, bytes: &[u8], chunk: usize) -> Captured {
        let mut captured = Captured::bounded(limit);
        bytes.chunks(chunk.max(1)).for_each(|part| captured.push(part));
        captured
    }

    #[test]
    fn the_cut_is_marked_and_counted() {
        let captured = capture(10, b"0123456789abcdefghij", 3);
        assert_eq!(captured.text(), "01\n[… 10 of 20 bytes cut …]\ncdefghij");
        assert_eq!(captured.whole(), None);
    }

    #[test]
    fn a_character_at_the_cut_is_not_mangled() {
        let captured = capture(10, "éééééééééééé".as_bytes(), 5);
        assert_eq!(captured.text(), "é\n[… 14 of 24 bytes cut …]\néééé");
        let captured = capture(5, "aéxxxxxxxxéaaa".as_bytes(), 5);
        assert_eq!(captured.text(), "a\n[… 12 of 16 bytes cut …]\naaa");
    }

    #[test]
    fn bad_bytes_show_as_such_and_stay_in_whole() {
        let captured = capture(100, b"a\xff\0b", 2);
        assert_eq!(captured.text(), "a\u{fffd}\0b");
        assert_eq!(captured.whole().as_deref(), Some(&b"a\xff\0b"[..]));
    }

    proptest! {
        #[test]
        fn head_and_tail_are_those_of_the_stream(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), limit in 0_usize..200, chunk in 1_usize..70,
        ) {
            let captured = capture(limit, &bytes, chunk);
            prop_assert_eq!(captured.total, bytes.len() as u64);
            prop_assert!(captured.head.len() + captured.tail.len() <= limit);
            prop_assert!(bytes.starts_with(&captured.head));
            let tail: Vec<u8> = captured.tail.iter().copied().collect();
            prop_assert!(bytes.ends_with(&tail));
            match captured.whole() {
                Some(whole) => prop_assert_eq!(&whole, &bytes),
                None => prop_assert_eq!(captured.head.len() + captured.tail.len(), limit),
            }
        }
    }
}
