//! A log in which each event takes one line, whatever its texts hold.

use std::{
    io::{self, Write},
    str,
};

use crate::escaped::steers;

/// Writes to stderr what the log has for one event, as one line. JSON does that by itself.
pub struct OneLine<W>(pub W);

impl<W: Write> Write for OneLine<W> {
    /// Takes a whole event: that is how the log is written.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        match str::from_utf8(event) {
            Ok(text) => self.0.write_all(one_line(text).as_bytes())?,
            Err(_not_text) => self.0.write_all(event.escape_ascii().to_string().as_bytes())?,
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn one_line(event: &str) -> String {
    // The log colours its own words, and writes out this character where it stands in a text.
    const COLOUR: char = '\u{1b}';
    let (line, end) = event.strip_suffix('\n').map_or((event, ""), |line| (line, "\n"));
    let mut shown = String::with_capacity(event.len());
    for character in line.chars() {
        if character != COLOUR && steers(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown + end
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Kept {
        type Writer = OneLine<Self>;

        fn make_writer(&self) -> Self::Writer {
            OneLine(self.clone())
        }
    }

    #[test]
    fn a_name_forges_no_line_and_steers_no_terminal() {
        let kept = Kept::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(kept.clone()).with_ansi(false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let name = "a\n2026-01-01 INFO forged\r\u{1b}[2J\u{9b}2J\u{202e}";
            tracing::info!(%name, "refused: {name}");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!((text.lines().count(), text.ends_with('\n')), (1, true), "{text}");
        assert!(!text.trim_end().contains(steers), "{text:?}");
        assert!(text.contains("a\\n2026-01-01 INFO forged"), "{text}");
    }
}
