//! Fair shares of a bounded queue: what one asker sends too much costs nobody else. No bus, no clock.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
};

/// What one asker may have in the queue, and what all may have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The most requests of one asker that wait or are in work.
    pub each: usize,
    /// The most bytes of all requests that wait. When more come, whoever has most of them loses its newest.
    pub bytes: usize,
}

struct Waiting<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    in_work: usize,
}

/// Requests that wait, by asker. They are taken round-robin: one of each asker, then the next of each.
pub struct Fair<K, T> {
    shares: Shares,
    /// Whether an asker that has its share loses its newest waiting request for the one that comes, and not the latter.
    newest_wins: bool,
    askers: BTreeMap<K, Waiting<T>>,
    /// The askers that have something waiting, in the order of their turns.
    turns: VecDeque<K>,
    bytes: usize,
}

impl<K: Ord + Clone, T> Fair<K, T> {
    /// An empty queue with these limits.
    pub fn new(shares: Shares) -> Self {
        Self { shares, newest_wins: false, askers: BTreeMap::new(), turns: VecDeque::new(), bytes: 0 }
    }

    /// The same for requests of which a newer one makes an older one needless: of an asker that has its share, the newer one
    /// takes the place of the last that waits.
    pub fn newest_wins(self) -> Self {
        Self { newest_wins: true, ..self }
    }

    /// Adds a request of this many bytes. Returns how many requests were dropped for it, which may be the one that was
    /// added: of this asker when it has its share, and of whoever has most bytes when all have too many together.
    pub fn offer(&mut self, asker: K, item: T, bytes: usize) -> usize {
        let waiting = self.askers.entry(asker.clone()).or_insert_with(Waiting::new);
        let mut dropped = 0;
        if waiting.items.len() + waiting.in_work >= self.shares.each {
            if !self.newest_wins || waiting.items.is_empty() {
                return 1;
            }
            let (_, older) = waiting.items.pop_back().expect("there is one");
            waiting.bytes -= older;
            self.bytes -= older;
            dropped = 1;
            // It keeps the turn of the one whose place it takes.
        } else if waiting.items.is_empty() {
            self.turns.push_back(asker);
        }
        waiting.items.push_back((item, bytes));
        waiting.bytes += bytes;
        self.bytes += bytes;
        while self.bytes > self.shares.bytes && self.drop_newest_of_largest() {
            dropped += 1;
        }
        dropped
    }

    /// Takes the request whose turn it is. The caller says [`Fair::done`] when it is no longer in work.
    pub fn take(&mut self) -> Option<(K, T)> {
        let asker = self.turns.pop_front()?;
        let waiting = self.askers.get_mut(&asker)?;
        let (item, bytes) = waiting.items.pop_front()?;
        waiting.bytes -= bytes;
        waiting.in_work += 1;
        self.bytes -= bytes;
        if !waiting.items.is_empty() {
            self.turns.push_back(asker.clone());
        }
        Some((asker, item))
    }

    /// Notes that a request of this asker is no longer in work.
    pub fn done(&mut self, asker: &K) {
        if let Some(waiting) = self.askers.get_mut(asker) {
            waiting.in_work = waiting.in_work.saturating_sub(1);
            if waiting.in_work == 0 && waiting.items.is_empty() {
                self.askers.remove(asker);
            }
        }
    }

    /// Gives up everything that waits.
    pub fn clear(&mut self) {
        let turns = mem::take(&mut self.turns);
        for asker in turns {
            if let Some(waiting) = self.askers.get_mut(&asker) {
                waiting.items.clear();
                waiting.bytes = 0;
                if waiting.in_work == 0 {
                    self.askers.remove(&asker);
                }
            }
        }
        self.bytes = 0;
    }

    fn drop_newest_of_largest(&mut self) -> bool {
        let largest = self.askers.iter().filter(|(_, waiting)| !waiting.items.is_empty());
        let Some(asker) = largest.max_by_key(|(_, waiting)| waiting.bytes).map(|(asker, _)| asker.clone()) else {
            return false;
        };
        let Some(waiting) = self.askers.get_mut(&asker) else { return false };
        let Some((_, bytes)) = waiting.items.pop_back() else { return false };
        waiting.bytes -= bytes;
        self.bytes -= bytes;
        if waiting.items.is_empty() {
            self.turns.retain(|turn| *turn != asker);
            if waiting.in_work == 0 {
                self.askers.remove(&asker);
            }
        }
        true
    }
}

impl<T> Waiting<T> {
    fn new() -> Self {
        Self { items: VecDeque::new(), bytes: 0, in_work: 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHARES: Shares = Shares { each: 3, bytes: 100 };

    fn queue() -> Fair<&'static str, u32> {
        Fair::new(SHARES)
    }

    #[test]
    fn one_of_each_is_taken_and_then_the_next_of_each() {
        let mut fair = queue();
        for number in 0..3 {
            assert_eq!(fair.offer("loud", number, 1), 0);
        }
        fair.offer("quiet", 10, 1);
        let taken: Vec<_> = std::iter::from_fn(|| fair.take()).collect();
        assert_eq!(taken, [("loud", 0), ("quiet", 10), ("loud", 1), ("loud", 2)]);
    }

    #[test]
    fn an_asker_has_its_share_until_what_is_in_work_is_done() {
        let mut fair = queue();
        for number in 0..3 {
            assert_eq!(fair.offer("loud", number, 1), 0);
        }
        assert_eq!(fair.offer("loud", 3, 1), 1);
        assert_eq!(fair.take(), Some(("loud", 0)));
        assert_eq!(fair.offer("loud", 4, 1), 1, "one is in work and two wait");
        fair.done(&"loud");
        assert_eq!(fair.offer("loud", 5, 1), 0);
    }

    #[test]
    fn a_newer_request_takes_the_place_of_one_that_waits_where_the_newest_wins() {
        let mut fair = Fair::new(Shares { each: 2, bytes: 100 }).newest_wins();
        assert_eq!(fair.offer("node", 1, 10), 0);
        assert_eq!(fair.take(), Some(("node", 1)));
        assert_eq!(fair.offer("node", 2, 10), 0);
        assert_eq!(fair.offer("node", 3, 20), 1);
        assert_eq!((fair.bytes, fair.turns.len()), (20, 1));
        assert_eq!(fair.take(), Some(("node", 3)));
        assert_eq!(fair.offer("node", 4, 10), 1, "two are in work, and none waits that could give way");
        fair.done(&"node");
        assert_eq!(fair.offer("node", 5, 10), 0);
        assert_eq!(fair.take(), Some(("node", 5)));
    }

    #[test]
    fn whoever_has_most_bytes_loses_when_all_have_too_many() {
        let mut fair = queue();
        fair.offer("loud", 0, 40);
        fair.offer("loud", 1, 40);
        assert_eq!(fair.offer("quiet", 2, 30), 1);
        let taken: Vec<_> = std::iter::from_fn(|| fair.take()).collect();
        assert_eq!(taken, [("loud", 0), ("quiet", 2)]);
        assert_eq!(fair.offer("huge", 3, 101), 1, "what alone is too large is itself dropped");
        assert_eq!(fair.take(), None);
    }

    #[test]
    fn nothing_is_remembered_of_askers_that_are_served() {
        let mut fair = queue();
        fair.offer("a", 0, 1);
        fair.take();
        fair.done(&"a");
        assert!(fair.askers.is_empty() && fair.turns.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Offer(u8, usize),
        Take,
        Done(u8),
        Clear,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4u8, 0..60usize).prop_map(|(asker, bytes)| Step::Offer(asker, bytes)),
            3 => Just(Step::Take),
            2 => (0..4u8).prop_map(Step::Done),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        /// Whatever is sent, the limits hold, the sums are right, and everyone who waits has a turn.
        #[test]
        fn the_limits_hold(newest_wins: bool, steps in proptest::collection::vec(any_step(), 0..60)) {
            let mut fair: Fair<u8, usize> = Fair { newest_wins, ..Fair::new(SHARES) };
            for step in steps {
                match step {
                    Step::Offer(asker, bytes) => { fair.offer(asker, bytes, bytes); }
                    Step::Take => { fair.take(); }
                    Step::Done(asker) => fair.done(&asker),
                    Step::Clear => fair.clear(),
                }
                let waiting: usize = fair.askers.values().flat_map(|waiting| &waiting.items).map(|item| item.1).sum();
                prop_assert_eq!(waiting, fair.bytes);
                prop_assert!(fair.bytes <= SHARES.bytes);
                prop_assert!(fair.askers.values().all(|waiting| waiting.items.len() <= SHARES.each));
                let with_items: Vec<_> = fair.askers.iter().filter(|(_, it)| !it.items.is_empty()).map(|(k, _)| *k).collect();
                let mut turns: Vec<_> = fair.turns.iter().copied().collect();
                turns.sort_unstable();
                prop_assert_eq!(turns, with_items);
            }
        }
    }
}
