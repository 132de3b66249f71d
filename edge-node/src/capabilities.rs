//! What this node can do: Margo's DeviceCapabilitiesManifest, found by looking (DEV-09, DEV-10, DEV-12).
//!
//! Only what is there is reported. `otelCollector` is therefore true where the operator has named one: DEV-10 wants a collector
//! on every device that runs workloads, and this release does not bring one to the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use margo::{DeviceId, NodeId, ProfileType};
use runtime::Runtime;
use serde::Serialize;
use serde_json::Value;
use tokio::{sync::watch, time::interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::journal::Journal;

/// Hardware changes rarely, but the engine of a runtime may stop or come at any time, and what is ordered for this node follows
/// its capabilities. A look is a few dozen small files and a question to each runtime.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// Margo's document of that name, as it is sent to the site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceCapabilitiesManifest {
    pub properties: Properties,
    /// Labels by which orders select nodes (DEV-12).
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Properties {
    /// The DeviceId, which for our own nodes is `<client>/<node>`.
    pub id: DeviceId,
    /// The maker of the hardware; `unknown` when the firmware does not say.
    pub vendor: String,
    /// The model that the firmware names; `unknown` when it does not.
    pub model_number: String,
    /// The serial number of the firmware, else one derived from the machine's id; `unknown` when neither is there.
    pub serial_number: String,
    /// Absent on a device that runs no workloads (DEV-11).
    #[serde(flatten)]
    pub hosting: Option<Hosting>,
}

/// The resources that workloads find on this host.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hosting {
    pub cpus: Vec<Cpu>,
    /// A number of mebibytes with the unit, such as `1024Mi`.
    pub memory: String,
    /// A number of mebibytes with the unit, such as `1024Mi`.
    pub storage: String,
    /// Margo's words are `gpu` and `camera`.
    pub peripherals: BTreeSet<Kind>,
    /// ethernet, wifi, cellular, canbus, bluetooth, usb.
    pub interfaces: BTreeSet<Kind>,
    /// Whether there is an OpenTelemetry collector for workloads.
    pub otel_collector: bool,
    /// Margo's words are `oci` and `custom`.
    pub supported_runtimes: BTreeSet<&'static str>,
    /// Margo's words are `helm`, `compose` and `custom`.
    pub supported_deployment_types: BTreeSet<ProfileType>,
}

/// The processors of the host that are alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cpu {
    pub cores: usize,
    /// amd64, arm64 or arm; absent for any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<&'static str>,
}

/// Something of this kind is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Kind {
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// The places where capabilities are looked for.
#[derive(Clone)]
pub struct Look {
    /// `/`, another folder in tests.
    pub root: PathBuf,
    /// The file system where workloads and artifacts are kept.
    pub data: PathBuf,
    /// Whether workloads are told of a collector.
    pub has_collector: bool,
}

/// Describes the node to the journal and to whoever decides what may run here, now and whenever it has changed (DEV-09), until
/// shutdown.
pub async fn run(
    look: Look,
    node: NodeId,
    runtimes: Vec<Arc<dyn Runtime>>,
    journal: Arc<Journal>,
    device: watch::Sender<Option<Arc<Value>>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut due = interval(LOOK_AGAIN);
    let (mut described, mut reasons) = (Vec::new(), BTreeMap::new());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = due.tick() => {}
        }
        let found = detect(&runtimes, &mut reasons).await;
        let (look, node) = (look.clone(), node.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let manifest = look.manifest(&node, &found);
            anyhow::Ok((serde_json::to_vec(&manifest)?, serde_json::to_value(&manifest)?))
        });
        let (manifest, value) = looked.await??;
        if manifest != described {
            described.clone_from(&manifest);
            journal.with(move |journal| journal.describe(manifest)).await?;
        }
        device.send_if_modified(|held| {
            let differs = held.as_deref() != Some(&value);
            if differs {
                *held = Some(Arc::new(value));
            }
            differs
        });
    }
}

/// The runtimes that can run something here and now. Why another cannot is told once, and again when the reason changes.
async fn detect(
    runtimes: &[Arc<dyn Runtime>],
    reasons: &mut BTreeMap<&'static str, String>,
) -> Vec<(&'static str, ProfileType)> {
    let mut found = Vec::new();
    for runtime in runtimes {
        match runtime.detect().await {
            Ok(()) => {
                if reasons.remove(runtime.name()).is_some() {
                    info!(runtime = runtime.name(), "this runtime can be used here now");
                }
                found.push((runtime.name(), runtime.deployment_type()));
            }
            Err(reason) => {
                if reasons.get(runtime.name()) != Some(&reason) {
                    warn!(runtime = runtime.name(), reason, "this runtime cannot be used here");
                    reasons.insert(runtime.name(), reason);
                }
            }
        }
    }
    found
}

impl Look {
    /// The document of this node with these runtimes.
    pub fn manifest(&self, node: &NodeId, runtimes: &[(&'static str, ProfileType)]) -> DeviceCapabilitiesManifest {
        let unknown = || "unknown".to_owned();
        let dmi = |field: &str| self.text(&format!("sys/class/dmi/id/{field}"));
        let tree = |field: &str| self.text(&format!("proc/device-tree/{field}"));
        DeviceCapabilitiesManifest {
            properties: Properties {
                id: node.into(),
                vendor: dmi("sys_vendor").unwrap_or_else(unknown),
                model_number: dmi("product_name").or_else(|| tree("model")).unwrap_or_else(unknown),
                // Only root may read the one of DMI.
                serial_number: dmi("product_serial")
                    .or_else(|| tree("serial-number"))
                    .or_else(|| self.derived_serial())
                    .unwrap_or_else(unknown),
                hosting: (!runtimes.is_empty()).then(|| self.hosting(runtimes)),
            },
            labels: runtimes
                .iter()
                .map(|(name, _)| (format!("edgewright.dev/runtime-{name}"), "true".to_owned()))
                .collect(),
        }
    }

    fn hosting(&self, runtimes: &[(&'static str, ProfileType)]) -> Hosting {
        let types: BTreeSet<ProfileType> = runtimes.iter().map(|(_, kind)| *kind).collect();
        let runs = |kind: &ProfileType| match kind {
            ProfileType::Helm | ProfileType::Compose => "oci",
            ProfileType::Custom => "custom",
        };
        Hosting {
            cpus: vec![Cpu {
                cores: std::thread::available_parallelism().map_or(1, usize::from),
                architecture: match std::env::consts::ARCH {
                    "x86_64" => Some("amd64"),
                    "aarch64" => Some("arm64"),
                    "arm" => Some("arm"),
                    _ => None,
                },
            }],
            memory: mebibytes(self.memory_kib().unwrap_or_default() >> 10),
            storage: mebibytes(self.storage_bytes().unwrap_or_default() >> 20),
            peripherals: self.peripherals(),
            interfaces: self.interfaces(),
            otel_collector: self.has_collector,
            supported_runtimes: types.iter().map(runs).collect(),
            supported_deployment_types: types,
        }
    }

    fn memory_kib(&self) -> Option<u64> {
        let text = self.text("proc/meminfo")?;
        text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()
    }

    fn storage_bytes(&self) -> Option<u64> {
        let file_system = rustix::fs::statvfs(&self.data).ok()?;
        file_system.f_blocks.checked_mul(file_system.f_frsize)
    }

    fn peripherals(&self) -> BTreeSet<Kind> {
        let gpu = self.names("sys/class/drm").iter().any(|name| is_numbered(name, "card"));
        let camera = !self.names("sys/class/video4linux").is_empty();
        [("gpu", gpu), ("camera", camera)]
            .into_iter()
            .filter(|(_, there)| *there)
            .map(|(kind, _)| Kind { kind })
            .collect()
    }

    fn interfaces(&self) -> BTreeSet<Kind> {
        let network = self.names("sys/class/net").into_iter().filter_map(|name| self.network_interface(&name));
        let busses = [("bluetooth", "sys/class/bluetooth"), ("usb", "sys/bus/usb/devices")];
        let busses = busses.into_iter().filter(|(_, folder)| !self.names(folder).is_empty()).map(|(kind, _)| kind);
        network.chain(busses).map(|kind| Kind { kind }).collect()
    }

    /// Bridges, tunnels and the ends of container networks have no device behind them.
    fn network_interface(&self, name: &str) -> Option<&'static str> {
        let folder = self.root.join("sys/class/net").join(name);
        if !folder.join("device").exists() {
            return None;
        }
        let kind = fs::read_to_string(folder.join("type")).ok()?;
        let cellular = fs::read_to_string(folder.join("uevent")).is_ok_and(|text| text.contains("DEVTYPE=wwan"));
        // ARPHRD_ETHER and ARPHRD_CAN of Linux.
        match kind.trim() {
            _ if cellular => Some("cellular"),
            "1" if folder.join("phy80211").exists() || folder.join("wireless").exists() => Some("wifi"),
            "1" => Some("ethernet"),
            "280" => Some("canbus"),
            _ => None,
        }
    }

    /// Made from the machine's id, which itself must not leave the machine.
    fn derived_serial(&self) -> Option<String> {
        let machine = self.text("etc/machine-id")?;
        let mut serial = margo::Digest::of(format!("edgewright serial {machine}").as_bytes()).hex();
        serial.truncate(16);
        Some(serial)
    }

    /// A file's text without what surrounds it; none when there is none.
    fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    }
}

/// Whether a name is this word and a number, and nothing else: `card0` is, `card0-HDMI-A-1` is not.
fn is_numbered(name: &str, word: &str) -> bool {
    name.strip_prefix(word).is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Writes an amount of memory as constraints write theirs: `^[0-9]+(Mi|Gi|Ki)$`.
fn mebibytes(count: u64) -> String {
    format!("{count}Mi")
}

#[cfg(test)]
#[path = "capabilities/tests.rs"]
mod tests;
