//! What the engine says to the first process of a container, and what it hears back.
//!
//! Both ends are this program, of the same build. What a command prints travels inside: it is never looked at.

use std::io::{self, Write};

use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::super::Stream;
use super::super::job::Report;

/// The engine's words, framed as [`job`](super::super::job) does.
#[derive(Debug, Serialize, Deserialize)]
pub(in super::super) enum Order {
    /// Run this; answered by one [`Told::Ended`] whatever comes.
    Run(Command),
    /// End what runs; nothing if nothing does.
    Kill,
}

/// One command.
#[derive(Debug, Serialize, Deserialize)]
pub(in super::super) struct Command {
    /// Text for `sh -c`.
    pub script: String,
    /// Where it starts; checked again inside, where links mean something else.
    pub dir: String,
    /// The whole environment.
    pub env: Vec<(String, String)>,
}

/// What comes back.
#[derive(Debug)]
pub(in super::super) enum Told {
    /// It is ready for orders.
    Ready,
    /// The command printed something.
    Output(Stream, Bytes),
    /// The command ended.
    Ended(Report),
}

const READY: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ENDED: u8 = 3;
/// A kind and a length, both of which nobody else writes.
const HEADER: usize = 5;
/// Output comes in pieces of the reader's buffer; a report is short.
const LONGEST: usize = 1 << 20;

/// Takes one message off the front, if it is whole.
///
/// # Errors
/// The other end is not this program.
pub(in super::super) fn take(buffer: &mut BytesMut) -> io::Result<Option<Told>> {
    let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let [kind, length @ ..] = *header;
    let length = u32::from_le_bytes(length) as usize;
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "this is not what the container's first process says");
    if length > LONGEST || kind > ENDED {
        return Err(strange());
    }
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    buffer.advance(HEADER);
    let payload = buffer.split_to(length).freeze();
    Ok(Some(match kind {
        READY => Told::Ready,
        STDOUT => Told::Output(Stream::Stdout, payload),
        STDERR => Told::Output(Stream::Stderr, payload),
        _ => Told::Ended(serde_json::from_slice(&payload).map_err(|_| strange())?),
    }))
}

/// Says that orders are welcome.
pub(super) fn ready(to: &mut impl Write) -> io::Result<()> {
    send(to, READY, &[])
}

/// Passes on what the command printed, at most a mebibyte.
pub(super) fn output(to: &mut impl Write, stream: Stream, bytes: &[u8]) -> io::Result<()> {
    send(to, if stream == Stream::Stdout { STDOUT } else { STDERR }, bytes)
}

/// Says how the command ended.
pub(super) fn ended(to: &mut impl Write, report: &Report) -> io::Result<()> {
    send(to, ENDED, &serde_json::to_vec(report)?)
}

fn send(to: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(HEADER + payload.len());
    message.push(kind);
    message.extend_from_slice(&length.to_le_bytes());
    message.extend_from_slice(payload);
    to.write_all(&message)
}

#[cfg(test)]
mod tests {
    use super::super::super::job::End;
    use super::*;

    #[test]
    fn messages_arrive_whatever_the_pieces() {
        let mut bytes = Vec::new();
        ready(&mut bytes).expect("memory");
        output(&mut bytes, Stream::Stderr, b"\x01\x02\x03").expect("memory");
        output(&mut bytes, Stream::Stdout, b"").expect("memory");
        ended(&mut bytes, &Report { end: End::Code(3), hits: Vec::new(), clean: true }).expect("memory");
        for size in 1..bytes.len() {
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some(told) = take(&mut buffer).expect("all is well formed") {
                    seen.push(format!("{told:?}"));
                }
            }
            assert_eq!((seen.len(), buffer.len()), (4, 0), "{seen:?}");
            assert!(seen[1].contains("Stderr") && seen[3].contains("Code(3)"), "{seen:?}");
        }
    }

    #[test]
    fn a_stranger_is_noticed() {
        for bytes in [&b"hello, world"[..], b"\x01\xff\xff\xff\xff", b"\x03\x02\0\0\0{}"] {
            assert!(take(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
        assert!(matches!(take(&mut BytesMut::from(&b"\x01\x02\0"[..])), Ok(None)));
    }
}
