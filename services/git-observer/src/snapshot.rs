//! What sites are answered from: the list of one commit, and what the newest orders changed. No git, no bus, no clock.
//!
//! A snapshot keeps no documents but those that changed lately, so a signal to a thousand sites costs no reads of Git, and a
//! site that fetches everything is answered from the commit, document by document. All snapshots together have a bound in
//! bytes; what is dropped is made again from its commit.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use git_state::{Changes, TreeId};
use margo::{ClientName, DeploymentId, Digest, NodeEntry, NodeName};

use crate::domain::Tip;

/// The most bytes of changed documents that one client's snapshots keep.
pub const RECENT: usize = 2 << 20;

/// The most bytes of all snapshots together. 100,000 deployments of 10,000 nodes take an eighth of it.
const ALL: usize = 64 << 20;

/// About what a node and a deployment take in memory, by the sizes of their names and digests.
const NODE_BYTES: usize = 400;
const DEPLOYMENT_BYTES: usize = 48;

/// The most nodes whose traces are kept.
const TRACES: usize = 256;

/// What one commit of a client's repository says. It shares with other snapshots of the client what is the same in them.
pub struct Snapshot {
    /// The head as it travels, and the list that it is about.
    pub tip: Tip,
    /// The files that the list was made of, by which another commit is compared with this one.
    pub tree: TreeId,
    /// NODE files and documents that changed lately, by digest.
    pub recent: HashMap<Digest, Bytes>,
    /// The trace of the order that made the commit.
    pub traceparent: Option<String>,
    /// The traces of orders that changed nodes lately.
    pub traces: BTreeMap<NodeName, String>,
    bytes: usize,
}

impl Snapshot {
    /// Makes the snapshot of a tip that was checked. `changes` tell how it differs from `before`; without that, from nothing.
    pub fn of(
        tip: Tip,
        tree: TreeId,
        changes: Changes,
        traceparent: Option<String>,
        before: Option<&Snapshot>,
    ) -> Self {
        let (mut recent, mut traces) = (HashMap::new(), BTreeMap::new());
        let mut kept = 0;
        let mut keep = |digest: Digest, content: Bytes| {
            if kept + content.len() <= RECENT && !recent.contains_key(&digest) {
                kept += content.len();
                recent.insert(digest, content);
            }
        };
        if let Some(before) = before {
            changes.contents.into_iter().for_each(|(digest, content)| keep(digest, content.into()));
            // What changed a little earlier is wanted by those who did not ask in between.
            before.recent.iter().for_each(|(digest, content)| keep(*digest, content.clone()));
            if let Some(trace) = &traceparent {
                traces.extend(changes.nodes.into_iter().take(TRACES).map(|node| (node, trace.clone())));
            }
            for (node, trace) in &before.traces {
                if traces.len() < TRACES {
                    traces.entry(node.clone()).or_insert_with(|| trace.clone());
                }
            }
        }
        let bytes = kept + tip.list.len() * NODE_BYTES + tip.list.deployments() * DEPLOYMENT_BYTES;
        Self { tip, tree, recent, traceparent, traces, bytes }
    }

    /// The commit, as its head names it.
    pub fn commit(&self) -> &str {
        &self.tip.head.message.commit
    }

    /// The version of the manifest.
    pub fn version(&self) -> u64 {
        self.tip.head.head.version.get()
    }

    /// The nodes that changed after a version of the manifest.
    pub fn changed_since(&self, version: u64) -> impl Iterator<Item = (&NodeName, &Arc<NodeEntry>)> {
        self.tip.list.changed_since(version)
    }

    /// The digest of a document, where this commit has it.
    pub fn document(&self, node: &NodeName, deployment: DeploymentId) -> Option<Digest> {
        self.tip.list.get(node)?.deployments.get(&deployment).copied()
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

    /// The snapshot of that commit or, if it is not at hand, any of the client: another commit is read by comparing it with
    /// one that was read.
    pub fn nearest(&self, client: &ClientName) -> Option<Arc<Snapshot>> {
        let kept = self.kept.get(client)?;
        let newest = self.newest(client).and_then(|newest| kept.get(newest));
        newest.or_else(|| kept.values().next()).map(|kept| kept.snapshot.clone())
    }

    /// The snapshot of a commit, if it is at hand, for other purposes than to answer a site.
    pub fn peek(&self, client: &ClientName, commit: &str) -> Option<Arc<Snapshot>> {
        Some(self.kept.get(client)?.get(commit)?.snapshot.clone())
    }

    /// Takes this as the newest of a client, and tells whether it was not that before. Of its others, the one that its site
    /// asked for last stays: the site may still fetch from it.
    pub fn advance(&mut self, client: &ClientName, snapshot: &Arc<Snapshot>) -> bool {
        if self.newest(client) == Some(snapshot.commit()) {
            if self.peek(client, snapshot.commit()).is_none() {
                self.keep(client, snapshot.clone());
            }
            return false;
        }
        let newest = snapshot.commit().to_owned();
        self.newest.insert(client.clone(), newest.clone());
        self.keep(client, snapshot.clone());
        let Some(kept) = self.kept.get_mut(client) else { return true };
        let asked = kept.values().filter(|kept| kept.asked > 0).map(|kept| kept.asked).max();
        let dropped = kept.extract_if(.., |commit, kept| *commit != newest && Some(kept.asked) != asked);
        self.bytes -= dropped.map(|(_, kept)| kept.snapshot.bytes).sum::<usize>();
        true
    }

    /// Keeps a snapshot of any commit.
    pub fn keep(&mut self, client: &ClientName, snapshot: Arc<Snapshot>) {
        self.uses += 1;
        self.bytes += snapshot.bytes;
        let commit = snapshot.commit().to_owned();
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
    use bus::proto;
    use margo::{Head, ManifestList, ManifestVersion, TenantName};

    use super::*;
    use crate::domain::Believed;

    fn snapshot(commit: &str, bytes: usize) -> Arc<Snapshot> {
        let version = ManifestVersion::FIRST;
        let list = ManifestList::default();
        let (tenant, client) = (TenantName::default(), "plant".parse().unwrap());
        let head = Head { tenant, client, version, list: list.digest() };
        let message = proto::DesiredHead { commit: commit.to_owned(), ..Default::default() };
        let tip = Tip { head: Believed { head, keys: 1, message }, list };
        let (recent, traces) = Default::default();
        Arc::new(Snapshot { tip, tree: TreeId::empty(), recent, traceparent: None, traces, bytes })
    }

    #[test]
    fn what_a_site_fetches_from_stays_while_heads_move_on() {
        let (mut snapshots, plant) = (Snapshots::default(), "plant".parse().unwrap());
        assert!(snapshots.advance(&plant, &snapshot("a", 1)));
        assert!(!snapshots.advance(&plant, &snapshot("a", 1)), "it is the newest already");
        snapshots.get(&plant, "a").unwrap();
        for commit in ["b", "c", "d"] {
            snapshots.advance(&plant, &snapshot(commit, 1));
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
            snapshots.advance(client, &snapshot("x", ALL / 3));
        }
        snapshots.get(&clients[0], "x").unwrap();
        snapshots.advance(&clients[2], &snapshot("y", ALL / 3));
        snapshots.advance(&clients[2], &snapshot("z", 2 * ALL / 3));
        assert!(snapshots.bytes <= ALL);
        assert!(snapshots.get(&clients[1], "x").is_none());
        assert!(snapshots.get(&clients[2], "z").is_some());
        assert_eq!(snapshots.nearest(&clients[2]).unwrap().commit(), "z");
        assert!(snapshots.nearest(&clients[1]).is_none() && snapshots.peek(&clients[0], "y").is_none());
        snapshots.keep(&clients[1], snapshot("huge", 2 * ALL));
        assert!(snapshots.get(&clients[1], "huge").is_some(), "what is in use is there however large it is");
    }
}
