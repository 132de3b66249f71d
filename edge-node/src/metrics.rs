//! What is measured here; it rides on reports.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bus::proto::Metric;

/// Lines of `/proc/self/status` and their metrics: what this process has in memory, and what of it no file stands behind.
const MEMORY: [(&str, &str); 2] =
    [("VmRSS:", "edgewright_edge_node_rss_bytes"), ("RssAnon:", "edgewright_edge_node_rss_anon_bytes")];

/// The last values of what the reconciler measures. Each report of the node carries them.
#[derive(Default)]
pub struct Gauges {
    workloads: AtomicU64,
    reconcile_microseconds: AtomicU64,
}

impl Gauges {
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
    fn the_memory_of_this_process_is_among_them() {
        let metrics = Gauges::default().read(3);
        let value = |name: &str| metrics.iter().find(|metric| metric.name == name).unwrap().value;
        assert_eq!(value("edgewright_edge_node_spool_transitions"), 3.0);
        assert!(value("edgewright_edge_node_rss_anon_bytes") > 0.0);
        assert!(value("edgewright_edge_node_rss_bytes") >= value("edgewright_edge_node_rss_anon_bytes"));
    }
}
