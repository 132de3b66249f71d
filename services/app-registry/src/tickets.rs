//! Tickets for uploads: one actor, one upload, a short time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use margo::Digest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// Tickets and uploads in work together. Each upload may take 1 GiB of staging.
const PLACES: usize = 16;

/// An upload begins right after its ticket was asked for; this is for a slow line in between.
const LIFETIME: Duration = Duration::from_secs(60);

/// 244 random bits from the operating system.
pub fn random_token() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// The tickets that were given out and not used.
pub struct Tickets {
    open: Mutex<HashMap<Uuid, Ticket>>,
    places: Arc<Semaphore>,
}

impl Default for Tickets {
    fn default() -> Self {
        Self { open: Mutex::default(), places: Arc::new(Semaphore::new(PLACES)) }
    }
}

struct Ticket {
    token: Digest,
    actor: String,
    expires: Instant,
    place: OwnedSemaphorePermit,
}

/// A fresh ticket, for the one who asked.
#[derive(Debug)]
pub struct Issued {
    /// Names it in the URL.
    pub id: Uuid,
    /// Proves it.
    pub token: String,
}

/// An upload that may happen now. Gives its place back when it is dropped.
#[derive(Debug)]
pub struct Admitted {
    /// Who uploads.
    pub actor: String,
    _place: OwnedSemaphorePermit,
}

impl Tickets {
    /// A ticket for this actor, unless too many are open.
    pub fn issue(&self, actor: &str, now: Instant) -> Option<Issued> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, ticket| ticket.expires > now);
        let place = self.places.clone().try_acquire_owned().ok()?;
        let issued = Issued { id: Uuid::new_v4(), token: random_token() };
        let token = Digest::of(issued.token.as_bytes());
        open.insert(issued.id, Ticket { token, actor: actor.to_owned(), expires: now + LIFETIME, place });
        Some(issued)
    }

    /// Uses a ticket up.
    pub fn take(&self, id: Uuid, token: &str, now: Instant) -> Option<Admitted> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, ticket| ticket.expires > now);
        // A wrong token does not use it up: it is not the actor's.
        if open.get(&id)?.token != Digest::of(token.as_bytes()) {
            return None;
        }
        open.remove(&id).map(|ticket| Admitted { actor: ticket.actor, _place: ticket.place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_once_with_its_token() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let Issued { id, token } = tickets.issue("ada", now).unwrap();
        assert!(tickets.take(id, "guess", now).is_none());
        assert!(tickets.take(Uuid::new_v4(), &token, now).is_none());
        assert_eq!(tickets.take(id, &token, now).unwrap().actor, "ada");
        assert!(tickets.take(id, &token, now).is_none());
    }

    #[test]
    fn an_unused_ticket_ends() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let Issued { id, token } = tickets.issue("ada", now).unwrap();
        assert!(tickets.take(id, &token, now + LIFETIME).is_none());
    }

    #[test]
    fn places_are_few_and_come_back() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let first = tickets.issue("ada", now).unwrap();
        for _ in 1..PLACES {
            tickets.issue("ada", now).unwrap();
        }
        assert!(tickets.issue("ada", now).is_none());
        let running = tickets.take(first.id, &first.token, now).unwrap();
        assert!(tickets.issue("ada", now).is_none(), "an upload in work keeps its place");
        drop(running);
        assert!(tickets.issue("ada", now).is_some());
        assert!(tickets.issue("ada", now + LIFETIME).is_some());
    }
}
