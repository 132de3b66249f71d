//! How often each peer may ask.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Requests of one peer in a second, and at once after a pause. All sites of a company may have one address, and come back
/// together after an outage: 1,000 of them are served at once, and 2,000 nodes of a site within five seconds. A request costs a
/// seventh of a millisecond.
const PER_SECOND: f64 = 200.0;
const AT_ONCE: f64 = 1_000.0;

/// The most peers that are counted. With more at the same time, those that are not counted yet are turned away.
const PEERS: usize = 16_384;

/// What each peer has left.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<IpAddr, Left>>);

struct Left {
    requests: f64,
    at: Instant,
}

impl Left {
    fn now(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.requests + since * PER_SECOND).min(AT_ONCE)
    }
}

impl Rates {
    /// Whether this peer may ask now; if so, the request is counted.
    pub fn take(&self, peer: IpAddr, now: Instant) -> bool {
        let peer = subscriber(peer);
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS && !peers.contains_key(&peer) {
            peers.retain(|_, left| left.now(now) < AT_ONCE);
            if peers.len() >= PEERS {
                return false;
            }
        }
        let left = peers.entry(peer).or_insert(Left { requests: AT_ONCE, at: now });
        *left = Left { requests: left.now(now), at: now };
        let may = left.requests >= 1.0;
        if may {
            left.requests -= 1.0;
        }
        may
    }
}

/// Who is counted as one: an address, or for IPv6 the network of 64 bits that one subscriber has.
fn subscriber(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn one_peer_uses_up_what_it_has_and_nobody_elses() {
        let (rates, begin) = (Rates::default(), Instant::now());
        let served = (0..5_000).filter(|_| rates.take(peer(1), begin)).count();
        assert_eq!(served, AT_ONCE as usize);
        assert!(rates.take(peer(2), begin));
        let second = begin + Duration::from_secs(1);
        assert_eq!((0..1_000).filter(|_| rates.take(peer(1), second)).count(), PER_SECOND as usize);
    }

    #[test]
    fn a_network_of_one_subscriber_is_one_peer() {
        let of = |text: &str| subscriber(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn the_number_of_peers_is_bounded_and_those_that_rest_make_room() {
        let (rates, begin) = (Rates::default(), Instant::now());
        for number in 0..PEERS as u32 {
            assert!(rates.take(peer(number), begin));
        }
        assert!(!rates.take(peer(u32::MAX), begin));
        assert!(rates.take(peer(0), begin));
        assert!(rates.take(peer(u32::MAX), begin + Duration::from_secs(10)));
    }
}
