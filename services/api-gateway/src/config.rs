//! What api-gateway has to know; the program that starts it fills it in.

use std::{net::SocketAddr, path::PathBuf};

use service::Base;

pub struct Config {
    /// Its tenant is that of every caller: a token that is found belongs to it.
    pub base: Base,
    /// Address on which REST is served, over plain HTTP.
    pub listen: SocketAddr,
    /// The file with the names, roles and hashes of all tokens; see [`crate::tokens`].
    pub tokens: PathBuf,
}
