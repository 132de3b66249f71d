//! What the site did not accept, for operators: the last few, in the status and in the site's health.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use api::Refusal;
use bus::{
    proto,
    report::{MAX_REFUSALS, shown},
};
use tokio::sync::watch;
use tracing::warn;

/// As many as a message about them may carry.
const KEPT: usize = MAX_REFUSALS;

/// A hostile sender chooses the text: it must not fill messages about the site.
const LONGEST: usize = 500;

/// Now, in nanoseconds since 1970. Shown, never compared.
#[expect(clippy::disallowed_methods, reason = "the time is shown to people and never compared")]
pub fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The last few refusals of this process.
pub struct Refusals {
    list: Mutex<VecDeque<proto::Refusal>>,
    count: watch::Sender<u64>,
}

impl Refusals {
    pub fn new() -> Self {
        Self { list: Mutex::default(), count: watch::Sender::new(0) }
    }

    /// Keeps a refusal. One that is kept already moves to the end: the same thing refused again is one line.
    pub fn add(&self, subject: &str, reason: &str) {
        warn!(subject, reason, "refused");
        let cut = |text: &str| text.chars().take(LONGEST).collect::<String>();
        let refusal = proto::Refusal { subject: cut(subject), reason: cut(reason), time: wall_clock() };
        let mut list = self.lock();
        list.retain(|held| (&held.subject, &held.reason) != (&refusal.subject, &refusal.reason));
        list.push_back(refusal);
        if list.len() > KEPT {
            list.pop_front();
        }
        drop(list);
        self.count.send_modify(|count| *count += 1);
    }

    /// Returns a counter that rises with every refusal, also with one that is kept already.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    /// What is kept, the newest refusal last.
    pub fn list(&self) -> Vec<proto::Refusal> {
        self.lock().iter().cloned().collect()
    }

    /// The same list with times as people read them.
    pub fn for_people(&self) -> Vec<Refusal> {
        let list = self.list().into_iter();
        let told = |refusal: proto::Refusal| Refusal {
            subject: refusal.subject,
            reason: refusal.reason,
            at: shown(refusal.time).to_string(),
        };
        list.map(told).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<proto::Refusal>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_twenty_different_refusals_are_kept() {
        let refusals = Refusals::new();
        for number in 0..30 {
            refusals.add("node.plant.press.report", &format!("sequence {number}"));
            refusals.add("desired.plant.head", "forged");
        }
        let list = refusals.list();
        assert_eq!(list.len(), KEPT);
        assert_eq!(list.iter().filter(|refusal| refusal.reason == "forged").count(), 1);
        assert_eq!(list.last().unwrap().reason, "forged");
        assert_eq!(list[KEPT - 2].reason, "sequence 29");
    }
}
