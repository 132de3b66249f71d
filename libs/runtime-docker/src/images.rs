//! Images: out of the content store into the engine, and out of the engine when no workload needs them any more.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
};

use bollard::{
    Docker,
    models::ImageInspect,
    query_parameters::{ImportImageOptions, RemoveImageOptions},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use margo::{Digest, LockedImage};
use oci::{ArtifactManifest, ContentStore};
use runtime::RuntimeError;
use serde::Deserialize;
use serde_json::json;
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use crate::engine::{failed, is_absent, is_conflict};

/// Pieces of an archive on their way to the engine, 64 KiB each: enough that reading and sending overlap.
const PIECES: usize = 4;

/// The largest config of an image: Docker reads no larger one.
const MAX_CONFIG: u64 = 4 << 20;

/// Returns the name that an image has in the engine. It is made from the image's id, so that no registry and no other
/// image is meant by it.
pub fn local_name(id: &Digest) -> String {
    format!("edgewright.local/image:{}", id.hex())
}

/// The platforms of this host as locks name them, the best first.
pub fn platforms() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["linux/amd64"],
        "aarch64" => &["linux/arm64", "linux/arm64/v8"],
        "arm" => &["linux/arm/v7", "linux/arm/v6", "linux/arm"],
        "riscv64" => &["linux/riscv64"],
        _ => &[],
    }
}

/// What is read of the config of an image.
#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// Tells whether the engine has the image under its local name. The engine's own id of an image is that of the config, or
/// with the image store of containerd that of a manifest; then the layers tell, as far as `config` is at hand.
pub async fn is_loaded(docker: &Docker, content: &ContentStore, image: &LockedImage) -> Result<bool, RuntimeError> {
    let inspected = match docker.inspect_image(&local_name(&image.id)).await {
        Ok(inspected) => inspected,
        Err(error) if is_absent(&error) => return Ok(false),
        Err(error) => return Err(failed("looking for an image")(error)),
    };
    if inspected.id.as_deref() == Some(image.id.to_string().as_str()) {
        return Ok(true);
    }
    let (content, id) = (content.clone(), image.id);
    let config = disk::blocking(move || read_config(&content, &id)).await;
    Ok(config.is_ok_and(|config| has_layers(&inspected, &config)))
}

fn has_layers(inspected: &ImageInspect, config: &Config) -> bool {
    let layers = inspected.root_fs.as_ref().and_then(|layers| layers.layers.as_ref());
    layers.is_some_and(|layers| *layers == config.rootfs.diff_ids)
}

fn read_config(content: &ContentStore, id: &Digest) -> io::Result<Config> {
    let path = content.path(id);
    if path.metadata()?.len() > MAX_CONFIG {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the config of an image is too long"));
    }
    let bytes = std::fs::read(&path)?;
    if Digest::of(&bytes) != *id {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the config of an image was damaged on the disk"));
    }
    serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Loads an image into the engine under its local name, and finds out that it is that image.
pub async fn load(docker: &Docker, content: &ContentStore, image: &LockedImage) -> Result<(), RuntimeError> {
    let manifest = content.manifest(&image.manifest).await;
    let manifest = manifest.map_err(|error| RuntimeError::Io {
        attempt: format!("reading the manifest of image {}", image.id),
        source: io::Error::other(error),
    })?;
    if manifest.config.digest != image.id {
        let rule = format!(
            "the lock says that image {} is described by manifest {}, which names {}",
            image.id, image.manifest, manifest.config.digest
        );
        return Err(RuntimeError::Invalid(rule));
    }
    let (pieces, mut received) = mpsc::channel(PIECES);
    let writing = tokio::task::spawn_blocking({
        let (content, image) = (content.clone(), image.clone());
        move || write_archive(&content, &manifest, &image, Pieces(pieces))
    });
    let pieces = stream::poll_fn(move |context| received.poll_recv(context));
    let mut loading = std::pin::pin!(docker.import_image_stream(
        ImportImageOptions { quiet: true, ..Default::default() },
        pieces.map(Ok::<Bytes, io::Error>),
        None
    ));
    let mut refused = None;
    while let Some(told) = loading.next().await {
        match told {
            Ok(told) => refused = refused.or(told.error_detail.and_then(|detail| detail.message)),
            Err(error) => {
                // What could not be read of the content explains more than a request that ended early.
                let attempt = format!("loading image {}", image.id);
                return Err(match writing.await {
                    Ok(Err(source)) if source.kind() != io::ErrorKind::BrokenPipe => {
                        RuntimeError::Io { attempt, source }
                    }
                    // Read as a word of the engine it would be tried again for ever, as if the engine could not be reached.
                    _ => match error {
                        bollard::errors::Error::DockerStreamError { error: message } => {
                            RuntimeError::Failed { code: "image".to_owned(), message }
                        }
                        error => failed(attempt)(error),
                    },
                });
            }
        }
    }
    let written = writing.await.map_err(io::Error::other).flatten();
    written.map_err(|source| RuntimeError::Io { attempt: format!("reading image {}", image.id), source })?;
    if let Some(message) = refused {
        return Err(RuntimeError::Failed { code: "image".to_owned(), message });
    }
    if is_loaded(docker, content, image).await? {
        return Ok(());
    }
    let message = format!("Docker Engine took image {} and does not have it now", image.id);
    Err(RuntimeError::Failed { code: "image".to_owned(), message })
}

/// What became of an image that was to be removed.
pub enum Removal {
    Gone,
    /// A container uses it.
    Used,
}

/// Removes an image of ours, unless a container uses it. Where it has another name too, it loses ours.
pub async fn remove(docker: &Docker, name: &str) -> Result<Removal, RuntimeError> {
    match docker.remove_image(name, None::<RemoveImageOptions>, None).await {
        Ok(_) => Ok(Removal::Gone),
        Err(error) if is_absent(&error) => Ok(Removal::Gone),
        Err(error) if is_conflict(&error) => Ok(Removal::Used),
        Err(error) => Err(failed(format!("removing image {name}"))(error)),
    }
}

/// Writes the archive that `docker save` would write, which every version of Docker and podman loads.
fn write_archive(
    content: &ContentStore,
    manifest: &ArtifactManifest,
    image: &LockedImage,
    pieces: Pieces,
) -> io::Result<()> {
    let mut archive = Builder::new(BufWriter::with_capacity(64 << 10, pieces));
    let layer_name = |digest: &Digest| format!("{}/layer.tar", digest.hex());
    let layers: Vec<_> = manifest.layers.iter().map(|layer| layer_name(&layer.digest)).collect();
    let config_name = format!("{}.json", image.id.hex());
    let list = json!([{ "Config": config_name, "RepoTags": [local_name(&image.id)], "Layers": layers }]).to_string();
    archive.append_data(&mut header(list.len() as u64), "manifest.json", list.as_bytes())?;
    let mut written = std::collections::BTreeSet::new();
    let files = std::iter::once((config_name, &manifest.config))
        .chain(manifest.layers.iter().map(|layer| (layer_name(&layer.digest), layer)));
    for (name, blob) in files {
        // An image may have the same layer twice.
        if written.insert(blob.digest) {
            let file = File::open(content.path(&blob.digest))?;
            let size = file.metadata()?.len();
            archive.append_data(&mut header(size), name, file)?;
        }
    }
    archive.into_inner()?.flush()
}

fn header(size: u64) -> Header {
    compose::plain_header(EntryType::Regular, 0o644, size)
}

/// Hands what is written to a request that is being sent.
struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
