//! Named points in the code at which a test may freeze the process, in order to kill it exactly there.

/// Stops the process (SIGSTOP), once, when `EDGEWRIGHT_STOP_POINT` names this point. A test waits for the state `T`
/// in `/proc/<pid>/stat`, and then sends SIGKILL or SIGCONT. In release builds this does nothing.
pub fn stop_point(name: &str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::{
            LazyLock,
            atomic::{AtomicBool, Ordering},
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "stop points are for tests, and belong to no program's arguments"
        )]
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
