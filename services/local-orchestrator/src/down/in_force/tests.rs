use margo::TenantName;

use super::*;

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// A set in which each of these nodes runs one document, changed at the version beside it.
fn set(version: u64, nodes: &[(&str, u64)]) -> DesiredSet {
    let id: DeploymentId = "00000000-0000-4000-8000-000000000001".parse().unwrap();
    let desired = |(name, at): &(&str, u64)| {
        let deployments = [(id, Digest::of(format!("{name} {at}").as_bytes()))].into();
        (node(name), NodeEntry { identity: None, version: (*at).try_into().unwrap(), deployments })
    };
    let list: margo::ManifestList = nodes.iter().map(desired).collect();
    let (tenant, client) = (TenantName::default(), "plant".parse().unwrap());
    let head = Head { tenant, client, version: version.try_into().unwrap(), list: list.digest() };
    DesiredSet { head, list }
}

async fn adopt(adopted: &mut Adopted, set: DesiredSet, keys: u64) {
    let before = adopted.in_force();
    let changed = set.changed_since(before.as_deref().map(|before| &before.set));
    let names: Vec<_> = changed.map(|(node, desired)| (node.clone(), desired.version)).collect();
    let messages = names.iter().map(|(node, version)| Bytes::from(format!("{node} {version}"))).collect();
    let places = adopted.put(messages).await.unwrap();
    let signed = SignedHead {
        head: set.head.to_bytes().into(),
        head_signature: Bytes::new(),
        keys: Bytes::new(),
        keys_signature: Bytes::new(),
        commit: format!("commit {}", set.head.version),
        list: Bytes::new(),
    };
    let messages = names.into_iter().zip(places).map(|((node, _), place)| (node, (place, None))).collect();
    let traces = Traces { head: Some(format!("trace {}", set.head.version)), ..Traces::default() };
    adopted.bring_into_force(Next { set, head: signed, keys, road: "test", traces, messages }).await.unwrap();
}

fn served(adopted: &Adopted, name: &str) -> (String, Option<String>) {
    let served = adopted.in_force().unwrap().node(&node(name)).unwrap().unwrap();
    (String::from_utf8(served.payload.to_vec()).unwrap(), served.trace)
}

#[tokio::test]
async fn what_is_in_force_survives_the_process_and_changes_by_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let mut adopted = Adopted::open(folder.path()).unwrap();
    assert!(adopted.in_force().is_none() && adopted.keys() == 0);
    adopt(&mut adopted, set(1, &[("press", 1), ("lathe", 1)]), 3).await;
    adopt(&mut adopted, set(2, &[("press", 2), ("saw", 2)]), 3).await;
    for adopted in [&adopted, &Adopted::open(folder.path()).unwrap()] {
        let in_force = adopted.in_force().unwrap();
        assert_eq!(in_force.set, set(2, &[("press", 2), ("saw", 2)]));
        assert_eq!((in_force.commit.as_str(), in_force.road.as_str(), adopted.keys()), ("commit 2", "test", 3));
        assert_eq!(served(adopted, "press"), ("press 2".to_owned(), Some("trace 2".to_owned())));
        assert!(in_force.node(&node("lathe")).unwrap().is_none());
        let head: proto::DesiredHead = bus::decode(&in_force.head().unwrap().payload).unwrap();
        assert_eq!(head.head, in_force.set.head.to_bytes());
    }
}

#[tokio::test]
async fn the_number_of_keys_only_rises_and_survives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut adopted = Adopted::open(folder.path()).unwrap();
    adopted.raise_keys(4).await.unwrap();
    adopted.raise_keys(2).await.unwrap();
    assert_eq!(Adopted::open(folder.path()).unwrap().keys(), 4);
    adopt(&mut adopted, set(1, &[("press", 1)]), 1).await;
    assert_eq!(Adopted::open(folder.path()).unwrap().keys(), 4);
}

#[tokio::test]
async fn a_set_that_was_half_written_never_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut adopted = Adopted::open(folder.path()).unwrap();
    adopt(&mut adopted, set(1, &[("press", 1)]), 1).await;
    adopted.put(vec!["press 2".into()]).await.unwrap();
    let adopted = Adopted::open(folder.path()).unwrap();
    assert_eq!(adopted.in_force().unwrap().set, set(1, &[("press", 1)]));
    assert_eq!(served(&adopted, "press").0, "press 1");
}

#[tokio::test]
async fn the_file_is_made_small_again_and_readers_of_before_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in-force");
    let mut adopted = Adopted::open(folder.path()).unwrap();
    adopt(&mut adopted, set(1, &[("press", 1), ("lathe", 1)]), 1).await;
    adopted.put(vec![vec![0; SLACK as usize].into()]).await.unwrap();
    adopt(&mut adopted, set(2, &[("press", 2), ("lathe", 1)]), 1).await;
    let before = adopted.in_force().unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() > SLACK);
    adopted.tidy().await.unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 10_000);
    for adopted in [&adopted, &Adopted::open(folder.path()).unwrap()] {
        assert_eq!(adopted.in_force().unwrap().set, before.set);
        assert_eq!(served(adopted, "press").0, "press 2");
        assert_eq!(served(adopted, "lathe"), ("lathe 1".to_owned(), Some("trace 1".to_owned())));
    }
    assert_eq!(before.node(&node("lathe")).unwrap().unwrap().payload, "lathe 1");
    adopt(&mut adopted, set(3, &[("press", 3), ("lathe", 1)]), 1).await;
    assert_eq!(served(&Adopted::open(folder.path()).unwrap(), "press").0, "press 3");
}
