//! Image layouts as uploads: tars with `oci-layout`, `index.json` and `blobs/sha256/<hex>`.

mod pack;
mod unpack;

use margo::{DeploymentProfile, ProfileType};
use serde::{Deserialize, Serialize};

pub use pack::{PackError, Packed, pack};
pub use unpack::{LayoutError, StagedLayout, unpack};

/// The name of the file that makes a folder an image layout.
const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
const VERSION: &str = "1.0.0";

#[derive(Serialize, Deserialize)]
struct Marker {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// Tells whether the components of this profile are WebAssembly, as an extension of the profile says.
pub fn is_wasm(profile: &DeploymentProfile) -> bool {
    let runtime = profile.extensions.get("x-edgewright-extensions").and_then(|ours| ours.get("runtime"));
    profile.kind == ProfileType::Custom && runtime.is_some_and(|runtime| runtime == "wasm")
}
