//! Documents that one answer cannot carry, kept until their site has all of them: reading and inflating a large document again for
//! each of its pieces would cost the square of its size. No git, no bus, no clock.

use std::collections::BTreeMap;

use bytes::Bytes;
use margo::{ClientName, Digest};

/// The most bytes of all of them together: two of the largest that there may be.
const ALL: usize = 64 << 20;

/// The last large document of each site.
#[derive(Default)]
pub struct Hand {
    held: BTreeMap<ClientName, Held>,
    bytes: usize,
    uses: u64,
}

struct Held {
    digest: Digest,
    content: Bytes,
    used: u64,
}

impl Hand {
    /// The document, if it is the one that is held for this site.
    pub fn get(&mut self, site: &ClientName, digest: Digest) -> Option<Bytes> {
        self.uses += 1;
        let held = self.held.get_mut(site).filter(|held| held.digest == digest)?;
        held.used = self.uses;
        Some(held.content.clone())
    }

    /// Takes a document in the place of what is held for this site. When all are too many, those go that were used least
    /// recently.
    pub fn put(&mut self, site: &ClientName, digest: Digest, content: Bytes) {
        self.let_go(site);
        self.uses += 1;
        self.bytes += content.len();
        self.held.insert(site.clone(), Held { digest, content, used: self.uses });
        while self.bytes > ALL {
            let Some(site) = self.held.iter().min_by_key(|(_, held)| held.used).map(|(site, _)| site.clone()) else {
                break;
            };
            self.let_go(&site);
        }
    }

    /// Forgets what is held for a site.
    pub fn let_go(&mut self, site: &ClientName) {
        self.bytes -= self.held.remove(site).map_or(0, |held| held.content.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_site_has_one_and_all_together_a_bound() {
        let mut hand = Hand::default();
        let sites: Vec<ClientName> = ["a", "b", "c"].map(|name| name.parse().unwrap()).to_vec();
        let [one, two] = [b"1", b"2"].map(|name| Digest::of(name));
        let third = || Bytes::from(vec![0; ALL / 3]);
        hand.put(&sites[0], one, third());
        hand.put(&sites[0], two, third());
        assert!(hand.get(&sites[0], one).is_none() && hand.get(&sites[1], two).is_none());
        assert_eq!(hand.bytes, ALL / 3);
        hand.put(&sites[1], one, third());
        hand.put(&sites[2], one, third());
        hand.get(&sites[0], two).unwrap();
        hand.put(&sites[2], two, Bytes::from(vec![0; ALL / 2]));
        assert!(hand.get(&sites[1], one).is_none(), "it was used least recently");
        assert!(hand.get(&sites[0], two).is_some() && hand.get(&sites[2], two).is_some());
        hand.put(&sites[1], one, Bytes::from(vec![0; ALL + 1]));
        assert_eq!((hand.bytes, hand.held.len()), (0, 0), "what is too large for all is not held");
        hand.let_go(&sites[0]);
    }
}
