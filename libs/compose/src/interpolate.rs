//! Variables in a Compose file, by the Compose Specification: `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME:?message}`,
//! `${NAME:+other}`, each also without the colon, and `$$` for a dollar sign. Defaults may hold variables themselves.

use std::collections::BTreeMap;

/// Defaults within defaults that any file needs.
const MAX_DEPTH: usize = 8;

/// The longest text that comes of one value. A parameter that stands in it many times would otherwise multiply.
const MAX_TEXT: usize = 64 << 10;

/// Puts values in the place of variables. A variable without a value counts as empty. Returns the broken rule.
pub fn interpolate(text: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    replace(text, variables, 0, &mut out)?;
    Ok(out)
}

/// Writes a text so that Compose takes it literally.
pub fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn replace(text: &str, variables: &BTreeMap<String, String>, depth: usize, out: &mut String) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("defaults may stand in each other at most {MAX_DEPTH} deep"));
    }
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            after
        } else if let Some(braced) = after.strip_prefix('{') {
            let end = end_of_braces(braced).ok_or_else(|| format!("{text:?}: a brace is not closed"))?;
            substitute(&braced[..end], variables, depth, out)?;
            &braced[end + 1..]
        } else {
            let length = name_length(after);
            if length == 0 {
                return Err(format!("{text:?}: a dollar sign that begins no variable is written $$"));
            }
            out.push_str(variables.get(&after[..length]).map_or("", String::as_str));
            &after[length..]
        };
        if out.len() > MAX_TEXT {
            return Err(format!("becomes longer than {MAX_TEXT} bytes"));
        }
    }
    out.push_str(rest);
    if out.len() > MAX_TEXT { Err(format!("becomes longer than {MAX_TEXT} bytes")) } else { Ok(()) }
}

/// Replaces what stands between two braces.
fn substitute(inner: &str, variables: &BTreeMap<String, String>, depth: usize, out: &mut String) -> Result<(), String> {
    let length = name_length(inner);
    let (name, operator) = inner.split_at(length);
    if name.is_empty() {
        return Err(format!("${{{inner}}} names no variable"));
    }
    let value = variables.get(name);
    let (counts_empty, operator) = match operator.strip_prefix(':') {
        Some(operator) => (false, operator),
        None => (true, operator),
    };
    let given = value.filter(|value| counts_empty || !value.is_empty());
    let mut characters = operator.chars();
    let kind = characters.next();
    let word = characters.as_str();
    match (kind, given) {
        (None, _) if counts_empty => out.push_str(value.map_or("", String::as_str)),
        (Some('-' | '?'), Some(value)) => out.push_str(value),
        (Some('-'), None) | (Some('+'), Some(_)) => replace(word, variables, depth + 1, out)?,
        (Some('+'), None) => {}
        (Some('?'), None) => return Err(format!("{name} must have a value: {word}")),
        _ => return Err(format!("${{{inner}}} is not a form that Compose knows")),
    }
    Ok(())
}

/// Returns where the brace that closes this text stands.
fn end_of_braces(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    let mut before = ' ';
    for (at, character) in text.char_indices() {
        match character {
            '{' if before == '$' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
        before = character;
    }
    None
}

fn name_length(text: &str) -> usize {
    let is_first = |b: &u8| b.is_ascii_alphabetic() || *b == b'_';
    match text.as_bytes().first() {
        Some(first) if is_first(first) => text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_as_the_compose_specification_says() {
        let variables = BTreeMap::from([("NAME", "me"), ("EMPTY", ""), ("DOLLAR", "a$NAME")]);
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        for (text, expected) in [
            ("plain", "plain"),
            ("$NAME-${NAME}", "me-me"),
            ("$$NAME $$$$", "$NAME $$"),
            ("${NONE}|$NONE", "|"),
            ("${NONE-x}${EMPTY-x}${NONE:-x}${EMPTY:-x}", "xxx"),
            ("${NAME:-x}", "me"),
            ("${NONE:-${EMPTY:-${NAME}}}", "me"),
            ("${NAME:+yes}${NONE:+yes}${EMPTY:+yes}${EMPTY+yes}", "yesyes"),
            ("${NAME:?must}", "me"),
            // What a parameter holds is a value and never read as a variable.
            ("${DOLLAR}", "a$NAME"),
        ] {
            assert_eq!(interpolate(text, &variables).as_deref(), Ok(expected), "{text}");
        }
        for wrong in ["$", "a$ b", "${", "${NAME", "${}", "${1A}", "${NAME:}", "${NAME!x}", "${NONE:?must}", "$1"] {
            assert!(interpolate(wrong, &variables).is_err(), "{wrong}");
        }
        assert_eq!(interpolate(&literal("a$NAME ${X}"), &variables).as_deref(), Ok("a$NAME ${X}"));
    }

    #[test]
    fn a_text_that_multiplies_is_refused() {
        let variables = BTreeMap::from([("A".to_owned(), "x".repeat(1000))]);
        assert!(interpolate(&"$A".repeat(1000), &variables).is_err());
        let deep = (0..20).fold("x".to_owned(), |inner, _| format!("${{NONE:-{inner}}}"));
        assert!(interpolate(&deep, &variables).is_err());
    }
}
