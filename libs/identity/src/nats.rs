//! NKeys of users of NATS servers. Their public halves stand in `fleet.git`.

use margo::{InvalidNkey, UserNkey};
use nkeys::KeyPair;

/// Makes a new NKey user: its seed (`SU…`, a secret) and its public key.
pub fn generate() -> (String, UserNkey) {
    let pair = KeyPair::new_user();
    let public = pair.public_key().parse().expect("a user's key pair has a user's public key");
    (pair.seed().expect("a new key pair has its seed"), public)
}

/// Computes the public key of a user's seed. White space around the seed is ignored, because seeds are read from
/// files.
pub fn public_key(seed: &str) -> Result<UserNkey, InvalidNkey> {
    KeyPair::from_seed(seed.trim()).map_err(|_| InvalidNkey)?.public_key().parse()
}

/// Returns the text of a credentials file, as clients of all languages read it.
pub fn credentials_file(jwt: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_public_key_and_no_other_text_has_one() {
        let (seed, public) = generate();
        assert_eq!(public_key(&format!(" {seed}\n")), Ok(public.clone()));
        let account = KeyPair::new_account().seed().unwrap();
        for bad in ["", public.as_str(), &seed[1..], &account] {
            assert!(public_key(bad).is_err(), "{bad}");
        }
    }
}
