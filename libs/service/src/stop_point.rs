//! Named lines at which a test may freeze the process, to kill it exactly there.

/// In debug builds: when `EDGEWRIGHT_STOP_POINT` names this point, the process stops itself (SIGSTOP) here, once.
/// A test waits for the state `T` in `/proc/<pid>/stat`, then sends SIGKILL or SIGCONT. In release builds: nothing.
pub fn stop_point(name: &str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::{
            LazyLock,
            atomic::{AtomicBool, Ordering},
        };
        static WANTED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("EDGEWRIGHT_STOP_POINT").ok());
        static REACHED: AtomicBool = AtomicBool::new(false);
        if WANTED.as_deref() == Some(name) && !REACHED.swap(true, Ordering::SeqCst) {
            tracing::warn!(name, "stop point reached");
            let stopped = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
            stopped.expect("a process may stop itself");
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
