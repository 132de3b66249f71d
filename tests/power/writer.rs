//! The process whose power is cut: it commits without end, and says after each group what it has promised.

use std::path::Path;

use end_to_end::random::Random;
use git_state::{Draft, FileChange, Message, Writer};
use identity::SigningKey;
use jiff::Timestamp;
use margo::{KeySet, RepositoryName, TenantName};

/// One client's commits for each chance; `fleet.git` gets some in each group.
const CLIENTS: usize = 3;

/// The length of a file, in words of eight bytes, with which the journal fills up within some tens of groups.
const MANY_WORDS: u64 = 70_000;

pub fn repositories() -> Vec<RepositoryName> {
    let clients = (0..CLIENTS).map(|client| RepositoryName::Client(format!("c{client}").parse().unwrap()));
    std::iter::once(RepositoryName::Fleet).chain(clients).collect()
}

/// Becomes the writer of the repositories in a folder, which writes once more what an earlier one has promised.
pub fn open(folder: &Path, key: &Path) -> Writer {
    let key = SigningKey::load(key).unwrap();
    let keys = KeySet { tenant: TenantName::default(), number: 1, keys: vec![key.public().to_string()] };
    Writer::new(folder, &TenantName::default(), &keys, key).unwrap()
}

/// Commits until the process is killed. Each line names the repositories of a group with their tips.
pub fn run(folder: &Path, key: &Path, seed: u64) {
    let mut random = Random::new(seed, 1);
    let mut writer = open(folder, key);
    let names = repositories();
    for name in &names {
        writer.open_or_create(name).unwrap();
    }
    loop {
        let mut all = Vec::new();
        for name in &names {
            if *name != RepositoryName::Fleet && random.between(0, 2) == 0 {
                continue;
            }
            let mut series = writer.series(name, writer.tip(name).unwrap());
            for _commit in 0..random.between(1, 4) {
                commit(&writer, &mut series, &mut random);
            }
            all.push((name.clone(), series));
        }
        let (named, series): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let tips: Vec<_> = series.iter().map(|series| series.tip().unwrap()).collect();
        writer.advance(series).into_iter().for_each(Result::unwrap);
        let promised = named.iter().zip(tips).map(|(name, tip)| format!("{name} {tip}"));
        println!("{}", promised.collect::<Vec<_>>().join(" "));
        if random.between(0, 12) == 0 {
            writer.rest().unwrap();
        }
    }
}

fn commit(writer: &Writer, series: &mut git_state::Series, random: &mut Random) {
    let words = if random.between(0, 9) == 0 { MANY_WORDS } else { random.between(1, 60) };
    let content = (0..words).flat_map(|_| random.next().to_le_bytes()).collect();
    let path = format!("a/{:x}/n{}.yaml", random.between(0, 15), random.between(0, 40));
    let changes = [
        FileChange { path: path.try_into().unwrap(), content: Some(content) },
        FileChange { path: format!("b/n{}", random.between(0, 9)).try_into().unwrap(), content: None },
        FileChange {
            path: format!("b/n{}", random.between(0, 9)).try_into().unwrap(),
            content: Some(random.next().to_string().into_bytes()),
        },
    ];
    let message = Message::new("change").with("Order", "1");
    let draft = Draft { author: "ada", message: &message, changes: &changes, at: Timestamp::UNIX_EPOCH };
    writer.write(series, draft).unwrap();
}
