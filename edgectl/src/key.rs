//! The new key pair of a site or a node, from the moment it is made until its credentials file is written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use api::{NodeAdmitted, SiteAdmitted};
use identity::{
    certificates::SiteRequest,
    credentials::{self, NodeCredentials, SiteCredentials, SiteTls},
};
use margo::{Identity, TenantName, UserNkey};
use reqwest::RequestBuilder;
use serde::{Deserialize, Serialize};

use crate::{
    args::SiteAddresses,
    client::Client,
    failure::Failure,
    output::{Format, print},
    tables,
};

/// A key pair that is on disk before the platform hears of it. `FILE.pending` holds it until the credentials file `FILE`
/// does, so a lost answer costs nothing: the same command asks again with the same key, and the platform gives the same
/// answer to the same key.
pub(crate) struct Key {
    file: PathBuf,
    pending: PathBuf,
    seed: String,
    public: UserNkey,
    /// The key of a site's intermediate certificate in PEM form.
    tls: Option<String>,
    /// Whether an earlier attempt made the key. Its answer was lost, so the key may be in force.
    resumed: bool,
}

/// A key that may not be in force yet, as it stands in `FILE.pending` until the platform has answered.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pending {
    name: String,
    seed: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<String>,
}

/// What a key pair is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A site, which also has an intermediate certificate and so a key for that.
    Site,
    /// A node.
    Node,
}

impl Key {
    /// Takes up the key of an earlier attempt for the same name, or makes one and saves it. Fails when `file` exists, or when
    /// the pending key is that of another name.
    pub(crate) fn make(file: &Path, name: &str, kind: Kind) -> Result<Self, Failure> {
        if fs::symlink_metadata(file).is_ok() {
            let next = "name another file, or move this one away";
            return Err(Failure::Usage(format!("{} exists and is never overwritten\n  next: {next}", file.display())));
        }
        let mut pending = file.as_os_str().to_owned();
        pending.push(".pending");
        let (file, pending) = (file.to_owned(), PathBuf::from(pending));
        if fs::symlink_metadata(&pending).is_err() {
            let (seed, public) = identity::nats::generate();
            let tls = (kind == Kind::Site).then(SiteRequest::generate).transpose();
            let tls = tls.map_err(|error| Failure::Failed(format!("making a key for certificates: {error}")))?;
            let tls = tls.map(|request| request.key);
            let content = Pending { name: name.to_owned(), seed: seed.clone(), tls: tls.clone() };
            credentials::save(&pending, &content).map_err(|error| Failure::Failed(process::chain(&error)))?;
            return Ok(Self { file, pending, seed, public, tls, resumed: false });
        }
        let held: Pending = credentials::load(&pending).map_err(|error| Failure::Usage(process::chain(&error)))?;
        if held.name != name {
            let path = pending.display();
            return Err(Failure::Usage(format!(
                "{path} holds the key of {}, whose order did not end\n  next: finish that first, or name another file",
                held.name
            )));
        }
        let public = identity::nats::public_key(&held.seed)
            .map_err(|error| Failure::file("reading the key in", &pending, error))?;
        Ok(Self { file, pending, seed: held.seed, public, tls: held.tls, resumed: true })
    }

    /// What the platform is told of the key.
    pub(crate) fn identity(&self) -> Identity {
        Identity::Nkey(self.public.clone())
    }

    /// The request to sign the site's intermediate certificate.
    pub(crate) fn certificate_request(&self) -> Result<Option<String>, Failure> {
        let request = self.tls.as_deref().map(SiteRequest::for_key).transpose();
        let request =
            request.map_err(|error| Failure::file("reading the key of certificates in", &self.pending, error))?;
        Ok(request.map(|request| request.request))
    }

    /// Sends the order by which the key of a site comes into force, writes the credentials file, and shows the answer.
    pub(crate) async fn admit_site(
        &self,
        client: &Client,
        attempt: &str,
        order: RequestBuilder,
        format: Format,
    ) -> Result<(), Failure> {
        let admitted =
            client.order::<SiteAdmitted>(attempt, order).await.map_err(|failure| self.not_in_force(failure))?;
        let site = &admitted.body;
        self.keep_as(&SiteCredentials {
            tenant: TenantName::default(),
            site: site.name.clone(),
            hub: site.hub.clone(),
            minter: site.minter.clone(),
            seed: self.seed.clone(),
            root_key: site.root_key.clone(),
            tls: site.certificate.clone().zip(self.tls.clone()).map(|(certificate, key)| SiteTls {
                root_certificates: site.root_certificates.clone(),
                certificate,
                key,
            }),
        })?;
        print(format, &admitted.json, || tables::site_admitted(site, &self.file.display().to_string()))
    }

    /// The same for the key of a node, which will find its site at these addresses.
    pub(crate) async fn admit_node(
        &self,
        client: &Client,
        attempt: &str,
        order: RequestBuilder,
        SiteAddresses { server, minter }: SiteAddresses,
        format: Format,
    ) -> Result<(), Failure> {
        let admitted =
            client.order::<NodeAdmitted>(attempt, order).await.map_err(|failure| self.not_in_force(failure))?;
        let node = &admitted.body;
        self.keep_as(&NodeCredentials {
            node: node.name.clone(),
            server,
            minter,
            seed: self.seed.clone(),
            root_certificates: Some(node.root_certificates.clone()),
        })?;
        print(format, &admitted.json, || tables::node_admitted(node, &self.file.display().to_string()))
    }

    /// Called when the platform has refused the key, or when that is not known. Deletes a key that cannot be in force, and
    /// keeps any other for the next attempt.
    fn not_in_force(&self, failure: Failure) -> Failure {
        if !failure.is_open() && !self.resumed {
            // The key is of no use to anybody. If the file stays, the next attempt uses its key.
            let _ = fs::remove_file(&self.pending);
            return failure;
        }
        eprintln!("its key is kept in {}; the same command again goes on with it", self.pending.display());
        failure
    }

    /// Writes the credentials file, then deletes the pending one.
    fn keep_as(&self, credentials: &impl Serialize) -> Result<(), Failure> {
        credentials::save(&self.file, credentials).map_err(|error| Failure::Failed(process::chain(&error)))?;
        fs::remove_file(&self.pending).map_err(|error| Failure::file("removing", &self.pending, error))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use api::Problem;

    use super::*;

    fn refused(status: u16) -> Failure {
        Failure::refused("adding", Problem::new(status, "no"))
    }

    #[test]
    fn a_key_is_on_disk_before_it_is_used_and_lasts_until_its_file_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("press");
        let first = Key::make(&file, "plant/press", Kind::Node).unwrap();
        assert_eq!(fs::metadata(&first.pending).unwrap().permissions().mode() & 0o777, 0o600);
        first.not_in_force(refused(504));
        let again = Key::make(&file, "plant/press", Kind::Node).unwrap();
        assert_eq!((again.public.clone(), again.resumed), (first.public, true));
        assert!(Key::make(&file, "plant/oven", Kind::Node).is_err());
        // The first attempt may have come through: its key is kept, whatever is said to the second.
        again.not_in_force(refused(403));
        assert!(again.pending.exists());
        again.keep_as(&Pending { name: String::new(), seed: again.seed.clone(), tls: None }).unwrap();
        assert!(!again.pending.exists());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Key::make(&file, "plant/press", Kind::Node), Err(Failure::Usage(_))));
    }

    #[test]
    fn a_refusal_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::make(&folder.path().join("press"), "plant/press", Kind::Node).unwrap();
        key.not_in_force(refused(409));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
