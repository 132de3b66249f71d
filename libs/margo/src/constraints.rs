//! What a device must have to be eligible, as descriptions and deployments say it (rule digest §3.5), and which of it could never
//! be evaluated.

use serde::{Deserialize, Serialize};

use crate::{DataType, ParameterValue, Size, document::Broken};

/// What a device must have to be eligible. A node evaluates the rules before it runs anything (DEV-24); capacities are kept and
/// passed on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeviceConstraints {
    /// The processor, memory and storage that the application needs at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_requirements: Option<CapacityRequirements>,
    /// Rules about properties and labels of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eligibility_rules: Option<Vec<EligibilityRule>>,
}

/// The processor, memory and storage that an application needs at least, in the specification's units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct CapacityRequirements {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuRequirement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Size>,
}

/// The number of cores, and the architectures that the artifact can run on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct CpuRequirement {
    pub cores: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architectures: Option<Vec<Architecture>>,
}

/// A processor architecture, by the name that constraints use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub enum Architecture {
    Amd64,
    Arm64,
    Arm,
    Riscv64,
    Other,
}

/// A rule about the device's properties and labels. When both selectors are given, both must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct EligibilityRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub property_selector: Option<Selector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<Selector>,
}

/// A set of expressions, all of which must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct Selector {
    pub match_expressions: Vec<MatchExpression>,
}

/// One comparison of a property or a label with values (APP-07).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct MatchExpression {
    pub key: String,
    pub operator: SelectorOperator,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<ParameterValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_selector: Option<Selector>,
}

/// How an expression compares the value that the device has with the values that are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub enum SelectorOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    ContainsAll,
    ContainsAny,
}

impl DeviceConstraints {
    /// Checks that all of it can be evaluated. `field` is the path of the constraints.
    pub(crate) fn check(&self, field: &str, broken: &mut Broken) {
        if let Some(capacities) = &self.capacity_requirements {
            capacities.check(&format!("{field}.capacityRequirements"), broken);
        }
        let rules = self.eligibility_rules.as_deref().unwrap_or_default();
        check_rules(rules, &format!("{field}.eligibilityRules"), broken);
    }
}

impl CapacityRequirements {
    fn check(&self, field: &str, broken: &mut Broken) {
        let is_above_zero = |cpu: &CpuRequirement| cpu.cores.is_finite() && cpu.cores > 0.0;
        if !self.cpu.as_ref().is_none_or(is_above_zero) {
            broken.add(format!("{field}.cpu.cores"), "must be a number above zero");
        }
        for (name, size) in [("memory", self.memory), ("storage", self.storage)] {
            if size.is_some_and(|size| size.bytes() == 0) {
                broken.add(format!("{field}.{name}"), "must be above zero, or it would demand nothing");
            }
        }
        if self.memory.is_some_and(|memory| !memory.is_of_memory()) {
            broken.add(format!("{field}.memory"), "must be a whole number with Ki, Mi or Gi");
        }
    }
}

/// Checks that each rule can be evaluated (APP-07). `field` is the path of the rules.
fn check_rules(rules: &[EligibilityRule], field: &str, broken: &mut Broken) {
    for (at, rule) in rules.iter().enumerate() {
        let field = format!("{field}[{at}]");
        if rule.property_selector.is_none() && rule.label_selector.is_none() {
            broken.add(&field, "needs a propertySelector or a labelSelector");
        }
        if let Some(selector) = &rule.property_selector {
            check_selector(selector, &format!("{field}.propertySelector"), true, broken);
        }
        if let Some(selector) = &rule.label_selector {
            check_selector(selector, &format!("{field}.labelSelector"), false, broken);
        }
    }
}

fn check_selector(selector: &Selector, field: &str, has_pointers: bool, broken: &mut Broken) {
    use SelectorOperator::{ContainsAll, ContainsAny, DoesNotExist, Exists, Gt, In, Lt, NotIn};
    if selector.match_expressions.is_empty() {
        broken.add(format!("{field}.matchExpressions"), "at least one expression");
    }
    for (at, expression) in selector.match_expressions.iter().enumerate() {
        let MatchExpression { key, operator, values, item_selector } = expression;
        let field = format!("{field}.matchExpressions[{at}]");
        if key.trim_start_matches('/').is_empty() {
            broken.add(format!("{field}.key"), "must name something");
        } else if has_pointers && !is_pointer(key) {
            broken.add(format!("{field}.key"), "must be a JSON Pointer: ~ stands only in ~0 and ~1");
        }
        let values = values.as_deref();
        let rule = match operator {
            In | NotIn if !are_comparable(values.unwrap_or_default()) => {
                Some("one or more texts, one or more numbers, or one of true and false")
            }
            Gt | Lt if !matches!(values, Some([value]) if value.number().is_some()) => Some("exactly one number"),
            Exists | DoesNotExist | ContainsAll | ContainsAny if values.is_some() => {
                Some("must be left out with this operator")
            }
            In | NotIn | Gt | Lt | Exists | DoesNotExist | ContainsAll | ContainsAny => None,
        };
        if let Some(rule) = rule {
            broken.add(format!("{field}.values"), rule);
        }
        let items = format!("{field}.itemSelector");
        match (item_selector, matches!(operator, ContainsAll | ContainsAny)) {
            (Some(selector), true) => check_selector(selector, &items, true, broken),
            (Some(_), false) => broken.add(items, "must be left out with this operator"),
            (None, true) => broken.add(items, "must say what an item has to be"),
            (None, false) => {}
        }
    }
}

/// Whether this is a JSON Pointer, whose leading `/` may be left out.
fn is_pointer(key: &str) -> bool {
    key.split('~').skip(1).all(|escaped| escaped.starts_with(['0', '1']))
}

/// Whether a value of a device can be compared with these: texts alone, numbers alone, or one truth value.
fn are_comparable(values: &[ParameterValue]) -> bool {
    let are_texts = values.iter().all(|value| value.is(DataType::Text));
    let are_numbers = values.iter().all(|value| value.is(DataType::Double));
    match values {
        [] => false,
        [one] => are_texts || are_numbers || one.is(DataType::Boolean),
        _ => are_texts || are_numbers,
    }
}
