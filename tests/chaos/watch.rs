//! Looks at the runners again and again while everything is killed: two of one workload must never live at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use end_to_end::{Runner, runners};

use crate::evidence::ProcessKey;

/// Between two looks. A runner that has to stop may take seconds, so a second one beside it would be seen many times.
const PAUSE: Duration = Duration::from_millis(50);

/// Folders in which two runners lived at the same moment.
pub type Doubles = BTreeMap<String, (ProcessKey, ProcessKey)>;

/// A thread that looks until it is told to end.
pub struct Watch {
    /// The thread ends when this is dropped.
    open: Sender<()>,
    thread: JoinHandle<Doubles>,
}

impl Watch {
    /// Begins to look at all workloads under a folder.
    pub fn begin(folder: PathBuf) -> Self {
        let (open, closed) = channel::<()>();
        let thread = thread::spawn(move || {
            let mut doubles = Doubles::new();
            while closed.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                doubles.extend(look(&folder));
            }
            doubles.extend(look(&folder));
            doubles
        });
        Self { open, thread }
    }

    /// Looks once more, ends the thread, and returns what it has seen in all its looks.
    pub fn end(self) -> Doubles {
        drop(self.open);
        self.thread.join().expect("looking does not panic")
    }
}

/// Two runners of one workload that live now.
fn look(folder: &Path) -> Doubles {
    let mut doubles = Doubles::new();
    let mut seen = BTreeMap::<PathBuf, Runner>::new();
    for runner in runners(folder) {
        let Some(earlier) = seen.insert(runner.folder.clone(), runner.clone()) else { continue };
        // They were found one after another. If the first one still lives, both lived when the second one was found.
        if earlier.is_alive() {
            let key = |runner: &Runner| (runner.pid, runner.kernel_start);
            doubles.insert(runner.folder.display().to_string(), (key(&earlier), key(&runner)));
        }
    }
    doubles
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        process::{Child, Command},
    };

    use end_to_end::{output, program};
    use tempfile::TempDir;
    use testkit::wait_for;

    use super::*;

    /// A runner that never gets any further than its specification, because that is a pipe into which nobody writes. Unlike
    /// a supervised one it has no lock.
    struct Waiting(Child);

    impl Waiting {
        fn start(folder: &Path) -> Self {
            let spec = folder.join("spec.json");
            if !spec.exists() {
                fs::create_dir_all(folder).unwrap();
                assert!(output(Command::new("mkfifo").arg(&spec)).status.success());
            }
            Self(Command::new(program("wasm-runner")).arg("--spec").arg(spec).spawn().unwrap())
        }
    }

    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn two_runners_of_one_workload_are_seen_and_others_are_not() {
        let folder = TempDir::new().unwrap();
        let (one, other) = (folder.path().join("press/one"), folder.path().join("oven/other"));
        let _alone = [Waiting::start(&one), Waiting::start(&other)];
        wait_for("both runners to be listed", async || {
            let runners = runners(folder.path());
            if runners.len() == 2 { Ok(()) } else { Err(runners) }
        })
        .await;
        assert_eq!(look(folder.path()), Doubles::new());

        let second = Waiting::start(&one);
        wait_for("the second runner of one workload to be seen", async || {
            let doubles = look(folder.path());
            if doubles.keys().eq([&one.display().to_string()]) { Ok(()) } else { Err(doubles) }
        })
        .await;
        drop(second);
        assert_eq!(look(folder.path()), Doubles::new());
    }

    #[tokio::test]
    async fn a_watch_tells_what_it_saw_when_it_is_over() {
        let folder = TempDir::new().unwrap();
        let workload = folder.path().join("press/one");
        let watch = Watch::begin(folder.path().to_owned());
        let pair = [Waiting::start(&workload), Waiting::start(&workload)];
        wait_for("both runners to be listed", async || {
            let runners = runners(folder.path());
            if runners.len() == 2 { Ok(()) } else { Err(runners) }
        })
        .await;
        // The last look is after the end is asked for, so it sees them whatever the earlier ones saw.
        let doubles = watch.end();
        drop(pair);
        assert_eq!(doubles.into_keys().collect::<Vec<_>>(), [workload.display().to_string()]);
    }
}
