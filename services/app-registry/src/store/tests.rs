use ::store::Location;
use testkit::on_each_database;

use super::*;

async fn open(location: &Location) -> (Database, Catalogue) {
    let database = Database::open(location).await.unwrap();
    let outbox = Outbox::open(bus::ServiceName::AppRegistry, database.clone()).await.unwrap();
    let catalogue = Catalogue::open(database.clone(), outbox, TenantName::default()).await.unwrap();
    (database, catalogue)
}

/// `hello` at a version; tests change what they are about.
fn content(version: &str) -> AppContent {
    AppContent {
        app: App {
            id: "hello".parse().unwrap(),
            version: version.parse().unwrap(),
            name: "Hello".into(),
            profiles: vec![],
            digest: Digest::of(b"package"),
            added_by: "ada".into(),
            added_at: "2026-01-01T00:00:00.000Z".into(),
        },
        description: "exact text\n".into(),
        lock: BTreeMap::from([("hello".parse().unwrap(), Digest::of(b"wasm"))]),
        images: BTreeMap::new(),
    }
}

fn commit() -> proto::GitWrite {
    proto::GitWrite { author: "ada".into(), ..proto::GitWrite::default() }
}

#[tokio::test]
async fn what_was_added_is_there_in_the_next_life_and_in_the_order_in_which_it_came() {
    on_each_database(async |location| {
        let (database, catalogue) = open(&location).await;
        for version in ["2.0.0", "10.0.0", "1.0.0"] {
            assert_eq!(catalogue.add(&content(version), commit()).await.unwrap(), Added::New);
        }
        database.close().await;
        let (_, catalogue) = open(&location).await;
        let versions: Vec<_> = catalogue.list().await.unwrap().into_iter().map(|app| app.version.to_string()).collect();
        assert_eq!(versions, ["2.0.0", "10.0.0", "1.0.0"]);
        let wanted = AppRef { id: "hello".parse().unwrap(), version: "1.0.0".parse().unwrap() };
        assert_eq!(catalogue.get(&wanted).await.unwrap(), Some(content("1.0.0")));
        let unknown = AppRef { version: "9.9.9".parse().unwrap(), ..wanted };
        assert_eq!(catalogue.get(&unknown).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_version_is_never_changed_and_nothing_is_committed_twice() {
    on_each_database(async |location| {
        let (_, catalogue) = open(&location).await;
        catalogue.add(&content("1.0.0"), commit()).await.unwrap();
        let same = Added::Same(content("1.0.0").app);
        assert_eq!(catalogue.look(&content("1.0.0")).await.unwrap(), same);
        assert_eq!(catalogue.add(&content("1.0.0"), commit()).await.unwrap(), same);
        let mut other = content("1.0.0");
        other.lock.insert("hello".parse().unwrap(), Digest::of(b"other"));
        assert_eq!(catalogue.look(&other).await.unwrap(), Added::Taken);
        assert_eq!(catalogue.add(&other, commit()).await.unwrap(), Added::Taken);
        // The next write is the second one.
        let mut tx = catalogue.database.begin().await.unwrap();
        assert_eq!(
            catalogue.outbox.append_all(&mut tx, vec![(RepositoryName::Fleet, commit())]).await.unwrap()[0].1,
            2
        );
    })
    .await;
}
