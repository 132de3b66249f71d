//! Whether a device may run what an application's constraints ask for (rule digest §5.5).
//!
//! One of the rules has to hold; without rules every device is eligible. A rule holds when its two selectors do, and a selector
//! when all its expressions do. What an expression names and the device does not have, or has in another form than the
//! operator compares, does not match.

use serde_json::Value;

use crate::{
    ParameterValue,
    constraints::{DeviceConstraints, EligibilityRule, MatchExpression, Selector, SelectorOperator},
};

impl DeviceConstraints {
    /// Whether a device with this DeviceCapabilitiesManifest satisfies one of the eligibility rules, if there are any.
    pub fn admits(&self, device: &Value) -> bool {
        match self.eligibility_rules.as_deref() {
            None | Some([]) => true,
            Some(rules) => rules.iter().any(|rule| holds(rule, device)),
        }
    }

    /// Whether there are rules for which a device has to be known.
    pub fn has_rules(&self) -> bool {
        self.eligibility_rules.as_ref().is_some_and(|rules| !rules.is_empty())
    }
}

fn holds(rule: &EligibilityRule, device: &Value) -> bool {
    // Keys of properties are JSON pointers below `properties`; a label's key is its name.
    let property = |key: &str| pointed(&device["properties"], key);
    let label = |key: &str| device["labels"].get(key);
    let selects = |selector: &Option<Selector>, find: &dyn Fn(&str) -> Option<Value>| {
        selector
            .as_ref()
            .is_none_or(|selector| selector.match_expressions.iter().all(|it| matches(it, find(&it.key).as_ref())))
    };
    selects(&rule.property_selector, &|key| property(key).cloned())
        && selects(&rule.label_selector, &|key| label(key).cloned())
}

/// Follows a JSON pointer; the leading `/` may be left out, as in the examples of the specification.
fn pointed<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    if key.starts_with('/') { value.pointer(key) } else { value.pointer(&format!("/{key}")) }
}

fn matches(expression: &MatchExpression, found: Option<&Value>) -> bool {
    let values = expression.values.as_deref().unwrap_or_default();
    let elements = |found: &Value| found.as_array().cloned().unwrap_or_else(|| vec![found.clone()]);
    let comparable =
        |found: &Value| elements(found).iter().all(|it| !it.is_object() && !it.is_array() && !it.is_null());
    let is_one_of = |found: &Value| elements(found).iter().any(|it| values.iter().any(|value| equals(it, value)));
    let number = || match values {
        [value] => value.number(),
        _ => None,
    };
    let inner =
        || expression.item_selector.as_ref().map(|selector| selector.match_expressions.as_slice()).unwrap_or_default();
    let item = |element: &Value, it: &MatchExpression| matches(it, pointed(element, &it.key));
    match (expression.operator, found) {
        (SelectorOperator::Exists, found) => found.is_some(),
        (SelectorOperator::DoesNotExist, found) => found.is_none(),
        (_, None) => false,
        (SelectorOperator::In, Some(found)) => comparable(found) && is_one_of(found),
        (SelectorOperator::NotIn, Some(found)) => comparable(found) && !is_one_of(found),
        (SelectorOperator::Gt, Some(found)) => {
            found.as_f64().zip(number()).is_some_and(|(found, number)| found > number)
        }
        (SelectorOperator::Lt, Some(found)) => {
            found.as_f64().zip(number()).is_some_and(|(found, number)| found < number)
        }
        (SelectorOperator::ContainsAll, Some(found)) => found.as_array().is_some_and(|found| {
            !inner().is_empty() && found.iter().any(|element| inner().iter().all(|it| item(element, it)))
        }),
        (SelectorOperator::ContainsAny, Some(found)) => {
            found.as_array().is_some_and(|found| found.iter().any(|element| inner().iter().any(|it| item(element, it))))
        }
    }
}

/// Texts are compared exactly, numbers by their value.
fn equals(found: &Value, value: &ParameterValue) -> bool {
    let Ok(value) = serde_json::to_value(value) else { return false };
    match (found.as_f64(), value.as_f64()) {
        (Some(found), Some(value)) => found == value,
        _ => *found == value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn device() -> Value {
        json!({
            "properties": {
                "vendor": "ACME",
                "cpus": [{ "cores": 4, "architecture": "amd64" }],
                "interfaces": [{ "type": "ethernet" }, { "type": "wifi", "band": 5 }],
                "supportedRuntimes": ["oci", "custom"],
                "otelCollector": false,
            },
            "labels": { "line": "7", "edgewright.dev/runtime-wasm": "true" },
        })
    }

    fn admits(rules: Value) -> bool {
        let constraints: DeviceConstraints = serde_json::from_value(json!({ "eligibilityRules": rules })).unwrap();
        constraints.admits(&device())
    }

    fn property(expression: Value) -> bool {
        admits(json!([{ "propertySelector": { "matchExpressions": [expression] } }]))
    }

    fn label(expression: Value) -> bool {
        admits(json!([{ "labelSelector": { "matchExpressions": [expression] } }]))
    }

    #[test]
    fn one_rule_has_to_hold_with_both_its_selectors() {
        let selector = |key: &str| json!({ "matchExpressions": [{ "key": key, "operator": "Exists" }] });
        assert!(admits(json!([])));
        let both = |property: &str, label: &str| json!({ "propertySelector": selector(property), "labelSelector": selector(label) });
        assert!(admits(json!([both("/vendor", "line")])));
        assert!(!admits(json!([both("/vendor", "hall")])) && !admits(json!([both("/model", "line")])));
        assert!(admits(json!([both("/vendor", "hall"), both("/vendor", "line")])));
    }

    #[test]
    fn values_are_compared_exactly_and_lists_by_any_element() {
        for (key, operator, values, holds) in [
            ("/vendor", "In", json!(["ACME", "Other"]), true),
            ("/vendor", "In", json!(["acme"]), false),
            ("/supportedRuntimes", "In", json!(["custom"]), true),
            ("/supportedRuntimes", "NotIn", json!(["custom"]), false),
            ("/supportedRuntimes", "NotIn", json!(["vm"]), true),
            ("/model", "NotIn", json!(["x"]), false),
            ("/otelCollector", "In", json!([false]), true),
            ("/cpus/0/cores", "Gt", json!([2]), true),
            ("/cpus/0/cores", "Gt", json!([4]), false),
            ("/cpus/0/cores", "Lt", json!([4.5]), true),
            ("/cpus/0/cores", "In", json!([4]), true),
            ("/vendor", "Gt", json!([1]), false),
            ("/cpus", "In", json!(["amd64"]), false),
            ("/cpus", "NotIn", json!(["amd64"]), false),
        ] {
            let expression = json!({ "key": key, "operator": operator, "values": values });
            assert_eq!(property(expression.clone()), holds, "{expression}");
        }
        assert!(label(json!({ "key": "line", "operator": "In", "values": ["7"] })));
        assert!(!label(json!({ "key": "line", "operator": "In", "values": [7] })));
        assert!(label(json!({ "key": "hall", "operator": "DoesNotExist" })));
    }

    #[test]
    fn one_element_of_a_list_satisfies_all_inner_expressions_or_any() {
        let inner = |operator: &str, kind: &str, band: u32| {
            let kind = json!({ "key": "/type", "operator": "In", "values": [kind] });
            let band = json!({ "key": "/band", "operator": "Gt", "values": [band] });
            property(
                json!({ "key": "/interfaces", "operator": operator, "itemSelector": { "matchExpressions": [kind, band] } }),
            )
        };
        assert!(
            inner("ContainsAll", "wifi", 4) && !inner("ContainsAll", "ethernet", 4) && !inner("ContainsAll", "wifi", 5)
        );
        assert!(
            inner("ContainsAny", "ethernet", 9)
                && inner("ContainsAny", "canbus", 4)
                && !inner("ContainsAny", "canbus", 9)
        );
        assert!(!property(
            json!({ "key": "/vendor", "operator": "ContainsAny", "itemSelector": { "matchExpressions": [] } })
        ));
    }
}
