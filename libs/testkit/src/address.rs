//! Network addresses that belong to one test alone.

use std::net::Ipv4Addr;

/// A loopback address that no other test uses; the fifteen after it are free, too. Unlike a free port of 127.0.0.1 it is
/// still there when a server is started again: connections never take it as their own end.
pub fn loopback() -> Ipv4Addr {
    let [a, b, c, ..] = *uuid::Uuid::new_v4().as_bytes();
    // Everything else on the machine uses 127.0.x.y, so the second part begins at 1.
    Ipv4Addr::new(127, 1 + a % 250, b, (c & 0xf0) + 1)
}
