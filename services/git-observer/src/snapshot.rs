//! What sites are answered from: the list of one commit, and what the newest orders changed. No git, no bus, no clock.
//!
//! A snapshot keeps no documents but those that changed lately, so a signal to a thousand sites costs no reads of Git, and a
//! site that fetches everything is answered from the commit, document by document. All snapshots together have a bound in
//! bytes; what is dropped is made again from its commit.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bus::proto;
use bytes::Bytes;
use margo::{ClientName, DeploymentId, Digest, ManifestList, NodeEntry, NodeName};

use crate::domain::Tip;

/// The most bytes of changed documents that one client's snapshots keep.
const RECENT: usize = 2 << 20;

/// The most bytes of all snapshots together. 100,000 deployments take a third of it.
const ALL: usize = 64 << 20;

/// About what a node and a deployment take in memory, by the sizes of their names and digests.
const NODE_BYTES: usize = 400;
const DEPLOYMENT_BYTES: usize = 120;

/// The most nodes whose traces are kept.
const TRACES: usize = 256;

/// What one commit of a client's repository says.
pub struct Snapshot {
    /// The head, as it travels.
    pub head: proto::DesiredHead,
    /// The version of the manifest.
    pub version: u64,
    pub list: ManifestList,
    /// NODE files and documents that changed lately, by digest.
    pub recent: HashMap<Digest, Bytes>,
    /// The trace of the order that made the commit.
    pub traceparent: Option<String>,
    /// The traces of orders that changed nodes lately.
    pub traces: BTreeMap<NodeName, String>,
    bytes: usize,
}

impl Snapshot {
    /// Makes the snapshot of a tip that was checked, after that of the tip before it.
    pub fn of(tip: Tip, traceparent: Option<String>, before: Option<&Snapshot>) -> Self {
        let Tip { head, nodes, list } = tip;
        let mut recent = HashMap::new();
        let mut traces = BTreeMap::new();
        let mut kept = 0;
        let mut keep = |digest: Digest, content: Bytes| {
            let fits = kept + content.len() <= RECENT;
            if fits && !recent.contains_key(&digest) {
                kept += content.len();
                recent.insert(digest, content);
            }
        };
        for (name, node) in before.iter().flat_map(|_| &nodes) {
            let (Some(entry), held) = (list.get(name), before.and_then(|before| before.list.get(name))) else {
                continue;
            };
            if held == Some(entry) {
                continue;
            }
            if let (Some(trace), true) = (&traceparent, traces.len() < TRACES) {
                traces.insert(name.clone(), trace.clone());
            }
            if let (Some(digest), Some(identity)) = (entry.identity, &node.identity)
                && held.is_none_or(|held| held.identity != Some(digest))
            {
                keep(digest, identity.clone().into());
            }
            for (id, digest) in &entry.deployments {
                if let Some(document) = node.documents.get(id)
                    && held.is_none_or(|held| held.deployments.get(id) != Some(digest))
                {
                    keep(*digest, document.clone().into());
                }
            }
        }
        // What changed a little earlier is wanted by those who did not ask in between.
        for (digest, content) in before.iter().flat_map(|before| &before.recent) {
            keep(*digest, content.clone());
        }
        for (node, trace) in before.iter().flat_map(|before| &before.traces) {
            if traces.len() < TRACES {
                traces.entry(node.clone()).or_insert_with(|| trace.clone());
            }
        }
        let deployments: usize = list.nodes().map(|(_, entry)| entry.deployments.len()).sum();
        let bytes = kept + nodes.len() * NODE_BYTES + deployments * DEPLOYMENT_BYTES;
        let (version, head) = (head.head.version.get(), head.message);
        Self { head, version, list, recent, traceparent, traces, bytes }
    }

    /// The nodes that changed after a version of the manifest.
    pub fn changed_since(&self, version: u64) -> impl Iterator<Item = (&NodeName, &Arc<NodeEntry>)> {
        self.list.nodes().filter(move |(_, entry)| entry.version.get() > version)
    }

    /// The digest of a document, where this commit has it.
    pub fn document(&self, node: &NodeName, deployment: DeploymentId) -> Option<Digest> {
        self.list.get(node)?.deployments.get(&deployment).copied()
    }
}

struct Kept {
    snapshot: Arc<Snapshot>,
    /// When it was made or asked for last, as a count of uses.
    used: u64,
    /// When a site asked for it last; 0 when none did.
    asked: u64,
}

/// The snapshots that are at hand, and which commit of each client is the newest that was believed.
#[derive(Default)]
pub struct Snapshots {
    kept: BTreeMap<ClientName, BTreeMap<String, Kept>>,
    newest: BTreeMap<ClientName, String>,
    uses: u64,
    bytes: usize,
}

impl Snapshots {
    /// The commit that a client's newest believed head stands in; `None` before the first look.
    pub fn newest(&self, client: &ClientName) -> Option<&str> {
        self.newest.get(client).map(String::as_str)
    }

    /// The snapshot of that commit, if it is at hand.
    pub fn newest_snapshot(&self, client: &ClientName) -> Option<Arc<Snapshot>> {
        Some(self.kept.get(client)?.get(self.newest(client)?)?.snapshot.clone())
    }

    /// Takes this as the newest of a client. Of its others, the one that its site asked for last stays: the site may still
    /// fetch from it.
    pub fn advance(&mut self, client: &ClientName, snapshot: Arc<Snapshot>) {
        let newest = snapshot.head.commit.clone();
        self.newest.insert(client.clone(), newest.clone());
        self.keep(client, snapshot);
        let Some(kept) = self.kept.get_mut(client) else { return };
        let asked = kept.values().filter(|kept| kept.asked > 0).map(|kept| kept.asked).max();
        let dropped = kept.extract_if(.., |commit, kept| *commit != newest && Some(kept.asked) != asked);
        self.bytes -= dropped.map(|(_, kept)| kept.snapshot.bytes).sum::<usize>();
    }

    /// Keeps a snapshot of any commit.
    pub fn keep(&mut self, client: &ClientName, snapshot: Arc<Snapshot>) {
        self.uses += 1;
        self.bytes += snapshot.bytes;
        let commit = snapshot.head.commit.clone();
        let kept = Kept { snapshot, used: self.uses, asked: 0 };
        if let Some(replaced) = self.kept.entry(client.clone()).or_default().insert(commit, kept) {
            self.bytes -= replaced.snapshot.bytes;
        }
        while self.bytes > ALL && self.drop_least_recent() {}
    }

    /// The snapshot of a commit that a site asks for, if it is at hand.
    pub fn get(&mut self, client: &ClientName, commit: &str) -> Option<Arc<Snapshot>> {
        self.uses += 1;
        let kept = self.kept.get_mut(client)?.get_mut(commit)?;
        (kept.used, kept.asked) = (self.uses, self.uses);
        Some(kept.snapshot.clone())
    }

    /// Drops the one that was used least recently, unless it is the only one.
    fn drop_least_recent(&mut self) -> bool {
        let all = self
            .kept
            .iter()
            .flat_map(|(client, kept)| kept.iter().map(move |(commit, kept)| (kept.used, client, commit)));
        let Some((used, client, commit)) =
            all.min().map(|(used, client, commit)| (used, client.clone(), commit.clone()))
        else {
            return false;
        };
        if used == self.uses {
            return false;
        }
        let Some(kept) = self.kept.get_mut(&client) else { return false };
        self.bytes -= kept.remove(&commit).map_or(0, |dropped| dropped.snapshot.bytes);
        if kept.is_empty() {
            self.kept.remove(&client);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(commit: &str, bytes: usize) -> Arc<Snapshot> {
        let head = proto::DesiredHead { commit: commit.to_owned(), ..Default::default() };
        let (list, recent, traces) = Default::default();
        Arc::new(Snapshot { head, version: 1, list, recent, traceparent: None, traces, bytes })
    }

    #[test]
    fn what_a_site_fetches_from_stays_while_heads_move_on() {
        let (mut snapshots, plant) = (Snapshots::default(), "plant".parse().unwrap());
        snapshots.advance(&plant, snapshot("a", 1));
        snapshots.get(&plant, "a").unwrap();
        for commit in ["b", "c", "d"] {
            snapshots.advance(&plant, snapshot(commit, 1));
            assert!(snapshots.get(&plant, "a").is_some());
        }
        assert_eq!(snapshots.newest(&plant), Some("d"));
        assert_eq!(snapshots.kept[&plant].len(), 2);
        assert_eq!(snapshots.bytes, 2);
    }

    #[test]
    fn all_together_have_a_bound_and_the_least_recent_goes_first() {
        let mut snapshots = Snapshots::default();
        let clients: Vec<ClientName> = ["a", "b", "c"].map(|name| name.parse().unwrap()).to_vec();
        for client in &clients {
            snapshots.advance(client, snapshot("x", ALL / 3));
        }
        snapshots.get(&clients[0], "x").unwrap();
        snapshots.advance(&clients[2], snapshot("y", ALL / 3));
        snapshots.advance(&clients[2], snapshot("z", 2 * ALL / 3));
        assert!(snapshots.bytes <= ALL);
        assert!(snapshots.get(&clients[1], "x").is_none());
        assert!(snapshots.get(&clients[2], "z").is_some());
        snapshots.keep(&clients[1], snapshot("huge", 2 * ALL));
        assert!(snapshots.get(&clients[1], "huge").is_some(), "what is in use is there however large it is");
    }
}
