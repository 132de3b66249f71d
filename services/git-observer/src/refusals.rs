//! What operators see of the tips that are not published.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use api::Refusal;
use bus::Subject;
use jiff::Timestamp;
use margo::ClientName;

use crate::{domain::UntrustedTip, metrics};

/// The list that `svc.git-observer.refusals` answers: at most one refusal for each client. Cheap to clone; all clones
/// are the same list. It is kept in memory only, for a restart looks at every client anyway.
#[derive(Clone, Default)]
pub struct Refusals(Arc<Mutex<BTreeMap<ClientName, Refusal>>>);

impl Refusals {
    /// All refusals, sorted by client.
    pub fn list(&self) -> Vec<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Notes why a client's tip is not published. The same reason again keeps its first time, for that tells the
    /// operator since when the client waits.
    #[expect(clippy::disallowed_methods, reason = "the time is shown to people and never compared")]
    pub fn add(&self, client: &ClientName, error: &UntrustedTip) {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let subject = Subject::DesiredHead(client.clone()).to_string();
        let (reason, now) = (process::chain(error), Timestamp::now().to_string());
        let held = refusals.get(client).filter(|held| held.reason == reason);
        let at = held.map_or(now, |held| held.at.clone());
        refusals.insert(client.clone(), Refusal { subject, reason, at });
        metrics::REFUSED.set(refusals.len() as i64);
    }

    /// Takes a client from the list, whose tip is published now.
    pub fn remove(&self, client: &ClientName) {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.remove(client);
        metrics::REFUSED.set(refusals.len() as i64);
    }
}
