//! The port of a workload: one listening socket, which outlives every runner.
//!
//! The runner that is started first opens it. From then on the agent has it too, and gives it to each runner that takes over,
//! so the kernel keeps the queue of those who connect while nobody accepts: at an update, and when a runner is killed and
//! started again. No refusal and no reset comes of that.
//!
//! Neither side has to live for the other. An agent that is started anew asks the runner for the socket
//! ([`Command::Port`](crate::spec::Command::Port)); when both die the port is closed, as for any server.
//!
//! This file has both: how a socket goes from process to process, and what the agent holds.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    getsockname, recvmsg, sendmsg, sockopt::socket_acceptconn,
};

/// What one call of [`receive`] reads at most. Lines that come with a socket are shorter than that.
const CHUNK: usize = 4096;

/// Writes a line to a Unix socket, with a file that the receiver then has as well.
pub fn send(socket: impl AsFd, line: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let files: Vec<_> = file.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("there is no place for a file beside a message"));
    }
    let sent = sendmsg(&socket, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
    // The buffer of a Unix socket that nothing waits in takes far more than a line.
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Reads what there is on a Unix socket, with the file that came with it. Nothing is read at the end of the stream.
pub fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = [0; CHUNK];
    // For one file: the kernel closes any more, so a peer cannot fill this process with them.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // No program that this one starts is to have it.
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?.bytes;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => files.last(),
        _ => None,
    });
    let file = files.last();
    Ok((bytes[..received].to_vec(), file))
}

/// Whether this is a socket that listens on this address. What another process gave is not believed without that.
pub fn listens_on(socket: impl AsFd, address: SocketAddr) -> bool {
    let bound = || SocketAddr::try_from(getsockname(&socket).ok()?).ok();
    socket_acceptconn(&socket).unwrap_or(false) && bound() == Some(address)
}

/// What the agent holds of the port of one workload. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct HeldPort(Arc<Mutex<Option<Held>>>);

/// The address on which a socket listens, and the socket.
type Held = (SocketAddr, Arc<OwnedFd>);

impl HeldPort {
    /// Holds this socket from now on, if it listens on this address.
    pub fn hold(&self, socket: OwnedFd, address: SocketAddr) {
        if listens_on(&socket, address) {
            self.set(Some((address, Arc::new(socket))));
        }
    }

    /// Returns the socket that listens on this address, if it is held.
    pub fn get(&self, address: SocketAddr) -> Option<Arc<OwnedFd>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().filter(|(held, _)| *held == address).map(|(_, socket)| socket.clone())
    }

    /// Closes the agent's side. Whoever connects while no runner has the socket is refused from now on.
    pub fn close(&self) {
        self.set(None);
    }

    fn set(&self, held: Option<Held>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn a_socket_that_was_sent_listens_on_after_the_sender_closed_it() {
        let (one, other) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        send(&one, b"go\n", Some(listener.as_fd())).unwrap();
        drop(listener);
        let _waits = TcpStream::connect(address).unwrap();
        let (line, socket) = receive(&other).unwrap();
        assert_eq!(line, b"go\n");
        let listener = TcpListener::from(socket.unwrap());
        assert!(listens_on(&listener, address));
        listener.accept().unwrap();
    }

    #[test]
    fn a_line_may_come_alone_and_the_end_is_no_line() {
        let (one, other) = UnixStream::pair().unwrap();
        send(&one, b"ready\n", None).unwrap();
        let (line, file) = receive(&other).unwrap();
        assert_eq!((line.as_slice(), file.is_none()), (b"ready\n".as_slice(), true));
        drop(one);
        assert!(receive(&other).unwrap().0.is_empty());
        assert!(send(&other, b"x\n", None).is_err());
    }

    #[test]
    fn only_a_socket_that_listens_on_the_port_is_held() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        let held = HeldPort::default();
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        for other in [client.into(), elsewhere.into(), file] {
            held.hold(other, address);
            assert!(held.get(address).is_none());
        }
        held.hold(listener.into(), address);
        assert!(held.get(address).is_some() && held.get("127.0.0.1:1".parse().unwrap()).is_none());
        held.close();
        assert!(held.get(address).is_none() && TcpStream::connect(address).is_err());
    }
}
