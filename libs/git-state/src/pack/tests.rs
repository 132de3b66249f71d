use std::fs;

use super::*;

fn blob(text: &str) -> (ObjectId, Vec<u8>) {
    (id_of(Kind::Blob, text.as_bytes()).unwrap(), text.as_bytes().to_vec())
}

/// Writes a whole pack where stock readers look for it.
fn write(folder: &std::path::Path, pack: &Pack, whole: &Whole) {
    let path = folder.join(format!("pack-{}.pack", whole.name));
    fs::write(&path, [pack.body(), whole.name.as_slice()].concat()).unwrap();
    fs::write(path.with_extension("idx"), &whole.index).unwrap();
}

fn stock_git(folder: &std::path::Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new("git").arg("-C").arg(folder).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn stock_git_reads_whole_objects_and_chains_of_deltas() {
    let folder = tempfile::tempdir().unwrap();
    stock_git(folder.path(), &["init", "--bare", "--quiet", "."]);
    let mut pack = Pack::new(1);
    let text = |at: u32| format!("{}line {at}\n{}", "a\n".repeat(40), "b\n".repeat(20_000));
    let (mut objects, mut base) = (Vec::new(), None::<(Place, Vec<u8>)>);
    // Long enough that the chain has to begin anew, and that the distance to the base takes several bytes.
    for at in 0..120 {
        let (id, content) = blob(&text(at));
        let usable = base.as_ref().filter(|(place, _)| pack.can_be_base(*place));
        let place = match usable {
            Some((place, before)) => {
                let delta = delta::between(before, &content).unwrap();
                pack.add_delta(id, *place, &delta)
            }
            None => pack.add(Kind::Blob, id, &content),
        };
        assert!(place.depth <= MAX_DEPTH);
        assert_eq!(pack.place_of(&id), Some(place));
        if at % 10 == 3 {
            let noise: String = (0..3_000_u32).map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761) ^ at)).collect();
            let (id, content) = blob(&noise);
            pack.add(Kind::Blob, id, &content);
            objects.push((id, content));
        }
        base = Some((place, content.clone()));
        objects.push((id, content));
    }
    assert!(pack.entries.iter().filter(|entry| entry.depth == 0).count() > 12, "a chain has ended");
    let whole = pack.finish();
    write(&folder.path().join("objects/pack"), &pack, &whole);
    stock_git(folder.path(), &["verify-pack", &format!("objects/pack/pack-{}.idx", whole.name)]);
    for (id, content) in &objects {
        assert_eq!(stock_git(folder.path(), &["cat-file", "blob", &id.to_string()]).as_bytes(), content);
    }
    // Stock git makes the same index of the pack.
    let path = folder.path().join("theirs.idx");
    let theirs = ["index-pack", "-o", path.to_str().unwrap(), &format!("objects/pack/pack-{}.pack", whole.name)];
    stock_git(folder.path(), &theirs);
    assert_eq!(fs::read(path).unwrap(), whole.index);
}

#[test]
fn a_pack_grows_and_is_taken_up_again_from_its_pieces() {
    let mut pack = Pack::new(1);
    let begin = pack.mark();
    assert_eq!(begin, Mark::BEGIN);
    let (id, content) = blob("one");
    pack.add(Kind::Blob, id, &content);
    let first = pack.finish();
    let middle = pack.mark();
    let head = pack.bytes_since(begin).to_vec();
    let (second_id, content) = blob("two");
    pack.add(Kind::Blob, second_id, &content);
    let second = pack.finish();
    assert_ne!(first.name, second.name);

    // The number of objects in the head is that of the last time.
    let body = [&head, pack.bytes_since(middle)].concat();
    let objects: Vec<_> = pack.entries_since(begin).iter().map(|entry| (entry.id, entry.offset)).collect();
    let mut again = Pack::of(body, &objects).unwrap();
    let whole = again.finish();
    assert_eq!((whole.name, &whole.index, again.body()), (second.name, &second.index, pack.body()));
    assert!(Pack::of(b"PACK".to_vec(), &objects).is_none());

    pack.rewind(middle);
    assert_eq!((pack.place_of(&second_id), pack.finish().name), (None, first.name));
}

#[test]
fn a_pack_goes_on_from_its_outline_and_its_bytes() {
    let (mut pack, mut other) = (Pack::new(1), Pack::new(1));
    let texts = ["one", "two", "three"].map(|word| format!("name: press\nstate: active\nparameter: {word}\n"));
    for pack in [&mut pack, &mut other] {
        let (id, content) = blob(&texts[0]);
        let base = pack.add(Kind::Blob, id, &content);
        let (id, content) = blob(&texts[1]);
        pack.add_delta(id, base, &delta::between(texts[0].as_bytes(), &content).unwrap());
        pack.finish();
    }
    let body = pack.body().to_vec();
    let outline = pack.into_outline();
    assert_eq!(outline.length(), body.len());
    let mut resumed = outline.resume(body).unwrap();
    for pack in [&mut resumed, &mut other] {
        let (id, content) = blob(&texts[2]);
        pack.add(Kind::Blob, id, &content);
    }
    let (ours, theirs) = (resumed.finish(), other.finish());
    assert_eq!((ours.name, ours.index, resumed.body()), (theirs.name, theirs.index, other.body()));
    for (id, _) in texts.iter().map(|text| blob(text)) {
        assert_eq!(resumed.place_of(&id), other.place_of(&id));
    }
}

#[test]
fn a_pack_rolls_on_until_it_is_large_for_its_groups() {
    let of_length = |length| Outline { number: 1, length, entries: Box::default() };
    assert!(Pack::new(1).into_outline().rolls_on(0));
    assert!(!of_length(ROLL_ALWAYS + 1).rolls_on(100));
    assert!(of_length(ROLL_ALWAYS + 1).rolls_on(ROLL_ALWAYS));
    assert!(!of_length(ROLL + 1).rolls_on(ROLL));
}
