//! How YAML is read and written: the choices that its library leaves open.

use serde::Serialize;

/// The strict reading of YAML from outside: no merge keys, no words such as `no` for a boolean, few anchors, and so many events
/// and levels of nesting at most. A bomb that is made of anchors is refused before it costs anything.
pub fn yaml_options(max_events: usize, max_depth: usize) -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.strict_booleans = true;
    options.merge_keys = serde_saphyr::MergeKeyPolicy::Error;
    if let Some(budget) = &mut options.budget {
        budget.max_aliases = 100;
        budget.max_anchors = 100;
        budget.max_events = max_events;
        budget.max_depth = max_depth;
    }
    options
}

/// Returns the bytes of a document that is kept or signed. Every choice of the serializer is made here, so that none changes with
/// a library: a text stands in one line, however long it is, or line by line as it is where it has several.
pub fn to_yaml(document: &impl Serialize) -> Vec<u8> {
    let options = serde_saphyr::ser_options! {
        empty_as_braces: true,
        indent_step: 2,
        compact_list_indent: true,
        anchor_generator: None,
        min_fold_chars: NEVER,
        folded_wrap_chars: NEVER,
        tagged_enums: false,
        prefer_block_scalars: true,
        quote_all: false,
        yaml_12: false,
        no_lang_directive: false,
    };
    let text = serde_saphyr::to_string_with_options(document, options);
    text.expect("strings, numbers, lists and maps always have a YAML form").into_bytes()
}

/// A length that no text has.
const NEVER: usize = 1 << 30;

/// How a document is read. No honest one reaches its limits.
pub(crate) fn options() -> serde_saphyr::Options {
    yaml_options(200_000, 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    /// What a parameter may hold that YAML would read as something else, or would write in another way.
    fn values() -> BTreeMap<String, Value> {
        let texts = [
            "",
            " ",
            "a",
            "a b",
            " a",
            "a ",
            "120",
            "-1",
            "+1",
            "0x1f",
            "0o17",
            "017",
            "1_000",
            "1e3",
            "1.0",
            ".5",
            "5.",
            "1:30",
            ".inf",
            "-.inf",
            ".nan",
            "true",
            "True",
            "TRUE",
            "false",
            "yes",
            "No",
            "on",
            "OFF",
            "y",
            "n",
            "null",
            "Null",
            "~",
            "2026-01-01",
            "2026-01-01T00:00:00Z",
            "=",
            "<<",
            "-",
            "- a",
            "?",
            "? a",
            ":",
            ": a",
            "a:",
            "a: b",
            "a:b",
            "#",
            "# a",
            "a #b",
            "a#b",
            "&a",
            "*a",
            "!a",
            "!!str a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "{",
            "{a}",
            "[",
            "[a]",
            "a, b",
            ",",
            "'",
            "'a'",
            "it's",
            "\"",
            "\"a\"",
            "\\",
            "a\\b",
            "\t",
            "a\tb",
            "\n",
            "a\n",
            "\na",
            "a\nb",
            "a\n\nb\n",
            "a\nb\n\n",
            " a\nb",
            "a\n b",
            "a \nb",
            "a\r\nb",
            "\r",
            "---",
            "--- a",
            "...",
            "\u{0}",
            "\u{1b}",
            "\u{7f}",
            "\u{85}",
            "\u{a0}",
            "\u{2028}",
            "\u{feff}",
            "\u{feff}a",
            "ä",
            "\u{1f600}",
            "$HOME",
            "${A:-b}",
            "{{ a }}",
        ];
        let mut values: BTreeMap<_, _> =
            texts.iter().enumerate().map(|(at, text)| (format!("text-{at:03}"), Value::from(*text))).collect();
        values.insert("text-long".to_owned(), "word ".repeat(100).trim_end().into());
        values.insert("text-long-word".to_owned(), "x".repeat(500).into());
        values.insert("text-long-lines".to_owned(), format!("{}\n{}", "word ".repeat(60), "x".repeat(300)).into());
        let numbers = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.1,
            0.5,
            1.5,
            100.0,
            1e15,
            1e16,
            1e21,
            1e22,
            1e-5,
            1e-7,
            123456789.125,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
            0.1 + 0.2,
        ];
        values.extend(numbers.iter().enumerate().map(|(at, number)| (format!("double-{at:02}"), (*number).into())));
        let whole = [0, 1, -1, 1_000_000, i64::MAX, i64::MIN];
        values.extend(whole.iter().enumerate().map(|(at, number)| (format!("integer-{at}"), (*number).into())));
        values.insert("list".to_owned(), serde_json::json!(["a", "120", 120, 1.5, true, "true", ""]));
        values.insert("empty".to_owned(), serde_json::json!({ "list": [], "map": {} }));
        values.insert("nested".to_owned(), serde_json::json!([{ "a": ["b", { "c": "d\ne" }] }, [["x"]]]));
        values.insert("true".to_owned(), true.into());
        values.insert("key: with # all".to_owned(), serde_json::json!({ "120": 1, "": 2, "yes": 3, "a b": 4 }));
        values
    }

    #[test]
    fn every_value_is_written_as_it_has_always_been_and_reads_as_it_was_meant() {
        let text = String::from_utf8(to_yaml(&values())).unwrap();
        // Golden: another form would give every document in the field another digest.
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/values.yaml");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(golden).unwrap());
        let read: BTreeMap<String, Value> = serde_saphyr::from_str_with_options(&text, options()).unwrap();
        for (name, meant) in values() {
            assert_eq!(read[&name], meant, "{name}");
        }
    }
}
