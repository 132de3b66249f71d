//! What a component's `x-edgewright-extensions` may set: its port, and the memory that it may take. Any other key is an
//! error, so that a misspelt limit is not taken for none.

use std::num::NonZeroU16;

use runtime::RuntimeError;
use serde::Deserialize;

/// Enough for most services, and small enough that a leak is noticed before the node suffers.
const DEFAULT_MEMORY: u64 = 64 << 20;
/// One page of WebAssembly memory at least; 32 bits address no more than 4 GiB.
const MEMORY: std::ops::RangeInclusive<u64> = (64 << 10)..=(4 << 30);

/// Settings whose every value was checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// The port on which the workload listens.
    pub port: NonZeroU16,
    /// The memory that all requests in work may hold together, in bytes.
    pub memory: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    http: Http,
    memory: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Http {
    port: NonZeroU16,
}

impl Settings {
    /// Reads the extension as the document has it.
    pub fn parse(value: &serde_json::Value) -> Result<Self, RuntimeError> {
        let invalid = |why: String| RuntimeError::Invalid(format!("x-edgewright-extensions of the component: {why}"));
        if value.is_null() {
            return Err(invalid("missing; a wasm component needs at least http.port".into()));
        }
        let written = Written::deserialize(value).map_err(|error| invalid(error.to_string()))?;
        let memory = match &written.memory {
            None => DEFAULT_MEMORY,
            Some(text) => bytes(text)
                .filter(|bytes| MEMORY.contains(bytes))
                .ok_or_else(|| invalid(format!("memory: {text:?} must be a number with Ki, Mi or Gi, 64Ki to 4Gi")))?,
        };
        Ok(Self { port: written.http.port, memory })
    }
}

/// Returns the number of bytes that a text such as `64Mi` means: 67,108,864. Returns `None` for any other form.
fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = [("Ki", 10), ("Mi", 20), ("Gi", 30)]
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))?;
    // `parse` alone would take a sign.
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_component_sets_its_port_and_may_set_its_memory() {
        let settings = Settings::parse(&json!({ "http": { "port": 8080 } })).unwrap();
        assert_eq!((settings.port.get(), settings.memory), (8080, 64 << 20));
        let settings = Settings::parse(&json!({ "http": { "port": 1 }, "memory": "1Gi" })).unwrap();
        assert_eq!(settings.memory, 1 << 30);
    }

    #[test]
    fn a_wrong_setting_is_refused_with_its_name() {
        for (settings, named) in [
            (json!(null), "http.port"),
            (json!({}), "http"),
            (json!({ "http": { "port": 0 } }), "nonzero"),
            (json!({ "http": { "port": 70_000 } }), "70000"),
            (json!({ "http": { "port": 80, "tls": true } }), "tls"),
            (json!({ "http": { "port": 80 }, "memroy": "1Mi" }), "memroy"),
            (json!({ "http": { "port": 80 }, "memory": "64MB" }), "64MB"),
            (json!({ "http": { "port": 80 }, "memory": "+1Mi" }), "+1Mi"),
            (json!({ "http": { "port": 80 }, "memory": "1Ki" }), "64Ki to 4Gi"),
            (json!({ "http": { "port": 80 }, "memory": "99999999999999999Gi" }), "4Gi"),
        ] {
            let error = Settings::parse(&settings).unwrap_err().to_string();
            assert!(error.contains(named), "{settings}: {error}");
        }
    }
}
