//! Image layouts as uploads: tars with `oci-layout`, `index.json` and `blobs/sha256/<hex>`.

mod images;
mod pack;
mod pack_error;
mod unpack;

use std::collections::BTreeMap;

use margo::{ApplicationDescription, ComponentName, DeploymentProfile};
use serde::{Deserialize, Serialize};

pub use images::{platform_of, write_layout};
pub use pack::{Packed, missing_images, pack, pack_with};
pub use pack_error::PackError;
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
    profile.runtime() == Some("wasm")
}

/// Returns the values with which a component's Compose file is checked before anybody has chosen any: the default of each
/// parameter, and `1` for one without, which can stand where a number and where a text has to.
pub fn assumed_values(description: &ApplicationDescription, component: &ComponentName) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for parameter in description.parameters.values() {
        let value = parameter.value.as_ref().map_or_else(|| "1".to_owned(), margo::ParameterValue::to_env);
        for target in parameter.targets.iter().filter(|target| target.components.contains(component)) {
            values.insert(target.pointer.clone(), value.clone());
        }
    }
    values
}
