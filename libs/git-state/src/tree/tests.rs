use std::cell::RefCell;

use proptest::prelude::*;

use super::*;
use crate::pack::delta;

/// What a folder has, as a reader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model(BTreeMap<String, Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    File(ObjectId),
    Folder(Model),
}

impl Model {
    fn put(&mut self, path: &str, id: ObjectId) {
        match path.split_once('/') {
            None => drop(self.0.insert(path.to_owned(), Node::File(id))),
            Some((folder, rest)) => {
                let node = self.0.entry(folder.to_owned()).or_insert(Node::File(id));
                if let Node::File(_) = node {
                    *node = Node::Folder(Self::default());
                }
                let Node::Folder(below) = node else { unreachable!() };
                below.put(rest, id);
            }
        }
    }

    fn remove(&mut self, path: &str) {
        match path.split_once('/') {
            None if matches!(self.0.get(path), Some(Node::File(_))) => drop(self.0.remove(path)),
            None => {}
            Some((folder, rest)) => {
                let Some(Node::Folder(below)) = self.0.get_mut(folder) else { return };
                below.remove(rest);
                if below.0.is_empty() {
                    self.0.remove(folder);
                }
            }
        }
    }

    /// The tree in Git's form; those below are kept by their ids.
    fn bytes(&self, trees: &mut BTreeMap<ObjectId, Vec<u8>>) -> Vec<u8> {
        let mut entries = Vec::new();
        for (name, node) in &self.0 {
            let (mode, key, id) = match node {
                Node::File(id) => ("100644", name.clone(), *id),
                Node::Folder(below) => {
                    let bytes = below.bytes(trees);
                    let id = pack::id_of(Kind::Tree, &bytes).unwrap();
                    trees.insert(id, bytes);
                    ("40000", format!("{name}/"), id)
                }
            };
            entries.push((key, [mode.as_bytes(), b" ", name.as_bytes(), b"\0", id.as_slice()].concat()));
        }
        entries.sort();
        entries.into_iter().flat_map(|(_, bytes)| bytes).collect()
    }
}

fn id(content: u8) -> ObjectId {
    pack::id_of(Kind::Blob, &[content]).unwrap()
}

fn edits(changes: &[(String, Option<u8>)]) -> Edits {
    let mut edits = Edits::default();
    for (path, content) in changes {
        let path = TreePath::try_from(path.clone()).unwrap();
        match content {
            Some(content) => edits.put(&path, id(*content)),
            None => edits.remove(&path),
        }
    }
    edits
}

/// Names whose order in Git is not that of their bytes, and which are now files, now folders.
fn any_change() -> impl Strategy<Value = (String, Option<u8>)> {
    let path = proptest::collection::vec(prop::sample::select(vec!["a", "a.b", "a-b", "a0", "b", "ab"]), 1..4);
    (path.prop_map(|names| names.join("/")), proptest::option::weighted(0.6, 0..4_u8))
}

proptest! {
    #[test]
    fn trees_are_those_of_the_files(
        commits in proptest::collection::vec((proptest::collection::vec(any_change(), 0..6), any::<bool>()), 1..12),
    ) {
        let (mut model, trees) = (Model::default(), RefCell::new(BTreeMap::<ObjectId, Vec<u8>>::new()));
        let read = |id: ObjectId| -> Result<Vec<u8>, GitError> { Ok(trees.borrow()[&id].clone()) };
        let (mut tree, mut pack) = (Tree::default(), Pack::new(0));
        for ((changes, start), number) in commits.into_iter().zip(1..) {
            for (path, content) in &changes {
                match content {
                    Some(content) => model.put(path, id(*content)),
                    None => model.remove(path),
                }
            }
            if start {
                (tree, pack) = (Tree::of(tree.bytes), Pack::new(number));
            }
            let before = tree.bytes.clone();
            let edited = tree.edit(edits(&changes), &mut pack, &read).unwrap();
            let bytes = model.bytes(&mut trees.borrow_mut());
            prop_assert_eq!(&tree.bytes, &bytes);
            prop_assert_eq!(edited, match () {
                () if bytes.is_empty() => Edited::Empty,
                () if bytes == before => Edited::Same,
                () => Edited::Changed(pack::id_of(Kind::Tree, &bytes).unwrap()),
            });
            if let Edited::Changed(id) = edited {
                prop_assert!(pack.place_of(&id).is_some());
            }
            trees.borrow_mut().insert(pack::id_of(Kind::Tree, &bytes).unwrap(), bytes);
        }
    }
}

#[test]
fn an_edit_is_a_short_delta_and_reads_only_what_it_leads_into() {
    let mut model = Model::default();
    for at in 0..200_u8 {
        model.put(&format!("many/n{at:03}"), id(at));
        model.put(&format!("other/n{at:03}/x"), id(at));
    }
    let mut trees = BTreeMap::new();
    let root = model.bytes(&mut trees);
    let many = model.0.get("many").map(|node| match node {
        Node::Folder(below) => below.bytes(&mut BTreeMap::new()),
        Node::File(_) => unreachable!(),
    });
    let reads = RefCell::new(Vec::new());
    let read = |id: ObjectId| -> Result<Vec<u8>, GitError> {
        reads.borrow_mut().push(id);
        Ok(trees[&id].clone())
    };
    let (mut tree, mut pack) = (Tree::of(root), Pack::new(0));
    let one = |name: &str, content| edits(&[(format!("many/{name}"), Some(content))]);
    tree.edit(one("n100", 0), &mut pack, &read).unwrap();
    let before = pack.mark();
    tree.edit(one("n100", 1), &mut pack, &read).unwrap();
    assert_eq!(reads.borrow().len(), 1, "the folder that was read stays");
    assert!(pack.bytes_since(before).len() < 150, "{}", pack.bytes_since(before).len());

    // The delta alone: two copies, and the id between them.
    let old = many.unwrap();
    let at = old.find(b"n077\0").unwrap() + 5;
    let new = [&old[..at], id(9).as_slice(), &old[at + ID..]].concat();
    let mut delta = delta::Delta::new(old.len(), new.len());
    delta.copy(0, at);
    delta.insert(id(9).as_slice());
    delta.copy(at + ID, old.len() - at - ID);
    let delta = delta.finish();
    assert!(delta.len() < 40, "{}", delta.len());
    assert_eq!(delta::tests::apply(&old, &delta), new);
}

#[test]
fn a_folder_that_took_the_place_of_a_file_and_became_empty_leaves_neither() {
    let read = |_| -> Result<Vec<u8>, GitError> { unreachable!("everything is in memory") };
    let (mut tree, mut pack) = (Tree::default(), Pack::new(0));
    tree.edit(edits(&[("a".to_owned(), Some(0))]), &mut pack, &read).unwrap();
    let changes = [("a/b/c".to_owned(), Some(0)), ("a/b/c".to_owned(), None)];
    assert_eq!(tree.edit(edits(&changes), &mut pack, &read).unwrap(), Edited::Empty);
    assert!(tree.bytes.is_empty());
}
