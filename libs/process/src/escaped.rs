//! Showing texts of foreign origin: names in archives, answers, messages of nodes and applications.

use std::borrow::Cow;

/// Returns the text with every character that steers a terminal or breaks a line written as its escape, such as `\n` or
/// `\u{1b}`. Otherwise a name could forge a line of a log, or repaint what stands above it. An escaped text stays as it is.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if steers(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// Tells whether a character does something else than to be seen: control characters, line breaks of Unicode, and marks that
/// change the direction of the text after them.
pub fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_written_out_and_all_else_stays() {
        for (text, shown) in [
            ("Grüß Gott, 世界 🦀 \\", "Grüß Gott, 世界 🦀 \\"),
            ("a\nWARN forged", "a\\nWARN forged"),
            ("\u{1b}[2J\u{9b}2J\u{7}\0\r", "\\u{1b}[2J\\u{9b}2J\\u{7}\\u{0}\\r"),
            ("\u{202e}txt.exe\u{2066}\u{2028}", "\\u{202e}txt.exe\\u{2066}\\u{2028}"),
        ] {
            assert_eq!(escaped(text), shown);
            assert_eq!(escaped(shown), shown);
        }
    }
}
