//! A listening port passed from inside a sandbox to the engine outside: a descriptor over a unix socket, and a nod.
//!
//! The port stays one of the sandbox's own loopback, whoever holds it. Knows nothing of what is served on it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixListener;

/// What travels with the descriptor, and back.
const NOD: &[u8] = b".";

/// Gives the port away over a connected socket and waits until it was taken.
pub(super) fn give(channel: &impl AsFd, port: &TcpListener) -> io::Result<()> {
    let ports = [port.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&ports)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(channel, &[IoSlice::new(NOD)], &mut ancillary, SendFlags::NOSIGNAL)?;
    match rustix::io::read(channel, &mut [0])? {
        1 => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the engine did not take it")),
    }
}

/// Takes the port from whoever connects first.
pub(super) async fn take(from: &UnixListener) -> io::Result<tokio::net::TcpListener> {
    let (channel, _) = from.accept().await?;
    let port = loop {
        channel.readable().await?;
        match channel.try_io(Interest::READABLE, || receive(&channel)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => break received?,
        }
    };
    port.set_nonblocking(true)?;
    let port = tokio::net::TcpListener::from_std(port)?;
    channel.writable().await?;
    channel.try_write(NOD)?;
    Ok(port)
}

fn receive(channel: &impl AsFd) -> io::Result<TcpListener> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut nod = [0];
    recvmsg(channel, &mut [IoSliceMut::new(&mut nod)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let port = descriptors.flatten().next();
    port.map(TcpListener::from).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no port came"))
}
