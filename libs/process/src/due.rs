//! Waiting for a time that may not be set.

use tokio::time::{Instant, sleep_until};

/// Waits until this time; waits for ever when there is none. Cancel-safe, for an arm of `select!`.
pub async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
