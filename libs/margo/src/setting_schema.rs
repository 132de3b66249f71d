//! The rules for the values of a setting (`configuration.schema`), and what a value breaks of them (WFM-30).

use std::{collections::BTreeSet, slice};

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::{DataType, ParameterError, ParameterValue, document::Broken};

/// The longest pattern of a schema, in bytes.
const MAX_PATTERN: usize = 4 << 10;

/// What a pattern may take in memory once it is compiled, in bytes. The time that a match takes grows with the length of the
/// text times this, so it also bounds how long a supplier's pattern can keep a service busy.
const MAX_COMPILED: usize = 64 << 10;

/// A rule for values, which settings name. Every field that is set has to be obeyed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SettingSchema {
    /// The name by which settings choose the rule.
    pub name: String,
    /// The type of values; of each one of several, where several can be chosen.
    pub data_type: DataType,
    /// Whether a value may be empty or left out; `false` when absent. The specification's model says the opposite in words,
    /// and all of its examples mean this (T12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_empty: Option<bool>,
    /// The fewest characters of a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u64>,
    /// The most characters of a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    /// A regular expression that matches somewhere in a text. It takes time in proportion to the length of the text, so it has
    /// no references to what was matched before and no look around.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex_match: Option<String>,
    /// The smallest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_value: Option<f64>,
    /// The largest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_value: Option<f64>,
    /// The fewest digits behind the decimal point. Zeros at the end do not count: a number has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_precision: Option<u64>,
    /// The most digits behind the decimal point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_precision: Option<u64>,
    /// Whether several of the options can be chosen; then a value is the list of them. `false` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiselect: Option<bool>,
    /// The values that can be chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<ParameterValue>>,
}

impl SettingSchema {
    /// Returns the type that a value has to have.
    pub fn value_type(&self) -> DataType {
        if self.multiselect == Some(true) { self.data_type.list() } else { self.data_type }
    }

    /// Tells whether a value may be empty or left out.
    pub fn allows_empty(&self) -> bool {
        self.allow_empty == Some(true)
    }

    /// Returns each rule that a value breaks, once.
    pub fn broken_by(&self, value: &ParameterValue) -> Vec<ParameterError> {
        if !value.is(self.value_type()) {
            return vec![ParameterError::Type(self.value_type())];
        }
        let items = match value {
            ParameterValue::Text(text) if text.is_empty() => &[],
            ParameterValue::List(items) => items.as_slice(),
            one => slice::from_ref(one),
        };
        if items.is_empty() {
            return if self.allows_empty() { Vec::new() } else { vec![ParameterError::Empty] };
        }
        let pattern = self.regex_match.as_deref().and_then(|text| compile(text).ok());
        let mut errors = Vec::new();
        for item in items {
            let broken = self.broken_by_one(item, pattern.as_ref());
            errors.extend(broken.into_iter().flatten().filter(|error| !errors.contains(error)).collect::<Vec<_>>());
        }
        errors
    }

    fn broken_by_one(&self, value: &ParameterValue, pattern: Option<&Regex>) -> [Option<ParameterError>; 8] {
        let text = if let ParameterValue::Text(text) = value { Some(text) } else { None };
        let length = text.map(|text| text.chars().count() as u64);
        let number = value.number();
        let digits = number.map(digits_of_fraction);
        let is_option = |option: &ParameterValue| option.to_env() == value.to_env();
        let shown = |options: &[ParameterValue]| options.iter().map(ParameterValue::to_env).collect::<Vec<_>>();
        [
            self.min_length.filter(|least| length < Some(*least) && length.is_some()).map(ParameterError::TooShort),
            self.max_length.filter(|most| length > Some(*most)).map(ParameterError::TooLong),
            pattern
                .filter(|pattern| text.is_some_and(|text| !pattern.is_match(text)))
                .map(|pattern| ParameterError::Pattern(pattern.to_string())),
            self.min_value.filter(|least| number.is_some_and(|number| number < *least)).map(ParameterError::TooSmall),
            self.max_value.filter(|most| number.is_some_and(|number| number > *most)).map(ParameterError::TooLarge),
            self.min_precision
                .filter(|least| digits.is_some_and(|digits| digits < *least))
                .map(ParameterError::TooCoarse),
            self.max_precision.filter(|most| digits.is_some_and(|digits| digits > *most)).map(ParameterError::TooFine),
            self.options
                .as_deref()
                .filter(|options| !options.iter().any(is_option))
                .map(|options| ParameterError::NoOption(shown(options).join(", "))),
        ]
    }

    /// Checks that the rule can be obeyed. `field` is its path.
    pub(crate) fn check(&self, field: &str, broken: &mut Broken) {
        let item = self.data_type.item();
        let (is_text, is_number) = (item == DataType::Text, matches!(item, DataType::Integer | DataType::Double));
        for (name, is_set, fits) in [
            ("minLength", self.min_length.is_some(), is_text),
            ("maxLength", self.max_length.is_some(), is_text),
            ("regexMatch", self.regex_match.is_some(), is_text),
            ("minValue", self.min_value.is_some(), is_number),
            ("maxValue", self.max_value.is_some(), is_number),
            ("minPrecision", self.min_precision.is_some(), item == DataType::Double),
            ("maxPrecision", self.max_precision.is_some(), item == DataType::Double),
        ] {
            if is_set && !fits {
                broken.add(format!("{field}.{name}"), format!("says nothing about {}", self.data_type));
            }
        }
        for (name, value) in [("minValue", self.min_value), ("maxValue", self.max_value)] {
            if value.is_some_and(|value| !value.is_finite()) {
                broken.add(format!("{field}.{name}"), "must be a finite number");
            }
        }
        for (name, is_below) in [
            ("Length", self.max_length.zip(self.min_length).is_some_and(|(most, least)| most < least)),
            ("Value", self.max_value.zip(self.min_value).is_some_and(|(most, least)| most < least)),
            ("Precision", self.max_precision.zip(self.min_precision).is_some_and(|(most, least)| most < least)),
        ] {
            if is_below {
                broken.add(format!("{field}.max{name}"), format!("is below min{name}, so nothing would fit"));
            }
        }
        if let Some(Err(rule)) = self.regex_match.as_deref().map(compile) {
            broken.add(format!("{field}.regexMatch"), rule);
        }
        self.check_options(&format!("{field}.options"), broken);
    }

    fn check_options(&self, field: &str, broken: &mut Broken) {
        let Some(options) = &self.options else {
            if self.multiselect == Some(true) {
                broken.add(field, "multiselect needs options to select");
            }
            return;
        };
        if options.is_empty() {
            broken.add(field, "at least one option");
        }
        let item = self.data_type.item();
        let mut seen = BTreeSet::new();
        for (at, option) in options.iter().enumerate() {
            // The specification's model writes every option as a text.
            let fits = option.is(item) || ParameterValue::from_text(&option.to_env(), item).is_some();
            if !fits || matches!(option, ParameterValue::List(_)) {
                broken.add(format!("{field}[{at}]"), format!("must be {item}"));
            } else if !seen.insert(option.to_env()) {
                broken.add(format!("{field}[{at}]"), "stands twice in the list");
            }
        }
    }
}

/// Returns how many digits a number has behind its decimal point, as it is written in the shortest way.
fn digits_of_fraction(number: f64) -> u64 {
    number.to_string().split_once('.').map_or(0, |(_, digits)| digits.len() as u64)
}

/// Compiles a pattern within the limits; an error is what is wrong with it, in one line.
fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > MAX_PATTERN {
        return Err(format!("a pattern of at most {MAX_PATTERN} bytes"));
    }
    let compiled = RegexBuilder::new(pattern).size_limit(MAX_COMPILED).dfa_size_limit(8 * MAX_COMPILED).build();
    compiled.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "a pattern that stands for less: repetitions multiply".to_owned(),
        // The last line names the fault; those before it draw where it is.
        error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })
}

#[cfg(test)]
#[path = "setting_schema/tests.rs"]
mod tests;
