//! Packing an app's folder, and unpacking what others send.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use margo::Digest;
use oci::{
    ArtifactManifest, ContentStore, Descriptor, Index,
    layout::{LayoutError, PackError, Packed, StagedLayout, missing_images, pack, pack_with, unpack, write_layout},
    media,
};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

const MARGO: &str = include_str!("hello/margo.yaml");
const LIMIT: u64 = 1 << 20;

/// An app's folder that each test changes as it likes.
fn app(description: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("margo.yaml"), description).unwrap();
    fs::write(folder.path().join("hello.wasm"), b"\0asm").unwrap();
    fs::create_dir(folder.path().join("resources")).unwrap();
    fs::write(folder.path().join("resources/icon.png"), b"png").unwrap();
    folder
}

fn packed(folder: &Path) -> (Packed, Vec<u8>) {
    let tar = TempDir::new().unwrap();
    let tar = tar.path().join("hello.tar");
    let packed = pack(folder, &tar).unwrap();
    (packed, fs::read(tar).unwrap())
}

fn refusal(folder: &Path) -> String {
    let tar = TempDir::new().unwrap();
    let path = tar.path().join("hello.tar");
    let error = pack(folder, &path).unwrap_err();
    assert!(!path.exists());
    error.to_string()
}

async fn store() -> (TempDir, ContentStore) {
    let folder = TempDir::new().unwrap();
    let store = ContentStore::open(folder.path()).await.unwrap();
    (folder, store)
}

/// Returns the paths of what is left where this process writes, which is a folder of its own with a lock in it.
fn staged(root: &TempDir) -> Vec<PathBuf> {
    let entries = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries(root.path().join("staging")).flat_map(entries).filter(|path| !path.ends_with("lock")).collect()
}

#[test]
fn the_same_folder_gives_the_same_bytes() {
    let (one, bytes) = packed(app(MARGO).path());
    let (two, again) = packed(app(MARGO).path());
    assert_eq!((&one, Digest::of(&bytes)), (&two, Digest::of(&again)));
    assert_eq!((one.app.as_str(), one.version.as_str(), one.size), ("hello", "1.0.0", bytes.len() as u64));
    // Golden: other bytes would give every package in the field a new digest.
    assert_eq!(one.digest.to_string(), "sha256:0d60b3affb6e90d8f4a2d89d5668930392817d1eba1c4f967d030bbd2da3204b");
}

#[tokio::test]
async fn app_02_a_package_is_an_artifact_of_its_files_under_its_version() {
    let (root, store) = store().await;
    let (packed, tar) = packed(app(MARGO).path());
    let layout = unpack(tar.as_slice(), &store, LIMIT).unwrap();
    let [first, second] = &layout.index().manifests[..] else { panic!("two manifests: {:?}", layout.index()) };
    let (package, component) =
        if first.artifact_type.as_deref() == Some(media::APP) { (first, second) } else { (second, first) };
    assert_eq!(package.digest, packed.digest);
    assert_eq!(package.annotations[media::REF_NAME], "hello:1.0.0");
    assert_eq!(component.annotations[media::REF_NAME], "hello:1.0.0");

    let manifest = layout.manifest(&package.digest).unwrap();
    assert_eq!(manifest.artifact_type.as_deref(), Some(media::APP));
    assert!(manifest.has_empty_config());
    let layers: Vec<_> =
        manifest.layers.iter().map(|it| (it.media_type.as_str(), it.annotations[media::TITLE].as_str())).collect();
    assert_eq!(
        layers,
        [
            ("application/vnd.margo.app.description.v1+yaml", "margo.yaml"),
            ("application/vnd.margo.app.icon.v1+png", "resources/icon.png"),
        ]
    );
    assert_eq!(layout.read(&manifest.layers[0].digest, LIMIT).unwrap(), MARGO.as_bytes());
    let wasm = layout.manifest(&component.digest).unwrap();
    assert_eq!(wasm.layers, [Descriptor::of(media::WASM, b"\0asm").annotated(media::TITLE, "hello.wasm")]);

    let (hello, digests) = ("hello".parse().unwrap(), [package.digest, component.digest]);
    let manifests = digests.map(|digest| (oci::RepositoryName::clone(&hello), digest));
    layout.move_into(&store, &manifests).await.unwrap();
    for digest in digests {
        assert!(store.holds(&hello, &digest).await.unwrap());
    }
    assert!(staged(&root).is_empty());
}

#[test]
fn what_cannot_be_packed_is_told_with_file_and_field() {
    let unparsable = refusal(app(&MARGO.replace("apiVersion: v1", "apiVersion: v2")).path());
    assert!(unparsable.starts_with("margo.yaml:1:13: apiVersion: "), "{unparsable}");
    for (change, to, expected) in [
        (
            "oci://edgewright.local/hello",
            "oci://ghcr.io/hello",
            "margo.yaml: deploymentProfiles[0].components[0].properties.repository: ",
        ),
        ("runtime: wasm", "runtime: jvm", "margo.yaml: deploymentProfiles[0].type: "),
        ("type: custom", "type: helm", "margo.yaml: deploymentProfiles[0].type: "),
        ("name: hello\n", "name: other\n", "margo.yaml: "),
        (
            "resources/icon.png",
            "resources/none.png",
            "margo.yaml: metadata.catalog.application.icon: resources/none.png is not in",
        ),
        ("resources/icon.png", "../icon.png", "margo.yaml: metadata.catalog.application.icon: \"../icon.png\" must be"),
        ("resources/icon.png", "/etc/passwd", "margo.yaml: metadata.catalog.application.icon: "),
        ("resources/icon.png", "resources", "margo.yaml: metadata.catalog.application.icon: "),
        ("id: hello", "id: -hello", "margo.yaml: id: repository name"),
    ] {
        assert!(MARGO.contains(change), "{change}");
        let error = refusal(app(&MARGO.replacen(change, to, 1)).path());
        assert!(error.starts_with(expected), "{error}");
    }
    let folder = app(MARGO);
    fs::remove_file(folder.path().join("hello.wasm")).unwrap();
    assert_eq!(
        refusal(folder.path()),
        "margo.yaml: deploymentProfiles[0].components[0].name: hello.wasm is not in the app's folder"
    );
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("hello.wasm")).unwrap();
    assert!(refusal(folder.path()).contains("hello.wasm must be a regular file"));
    let empty = TempDir::new().unwrap();
    let error = pack(empty.path(), &empty.path().join("tar")).unwrap_err();
    assert!(matches!(error, PackError::Read { .. }), "{error}");
}

/// A tar built entry by entry; the header is written as it is, also when no tar program would write it.
#[derive(Default)]
struct Tar(Vec<(Header, Vec<u8>)>);

impl Tar {
    fn layout() -> Self {
        let blob = b"blob";
        let manifest = ArtifactManifest::artifact(media::APP, vec![Descriptor::of(media::DESCRIPTION, blob)]).to_json();
        let index = Index {
            schema_version: 2,
            media_type: None,
            manifests: vec![Descriptor::of(media::MANIFEST, &manifest).annotated(media::REF_NAME, "hello:1.0.0")],
        };
        Self::default()
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", &serde_json::to_vec(&index).unwrap())
            .blob(&manifest)
            .blob(media::EMPTY_CONFIG)
            .blob(blob)
    }

    fn entry(mut self, path: &str, kind: EntryType, content: &[u8], change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        change(&mut header);
        header.set_cksum();
        self.0.push((header, content.to_vec()));
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, content, |_| {})
    }

    fn blob(self, content: &[u8]) -> Self {
        self.file(&format!("blobs/sha256/{}", Digest::of(content).hex()), content)
    }

    fn without(mut self, at: usize) -> Self {
        self.0.remove(at);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (header, content) in &self.0 {
            builder.append(header, content.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

/// Asserts that the archive is refused, and that nothing of it is left on disk.
async fn refused(archive: impl Read) -> LayoutError {
    let (root, store) = store().await;
    let error = unpack(archive, &store, LIMIT).expect_err("it must be refused");
    assert!(staged(&root).is_empty(), "{error}");
    assert_eq!(fs::read_dir(root.path().join("blobs/sha256")).unwrap().count(), 0);
    error
}

#[tokio::test]
async fn an_entry_that_no_image_layout_has_is_refused() {
    for (path, rule) in [
        ("/etc/passwd", "an absolute path is not allowed"),
        ("../escape", "a path with .. is not allowed"),
        ("blobs/sha256/../../../escape", "a path with .. is not allowed"),
        ("a/b/c/d/e/f", "an image layout has only"),
        ("blobs/sha256/abc", "64 lower-case hex digits"),
        ("index.json", "stands twice"),
        ("blobs", "must be a folder"),
    ] {
        let error = refused(Tar::layout().file(path, b"x").bytes().as_slice()).await.to_string();
        assert!(error.contains(rule) && error.contains(path), "{error}");
    }
    let digest = Digest::of(b"linked").hex();
    for kind in
        [EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Char, EntryType::Block, EntryType::GNUSparse]
    {
        let tar = Tar::layout().entry(&format!("blobs/sha256/{digest}"), kind, b"", |header| {
            header.set_link_name("/etc/passwd").unwrap();
        });
        let error = refused(tar.bytes().as_slice()).await.to_string();
        assert!(error.contains("must be a regular file"), "{kind:?}: {error}");
    }
    let special = Tar::layout().entry(&format!("blobs/sha256/{digest}"), EntryType::Regular, b"linked", |header| {
        header.set_mode(0o4755);
    });
    assert!(refused(special.bytes().as_slice()).await.to_string().contains("set-user-id"));
    let long = Tar::default().entry("././@LongLink", EntryType::GNULongName, &[b'a'; 4096], |_| {});
    refused(long.bytes().as_slice()).await;
}

#[tokio::test]
async fn more_than_the_limits_is_refused() {
    let many = (0..2_001).fold(Tar::default(), |tar, _| tar.entry("blobs/", EntryType::Directory, b"", |_| {}));
    assert!(matches!(refused(many.bytes().as_slice()).await, LayoutError::TooLarge { .. }));
    // The size in the header is enough for a refusal; the content is not waited for.
    let huge = Tar::default().entry("index.json", EntryType::Regular, b"", |header| header.set_size(LIMIT + 1));
    assert!(matches!(refused(huge.bytes().as_slice()).await, LayoutError::TooLarge { .. }));
}

#[tokio::test]
async fn content_that_is_wrong_or_missing_is_refused() {
    let wrong = Tar::layout().file(&format!("blobs/sha256/{}", Digest::of(b"right").hex()), b"wrong");
    assert!(refused(wrong.bytes().as_slice()).await.to_string().contains("its content has digest"));
    let whole = Tar::layout().bytes();
    let at = whole.windows(4).rposition(|it| it == b"blob").unwrap();
    assert!(matches!(refused(&whole[..at + 2]).await, LayoutError::Read(_)));
    assert!(
        matches!(refused(Tar::layout().without(0).bytes().as_slice()).await, LayoutError::Missing { file } if file == "oci-layout")
    );
    assert!(
        matches!(refused(Tar::layout().without(1).bytes().as_slice()).await, LayoutError::Missing { file } if file == "index.json")
    );
    assert!(matches!(refused([0xaa; 10_240].as_slice()).await, LayoutError::Read(_)));
    assert!(matches!(refused([].as_slice()).await, LayoutError::Missing { .. }));

    let (_root, store) = store().await;
    let without_blob = unpack(Tar::layout().without(4).bytes().as_slice(), &store, LIMIT).unwrap();
    let digest = without_blob.index().manifests[0].digest;
    assert!(matches!(without_blob.manifest(&digest), Err(LayoutError::Missing { .. })));
}

#[tokio::test]
async fn a_layout_of_another_tool_is_read() {
    let (_root, store) = store().await;
    // These are the forms in which `tar -C layout -c .` and Python's tarfile write it.
    let tar = Tar::default()
        .entry("./", EntryType::Directory, b"", |header| header.set_mode(0o2755))
        .entry("blobs/", EntryType::Directory, b"", |_| {})
        .entry("PaxHeaders/x", EntryType::XHeader, b"27 mtime=1700000000.000000\n", |_| {});
    let tar = Tar(tar.0.into_iter().chain(Tar::layout().0).collect());
    let layout: StagedLayout = unpack(tar.bytes().as_slice(), &store, LIMIT).unwrap();
    layout.manifest(&layout.index().manifests[0].digest).unwrap();
}

/// An image layout with one image of one layer for each platform, and a nested index when there are several.
fn image_layout(folder: &Path, name: &str, platforms: &[&str]) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |kind: &str, bytes: Vec<u8>| {
        fs::write(blobs.join(Digest::of(&bytes).hex()), &bytes).unwrap();
        Descriptor::of(kind, &bytes)
    };
    let image = |platform: &&str| {
        let config = format!(r#"{{"os":"linux","architecture":"{platform}"}}"#).into_bytes();
        let config = put("application/vnd.oci.image.config.v1+json", config);
        let layer = put("application/vnd.oci.image.layer.v1.tar", platform.as_bytes().to_vec());
        let manifest = ArtifactManifest { artifact_type: None, config, ..ArtifactManifest::artifact("", vec![layer]) };
        put(media::MANIFEST, manifest.to_json())
    };
    let images: Vec<_> = platforms.iter().map(image).collect();
    let index = |manifests| Index { schema_version: 2, media_type: Some(media::INDEX.to_owned()), manifests };
    let whole = match &images[..] {
        [one] => one.clone(),
        _ => put(media::INDEX, serde_json::to_vec(&index(images)).unwrap()),
    };
    let top = index(vec![whole.annotated(media::REF_NAME, name)]);
    fs::write(folder.join("index.json"), serde_json::to_vec(&top).unwrap()).unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[tokio::test]
async fn app_04_a_compose_component_is_packed_with_its_images_for_every_platform() {
    let text = MARGO.replace("type: custom", "type: compose");
    let app = app(&text);
    fs::create_dir(app.path().join("hello")).unwrap();
    let compose = "services: { web: { image: 'web:1' }, db: { image: db } }";
    fs::write(app.path().join("hello/compose.yaml"), compose).unwrap();
    let missing = refusal(app.path());
    assert!(missing.contains("an image layout with \"db\""), "{missing}");
    image_layout(&app.path().join("images/one"), "web:1", &["amd64", "arm64"]);
    image_layout(&app.path().join("images/two"), "docker.io/library/db:latest", &["amd64"]);
    let (_root, store) = store().await;
    let (_, tar) = packed(app.path());
    let layout = unpack(tar.as_slice(), &store, LIMIT).unwrap();
    let images: Vec<_> =
        layout.index().manifests.iter().filter_map(|it| Some((it.annotations.get(media::IMAGE)?, it.digest))).collect();
    assert_eq!(images.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["db", "web:1", "web:1"]);
    for (_, digest) in images {
        assert_eq!(layout.manifest(&digest).unwrap().layers.len(), 1);
    }
    let kind = Some(media::COMPOSE_ARTIFACT);
    let component = layout.index().manifests.iter().find(|it| it.artifact_type.as_deref() == kind).unwrap();
    let [layer] = &layout.manifest(&component.digest).unwrap().layers[..] else { panic!("one layer") };
    assert_eq!(layer.media_type, media::COMPOSE);
    assert_eq!(layer.annotations["org.margo.component.type"], "compose");
    let archive = compose::Archive::read(&layout.read(&layer.digest, LIMIT).unwrap()[..]).unwrap();
    assert_eq!(archive.compose, compose);

    // Images that were brought from elsewhere make the same package.
    assert_eq!(missing_images(app.path()).unwrap(), BTreeSet::new());
    let (one, more) = (app.path().join("images/one"), TempDir::new().unwrap());
    let top: Index = serde_json::from_slice(&fs::read(one.join("index.json")).unwrap()).unwrap();
    let nested = one.join("blobs/sha256").join(top.manifests[0].digest.hex());
    let manifests = serde_json::from_slice::<Index>(&fs::read(nested).unwrap()).unwrap().manifests;
    for blob in fs::read_dir(one.join("blobs/sha256")).unwrap() {
        store.put(&fs::read(blob.unwrap().path()).unwrap()).await.unwrap();
    }
    fs::remove_dir_all(&one).unwrap();
    assert_eq!(missing_images(app.path()).unwrap(), BTreeSet::from(["web:1".to_owned()]));
    write_layout(&more.path().join("0"), &store, "web:1", &manifests).unwrap();
    let again = more.path().join("again.tar");
    pack_with(app.path(), Some(more.path()), &again).unwrap();
    assert_eq!(Digest::of(&fs::read(again).unwrap()), Digest::of(&tar));

    fs::write(app.path().join("hello/compose.yaml"), compose.replace("'web:1'", "'web:1', pid: host")).unwrap();
    let refused = refusal(app.path());
    assert!(refused.starts_with("hello/compose.yaml: services.web.pid: "), "{refused}");
}
