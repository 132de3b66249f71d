//! What errors call a table, and how they name a row of it.

use crate::StoreError;

/// A table: what errors call it, and which columns are its key.
#[derive(Debug)]
pub struct Table {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [&'static str],
}

impl Table {
    /// A table with the columns that tell its rows apart within a tenant.
    pub const fn new(name: &'static str, key: &'static [&'static str]) -> Self {
        Self { name, key }
    }

    /// Says that a row is no longer what a change was decided on.
    pub fn conflict(&'static self, place: impl ToString) -> StoreError {
        StoreError::Conflict { table: self.name, place: place.to_string() }
    }

    /// Says that a value is larger than a row of this table may hold.
    pub fn too_large(&'static self, bytes: usize, limit: usize) -> StoreError {
        StoreError::TooLarge { table: self.name, bytes, limit }
    }
}
