//! Tickets for uploads: each lets one caller send one upload, within a short time.
//!
//! They are kept in memory only. A crash forgets all of them: an upload that had begun is cut off and leaves nothing
//! that counts, and whoever holds an unused ticket is answered 401 and asks for a new one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bus::CallerName;
use margo::Digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// How many unused tickets and uploads in work there may be together. Each upload may take 1 GiB of the disk while it
/// is staged.
const PLACES: usize = 16;

/// How long a ticket can be used. The gateway asks for it when the upload is about to begin, so this only has to cover
/// a slow line in between.
const LIFETIME: Duration = Duration::from_secs(60);

/// The tickets that were issued and not used yet.
pub struct Tickets {
    open: Mutex<HashMap<Uuid, Ticket>>,
    /// A place is taken with the ticket and kept until its upload ends.
    places: Arc<Semaphore>,
}

impl Default for Tickets {
    fn default() -> Self {
        Self { open: Mutex::default(), places: Arc::new(Semaphore::new(PLACES)) }
    }
}

struct Ticket {
    /// Of the token; the token itself is only known to who got the ticket.
    token: Digest,
    caller: CallerName,
    expires: Instant,
    place: OwnedSemaphorePermit,
}

/// A new ticket as it is handed out.
#[derive(Debug)]
pub struct Issued {
    /// Names the upload in its URL. It is no secret.
    pub id: Uuid,
    /// Proves that the sender got the ticket.
    pub token: String,
}

/// An upload that may happen now. Dropping it frees its place, so it is held until the upload is over.
#[derive(Debug)]
pub struct Admitted {
    /// Who asked for the ticket, and so adds the application.
    pub caller: CallerName,
    _place: OwnedSemaphorePermit,
}

impl Tickets {
    /// Issues a ticket with this token to a caller. Returns `None` when all places are taken, after tickets that ended
    /// were forgotten.
    pub fn issue(&self, caller: &CallerName, token: String, now: Instant) -> Option<Issued> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, ticket| ticket.expires > now);
        let place = self.places.clone().try_acquire_owned().ok()?;
        let issued = Issued { id: Uuid::new_v4(), token };
        let token = Digest::of(issued.token.as_bytes());
        open.insert(issued.id, Ticket { token, caller: caller.clone(), expires: now + LIFETIME, place });
        Some(issued)
    }

    /// Uses a ticket up and admits its upload. Returns `None` when there is no such ticket, when it has ended, or when
    /// the token is wrong.
    pub fn take(&self, id: Uuid, token: &str, now: Instant) -> Option<Admitted> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, ticket| ticket.expires > now);
        // A wrong token does not use the ticket up, or anybody who learns its id could take it away.
        if open.get(&id)?.token != Digest::of(token.as_bytes()) {
            return None;
        }
        open.remove(&id).map(|ticket| Admitted { caller: ticket.caller, _place: ticket.place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> CallerName {
        "ada".parse().unwrap()
    }

    #[test]
    fn a_ticket_is_good_once_with_its_token() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let Issued { id, token } = tickets.issue(&ada(), "secret".to_owned(), now).unwrap();
        assert!(tickets.take(id, "guess", now).is_none());
        assert!(tickets.take(Uuid::new_v4(), &token, now).is_none());
        assert_eq!(tickets.take(id, &token, now).unwrap().caller, ada());
        assert!(tickets.take(id, &token, now).is_none());
    }

    #[test]
    fn an_unused_ticket_ends() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let Issued { id, token } = tickets.issue(&ada(), "secret".to_owned(), now).unwrap();
        assert!(tickets.take(id, &token, now + LIFETIME).is_none());
    }

    #[test]
    fn places_are_few_and_come_back() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let first = tickets.issue(&ada(), "secret".to_owned(), now).unwrap();
        for _ in 1..PLACES {
            tickets.issue(&ada(), "secret".to_owned(), now).unwrap();
        }
        assert!(tickets.issue(&ada(), "secret".to_owned(), now).is_none());
        let running = tickets.take(first.id, &first.token, now).unwrap();
        assert!(tickets.issue(&ada(), "secret".to_owned(), now).is_none(), "an upload in work keeps its place");
        drop(running);
        assert!(tickets.issue(&ada(), "secret".to_owned(), now).is_some());
        assert!(tickets.issue(&ada(), "secret".to_owned(), now + LIFETIME).is_some());
    }
}
