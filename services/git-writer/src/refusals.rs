//! What operators see of the rows that are not committed: messages that were left out, and repositories that stand
//! still.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use api::Refusal;
use jiff::Timestamp;
use margo::RepositoryName;

use crate::{decode::Undecodable, error::StoreError};

/// Messages that were left out and are still listed. They come from a broken or hostile source, which could send any
/// number of them; a few tell the operator enough.
const MAX_UNDECODABLE: usize = 20;

/// The list that `svc.git-writer.refusals` answers. Cheap to clone; all clones are the same list. It is kept in memory
/// only: a repository that still stands still after a restart is found by the first rows that come for it.
#[derive(Clone, Default)]
pub struct Refusals(Arc<Mutex<ByCause>>);

#[derive(Default)]
struct ByCause {
    undecodable: VecDeque<Refusal>,
    to_sign: Option<Refusal>,
    stalled: BTreeMap<RepositoryName, Refusal>,
    others: BTreeMap<String, Refusal>,
}

impl Refusals {
    /// First the messages that were left out, oldest first; then each repository that stands still now; then how many
    /// repositories are to be signed anew, and what mirrors do not take.
    pub fn list(&self) -> Vec<Refusal> {
        let all = |refusals: &mut ByCause| {
            let stalled = refusals.undecodable.iter().chain(refusals.stalled.values());
            stalled.chain(&refusals.to_sign).chain(refusals.others.values()).cloned().collect()
        };
        self.with(all)
    }

    /// Notes why something beside the commits is not done, such as a mirror that does not follow; or that it is. Returns whether it
    /// was not until now.
    pub fn note(&self, subject: &str, reason: Option<&str>) -> bool {
        self.with(|refusals| match reason {
            Some(reason) => {
                refusals.others.insert(subject.to_owned(), refusal(subject.to_owned(), reason.to_owned())).is_some()
            }
            None => refusals.others.remove(subject).is_some(),
        })
    }

    /// Notes how many repositories are still to be signed with the keys in force.
    pub fn to_sign(&self, left: usize) {
        let reason = || format!("{left} repositories are not signed with the keys in force yet: revoke no other key");
        let refusal = (left > 0).then(|| refusal("KEYS".to_owned(), reason()));
        self.with(|refusals| refusals.to_sign = refusal);
    }

    /// Notes a message that was left out. The oldest one is forgotten when there are too many.
    pub fn undecodable(&self, subject: String, error: &Undecodable) {
        let refusal = refusal(subject, process::chain(error));
        self.with(|refusals| {
            if refusals.undecodable.len() == MAX_UNDECODABLE {
                refusals.undecodable.pop_front();
            }
            refusals.undecodable.push_back(refusal);
        });
    }

    /// Notes why a repository stands still. A newer reason takes the place of the older one.
    pub fn stalled(&self, repository: &RepositoryName, error: &StoreError) {
        let refusal = refusal(repository.to_string(), process::chain(error));
        self.with(|refusals| refusals.stalled.insert(repository.clone(), refusal));
    }

    /// Forgets the repositories that do not stand still any more, and returns one sentence for each that still does.
    pub fn keep_stalled(&self, stands_still: impl Fn(&RepositoryName) -> bool) -> Vec<String> {
        self.with(|refusals| {
            refusals.stalled.retain(|repository, _| stands_still(repository));
            let sentence = |Refusal { subject, reason, .. }: &Refusal| format!("{subject} stands still: {reason}");
            refusals.stalled.values().map(sentence).collect()
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut ByCause) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[expect(clippy::disallowed_methods, reason = "the time is shown to people and never compared")]
fn refusal(subject: String, reason: String) -> Refusal {
    Refusal { subject, reason, at: Timestamp::now().to_string() }
}
