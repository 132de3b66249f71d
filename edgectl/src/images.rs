//! Container images of an application that lie in a registry: they are pulled here, where its author may read them, and travel in
//! the package. So no site and no node has to reach that registry, and what the package fixes is what was packed.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use margo::Digest;
use oci::{
    AnyManifest, Client, ContentStore, Descriptor, ImageName, Platform,
    layout::{missing_images, write_layout},
    media,
    registry::Credentials,
};
use serde::Deserialize;

/// The platforms that nodes have. Of an index what fits one of them is taken.
const PLATFORMS: [&str; 4] = ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/riscv64"];

/// The largest settings of Docker that are read.
const MAX_SETTINGS: u64 = 1 << 20;

/// Pulls the images that the Compose files of an application's folder name and that its folder `images` does not have. Returns the
/// folder with their image layouts. An image without a digest is not pulled: a tag may mean something else tomorrow.
pub(crate) async fn pull(folder: &Path, docker_config: Option<&Path>, into: &Path) -> anyhow::Result<PathBuf> {
    let (layouts, app) = (into.join("layouts"), folder.to_owned());
    fs::create_dir(&layouts).context("making a folder for images")?;
    let missing =
        tokio::task::spawn_blocking(move || missing_images(&app)).await.context("reading the app's folder")??;
    let named: Vec<_> = missing.iter().filter_map(|name| Some((name, name.parse::<ImageName>().ok()?))).collect();
    if named.is_empty() {
        return Ok(layouts);
    }
    let store = ContentStore::open(into.join("store")).await?;
    let logins = Logins::read(docker_config)?;
    for (number, (name, image)) in named.into_iter().enumerate() {
        let Some(digest) = image.digest else { continue };
        eprintln!("pulling {name}");
        let pulled = one(&store, &logins, &image, &digest).await.with_context(|| format!("pulling {name}"))?;
        let (layout, store, name) = (layouts.join(number.to_string()), store.clone(), name.clone());
        let written = disk::blocking(move || write_layout(&layout, &store, &name, &pulled)).await;
        written.context("writing an image layout")?;
    }
    Ok(layouts)
}

/// Pulls one image, for every platform that there is of it, and returns its manifests.
async fn one(
    store: &ContentStore,
    logins: &Logins,
    image: &ImageName,
    digest: &Digest,
) -> anyhow::Result<Vec<Descriptor>> {
    let client = Client::of_registry(&image.url(), logins.of(image)?, None, None)?;
    let platforms = PLATFORMS.map(|platform| platform.parse::<Platform>().expect("it is one")).to_vec();
    let held_as = image.location().name_at_site()?;
    client.pull_for(store, &image.name, &held_as, digest, &platforms).await?;
    match store.any_manifest(digest).await? {
        AnyManifest::Artifact(_) => {
            let size = fs::metadata(store.path(digest)).context("looking at a manifest")?.len();
            Ok(vec![Descriptor::new(media::MANIFEST, *digest, size)])
        }
        AnyManifest::Index(index) => {
            Ok(index.manifests.into_iter().filter(|manifest| store.contains(&manifest.digest)).collect())
        }
    }
}

/// The logins that `docker login` has kept, where it keeps them in its own file.
#[derive(Default, Deserialize)]
struct Logins {
    #[serde(default)]
    auths: BTreeMap<String, Kept>,
}

#[derive(Default, Deserialize)]
struct Kept {
    /// Account and password with a colon between them, in Base64.
    #[serde(default)]
    auth: String,
}

impl Logins {
    fn read(folder: Option<&Path>) -> anyhow::Result<Self> {
        let home = || env::home_dir().map(|home| home.join(".docker"));
        let Some(file) = folder.map(Path::to_owned).or_else(home).map(|folder| folder.join("config.json")) else {
            return Ok(Self::default());
        };
        match fs::metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Ok(about) if about.len() <= MAX_SETTINGS => {}
            Ok(_) => bail!("{} is too long", file.display()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        }
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()))
    }

    fn of(&self, image: &ImageName) -> anyhow::Result<Option<Credentials>> {
        let kept = image.login_keys().into_iter().find_map(|key| self.auths.get(key));
        let Some(kept) = kept.filter(|kept| !kept.auth.is_empty()) else { return Ok(None) };
        let decoded = data_encoding::BASE64.decode(kept.auth.as_bytes()).ok();
        let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let Some((username, password)) = text.as_deref().and_then(|text| text.split_once(':')) else {
            bail!("the login that Docker has kept for {} cannot be read", image.registry);
        };
        Ok(Some(Credentials { username: username.to_owned(), password: password.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_of_docker_is_read_and_goes_to_its_registry_alone() {
        let auth = data_encoding::BASE64.encode(b"ada:se:cret");
        let text = serde_json::json!({
            "auths": { "registry.example:5000": { "auth": auth }, "https://index.docker.io/v1/": { "auth": "?" }, "empty.example": {} },
            "credsStore": "desktop",
        });
        let logins: Logins = serde_json::from_value(text).unwrap();
        let of = |name: &str| logins.of(&name.parse().unwrap());
        let credentials = of("registry.example:5000/web:1").unwrap().unwrap();
        assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("ada", "se:cret"));
        for other in ["registry.example/web", "empty.example/web"] {
            assert!(of(other).unwrap().is_none(), "{other}");
        }
        assert!(of("web").unwrap_err().to_string().contains("cannot be read"));
    }
}
