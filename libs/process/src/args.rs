//! Arguments that every program has, and parsers for arguments of one kind.

use std::time::Duration;

use clap::{Args, ValueEnum};

/// How a program logs and where its traces go.
#[derive(Clone, Debug, Args)]
pub struct TelemetryArgs {
    /// What is logged, such as `info` or `info,git_writer=debug`.
    #[arg(long, env = "EDGEWRIGHT_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How it is logged.
    #[arg(long, env = "EDGEWRIGHT_LOG_FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// Base URL of an OTLP/HTTP receiver for traces, such as http://127.0.0.1:4318. Absent: traces are not exported.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true)]
    pub otlp_endpoint: Option<String>,
}

/// The form in which a program writes its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines of text for people.
    Text,
    /// One JSON object on each line, for programs.
    Json,
}

/// Reads a duration such as `500ms`, `15s`, `5m` or `2h`. It fails without a unit, and for fractions.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} must be a number and a unit, such as 15s"))?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("{text:?} must end with ms, s, m or h")),
    };
    milliseconds.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7_200)));
        for bad in ["", "15", "s", "1.5s", "-1s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
