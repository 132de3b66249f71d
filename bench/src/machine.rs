//! What the kernel says of processes: memory, processor time, and whether they rest.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{process::Command, time::sleep};

/// Ticks of a second in `/proc`: part of the kernel's interface on every architecture that we build for.
const TICKS: f64 = 100.0;

/// How long a platform that has nothing to do may take to rest. Afterwards the measurement would be of something else.
const PATIENCE: Duration = Duration::from_secs(120);

/// Memory of these processes in MiB, shared pages by their share.
pub fn pss_mib(pids: &[u32]) -> anyhow::Result<f64> {
    let mut kib = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        kib += parse_pss(&text).with_context(|| format!("{path} has no line Pss"))?;
    }
    Ok(kib as f64 / 1024.0)
}

/// Processor time that these processes have used, their ended threads included.
pub fn cpu_seconds(pids: &[u32]) -> anyhow::Result<f64> {
    let mut ticks = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        ticks += parse_ticks(&text).with_context(|| format!("{path} is not as expected"))?;
    }
    Ok(ticks as f64 / TICKS)
}

/// The share of one processor below which that many processes rest. Each of them wakes now and then for its heartbeats
/// and timers, which takes up to half a percent on a machine whose processors sleep deeply. Each agent beside them has a sign
/// of life taken every five seconds and answers a ping every ten, which takes site and NATS server half a millisecond.
fn share_at_rest(processes: usize, agents: usize) -> f64 {
    (processes as f64 * 0.005).max(0.1) + agents as f64 * 0.000_15
}

/// Waits until these processes do nothing but wait, so that nothing of an earlier run is still in work when the next one
/// is measured.
pub async fn rest(pids: &[u32]) -> anyhow::Result<()> {
    rest_beside(pids, 0).await
}

/// The same for processes that serve so many agents.
pub async fn rest_beside(pids: &[u32], agents: usize) -> anyhow::Result<()> {
    let window = Duration::from_millis(500);
    let begin = Instant::now();
    let mut calm = 0;
    while calm < 2 {
        let used = cpu_seconds(pids)?;
        sleep(window).await;
        let share = (cpu_seconds(pids)? - used) / window.as_secs_f64();
        calm = if share < share_at_rest(pids.len(), agents) { calm + 1 } else { 0 };
        ensure!(
            begin.elapsed() < PATIENCE,
            "the platform still takes {:.0} % of a processor {PATIENCE:?} after the last order",
            share * 100.0
        );
    }
    Ok(())
}

/// Has the kernel write everything to the disk.
pub async fn sync() -> anyhow::Result<()> {
    crate::platform::run(&mut Command::new("sync")).await.map(drop)
}

fn parse_pss(rollup: &str) -> Option<u64> {
    rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?.split_whitespace().next()?.parse().ok()
}

/// User and system time, fields 14 and 15. The program's name stands in parentheses and may hold anything.
fn parse_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let user: u64 = fields.nth(14 - 3)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proportional_size_is_read_and_no_line_beside_it() {
        let rollup = "00400000-7ffd rollup\nRss:  9000 kB\nPss:  4711 kB\nPss_Dirty:  12 kB\n";
        assert_eq!(parse_pss(rollup), Some(4711));
        assert_eq!(parse_pss("Rss: 1 kB\n"), None);
    }

    #[test]
    fn processor_time_is_read_behind_a_name_with_parentheses() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 200 0 0 31 11 5 6 20 0 1 0 12345 1 2";
        assert_eq!(parse_ticks(stat), Some(42));
        assert_eq!(parse_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let own = [std::process::id()];
        assert!(pss_mib(&own).unwrap() > 0.1);
        assert!(cpu_seconds(&own).unwrap() >= 0.0);
    }
}
