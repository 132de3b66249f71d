//! Carries a plan out, and keeps the chronicle of it.

use std::{collections::BTreeMap, process::ExitStatus};

use end_to_end::{Platform, runners};
use tokio::time::{Instant, sleep_until};

use crate::{
    evidence::Witnessed,
    plan::{Action, Step, Victim},
    settings::Settings,
};

/// What was done to the platform. Prints itself when the test fails, so that whoever reads of the failure knows what led
/// to it; the platform then prints the end of every log.
pub struct Chronicle {
    settings: Settings,
    begin: Instant,
    lines: Vec<String>,
    pub witnessed: Witnessed,
}

impl Chronicle {
    /// A campaign that begins now.
    pub fn new(settings: Settings) -> Self {
        Self { settings, begin: Instant::now(), lines: Vec::new(), witnessed: Witnessed::default() }
    }

    /// Adds a line with its time.
    pub fn note(&mut self, line: &str) {
        self.lines.push(format!("{:8.3} s  {line}", self.begin.elapsed().as_secs_f64()));
    }

    /// How often each process was killed.
    pub fn deaths(&self) -> BTreeMap<&str, usize> {
        let mut deaths = BTreeMap::new();
        for victim in self.lines.iter().filter_map(|line| line.split_once("kill ")).map(|(_, victim)| victim) {
            *deaths.entry(victim.split(' ').next().unwrap_or(victim)).or_default() += 1;
        }
        deaths
    }

    fn ended(&mut self, process: &str, status: ExitStatus) {
        self.note(&format!("{process} has ended by itself: {status}"));
        self.witnessed.ended.push((process.to_owned(), status.to_string()));
    }
}

impl Drop for Chronicle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Settings { seed, duration } = self.settings;
            eprintln!("chaos: SEED={seed} SECONDS={} failed; what was done:", duration.as_secs());
            self.lines.iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Kills and starts as planned. At its end every process runs.
pub async fn carry_out(steps: Vec<Step>, platform: &mut Platform, chronicle: &mut Chronicle) {
    for Step { at, action } in steps {
        sleep_until(chronicle.begin + at).await;
        match action {
            Action::Kill(Victim::Process(name)) => {
                if let Some(status) = platform.process(&name).exit() {
                    chronicle.ended(&name, status);
                }
                platform.kill(&name);
                chronicle.note(&format!("kill {name}"));
            }
            Action::Kill(Victim::AnyRunner(choice)) => kill_runner(choice, platform, chronicle),
            Action::Start(name) => {
                platform.run(&name);
                chronicle.note(&format!("start {name}"));
            }
        }
    }
    for name in platform.process_names() {
        if let Some(status) = platform.process(&name).exit() {
            chronicle.ended(&name, status);
            platform.run(&name);
        }
    }
}

fn kill_runner(choice: u64, platform: &Platform, chronicle: &mut Chronicle) {
    let mut living = runners(platform.folder());
    // The kernel lists them by number, which is chance; their folders follow from the orders.
    living.sort_by(|one, other| one.folder.cmp(&other.folder));
    let Some(count) = std::num::NonZeroU64::new(living.len() as u64) else {
        chronicle.note("no runner lives that could be killed");
        return;
    };
    let runner = &living[(choice % count) as usize];
    // Before it dies: its successor must never be found without a reason.
    chronicle.witnessed.killed_runners.insert((runner.pid, runner.kernel_start));
    runner.kill();
    let folder = runner.folder.strip_prefix(platform.folder()).unwrap_or(&runner.folder);
    chronicle.note(&format!("kill wasm-runner {} of {}", runner.pid, folder.display()));
}
