//! A road that reads a client's repository in a folder: what a Git pull brings, without the pull.
//!
//! Stands alone, so that tests of other crates may include it by path.

use std::{path::PathBuf, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use git_state::{CommitId, Manifest, Repository, layout};
use local_orchestrator::{Documents, Offer, Road, SignedHead, Traces, Verdict, Wanted};
use margo::{ClientName, Digest, RepositoryName, TenantName};
use tokio::time::sleep;

/// The pause between two looks at the branch.
const LOOK: Duration = Duration::from_millis(20);

/// Offers the tip of the branch whenever the tip is another commit.
pub struct FolderRoad {
    /// The folder of all tenants' repositories.
    folder: PathBuf,
    client: ClientName,
    /// The commit that a verdict was told on, or is awaited.
    offered: Option<CommitId>,
    documents: Documents,
}

impl FolderRoad {
    pub fn new(folder: PathBuf, client: ClientName) -> Self {
        Self { folder, client, offered: None, documents: Documents::new() }
    }

    /// The tip, unless it was offered already.
    fn look(&mut self) -> Option<Offer> {
        let name = RepositoryName::Client(self.client.clone());
        let repository = Repository::open(&self.folder, &TenantName::default(), &name).unwrap()?;
        let tip = repository.tip().unwrap().filter(|tip| self.offered != Some(*tip))?;
        let files = repository.files(tip).unwrap();
        let file = |path: &str| files.get(path).cloned().map(Into::into);
        let head = SignedHead {
            head: file(layout::HEAD)?,
            head_signature: file(layout::HEAD_SIGNATURE)?,
            keys: file(layout::KEYS)?,
            keys_signature: file(layout::KEYS_SIGNATURE)?,
            commit: tip.to_string(),
            list: Default::default(),
        };
        let manifest = Manifest::read(&files).unwrap();
        let list = manifest.list();
        let head = SignedHead { list: list.top_text().to_owned().into(), ..head };
        let contents = manifest.nodes.into_values().flat_map(|node| node.documents.into_values().chain(node.identity));
        self.documents = contents.map(|content| (Digest::of(&content), content.into())).collect();
        let trace = repository.message(tip).unwrap().trailer(layout::TRACEPARENT_TRAILER).map(str::to_owned);
        self.offered = Some(tip);
        Some(Offer { head, list, complete: true, traces: Traces { head: trace, ..Traces::default() } })
    }
}

impl Road for FolderRoad {
    fn name(&self) -> &'static str {
        "folder"
    }

    fn next(&mut self) -> BoxFuture<'_, Offer> {
        async move {
            loop {
                if let Some(offer) = self.look() {
                    return offer;
                }
                sleep(LOOK).await;
            }
        }
        .boxed()
    }

    fn documents(&mut self, wanted: Vec<Wanted>) -> BoxFuture<'_, anyhow::Result<Documents>> {
        let found = wanted.into_iter().filter_map(|it| Some((it.digest, self.documents.get(&it.digest)?.clone())));
        std::future::ready(Ok(found.collect())).boxed()
    }

    fn verdict<'a>(&'a mut self, verdict: &'a Verdict) -> BoxFuture<'a, ()> {
        if *verdict == Verdict::Incomplete {
            self.offered = None;
        }
        std::future::ready(()).boxed()
    }
}
