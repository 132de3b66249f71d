//! The real program: alone, and supervised by `runtime-wasm`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alone;
mod cache;
mod commands;
mod compiling;
mod component;
mod data;
mod egress;
mod peers;
mod program;
mod supervised;
mod takeover;

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU8, Ordering},
};

/// The program under test.
const RUNNER: &str = env!("CARGO_BIN_EXE_wasm-runner");

/// A loopback address of this test's own: no other test has it, so every port on it is free.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn get(url: &str) -> Result<(u16, String), reqwest::Error> {
    let response = reqwest::get(url).await?;
    Ok((response.status().as_u16(), response.text().await?))
}
