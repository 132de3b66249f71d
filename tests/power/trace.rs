//! A process that runs the writer without one of its syncs: as a debugger does, it stops at each system call, and has those that
//! are left out return at once. So no product code knows of this.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    process::{Child, Command, Stdio},
    thread,
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{stage::NotRun, syncs::Sync, writer::WITHOUT};

/// Whether this process may do that.
pub fn needed() -> Result<(), NotRun> {
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let seized = ptrace::seize(pid(&process), Options::empty());
    process.kill().unwrap();
    process.wait().unwrap();
    seized.map_err(|error| NotRun(format!("leaving out a system call: {error}")))
}

/// Runs this program with the other arguments and without a sync, if these are the arguments for that; returns whether they
/// were. The program is killed when the input of this one ends.
pub fn run(arguments: &[String]) -> bool {
    let [word, without, others @ ..] = arguments else { return false };
    if word != WITHOUT {
        return false;
    }
    let without = Sync::ALL.into_iter().find(|sync| sync.name() == without).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let mut process = command.args(others).stdin(Stdio::piped()).spawn().unwrap();
    let pid = pid(&process);
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).unwrap();
    ptrace::interrupt(pid).unwrap();
    waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
    ptrace::syscall(pid, None).unwrap();
    drop(process.stdin.take());
    thread::spawn(move || {
        let _ended = io::read_to_string(io::stdin());
        let _ = kill(pid, Signal::SIGKILL);
    });
    std::process::exit(Watched { main: pid, without, is_ready: false, left_out: BTreeSet::new() }.watch())
}

fn pid(process: &Child) -> Pid {
    Pid::from_raw(process.id().try_into().unwrap())
}

/// The process of which a sync is left out.
struct Watched {
    main: Pid,
    without: Sync,
    is_ready: bool,
    /// The threads that are in a call that is left out.
    left_out: BTreeSet<Pid>,
}

impl Watched {
    /// Watches all of its threads until it ends. Returns its exit code.
    fn watch(&mut self) -> i32 {
        loop {
            let (thread, signal) = match waitpid(None, Some(WaitPidFlag::__WALL)).unwrap() {
                WaitStatus::Exited(pid, code) if pid == self.main => return code,
                WaitStatus::Signaled(pid, ..) if pid == self.main => return 1,
                WaitStatus::PtraceSyscall(thread) => {
                    unless_killed(self.at_call(thread));
                    (thread, None)
                }
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                WaitStatus::PtraceEvent(thread, ..) => (thread, None),
                _ => continue,
            };
            unless_killed(ptrace::syscall(thread, signal));
        }
    }

    /// Looks at a thread that begins or ends a system call.
    fn at_call(&mut self, thread: Pid) -> nix::Result<()> {
        let mut registers = ptrace::getregs(thread)?;
        let ends = ptrace::syscall_info(thread)?.op == libc::PTRACE_SYSCALL_INFO_EXIT;
        if ends {
            if self.left_out.remove(&thread) {
                registers.rax = 0;
                ptrace::setregs(thread, registers)?;
            }
            return Ok(());
        }
        let (call, file) = (registers.orig_rax as i64, registers.rdi);
        if call == libc::SYS_write && file == 1 {
            self.is_ready = true;
        }
        if ![libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_syncfs].contains(&call) {
            return Ok(());
        }
        let path = fs::read_link(format!("/proc/{}/fd/{file}", self.main)).unwrap_or_default();
        if self.without == Sync::NewName && path.as_os_str().as_encoded_bytes().ends_with(b".git.new") {
            // As other programs may do at any time. Otherwise btrfs remembers that the folder, which gets its name next, was
            // synced just now, and puts that name on the disk with whatever is synced next.
            rustix::fs::syncfs(File::open(&path).unwrap()).unwrap();
        }
        if self.without.is(call, &path, thread == self.main, self.is_ready) {
            // No call has this number, so the kernel does nothing.
            registers.orig_rax = u64::MAX;
            ptrace::setregs(thread, registers)?;
            self.left_out.insert(thread);
        }
        Ok(())
    }
}

/// Whoever is killed can no longer be asked; what became of it is told by the next wait.
fn unless_killed(done: nix::Result<()>) {
    assert!(matches!(done, Ok(()) | Err(Errno::ESRCH)), "{done:?}");
}
