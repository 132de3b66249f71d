//! Other registries than the platform's own: logins, redirects, image indexes, referrers, and the pace of downloads.
//!
//! **Where secrets go.** A password goes to the registry that it is for, and to the server that gives out the registry's
//! tokens; a token goes to the registry. Both are sent over HTTPS only, except where the registry itself was configured
//! at an `http://` address and is meant. The registry names its server of tokens, so a registry that somebody has taken
//! over can name one that collects passwords: where the operator says which server gives out the tokens, no other is
//! asked. Redirects, by which registries hand over to their storage, are followed without any secret, and only to HTTPS.

use std::{collections::BTreeMap, sync::Arc};

use margo::Digest;
use reqwest::{
    Response, StatusCode, Url,
    header::{HeaderMap, LINK},
};
use rustls::ClientConfig;

use crate::{
    AnyManifest, Client, ContentStore, Descriptor, Index, InvalidAddress, MAX_MANIFEST, Platform, PullError,
    RegistryError, RepositoryName,
    client::connection,
    login::{Login, read_limited},
};
pub use crate::{login::Credentials, pace::Pace};

/// The most pages of referrers that are read: with the hundred entries that registries put on one, as many as an index
/// may name.
const MAX_PAGES: usize = 10;

impl Client {
    /// Makes a client of a registry at this base URL, which does not include `/v2`. It logs in as the registry asks, with
    /// these credentials or without. `token_server` is the base URL of the only server that may be asked for tokens;
    /// without one it is whichever the registry names, over HTTPS or of the registry itself. `tls` says which
    /// certificates are believed, those of the server of tokens included.
    pub fn of_registry(
        base: &str,
        credentials: Option<Credentials>,
        token_server: Option<&str>,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, InvalidAddress> {
        let (http, base) = connection(base, tls)?;
        let token_server = token_server.map(|url| Url::parse(url).map_err(|_| InvalidAddress(url.to_owned())));
        let login = Login::new(http.clone(), base.clone(), credentials, token_server.transpose()?);
        Ok(Self::with_login(http, base, login))
    }

    /// Pulls a manifest with everything that the manifest names, or of an index those of its manifests that fit one of the
    /// platforms. The content is held in `store` under `held_as`, whatever its name is in the registry. Returns how many
    /// bytes crossed the network. Fails when an index has nothing for any of the platforms.
    pub async fn pull_for(
        &self,
        store: &ContentStore,
        name: &RepositoryName,
        held_as: &RepositoryName,
        digest: &Digest,
        platforms: &[Platform],
    ) -> Result<u64, PullError> {
        let mut pulled = self.pull_manifest(store, name, digest).await?;
        let index = match store.any_manifest(digest).await? {
            AnyManifest::Artifact(_) => return Ok(pulled + self.pull_as(store, name, held_as, digest).await?),
            AnyManifest::Index(index) => index,
        };
        let fitting: BTreeMap<_, _> = platforms
            .iter()
            .filter_map(|platform| index.manifest_for(platform))
            .map(|manifest| (manifest.digest, manifest))
            .collect();
        if fitting.is_empty() {
            let platforms = platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(RegistryError::NoPlatform { index: *digest, platforms }.into());
        }
        for manifest in fitting.keys() {
            pulled += self.pull_as(store, name, held_as, manifest).await?;
        }
        store.link(held_as, digest).await?;
        Ok(pulled)
    }

    /// Returns the manifests in a repository that refer to this one, as signatures and lists of parts do; with an
    /// artifact type only those of that type. A registry that does not know the question is asked for the index that
    /// clients keep under a tag instead, as OCI Distribution has it. What is returned was not verified: whoever uses a
    /// manifest pulls it by its digest.
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, PullError> {
        let mut found = Vec::new();
        let mut path = format!("v2/{name}/referrers/{digest}");
        if let Some(artifact_type) = artifact_type {
            path.push('?');
            path.push_str(&url_query("artifactType", artifact_type));
        }
        for page in 0..MAX_PAGES {
            let response = self.ask(name, &path, 0).await?;
            // Registries that do not know the path say so in several ways.
            let unknown = matches!(
                response.status(),
                StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED
            );
            if page == 0 && unknown {
                found = self.referrers_by_tag(name, digest).await?;
                break;
            }
            let next = next_page(response.headers(), response.url(), self.base());
            found.extend(read_index(response, digest).await?.manifests);
            match next {
                Some(next) => path = next,
                None => break,
            }
        }
        // A registry need not choose by the type, and the index under a tag has all of them.
        found.retain(|manifest| artifact_type.is_none_or(|wanted| manifest.artifact_type.as_deref() == Some(wanted)));
        Ok(found)
    }

    /// Reads the index that stands under the tag `sha256-<hex>`.
    async fn referrers_by_tag(&self, name: &RepositoryName, digest: &Digest) -> Result<Vec<Descriptor>, PullError> {
        let response = self.ask(name, &format!("v2/{name}/manifests/sha256-{}", digest.hex()), 0).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        Ok(read_index(response, digest).await?.manifests)
    }
}

/// One pair of a query, with what has a meaning in URLs escaped.
fn url_query(key: &str, value: &str) -> String {
    let mut url = Url::parse("http://localhost/").expect("the URL is made here");
    url.query_pairs_mut().append_pair(key, value);
    url.query().unwrap_or_default().to_owned()
}

async fn read_index(response: Response, digest: &Digest) -> Result<Index, PullError> {
    let unreadable = || RegistryError::Answer("the question for referrers");
    match response.status() {
        StatusCode::OK => {}
        status => return Err(PullError::of(status, response.headers(), digest)),
    }
    let bytes = read_limited(response, MAX_MANIFEST).await?.ok_or_else(unreadable)?;
    Ok(Index::parse(&bytes).map_err(|_| unreadable())?)
}

/// Returns the path of the next page below the base, as `Link: <…>; rel="next"` names it. A page of another server is
/// none.
fn next_page(headers: &HeaderMap, current: &Url, base: &Url) -> Option<String> {
    let link = headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok());
    let target = link.filter_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters.replace(['"', ' '], "").split(';').any(|one| one == "rel=next").then_some(target)
    });
    let url = current.join(target.into_iter().next()?).ok()?;
    let same = url.origin() == base.origin() && url.username().is_empty();
    let path = url.path().strip_prefix(base.path()).filter(|_| same)?;
    Some(url.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn the_next_page_is_one_of_the_same_registry() {
        let base = Url::parse("https://registry.example/below/").unwrap();
        let current = base.join("v2/a/referrers/sha256:00?n=1").unwrap();
        for (link, path) in [
            ("</below/v2/a/referrers/sha256:00?n=2>; rel=\"next\"", Some("v2/a/referrers/sha256:00?n=2")),
            ("<https://registry.example/below/v2/x>;rel=next", Some("v2/x")),
            ("<https://registry.example/v2/x>; rel=next", None),
            ("<https://evil.example/below/v2/x>; rel=next", None),
            ("<http://registry.example/below/v2/x>; rel=next", None),
            ("<https://me@registry.example/below/v2/x>; rel=next", None),
            ("</below/v2/x>; rel=prev", None),
            ("nonsense", None),
        ] {
            let headers = HeaderMap::from_iter([(LINK, HeaderValue::from_static(link))]);
            assert_eq!(next_page(&headers, &current, &base).as_deref(), path, "{link}");
        }
    }
}
