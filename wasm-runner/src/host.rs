//! What an instance of the component reaches: its environment, its log, the clock, and what its package asks for, which is
//! a data folder and destinations, and the node's collector of telemetry. Everything else of WASI 0.2 is there and refuses.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use runtime::CERTIFICATE_FOLDER;
use runtime_wasm::spec::{DATA, DATA_IN_COMPONENT, Spec};
use wasmtime::{
    Engine, Store,
    component::{Linker, ResourceTable},
};
use wasmtime_wasi::{
    FsPerms, WasiCtx, WasiCtxView, WasiView, filesystem::WasiFilesystemView, sockets::WasiSocketsView,
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::{
    data::{Counted, DataFolder},
    egress::{Egress, Names},
    limits::{Memory, Share},
    log::Log,
};

/// Bytes of one list of headers: as much as common servers accept.
const MAX_FIELDS: usize = 16 << 10;

/// What the instances of one component are made with.
pub struct Host {
    environment: Vec<(String, String)>,
    memory: Memory,
    log: Log,
    data: Option<Arc<DataFolder>>,
    certificate: Option<PathBuf>,
    egress: Egress,
}

/// What one instance of the component reaches.
pub struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    egress: Egress,
    data: Option<Arc<DataFolder>>,
    share: Share,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.egress }
    }
}

/// Everything that a component may import.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    use wasmtime_wasi::p2::bindings::{filesystem, sockets};
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    // In the place of what wasmtime has: it counts no bytes and resolves any name.
    linker.allow_shadowing(true);
    filesystem::types::add_to_linker::<State, crate::data::Files>(&mut linker, |state| Counted {
        data: state.data.clone(),
        files: state.filesystem(),
    })?;
    sockets::ip_name_lookup::add_to_linker::<State, crate::egress::Lookups>(&mut linker, |state| Names {
        egress: state.egress.clone(),
        sockets: state.sockets(),
    })?;
    linker.allow_shadowing(false);
    Ok(linker)
}

impl Host {
    /// Makes the data folder, if the component has one and there is none yet.
    pub fn new(spec: &Spec, log: Log) -> anyhow::Result<Self> {
        let data = spec.data.map(|size| {
            let path = spec.folder.join(DATA);
            DataFolder::open(path.clone(), size.bytes()).with_context(|| format!("opening {}", path.display()))
        });
        Ok(Self {
            environment: spec.environment.clone().into_iter().collect(),
            memory: Memory::new(spec.memory_limit),
            log,
            data: data.transpose()?.map(Arc::new),
            certificate: spec.collector.as_ref().and_then(|collector| collector.certificate.clone()),
            egress: Egress::new(spec.egress.clone(), spec.collector.clone()),
        })
    }

    /// Adds to the component's log.
    pub fn log(&self, text: &str) {
        self.log.write(text.as_bytes());
    }

    /// Makes the store of a fresh instance, which may hold so many of the runner's own things at once: bodies, streams, files,
    /// lists of headers. They take the runner's memory, which no limit of the component counts.
    pub fn store(&self, engine: &Engine, handles: usize) -> wasmtime::Result<Store<State>> {
        let (mut table, mut http) = (ResourceTable::new(), WasiHttpCtx::new());
        table.set_max_capacity(handles);
        http.set_field_size_limit(MAX_FIELDS);
        let mut wasi = WasiCtx::builder();
        wasi.envs(&self.environment).stdout(self.log.clone()).stderr(self.log.clone());
        self.egress.allow(&mut wasi);
        if let Some(data) = &self.data {
            wasi.preopened_dir(data.path(), DATA_IN_COMPONENT, FsPerms::ReadWrite)?;
        }
        if let Some(folder) = &self.certificate {
            wasi.preopened_dir(folder, CERTIFICATE_FOLDER, FsPerms::ReadOnly)?;
        }
        let state = State {
            table,
            wasi: wasi.build(),
            http,
            egress: self.egress.clone(),
            data: self.data.clone(),
            share: self.memory.share(),
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| &mut state.share);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        Ok(store)
    }
}
