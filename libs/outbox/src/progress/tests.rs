use proptest::prelude::*;

use super::*;

fn client(name: &str) -> RepositoryName {
    RepositoryName::Client(name.parse().unwrap())
}

fn row(position: u64, repository: &RepositoryName, number: u64) -> OpenRow {
    OpenRow { position, repository: repository.clone(), number, payload: Bytes::new(), traceparent: None }
}

fn numbers(batch: &Batch) -> Vec<(String, u64)> {
    batch.rows.iter().map(|row| (row.repository.to_string(), row.number)).collect()
}

#[test]
fn rows_of_several_repositories_go_together_in_their_order_and_only_once() {
    let rows = [row(1, &RepositoryName::Fleet, 1), row(2, &client("plant"), 1), row(5, &RepositoryName::Fleet, 2)];
    let mut progress = Progress::default();
    let batch = progress.next_batch(rows.to_vec());
    assert_eq!(numbers(&batch), [("fleet".into(), 1), ("clients/plant".into(), 1), ("fleet".into(), 2)]);
    progress.published(&batch);
    assert_eq!(progress.cursor(), 5);
    assert_eq!(progress.next_batch(Vec::new()).rows, []);
    assert_eq!(progress.waiting(), BTreeSet::from([RepositoryName::Fleet, client("plant")]));
}

#[test]
fn rows_are_published_again_ever_more_seldom_while_git_writer_has_no_news() {
    let rows = [row(1, &RepositoryName::Fleet, 1), row(2, &client("plant"), 1)];
    let mut progress = Progress::default();
    progress.published(&progress.next_batch(rows.to_vec()));
    let mut again = Vec::new();
    for answer in 1..=130 {
        if progress.no_news(&RepositoryName::Fleet) {
            again.push(answer);
            assert_eq!(progress.cursor(), 0);
            let batch = progress.next_batch(rows.to_vec());
            // The other repository has done nothing to be sent again.
            assert_eq!(numbers(&batch), [("fleet".into(), 1)]);
            progress.published(&batch);
        }
    }
    assert_eq!(again, [2, 4, 8, 16, 32, 64, 96, 128]);
}

#[test]
fn news_are_progress_and_end_the_wait() {
    let rows = [row(1, &RepositoryName::Fleet, 1), row(2, &RepositoryName::Fleet, 2)];
    let mut progress = Progress::default();
    progress.published(&progress.next_batch(rows.to_vec()));
    assert!(!progress.no_news(&RepositoryName::Fleet));
    assert_eq!(progress.handled(&RepositoryName::Fleet, 1), News::Progress);
    assert!(!progress.no_news(&RepositoryName::Fleet), "one answer without news after progress is no reason");
    assert_eq!(progress.handled(&RepositoryName::Fleet, 2), News::Progress);
    assert_eq!(progress.handled(&RepositoryName::Fleet, 2), News::None, "known");
    assert!(progress.waiting().is_empty());
}

#[test]
fn a_number_that_this_process_has_not_published_is_a_surprise() {
    let mut progress = Progress::default();
    progress.published(&progress.next_batch(vec![row(1, &RepositoryName::Fleet, 1)]));
    assert_eq!(progress.handled(&RepositoryName::Fleet, 2), News::Surprise);
    assert_eq!(progress.handled(&client("plant"), 1), News::Surprise);
    assert_eq!(progress.handled(&client("plant"), 1), News::None);
}

/// git-writer as the contract has it: handles a number only if it is the next one, and ignores all others.
#[derive(Default)]
struct GitWriter {
    handled: BTreeMap<RepositoryName, u64>,
}

impl GitWriter {
    fn take(&mut self, row: &OpenRow) {
        let handled = self.handled.entry(row.repository.clone()).or_default();
        if row.number == *handled + 1 {
            *handled = row.number;
        }
    }
}

proptest! {
    #[test]
    fn whatever_gets_lost_every_row_is_handled_in_the_end(
        order in prop::collection::vec(0usize..3, 1..200),
        lost in prop::collection::vec(any::<bool>(), 40),
        known_by_announcement in prop::collection::vec(any::<bool>(), 40),
    ) {
        let repositories = [RepositoryName::Fleet, client("plant"), client("port")];
        let mut last = BTreeMap::<RepositoryName, u64>::new();
        let mut open: Vec<OpenRow> = order.iter().enumerate().map(|(at, which)| {
            let number = last.entry(repositories[*which].clone()).and_modify(|it| *it += 1).or_insert(1);
            row(at as u64 + 1, &repositories[*which], *number)
        }).collect();
        let mut writer = GitWriter::default();
        let mut progress = Progress::default();
        for round in 0..200 {
            let page: Vec<_> = open.iter().filter(|row| row.position > progress.cursor()).cloned().collect();
            let batch = progress.next_batch(page);
            progress.published(&batch);
            if !lost.get(round).copied().unwrap_or(false) {
                batch.rows.iter().for_each(|row| writer.take(row));
            }
            for repository in progress.waiting() {
                let handled = writer.handled.get(&repository).copied().unwrap_or(0);
                let heard = known_by_announcement.get(round).copied().unwrap_or(true);
                if !(heard && progress.handled(&repository, handled) != News::None) {
                    progress.no_news(&repository);
                }
                open.retain(|row| row.repository != repository || row.number > handled);
            }
        }
        prop_assert_eq!(open, vec![]);
        prop_assert_eq!(writer.handled, last);
    }
}
