//! Everything that a host sends and receives over TCP, as somebody on the cable reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    num::NonZeroU32,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with,
        sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_timeout},
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::hosts::Host;

/// All protocols (`ETH_P_ALL`).
const EVERYTHING: u16 = 3;

/// TCP, in the header of IPv4.
const TCP: u8 = 6;

/// One direction of one connection.
type Flow = ((Ipv4Addr, u16), (Ipv4Addr, u16));

/// What was captured.
#[derive(Default)]
pub struct Captured(BTreeMap<Flow, Vec<u8>>);

/// A capture that goes on.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Captured>,
}

impl Capture {
    /// Captures on all interfaces of a host, from now on.
    pub fn start(host: &Host) -> Self {
        let (namespace, stop) = (host.namespace(), Arc::new(AtomicBool::new(false)));
        let (ready, opened) = std::sync::mpsc::channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let protocol = Protocol::from_raw(NonZeroU32::new(EVERYTHING.to_be().into()).unwrap());
            let socket =
                socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol)).unwrap();
            set_socket_recv_buffer_size(&socket, 64 << 20).unwrap();
            // So that it notices when it shall stop.
            set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(100))).unwrap();
            ready.send(()).unwrap();
            let (mut captured, mut packet) = (Captured::default(), vec![0; 128 << 10]);
            loop {
                match recv(&socket, packet.as_mut_slice(), RecvFlags::empty()) {
                    Ok((_, size)) => captured.add(&packet[..size]),
                    Err(Errno::AGAIN | Errno::INTR) if stopped.load(Ordering::Relaxed) => return captured,
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => panic!("capturing: {error}"),
                }
            }
        });
        opened.recv().unwrap();
        Self { stop, thread }
    }

    pub fn end(self) -> Captured {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Captured {
    /// Takes one packet that begins with its IPv4 header. What is no TCP is left out, and so is what stays on the
    /// addresses that no network leads to.
    fn add(&mut self, packet: &[u8]) {
        let Some((flow, payload)) = tcp(packet) else { return };
        if !payload.is_empty() && !flow.0.0.is_loopback() {
            self.0.entry(flow).or_default().extend(payload);
        }
    }

    /// Fails unless there was traffic from and to each of these ports, each connection began with a TLS handshake, and
    /// none of the words stands anywhere.
    pub fn is_all_tls(&self, ports: &[u16], words: &[&str]) {
        let heard: BTreeSet<u16> = self.0.keys().flat_map(|((_, from), (_, to))| [*from, *to]).collect();
        for port in ports {
            assert!(heard.contains(port), "nobody spoke on port {port}: {heard:?}");
        }
        for (flow, bytes) in &self.0 {
            // A record of type 22 (handshake), whatever version it claims.
            assert!(bytes.starts_with(&[22, 3]), "{flow:?} begins in clear: {:?}", &bytes[..bytes.len().min(40)]);
            for word in words {
                let found = bytes.windows(word.len()).any(|window| window == word.as_bytes());
                assert!(!found, "{flow:?} shows {word:?}");
            }
        }
    }
}

/// Reads the two ends and the payload of a TCP packet over IPv4.
fn tcp(packet: &[u8]) -> Option<(Flow, &[u8])> {
    let header = packet.first().filter(|first| *first >> 4 == 4)? & 0x0f;
    if *packet.get(9)? != TCP {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    // A packet that the kernel has yet to split has no length.
    let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
    let segment = packet.get(usize::from(header) * 4..end)?;
    let port = |at: usize| Some(u16::from_be_bytes(segment.get(at..at + 2)?.try_into().ok()?));
    let payload = segment.get(usize::from(*segment.get(12)? >> 4) * 4..)?;
    Some((((address(12)?, port(0)?), (address(16)?, port(2)?)), payload))
}
