//! What Prometheus sees of git-writer.

use std::sync::LazyLock;

use prometheus::histogram_opts;
use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets, register_histogram,
    register_int_counter, register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};

const ONCE: &str = "each metric is registered once, under a valid name";

/// Commits that are on the disk and that a branch names.
pub static COMMITS: LazyLock<IntCounter> =
    LazyLock::new(|| register_int_counter!("edgewright_git_writer_commits_total", "Commits written.").expect(ONCE));

/// Messages of the log that were left out, because they could not be decoded or had no number.
pub static UNDECODABLE: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("edgewright_git_writer_undecodable_messages_total", "Messages left out.").expect(ONCE)
});

/// Repositories that stand still now.
pub static STALLED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("edgewright_git_writer_stalled_repositories", "Repositories that stand still.").expect(ONCE)
});

/// Answers to those who read the repositories over HTTPS, by status.
pub static SERVED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("edgewright_git_writer_served_total", "Requests for repositories.", &["status"])
        .expect(ONCE)
});

/// Repositories that a mirror does not have as they are.
pub static MIRROR_BEHIND: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let (name, about) =
        ("edgewright_git_writer_mirror_behind_repositories", "Repositories that a mirror lacks commits of.");
    register_int_gauge_vec!(name, about, &["mirror"]).expect(ONCE)
});

/// Gathering the packs of a repository.
pub static UPKEEP_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    // 50 ms to 100 s: from a small repository to years of orders.
    let buckets = exponential_buckets(0.05, 2.0, 12).expect("a positive start and a factor above one");
    let (name, help) = ("edgewright_git_writer_upkeep_seconds", "Time to gather the packs of a repository.");
    register_histogram!(histogram_opts!(name, help, buckets)).expect(ONCE)
});

/// Memory that rows take which wait for a repository that stands still, or for `fleet.git`.
pub static WAITING_BYTES: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("edgewright_git_writer_waiting_bytes", "Bytes of rows that wait in memory.").expect(ONCE)
});

/// Repositories that are signed by another key than the one in force, or carry other KEYS; -1 until they are counted.
pub static TO_SIGN: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "Repositories that have to be signed anew before another key is revoked; -1: not counted yet.";
    register_int_gauge!("edgewright_git_writer_repositories_to_sign", help).expect(ONCE)
});

/// From the arrival of a group's first row until all its commits are on the disk. A group without a new commit is not
/// counted.
pub static GROUP_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    // 2 ms to 4 s: from a fast disk's sync to a disk that is in trouble.
    let buckets = exponential_buckets(0.002, 2.0, 12).expect("a positive start and a factor above one");
    let options = histogram_opts!("edgewright_git_writer_group_seconds", "Time to commit a group of rows.", buckets);
    register_histogram!(options).expect(ONCE)
});
