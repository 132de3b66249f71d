//! Reading columns as the types that were written. What cannot be read so is an error that names the table, the row and
//! the column.

use std::{error::Error, fmt::Display, str::FromStr};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::{Row as _, ValueRef, postgres::PgRow, sqlite::SqliteRow};

use crate::{StoreError, Table};

/// A row that a query has read. Each reader names the column; what cannot be read as it was written is
/// [`StoreError::Corrupt`], with table, key and column.
#[derive(Debug)]
pub struct Row {
    pub(crate) table: &'static Table,
    pub(crate) inner: AnyRow,
}

pub(crate) enum AnyRow {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl std::fmt::Debug for AnyRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = match self {
            Self::Sqlite(row) => row.len(),
            Self::Postgres(row) => row.len(),
        };
        write!(f, "{columns} columns")
    }
}

/// The same reading of a column, whichever driver has read the row. No function can do it: the drivers' rows are of
/// different types.
macro_rules! read {
    ($row:expr, $method:ident, $column:expr) => {
        match &$row.inner {
            AnyRow::Sqlite(row) => row.$method($column),
            AnyRow::Postgres(row) => row.$method($column),
        }
    };
}

impl Row {
    /// Reads a column that must not be empty, as text.
    pub fn text(&self, column: &'static str) -> Result<&str, StoreError> {
        let text: Result<Option<&str>, _> = read!(self, try_get, column);
        let text = text.map_err(|error| self.corrupt(column, error))?;
        text.ok_or_else(|| self.invalid(column, "is empty"))
    }

    /// Reads text of a column that must not be empty, as a text of the caller's own.
    pub fn string(&self, column: &'static str) -> Result<String, StoreError> {
        self.text(column).map(str::to_owned)
    }

    /// Reads text of a column that must not be empty, and parses it as the type that was written.
    pub fn parse<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
    {
        self.text(column)?.parse::<T>().map_err(|error| self.corrupt(column, error))
    }

    /// Reads text of a column that must not be empty, and deserializes it as a JSON document.
    pub fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        serde_json::from_str(self.text(column)?).map_err(|error| self.corrupt(column, error))
    }

    /// Reads a whole number that is never negative.
    pub fn number(&self, column: &'static str) -> Result<u64, StoreError> {
        let number = self.integer(column)?;
        u64::try_from(number).map_err(|_| self.invalid(column, format!("{number} is negative")))
    }

    /// Reads a whole number that is never negative and that this machine can count in memory.
    pub fn size(&self, column: &'static str) -> Result<usize, StoreError> {
        let number = self.number(column)?;
        usize::try_from(number).map_err(|error| self.corrupt(column, error))
    }

    /// Reads a truth value: 0 or 1, for SQLite has no other ones.
    pub fn flag(&self, column: &'static str) -> Result<bool, StoreError> {
        match self.integer(column)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.invalid(column, format!("{other} is neither 0 nor 1"))),
        }
    }

    /// Reads a time: nanoseconds since 1970, before it negative ones.
    pub fn time(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        let nanoseconds = self.integer(column)?;
        Timestamp::from_nanosecond(nanoseconds.into()).map_err(|error| self.corrupt(column, error))
    }

    /// Reads a column of type `BLOB` that must not be empty.
    pub fn bytes(&self, column: &'static str) -> Result<Vec<u8>, StoreError> {
        let bytes: Result<Option<Vec<u8>>, _> = read!(self, try_get, column);
        let bytes = bytes.map_err(|error| self.corrupt(column, error))?;
        bytes.ok_or_else(|| self.invalid(column, "is empty"))
    }

    /// Reads a column that may be empty: `row.optional("since", Row::time)`.
    pub fn optional<'r, T>(
        &'r self,
        column: &'static str,
        read: impl FnOnce(&'r Self, &'static str) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let empty = match &self.inner {
            AnyRow::Sqlite(row) => row.try_get_raw(column).map(|value| value.is_null()),
            AnyRow::Postgres(row) => row.try_get_raw(column).map(|value| value.is_null()),
        };
        if empty.map_err(|error| self.corrupt(column, error))? { Ok(None) } else { read(self, column).map(Some) }
    }

    /// Says that a column holds what is never written, by a rule that the service alone knows.
    pub fn invalid(&self, column: &'static str, rule: impl Display) -> StoreError {
        self.corrupt(column, rule.to_string())
    }

    fn integer(&self, column: &'static str) -> Result<i64, StoreError> {
        // Of an empty column SQLite's driver reads 0, so it has to be asked for.
        let number: Result<Option<i64>, _> = read!(self, try_get, column);
        let number = number.map_err(|error| self.corrupt(column, error))?;
        number.ok_or_else(|| self.invalid(column, "is empty"))
    }

    fn corrupt(&self, column: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
        StoreError::Corrupt { table: self.table.name, place: self.place(), column, source: source.into() }
    }

    /// The columns of the key that the query has read.
    fn place(&self) -> String {
        let read = |column: &&'static str| {
            let text: Result<String, _> = read!(self, try_get, *column);
            text.or_else(|_| read!(self, try_get, *column).map(|number: i64| number.to_string())).ok()
        };
        self.table.key.iter().filter_map(read).collect::<Vec<_>>().join(" ")
    }
}
