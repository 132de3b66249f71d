//! What workloads use of the host, and when that is worth a report by itself: rarely, since every byte that an idle node sends is
//! paid for somewhere. Pure.

use std::{collections::BTreeMap, time::Duration};

use runtime::{Stats, WorkloadId};

/// Between two reports that go for the sake of usage alone.
pub const TELL_AGAIN: Duration = Duration::from_secs(900);

/// Processor time whose growth is worth a report.
const MUCH_TIME: Duration = Duration::from_secs(10);

/// Bytes of memory whose change is worth a report when it is also a quarter of what was told.
const MUCH_MEMORY: u64 = 1 << 20;

/// What each workload uses.
pub type Usage = BTreeMap<WorkloadId, Stats>;

/// Whether what is used now is worth a report after what was told last.
pub fn is_worth_telling(told: &Usage, now: &Usage) -> bool {
    let grew = |was: &Stats, is: &Stats| {
        let time = |stats: &Stats| stats.cpu_time.unwrap_or_default();
        let memory = |stats: &Stats| stats.memory.unwrap_or_default();
        let difference = memory(was).abs_diff(memory(is));
        // A workload that was started again counts from zero.
        time(is).saturating_sub(time(was)) >= MUCH_TIME || difference >= MUCH_MEMORY && difference >= memory(was) / 4
    };
    now.iter().any(|(id, is)| told.get(id).is_none_or(|was| grew(was, is)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(seconds: u64, mebibytes: u64) -> Usage {
        let id = WorkloadId {
            deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
            component: "hello".parse().unwrap(),
        };
        let stats = Stats { cpu_time: Some(Duration::from_secs(seconds)), memory: Some(mebibytes << 20) };
        Usage::from([(id, stats)])
    }

    #[test]
    fn what_hardly_changed_is_not_worth_a_report() {
        let told = usage(100, 8);
        assert!(is_worth_telling(&Usage::new(), &told));
        assert!(!is_worth_telling(&told, &told) && !is_worth_telling(&told, &Usage::new()));
        assert!(!is_worth_telling(&told, &usage(109, 9)) && !is_worth_telling(&told, &usage(0, 8)));
        assert!(is_worth_telling(&told, &usage(110, 8)));
        assert!(is_worth_telling(&told, &usage(100, 10)) && is_worth_telling(&told, &usage(100, 6)));
    }
}
