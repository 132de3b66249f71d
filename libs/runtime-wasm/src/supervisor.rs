//! Keeps one workload running: takes up the runner that lives or starts one, waits for its end, and begins again.
//!
//! Nothing is kept here that a restart of the agent needs: the specification stands in the folder, and the count of
//! deaths in quick succession begins anew.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use margo::Digest;
use process::Backoff;
use runtime::{Condition, WorkloadId};
use tokio::{
    process::Child,
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use crate::{
    ask, ask_port,
    folder::{Folder, Holder, see_off},
    port::HeldPort,
    process_id::Process,
    spec::{Command, LastWords, Spec},
    start::{Channel, Gone, StartError, Starting},
};

/// The pause after the second death in quick succession; the first is followed by a start at once.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A runner that was up for so long is started again at once when it dies, whatever was before.
const STEADY: Duration = Duration::from_secs(10);
/// A runner that was up for so long is well: its death counts as the first one.
const WELL: Duration = Duration::from_secs(600);
/// Deaths of runners that took requests after which a workload that is up again is not shown so before it has proved
/// steady: else each round of a crash loop would be two changes of its state, written, reported and stored.
const FLAPPING: u32 = 2;
/// The longest proof. It is well below [`WELL`], so that what lives for hours at a time is shown as running.
const LONGEST_PROOF: Duration = Duration::from_secs(300);

/// What is shown of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The digest in the specification in force.
    pub digest: Digest,
    pub condition: Condition,
    /// How often it was started again since it was applied.
    pub restarts: u32,
    /// The port that it has; a command has none.
    pub port: Option<u16>,
}

impl View {
    /// A workload of this specification that is on its way up.
    pub fn starting(spec: &Spec) -> Self {
        let port = spec.listen.map(|listen| listen.port());
        Self { digest: spec.digest, condition: Condition::Starting, restarts: 0, port }
    }
}

/// What is shown of a workload, for whoever wants to know; nothing while it is only being prepared.
#[derive(Clone)]
pub struct Shown {
    view: Arc<Mutex<Option<View>>>,
    changed: Arc<Notify>,
}

impl Shown {
    /// A workload of which nothing is shown yet. `changed` is notified of everything that is.
    pub fn nothing(changed: Arc<Notify>) -> Self {
        Self { view: Arc::default(), changed }
    }

    /// Returns what is shown now.
    pub fn get(&self) -> Option<View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows this from now on.
    pub fn set(&self, view: View) {
        self.change(|shown| *shown = Some(view));
    }

    /// Shows the workload in this condition from now on.
    pub fn set_condition(&self, condition: Condition) {
        self.change(|shown| {
            if let Some(view) = shown {
                view.condition = condition;
            }
        });
    }

    fn count_restart(&self) {
        self.change(|shown| {
            if let Some(view) = shown {
                view.restarts = view.restarts.saturating_add(1);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Option<View>)) {
        let mut shown = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shown.clone();
        change(&mut shown);
        if *shown != before {
            self.changed.notify_one();
        }
    }
}

/// Runs what the folder's specification says, again and again, until it is dropped. It may be dropped at any line, as
/// the agent may be killed at any line: a runner that took over stays, and the next supervisor takes it up.
pub struct Supervisor {
    /// The folder of the workload.
    pub folder: Folder,
    pub runner: PathBuf,
    /// The port of the workload, as far as the agent has it.
    pub port: HeldPort,
    /// Where the workload's condition is shown.
    pub shown: Shown,
    /// A runner that was just told to go.
    pub gone: Option<Gone>,
}

/// The runner, as a child of ours or of an earlier life of the agent.
enum Runner {
    Child(Box<Child>, Channel),
    TakenUp(Process),
}

/// What became of one life of a runner.
enum Outcome {
    /// Its command has done what it was to do.
    Done,
    /// It ended, and is to be started again.
    Ended(End),
}

/// What has to be known of a workload while it runs.
struct Known {
    workload: WorkloadId,
    digest: Digest,
    listen: Option<SocketAddr>,
}

/// How one life of a runner ended.
struct End {
    words: LastWords,
    /// How long it took requests; `None` when it never did.
    was_up: Option<Duration>,
}

impl Supervisor {
    /// Supervises the workload for ever, also one that is not to be started again.
    pub async fn run(mut self) {
        let mut deaths = Deaths::default();
        loop {
            let gone = self.gone.take();
            let end = match self.run_once(gone, &deaths).await {
                Ok(Outcome::Done) => {
                    self.shown.set_condition(Condition::Completed);
                    return std::future::pending().await;
                }
                Ok(Outcome::Ended(end)) => end,
                Err(StartError::Ended(words)) => End { words, was_up: None },
                Err(StartError::Io(error)) => {
                    let words = LastWords { code: "not-started".to_owned(), message: process::chain(&error) };
                    End { words, was_up: None }
                }
            };
            let pause = deaths.died(end.was_up);
            let LastWords { code, message } = end.words;
            warn!(folder = %self.folder.path().display(), code, message, ?pause, "the runner ended");
            self.shown.set_condition(Condition::Failed { code, message });
            if !pause.is_zero() {
                // Nobody answers for a while: a client that is refused knows it at once.
                self.port.close();
            }
            sleep(pause).await;
            self.shown.count_restart();
        }
    }

    /// Takes the runner up or starts one; returns when it has ended.
    async fn run_once(&self, gone: Option<Gone>, deaths: &Deaths) -> Result<Outcome, StartError> {
        if let Some(Gone { child, channel }) = gone {
            return self.watch(Runner::Child(Box::new(child), channel), deaths).await;
        }
        let Known { workload, digest, listen } = self.known()?;
        // In boxes, here and below: what is awaited once would take its place as long as the workload runs.
        let holder = Box::pin(self.folder.holder()).await?;
        match holder {
            Holder::Runner(process, of) if of == digest => {
                info!(%workload, "taking up a runner that lives");
                return self.watch(Runner::TakenUp(process), deaths).await;
            }
            Holder::Runner(..) => {
                if let (_, Some(leaving)) = Box::pin(self.folder.stop()).await? {
                    tokio::spawn(see_off(leaving));
                }
            }
            Holder::Nobody(lock) => {
                // The runner takes it.
                drop(lock);
                if self.folder.is_done(digest)? {
                    return Ok(Outcome::Done);
                }
            }
        }
        let mut starting = Starting::spawn(&self.folder, &self.runner, &self.folder.spec_file())?;
        Box::pin(starting.ready()).await?;
        let port = listen.and_then(|listen| self.port.get(listen));
        let Gone { child, channel } = Box::pin(starting.go(port)).await?;
        info!(%workload, pid = child.id(), "started a runner");
        self.watch(Runner::Child(Box::new(child), channel), deaths).await
    }

    /// Reads what has to be known of the specification while its workload runs. All of it would take its place as long.
    fn known(&self) -> io::Result<Known> {
        let spec = self.folder.spec()?.ok_or_else(|| io::Error::other("the specification is gone"))?;
        Ok(Known { workload: spec.workload, digest: spec.digest, listen: spec.listen })
    }

    async fn watch(&self, runner: Runner, deaths: &Deaths) -> Result<Outcome, StartError> {
        let Known { workload, digest, listen } = self.known()?;
        let running = Condition::Running { endpoint: listen.map(|listen| format!("http://{listen}/")) };
        let mut up_since = None;
        let shown = async {
            sleep(deaths.proof()).await;
            self.shown.set_condition(running);
            std::future::pending::<()>().await;
        };
        let (status, was_up) = match runner {
            Runner::Child(mut child, channel) => {
                let status: ExitStatus = tokio::select! {
                    status = child.wait() => status?,
                    () = async {
                        let port = Box::pin(channel.listening()).await;
                        if let (Some(port), Some(listen)) = (port, listen) {
                            self.port.hold(port, listen);
                        }
                        up_since = Some(Instant::now());
                        debug!(%workload, "the runner takes requests");
                        shown.await;
                    } => child.wait().await?,
                };
                (status.to_string(), up_since)
            }
            Runner::TakenUp(process) => {
                tokio::select! {
                    ended = process.ended() => ended?,
                    () = async {
                        Box::pin(self.answers()).await;
                        if let Some(listen) = listen {
                            Box::pin(learn_port(&self.folder, &self.port, listen)).await;
                        }
                        up_since = Some(Instant::now());
                        shown.await;
                    } => process.ended().await?,
                }
                ("it ended".to_owned(), up_since)
            }
        };
        if self.folder.is_done(digest)? {
            info!(%workload, "the command has done its work");
            return Ok(Outcome::Done);
        }
        let words = Box::pin(self.folder.last_words(status)).await?;
        Ok(Outcome::Ended(End { words, was_up: was_up.map(|since| since.elapsed()) }))
    }

    /// Returns when a runner that was taken up answers: it does at once, unless it has only just begun or hangs.
    async fn answers(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
        while ask(self.folder.path(), Command::Status).await.is_err() {
            sleep(backoff.pause()).await;
        }
    }
}

/// Has the agent hold the port of a runner that an earlier life of it started, unless it does. A runner that does not give it
/// goes on answering; then the port is closed for a moment when the next one takes over.
pub async fn learn_port(folder: &Folder, port: &HeldPort, listen: SocketAddr) {
    if port.get(listen).is_some() {
        return;
    }
    match ask_port(folder.path()).await {
        Ok(Some(socket)) => port.hold(socket, listen),
        Ok(None) => {}
        Err(error) => debug!(folder = %folder.path().display(), %error, "the runner does not give its port"),
    }
}

/// The deaths of a workload's runners.
#[derive(Debug)]
struct Deaths {
    /// Those in quick succession.
    quick: u32,
    /// Those of runners that had taken requests, since one was last well.
    of_running: u32,
    backoff: Backoff,
}

impl Default for Deaths {
    fn default() -> Self {
        Self { quick: 0, of_running: 0, backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE) }
    }
}

impl Deaths {
    /// A runner died that had been up for so long, or never was. Returns how long to wait before the next start.
    fn died(&mut self, was_up: Option<Duration>) -> Duration {
        if was_up.is_some_and(|time| time >= STEADY) {
            self.quick = 0;
            self.backoff.reset();
        }
        if was_up.is_some_and(|time| time >= WELL) {
            self.of_running = 0;
        }
        self.of_running = self.of_running.saturating_add(u32::from(was_up.is_some()));
        self.quick = self.quick.saturating_add(1);
        if self.quick == 1 { Duration::ZERO } else { self.backoff.pause() }
    }

    /// How long the next runner has to be up until it is shown. It doubles with each further death, so that a crash loop
    /// comes to be one state however long its rounds are.
    fn proof(&self) -> Duration {
        let Some(doublings) = self.of_running.checked_sub(FLAPPING) else { return Duration::ZERO };
        STEADY.saturating_mul(2u32.saturating_pow(doublings)).min(LONGEST_PROOF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIEFLY: Option<Duration> = Some(Duration::from_millis(100));

    #[test]
    fn the_first_restart_is_immediate_and_pauses_grow_with_deaths_in_quick_succession() {
        let mut deaths = Deaths::default();
        assert_eq!(deaths.died(BRIEFLY), Duration::ZERO);
        for whole in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = deaths.died(BRIEFLY);
            let whole = Duration::from_secs(whole);
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
        }
    }

    #[test]
    fn a_steady_run_forgets_the_pauses_and_a_long_one_everything() {
        let mut deaths = Deaths::default();
        for _ in 0..5 {
            deaths.died(BRIEFLY);
        }
        assert_eq!(deaths.died(Some(Duration::from_secs(12))), Duration::ZERO);
        assert!(deaths.died(BRIEFLY) <= FIRST_PAUSE, "the second one in quick succession");
        assert!(deaths.proof() > Duration::ZERO);
        assert_eq!(deaths.died(Some(WELL)), Duration::ZERO);
        assert_eq!(deaths.proof(), Duration::ZERO);
    }

    #[test]
    fn only_what_was_up_and_died_has_to_prove_itself() {
        let mut deaths = Deaths::default();
        for _ in 0..5 {
            deaths.died(None);
        }
        assert_eq!(deaths.proof(), Duration::ZERO, "a port that becomes free is shown at once");
        deaths.died(BRIEFLY);
        assert_eq!(deaths.proof(), Duration::ZERO, "one death is shown, and that it is over");
        deaths.died(BRIEFLY);
        assert_eq!(deaths.proof(), STEADY);
    }

    #[test]
    fn a_crash_loop_is_one_state_however_long_its_rounds_are() {
        for round in [1, 9, 12, 60, 240] {
            let round = Duration::from_secs(round);
            let mut deaths = Deaths::default();
            let rounds = 1_000;
            let shown = (0..rounds).filter(|_| {
                let is_shown = deaths.proof() < round;
                deaths.died(Some(round));
                is_shown
            });
            let shown = shown.count();
            assert!(shown <= 8, "rounds of {round:?}: shown as running {shown} times of {rounds}");
        }
    }
}
