//! Who is heard. No bus and no clock: the time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bus::proto::{self, Reachability};
use margo::NodeName;
use tokio::time::Instant;

struct Pulse {
    /// The generation of the node's key. Whoever was heard with a former key was perhaps somebody else.
    generation: u64,
    /// When the node was heard last; `None` means never since the LO started.
    heard: Option<Instant>,
    reachability: Reachability,
    /// Since when the node is so, by the wall clock in nanoseconds. It is only shown.
    since: u64,
}

/// The LO's judgement of its nodes.
pub struct Judgement {
    unreachable_after: Duration,
    nodes: BTreeMap<NodeName, Pulse>,
}

impl Judgement {
    pub fn new(unreachable_after: Duration) -> Self {
        Self { unreachable_after, nodes: BTreeMap::new() }
    }

    /// These are the site's nodes, each with the generation of its key; `wall` is the wall clock. Whether that changes anything.
    pub fn know(&mut self, nodes: &BTreeMap<NodeName, u64>, wall: u64) -> bool {
        let before = self.nodes.len();
        self.nodes.retain(|node, pulse| nodes.get(node) == Some(&pulse.generation));
        let mut changed = before != self.nodes.len();
        for (node, generation) in nodes {
            self.nodes.entry(node.clone()).or_insert_with(|| {
                changed = true;
                Pulse { generation: *generation, heard: None, reachability: Reachability::Unknown, since: wall }
            });
        }
        changed
    }

    /// A node was heard. Whether that changes anything; a node that nobody knows has no pulse.
    pub fn heard(&mut self, node: &NodeName, now: Instant, wall: u64) -> bool {
        let Some(pulse) = self.nodes.get_mut(node) else { return false };
        pulse.heard = Some(now);
        pulse.turn(Reachability::Reachable, wall)
    }

    /// We ourselves were deaf until now: silence before it says nothing.
    pub fn hear_again(&mut self, now: Instant) {
        for pulse in self.nodes.values_mut().filter(|pulse| pulse.heard.is_some()) {
            pulse.heard = Some(now);
        }
    }

    /// Finds nodes that have been silent for too long. Whether that changes anything.
    pub fn judge(&mut self, now: Instant, wall: u64) -> bool {
        let mut changed = false;
        for pulse in self.nodes.values_mut() {
            if pulse.heard.is_some_and(|heard| now.duration_since(heard) >= self.unreachable_after) {
                changed |= pulse.turn(Reachability::Unreachable, wall);
            }
        }
        changed
    }

    /// When the next node will have been silent for too long, if none is heard until then.
    pub fn due(&self) -> Option<Instant> {
        let reachable = self.nodes.values().filter(|pulse| pulse.reachability == Reachability::Reachable);
        reachable.filter_map(|pulse| pulse.heard).min().map(|heard| heard + self.unreachable_after)
    }

    /// All nodes, sorted by name.
    pub fn nodes(&self) -> Vec<proto::NodeHealth> {
        let health = |(node, pulse): (&NodeName, &Pulse)| proto::NodeHealth {
            node: node.to_string(),
            reachability: pulse.reachability.into(),
            since: pulse.since,
        };
        self.nodes.iter().map(health).collect()
    }

    /// The names of all nodes.
    pub fn names(&self) -> BTreeSet<NodeName> {
        self.nodes.keys().cloned().collect()
    }

    /// What is known of one node; a node that nobody knows is unknown.
    pub fn reachability(&self, node: &NodeName) -> Reachability {
        self.nodes.get(node).map_or(Reachability::Unknown, |pulse| pulse.reachability)
    }
}

impl Pulse {
    fn turn(&mut self, to: Reachability, wall: u64) -> bool {
        let changed = self.reachability != to;
        if changed {
            (self.reachability, self.since) = (to, wall);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(15);

    fn press() -> NodeName {
        "press".parse().unwrap()
    }

    fn judgement() -> Judgement {
        let mut judgement = Judgement::new(AFTER);
        assert!(judgement.know(&BTreeMap::from([(press(), 0)]), 1));
        assert!(!judgement.know(&BTreeMap::from([(press(), 0)]), 2));
        judgement
    }

    #[test]
    fn a_node_is_unknown_until_it_is_heard() {
        let (mut judgement, now) = (judgement(), Instant::now());
        assert!(!judgement.judge(now + 10 * AFTER, 2));
        assert_eq!(judgement.reachability(&press()), Reachability::Unknown);
        assert!(judgement.heard(&press(), now, 3));
        assert!(!judgement.heard(&press(), now, 4));
        assert_eq!(judgement.nodes()[0].since, 3);
    }

    #[test]
    fn silence_makes_unreachable_once_and_a_heartbeat_ends_it() {
        let (mut judgement, now) = (judgement(), Instant::now());
        judgement.heard(&press(), now, 2);
        assert_eq!(judgement.due(), Some(now + AFTER));
        assert!(!judgement.judge(now + AFTER - Duration::from_millis(1), 3));
        assert!(judgement.judge(now + AFTER, 4));
        assert!(!judgement.judge(now + 2 * AFTER, 5));
        assert_eq!((judgement.reachability(&press()), judgement.nodes()[0].since), (Reachability::Unreachable, 4));
        assert_eq!(judgement.due(), None);
        assert!(judgement.heard(&press(), now + 3 * AFTER, 6));
    }

    #[test]
    fn our_own_deafness_is_nobody_s_silence() {
        let (mut judgement, now) = (judgement(), Instant::now());
        judgement.heard(&press(), now, 2);
        judgement.hear_again(now + 2 * AFTER);
        assert!(!judgement.judge(now + 2 * AFTER, 3));
        assert!(judgement.judge(now + 3 * AFTER, 4));
    }

    #[test]
    fn a_node_that_left_or_was_never_admitted_has_no_pulse() {
        let mut judgement = judgement();
        assert!(!judgement.heard(&"stranger".parse().unwrap(), Instant::now(), 2));
        assert!(judgement.know(&BTreeMap::new(), 3));
        assert!(judgement.nodes().is_empty());
    }

    #[test]
    fn a_node_with_a_new_key_is_unknown_until_it_is_heard_with_it() {
        let (mut judgement, now) = (judgement(), Instant::now());
        judgement.heard(&press(), now, 2);
        assert!(judgement.know(&BTreeMap::from([(press(), 1)]), 3));
        assert_eq!((judgement.reachability(&press()), judgement.nodes()[0].since), (Reachability::Unknown, 3));
        assert!(judgement.heard(&press(), now, 4));
    }
}
