//! Tables as text, written once for both databases.

use std::borrow::Cow;

use sqlx::{
    AssertSqlSafe, SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// The steps that bring tables to their newest form. Each step runs once, in a transaction of its own.
///
/// The text is SQLite's: with its column types `TEXT`, `INTEGER` and `BLOB`, and with `STRICT` and `WITHOUT ROWID`, which
/// make SQLite check types and keep small rows beside their key. For PostgreSQL these few words are replaced; everything
/// else has to be what both know. From the first release on a text is never edited again, it is followed by another one: a
/// database in which another text ran is refused.
#[derive(Clone, Copy, Debug)]
pub struct Migrations {
    /// The table that remembers which steps ran.
    remembered_in: &'static str,
    steps: &'static [(i64, &'static str, &'static str)],
}

impl Migrations {
    /// The steps of a service: number, name and text of each.
    pub const fn new(steps: &'static [(i64, &'static str, &'static str)]) -> Self {
        Self { remembered_in: "_migrations", steps }
    }

    /// The same steps, remembered in another table: a library that keeps tables of its own in a service's database
    /// numbers its steps by itself.
    pub const fn remembered_in(self, table: &'static str) -> Self {
        Self { remembered_in: table, ..self }
    }

    pub(crate) fn for_sqlite(&self) -> Migrator {
        self.migrator(Cow::Borrowed)
    }

    pub(crate) fn for_postgres(&self) -> Migrator {
        self.migrator(|text| Cow::Owned(in_postgres_words(text)))
    }

    fn migrator(&self, render: impl Fn(&'static str) -> Cow<'static, str>) -> Migrator {
        let step = |(number, name, text): &(i64, &'static str, &'static str)| {
            let sql = AssertSqlSafe(render(text)).into_sql_str();
            Migration::new(*number, Cow::Borrowed(*name), MigrationType::Simple, sql, false)
        };
        let mut migrator = Migrator::with_migrations(self.steps.iter().map(step).collect());
        migrator.dangerous_set_table_name(self.remembered_in);
        // The lock is for a whole database and outlives an error. A service alone changes its schema, and a second process
        // that did so by mistake would be refused by the first one's transaction.
        migrator.set_locking(false);
        migrator
    }
}

/// Replaces the words that PostgreSQL does not know, or understands differently.
fn in_postgres_words(text: &str) -> String {
    let mut rendered = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        let (code, comment) = line.split_at(line.find("--").unwrap_or(line.len()));
        let code = code.replace(") STRICT, WITHOUT ROWID;", ");").replace(") STRICT;", ");");
        // Words one by one: `TEXT` must not be found inside `CONTEXT`.
        for piece in code.split_inclusive(|character: char| !character.is_ascii_alphanumeric() && character != '_') {
            let word = piece.trim_end_matches(|character: char| !character.is_ascii_alphanumeric() && character != '_');
            let other = match word {
                // Order by bytes, as in SQLite and in Rust, whatever language the database was made for.
                "TEXT" => "TEXT COLLATE \"C\"",
                "INTEGER" => "BIGINT",
                "BLOB" => "BYTEA",
                word => word,
            };
            rendered.push_str(other);
            rendered.push_str(&piece[word.len()..]);
        }
        rendered.push_str(comment);
        rendered.push('\n');
    }
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_and_the_options_of_a_table_differ() {
        let text = "CREATE TABLE context ( -- TEXT of people\n    name TEXT NOT NULL DEFAULT '[]',\n    \
                    TEXTUAL INTEGER,body BLOB\n) STRICT, WITHOUT ROWID;\nCREATE TABLE other (a TEXT) STRICT;\n";
        let expected = "CREATE TABLE context ( -- TEXT of people\n    name TEXT COLLATE \"C\" NOT NULL DEFAULT '[]',\n    \
                        TEXTUAL BIGINT,body BYTEA\n);\nCREATE TABLE other (a TEXT COLLATE \"C\");\n";
        assert_eq!(in_postgres_words(text), expected);
    }
}
