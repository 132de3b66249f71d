//! What is in force at the site, kept in one place: on disk, and for all who look.
//!
//! **Layout.** The file `in-force` is a [`Journal`]. Its records are changes: each names the head, the nodes that it
//! changed with the digests of their documents, the nodes that left, and the number of the newest KEYS; folded in order
//! they give the set in force. The messages beside them are exactly what the site's nodes read, so serving needs no
//! work.
//!
//! **Updates.** An adoption appends the messages that changed and one record, and is durable with one sync; those who
//! look see it only afterwards. A higher number of KEYS that comes without an adoption is a record of its own. When
//! most of the file no longer counts, it is written anew.
//!
//! **After a crash.** Before the sync nothing of an adoption counts: whoever dies in the middle wakes with the set of
//! before. KEYS that came later take nothing out of force, so what is read back here is not verified again; only that
//! the list is the head's. A set of which that is not true is as good as lost, and comes into force again when a road
//! brings it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, anyhow};
use bus::{Subject, proto};
use bytes::Bytes;
use margo::{DeploymentId, Digest, Head, ManifestVersion, NodeEntry, NodeIdentity, NodeName};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::warn;

use super::{
    domain::{DesiredSet, Held},
    journal::{Journal, Place},
    road::{SignedHead, Traces},
};

/// The file is written anew when it is larger than twice what counts and this many bytes. The rewriting then costs at
/// most as much as the appending did.
const SLACK: u64 = 8 << 20;

/// A set in force: what it says, and the messages that carry it. Stays as it was when the next one comes into force.
pub struct InForce {
    /// The head and what each node shall run.
    pub set: DesiredSet,
    /// The commit that the set stands in, for people.
    pub commit: String,
    /// The name of the road that brought it.
    pub road: String,
    /// Who each node is that was admitted, or once was.
    pub identities: BTreeMap<NodeName, NodeIdentity>,
    head: Kept,
    nodes: BTreeMap<NodeName, Kept>,
    file: Arc<File>,
}

/// A message that is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    place: Place,
    trace: Option<String>,
}

/// A message of the set in force, as nodes read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The trace of the order that changed it last (`traceparent`).
    pub trace: Option<String>,
    /// The bytes that nodes read, exactly as they stand in the file.
    pub payload: Bytes,
}

impl InForce {
    /// Reads the message of the head from the file. Blocks.
    pub fn head(&self) -> io::Result<Served> {
        self.read(&self.head)
    }

    /// The message of one node; `None` when the set does not name the node. Blocks.
    pub fn node(&self, node: &NodeName) -> io::Result<Option<Served>> {
        self.nodes.get(node).map(|kept| self.read(kept)).transpose()
    }

    /// The message of this subject; `None` when the set has none. Blocks.
    pub fn message(&self, subject: &Subject) -> io::Result<Option<Served>> {
        match subject {
            Subject::DesiredHead(_) => self.head().map(Some),
            Subject::DesiredNode(id) => self.node(&id.node),
            _ => Ok(None),
        }
    }

    fn read(&self, kept: &Kept) -> io::Result<Served> {
        Ok(Served { trace: kept.trace.clone(), payload: kept.place.read(&self.file)?.into() })
    }

    fn live(&self) -> u64 {
        self.nodes.values().chain([&self.head]).map(|kept| kept.place.length()).sum()
    }
}

/// One change of what is in force, as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Number of the newest KEYS believed.
    keys: u64,
    /// Absent when only the number changed.
    adopted: Option<Adoption>,
}

#[derive(Serialize, Deserialize)]
struct Adoption {
    road: String,
    commit: String,
    /// Text of the head; its signatures stand in the message.
    head: String,
    message: Kept,
    /// Whether this is all of the set; otherwise the nodes that it does not name stay as they were.
    anew: bool,
    changed: BTreeMap<NodeName, NodeRecord>,
    left: BTreeSet<NodeName>,
}

#[derive(Serialize, Deserialize)]
struct NodeRecord {
    version: u64,
    /// The text of the NODE file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    deployments: BTreeMap<DeploymentId, Digest>,
    message: Kept,
}

/// A set on its way into force. Its messages are in the file already.
pub struct Next {
    /// The head and what each node shall run.
    pub set: DesiredSet,
    /// The head as it travels on to the nodes.
    pub head: SignedHead,
    /// Number of the KEYS of the head.
    pub keys: u64,
    /// The name of the road that brought it.
    pub road: &'static str,
    /// The traces that the orders came in.
    pub traces: Traces,
    /// The messages of the nodes that changed, and who these nodes are.
    pub messages: BTreeMap<NodeName, (Place, Option<NodeIdentity>)>,
}

/// The owner of what is in force: the only writer of the file, of the number of KEYS and of what others see.
pub struct Adopted {
    journal: Arc<Mutex<Journal>>,
    keys: u64,
    /// A newer head than the set's: from the site's own stream, when the file was lost.
    floor: Option<Head>,
    view: watch::Sender<Option<Arc<InForce>>>,
}

impl Adopted {
    /// Takes up what is on disk. What cannot be read there is lost, and the roads bring it again.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("in-force");
        let mut keys = 0;
        let mut folded: Option<Adoption> = None;
        let mut unread = None;
        let journal = Journal::open(path.clone(), |bytes| match serde_json::from_slice::<Record>(bytes) {
            Ok(record) => {
                keys = keys.max(record.keys);
                if let Some(adopted) = record.adopted {
                    folded = Some(fold(folded.take(), adopted));
                }
            }
            Err(error) => unread = Some(error),
        });
        let journal = journal.with_context(|| format!("opening {}", path.display()))?;
        if let Some(error) = unread {
            return Err(error).with_context(|| format!("{} was written by another version", path.display()));
        }
        let in_force = folded.map(|adoption| restore(adoption, journal.file())).transpose();
        let in_force = in_force.unwrap_or_else(|error| {
            warn!(
                error = format!("{error:#}"),
                "what was in force is lost; it comes into force again when a road brings it"
            );
            None
        });
        let view = watch::Sender::new(in_force.map(Arc::new));
        Ok(Self { journal: Arc::new(Mutex::new(journal)), keys, floor: None, view })
    }

    /// What is in force, for those who look; `None` before the first adoption.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<InForce>>> {
        self.view.subscribe()
    }

    /// What is in force now.
    pub fn in_force(&self) -> Option<Arc<InForce>> {
        self.view.borrow().clone()
    }

    /// Number of the newest KEYS believed; 0 before the first.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The newest head that was ever in force, as far as this value knows.
    pub fn floor<'a>(&'a self, in_force: Option<&'a InForce>) -> Option<&'a Head> {
        let held = in_force.map(|in_force| &in_force.set.head);
        held.into_iter().chain(&self.floor).max_by_key(|head| head.version)
    }

    /// What the next offer is judged by.
    pub fn held<'a>(&'a self, in_force: Option<&'a InForce>) -> Held<'a> {
        Held { floor: self.floor(in_force), set: in_force.map(|in_force| &in_force.set) }
    }

    /// From now on no older version than this head's comes into force. The head must be believed.
    pub fn raise_floor(&mut self, head: Head) {
        self.floor = Some(head);
    }

    /// From now on KEYS with a lower number are refused, also after a restart.
    pub async fn raise_keys(&mut self, number: u64) -> io::Result<()> {
        if number > self.keys {
            self.commit(Record { keys: number, adopted: None }).await?;
            self.keys = number;
        }
        Ok(())
    }

    /// Puts messages into the file for the set that comes next. They are not durable yet, and count for nothing until
    /// [`Adopted::bring_into_force`].
    pub async fn put(&self, messages: Vec<Bytes>) -> io::Result<Vec<Place>> {
        let journal = self.journal.clone();
        disk::blocking(move || lock(&journal).put(&messages)).await
    }

    /// Forgets the messages that were put since the last set came into force.
    pub async fn abandon(&self) -> io::Result<()> {
        let journal = self.journal.clone();
        disk::blocking(move || lock(&journal).abandon()).await
    }

    /// Puts the next set in force. It is on the disk when this returns `Ok`; after an error, the set of before stands.
    pub async fn bring_into_force(&mut self, next: Next) -> io::Result<Arc<InForce>> {
        let Next { set, head, keys, road, traces, messages } = next;
        let commit = head.commit.clone();
        let message = bus::encode(&proto::DesiredHead::from(head));
        let [place] = self.put(vec![message]).await?[..] else {
            return Err(io::Error::other("one message has one place"));
        };
        let before = self.in_force();
        let Traces { head: trace_of_head, nodes: traces } = traces;
        let mut identities = before.as_ref().map(|before| before.identities.clone()).unwrap_or_default();
        let changed = messages.into_iter().filter_map(|(node, (place, identity))| {
            let desired = set.list.get(&node)?;
            let trace = traces.get(&node).or(trace_of_head.as_ref()).cloned();
            let version = desired.version.get();
            let deployments = desired.deployments.iter().map(|(id, digest)| (*id, *digest)).collect();
            let text = identity.as_ref().map(|identity| String::from_utf8_lossy(&identity.to_bytes()).into_owned());
            match identity {
                Some(identity) => drop(identities.insert(node.clone(), identity)),
                None => drop(identities.remove(&node)),
            }
            Some((node, NodeRecord { version, identity: text, deployments, message: Kept { place, trace } }))
        });
        let changed = changed.collect();
        identities.retain(|node, _| set.list.get(node).is_some());
        let gone = |node: &&NodeName| set.list.get(node).is_none();
        let adoption = Adoption {
            road: road.to_owned(),
            commit,
            head: String::from_utf8_lossy(&set.head.to_bytes()).into_owned(),
            message: Kept { place, trace: trace_of_head },
            anew: before.is_none(),
            changed,
            left: before.iter().flat_map(|before| before.nodes.keys().filter(gone)).cloned().collect(),
        };
        let keys = keys.max(self.keys);
        let record = Record { keys, adopted: Some(adoption) };
        let bytes = encode(&record)?;
        let journal = self.journal.clone();
        let file = disk::blocking(move || {
            let mut journal = lock(&journal);
            journal.commit(&bytes)?;
            Ok(journal.file())
        });
        let file = file.await?;
        self.keys = keys;
        self.floor = None;
        let Some(adoption) = record.adopted else { return Err(io::Error::other("a record of an adoption")) };
        let mut nodes = before.map(|before| before.nodes.clone()).unwrap_or_default();
        nodes.retain(|node, _| set.list.get(node).is_some());
        nodes.extend(adoption.changed.into_iter().map(|(node, record)| (node, record.message)));
        let Adoption { road, commit, message: head, .. } = adoption;
        let in_force = Arc::new(InForce { set, commit, road, identities, head, nodes, file });
        self.view.send_replace(Some(in_force.clone()));
        Ok(in_force)
    }

    /// Makes the file small again when most of it no longer counts. Nothing but its size depends on this.
    pub async fn tidy(&mut self) -> io::Result<()> {
        let Some(in_force) = self.in_force() else { return Ok(()) };
        if lock(&self.journal).size() < 2 * in_force.live() + SLACK {
            return Ok(());
        }
        let (journal, keys, before) = (self.journal.clone(), self.keys, in_force);
        let rewritten = disk::blocking(move || {
            let mut journal = lock(&journal);
            let places: Vec<_> = before.nodes.values().chain([&before.head]).map(|kept| kept.place).collect();
            let mut moved = None;
            journal.rewrite(&places, |places| {
                let adoption = relocate(&before, places);
                let record = Record { keys, adopted: Some(adoption) };
                let bytes = encode(&record)?;
                moved = record.adopted;
                Ok(bytes)
            })?;
            Ok(moved.map(|adoption| restore(adoption, journal.file())))
        });
        match rewritten.await? {
            Some(Ok(in_force)) => drop(self.view.send_replace(Some(Arc::new(in_force)))),
            // It is what was in force a moment ago.
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => {}
        }
        Ok(())
    }

    async fn commit(&self, record: Record) -> io::Result<()> {
        let (journal, bytes) = (self.journal.clone(), encode(&record)?);
        disk::blocking(move || lock(&journal).commit(&bytes)).await
    }
}

fn lock(journal: &Mutex<Journal>) -> std::sync::MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

fn encode(record: &Record) -> io::Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(io::Error::other)
}

/// One adoption that says what these two say after one another.
fn fold(before: Option<Adoption>, next: Adoption) -> Adoption {
    let mut changed = before.filter(|_| !next.anew).map(|before| before.changed).unwrap_or_default();
    changed.retain(|node, _| !next.left.contains(node));
    changed.extend(next.changed);
    Adoption { changed, anew: true, left: BTreeSet::new(), ..next }
}

/// One adoption that says all of what is in force, with messages at new places: those of the nodes in order, then the
/// head's.
fn relocate(in_force: &InForce, places: &[Place]) -> Adoption {
    let mut places = places.iter().copied();
    let mut at = |kept: &Kept| Kept { place: places.next().unwrap_or(kept.place), trace: kept.trace.clone() };
    let moved: BTreeMap<_, _> = in_force.nodes.iter().map(|(node, kept)| (node.clone(), at(kept))).collect();
    let message = at(&in_force.head);
    let changed = moved.into_iter().filter_map(|(node, message)| {
        let desired = in_force.set.list.get(&node)?;
        let identity = in_force.identities.get(&node);
        let identity = identity.map(|identity| String::from_utf8_lossy(&identity.to_bytes()).into_owned());
        let version = desired.version.get();
        let deployments = desired.deployments.iter().map(|(id, digest)| (*id, *digest)).collect();
        Some((node, NodeRecord { version, identity, deployments, message }))
    });
    Adoption {
        road: in_force.road.clone(),
        commit: in_force.commit.clone(),
        head: String::from_utf8_lossy(&in_force.set.head.to_bytes()).into_owned(),
        message,
        anew: true,
        changed: changed.collect(),
        left: BTreeSet::new(),
    }
}

/// The set that an adoption of everything describes.
fn restore(adoption: Adoption, file: Arc<File>) -> anyhow::Result<InForce> {
    let Adoption { road, commit, head, message, changed, .. } = adoption;
    let head = Head::parse(head.as_bytes()).context("reading the head in force")?;
    let (mut entries, mut nodes, mut identities) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for (node, NodeRecord { version, identity, deployments, message }) in changed {
        let version = ManifestVersion::try_from(version)?;
        let digest = identity.as_ref().map(|identity| Digest::of(identity.as_bytes()));
        if let Some(identity) = identity {
            identities.insert(node.clone(), NodeIdentity::parse(identity.as_bytes())?);
        }
        entries.push((node.clone(), NodeEntry { identity: digest, version, deployments: deployments.into() }));
        nodes.insert(node, message);
    }
    let set = DesiredSet { head, list: entries.into_iter().collect() };
    if !set.is_whole() {
        return Err(anyhow!("the list is not the one that the head was signed for"));
    }
    Ok(InForce { set, commit, road, identities, head: message, nodes, file })
}

#[cfg(test)]
mod tests;
