use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::flow::{WINDOW_BYTES, WINDOW_ROWS};

const FLEET: RepositoryName = RepositoryName::Fleet;

fn client(name: &str) -> RepositoryName {
    RepositoryName::Client(name.parse().unwrap())
}

/// An outbox in memory: the open rows, and how far publishing is.
struct Source {
    rows: BTreeMap<(RepositoryName, u64), OpenRow>,
    progress: Progress,
    /// Rows that were read from the database, one by one or as keys.
    read: usize,
    now: Instant,
}

impl Source {
    fn new() -> Self {
        Self { rows: BTreeMap::new(), progress: Progress::default(), read: 0, now: Instant::now() }
    }

    fn append(&mut self, repository: &RepositoryName, follows: u64, bytes: usize) -> u64 {
        let last = self.rows.range((repository.clone(), 0)..=(repository.clone(), u64::MAX)).next_back();
        let known = self.progress.flows.get(repository).map_or(0, |flow| flow.last);
        let number = last.map_or(known, |((_, number), _)| *number) + 1;
        let payload = Some(Bytes::from(vec![0; bytes]));
        let row = OpenRow { repository: repository.clone(), number, follows, payload, traceparent: None };
        self.rows.insert((repository.clone(), number), row);
        self.progress.appended(repository, number);
        number
    }

    /// An order with a row for the fleet and one for a client.
    fn order(&mut self, repository: &RepositoryName) {
        let follows = self.append(&FLEET, 0, 1);
        self.append(repository, follows, 1);
    }

    /// Reads and publishes one batch, which the bus takes or does not.
    fn publish(&mut self) -> Option<Batch> {
        let wanted = self.progress.wanted();
        if wanted.keys.is_empty() {
            return None;
        }
        assert!(wanted.keys.len() as u64 <= MAX_ROWS, "{}", wanted.keys.len());
        self.read += wanted.keys.len();
        let found = wanted.keys.iter().filter_map(|key| self.rows.get(key).cloned()).collect();
        let batch = self.progress.choose(&wanted, found);
        self.progress.published(&batch, self.now);
        Some(batch)
    }

    fn publish_all(&mut self) -> Vec<(RepositoryName, u64)> {
        let mut published = Vec::new();
        while let Some(batch) = self.publish() {
            published.extend(batch.rows.into_iter().map(|row| (row.repository, row.number)));
        }
        published
    }

    /// git-writer is asked once, and says this.
    fn answer(&mut self, repository: &RepositoryName, number: u64) -> (News, bool) {
        self.progress.answered(repository, number, self.now)
    }
}

fn numbers(rows: &[(RepositoryName, u64)], of: &RepositoryName) -> Vec<u64> {
    rows.iter().filter(|(repository, _)| repository == of).map(|(_, number)| *number).collect()
}

#[test]
fn the_rows_of_an_order_go_together_that_of_the_fleet_first_and_only_once() {
    let (mut source, plant) = (Source::new(), client("plant"));
    source.order(&plant);
    source.order(&plant);
    assert_eq!(source.publish_all(), [(FLEET, 1), (FLEET, 2), (plant.clone(), 1), (plant.clone(), 2)]);
    assert_eq!(source.publish_all(), []);
    assert_eq!(source.progress.open(), 4);
    assert_eq!(source.progress.handled(&FLEET, 2, source.now), News::Progress);
    assert_eq!(source.progress.handled(&FLEET, 2, source.now), News::None, "known");
    assert_eq!(source.progress.open(), 2);
}

#[test]
fn a_repository_is_published_only_so_far_ahead_and_goes_on_when_git_does() {
    let (mut source, plant) = (Source::new(), client("plant"));
    for _ in 0..2 * WINDOW_ROWS {
        source.append(&plant, 0, 1);
    }
    assert_eq!(source.publish_all().len() as u64, WINDOW_ROWS);
    source.progress.handled(&plant, 10, source.now);
    assert_eq!(numbers(&source.publish_all(), &plant), (WINDOW_ROWS + 1..=WINDOW_ROWS + 10).collect::<Vec<_>>());

    let mut source = Source::new();
    for _ in 0..(3 * WINDOW_BYTES) >> 20 {
        source.append(&plant, 0, 1 << 20);
    }
    // A page is bounded in bytes by the database; here the first one takes all that have room.
    let first = source.progress.wanted();
    assert_eq!(first.keys.len() as u64, (3 * WINDOW_BYTES) >> 20);
    let found = first.keys[..8].iter().map(|key| source.rows[key].clone()).collect::<Vec<_>>();
    let batch = source.progress.choose(&first, found);
    assert_eq!((batch.rows.len(), &batch.missing[..]), (8, &[][..]), "the page ended there");
    source.progress.published(&batch, source.now);
    let next = source.progress.wanted();
    let found = next.keys[..8].iter().map(|key| source.rows[key].clone()).collect::<Vec<_>>();
    let batch = source.progress.choose(&next, found);
    source.progress.published(&batch, source.now);
    assert_eq!(source.progress.wanted(), Wanted::default(), "16 MiB are on their way");
}

#[test]
fn a_client_waits_for_the_row_of_the_fleet_that_it_follows_and_nobody_else_does() {
    let (mut source, plant, port) = (Source::new(), client("plant"), client("port"));
    for _ in 0..WINDOW_ROWS {
        source.append(&FLEET, 0, 1);
    }
    source.publish_all();
    // The fleet has no room, so this one has to wait.
    source.order(&plant);
    source.append(&port, 0, 1);
    assert_eq!(source.publish_all(), [(port, 1)]);
    let read = source.read;
    assert_eq!(source.publish_all(), []);
    assert_eq!(source.read, read, "who waits is not read again and again");
    source.progress.handled(&FLEET, 1, source.now);
    assert_eq!(source.publish_all(), [(FLEET, WINDOW_ROWS + 1), (plant, 1)]);
}

#[test]
fn of_a_thousand_repositories_each_has_its_share_whatever_one_of_them_has_to_send() {
    let mut source = Source::new();
    let stands_still = client("still");
    for _ in 0..10 * WINDOW_ROWS {
        source.append(&stands_still, 0, 1);
    }
    let clients: Vec<_> = (0..1_000).map(|at| client(&format!("plant-{at}"))).collect();
    for client in &clients {
        source.append(client, 0, 1);
    }
    let mut seen = BTreeSet::new();
    // 500 rows each: at least 250 repositories have a row in each batch.
    for _ in 0..5 {
        let batch = source.publish().unwrap();
        seen.extend(batch.rows.into_iter().map(|row| row.repository));
    }
    assert_eq!(seen.len(), 1_001);
    source.publish_all();

    // What the others do from now on costs no look at the rows that wait.
    let read = source.read;
    for round in 2..=5 {
        for client in &clients {
            source.progress.handled(client, round - 1, source.now);
            source.append(client, 0, 1);
        }
        assert_eq!(source.publish_all().len(), 1_000);
    }
    assert_eq!(source.read - read, 4_000);
}

#[test]
fn rows_are_published_again_ever_more_seldom_and_one_by_one_while_there_is_no_news() {
    let (mut source, plant) = (Source::new(), client("plant"));
    for _ in 0..3 {
        source.append(&plant, 0, 1);
    }
    source.append(&FLEET, 0, 1);
    source.publish_all();
    let mut again = Vec::new();
    for answer in 1..=40 {
        if source.answer(&plant, 0) == (News::None, true) {
            again.push(answer);
            // The others have done nothing to be sent again.
            assert_eq!(source.publish_all(), [(plant.clone(), 1)]);
        }
    }
    assert_eq!(again, [2, 4, 8, 16, 24, 32, 40]);
    // With each news it may go twice as far.
    source.progress.handled(&plant, 1, source.now);
    assert_eq!(source.publish_all(), [(plant.clone(), 2), (plant.clone(), 3)]);
    assert_eq!(source.answer(&plant, 1), (News::None, false), "one answer without news after progress is no reason");
}

#[test]
fn git_writer_is_asked_about_each_repository_that_waits_and_not_twice_at_a_time() {
    let (mut source, plant) = (Source::new(), client("plant"));
    source.order(&plant);
    source.publish_all();
    let later = source.now + Duration::from_secs(60);
    assert_eq!(source.progress.ask(source.now), None, "announcements come first");
    let asked = [source.progress.ask(later), source.progress.ask(later)];
    assert!(asked.contains(&Some(FLEET)) && asked.contains(&Some(plant.clone())), "{asked:?}");
    assert_eq!(source.progress.ask(later), None, "their answers are awaited");
    source.progress.unanswered(&plant, source.now);
    assert_eq!(source.progress.ask(later), Some(plant.clone()));
    source.progress.handled(&plant, 1, source.now);
    source.answer(&plant, 1);
    source.answer(&FLEET, 1);
    assert_eq!((source.progress.ask(later), source.progress.ask_at()), (None, None), "nothing waits");
}

#[test]
fn a_number_that_was_never_given_stops_its_own_repository_until_the_database_knows_it() {
    let (mut source, plant, port) = (Source::new(), client("plant"), client("port"));
    source.append(&plant, 0, 1);
    source.append(&port, 0, 1);
    assert_eq!(source.progress.handled(&plant, 2, source.now), News::Surprise);
    assert_eq!(source.publish_all(), [(port, 1)]);
    // A look that began before says nothing.
    source.progress.learn(&plant, Level { last: 1, closed: 0, foreign: false });
    assert_eq!(source.publish_all(), []);
    // Somebody appended rows and did not tell.
    source.progress.checked(&plant, Level { last: 3, closed: 2, foreign: false });
    source.rows.insert((plant.clone(), 3), OpenRow { number: 3, ..source.rows[&(plant.clone(), 1)].clone() });
    assert_eq!(source.publish_all(), [(plant.clone(), 3)]);

    assert_eq!(source.progress.handled(&plant, 9, source.now), News::Surprise);
    source.progress.checked(&plant, Level { last: 3, closed: 2, foreign: true });
    source.append(&plant, 0, 1);
    assert_eq!(source.publish_all(), []);
    assert_eq!(source.progress.handled(&plant, 9, source.now), News::None);
    assert_eq!(source.progress.ask(source.now + Duration::from_secs(60)), Some(client("port")));
}

#[test]
fn behind_a_row_that_is_not_there_nothing_goes_and_others_do() {
    let (mut source, plant, port) = (Source::new(), client("plant"), client("port"));
    for _ in 0..3 {
        source.append(&plant, 0, 1);
    }
    source.rows.remove(&(plant.clone(), 2));
    source.append(&port, 0, 1);
    assert_eq!(source.publish_all(), [(plant, 1), (port, 1)]);
}

/// git-writer as the contract has it: handles a number only if it is the next one, after what it follows, and ignores all
/// others.
#[derive(Default)]
struct GitWriter {
    handled: BTreeMap<RepositoryName, u64>,
}

impl GitWriter {
    fn take(&mut self, row: &OpenRow) {
        let fleet = self.handled.get(&FLEET).copied().unwrap_or(0);
        let handled = self.handled.entry(row.repository.clone()).or_default();
        if row.number == *handled + 1 && row.follows <= fleet {
            *handled = row.number;
        }
    }
}

proptest! {
    #[test]
    fn whatever_gets_lost_every_row_is_handled_in_the_end(
        orders in prop::collection::vec((0usize..3, any::<bool>()), 1..200),
        lost in prop::collection::vec(any::<bool>(), 40),
        known_by_announcement in prop::collection::vec(any::<bool>(), 40),
    ) {
        let clients = [client("plant"), client("port"), client("depot")];
        let mut source = Source::new();
        let mut orders = orders.into_iter();
        let mut writer = GitWriter::default();
        for round in 0..400 {
            for (which, with_fleet) in orders.by_ref().take(7) {
                let follows = if with_fleet { source.append(&FLEET, 0, 1) } else { 0 };
                source.append(&clients[which], follows, 1);
            }
            while let Some(batch) = source.publish() {
                if !lost.get(round).copied().unwrap_or(false) {
                    batch.rows.iter().for_each(|row| writer.take(row));
                }
            }
            for repository in clients.iter().chain([&FLEET]) {
                let handled = writer.handled.get(repository).copied().unwrap_or(0);
                if known_by_announcement.get(round).copied().unwrap_or(true) {
                    source.progress.handled(repository, handled, source.now);
                }
                source.answer(repository, handled);
                source.rows.retain(|(name, number), _| name != repository || *number > handled);
            }
        }
        prop_assert_eq!(source.rows.len(), 0);
        prop_assert_eq!(source.progress.open(), 0);
        prop_assert!(source.progress.queue.is_empty() && source.progress.asks.is_empty());
    }
}
