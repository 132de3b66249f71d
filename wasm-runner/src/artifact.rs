//! From the component's file to native code.
//!
//! Compiled components are kept in the node's cache, as `<sha256 of the component>-<hash of the engine>.cwasm` with the
//! file's own sha256 beside it. A component is compiled in a child process (see `compile`).

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use margo::Digest;
use runtime_wasm::spec::Spec;
use sha2::{Digest as _, Sha256};
use wasmtime::{Config, Engine, component::Component};

use crate::{
    compile,
    start::{Channel, StartError},
};

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
    let cached = Cached::of(engine, spec);
    if !cached.is_whole()? {
        compile::in_child(&spec.compiling, spec_file, agent)?;
        ensure!(cached.is_whole()?, "{} is not what was compiled", cached.code.display());
    }
    cached.load(engine)
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
    Cached::of(&engine, spec).store(&code)
}

fn verify(found: Digest, spec: &Spec) -> Result<(), StartError> {
    if found == spec.artifact_digest {
        return Ok(());
    }
    let wanted = spec.artifact_digest;
    Err(StartError::Artifact(format!("{} is {found}, but {wanted} was ordered", spec.artifact.display())))
}

struct Cached {
    code: PathBuf,
    digest: PathBuf,
}

impl Cached {
    fn of(engine: &Engine, spec: &Spec) -> Self {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let name = format!("{}-{:016x}", spec.artifact_digest.hex(), hasher.finish());
        let code = spec.cache.join(format!("{name}.cwasm"));
        Self { digest: spec.cache.join(format!("{name}.cwasm.sha256")), code }
    }

    /// Whether both files are there and agree. After a power cut one may be missing or short.
    fn is_whole(&self) -> anyhow::Result<bool> {
        let whole = || io::Result::Ok(fs::read_to_string(&self.digest)? == digest_of(&self.code)?.to_string());
        match whole() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("reading {}", self.code.display())),
            Ok(whole) => Ok(whole),
        }
    }

    /// Writes both files. Other runners of the node may compile the same component and write the same files now.
    fn store(&self, code: &[u8]) -> anyhow::Result<()> {
        let write = |path: &Path, content: &[u8]| {
            disk::write_private_shared(path, content).with_context(|| format!("writing {}", path.display()))
        };
        write(&self.code, code)?;
        write(&self.digest, Digest::of(code).to_string().as_bytes())
    }

    #[expect(
        unsafe_code,
        reason = "wasmtime trusts code that it compiled earlier; `load` has just compared its sha256"
    )]
    fn load(&self, engine: &Engine) -> anyhow::Result<Component> {
        // SAFETY: The file comes from `Engine::precompile_component` in `compile`: only this node's user can write to
        // the cache, the sha256 beside the file says that it is whole, and wasmtime itself refuses other engines' code.
        // It is never changed in place, only replaced by rename, so the pages mapped here stay as they are.
        let component = unsafe { Component::deserialize_file(engine, &self.code) };
        component.map_err(Into::into)
    }
}

/// Without reading the whole file into memory.
fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut file = fs::File::open(path)?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_sha256(sum.finalize().into())),
            length => sum.update(&buffer[..length]),
        }
    }
}
