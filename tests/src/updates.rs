//! What tests of updates share: versions of applications, and what the hub shows of one node.

use std::{fs, path::Path};

use serde_json::Value;
use testkit::{BusyboxImage, wait_for};

use crate::platform::{Platform, edgectl, sample};

impl Platform {
    /// Adds the sample application at another version, on another port or with another component.
    pub fn add_sample_version(&self, version: &str, port: u16, component: Option<&[u8]>) {
        let folder = self.folder().join(format!("hello-{version}"));
        let port = format!("port: {port}");
        write_description(&sample().join("margo.yaml"), &folder, version, &[("port: 8080", port.as_str())]);
        let to = folder.join("hello.wasm");
        match component {
            Some(bytes) => fs::write(to, bytes).expect("writing a component"),
            None => drop(fs::copy(sample().join("hello.wasm"), to).expect("copying a component")),
        }
        self.add_app(&folder);
    }

    /// Adds the example of containers at a version, with another Compose file. Its image `hello-compose:1.0.0` has these words as
    /// its page.
    pub fn add_compose_version(&self, version: &str, compose: &str, words: &str) {
        let folder = self.folder().join(format!("hello-compose-{version}"));
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hello-compose/margo.yaml");
        write_description(&example, &folder, version, &[]);
        fs::create_dir(folder.join("pages")).expect("making a folder");
        fs::write(folder.join("pages/compose.yaml"), compose).expect("writing a Compose file");
        BusyboxImage::new(words).write_layout(&folder.join("images/hello-compose"), "hello-compose:1.0.0");
        self.add_app(&folder);
    }

    fn add_app(&self, folder: &Path) {
        self.edgectl_ok(&["co", "add", "app", &folder.display().to_string()]);
    }

    /// The only deployment of a node, as the hub shows it, or what keeps the hub from showing it.
    pub fn deployment_on(&self, node: &str) -> Result<Value, String> {
        let listed = edgectl(&self.context(), &["co", "list", "deployments", "-o", "json"]);
        let all: Vec<Value> =
            serde_json::from_slice(&listed.stdout).map_err(|_| String::from_utf8_lossy(&listed.stderr).into_owned())?;
        Ok(all.into_iter().find(|deployment| deployment["node"] == node).unwrap_or_default())
    }

    /// Waits until a node says that the wanted revision failed for this reason, and that the one with this digest runs again.
    pub async fn undone(&self, node: &str, digest_before: &Value, code: &str) {
        wait_for("the update to be undone", async || {
            let found = self.deployment_on(node).map_err(Value::from)?;
            let failure = &found["actual"]["failure"];
            let is_undone = found["state"] == "failed" && failure["code"] == code && failure["runs"] == *digest_before;
            if is_undone && found["digest"] != *digest_before { Ok(()) } else { Err(found) }
        })
        .await;
    }
}

/// Makes the folder of an application, with the description of another one at another version.
fn write_description(description: &Path, folder: &Path, version: &str, changes: &[(&str, &str)]) {
    fs::create_dir(folder).expect("making a folder");
    let text = fs::read_to_string(description).expect("reading a description");
    let text = text
        .replace("version: 1.0.0", &format!("version: {version}"))
        .replace("revision: 1.0.0", &format!("revision: {version}"));
    let text = changes.iter().fold(text, |text, (from, to)| text.replace(from, to));
    fs::write(folder.join("margo.yaml"), text).expect("writing a description");
}
