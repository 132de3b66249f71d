//! Addresses of a test's own.

use std::net::Ipv4Addr;

/// A loopback address that no other test uses; the fifteen after it are free, too. Unlike a free port of 127.0.0.1 it is
/// still there when a server is started again: connections never take it as their own end.
pub fn loopback() -> Ipv4Addr {
    let [a, b, c, ..] = *uuid::Uuid::new_v4().as_bytes();
    // Not 127.0.x.y, where everything else lives.
    Ipv4Addr::new(127, 1 + a % 250, b, (c & 0xf0) + 1)
}
