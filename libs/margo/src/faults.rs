//! What else is wrong with a document that is refused: a person who corrects it wants to know all of it, and where it stands.
//!
//! serde ends at the first fault. So the document is read once more as a tree of nodes with their places; the node that does
//! not read is taken out of it, and what is left is read again; where a field is missing, all that should have it. A field that is
//! missing because it was taken out is no fault of its own.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use crate::{DocumentError, yaml};

/// The most faults that are told. More would help nobody, and each costs another reading.
pub(crate) const MAX: usize = 20;

/// A node of a document.
struct Node {
    line: u64,
    column: u64,
    content: Content,
}

enum Content {
    Map(Vec<(String, Node)>),
    /// Each item with the index that it has in the document.
    List(Vec<(usize, Node)>),
    Scalar(Value),
}

/// One step on the way to a node.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    /// The index in the document.
    Item(usize),
}

/// Returns the line and column of each field, or of what stands nearest above it. The document was read before.
pub(crate) fn places<'a>(bytes: &[u8], fields: impl Iterator<Item = &'a str>) -> Vec<(u64, u64)> {
    let root = read(bytes);
    fields.map(|field| root.as_ref().map_or((0, 0), |root| root.place_of(&root.way_to(field)))).collect()
}

/// Returns all faults of a document that keep it from being read as `T`, in the order of their places. The first one is known.
pub(crate) fn of<T: DeserializeOwned>(bytes: &[u8], mut first: DocumentError) -> Vec<DocumentError> {
    let Some(mut root) = read(bytes) else { return vec![first] };
    let file = first.file.clone();
    // The parser knows the place of an unknown field better, and sometimes not that of a value.
    let way = root.way_to(&first.field);
    if shown(&way) == first.field && named(&first.rule, UNKNOWN).is_none() {
        (first.line, first.column) = root.place_of(&way);
    }
    let mut faults: Vec<DocumentError> = vec![first];
    let mut taken_out = BTreeSet::new();
    while faults.len() < MAX {
        let Err(error) = serde_path_to_error::deserialize::<_, T>(root.value()) else { break };
        let (path, rule) = (error.path().to_string(), error.inner().to_string());
        let mut way = root.present_way(if path == "." { "" } else { &path });
        // The path of an unknown field leads to it, or only to its map.
        if let Some(unknown) = named(&rule, UNKNOWN).map(|name| Step::Key(name.to_owned()))
            && way.last() != Some(&unknown)
        {
            way.push(unknown);
        }
        let field = precise(shown(&way), &rule);
        let is_known = taken_out.contains(&field) || faults.iter().any(|fault| fault.field == field);
        if !is_known {
            let (line, column) = root.place_of(&way);
            faults.push(DocumentError { file: file.clone(), line, column, field, rule });
        }
        taken_out.insert(shown(&way));
        if !root.take_out(&way) {
            break;
        }
    }
    faults.sort_by_key(|fault| (fault.line, fault.column));
    faults
}

/// How serde says that a field should not be there, or should.
const UNKNOWN: &str = "unknown field ";
const MISSING: &str = "missing field ";

/// Returns the path of the field that a message of serde is about, where it knows only the map.
pub(crate) fn precise(field: String, rule: &str) -> String {
    match named(rule, UNKNOWN).or_else(|| named(rule, MISSING)) {
        Some(name) if named(rule, MISSING).is_some() || !ends_with(&field, name) => joined(&field, name),
        _ => field,
    }
}

fn ends_with(field: &str, name: &str) -> bool {
    field.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Returns the name in backquotes behind these words.
fn named<'a>(rule: &'a str, words: &str) -> Option<&'a str> {
    rule.strip_prefix(words)?.strip_prefix('`')?.split('`').next()
}

fn joined(field: &str, name: &str) -> String {
    if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") }
}

/// The path of a field as errors show it.
fn shown(way: &[Step]) -> String {
    way.iter().fold(String::new(), |path, step| match step {
        Step::Key(key) => joined(&path, key),
        Step::Item(index) => format!("{path}[{index}]"),
    })
}

fn read(bytes: &[u8]) -> Option<Node> {
    serde_saphyr::from_slice_with_options(bytes, yaml::options()).ok()
}

impl Node {
    fn child(&self, step: &Step) -> Option<&Self> {
        match (&self.content, step) {
            (Content::Map(entries), Step::Key(key)) => Some(&entries.iter().find(|(name, _)| name == key)?.1),
            (Content::List(items), Step::Item(index)) => Some(&items.iter().find(|(at, _)| at == index)?.1),
            _ => None,
        }
    }

    /// Follows the path of a field, whose indices are those of the document, as far as there are nodes.
    fn way_to(&self, field: &str) -> Vec<Step> {
        self.follow(field, |items, index| items.iter().find(|(at, _)| *at == index))
    }

    /// Follows a path whose indices count what is left of lists.
    fn present_way(&self, path: &str) -> Vec<Step> {
        self.follow(path, |items, index| items.get(index))
    }

    fn follow<'a>(
        &'a self,
        path: &str,
        item: impl Fn(&'a [(usize, Self)], usize) -> Option<&'a (usize, Self)>,
    ) -> Vec<Step> {
        let (mut node, mut rest, mut way) = (self, path, Vec::new());
        loop {
            let next = match &node.content {
                Content::List(items) => {
                    let index = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
                    let found = index.and_then(|(index, left)| Some((item(items, index.parse().ok()?)?, left)));
                    found.map(|((at, child), left)| (Step::Item(*at), child, left))
                }
                // Keys may hold dots: the longest one that fits is meant.
                Content::Map(entries) => {
                    let rest = rest.strip_prefix('.').unwrap_or(rest);
                    let fits = |key: &str| {
                        let left = rest.strip_prefix(key)?;
                        (left.is_empty() || left.starts_with(['.', '['])).then_some(left)
                    };
                    let fitting = entries.iter().filter_map(|(key, child)| Some((key, child, fits(key)?)));
                    let longest = fitting.max_by_key(|(key, ..)| key.len());
                    longest.filter(|_| !rest.is_empty()).map(|(key, child, left)| (Step::Key(key.clone()), child, left))
                }
                Content::Scalar(_) => None,
            };
            let Some((step, child, left)) = next else { return way };
            way.push(step);
            (node, rest) = (child, left);
        }
    }

    /// Line and column of the node at the end of a way, or of the last one on it that there is.
    fn place_of(&self, way: &[Step]) -> (u64, u64) {
        let mut node = self;
        for step in way {
            match node.child(step) {
                Some(child) => node = child,
                None => break,
            }
        }
        (node.line, node.column)
    }

    /// Takes the node at the end of a way out of the document. It cannot be the document itself.
    fn take_out(&mut self, way: &[Step]) -> bool {
        let Some((step, rest)) = way.split_first() else { return false };
        match (&mut self.content, step) {
            (Content::Map(entries), Step::Key(key)) => {
                let Some(at) = entries.iter().position(|(name, _)| name == key) else { return false };
                if rest.is_empty() {
                    entries.remove(at);
                    return true;
                }
                entries[at].1.take_out(rest)
            }
            (Content::List(items), Step::Item(index)) => {
                let Some(at) = items.iter().position(|(at, _)| at == index) else { return false };
                if rest.is_empty() {
                    items.remove(at);
                    return true;
                }
                items[at].1.take_out(rest)
            }
            _ => false,
        }
    }

    fn value(&self) -> Value {
        match &self.content {
            Content::Map(entries) => {
                Value::Object(entries.iter().map(|(key, node)| (key.clone(), node.value())).collect::<Map<_, _>>())
            }
            Content::List(items) => Value::Array(items.iter().map(|(_, node)| node.value()).collect()),
            Content::Scalar(value) => value.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self { line: referenced.line(), column: referenced.column(), content: value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfContent;

        impl<'de> Visitor<'de> for OfContent {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
                Ok(Content::Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
                Ok(Content::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
                Ok(Content::Scalar(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
                Ok(Content::Scalar(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Content, E> {
                Ok(Content::Scalar(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::Scalar(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Content, E> {
                Ok(Content::Scalar(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
                Content::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
                let mut found = Vec::new();
                while let Some(item) = items.next_element()? {
                    found.push((found.len(), item));
                }
                Ok(Content::List(found))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
                let mut found: Vec<(String, Node)> = Vec::new();
                while let Some(key) = entries.next_key::<String>()? {
                    // What stands twice is told by the parser, whose fault is the first one.
                    if found.iter().any(|(name, _)| *name == key) {
                        entries.next_value::<IgnoredAny>()?;
                    } else {
                        found.push((key, entries.next_value()?));
                    }
                }
                Ok(Content::Map(found))
            }
        }

        deserializer.deserialize_any(OfContent)
    }
}
