//! What Prometheus sees of status-collector.

use std::{
    collections::BTreeSet,
    sync::{LazyLock, Mutex, PoisonError},
};

use margo::ClientName;
use prometheus::{IntCounter, IntCounterVec, register_int_counter, register_int_counter_vec};

use crate::window::{Entry, Verdict};

const ONCE: &str = "each metric is registered once, under a valid name";

/// Clients that have a line of their own in a metric; the others share one.
const CLIENTS: usize = 1_000;

/// Messages taken from STATE and EVENTS, by what became of them.
pub static MESSAGES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let name = "edgewright_status_collector_messages_total";
    register_int_counter_vec!(name, "Messages taken from STATE and EVENTS", &["outcome"]).expect(ONCE)
});

/// Transitions that nodes say they have dropped.
pub static LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    let name = "edgewright_status_collector_lost_transitions_total";
    register_int_counter!(name, "Transitions that nodes dropped because their spool was full").expect(ONCE)
});

/// Messages that sites asked to have stored, by what became of them.
static ASKED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let name = "edgewright_status_collector_asked_messages_total";
    register_int_counter_vec!(name, "Messages that sites asked to have stored", &["outcome"]).expect(ONCE)
});

/// Windows that were not even looked into.
static REFUSED_WINDOWS: LazyLock<IntCounter> = LazyLock::new(|| {
    let name = "edgewright_status_collector_refused_windows_total";
    register_int_counter!(name, "Windows of sites that were not looked into").expect(ONCE)
});

/// How often a client, or one of its nodes, was over its budget.
static OVER_BUDGET: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let name = "edgewright_status_collector_over_budget_total";
    let help = "How often a client or one of its nodes was over its budget";
    register_int_counter_vec!(name, help, &["client", "budget"]).expect(ONCE)
});

/// Counts what became of the messages of a window.
pub fn count(entries: &[Entry], refused: bool) {
    if refused {
        return REFUSED_WINDOWS.inc();
    }
    for entry in entries {
        let outcome = match entry.verdict {
            Verdict::Stored => "stored",
            Verdict::Never(_) => "never",
            Verdict::Overtaken(_) => "overtaken",
            Verdict::NotNow(_) | Verdict::Write => "not-now",
        };
        ASKED.with_label_values(&[outcome]).inc();
    }
}

/// Counts that a client, or one of its nodes, was over a budget.
pub fn over_budget(client: &ClientName, budget: &str) {
    static NAMED: Mutex<BTreeSet<ClientName>> = Mutex::new(BTreeSet::new());
    let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    let has_line = named.contains(client) || (named.len() < CLIENTS && named.insert(client.clone()));
    let label = if has_line { client.as_str() } else { "others" };
    OVER_BUDGET.with_label_values(&[label, budget]).inc();
}
