//! What the site did not accept, for operators: the last few, in the status and in the site's health.
//!
//! Whoever is refused chooses how often, and partly with which words. So each sender has a few lines in the list and a share of
//! the log, and what it sends beyond hides nothing of others.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use api::Refusal;
use bus::{
    Asker, Subject, proto,
    report::{MAX_REFUSALS, shown},
};
use process::{Account, Allowance};
use tokio::{sync::watch, time::Instant};
use tracing::{debug, warn};

/// As many as a message about them may carry.
const KEPT: usize = MAX_REFUSALS;

/// As many of these may be about one sender.
const OF_A_SENDER: usize = 4;

/// Lines of the log for one sender: some at once, and then one in five minutes.
const LINES: Allowance = Allowance { burst: 20, per_day: 288 };

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
    /// What each sender may still have written into the log. There are no more senders than nodes, and the site itself.
    lines: Mutex<HashMap<String, Account>>,
    count: watch::Sender<u64>,
}

/// Whoever sent what was refused: a node, or else the subject stands for it.
fn sender(subject: &str) -> String {
    let node = subject.parse().ok().and_then(|subject| match subject {
        Subject::Status(node) | Subject::Capabilities(node) | Subject::Event(node) => Some(Asker::Node(node)),
        subject => Asker::of(&subject),
    });
    node.map_or_else(|| subject.to_owned(), |asker| asker.to_string())
}

impl Refusals {
    pub fn new() -> Self {
        Self { list: Mutex::default(), lines: Mutex::default(), count: watch::Sender::new(0) }
    }

    /// Keeps a refusal. One that is kept already moves to the end: the same thing refused again is one line.
    pub fn add(&self, subject: &str, reason: &str) {
        let cut = |text: &str| text.chars().take(LONGEST).collect::<String>();
        let refusal = proto::Refusal { subject: cut(subject), reason: cut(reason), time: wall_clock() };
        let sender = sender(subject);
        if self.may_log(&sender) {
            warn!(subject, reason = refusal.reason, "refused");
        } else {
            debug!(subject, reason = refusal.reason, "refused");
        }
        let mut list = self.lock();
        list.retain(|held| (&held.subject, &held.reason) != (&refusal.subject, &refusal.reason));
        let of_sender = |held: &proto::Refusal| self::sender(&held.subject) == sender;
        if list.iter().filter(|held| of_sender(held)).count() == OF_A_SENDER
            && let Some(oldest) = list.iter().position(of_sender)
        {
            list.remove(oldest);
        }
        list.push_back(refusal);
        if list.len() > KEPT {
            list.pop_front();
        }
        drop(list);
        self.count.send_modify(|count| *count += 1);
    }

    /// Whether the log takes one more line about this sender.
    pub fn may_log(&self, sender: &str) -> bool {
        let now = Instant::now();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.entry(sender.to_owned()).or_insert_with(|| Account::new(LINES, now)).spend(LINES, 1, now)
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
            refusals.add(&format!("node.plant.n{number}.report"), "out of turn");
            refusals.add("desired.plant.head", "forged");
        }
        let list = refusals.list();
        assert_eq!(list.len(), KEPT);
        assert_eq!(list.iter().filter(|refusal| refusal.reason == "forged").count(), 1);
        assert_eq!(list.last().unwrap().reason, "forged");
        assert_eq!(list[KEPT - 2].subject, "node.plant.n29.report");
    }

    #[test]
    fn one_sender_has_a_few_lines_whatever_it_is_refused_for() {
        let refusals = Refusals::new();
        refusals.add("node.plant.press.report", "malformed");
        for number in 0..30 {
            for subject in ["node.plant.saw.report", "node.plant.saw.register", "event.plant.node.saw"] {
                refusals.add(subject, &format!("reason {number}"));
            }
        }
        let list = refusals.list();
        assert_eq!((list.len(), list[0].subject.as_str()), (1 + OF_A_SENDER, "node.plant.press.report"));
        assert_eq!(list.last().unwrap().reason, "reason 29");
    }

    #[tokio::test(start_paused = true)]
    async fn one_sender_has_a_share_of_the_log() {
        let refusals = Refusals::new();
        assert_eq!((0..1_000).filter(|_| refusals.may_log("plant/saw")).count(), 20);
        assert!(refusals.may_log("plant/press"));
        tokio::time::advance(std::time::Duration::from_secs(301)).await;
        assert!(refusals.may_log("plant/saw") && !refusals.may_log("plant/saw"));
    }
}
