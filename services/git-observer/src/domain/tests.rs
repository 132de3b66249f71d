use std::collections::{BTreeMap, HashMap};

use super::*;
use git_state::Manifest;
use identity::{
    SigningKey,
    trust::{HEAD_NAMESPACE, sign_keys},
};

const ID: &str = "00000000-0000-4000-8000-000000000001";

struct World {
    root: SigningKey,
    writer: SigningKey,
    client: ClientName,
}

impl World {
    fn new() -> Self {
        let [root, writer] = ["root", "git-writer"].map(|name| SigningKey::generate(name).unwrap());
        Self { root, writer, client: "plant".parse().unwrap() }
    }

    /// The files of a commit with one document on each of two nodes.
    fn files(&self, version: u64, document: &str, keys: u64) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::from([
            ("VERSION".to_owned(), format!("{version}\n").into_bytes()),
            ("nodes/84/press/VERSION".to_owned(), format!("{version}\n").into_bytes()),
            (format!("nodes/84/press/{ID}.yaml"), document.as_bytes().to_vec()),
            ("nodes/df/saw/VERSION".to_owned(), b"1\n".to_vec()),
            (format!("nodes/df/saw/{ID}.yaml"), b"saw".to_vec()),
        ]);
        let head = Head {
            tenant: TenantName::default(),
            client: self.client.clone(),
            version: ManifestVersion::try_from(version).unwrap(),
            list: Manifest::read(&files).unwrap().list().digest(),
        };
        let signature = self.writer.sign(HEAD_NAMESPACE, &head.to_bytes()).unwrap();
        let set = KeySet { tenant: TenantName::default(), number: keys, keys: vec![self.writer.public().to_string()] };
        let (keys, keys_signature) = sign_keys(&self.root, &set).unwrap();
        files.insert("head".to_owned(), head.to_bytes());
        files.insert("head.sig".to_owned(), signature.into_bytes());
        files.insert("KEYS".to_owned(), keys);
        files.insert("KEYS.sig".to_owned(), keys_signature.into_bytes());
        files
    }

    fn check(&self, files: &BTreeMap<String, Vec<u8>>, held: u64) -> Result<Tip, UntrustedTip> {
        let (root, tenant) = (self.root.public(), TenantName::default());
        let trust = Trust { root: &root, tenant: &tenant, client: &self.client };
        let file = |path| Ok::<_, UntrustedTip>(files.get(path).cloned());
        let manifest = Manifest::read(files)?;
        trust.check("commit", file, held, |_| Ok(()))?.with_files(manifest.version, manifest.list())
    }

    fn tip(&self, version: u64, document: &str) -> Tip {
        self.check(&self.files(version, document, 1), 0).unwrap()
    }
}

#[test]
fn a_key_set_that_is_older_than_one_on_the_bus_is_refused_after_all() {
    let tip = World::new().tip(3, "x");
    assert!(tip.not_before(1).is_ok());
    assert!(matches!(tip.not_before(2), Err(UntrustedTip::Untrusted(Untrusted::OldKeys { found: 1, held: 2 }))));
}

#[test]
fn only_files_that_the_head_is_about_are_published() {
    let world = World::new();
    let files = world.files(3, "x", 2);
    assert_eq!(world.check(&files, 2).unwrap().list.len(), 2);
    assert!(matches!(world.check(&files, 3), Err(UntrustedTip::Untrusted(Untrusted::OldKeys { found: 2, held: 3 }))));

    let changed = |path: &str, content: &[u8]| {
        let mut files = files.clone();
        files.insert(path.to_owned(), content.to_vec());
        world.check(&files, 0).unwrap_err()
    };
    assert!(matches!(changed(&format!("nodes/84/press/{ID}.yaml"), b"other"), UntrustedTip::List { .. }));
    assert!(matches!(changed("VERSION", b"4\n"), UntrustedTip::Version { head: 3, files: 4 }));
    assert!(matches!(
        changed("head", &world.files(4, "x", 2)["head"]),
        UntrustedTip::Untrusted(Untrusted::Signature("head"))
    ));
    assert!(matches!(changed("nodes/84/press/VERSION", b"9\n"), UntrustedTip::Manifest(_)));
    let mut without = files.clone();
    without.remove("KEYS.sig");
    assert!(matches!(world.check(&without, 0), Err(UntrustedTip::Missing("KEYS.sig"))));
}

#[test]
fn a_head_by_another_key_or_of_another_client_is_refused() {
    let (world, other) = (World::new(), World::new());
    assert!(matches!(world.check(&other.files(1, "x", 1), 0), Err(UntrustedTip::Untrusted(Untrusted::Keys(_)))));
    let elsewhere = World { client: "other".parse().unwrap(), ..world };
    let files = elsewhere.files(1, "x", 1);
    let here = World { client: "plant".parse().unwrap(), ..elsewhere };
    assert!(matches!(here.check(&files, 0), Err(UntrustedTip::Untrusted(Untrusted::Foreign { .. }))));
}

#[test]
fn wfm_17_an_older_version_or_another_story_under_the_same_one_is_never_published() {
    let world = World::new();
    let (two, three, also_three) = (world.tip(2, "x"), world.tip(3, "y"), world.tip(3, "z"));
    assert_eq!(two.since(None).unwrap(), Some(0));
    assert_eq!(three.since(Some(&two.head)).unwrap(), Some(2));
    assert_eq!(three.since(Some(&three.head)).unwrap(), None);
    assert!(matches!(two.since(Some(&three.head)), Err(UntrustedTip::Older { found: 2, published: 3 })));
    assert!(matches!(also_three.since(Some(&three.head)), Err(UntrustedTip::Conflict(3))));
}

#[test]
fn only_nodes_that_changed_are_published() {
    let world = World::new();
    let tip = world.tip(3, "x");
    let names = |since| tip.list.changed_since(since).map(|(name, _)| name.as_str()).collect::<Vec<_>>();
    assert_eq!((names(0), names(1), names(3)), (vec!["press", "saw"], vec!["press"], vec![]));
}

#[test]
fn a_node_s_message_is_repaired_when_it_is_not_what_the_repository_says() {
    let world = World::new();
    let tip = world.tip(3, "x");
    let (saw, gone): (NodeName, NodeName) = ("saw".parse().unwrap(), "gone".parse().unwrap());
    let contents: HashMap<_, _> = [&b"x"[..], b"saw"].map(|content| (Digest::of(content), content)).into();
    let message = |node| {
        let file = |_, digest| contents.get(&digest).map(|content| Bytes::from_static(content)).ok_or(digest);
        tip.message(node, file).unwrap()
    };
    let of_gone = message(&gone);
    let message = message(&saw);
    assert_eq!(message.deployments[0].digest, Digest::of(b"saw").to_string());
    assert!(!tip.differs(&saw, Some(&message)));
    assert!(tip.differs(&saw, None));
    assert!(tip.differs(&saw, Some(&proto::DesiredNode { version: 9, ..message.clone() })));
    let mut other = vec![message.clone(); 6];
    other[0].client = "port".to_owned();
    other[1].node = "press".to_owned();
    other[2].identity = "somebody".into();
    other[3].deployments.clear();
    other[4].deployments[0].document = "evil".into();
    other[5].deployments[0].digest = Digest::of(b"evil").to_string();
    assert!(other.iter().all(|other| tip.differs(&saw, Some(other))));
    assert!(tip.differs(&gone, Some(&message)));
    assert!(!tip.differs(&gone, Some(&of_gone)));
    assert!(!tip.differs(&gone, None));
}
