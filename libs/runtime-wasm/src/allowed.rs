//! What a node allows the components that it runs.

use std::net::IpAddr;

use clap::ValueEnum;
use margo::{Destination, Host, InvalidWasmSettings, Size, WasmSettings};
use runtime::ReservedPorts;

/// What wasm itself can address; without a setting of the node the package decides.
const MAX_MEMORY: &str = "4Gi";
/// More than a component keeps at an edge, and less than a node's disk.
const MAX_DATA: &str = "1Gi";

/// The most that a node allows each component. One whose package asks for more is refused.
#[derive(Clone, Debug, clap::Args)]
pub struct Allowed {
    /// The most memory that a WebAssembly component may ask for.
    #[arg(long, env = "EDGEWRIGHT_NODE_WASM_MAX_MEMORY", value_name = "SIZE", default_value = MAX_MEMORY)]
    pub wasm_max_memory: Size,
    /// The largest data folder that a WebAssembly component may ask for.
    #[arg(long, env = "EDGEWRIGHT_NODE_WASM_MAX_DATA", value_name = "SIZE", default_value = MAX_DATA)]
    pub wasm_max_data: Size,
    /// Where WebAssembly components may connect to.
    #[arg(long, env = "EDGEWRIGHT_NODE_WASM_EGRESS", default_value = "declared")]
    pub wasm_egress: Egress,
}

/// Where the components of a node may connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Egress {
    /// Each to what its package names, but to none of the platform's own servers on this node, and to the node's collector of
    /// telemetry.
    Declared,
    /// Nowhere: a component whose package names something is refused, and none is told of a collector.
    None,
}

impl Default for Allowed {
    fn default() -> Self {
        // These are the constants above.
        let (wasm_max_memory, wasm_max_data) = (Size::mebibytes(4 << 10), Size::mebibytes(1 << 10));
        Self { wasm_max_memory, wasm_max_data, wasm_egress: Egress::Declared }
    }
}

impl Allowed {
    /// Checks what a component asks for against what this node allows. Its workloads listen on `address`, and `reserved` are
    /// the ports of the platform's own servers.
    pub fn check(
        &self,
        asked: &WasmSettings,
        address: IpAddr,
        reserved: &ReservedPorts,
    ) -> Result<(), InvalidWasmSettings> {
        let refuse = |field: &str, rule: String| Err(InvalidWasmSettings { field: field.to_owned(), rule });
        if let Some(port) = asked.port().filter(|port| reserved.contains(*port)) {
            return refuse(
                "http.port",
                format!("{port} is reserved for the platform's own servers; choose another one"),
            );
        }
        for (field, asked, most) in
            [("memory", Some(asked.memory), self.wasm_max_memory), ("data", asked.data, self.wasm_max_data)]
        {
            if let Some(asked) = asked.filter(|asked| *asked > most) {
                return refuse(field, format!("{asked} is more than this node allows, {most}"));
            }
        }
        if self.wasm_egress == Egress::None && !asked.egress.is_empty() {
            return refuse("egress", "this node allows no connections from components".to_owned());
        }
        let is_ours = |to: &&Destination| match to.host {
            Host::Address(host) => reserved.contains(to.port.get()) && (host.is_loopback() || host == address),
            Host::Name(_) => false,
        };
        match asked.egress.iter().find(is_ours) {
            Some(to) => refuse("egress", format!("{to} is reserved for the platform's own servers")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        allowed: Allowed,
    }

    fn check(line: &[&str], settings: &Value) -> Result<(), InvalidWasmSettings> {
        let allowed = Arguments::try_parse_from(["edge-node"].iter().chain(line)).unwrap().allowed;
        let reserved = "4222,4323-4325".parse().unwrap();
        allowed.check(&WasmSettings::parse(settings).unwrap(), "192.0.2.7".parse().unwrap(), &reserved)
    }

    #[test]
    fn without_a_setting_of_the_node_the_package_decides() {
        let (said, default) = (Arguments::try_parse_from(["edge-node"]).unwrap().allowed, Allowed::default());
        assert_eq!((said.wasm_max_memory, said.wasm_max_data), (default.wasm_max_memory, default.wasm_max_data));
        let most = json!({
            "http": { "port": 80 }, "memory": "4Gi", "data": "1Gi",
            "egress": ["127.0.0.1:5432", "192.0.2.7:80", "192.0.2.8:4222", "db.example.com:4222"],
        });
        check(&[], &most).unwrap();
    }

    #[test]
    fn what_the_node_does_not_allow_is_refused_with_its_field() {
        let with = |field: &str, value: Value| {
            let mut settings = json!({ "http": { "port": 80 } });
            settings[field] = value;
            settings
        };
        for (line, settings, field, rule) in [
            (vec![], json!({ "http": { "port": 4324 } }), "http.port", "4324 is reserved"),
            (vec!["--wasm-max-memory", "63Mi"], json!({ "http": { "port": 80 } }), "memory", "64Mi is more than"),
            (vec![], with("data", json!("2Gi")), "data", "this node allows, 1Gi"),
            (vec!["--wasm-egress", "none"], with("egress", json!(["a:80"])), "egress", "no connections"),
            (vec![], with("egress", json!(["a:80", "127.0.0.1:4222"])), "egress", "127.0.0.1:4222 is reserved"),
            (vec![], with("egress", json!(["[::1]:4323"])), "egress", "reserved"),
            (vec![], with("egress", json!(["192.0.2.7:4325"])), "egress", "reserved"),
        ] {
            let refused = check(&line, &settings).unwrap_err();
            assert_eq!(refused.field, field, "{refused}");
            assert!(refused.rule.contains(rule), "{refused}");
        }
    }
}
