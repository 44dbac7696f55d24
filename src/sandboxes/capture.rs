//! Keeps the head and the tail of a stream of any length in bounded memory.

use std::collections::VecDeque;

/// What was kept of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Captured {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
    keep: usize,
}

impl Captured {
    /// Keeps at most `keep` bytes: a fifth from the start, the rest from the end, where errors stand.
    pub fn new(keep: usize) -> Self {
        Self { keep, ..Self::default() }
    }

    /// Adds bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = (self.keep / 5).saturating_sub(self.head.len());
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        bytes = rest;
        let tail_max = self.keep - self.keep / 5;
        if bytes.len() > tail_max {
            bytes = &bytes[bytes.len() - tail_max..];
            self.tail.clear();
        }
        let over = (self.tail.len() + bytes.len()).saturating_sub(tail_max);
        self.tail.drain(..over);
        self.tail.extend(bytes);
    }

    /// Bytes that came.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that were not kept.
    pub fn lost(&self) -> u64 {
        self.total - (self.head.len() + self.tail.len()) as u64
    }

    /// As text, with a line in place of what was not kept.
    pub fn text(&self) -> String {
        let (front, back) = self.tail.as_slices();
        if self.lost() == 0 {
            return String::from_utf8_lossy(&[&self.head, front, back].concat()).into_owned();
        }
        let head = String::from_utf8_lossy(&self.head);
        let tail = [front, back].concat();
        format!("{head}\n[… {} bytes not kept …]\n{}", self.lost(), String::from_utf8_lossy(&tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_streams_are_kept_whole_and_long_ones_at_both_ends() {
        let mut short = Captured::new(100);
        short.push(b"abc");
        short.push(b"def");
        assert_eq!((short.text().as_str(), short.lost()), ("abcdef", 0));
        let mut long = Captured::new(100);
        for n in 0..1000 {
            long.push(format!("{n:03}\n").as_bytes());
        }
        let text = long.text();
        assert!(text.starts_with("000\n") && text.ends_with("999\n"), "{text}");
        assert_eq!(long.lost(), 4000 - 100);
        let mut one = Captured::new(10);
        one.push(&[b'x'; 1_000_000]);
        assert!(one.text().len() < 100);
    }
}
