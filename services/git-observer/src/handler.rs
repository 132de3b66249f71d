//! Requests on the bus: what is refused.

use std::sync::Arc;

use api::{Problem, Refusal};
use bus::Call;

use crate::refusals::Refusals;

/// Answers `svc.git-observer.refusals` with the tips that are not published, one for each client.
pub async fn refusals(refusals: Arc<Refusals>, _: Call<()>) -> Result<Vec<Refusal>, Problem> {
    Ok(refusals.list())
}
