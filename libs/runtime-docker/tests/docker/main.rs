//! The runtime on a real Docker Engine with the real `docker compose`.
//!
//! The engine is started by the test, which needs root and the programs that `make setup` installs; without them each test
//! says that it was not run. All tests share the engine: none of them may touch what is not its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod lifecycle;
mod node;
mod others;
mod supervised;

use std::env;

use futures::future::LocalBoxFuture;
use testkit::{DockerEngine, NotRun};

type Test = for<'a> fn(&'a mut DockerEngine) -> LocalBoxFuture<'a, ()>;

macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        [$((stringify!($name), (|engine| Box::pin($module::$name(engine))) as Test)),*]
    };
}

fn main() {
    let tests = tests![
        lifecycle::a_workload_is_applied_updated_and_removed_and_leaves_nothing,
        lifecycle::a_failure_tells_exit_code_and_last_lines,
        lifecycle::volumes_survive_updates_and_go_only_when_they_are_to,
        lifecycle::a_job_that_is_done_counts_as_up,
        lifecycle::logs_stats_and_restart_go_through_the_trait,
        others::two_workloads_with_the_same_services_run_side_by_side,
        others::what_is_not_ours_is_never_touched,
        others::an_image_that_was_prepared_stays_when_another_workload_goes,
        others::images_are_never_pulled,
        supervised::a_container_that_is_killed_or_removed_comes_back_and_is_reported,
        supervised::a_crash_loop_is_not_shown_as_up,
        supervised::the_next_life_of_the_agent_finishes_what_was_begun,
        supervised::what_was_suspended_is_started_by_the_next_life,
        supervised::an_engine_that_stops_makes_blind_and_takes_nothing_away,
    ];
    // Cargo hands the filter of the whole run to every target.
    let arguments: Vec<String> = env::args().skip(1).collect();
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let chosen: Vec<_> = tests.into_iter().filter(|(name, _)| chosen(name)).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    if chosen.is_empty() {
        return;
    }
    let mut engine = match DockerEngine::start() {
        Ok(engine) => engine,
        Err(NotRun(reason)) => {
            chosen.iter().for_each(|(name, _)| println!("test {name} ... not run: {reason}"));
            return;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (name, test) in chosen {
        runtime.block_on(test(&mut engine));
        println!("test {name} ... ok");
    }
}
