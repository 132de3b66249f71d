//! Generates the messages of `proto/` with protox: no protoc has to be installed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = ["call", "desired", "report", "git"].map(|name| root.join(format!("edgewright/v1/{name}.proto")));
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(&files, [&root])?;
    prost_build::Config::new().btree_map(["."]).bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
