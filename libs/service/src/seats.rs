//! Places of which each key, such as the address of a peer, has so many and no more.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// How many places each key has taken. A clone is cheap and shares everything.
#[derive(Clone)]
pub struct Seats<K> {
    most: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Clone + Eq + Hash> Seats<K> {
    /// Gives each key this many places.
    pub fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// How many places one key may have.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Takes one more place for this key, if it may have one.
    pub fn take(&self, key: K) -> Option<Seat<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let held = taken.entry(key.clone()).or_default();
        if *held >= self.most {
            return None;
        }
        *held += 1;
        Some(Seat { taken: self.taken.clone(), key })
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.lock().unwrap().is_empty()
    }
}

/// One place. It is given back when this value is dropped.
pub struct Seat<K: Eq + Hash> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = taken.get_mut(&self.key) {
            *held -= 1;
            if *held == 0 {
                taken.remove(&self.key);
            }
        }
    }
}
