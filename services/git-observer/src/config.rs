//! What git-observer has to know; the program that starts it fills it in.

use std::path::PathBuf;

use service::Base;

#[derive(Clone)]
pub struct Config {
    pub base: Base,
    /// The folder that holds a folder of repositories for each tenant. It is only read.
    pub repositories: PathBuf,
    /// The tenant's root public key, as one line of OpenSSH. It decides which tips are believed.
    pub root_key: String,
}
