//! What a road is: a way by which a manifest reaches this site.
//!
//! A road fetches, stages, compares and asks again as its own transport demands; it verifies no signature and decides
//! nothing. The site verifies everything that a road says, so a road may be wrong or hostile: the worst that it can do is
//! to bring nothing. `roads/` has those that the platform uses; `tests/site/folder_road.rs`, a folder with a client's
//! commits, shows how little one needs.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures::future::BoxFuture;
use margo::{DeploymentId, Digest, ManifestList, NodeName};

use super::domain::Verdict;

/// A head as it travels, with what it takes to believe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHead {
    /// Bytes of the file `head`.
    pub head: Bytes,
    /// SSHSIG of the head by a key in KEYS.
    pub head_signature: Bytes,
    /// Bytes of the file `KEYS`.
    pub keys: Bytes,
    /// SSHSIG of KEYS by the tenant's root key.
    pub keys_signature: Bytes,
    /// The commit that all this stands in, for people. Nobody signed it.
    pub commit: String,
    /// The top text of the list, whose digest the head names.
    pub list: Bytes,
}

/// A head and the list that a road has for it.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The head, with the signatures and KEYS by which it is believed.
    pub head: SignedHead,
    /// The list: who each node of the client is, and what it shall run, by digest.
    pub list: ManifestList,
    /// Whether this is all that the road will ever have for this head. Then a list that is not the head's is refused;
    /// otherwise the site waits for a better one.
    pub complete: bool,
    /// The traces that the orders came in (`traceparent`). A node without one belongs to the trace of the head.
    pub traces: Traces,
}

/// The traces of one offer, as text.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    /// The trace of the newest order.
    pub head: Option<String>,
    /// The traces of nodes that an earlier order changed.
    pub nodes: BTreeMap<NodeName, String>,
}

/// The bytes of documents and of NODE files, each under the digest that its road gives for it.
pub type Documents = HashMap<Digest, Bytes>;

/// A document or a NODE file that the site lacks: what it is of, and its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The node that the file is of.
    pub node: NodeName,
    /// The deployment whose document is wanted; `None` for the NODE file.
    pub deployment: Option<DeploymentId>,
    /// The digest that its bytes must have.
    pub digest: Digest,
}

/// A way by which a manifest reaches this site. Several may be in use at once; the site takes the newest.
pub trait Road: Send {
    /// How people call this road. It stands in the site's health.
    fn name(&self) -> &'static str;

    /// Waits until there is something to look at, and offers it. Cancel-safe: an offer that was not returned comes with
    /// the next call. The site asks again only after it has told its verdict on the last offer. Troubles of the
    /// transport are the road's own: it logs them, and tries again after a while.
    fn next(&mut self) -> BoxFuture<'_, Offer>;

    /// The bytes of documents and NODE files of the last offer. Those that the road does not have now may be missing; an error
    /// says that the road has to be asked again. The site computes every digest itself.
    fn documents(&mut self, wanted: Vec<Wanted>) -> BoxFuture<'_, anyhow::Result<Documents>>;

    /// Hears what became of the last offer. After [`Verdict::Adopt`] the offer is in force and durable, so that the road
    /// may forget what it staged.
    fn verdict<'a>(&'a mut self, verdict: &'a Verdict) -> BoxFuture<'a, ()>;
}
