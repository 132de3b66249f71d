//! One look at one client: read what changed in its repository, decide whether to believe it, tell the site, and publish the
//! difference.
//!
//! What blocks (reading, hashing, verifying, compressing) runs on threads of its own, in bounded numbers
//! ([`crate::places`]). A look that waits for the hub's disk holds none of the places that the next commit needs, so a site is
//! told of its commit however much is still to be published.

use std::{
    error::Error,
    sync::{Arc, PoisonError},
    time::Duration,
};

use bus::{proto, trace};
use margo::ClientName;
use process::stop_point;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument, info_span, warn};

use crate::{
    domain::Believed,
    observer::{Look, LookError, Observer},
    places::blocking,
    publish::Due,
    snapshot::Snapshot,
    store::{Found, Read},
};

impl Observer {
    /// Makes sure that the hub holds what the client's tip says. Looking twice publishes nothing the second time. `place` is
    /// given back when the site was told. Returns how long the commit was read.
    pub async fn look(
        self: &Arc<Self>,
        client: &ClientName,
        look: Look,
        place: OwnedSemaphorePermit,
    ) -> Result<Duration, LookError> {
        let result = self.compare_and_publish(client, look, place).await;
        match &result {
            Ok(_) => self.refusals.remove(client),
            Err(LookError::Refused(error)) => {
                warn!(%client, error = error as &dyn Error, "tip refused; what was published stays in force");
                self.refusals.add(client, error);
            }
            Err(LookError::Failed(error)) => warn!(%client, error = format!("{error:#}"), "not published"),
        }
        result
    }

    async fn compare_and_publish(
        self: &Arc<Self>,
        client: &ClientName,
        look: Look,
        place: OwnedSemaphorePermit,
    ) -> Result<Duration, LookError> {
        let before = self.snapshots().nearest(client);
        let head = async { Ok::<_, LookError>(self.hub.head(client).await?) };
        let ((found, took), stored) = tokio::try_join!(self.read(client, before.clone()), head)?;
        let Some(found) = found else { return Ok(took) };

        let published = self.published(client, stored.head, before.as_deref()).await?;
        let (tip, traceparent) = match &found {
            Found::Same(snapshot) => (&snapshot.tip, &snapshot.traceparent),
            Found::Other(read) => (&read.tip, &read.traceparent),
        };
        tip.not_before(published.as_ref().map_or(0, |head| head.keys))?;
        self.hold_keys(client, tip.head.keys);
        let since = tip.since(published.as_ref())?;

        let version = tip.head.head.version.get();
        let span = info_span!("publish desired", %client, version, trace_id = tracing::field::Empty);
        if let Some(traceparent) = traceparent {
            trace::continue_from_text(&span, traceparent);
        }
        let snapshot = match found {
            Found::Same(snapshot) => snapshot,
            Found::Other(read) => {
                let Read { tip, tree, changes, .. } = *read;
                let trace = span.in_scope(trace::current_text);
                Arc::new(Snapshot::of(tip, tree, changes, trace, before.as_deref()))
            }
        };
        // Before anything is published: sites are answered from the commit, and whoever dies in between signals again.
        self.tell(client, &snapshot).instrument(span.clone()).await;
        if look == Look::Changes && since.is_none() {
            return Ok(took);
        }
        let due = Due { look, commit: snapshot.commit().to_owned(), since, sequence: stored.sequence };
        // Many may wait for the hub's disk: what they publish is found again when it is their turn.
        drop((place, snapshot, before));
        self.publish(client, due).instrument(span).await?;
        Ok(took)
    }

    /// Reads the newest commit, as far as it differs from what was read before.
    async fn read(
        self: &Arc<Self>,
        client: &ClientName,
        before: Option<Arc<Snapshot>>,
    ) -> Result<(Option<Found>, Duration), LookError> {
        let (observer, name, held) = (self.clone(), client.clone(), self.held_keys(client));
        let read = move || observer.store.newest(&observer.trust(&name), held, before.as_ref());
        let (found, took) = blocking(&self.places.reads, read).await?;
        Ok((found?, took))
    }

    /// The head on the bus. One that cannot be believed was not published by us, and is replaced as if there were none.
    async fn published(
        self: &Arc<Self>,
        client: &ClientName,
        head: Option<proto::DesiredHead>,
        before: Option<&Snapshot>,
    ) -> Result<Option<Believed>, LookError> {
        let Some(head) = head else { return Ok(None) };
        if let Some(before) = before.filter(|before| before.tip.head.message == head) {
            return Ok(Some(before.tip.head.clone()));
        }
        let (observer, name) = (self.clone(), client.clone());
        let believe = move || observer.trust(&name).believe(head, 0).ok().map(|(head, _)| head);
        Ok(blocking(&self.places.reads, believe).await?.0)
    }

    /// Takes this as what the client's site is answered from, and tells the site to look again.
    async fn tell(&self, client: &ClientName, snapshot: &Arc<Snapshot>) {
        if !self.snapshots().advance(client, snapshot) {
            return;
        }
        stop_point("git-observer.before-signal");
        if let Err(error) = self.hub.changed(client).await {
            // The site asks when it connects again, and every hour.
            warn!(%client, error = format!("{error:#}"), "the site is not told of a change");
        }
    }

    /// The highest number of a key set that was seen for this client; 0 when none was.
    fn held_keys(&self, client: &ClientName) -> u64 {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(client).copied().unwrap_or(0)
    }

    fn hold_keys(&self, client: &ClientName, number: u64) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let held = keys.entry(client.clone()).or_default();
        *held = number.max(*held);
    }
}
