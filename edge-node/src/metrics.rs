//! What is measured here; it rides on reports.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bus::proto::Metric;

/// Lines of `/proc/self/status` and their metrics: what this process has in memory, and what of it no file stands behind.
const MEMORY: [(&str, &str); 2] =
    [("VmRSS:", "edgewright_edge_node_rss_bytes"), ("RssAnon:", "edgewright_edge_node_rss_anon_bytes")];

/// Lines of `/proc/meminfo` and their metrics: what the host has, and what workloads may still take.
const HOST_MEMORY: [(&str, &str); 2] =
    [("MemTotal:", "edgewright_node_memory_bytes"), ("MemAvailable:", "edgewright_node_memory_available_bytes")];

/// The last values of what the reconciler measures, and what the kernel counts. Each report of the node carries them.
#[derive(Default)]
pub struct Gauges {
    /// The folder on whose file system workloads and their content lie.
    data: PathBuf,
    workloads: AtomicU64,
    reconcile_microseconds: AtomicU64,
}

impl Gauges {
    /// Gauges of an agent with this data folder.
    pub fn of(data: &Path) -> Self {
        Self { data: data.to_owned(), ..Self::default() }
    }

    /// Notes how many workloads this node has.
    pub fn workloads(&self, count: usize) {
        self.workloads.store(count as u64, Ordering::Relaxed);
    }

    /// A pass that acted or saw something new took so long.
    pub fn reconciled(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.reconcile_microseconds.store(time, Ordering::Relaxed);
    }

    /// All values now; `spool` is how many transitions wait.
    pub fn read(&self, spool: usize) -> Vec<Metric> {
        let mut metrics = vec![
            metric("edgewright_edge_node_workloads", self.workloads.load(Ordering::Relaxed) as f64),
            metric("edgewright_edge_node_spool_transitions", spool as f64),
            metric(
                "edgewright_edge_node_reconcile_seconds",
                self.reconcile_microseconds.load(Ordering::Relaxed) as f64 / 1e6,
            ),
        ];
        // Counters that the kernel keeps. Proportional sizes would cost a walk over every page, for each report.
        let memory = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (field, name) in MEMORY {
            metrics.extend(kibibytes(&memory, field).map(|kib| metric(name, kib * 1024.0)));
        }
        metrics.extend(self.host());
        metrics
    }

    /// Memory, disk and load of the host. What cannot be read is left out.
    fn host(&self) -> Vec<Metric> {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let amount = |(field, name): (&str, &str)| Some(metric(name, kibibytes(&memory, field)? * 1024.0));
        let mut metrics: Vec<_> = HOST_MEMORY.into_iter().filter_map(amount).collect();
        if let Ok(disk) = rustix::fs::statvfs(&self.data) {
            let bytes = |blocks: u64| blocks as f64 * disk.f_frsize as f64;
            metrics.push(metric("edgewright_node_disk_bytes", bytes(disk.f_blocks)));
            // Without what is kept back for the administrator: nobody else can write there.
            metrics.push(metric("edgewright_node_disk_free_bytes", bytes(disk.f_bavail)));
        }
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().and_then(|load| load.parse().ok());
        metrics.extend(load.map(|load| metric("edgewright_node_load1", load)));
        metrics
    }
}

fn metric(name: &str, value: f64) -> Metric {
    Metric { name: name.to_owned(), value }
}

/// The value of a line such as `VmRSS:     1234 kB`.
fn kibibytes(text: &str, field: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_disk_and_load_of_the_host_are_among_them() {
        let metrics = Gauges::of(Path::new("/")).read(0);
        let value = |name: &str| metrics.iter().find(|metric| metric.name == name).unwrap().value;
        for (whole, part) in [("memory_bytes", "memory_available_bytes"), ("disk_bytes", "disk_free_bytes")] {
            let [whole, part] = [whole, part].map(|name| value(&format!("edgewright_node_{name}")));
            assert!(whole > 0.0 && part <= whole, "{part} of {whole}");
        }
        assert!(value("edgewright_node_load1") >= 0.0);
        let unknown = Gauges::default().read(0);
        assert!(unknown.iter().all(|metric| !metric.name.contains("disk")));
    }

    #[test]
    fn the_memory_of_this_process_is_among_them() {
        let metrics = Gauges::default().read(3);
        let value = |name: &str| metrics.iter().find(|metric| metric.name == name).unwrap().value;
        assert_eq!(value("edgewright_edge_node_spool_transitions"), 3.0);
        assert!(value("edgewright_edge_node_rss_anon_bytes") > 0.0);
        assert!(value("edgewright_edge_node_rss_bytes") >= value("edgewright_edge_node_rss_anon_bytes"));
    }
}
