//! Statements and their values. The text of a statement is made of literals of the program; what comes from outside is
//! a value and never becomes text.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::{
    Arguments, AssertSqlSafe, Encode, Postgres, SqlSafeStr, SqlStr, Sqlite, Type, database::HasStatementCache,
    error::BoxDynError, postgres::PgArguments, sqlite::SqliteArguments,
};

use crate::{
    Access, Row, StoreError, Table, Transaction,
    database::{Readers, Writing},
    row::AnyRow,
};

/// Rows of one statement at most: SQLite takes 32,766 values in one statement, PostgreSQL 65,535, and no table here has
/// more than 30 columns.
pub const MAX_ROWS: usize = 1_000;

/// A text that was put together stays prepared up to so many values: a few rows. A connection keeps 100 statements.
const MAX_KEPT_VALUES: usize = 40;

impl Table {
    /// Begins a query, of which errors say that it is about this table.
    pub fn query<'q>(&'static self, sql: &'static str) -> Query<'q> {
        Query { table: self, sql: Cow::Borrowed(sql), values: Vec::new() }
    }
}

/// A statement with its values, in words that SQLite and PostgreSQL both know. Its text is made of literals of the program
/// alone; whatever comes from outside is a value.
#[derive(Debug)]
#[must_use = "a query does nothing until it is executed or fetched"]
pub struct Query<'q> {
    table: &'static Table,
    sql: Cow<'static, str>,
    values: Vec<Value<'q>>,
}

impl<'q> Query<'q> {
    /// Gives the next value: the first one is `$1`.
    pub fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Continues the text of the statement with these words. They do not pass through a value, so they are literals of
    /// the program.
    pub fn push(mut self, sql: &'static str) -> Self {
        self.sql.to_mut().push_str(sql);
        self
    }

    /// Continues the text with the number of the next value (`$2`), and gives that value.
    pub fn push_bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.push_value(value.into());
        self
    }

    /// Continues the text with `(…, …)`: a list for `IN`. An empty list would be no SQL, so there must be a value; at most
    /// [`MAX_ROWS`].
    pub fn push_list(mut self, values: impl IntoIterator<Item = impl Into<Value<'q>>>) -> Self {
        self.sql.to_mut().push('(');
        for (at, value) in values.into_iter().enumerate() {
            if at > 0 {
                self.sql.to_mut().push_str(", ");
            }
            self.push_value(value.into());
        }
        self.sql.to_mut().push(')');
        self
    }

    /// Continues the text with `VALUES (…), (…)`: one row for each item, at least one and at most [`MAX_ROWS`].
    pub fn push_rows<T>(
        mut self,
        items: impl IntoIterator<Item = T>,
        mut row: impl FnMut(RowValues<'q>, T) -> RowValues<'q>,
    ) -> Self {
        self.sql.to_mut().push_str("VALUES ");
        for (at, item) in items.into_iter().enumerate() {
            self.sql.to_mut().push_str(if at > 0 { ", (" } else { "(" });
            for (at, value) in row(RowValues(Vec::new()), item).0.into_iter().enumerate() {
                if at > 0 {
                    self.sql.to_mut().push_str(", ");
                }
                self.push_value(value);
            }
            self.sql.to_mut().push(')');
        }
        self
    }

    fn push_value(&mut self, value: Value<'q>) {
        use std::fmt::Write;
        self.values.push(value);
        write!(self.sql.to_mut(), "${}", self.values.len()).expect("writing into a text does not fail");
    }

    /// Runs the statement and returns how many rows it has changed.
    pub async fn execute(self, transaction: &mut Transaction) -> Result<u64, StoreError> {
        let table = self.table.name;
        self.changed(transaction).await.map_err(|source| StoreError::of(table, source))
    }

    async fn changed(self, transaction: &mut Transaction) -> Result<u64, sqlx::Error> {
        Ok(match &mut transaction.0 {
            Writing::Sqlite(tx) => self.prepare::<Sqlite>()?.execute(&mut **tx).await?.rows_affected(),
            Writing::Postgres(tx) => self.prepare::<Postgres>()?.execute(&mut **tx).await?.rows_affected(),
        })
    }

    /// Runs the statement and returns all rows.
    pub async fn fetch_all(self, on: impl Into<Access<'_>>) -> Result<Vec<Row>, StoreError> {
        let table = self.table;
        let rows = self.rows(on.into()).await.map_err(|source| StoreError::of(table.name, source))?;
        Ok(rows.into_iter().map(|inner| Row { table, inner }).collect())
    }

    async fn rows(self, on: Access<'_>) -> Result<Vec<AnyRow>, sqlx::Error> {
        Ok(match on {
            Access::Database(database) => match database.readers() {
                Readers::Sqlite(pool) => sqlite_rows(self.prepare::<Sqlite>()?.fetch_all(pool).await?),
                Readers::Postgres(pool) => postgres_rows(self.prepare::<Postgres>()?.fetch_all(pool).await?),
            },
            Access::Transaction(transaction) => match &mut transaction.0 {
                Writing::Sqlite(tx) => sqlite_rows(self.prepare::<Sqlite>()?.fetch_all(&mut **tx).await?),
                Writing::Postgres(tx) => postgres_rows(self.prepare::<Postgres>()?.fetch_all(&mut **tx).await?),
            },
        })
    }

    /// Runs the statement and returns the first row, if there is one.
    pub async fn fetch_optional(self, on: impl Into<Access<'_>>) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch_all(on).await?.into_iter().next())
    }

    /// Runs a statement that always yields a row, such as a sum or an insertion that returns what it has made.
    pub async fn fetch_one(self, on: impl Into<Access<'_>>) -> Result<Row, StoreError> {
        let table = self.table.name;
        let row = self.fetch_optional(on).await?;
        row.ok_or(StoreError::Refused { table, source: sqlx::Error::RowNotFound })
    }

    fn prepare<DB: Backend>(self) -> Result<sqlx::query::Query<'static, DB, DB::Arguments>, sqlx::Error>
    where
        DB::Arguments: sqlx::IntoArguments<DB>,
    {
        // A text that was put together differs with its number of rows. Those of a few rows come again and again; the
        // others, kept prepared, would push all out of the connection's memory.
        let comes_again = matches!(self.sql, Cow::Borrowed(_)) || self.values.len() <= MAX_KEPT_VALUES;
        let in_order = || (0..self.values.len()).collect();
        let (sql, order): (SqlStr, Vec<usize>) = match self.sql {
            Cow::Borrowed(text) => (SqlStr::from_static(text), in_order()),
            Cow::Owned(text) if DB::LOOKS_FOR_NAMES => {
                let (text, order) = without_names(&text);
                (AssertSqlSafe(text).into_sql_str(), order)
            }
            Cow::Owned(text) => (AssertSqlSafe(text).into_sql_str(), in_order()),
        };
        let mut arguments = DB::Arguments::default();
        for value in order {
            DB::add(&mut arguments, &self.values[value]).map_err(sqlx::Error::Encode)?;
        }
        Ok(sqlx::query_with(sql, arguments).persistent(comes_again))
    }
}

/// The values of one row of [`Query::push_rows`].
#[derive(Debug)]
pub struct RowValues<'q>(Vec<Value<'q>>);

impl<'q> RowValues<'q> {
    /// Gives the value of the next column.
    pub fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.0.push(value.into());
        self
    }
}

/// A value of a statement, and its type when it is absent: PostgreSQL wants to know it then, too.
#[derive(Clone, Debug)]
pub enum Value<'q> {
    /// For a column of type `TEXT`.
    Text(Option<Cow<'q, str>>),
    /// For a column of type `INTEGER`. One outside of 64 bits with sign is refused when the statement runs.
    Integer(Option<i128>),
    /// For a column of type `BLOB`.
    Bytes(Option<Cow<'q, [u8]>>),
}

macro_rules! value_from {
    ($variant:ident: $($type:ty => $convert:expr),+ $(,)?) => {$(
        impl<'q> From<$type> for Value<'q> {
            fn from(value: $type) -> Self {
                Self::$variant(Some($convert(value)))
            }
        }
        impl<'q> From<Option<$type>> for Value<'q> {
            fn from(value: Option<$type>) -> Self {
                Self::$variant(value.map($convert))
            }
        }
    )+};
}

value_from! { Text: &'q str => without_nul, String => without_nul, &'q String => |text: &'q String| without_nul(text.as_str()) }
value_from! { Integer: i64 => i128::from, u64 => i128::from, bool => i128::from, Timestamp => Timestamp::as_nanosecond }
value_from! { Bytes: &'q [u8] => Cow::Borrowed, Vec<u8> => Cow::Owned }

impl<'q> From<&'q Option<String>> for Value<'q> {
    fn from(value: &'q Option<String>) -> Self {
        value.as_deref().into()
    }
}

/// PostgreSQL keeps no text with a NUL character. A node may send one, and must not thereby keep what others say from
/// being stored: the character is replaced, in both databases.
fn without_nul<'q>(text: impl Into<Cow<'q, str>>) -> Cow<'q, str> {
    let text = text.into();
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { text }
}

/// A value as a JSON document, for a column of type `TEXT` that [`crate::Row::json`] reads.
///
/// # Panics
///
/// When the value has no JSON form, such as a map whose keys are no text: its type is wrong for this.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what is stored is made of texts, numbers, lists and maps by name")
}

/// What a query needs of a driver.
trait Backend: sqlx::Database + HasStatementCache {
    /// Whether it looks for each name of a value (`$1`) among all names of the statement, more than once. In a statement of
    /// thousands of values that takes longer than all the rest of it.
    const LOOKS_FOR_NAMES: bool;

    fn add(arguments: &mut Self::Arguments, value: &Value<'_>) -> Result<(), BoxDynError>;
}

impl Backend for Sqlite {
    const LOOKS_FOR_NAMES: bool = true;

    fn add(arguments: &mut SqliteArguments, value: &Value<'_>) -> Result<(), BoxDynError> {
        add(arguments, value)
    }
}

impl Backend for Postgres {
    const LOOKS_FOR_NAMES: bool = false;

    fn add(arguments: &mut PgArguments, value: &Value<'_>) -> Result<(), BoxDynError> {
        add(arguments, value)
    }
}

fn add<A: Arguments>(arguments: &mut A, value: &Value<'_>) -> Result<(), BoxDynError>
where
    Option<i64>: for<'t> Encode<'t, A::Database> + Type<A::Database>,
    for<'t> Option<&'t str>: Encode<'t, A::Database> + Type<A::Database>,
    for<'t> Option<&'t [u8]>: Encode<'t, A::Database> + Type<A::Database>,
{
    match value {
        Value::Text(text) => arguments.add(text.as_deref()),
        Value::Integer(number) => arguments.add((*number).map(i64::try_from).transpose()?),
        Value::Bytes(bytes) => arguments.add(bytes.as_deref()),
    }
}

/// Returns the text with `?` in the place of every `$1`, and the place of each one's value among the values: one that stands
/// in the text twice is given twice.
fn without_names(sql: &str) -> (String, Vec<usize>) {
    let (mut text, mut order) = (String::with_capacity(sql.len()), Vec::new());
    let mut pieces = sql.split('$');
    text.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let rest = piece.trim_start_matches(|c: char| c.is_ascii_digit());
        match piece[..piece.len() - rest.len()].parse::<usize>() {
            Ok(number) => {
                order.push(number - 1);
                text.push('?');
            }
            Err(_) => text.push('$'),
        }
        text.push_str(rest);
    }
    (text, order)
}

fn sqlite_rows(rows: Vec<sqlx::sqlite::SqliteRow>) -> Vec<AnyRow> {
    rows.into_iter().map(AnyRow::Sqlite).collect()
}

fn postgres_rows(rows: Vec<sqlx::postgres::PgRow>) -> Vec<AnyRow> {
    rows.into_iter().map(AnyRow::Postgres).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_stands_twice_in_the_text_is_given_twice() {
        let sql = "SELECT $2 FROM a WHERE b = $1 AND c IN ($3, $12) OR d = $1";
        let text = "SELECT ? FROM a WHERE b = ? AND c IN (?, ?) OR d = ?";
        assert_eq!(without_names(sql), (text.to_owned(), vec![1, 0, 2, 11, 0]));
        assert_eq!(without_names("SELECT '$'"), ("SELECT '$'".to_owned(), vec![]));
    }
}
