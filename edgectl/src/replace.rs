//! Replacing and revoking the keys of sites and nodes.

use std::path::Path;

use api::{KeyRevoked, ReplaceNodeKey, ReplaceSiteKey};
use margo::{NodeId, SiteName};
use reqwest::Method;

use crate::{
    args::SiteAddresses,
    client::Client,
    failure::Failure,
    key::{Key, Kind},
    output::{Format, print},
    tables,
};

/// Replaces the key of a site and writes its new credentials file, with a new intermediate certificate. The key pairs are made
/// here; only the public keys are sent.
pub(crate) async fn site(
    client: &Client,
    name: &SiteName,
    file: &Path,
    reason: Option<String>,
    format: Format,
) -> Result<(), Failure> {
    let key = Key::make(file, name.as_str(), Kind::Site)?;
    let body = ReplaceSiteKey { identity: key.identity(), certificate_request: key.certificate_request()?, reason };
    let request = client.request(Method::PUT, &format!("sites/{name}/key")).json(&body);
    let attempt = format!("replacing the key of the site {name}");
    key.admit_site(client, &attempt, request, format).await
}

/// Replaces the key of a node and writes its new credentials file. The key pair is made here; only the public key is sent.
pub(crate) async fn node(
    client: &Client,
    name: &NodeId,
    file: &Path,
    addresses: SiteAddresses,
    reason: Option<String>,
    format: Format,
) -> Result<(), Failure> {
    let key = Key::make(file, &name.to_string(), Kind::Node)?;
    let body = ReplaceNodeKey { identity: key.identity(), reason };
    let request = client.request(Method::PUT, &format!("nodes/{name}/key")).json(&body);
    let attempt = format!("replacing the key of the node {name}");
    key.admit_node(client, &attempt, request, addresses, format).await
}

/// Revokes the key of a site or node, whose key is at this path of the interface.
pub(crate) async fn revoke(
    client: &Client,
    attempt: &str,
    path: &str,
    reason: Option<String>,
    format: Format,
) -> Result<(), Failure> {
    let request = client.request(Method::DELETE, path).query(&[("reason", &reason)]);
    let revoked = client.order::<KeyRevoked>(attempt, request).await?;
    print(format, &revoked.json, || tables::key_revoked(&revoked.body))
}
