//! Reading by what changed: it gives what reading everything gives, costs what changed, and finds its way when packs are
//! replaced. The repositories are made by stock git.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use git_state::{Commit, Listing, ListingError, Manifest, Reader, TreeId, layout};
use margo::{Digest, ManifestList, NodeIdentity, NodeName, RepositoryName, TenantName};
use proptest::prelude::*;
use tempfile::TempDir;

const IDS: [&str; 3] = [
    "00000000-0000-4000-8000-000000000001",
    "00000000-0000-4000-8000-00000000000a",
    // The same id once more, in a spelling that nobody of us writes.
    "00000000-0000-4000-8000-00000000000A",
];

type Files = BTreeMap<String, Vec<u8>>;

struct World {
    folder: TempDir,
    files: Files,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: TempDir::new().unwrap(), files: Files::new() };
        let path = layout::repository(world.folder.path(), &TenantName::default(), &name());
        std::fs::create_dir_all(&path).unwrap();
        world.git(&["init", "--quiet", "--bare", "--initial-branch", "desired"]);
        // Packs, however few objects there are.
        world.git(&["config", "fastimport.unpackLimit", "1"]);
        world
    }

    fn with_nodes(count: usize) -> Self {
        let mut world = Self::new();
        (0..count).for_each(|number| world.put(&node(number), 1, 0, format!("id: {number}").as_bytes()));
        world.put_version(1);
        world.commit();
        world
    }

    fn path(&self) -> std::path::PathBuf {
        layout::repository(self.folder.path(), &TenantName::default(), &name())
    }

    fn git(&self, arguments: &[&str]) -> String {
        run(Command::new("git").arg("-C").arg(self.path()).args(arguments), b"")
    }

    fn put_version(&mut self, version: u64) {
        self.files.insert(layout::VERSION.to_owned(), format!("{version}\n").into_bytes());
    }

    fn put(&mut self, node: &NodeName, version: u64, document: usize, content: &[u8]) {
        self.files.insert(layout::node_version(node), format!("{version}\n").into_bytes());
        let path = layout::document(node, &IDS[0].parse().unwrap()).replace(IDS[0], IDS[document]);
        self.files.insert(path, content.to_vec());
    }

    /// A commit of exactly these files, in a pack of its own.
    fn commit(&self) {
        let mut stream = b"commit refs/heads/desired\ncommitter a <a@b> 0 +0000\ndata 0\n".to_vec();
        if Command::new("git")
            .arg("-C")
            .arg(self.path())
            .args(["rev-parse", "-q", "--verify", "desired"])
            .output()
            .unwrap()
            .status
            .success()
        {
            stream.extend(b"from refs/heads/desired^0\n");
        }
        stream.extend(b"deleteall\n");
        for (path, content) in &self.files {
            stream.extend(format!("M 644 inline {path}\ndata {}\n", content.len()).bytes());
            stream.extend(content);
            stream.push(b'\n');
        }
        run(Command::new("git").arg("-C").arg(self.path()).args(["fast-import", "--quiet", "--force"]), &stream);
    }

    fn reader(&self) -> Reader {
        Reader::open(self.folder.path(), &TenantName::default(), &name()).unwrap().unwrap()
    }

    fn tip(&self, reader: &Reader) -> Commit {
        reader.commit(reader.tip().unwrap().unwrap()).unwrap()
    }

    /// What the tip says, and how many objects were read for it.
    fn listing(&self, before: Option<&Listing>) -> (Listing, usize) {
        let reader = self.reader();
        let (listing, _) = reader.listing(&self.tip(&reader), before.map(seen), 0).unwrap();
        (listing, reader.reads())
    }
}

fn seen(listing: &Listing) -> (TreeId, &ManifestList) {
    (listing.tree, &listing.list)
}

fn name() -> RepositoryName {
    RepositoryName::Client("plant".parse().unwrap())
}

fn node(number: usize) -> NodeName {
    format!("n{number}").parse().unwrap()
}

fn run(command: &mut Command, input: &[u8]) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_change_costs_the_same_among_ten_nodes_and_among_ten_thousand() {
    let [few, many] = [10, 10_000].map(|count| {
        let mut world = World::with_nodes(count);
        let (before, whole) = world.listing(None);
        assert_eq!(before.list.len(), count);
        assert!(whole > 3 * count, "each node has a folder and two files: {whole}");
        world.put(&node(0), 2, 0, b"id: second");
        world.put_version(2);
        world.commit();
        let (after, reads) = world.listing(Some(&before));
        assert_eq!(
            after.list.get(&node(0)).unwrap().deployments.get(&IDS[0].parse().unwrap()),
            Some(&Digest::of(b"id: second"))
        );
        assert_eq!(after.list, Manifest::read(&world.files).unwrap().list());
        assert_eq!(world.listing(Some(&after)).1, 3, "the same commit again: the commit, its root, the version");
        reads
    });
    // The commit; four folders as they are and as they were; the manifest's version, the node's, and the document.
    assert_eq!((few, many), (12, 12));
}

#[test]
fn what_changed_comes_along_as_far_as_there_is_room() {
    let mut world = World::with_nodes(3);
    let (before, _) = world.listing(None);
    world.put(&node(1), 2, 0, b"id: small");
    world.put(&node(2), 2, 0, &[b'x'; 1_000]);
    let identity = NodeIdentity { device: "plant/n1".parse().unwrap(), identity: None, former: Vec::new() }.to_bytes();
    world.files.insert(layout::node_identity(&node(1)), identity.clone());
    world.files.retain(|path, _| !path.contains("/n0/"));
    world.put_version(2);
    world.commit();
    let reader = world.reader();
    let (listing, mut changes) = reader.listing(&world.tip(&reader), Some(seen(&before)), 500).unwrap();
    changes.nodes.sort();
    assert_eq!(changes.nodes, [node(1), node(2)]);
    let expected = [b"id: small".to_vec(), identity].map(|content| (Digest::of(&content), content));
    assert_eq!(changes.contents, expected.into());
    assert_eq!(listing.list, Manifest::read(&world.files).unwrap().list());
}

#[test]
fn nodes_that_are_not_read_are_held_against_the_version_too() {
    let mut world = World::with_nodes(2);
    world.put(&node(0), 5, 0, b"id: later");
    world.put_version(5);
    world.commit();
    let (before, _) = world.listing(None);
    world.put_version(4);
    world.commit();
    let reader = world.reader();
    let refused = reader.listing(&world.tip(&reader), Some(seen(&before)), 0).unwrap_err();
    assert!(matches!(&refused, ListingError::Manifest(_)), "{refused}");
    assert!(refused.to_string().contains("the node has version 5, the manifest 4"), "{refused}");
}

#[test]
fn a_file_is_found_by_its_path_and_its_folders_are_read_once() {
    let world = World::with_nodes(40);
    let reader = world.reader();
    let commit = world.tip(&reader);
    for (path, content) in &world.files {
        assert_eq!(reader.file(&commit, path).unwrap().as_ref(), Some(content), "{path}");
    }
    let folders: std::collections::BTreeSet<_> =
        world.files.keys().flat_map(|path| path.match_indices('/').map(|(at, _)| &path[..at])).collect();
    assert_eq!(reader.reads(), 1 + 1 + folders.len() + world.files.len(), "commit, root, folders and files");
    for path in ["nodes", "nodes/none/VERSION", "VERSION/x", "", "nodes/", "/VERSION"] {
        assert_eq!(reader.file(&commit, path).unwrap(), None, "{path}");
    }
}

#[test]
fn readers_find_their_way_while_packs_are_replaced() {
    let mut world = World::with_nodes(20);
    let mut before = world.listing(None).0;
    for version in 2..40 {
        world.put(&node(version % 20), version as u64, 0, format!("id: {version}").as_bytes());
        world.put_version(version as u64);
        world.commit();
        world.git(&["repack", "-adfq"]);
        assert_eq!(std::fs::read_dir(world.path().join("objects/pack")).unwrap().filter(is_pack).count(), 1);
        before = world.listing(Some(&before)).0;
        assert_eq!(before.list, Manifest::read(&world.files).unwrap().list());
    }
}

fn is_pack(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
    Path::new(&entry.as_ref().unwrap().file_name()).extension().is_some_and(|extension| extension == "pack")
}

#[test]
fn a_commit_that_is_none_is_an_error() {
    let world = World::with_nodes(1);
    let reader = world.reader();
    let tree = world.git(&["rev-parse", "desired^{tree}"]).trim().parse().unwrap();
    assert!(reader.commit(tree).is_err());
    assert!(reader.commit("0000000000000000000000000000000000000001".parse().unwrap()).is_err());
    assert!(
        world.tip(&reader).verify(&margo::KeySet { tenant: TenantName::default(), number: 1, keys: vec![] }).is_err()
    );
}

#[derive(Clone, Debug)]
enum Edit {
    Put {
        node: usize,
        document: usize,
        content: u8,
    },
    Admit {
        node: usize,
        device: u8,
    },
    Leave {
        node: usize,
    },
    Drop {
        node: usize,
        document: usize,
    },
    /// Something that makes no manifest, or that nobody looks at.
    Stray(usize),
}

const STRAY: [&str; 6] = [
    "nodes/84/press/x/y",
    "nodes/x",
    "nodes/84/x",
    "nodes/84/press/no-uuid.yaml",
    "nodes/aa/n1/VERSION",
    "other/x.yaml",
];

fn any_edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        6 => (0..5usize, 0..3usize, 0..3u8).prop_map(|(node, document, content)| Edit::Put { node, document, content }),
        2 => (0..5usize, 0..3u8).prop_map(|(node, device)| Edit::Admit { node, device }),
        1 => (0..5usize).prop_map(|node| Edit::Leave { node }),
        3 => (0..5usize, 0..3usize).prop_map(|(node, document)| Edit::Drop { node, document }),
        1 => (0..STRAY.len()).prop_map(Edit::Stray),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever a commit is compared with, its listing is that of all its files, or none where they make no manifest.
    #[test]
    fn a_listing_is_that_of_all_files(history in proptest::collection::vec(proptest::collection::vec(any_edit(), 1..4), 1..6)) {
        let mut world = World::new();
        let mut known: Vec<Listing> = Vec::new();
        for (version, edits) in (1u64..).zip(history) {
            world.files.retain(|path, _| !STRAY.contains(&path.as_str()));
            for edit in edits {
                match edit {
                    Edit::Put { node: number, document, content } => world.put(&node(number), version, document, &[content]),
                    Edit::Admit { node: number, device } => {
                        let node = node(number);
                        world.files.insert(layout::node_version(&node), format!("{version}\n").into_bytes());
                        let device = format!("plant/{device}").parse().unwrap();
                        let identity = NodeIdentity { device, identity: None, former: Vec::new() };
                        world.files.insert(layout::node_identity(&node), identity.to_bytes());
                    }
                    Edit::Leave { node } => world.files.retain(|path, _| !path.contains(&format!("/n{node}/"))),
                    Edit::Drop { node: number, document } => {
                        let path = layout::document(&node(number), &IDS[0].parse().unwrap());
                        world.files.remove(&path.replace(IDS[0], IDS[document]));
                    }
                    Edit::Stray(at) => drop(world.files.insert(STRAY[at].to_owned(), b"1\n".to_vec())),
                }
            }
            world.put_version(version);
            world.commit();
            let expected = Manifest::read(&world.files).ok();
            let reader = world.reader();
            let commit = world.tip(&reader);
            for before in known.iter().map(Some).chain([None]) {
                let found = reader.listing(&commit, before.map(seen), 0).ok().map(|(listing, _)| listing);
                prop_assert_eq!(found.as_ref().map(|found| found.version), expected.as_ref().map(|expected| expected.version));
                prop_assert_eq!(found.map(|found| found.list), expected.as_ref().map(Manifest::list));
            }
            known.extend(reader.listing(&commit, None, 0).ok().map(|(listing, _)| listing));
        }
    }
}
