//! The process whose time and memory are measured: it makes orders and hands them to git-writer's store, group by group.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, ensure};
use git_writer::{Keys, Outcome, Store};
use identity::{SigningKey, trust};
use margo::{KeySet, RepositoryName, TenantName};

use super::{Told, order};

/// How many parts the orders are divided into, to see whether the later ones are slower.
const WINDOWS: usize = 10;

/// Commits orders and tells how long that took. `bench run` starts this by itself.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder of the repositories.
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    orders: usize,
    #[arg(long)]
    clients: usize,
    /// How many orders are committed together.
    #[arg(long)]
    group: usize,
    /// Make the repositories, each with one commit, instead.
    #[arg(long)]
    make: bool,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    process::keep_little_memory_of_a_service();
    let Arguments { folder, orders, clients, group, make } = arguments;
    let mut store = open(folder)?;
    let (mut seconds, mut windows) = (0.0, Vec::new());
    if *make {
        let names = (0..*clients).map(|client| Ok(RepositoryName::Client(order::client(client).parse()?)));
        let names = std::iter::once(Ok(RepositoryName::Fleet)).chain(names).collect::<anyhow::Result<Vec<_>>>()?;
        let rows: Vec<_> = names.into_iter().map(order::first).collect();
        let count = rows.len();
        ensure!(committed(store.commit(rows))? == count, "not all rows were committed");
    } else {
        let mut orders_of = vec![1; *clients];
        let (mut window, mut done) = ((0, 0.0), 0);
        for begin in (0..*orders).step_by(*group) {
            let end = (begin + group).min(*orders);
            let mut rows = Vec::with_capacity(2 * group);
            for number in begin..end {
                rows.extend(order::rows(number, *clients, &mut orders_of));
            }
            let start = Instant::now();
            done += committed(store.begin(rows))?;
            if end == *orders {
                done += committed(store.finish())?;
            }
            let took = start.elapsed().as_secs_f64();
            seconds += took;
            window = (window.0 + end - begin, window.1 + took);
            if window.0 >= orders.div_ceil(WINDOWS) || end == *orders {
                windows.push(window.0 as f64 / window.1);
                window = (0, 0.0);
            }
        }
        ensure!(done == 2 * orders, "{done} rows of {orders} orders were committed");
    }
    let status = fs::read_to_string("/proc/self/status").context("asking for the memory of this process")?;
    let mib = |name| of_status(&status, name).map(|kib| kib as f64 / 1024.0);
    let told = Told {
        seconds,
        windows,
        resident_mib: mib("VmRSS:").context("there is no VmRSS")?,
        most_resident_mib: mib("VmHWM:").context("there is no VmHWM")?,
    };
    store.rest()?;
    println!("{}", serde_json::to_string(&told)?);
    Ok(())
}

/// Opens the store, with keys that are made the first time.
fn open(folder: &Path) -> anyhow::Result<Store> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let path = folder.join("key");
    if !path.exists() {
        SigningKey::generate("git-writer")?.save(&path)?;
    }
    let key = SigningKey::load(&path)?;
    let set = KeySet { tenant: TenantName::default(), number: 1, keys: vec![key.public().to_string()] };
    let (bytes, signature) = trust::sign_keys(&key, &set)?;
    Ok(Store::new(folder, key, Keys { set, bytes, signature: signature.into() })?)
}

/// How many rows were committed. Fails when a repository has.
fn committed(outcome: Outcome) -> anyhow::Result<usize> {
    if let Some(failed) = outcome.failed.into_iter().next() {
        return Err(failed.error).with_context(|| format!("committing in {}", failed.repository));
    }
    Ok(outcome.committed.iter().map(|committed| committed.spans.len()).sum())
}

/// A number of `/proc/self/status`, in KiB.
fn of_status(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_line_that_has_it() {
        let status = "Name:\tbench\nVmHWM:\t  2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(of_status(status, "VmRSS:"), Some(1024));
        assert_eq!(of_status(status, "VmSwap:"), None);
    }

    #[test]
    fn every_order_is_one_commit_in_two_repositories() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = |make| Arguments { folder: folder.path().join("x"), orders: 23, clients: 3, group: 10, make };
        run(&arguments(true)).unwrap();
        run(&arguments(false)).unwrap();
        let count = |repository: &str, branch: &str| {
            let path = folder.path().join("x/default").join(repository);
            let mut git = std::process::Command::new("git");
            let output = git.arg("-C").arg(path).args(["rev-list", "--count", branch]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<usize>().unwrap()
        };
        assert_eq!(count("fleet.git", "main"), 24);
        let clients = (0..3).map(|client| count(&format!("clients/{}.git", order::client(client)), "desired"));
        assert_eq!(clients.sum::<usize>(), 26);
    }
}
