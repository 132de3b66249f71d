//! The program `edgectl`; see the library.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    edgectl::run().await
}
