//! What a component of WebAssembly says of itself in its `x-edgewright-extensions`: whether it is a service or a command,
//! and what it may take and reach. Any other key is an error, so that a misspelt limit is not taken for none.
//!
//! The settings are checked where packages are made and taken, and again by the node that starts the component.

mod destination;

use std::{fmt, num::NonZeroU16, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Size;

pub use destination::{Destination, Host, InvalidDestination};

/// Enough for most services, and small enough that a leak is noticed before the node suffers.
const DEFAULT_MEMORY: Size = Size::mebibytes(64);
/// One page of WebAssembly memory at least; 32 bits address no more than 4 GiB.
const MEMORY: std::ops::RangeInclusive<u64> = (64 << 10)..=(4 << 30);
/// A file system gives space out in blocks of 4 KiB; more than 64 GiB is no data of one component on an edge node.
const DATA: std::ops::RangeInclusive<u64> = (64 << 10)..=(64 << 30);
/// Who waits longer than 30 s for an answer says so.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// A request that takes longer than five minutes is work for a command.
const TIMEOUT: std::ops::RangeInclusive<u64> = 1..=300;
/// More destinations than one component names: each is compared with every connection.
const MAX_EGRESS: usize = 32;

/// The settings of a component, every value of which was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WasmSettings {
    /// What the component is.
    pub role: WasmRole,
    /// The memory that all its instances may hold together.
    pub memory: Size,
    /// The size of its data folder. `None` when it asks for no data folder.
    pub data: Option<Size>,
    /// Where it may connect to; nowhere when this is empty.
    pub egress: Vec<Destination>,
}

/// What a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WasmRole {
    /// It answers HTTP requests (`wasi:http/incoming-handler`).
    Service {
        /// The port on which it answers.
        port: NonZeroU16,
        /// How long one request may take.
        timeout: Duration,
    },
    /// It is a program that runs from its beginning to its end (`wasi:cli/run`).
    Command {
        /// What becomes of it when it has ended.
        restart: Restart,
    },
}

/// What becomes of a command that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// One that ended with 0 has done what it was to do and is not started again, as a Job of Kubernetes and a service of
    /// Compose with `restart: on-failure`. Any other end is a failure, and it is started again.
    #[default]
    OnFailure,
    /// It is started again whatever it ended with, as a service of systemd or Compose with `always`.
    Always,
}

/// Settings that are refused: which field, and the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidWasmSettings {
    /// The path below `x-edgewright-extensions`, such as `http.port`. It is empty when the whole is meant.
    pub field: String,
    /// What is required there, or what is wrong.
    pub rule: String,
}

impl fmt::Display for InvalidWasmSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.field.is_empty() { "" } else { "." };
        write!(f, "x-edgewright-extensions{dot}{}: {}", self.field, self.rule)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    http: Option<Http>,
    command: Option<Command>,
    memory: Option<Size>,
    data: Option<Size>,
    #[serde(default)]
    egress: Vec<Destination>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Http {
    port: NonZeroU16,
    timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    #[serde(default)]
    restart: Restart,
}

impl WasmSettings {
    /// Reads the extension as the document has it; `null` stands for a missing one.
    pub fn parse(value: &Value) -> Result<Self, InvalidWasmSettings> {
        if value.is_null() {
            return Err(invalid("", "a wasm component needs http.port, or command when it answers no requests"));
        }
        let written: Written = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            invalid(if path == "." { "" } else { &path }, &error.into_inner().to_string())
        })?;
        let role = match (written.http, written.command) {
            (Some(http), None) => WasmRole::Service { port: http.port, timeout: timeout(http.timeout.as_deref())? },
            (None, Some(command)) => WasmRole::Command { restart: command.restart },
            (Some(_), Some(_)) => {
                return Err(invalid("command", "a component that has http is a service; give one of both"));
            }
            (None, None) => return Err(invalid("", "either http or command must be given")),
        };
        let within = |field, size: Option<Size>, range: &std::ops::RangeInclusive<u64>| match size {
            Some(size) if !range.contains(&size.bytes()) => {
                let (least, most) = (Size::of(*range.start()), Size::of(*range.end()));
                Err(invalid(field, &format!("{size} must be {least} to {most}")))
            }
            size => Ok(size),
        };
        if written.egress.len() > MAX_EGRESS {
            return Err(invalid("egress", &format!("at most {MAX_EGRESS} destinations")));
        }
        Ok(Self {
            role,
            memory: within("memory", written.memory, &MEMORY)?.unwrap_or(DEFAULT_MEMORY),
            data: within("data", written.data, &DATA)?,
            egress: written.egress,
        })
    }

    /// Returns the port on which a service answers; a command has none.
    pub fn port(&self) -> Option<u16> {
        match self.role {
            WasmRole::Service { port, .. } => Some(port.get()),
            WasmRole::Command { .. } => None,
        }
    }
}

fn timeout(text: Option<&str>) -> Result<Duration, InvalidWasmSettings> {
    let Some(text) = text else { return Ok(DEFAULT_TIMEOUT) };
    let number =
        text.strip_suffix('s').filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    let seconds = number.and_then(|digits| digits.parse().ok()).filter(|seconds| TIMEOUT.contains(seconds));
    let (least, most) = (TIMEOUT.start(), TIMEOUT.end());
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| invalid("http.timeout", &format!("{text:?} must be seconds such as 30s, {least}s to {most}s")))
}

fn invalid(field: &str, rule: &str) -> InvalidWasmSettings {
    InvalidWasmSettings { field: field.to_owned(), rule: rule.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_sets_its_port_and_may_set_its_limits() {
        let settings = WasmSettings::parse(&json!({ "http": { "port": 8080 } })).unwrap();
        assert_eq!((settings.port(), settings.memory.bytes()), (Some(8080), 64 << 20));
        assert_eq!((settings.data, settings.egress.len()), (None, 0));
        let all = json!({
            "http": { "port": 1, "timeout": "5s" }, "memory": "1Gi", "data": "16Mi", "egress": ["db.example.com:5432"],
        });
        let settings = WasmSettings::parse(&all).unwrap();
        let timeout = Duration::from_secs(5);
        assert_eq!(settings.role, WasmRole::Service { port: NonZeroU16::MIN, timeout });
        assert_eq!((settings.memory.bytes(), settings.data.map(Size::bytes)), (1 << 30, Some(16 << 20)));
        assert_eq!(settings.egress[0].to_string(), "db.example.com:5432");
    }

    #[test]
    fn a_command_has_no_port_and_may_say_what_becomes_of_it() {
        for (written, restart) in [
            (json!({ "command": {} }), Restart::OnFailure),
            (json!({ "command": { "restart": "on-failure" } }), Restart::OnFailure),
            (json!({ "command": { "restart": "always" } }), Restart::Always),
        ] {
            let settings = WasmSettings::parse(&written).unwrap();
            assert_eq!((settings.role, settings.port()), (WasmRole::Command { restart }, None));
        }
    }

    #[test]
    fn a_wrong_setting_is_refused_with_its_field_and_the_rule() {
        let many: Vec<_> = (1..=33).map(|port| format!("a:{port}")).collect();
        for (settings, field, rule) in [
            (json!(null), "", "http.port"),
            (json!({}), "", "either http or command"),
            (json!({ "http": { "port": 80 }, "command": {} }), "command", "one of both"),
            (json!({ "http": {} }), "http", "port"),
            (json!({ "http": { "port": 0 } }), "http.port", "nonzero"),
            (json!({ "http": { "port": 70_000 } }), "http.port", "70000"),
            (json!({ "http": { "port": 80, "tls": true } }), "http.tls", "tls"),
            (json!({ "http": { "port": 80, "timeout": "1m" } }), "http.timeout", "1s to 300s"),
            (json!({ "http": { "port": 80, "timeout": "0s" } }), "http.timeout", "1s to 300s"),
            (json!({ "http": { "port": 80, "timeout": "+1s" } }), "http.timeout", "seconds"),
            (json!({ "http": { "port": 80 }, "memroy": "1Mi" }), "memroy", "memroy"),
            (json!({ "http": { "port": 80 }, "memory": "64MB" }), "memory", "64MB"),
            (json!({ "http": { "port": 80 }, "memory": "1Ki" }), "memory", "64Ki to 4Gi"),
            (json!({ "http": { "port": 80 }, "data": "65Gi" }), "data", "64Ki to 64Gi"),
            (json!({ "http": { "port": 80 }, "data": 5 }), "data", "string"),
            (json!({ "http": { "port": 80 }, "egress": ["a:80", "*:80"] }), "egress[1]", "*:80"),
            (json!({ "http": { "port": 80 }, "egress": many }), "egress", "at most 32"),
            (json!({ "command": { "restart": "never" } }), "command.restart", "on-failure"),
        ] {
            let error = WasmSettings::parse(&settings).unwrap_err();
            assert_eq!(error.field, field, "{settings}: {error}");
            assert!(error.rule.contains(rule), "{settings}: {error}");
        }
    }
}
