//! How long to wait before the next attempt.

use std::time::Duration;

use process::Backoff;

const FIRST: Duration = Duration::from_millis(500);

/// For the site's own services: a request there is cheap, and after a restart of the site people wait for its nodes.
pub const SITE: Backoff = Backoff::new(FIRST, Duration::from_secs(5));

/// For what costs more, such as an artifact or a start. A failure that lasts is looked at twice a minute.
pub const WORK: Backoff = Backoff::new(FIRST, Duration::from_secs(30));

/// The longest wait that a site can ask for: whatever it says, the node looks again within minutes.
pub const LONGEST: Duration = Duration::from_secs(300);
