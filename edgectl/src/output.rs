//! What goes to stdout: tables for people, JSON for programs. There are no colours, so both may be redirected.

use std::{
    fmt,
    io::{self, Write},
};

use clap::ValueEnum;
use process::{escaped, steers};
use serde_json::Value;

use crate::failure::Failure;

/// The form in which answers are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// Exactly what the interface answered, indented.
    Json,
}

/// Rows of cells that are shown in aligned columns, under a heading or without one.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table whose first row is this heading.
    pub(crate) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self { rows: vec![heading.map(str::to_owned).to_vec()] }
    }

    /// Adds a row. What steers a terminal is escaped in its cells: texts of nodes and applications are shown too.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| escaped(&cell).into_owned()).to_vec());
    }

    /// Adds a row of a name and its value, for tables about one thing.
    pub(crate) fn field(&mut self, name: &str, value: impl fmt::Display) {
        self.row([name.to_owned(), value.to_string()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// Escapes what steers a terminal (see [`process::escaped`]), but keeps the line breaks of a text of several lines.
pub(crate) fn escaped_lines(text: &str) -> String {
    text.split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// Indented JSON, in which whatever steers a terminal is escaped as JSON does it: in texts, for nowhere else does it stand.
fn json_text(json: &Value) -> String {
    let mut text = String::new();
    for character in format!("{json:#}\n").chars() {
        if character != '\n' && steers(character) {
            text.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            text.push(character);
        }
    }
    text
}

/// Writes an answer to stdout. A reader that has closed the pipe is no failure.
pub(crate) fn print(format: Format, json: &Value, table: impl FnOnce() -> String) -> Result<(), Failure> {
    let text = match format {
        Format::Json => json_text(json),
        Format::Table => table(),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // The reader has seen enough, as in `edgectl … | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::Failed(format!("writing the answer: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let mut table = Table::new(["NAME", "STATE"]);
        table.row(["a-long-name".to_owned(), "ok".to_owned()]);
        table.row(["ä".to_owned(), String::new()]);
        assert_eq!(table.to_string(), "NAME         STATE\na-long-name  ok\nä\n");
    }

    #[test]
    fn a_text_from_elsewhere_does_not_steer_the_terminal() {
        let mut table = Table::default();
        table.field("message", "\u{1b}[2Jgone\nNODE  ok");
        assert_eq!(table.to_string(), "message  \\u{1b}[2Jgone\\nNODE  ok\n");
        assert_eq!(escaped_lines("one\n\u{9b}2J"), "one\n\\u{9b}2J");
        let answer = serde_json::json!({ "message": "\u{1b}\u{9b}2J\n\u{202e}ü" });
        let text = json_text(&answer);
        assert!(!text.replace('\n', "").contains(steers), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), answer);
    }
}
