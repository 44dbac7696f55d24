//! Carries connections from a sandbox's loopback to the proxy's socket: the end that lives inside.
//!
//! One thread, no runtime, a fixed number of buffers: it runs beside commands whose processes and memory are limited,
//! as a thread or as a process of its own. It reads nothing of what it carries; a command that talks to the socket
//! itself gains nothing by it.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::proxy;

/// Connections at once; more wait. As many as the proxy serves, which as many again may wait for: no connect blocks.
const MOST_CONNECTIONS: usize = 64;
/// What is held of one direction of a connection, in bytes.
const HELD: usize = 32 << 10;

/// Opens [`proxy::PORT`] of the loopback.
///
/// # Errors
/// If the port is taken or the loopback is down.
pub fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, proxy::PORT))
}

/// Carries everything that connects to the listener to the unix socket and back, for as long as the process lives.
///
/// # Errors
/// If the listener cannot be used any more. A connection that breaks is closed and ends nothing else.
pub fn run(listener: &TcpListener, socket: &Path) -> io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let mut pairs: Vec<Pair> = Vec::new();
    loop {
        let (new, ready) = wait(listener, &pairs)?;
        let mut ready = ready.into_iter();
        pairs.retain_mut(|pair| !ready.next().unwrap_or(false) || pair.carry());
        if new {
            accept(listener, socket, &mut pairs);
        }
    }
}

/// Waits until something can be done: whether someone connects, and for each pair whether it can move.
fn wait(listener: &TcpListener, pairs: &[Pair]) -> io::Result<(bool, Vec<bool>)> {
    let mut events = Vec::with_capacity(1 + 2 * pairs.len());
    let mut whose = Vec::with_capacity(2 * pairs.len());
    for (index, pair) in pairs.iter().enumerate() {
        let client = pair.there.source_events() | pair.back.sink_events();
        let proxy = pair.back.source_events() | pair.there.sink_events();
        // Who is of no interest is left out: a hang-up that nothing can be done about would be told without end.
        for (stream, wanted) in [(pair.client.as_fd(), client), (pair.proxy.as_fd(), proxy)] {
            if !wanted.is_empty() {
                events.push(PollFd::from_borrowed_fd(stream, wanted));
                whose.push(index);
            }
        }
    }
    if pairs.len() < MOST_CONNECTIONS {
        events.push(PollFd::new(listener, PollFlags::IN));
    }
    match poll(&mut events, None) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok((false, Vec::new())),
        Err(error) => return Err(error.into()),
    }
    let mut ready = vec![false; pairs.len()];
    for (index, event) in whose.iter().zip(&events) {
        ready[*index] |= !event.revents().is_empty();
    }
    let new = events.get(whose.len()).is_some_and(|event| !event.revents().is_empty());
    Ok((new, ready))
}

fn accept(listener: &TcpListener, socket: &Path, pairs: &mut Vec<Pair>) {
    while pairs.len() < MOST_CONNECTIONS {
        match listener.accept() {
            // Whoever cannot be served sees the connection close: the proxy is gone, or descriptors ran out.
            Ok((client, _)) => pairs.extend(Pair::open(client, socket)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    // Out of descriptors: not to spin until one is free.
                    std::thread::sleep(Duration::from_millis(20));
                }
                return;
            }
        }
    }
}

/// One connection, both directions.
struct Pair {
    client: TcpStream,
    proxy: UnixStream,
    there: Flow,
    back: Flow,
}

impl Pair {
    fn open(client: TcpStream, socket: &Path) -> io::Result<Self> {
        let proxy = UnixStream::connect(socket)?;
        client.set_nonblocking(true)?;
        client.set_nodelay(true)?;
        proxy.set_nonblocking(true)?;
        Ok(Self { client, proxy, there: Flow::new(), back: Flow::new() })
    }

    /// Moves what can be moved; false when the connection is over.
    fn carry(&mut self) -> bool {
        let there = self.there.carry(&mut &self.client, &mut &self.proxy);
        if there.is_ok() && self.there.ends_now() {
            let _ = self.proxy.shutdown(Shutdown::Write);
        }
        let back = self.back.carry(&mut &self.proxy, &mut &self.client);
        if back.is_ok() && self.back.ends_now() {
            let _ = self.client.shutdown(Shutdown::Write);
        }
        there.is_ok() && back.is_ok() && !(self.there.is_over() && self.back.is_over())
    }
}

/// One direction.
struct Flow {
    held: Box<[u8]>,
    start: usize,
    end: usize,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Open,
    /// The source said its last; what is held still has to go.
    Ending,
    /// The sink was told.
    Over,
}

impl Flow {
    fn new() -> Self {
        Self { held: vec![0; HELD].into_boxed_slice(), start: 0, end: 0, state: State::Open }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn is_over(&self) -> bool {
        self.state == State::Over
    }

    fn source_events(&self) -> PollFlags {
        if self.state == State::Open && self.is_empty() { PollFlags::IN } else { PollFlags::empty() }
    }

    fn sink_events(&self) -> PollFlags {
        if self.is_empty() { PollFlags::empty() } else { PollFlags::OUT }
    }

    /// Whether this is the moment to tell the sink that nothing more comes.
    fn ends_now(&mut self) -> bool {
        let now = self.state == State::Ending && self.is_empty();
        if now {
            self.state = State::Over;
        }
        now
    }

    fn carry(&mut self, from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
        let patient = |result: io::Result<usize>| match result {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            result => result.map(Some),
        };
        if self.is_empty() && self.state == State::Open {
            match patient(from.read(&mut self.held))? {
                None => return Ok(()),
                Some(0) => self.state = State::Ending,
                Some(read) => (self.start, self.end) = (0, read),
            }
        }
        if !self.is_empty() {
            match patient(to.write(&self.held[self.start..self.end]))? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(written) => self.start += written,
                None => {}
            }
        }
        Ok(())
    }
}
