//! What is kept in memory of repositories, as far as there is room.

use std::collections::{BTreeMap, HashMap};

use margo::RepositoryName;

/// How many values stay in any case: `fleet.git` and one client are in use together, and without them each group of commits
/// would begin with reading them.
const ALWAYS: usize = 2;

/// A value for each of the repositories that were used most recently. Those that were not used for longest are dropped when
/// all of them take more bytes than they may.
pub struct Recent<V> {
    budget: usize,
    held: HashMap<RepositoryName, Held<V>>,
    /// The repositories by when they were used, the latest last.
    used: BTreeMap<u64, RepositoryName>,
    size: usize,
    uses: u64,
}

struct Held<V> {
    value: V,
    size: usize,
    used: u64,
}

impl<V> Recent<V> {
    /// Begins without a value. All together may take so many bytes.
    pub fn new(budget: usize) -> Self {
        Self { budget, held: HashMap::new(), used: BTreeMap::new(), size: 0, uses: 0 }
    }

    /// Looks at the value of a repository. That does not count as a use.
    pub fn get(&self, name: &RepositoryName) -> Option<&V> {
        self.held.get(name).map(|held| &held.value)
    }

    /// Takes out the value of a repository. Until one is put back there is none.
    pub fn take(&mut self, name: &RepositoryName) -> Option<V> {
        let held = self.held.remove(name)?;
        self.used.remove(&held.used);
        self.size -= held.size;
        Some(held.value)
    }

    /// Keeps a value, which takes so many bytes, in the place of the one before. Returns others for which there is no room.
    pub fn put(&mut self, name: RepositoryName, value: V, size: usize) -> Vec<(RepositoryName, V)> {
        let mut left_out = Vec::new();
        drop(self.take(&name));
        self.uses += 1;
        self.size += size;
        self.used.insert(self.uses, name.clone());
        self.held.insert(name, Held { value, size, used: self.uses });
        while self.size > self.budget
            && self.held.len() > ALWAYS
            && let Some((_, oldest)) = self.used.pop_first()
            && let Some(held) = self.held.remove(&oldest)
        {
            self.size -= held.size;
            left_out.push((oldest, held.value));
        }
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_is_dropped_first() {
        let mut recent = Recent::new(100);
        let names: Vec<RepositoryName> = (0..4).map(|at| format!("clients/c{at}").parse().unwrap()).collect();
        for (value, name) in names[..3].iter().enumerate() {
            assert!(recent.put(name.clone(), value, 30).is_empty());
        }
        assert_eq!((recent.take(&names[0]), recent.take(&names[0])), (Some(0), None));
        assert!(recent.put(names[0].clone(), 0, 30).is_empty());
        assert_eq!(recent.put(names[3].clone(), 3, 30), [(names[1].clone(), 1)]);
        let held: Vec<_> = names.iter().map(|name| recent.held.contains_key(name)).collect();
        assert_eq!(held, [true, false, true, true]);
        // A value in the place of another one counts once.
        assert!(recent.put(names[3].clone(), 4, 40).is_empty());
        assert_eq!((recent.size, recent.take(&names[3])), (100, Some(4)));
        // What takes too much stays with the one before.
        assert_eq!(recent.put(names[1].clone(), 1, 101).len(), 1);
        let held: Vec<_> = names.iter().map(|name| recent.held.contains_key(name)).collect();
        assert_eq!((held, recent.size), (vec![true, true, false, false], 131));
    }
}
