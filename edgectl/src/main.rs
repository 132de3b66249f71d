//! The program `edgectl`; see the library.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    disk::keep_files_private();
    edgectl::run().await
}
