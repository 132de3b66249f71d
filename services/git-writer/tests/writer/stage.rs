//! The folder of a git-writer: its keys, its repositories, and how it is started on them.

use std::{fs, path::PathBuf};

use bus::{ServiceName, User};
use git_writer::{Config, Mirror, Serving};
use identity::{SigningKey, trust::sign_keys};
use margo::{KeySet, TenantName};
use tempfile::TempDir;
use testkit::{NatsServer, Running, loopback};

pub struct Stage {
    pub folder: TempDir,
    pub root: SigningKey,
}

impl Stage {
    pub fn new() -> Self {
        Self::on(TempDir::new().unwrap())
    }

    /// A stage with the repositories that are in this folder.
    pub fn on(folder: TempDir) -> Self {
        let [root, writer] = ["root", "git-writer"].map(|name| SigningKey::generate(name).unwrap());
        let stage = Self { folder, root };
        stage.put_keys(1, &writer, &[]);
        stage
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where a repository lies.
    pub fn repository(&self, name: &str) -> PathBuf {
        self.path(&format!("repositories/default/{name}.git"))
    }

    /// Has git-writer sign with a key from its next start on, under KEYS that name this one and others.
    pub fn put_keys(&self, number: u64, signing: &SigningKey, others: &[&SigningKey]) -> KeySet {
        let keys = std::iter::once(&signing).chain(others).map(|key| key.public().to_string()).collect();
        let keys = KeySet { tenant: TenantName::default(), number, keys };
        let (bytes, signature) = sign_keys(&self.root, &keys).unwrap();
        signing.save(&self.path("key")).unwrap();
        fs::write(self.path("KEYS"), bytes).unwrap();
        fs::write(self.path("KEYS.sig"), signature).unwrap();
        keys
    }

    pub fn start(&self, server: &NatsServer, mirrors: &[Mirror]) -> Running {
        let listen = (loopback(), 0).into();
        let public_url = "http://git".to_owned();
        self.start_serving(server, mirrors, Serving { listen, tls: None, public_url, secret: "secret".to_owned() })
    }

    pub fn start_serving(&self, server: &NatsServer, mirrors: &[Mirror], serving: Serving) -> Running {
        let login = server.login(&User::Central(ServiceName::GitWriter));
        Running::start(ServiceName::GitWriter, login, |base, shutdown| {
            let config = Config {
                base,
                repositories: self.path("repositories"),
                signing_key: self.path("key"),
                keys: self.path("KEYS"),
                keys_signature: self.path("KEYS.sig"),
                serving,
                mirrors: mirrors.to_vec(),
            };
            git_writer::run(config, shutdown)
        })
    }
}
