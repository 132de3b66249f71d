use git_state::Manifest;
use proptest::prelude::*;

use super::*;

const SOURCE: ServiceName = ServiceName::DeploymentRegistry;
const OTHER: ServiceName = ServiceName::NodeCapabilities;

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn deployment(number: u8) -> DeploymentId {
    format!("00000000-0000-4000-8000-0000000000{number:02x}").parse().unwrap()
}

fn put(on: &str, number: u8, document: &str) -> DeploymentEdit {
    DeploymentEdit { node: node(on), deployment: deployment(number), content: Some((document.into(), b"{}".to_vec())) }
}

fn remove(on: &str, number: u8) -> DeploymentEdit {
    DeploymentEdit { content: None, ..put(on, number, "") }
}

/// A client's repository in memory: what git-writer keeps of it, and the files that the commits leave behind.
#[derive(Default)]
struct Client {
    version: Option<ManifestVersion>,
    list: ManifestList,
    files: BTreeMap<String, Vec<u8>>,
}

impl Client {
    /// Commits one row; returns the files that it changes.
    fn commit(&mut self, edits: &[DeploymentEdit]) -> Vec<FileChange> {
        self.carry_out(&ClientEdits { deployments: edits.to_vec(), nodes: Vec::new() })
    }

    /// The same of a row that says who a node is.
    fn admit(&mut self, on: &str, identity: &margo::NodeIdentity) -> Vec<FileChange> {
        let nodes = vec![NodeEdit { node: node(on), identity: identity.to_bytes() }];
        self.carry_out(&ClientEdits { nodes, deployments: Vec::new() })
    }

    fn carry_out(&mut self, edits: &ClientEdits) -> Vec<FileChange> {
        let version = next_version(self.version).unwrap();
        let changes = carry_out(edits, version, &mut self.list);
        self.version = Some(version);
        for FileChange { path, content } in changes.clone() {
            match content {
                Some(content) => self.files.insert(path.to_string(), content),
                None => self.files.remove(path.as_str()),
            };
        }
        changes
    }
}

#[test]
fn the_trailer_is_sorted_and_read_back() {
    let mut handled = Handled::default();
    for source in [OTHER, SOURCE, OTHER] {
        handled.advance(source);
    }
    assert_eq!(handled.to_string(), "deployment-registry=1 node-capabilities=2");
    assert_eq!(handled.to_string().parse::<Handled>().unwrap(), handled);
    assert_eq!("".parse::<Handled>().unwrap(), Handled::default());
    for bad in ["x", "x=", "x=-1", "a=1,b=2"] {
        assert!(bad.parse::<Handled>().is_err(), "{bad}");
    }
}

#[test]
fn a_source_that_is_not_known_any_more_keeps_its_number() {
    let mut handled: Handled = "deployment-registry=4 fleet-manager=9".parse().unwrap();
    handled.advance(SOURCE);
    assert_eq!(handled.to_string(), "deployment-registry=5 fleet-manager=9");
}

#[test]
fn a_client_s_row_waits_for_the_one_of_its_source_in_fleet_git() {
    let handled: Handled = "deployment-registry=1".parse().unwrap();
    let fleet: Handled = "deployment-registry=4 node-capabilities=9".parse().unwrap();
    let place = |number, follows| handled.place(SOURCE, number, follows, &fleet);
    assert_eq!((place(2, 0), place(2, 4), place(2, 5)), (Place::Next, Place::Next, Place::AheadOfFleet));
    // What is committed already, or not yet the next one, has nothing to wait for.
    assert_eq!((place(1, 5), place(3, 5)), (Place::Behind, Place::Ahead));
}

#[test]
fn a_source_writes_its_own_files_only() {
    let path = |path: &str| TreePath::try_from(path.to_owned()).unwrap();
    assert!(may_write(ServiceName::AppRegistry, &path("apps/hello/1/margo.yaml")));
    assert!(may_write(OTHER, &path("nodes/plant/press.yaml")));
    assert!(!may_write(OTHER, &path("assignments/hello.yaml")));
    assert!(!may_write(SOURCE, &path("apps")));
    assert!(!may_write(ServiceName::StatusCollector, &path("apps/hello/1/margo.yaml")));
}

#[test]
fn wfm_17_every_row_makes_the_next_version_also_one_that_changes_nothing() {
    let mut client = Client::default();
    assert_eq!(client.commit(&[]), [file("VERSION", Some(b"1\n".to_vec()))]);
    assert_eq!(client.commit(&[]), [file("VERSION", Some(b"2\n".to_vec()))]);
}

#[test]
fn only_a_node_whose_documents_changed_gets_the_new_version() {
    let mut client = Client::default();
    client.commit(&[put("a", 1, "x"), put("b", 1, "x")]);
    client.commit(&[put("a", 1, "x"), put("b", 1, "y"), remove("c", 1)]);
    let files = &client.files;
    assert_eq!(files["VERSION"], b"2\n");
    let version = |on: &str| layout::node_version(&node(on));
    assert_eq!((&files[&version("a")][..], &files[&version("b")][..]), (&b"1\n"[..], &b"2\n"[..]));
    assert!(!files.contains_key(&version("c")));
    // The version of a node stays when its last deployment goes.
    client.commit(&[remove("a", 1)]);
    assert_eq!(client.files[&version("a")], b"3\n");
    assert_eq!(client.files.keys().filter(|path| path.contains("/a/")).count(), 1);
}

#[test]
fn who_a_node_is_changes_its_version_and_stands_in_the_list_also_without_deployments() {
    let mut client = Client::default();
    let identity = margo::NodeIdentity { device: "plant/a".parse().unwrap(), identity: None, former: Vec::new() };
    client.admit("a", &identity);
    assert_eq!(client.files[&layout::node_version(&node("a"))], b"1\n");
    assert_eq!(client.list.get(&node("a")).unwrap().identity, Some(Digest::of(&identity.to_bytes())));
    client.admit("a", &identity);
    assert_eq!(client.files[&layout::node_version(&node("a"))], b"1\n", "nothing changed");
    assert_eq!(Manifest::read(&client.files).unwrap().list(), client.list);
}

#[test]
fn a_version_beyond_the_last_is_refused() {
    let last = ManifestVersion::try_from((1 << 53) - 1).unwrap();
    assert!(next_version(Some(last)).is_err());
}

fn any_edit() -> impl Strategy<Value = DeploymentEdit> {
    (prop::sample::select(vec!["a", "b", "c"]), 0u8..4, proptest::option::of("[xy]")).prop_map(
        |(on, number, document)| match document {
            Some(document) => put(on, number, &document),
            None => remove(on, number),
        },
    )
}

proptest! {
    /// Rows get lost, doubled and overtaken on the way; in the end the sources publish again what is not handled.
    #[test]
    fn each_number_is_committed_exactly_once_and_in_order(
        arrivals in proptest::collection::vec((any::<bool>(), 1u64..12), 0..60),
        lengths in (0u64..12, 0u64..12),
    ) {
        let (mut handled, mut committed) = (Handled::default(), Vec::new());
        let mut take = |source, number| {
            if handled.place(source, number, 0, &Handled::default()) == Place::Next {
                handled.advance(source);
                committed.push((source, number));
            }
        };
        for (first, number) in arrivals {
            let (source, length) = if first { (SOURCE, lengths.0) } else { (OTHER, lengths.1) };
            if number <= length {
                take(source, number);
            }
        }
        for (source, length) in [(SOURCE, lengths.0), (OTHER, lengths.1)] {
            (1..=length).for_each(|number| take(source, number));
        }
        for (source, length) in [(SOURCE, lengths.0), (OTHER, lengths.1)] {
            let numbers: Vec<_> = committed.iter().filter(|row| row.0 == source).map(|row| row.1).collect();
            prop_assert_eq!(numbers, (1..=length).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_kept_in_memory_is_what_the_files_say(rows in proptest::collection::vec(proptest::collection::vec(any_edit(), 0..5), 1..8)) {
        let mut client = Client::default();
        for row in rows {
            client.commit(&row);
            let manifest = Manifest::read(&client.files).unwrap();
            prop_assert_eq!((Some(manifest.version), manifest.list()), (client.version, client.list.clone()));
        }
    }
}
