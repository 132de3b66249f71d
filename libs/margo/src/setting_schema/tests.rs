use super::*;
use crate::{DataType, ParameterError::*};

/// What is wrong with a rule itself, as `field: rule`.
fn faults(rule: &SettingSchema) -> Vec<String> {
    let mut broken = Broken::default();
    rule.check("rule", &mut broken);
    broken.iter().map(|(field, rule)| format!("{field}: {rule}")).collect()
}

/// A rule of this type with these fields, as a description writes them.
fn rule(data_type: &str, fields: &str) -> SettingSchema {
    let text = format!("{{ name: rule, dataType: '{data_type}', {fields} }}");
    crate::document::parse(text.as_bytes(), "rule").unwrap()
}

fn text(text: &str) -> ParameterValue {
    ParameterValue::Text(text.to_owned())
}

fn list(items: &[ParameterValue]) -> ParameterValue {
    ParameterValue::List(items.to_vec())
}

#[test]
fn wfm_30_each_rule_refuses_what_breaks_it_and_takes_what_is_at_its_limit() {
    use ParameterValue::{Boolean, Double, Integer};
    let cases: Vec<(&str, &str, Vec<ParameterValue>, ParameterValue, ParameterError)> = vec![
        ("string", "", vec![text("a")], Integer(1), Type(DataType::Text)),
        ("integer", "", vec![Integer(0)], Double(0.5), Type(DataType::Integer)),
        ("double", "", vec![Double(0.5), Integer(1)], text("1"), Type(DataType::Double)),
        ("boolean", "", vec![Boolean(false)], text("no"), Type(DataType::Boolean)),
        ("array[integer]", "", vec![list(&[Integer(1)])], list(&[text("1")]), Type(DataType::IntegerList)),
        ("string", "", vec![text(" ")], text(""), Empty),
        ("array[string]", "", vec![list(&[text("a")])], list(&[]), Empty),
        ("string", "minLength: 2", vec![text("äö")], text("ä"), TooShort(2)),
        ("string", "maxLength: 2", vec![text("äö")], text("abc"), TooLong(2)),
        ("array[string]", "maxLength: 2", vec![list(&[text("ab")])], list(&[text("a"), text("abc")]), TooLong(2)),
        ("string", "regexMatch: '^[a-z]+$'", vec![text("abc")], text("aBc"), Pattern("^[a-z]+$".into())),
        ("string", "regexMatch: b", vec![text("abc")], text("ac"), Pattern("b".into())),
        ("integer", "minValue: 30", vec![Integer(30)], Integer(29), TooSmall(30.0)),
        ("integer", "maxValue: 30", vec![Integer(30), Integer(-1)], Integer(31), TooLarge(30.0)),
        ("double", "minValue: 0.5", vec![Double(0.5), Integer(1)], Double(0.4), TooSmall(0.5)),
        ("array[double]", "maxValue: 1", vec![list(&[Double(1.0)])], list(&[Integer(2)]), TooLarge(1.0)),
        ("double", "minPrecision: 2", vec![Double(0.25)], Double(0.5), TooCoarse(2)),
        ("double", "maxPrecision: 2", vec![Double(-0.25), Integer(7)], Double(0.125), TooFine(2)),
        ("string", "options: [red, blue]", vec![text("red")], text("green"), NoOption("red, blue".into())),
        ("integer", "options: ['1', 2]", vec![Integer(1), Integer(2)], Integer(3), NoOption("1, 2".into())),
        ("double", "options: [1, 2.5]", vec![Double(1.0), Double(2.5)], Double(2.0), NoOption("1, 2.5".into())),
        (
            "string",
            "multiselect: true, options: [red, blue]",
            vec![list(&[text("red"), text("blue")])],
            list(&[text("red"), text("green")]),
            NoOption("red, blue".into()),
        ),
        (
            "string",
            "multiselect: true, options: [red]",
            vec![list(&[text("red")])],
            text("red"),
            Type(DataType::TextList),
        ),
    ];
    for (data_type, fields, good, bad, error) in cases {
        let rule = rule(data_type, fields);
        assert!(faults(&rule).is_empty(), "{data_type} {fields}: {:?}", faults(&rule));
        for good in good {
            assert_eq!(rule.broken_by(&good), [], "{data_type} {fields}: {good:?}");
        }
        assert_eq!(rule.broken_by(&bad), [error], "{data_type} {fields}: {bad:?}");
    }
}

#[test]
fn t12_what_may_be_empty_has_no_other_rule_to_follow_then() {
    for (data_type, fields, empty) in [
        ("string", "minLength: 5, regexMatch: x, options: [xxxxx]", text("")),
        ("array[string]", "minLength: 5", list(&[])),
    ] {
        assert_eq!(rule(data_type, &format!("allowEmpty: true, {fields}")).broken_by(&empty), []);
        assert_eq!(rule(data_type, &format!("allowEmpty: false, {fields}")).broken_by(&empty), [Empty]);
        assert_eq!(rule(data_type, fields).broken_by(&empty), [Empty], "false when absent");
    }
    assert_eq!(rule("string", "allowEmpty: true, minLength: 5").broken_by(&text("four")), [TooShort(5)]);
}

#[test]
fn all_rules_that_are_broken_are_told_each_once() {
    let rule = rule("array[string]", "maxLength: 2, regexMatch: '^a'");
    let broken = rule.broken_by(&list(&[text("bbb"), text("ccc"), text("aa")]));
    assert_eq!(broken, [TooLong(2), Pattern("^a".into())]);
}

#[test]
fn a_rule_that_nothing_could_obey_or_that_says_nothing_is_refused_with_its_field() {
    for (data_type, fields, field, words) in [
        ("integer", "minLength: 1", "minLength", "says nothing about an integer"),
        ("boolean", "maxLength: 1", "maxLength", "says nothing about true or false"),
        ("double", "regexMatch: a", "regexMatch", "says nothing about a number"),
        ("string", "minValue: 1", "minValue", "says nothing about a string"),
        ("array[string]", "maxValue: 1", "maxValue", "says nothing about a list of strings"),
        ("integer", "minPrecision: 1", "minPrecision", "says nothing about an integer"),
        ("integer", "maxPrecision: 1", "maxPrecision", "says nothing about an integer"),
        ("string", "minLength: 3, maxLength: 2", "maxLength", "below minLength"),
        ("integer", "minValue: 3, maxValue: 2", "maxValue", "below minValue"),
        ("double", "minPrecision: 3, maxPrecision: 2", "maxPrecision", "below minPrecision"),
        ("double", "minValue: .nan", "minValue", "finite"),
        ("double", "maxValue: .inf", "maxValue", "finite"),
        ("string", "regexMatch: '(a'", "regexMatch", "unclosed group"),
        ("string", "regexMatch: '(?=a)b'", "regexMatch", "look-around"),
        ("string", "regexMatch: '(a)\\1'", "regexMatch", "backreferences"),
        ("string", "regexMatch: '((a{100}){100}){100}'", "regexMatch", "stands for less"),
        ("string", "options: []", "options", "at least one"),
        ("string", "multiselect: true", "options", "needs options"),
        ("integer", "options: [1, two]", "options[1]", "must be an integer"),
        ("string", "options: [[a]]", "options[0]", "must be a string"),
        ("string", "options: [a, b, a]", "options[2]", "twice"),
    ] {
        let faults = faults(&rule(data_type, fields));
        let [fault] = faults.as_slice() else { panic!("{data_type} {fields}: {faults:?}") };
        assert!(
            fault.starts_with(&format!("rule.{field}: ")) && fault.contains(words),
            "{data_type} {fields}: {fault}"
        );
    }
    let long = format!("regexMatch: '{}'", "a".repeat(MAX_PATTERN + 1));
    assert!(faults(&rule("string", &long))[0].contains("at most"));
}

#[test]
fn patterns_of_the_specifications_examples_are_read() {
    let url = r"^(http(s):\/\/.)[-a-zA-Z0-9@:%._\+~#=]{2,256}\.[a-z]{2,6}\b([-a-zA-Z0-9@:%_\+.~#?&//=]*)$";
    let pattern = compile(url).unwrap();
    assert!(pattern.is_match("https://www.example.com/path?query=1"));
    assert!(!pattern.is_match("ftp://www.example.com"));
    assert!(compile(".*@[a-z0-9.-]*").unwrap().is_match("ada@example.com"));
}
