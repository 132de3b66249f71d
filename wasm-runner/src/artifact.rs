//! From the component's file to native code.
//!
//! Compiled components are kept in the node's cache, as `<sha256 of the component>-<hash of the engine>.cwasm`, where the hash
//! covers wasmtime's version, its settings and the processor. What is in such a file runs as native code, outside the sandbox,
//! so it is loaded only when this node made it: beside it lies a MAC over its name and its bytes, under a key that lies outside
//! the cache. A file that somebody put there, changed, or took from another name is compiled anew. A component is
//! compiled in a child process (see `compile`). What no workload needs any more the agent removes (`libs/runtime-wasm`).

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Seek},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use hmac::{Hmac, KeyInit, Mac};
use margo::Digest;
use runtime_wasm::spec::Spec;
use sha2::{Digest as _, Sha256};
use wasmtime::{Config, Engine, component::Component};

use crate::{
    compile,
    start::{Channel, StartError},
};

/// As the agent makes it.
const KEY_LENGTH: usize = 32;

/// The engine that compiles and runs. Both have to be made the same way: the code checks for what the engine sets here.
pub fn engine() -> anyhow::Result<Engine> {
    let mut config = Config::new();
    // A request that computes for ever gives way to the others, and ends at its timeout.
    config.epoch_interruption(true);
    Ok(Engine::new(&config)?)
}

/// The verified component, compiled at the latest now. Compiling ends when `agent`, who waits for it, does.
pub fn load(engine: &Engine, spec: &Spec, spec_file: &Path, agent: Option<&Channel>) -> anyhow::Result<Component> {
    let found = digest_of(&spec.artifact)
        .map_err(|error| StartError::Artifact(format!("reading the component {}: {error}", spec.artifact.display())))?;
    verify(found, spec)?;
    let cached = Cached::of(engine, spec)?;
    if let Some(component) = cached.load(engine)? {
        return Ok(component);
    }
    compile::in_child(&spec.compiling, spec_file, agent)?;
    cached.load(engine)?.with_context(|| format!("{} is not what was compiled", cached.code.display()))
}

/// Compiles the component into the cache.
pub fn compile(spec: &Spec) -> anyhow::Result<()> {
    let component = fs::read(&spec.artifact).with_context(|| format!("reading {}", spec.artifact.display()))?;
    // These bytes are compiled, so these bytes are checked.
    verify(Digest::of(&component), spec)?;
    let engine = engine()?;
    let code = engine.precompile_component(&component).map_err(|error| {
        StartError::Artifact(format!("{} is no valid component: {error:#}", spec.artifact.display()))
    })?;
    Cached::of(&engine, spec)?.store(&code, spec)
}

fn verify(found: Digest, spec: &Spec) -> Result<(), StartError> {
    if found == spec.artifact_digest {
        return Ok(());
    }
    let wanted = spec.artifact_digest;
    Err(StartError::Artifact(format!("{} is {found}, but {wanted} was ordered", spec.artifact.display())))
}

struct Cached {
    name: String,
    code: PathBuf,
    mac: PathBuf,
    key: Vec<u8>,
}

impl Cached {
    fn of(engine: &Engine, spec: &Spec) -> anyhow::Result<Self> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let name = format!("{}-{:016x}.cwasm", spec.artifact_digest.hex(), hasher.finish());
        let key = fs::read(&spec.cache_key).with_context(|| format!("reading {}", spec.cache_key.display()))?;
        // A short key could be guessed.
        ensure!(key.len() == KEY_LENGTH, "{} has not {KEY_LENGTH} bytes", spec.cache_key.display());
        let (code, mac) = (spec.cache.join(&name), spec.cache.join(format!("{name}.mac")));
        Ok(Self { name, code, mac, key })
    }

    /// Begins the MAC of a file of this name.
    fn begin(&self) -> anyhow::Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).context("taking the key of the cache")?;
        // The end of the name is fixed, so no name and code can be read as another name and code.
        mac.update(self.name.as_bytes());
        Ok(mac)
    }

    /// Loads the code, if it is there and this node made it. After a power cut a file may be missing or short.
    fn load(&self, engine: &Engine) -> anyhow::Result<Option<Component>> {
        let reading = || format!("reading {}", self.code.display());
        let opened = || io::Result::Ok((disk::read_optional(&self.mac)?, fs::File::open(&self.code)?));
        let (wanted, mut code) = match opened() {
            Ok((Some(mac), code)) => (mac, code),
            Ok((None, _)) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(reading),
        };
        let mut mac = self.begin()?;
        for_each_part(&mut code, |part| mac.update(part)).with_context(reading)?;
        if mac.verify_slice(&wanted).is_err() {
            return Ok(None);
        }
        code.rewind().with_context(reading)?;
        map(engine, &code).map(Some)
    }

    /// Writes both files. Other runners of the node may compile the same component and write the same files now.
    fn store(&self, code: &[u8], spec: &Spec) -> anyhow::Result<()> {
        let write = |path: &Path, content: &[u8]| {
            disk::write_private_shared(path, content).with_context(|| format!("writing {}", path.display()))
        };
        let mut mac = self.begin()?;
        mac.update(code);
        write(&self.code, code)?;
        write(&self.mac, mac.finalize().into_bytes().as_slice())?;
        self.remove_older(&spec.cache).with_context(|| format!("removing old code from {}", spec.cache.display()))
    }

    /// Removes what another version of this program, or another processor, had compiled of the same component. A runner that has
    /// loaded it keeps it until it ends.
    fn remove_older(&self, cache: &Path) -> io::Result<()> {
        let (component, _) = self.name.split_once('-').unwrap_or_default();
        for entry in fs::read_dir(cache)? {
            let name = entry?.file_name();
            let text = name.to_str().unwrap_or_default();
            let is_of_component = text.split_once('-').is_some_and(|(of, _)| of == component);
            if is_of_component && !text.starts_with(&self.name) {
                disk::remove_if_there(&cache.join(&name))?;
            }
        }
        Ok(())
    }
}

#[expect(
    unsafe_code,
    reason = "wasmtime trusts code that it compiled earlier; `load` has just checked that this node did"
)]
fn map(engine: &Engine, code: &fs::File) -> anyhow::Result<Component> {
    // By the descriptor and not by the name, where another file may lie by now.
    let path = format!("/proc/self/fd/{}", code.as_raw_fd());
    // SAFETY: The file comes from `Engine::precompile_component` in `compile`, as its MAC says, and wasmtime itself refuses
    // other engines' code. This node's user alone can write to it, and never changes it in place, it only puts another
    // one in its place, so the pages mapped here stay as they are.
    let component = unsafe { Component::deserialize_file(engine, path) };
    component.map_err(Into::into)
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut sum = Sha256::new();
    for_each_part(&mut fs::File::open(path)?, |part| sum.update(part))?;
    Ok(Digest::from_sha256(sum.finalize().into()))
}

/// Without reading the whole file into memory.
fn for_each_part(file: &mut fs::File, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => take(&buffer[..length]),
        }
    }
}
