use super::*;

const COMPOSE: &str = "services: { web: { image: 'web:1' } }\n";

/// One entry of an archive that a test makes, however wrong.
struct Made {
    path: &'static str,
    kind: EntryType,
    mode: u32,
    content: Vec<u8>,
    link: &'static str,
}

fn file(path: &'static str) -> Made {
    Made { path, kind: EntryType::Regular, mode: 0o644, content: COMPOSE.into(), link: "" }
}

fn folder(path: &'static str) -> Made {
    Made { kind: EntryType::Directory, mode: 0o755, content: Vec::new(), ..file(path) }
}

fn link(path: &'static str, link: &'static str) -> Made {
    Made { kind: EntryType::Symlink, content: Vec::new(), link, ..file(path) }
}

/// Writes names as they are: the builder of the library would refuse wrong ones itself.
fn archive(made: impl IntoIterator<Item = Made>) -> Vec<u8> {
    let mut builder = Builder::new(GzBuilder::new().write(Vec::new(), Compression::fast()));
    for Made { path, kind, mode, content, link } in made {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

#[test]
fn dev_28_wfm_33_an_archive_is_refused_for_each_rule_it_breaks_and_nothing_is_written() {
    let good = || file("app/compose.yaml");
    let cases: Vec<(&str, Vec<Made>)> = vec![
        ("absolute", vec![good(), file("/app/x")]),
        ("..", vec![good(), file("app/../../x")]),
        ("one folder", vec![good(), file("other/x")]),
        ("one folder", vec![file("compose.yaml")]),
        ("compose.yaml", vec![file("app/compose.yml")]),
        ("compose.yaml", vec![file("app/deeper/compose.yaml")]),
        ("empty", vec![]),
        ("sticky", vec![good(), Made { mode: 0o4755, ..file("app/x") }]),
        ("sticky", vec![good(), Made { mode: 0o1777, ..folder("app/x") }]),
        ("twice", vec![good(), good()]),
        ("regular file", vec![good(), Made { kind: EntryType::Link, link: "app/compose.yaml", ..link("app/x", "") }]),
        ("regular file", vec![good(), Made { kind: EntryType::Char, ..link("app/x", "") }]),
        ("regular file", vec![good(), Made { kind: EntryType::Fifo, ..link("app/x", "") }]),
        ("lead to a place inside", vec![good(), link("app/x", "/etc")]),
        ("lead to a place inside", vec![good(), link("app/x", "../y")]),
        ("lead to a place inside", vec![good(), link("app/a/x", "../../y")]),
        // Lexically inside, and outside when `d` is a link to the folder itself.
        ("lead to a place inside", vec![good(), link("app/d", "."), link("app/x", "d/../../y")]),
        ("above it must be folders", vec![good(), link("app/d", "e"), file("app/d/x")]),
        ("above it must be folders", vec![good(), file("app/d"), file("app/d/x")]),
        ("control", vec![good(), file("app/\u{1b}[2J")]),
    ];
    for (rule, made) in cases {
        let bytes = archive(made);
        let refused = Archive::read(bytes.as_slice()).unwrap_err().to_string();
        assert!(refused.contains(rule), "{rule}: {refused}");
    }
    assert!(matches!(Archive::read(&b"no gzip"[..]), Err(ArchiveError::Read(_))));
    let whole = archive([good(), file("app/x")]);
    assert!(Archive::read(&whole[..whole.len() / 2]).is_err());
}

#[test]
fn an_archive_that_grows_when_it_is_unpacked_ends_at_the_limit() {
    let zeros = || Made { content: vec![0; 5 << 20], ..file("app/a") };
    let names = ["app/a", "app/b", "app/c", "app/d"];
    let bytes = archive(names.map(|path| Made { path, ..zeros() }));
    assert!(bytes.len() < 1 << 20, "the test is about a bomb");
    assert!(matches!(Archive::read(bytes.as_slice()), Err(ArchiveError::TooLarge)));
    // A long name stands in an extension header, which is read whole.
    let long = Made { kind: EntryType::GNULongName, content: vec![b'a'; 20 << 20], ..file("././@LongLink") };
    assert!(matches!(Archive::read(archive([long]).as_slice()), Err(ArchiveError::TooLarge)));
    let many = (0..1_001).map(|_| folder("app/x"));
    assert!(matches!(Archive::read(archive(many).as_slice()), Err(ArchiveError::TooLarge)));
}

#[test]
fn what_is_packed_is_read_and_written_again_with_links_that_stay_inside() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join(FILE_NAME), COMPOSE).unwrap();
    fs::create_dir(source.path().join("conf")).unwrap();
    fs::write(source.path().join("conf/web.env"), "A=1\n").unwrap();
    symlink("../compose.yaml", source.path().join("conf/same")).unwrap();
    let packed = Archive::pack(source.path(), "shop").unwrap();
    assert_eq!(packed, Archive::pack(source.path(), "shop").unwrap(), "the same bytes every time");
    let read = Archive::read(packed.as_slice()).unwrap();
    assert_eq!(read.compose, COMPOSE);
    assert_eq!(read.files.iter().map(String::as_str).collect::<Vec<_>>(), [FILE_NAME, "conf/web.env"]);
    let place = tempfile::tempdir().unwrap();
    Archive::extract(packed.as_slice(), place.path()).unwrap();
    assert_eq!(fs::read_to_string(place.path().join("conf/web.env")).unwrap(), "A=1\n");
    assert_eq!(fs::read_to_string(place.path().join("conf/same")).unwrap(), COMPOSE);
    let mode = fs::metadata(place.path().join("conf/web.env")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
}
