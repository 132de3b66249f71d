//! A process that may not be our child: who it is, whether it lives, when it ends.

use std::{fs, io, os::fd::OwnedFd, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

/// The name of one process: it stays that process's own also after the number was given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number of the process.
    pub pid: u32,
    /// When the kernel started it, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_time: u64,
}

impl ProcessId {
    /// Returns the id of this process.
    pub fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Returns the id of the process that has this number now.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, start_time: stat(pid)?.start_time })
    }

    /// Returns the time that processors have spent on the process; `None` when it has ended.
    pub fn cpu_time(self) -> Option<Duration> {
        let stat = stat(self.pid).ok().filter(|stat| stat.start_time == self.start_time)?;
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        Some(Duration::from_secs_f64(stat.cpu_ticks as f64 / ticks_per_second as f64))
    }

    /// Returns the bytes of memory that the process takes, shared pages by their share (PSS); `None` when it has ended or
    /// belongs to another user. The kernel looks at every page for that.
    pub fn memory(self) -> Option<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok().filter(|_| self.is_alive())?;
        let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"))?;
        Some(kib.parse::<u64>().ok()? * 1024)
    }

    /// Whether the process still runs. One that has ended and was not reaped does not.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_ok_and(|stat| stat.start_time == self.start_time && !matches!(stat.state, 'Z' | 'X'))
    }
}

struct Stat {
    state: char,
    /// Fields 14 and 15, in user mode and in the kernel.
    cpu_ticks: u64,
    start_time: u64,
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {text:?}")))
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The second field is the program's name in parentheses and may hold anything, parentheses included.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    let in_user_mode: u64 = fields.nth(14 - 4)?.parse().ok()?;
    let in_kernel: u64 = fields.next()?.parse().ok()?;
    let start_time = fields.nth(22 - 16)?.parse().ok()?;
    Some(Stat { state, cpu_ticks: in_user_mode.saturating_add(in_kernel), start_time })
}

/// A hold on a living process: signals reach it and no other one that got its number.
pub struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// Takes hold of a process; returns `None` when it has ended.
    pub fn open(id: ProcessId) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(id.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let descriptor = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Only now: before, the number could have changed hands in between.
        if !id.is_alive() {
            return Ok(None);
        }
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types whose descriptor may change; an OwnedFd's never does"
        )]
        let readable = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
        Ok(Some(Self(readable)))
    }

    /// Returns when the process has ended.
    pub async fn ended(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }

    /// Sends the process a signal; one that has ended needs none.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_start_time_is_read_behind_a_name_with_parentheses() {
        let text = "7 (a) b) c) S 1 7 7 0 -1 4194304 1 0 0 0 30 12 0 0 20 0 1 0 12345 1 2 3";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.state, stat.cpu_ticks, stat.start_time), ('S', 42, 12345));
        assert!(parse_stat("7 (a) S 1").is_none());
    }

    #[tokio::test]
    async fn a_process_is_not_taken_for_another_one_with_its_number() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive() && Process::open(own).unwrap().is_some());
        assert!(own.memory() > Some(1 << 20) && own.cpu_time().is_some());
        let another = ProcessId { start_time: own.start_time + 1, ..own };
        assert!(!another.is_alive() && Process::open(another).unwrap().is_none());
        assert_eq!((another.memory(), another.cpu_time()), (None, None));
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_before_it_is_reaped() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let process = Process::open(id).unwrap().expect("it sleeps");
        process.signal(Signal::KILL).unwrap();
        process.ended().await.unwrap();
        assert!(!id.is_alive() && Process::open(id).unwrap().is_none());
        child.wait().unwrap();
    }
}
