//! Who is killed when, and when it is started again. Follows from the seed alone.
//!
//! Every victim dies once in each round, in an order that each round has of its own: so none is forgotten, and any two of
//! them come to be down together sooner or later.

use std::{collections::BTreeMap, time::Duration};

use end_to_end::random::Random;

/// Milliseconds between two kills. About a hundred kills a minute: services are down often, and up long enough that
/// orders go through.
const GAP: (u64, u64) = (200, 1_000);

/// Milliseconds until a killed process is started again: from "at once" to longer than its neighbours' patience for a
/// new connection.
const DOWN: (u64, u64) = (50, 2_500);

/// A process that the campaign may kill.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// A process of the platform, by its name.
    Process(String),
    /// One of the wasm-runners that live by then; this number chooses among them. Its node starts it again.
    AnyRunner(u64),
}

/// One step of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Counted from the begin of the campaign.
    pub at: Duration,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Kill(Victim),
    /// Starts a process that was killed before.
    Start(String),
}

/// The steps of a campaign, in the order of their times. The last kill lies within `duration`; every process that is killed
/// is started again, at most 2.5 s later. `runners` is how many runners die in each round.
pub fn plan(seed: u64, duration: Duration, processes: &[String], runners: usize) -> Vec<Step> {
    let mut random = Random::new(seed, 0);
    let mut steps = Vec::new();
    let mut up_again = BTreeMap::<String, u64>::new();
    let mut now = 0;
    loop {
        for victim in round(&mut random, processes, runners) {
            now += random.between(GAP.0, GAP.1);
            if let Victim::Process(name) = &victim {
                // It may still be down from the last round.
                now = now.max(up_again.get(name).map_or(0, |at| at + 1));
            }
            if now > duration.as_millis() as u64 {
                steps.sort_by_key(|step: &Step| step.at);
                return steps;
            }
            steps.push(Step { at: Duration::from_millis(now), action: Action::Kill(victim.clone()) });
            if let Victim::Process(name) = victim {
                let at = now + random.between(DOWN.0, DOWN.1);
                up_again.insert(name.clone(), at);
                steps.push(Step { at: Duration::from_millis(at), action: Action::Start(name) });
            }
        }
    }
}

fn round(random: &mut Random, processes: &[String], runners: usize) -> Vec<Victim> {
    let mut victims: Vec<_> = processes.iter().cloned().map(Victim::Process).collect();
    victims.extend((0..runners).map(|_| Victim::AnyRunner(random.draw())));
    random.shuffle(&mut victims);
    victims
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn processes() -> Vec<String> {
        (0..18).map(|number| format!("process-{number}")).collect()
    }

    #[test]
    fn a_plan_follows_from_its_seed() {
        assert_eq!(plan(7, MINUTE, &processes(), 2), plan(7, MINUTE, &processes(), 2));
        assert_ne!(plan(7, MINUTE, &processes(), 2), plan(8, MINUTE, &processes(), 2));
    }

    #[test]
    fn within_a_minute_everybody_dies_several_times_and_is_started_after_each_death() {
        for seed in 0..100 {
            let steps = plan(seed, MINUTE, &processes(), 2);
            assert!(steps.is_sorted_by_key(|step| step.at));
            let mut down = BTreeSet::new();
            let mut deaths = BTreeMap::<String, u32>::new();
            let mut runners = 0;
            for Step { at, action } in steps {
                match action {
                    Action::Kill(Victim::Process(name)) => {
                        assert!(at <= MINUTE);
                        assert!(down.insert(name.clone()), "seed {seed}: {name} is killed while it is down");
                        *deaths.entry(name).or_default() += 1;
                    }
                    Action::Kill(Victim::AnyRunner(_)) => runners += 1,
                    Action::Start(name) => {
                        assert!(at <= MINUTE + Duration::from_millis(DOWN.1));
                        assert!(down.remove(&name), "seed {seed}: {name} is started while it runs");
                    }
                }
            }
            assert_eq!(down, BTreeSet::new(), "seed {seed}");
            assert_eq!(deaths.len(), processes().len(), "seed {seed}");
            assert!(deaths.values().all(|deaths| *deaths >= 3), "seed {seed}: {deaths:?}");
            assert!(runners >= 6, "seed {seed}: {runners}");
        }
    }
}
