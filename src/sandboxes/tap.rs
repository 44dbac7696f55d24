//! One stream of a command on its way to whoever asked: bounded for keeping, bounded for showing.
//!
//! Knows nothing of where the bytes come from.

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Captured, Command, OutputSink, Stream};

/// One stream of the command: what is kept, and what still goes to the sink.
pub(super) struct Tap<'a> {
    stream: Stream,
    pub captured: Captured,
    live_left: Option<u64>,
    output: &'a dyn OutputSink,
    /// Until the end of the stream.
    pub open: bool,
    buffer: Vec<u8>,
}

impl<'a> Tap<'a> {
    pub fn new(stream: Stream, command: &Command, output: &'a dyn OutputSink) -> Self {
        Self {
            stream,
            captured: Captured::bounded(command.limits.output_bytes),
            live_left: Some(command.limits.live_bytes),
            output,
            open: true,
            buffer: Vec::new(),
        }
    }

    /// Reads once. Safe to drop between polls: nothing is read without being kept.
    pub async fn read(&mut self, from: &mut Option<impl AsyncRead + Unpin>) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; 64 << 10];
        }
        let read = match from {
            Some(from) => from.read(&mut self.buffer).await.unwrap_or(0),
            None => 0,
        };
        self.open = read > 0;
        let buffer = std::mem::take(&mut self.buffer);
        self.take(&buffer[..read]);
        self.buffer = buffer;
    }

    /// Takes what was read.
    pub fn take(&mut self, bytes: &[u8]) {
        self.captured.push(bytes);
        let Some(left) = self.live_left.filter(|_| !bytes.is_empty()) else { return };
        let shown = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if shown > 0 {
            self.output.chunk(self.stream, &bytes[..shown]);
        }
        self.live_left = (shown == bytes.len()).then_some(left - shown as u64);
        if self.live_left.is_none() {
            self.output.cut(self.stream);
        }
    }
}
