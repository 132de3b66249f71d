//! A log in which each event takes one line, whatever its texts hold.

use std::io::{self, Write};

use crate::escaped;

/// Writes what the log has for one event as one line, in which nothing steers a terminal; so the log has no colours. JSON
/// needs none of this.
pub struct OneLine<W>(pub W);

impl<W: Write> Write for OneLine<W> {
    /// Takes a whole event: that is how the log is written.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
        self.0.write_all(format!("{}{end}", escaped(line)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt};

    use super::*;
    use crate::steers;

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
