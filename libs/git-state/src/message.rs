//! Commit messages: one line for people, and trailers that `git log` shows and programs read.

use std::fmt;

/// The longest subject and the longest value of a trailer, in characters.
pub const MAX_LINE: usize = 1_000;

/// A commit message. Whatever it is made from, every part of it stays on its own line, so that no text that a person
/// wrote can pass for a trailer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    subject: String,
    trailers: Vec<(String, String)>,
}

impl Message {
    /// Makes a message with this first line. An empty one becomes `no subject`.
    pub fn new(subject: &str) -> Self {
        let subject = one_line(subject);
        Self { subject: if subject.is_empty() { "no subject".to_owned() } else { subject }, trailers: Vec::new() }
    }

    /// Adds a trailer. One whose key has other characters than letters, digits and `-`, or whose value is empty, is
    /// left out.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        let value = one_line(value);
        if is_key(key) && !value.is_empty() {
            self.trailers.push((key.to_owned(), value));
        }
        self
    }

    /// Returns the first line, which says to people what the commit is.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the value of the last trailer with this key. The last one counts, because git-writer adds its own
    /// trailers after those of the sources.
    pub fn trailer(&self, key: &str) -> Option<&str> {
        self.trailers.iter().rev().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    /// Returns all trailers in order.
    pub fn trailers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.trailers.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Reads any message. When the last of several paragraphs consists of trailers only, they are the trailers;
    /// otherwise there are none.
    pub fn parse(text: &str) -> Self {
        let text = text.trim_end();
        let message = Self::new(text.lines().next().unwrap_or_default());
        let last = text.rsplit_once("\n\n").map_or("", |(_, last)| last);
        let trailer = |line: &str| {
            let (key, value) = line.split_once(':')?;
            is_key(key).then(|| (key.to_owned(), one_line(value)))
        };
        Self { trailers: last.lines().map(trailer).collect::<Option<_>>().unwrap_or_default(), ..message }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.subject)?;
        for (at, (key, value)) in self.trailers.iter().enumerate() {
            writeln!(f, "{}{key}: {value}", if at == 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

fn is_key(key: &str) -> bool {
    (1..=64).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && key.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Returns the text as one line of at most [`MAX_LINE`] characters, in which control characters have become spaces.
fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_LINE).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_reads_like_git_s_own() {
        let message = Message::new("deploy hello").with("Order", "1").with("Requested-By", "ada").with("Reason", "");
        assert_eq!(message.to_string(), "deploy hello\n\nOrder: 1\nRequested-By: ada\n");
        assert_eq!(Message::new("deploy hello").to_string(), "deploy hello\n");
    }

    #[test]
    fn a_text_of_a_person_never_passes_for_a_trailer() {
        let message = Message::new("x\n\nHandled: a=9").with("Reason", "y\nHandled: a=9").with("Handled", "a=1");
        let read = Message::parse(&message.to_string());
        assert_eq!(read.trailer("Handled"), Some("a=1"));
        assert_eq!(read.trailers().filter(|(key, _)| *key == "Handled").count(), 1);
        assert_eq!(Message::parse("Handled: a=9\n").trailer("Handled"), None);
        assert_eq!(Message::parse("x\n\nsome text\nHandled: a=9\n").trailer("Handled"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(subject in any::<String>(), values in proptest::collection::vec(any::<String>(), 0..4)) {
            let message = values.iter().fold(Message::new(&subject), |message, value| message.with("Key", value));
            prop_assert_eq!(Message::parse(&message.to_string()), message);
        }
    }
}
