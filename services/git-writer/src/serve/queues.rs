//! What each holder of a token may have in work.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;

use super::access::Holder;

/// Requests of one holder, from the wait for a process until the answer is sent.
const REQUESTS: usize = 4;

/// The requests in work. A clone is cheap and shares everything.
#[derive(Clone, Default)]
pub struct Queues(Arc<Mutex<HashMap<Holder, Queue>>>);

struct Queue {
    requests: usize,
    turn: Arc<Semaphore>,
}

impl Queues {
    /// Takes a place for one more request of this holder; `None` when it has as many as it may have.
    pub fn enter(&self, holder: &Holder) -> Option<Place> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one_at_a_time = || Queue { requests: 0, turn: Arc::new(Semaphore::new(1)) };
        let queue = queues.entry(holder.clone()).or_insert_with(one_at_a_time);
        if queue.requests >= REQUESTS {
            return None;
        }
        queue.requests += 1;
        Some(Place { queues: self.clone(), holder: holder.clone(), turn: queue.turn.clone() })
    }
}

/// The place of one request. It is free again when this value is dropped.
pub struct Place {
    queues: Queues,
    holder: Holder,
    /// Whoever holds it has the one process that its holder may have.
    pub turn: Arc<Semaphore>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.queues.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get_mut(&self.holder) {
            queue.requests -= 1;
            if queue.requests == 0 {
                queues.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_over_its_limit_hurts_only_itself() {
        let queues = Queues::default();
        let [ada, bob] = ["ada", "bob"].map(|name| Holder::Person(name.to_owned()));
        let held: Vec<_> = (0..REQUESTS).map(|_| queues.enter(&ada).unwrap()).collect();
        assert!(queues.enter(&ada).is_none());
        let turn = held[0].turn.clone().try_acquire_owned().unwrap();
        assert!(held[1].turn.try_acquire().is_err(), "one process at a time");
        assert!(queues.enter(&bob).unwrap().turn.try_acquire().is_ok());
        drop((held, turn));
        assert!(queues.0.lock().unwrap().is_empty());
        assert!(queues.enter(&ada).is_some());
    }
}
