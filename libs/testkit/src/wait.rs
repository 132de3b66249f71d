//! Waiting for a state and never for a time.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long a state may take to come: long enough for a loaded machine with two cores. A test whose state is there
/// does not wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until the state is as wanted. `look` returns `Ok` with what was waited for, or `Err` with
/// the state as it is. After a minute the test fails, showing the last state that was seen.
pub async fn wait_for<T, S: Debug>(what: &str, look: impl AsyncFnMut() -> Result<T, S>) -> T {
    wait_for_within(PATIENCE, what, look).await
}

/// The same with a patience of its own, for a state that takes a whole system some time to reach.
pub async fn wait_for_within<T, S: Debug>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let begin = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(state) if begin.elapsed() > patience => panic!("waited in vain for {what}; last seen: {state:#?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
