//! Limits what components take: the memory and tables that all requests of a workload hold together, and
//! the number of parts.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use wasmtime::ResourceLimiter;

/// What an entry of a table takes: a pointer.
const TABLE_ELEMENT: usize = size_of::<usize>();
/// What one component may consist of.
const MAX_PARTS: usize = 64;

/// The bytes of memories and tables that all requests in work share.
#[derive(Clone)]
pub struct Memory {
    limit: usize,
    held: Arc<AtomicUsize>,
}

impl Memory {
    /// Memory of so many bytes.
    pub fn new(limit: u64) -> Self {
        Self { limit: usize::try_from(limit).unwrap_or(usize::MAX), held: Arc::default() }
    }

    /// Returns the share of one request, which holds nothing yet.
    pub fn share(&self) -> Share {
        Share { memory: self.clone(), held: 0 }
    }

    fn take(&self, bytes: usize) -> bool {
        let take = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.limit);
        self.held.try_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// What one request holds of it, given back when it ends.
pub struct Share {
    memory: Memory,
    held: usize,
}

impl Share {
    /// Takes what a memory or a table needs to grow from `current` to `desired` pieces of so many bytes, and returns
    /// whether it may.
    fn grow(&mut self, current: usize, desired: usize, maximum: Option<usize>, bytes: usize) -> bool {
        let more = desired.saturating_sub(current).saturating_mul(bytes);
        let granted = maximum.is_none_or(|maximum| desired <= maximum) && self.memory.take(more);
        if granted {
            self.held += more;
        }
        granted
    }
}

impl ResourceLimiter for Share {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum, 1))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum, TABLE_ELEMENT))
    }

    fn instances(&self) -> usize {
        MAX_PARTS
    }

    fn tables(&self) -> usize {
        MAX_PARTS
    }

    fn memories(&self) -> usize {
        MAX_PARTS
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_the_memory_of_their_workload() {
        let memory = Memory::new(100);
        let (mut one, mut two) = (memory.share(), memory.share());
        assert!(one.memory_growing(0, 60, None).unwrap());
        assert!(!two.memory_growing(0, 60, None).unwrap());
        assert!(two.memory_growing(0, 40, None).unwrap());
        assert!(!one.memory_growing(60, 61, None).unwrap());
        drop(two);
        assert!(one.memory_growing(60, 100, None).unwrap());
        drop(one);
        assert_eq!(memory.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn tables_and_memories_share_one_limit() {
        let memory = Memory::new(100);
        let (mut one, mut two) = (memory.share(), memory.share());
        assert!(one.memory_growing(0, 60, None).unwrap());
        assert!(one.table_growing(0, 5, None).unwrap());
        assert!(!two.table_growing(0, 1, None).unwrap());
        assert!(!two.table_growing(0, usize::MAX, None).unwrap());
        drop(one);
        assert!(two.table_growing(0, 12, None).unwrap());
        assert!(!two.memory_growing(0, 5, None).unwrap());
        drop(two);
        assert_eq!(memory.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn growth_beyond_the_components_own_maximum_takes_nothing() {
        let memory = Memory::new(100);
        let mut share = memory.share();
        assert!(!share.memory_growing(0, 60, Some(50)).unwrap());
        assert_eq!(memory.held.load(Ordering::Relaxed), 0);
    }
}
