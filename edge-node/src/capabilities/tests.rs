use bus::proto::ReportAnswer;
use runtime_null::NullRuntime;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use super::*;

const WASM: (&str, ProfileType) = ("wasm", ProfileType::Custom);

fn root(files: &[(&str, &str)]) -> (TempDir, Look) {
    let folder = TempDir::new().unwrap();
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let look = Look { root: folder.path().to_owned(), data: folder.path().to_owned(), has_collector: false };
    (folder, look)
}

fn manifest(look: &Look, runtimes: &[(&'static str, ProfileType)]) -> serde_json::Value {
    serde_json::to_value(look.manifest(&"plant/press".parse().unwrap(), runtimes)).unwrap()
}

#[test]
fn dev_10_a_host_reports_what_is_there() {
    let (_folder, look) = root(&[
        ("proc/meminfo", "MemTotal:        4096000 kB\nMemFree: 1 kB\n"),
        ("sys/class/dmi/id/sys_vendor", "ACME\n"),
        ("sys/class/dmi/id/product_name", "Box 7\n"),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("sys/class/net/lo/type", "772\n"),
        ("sys/class/net/docker0/type", "1\n"),
        ("sys/class/net/eth0/type", "1\n"),
        ("sys/class/net/eth0/device/vendor", "0x8086\n"),
        ("sys/class/net/wlan0/type", "1\n"),
        ("sys/class/net/wlan0/device/vendor", "0x8086\n"),
        ("sys/class/net/wlan0/phy80211/index", "0\n"),
        ("sys/class/net/wwan0/type", "1\n"),
        ("sys/class/net/wwan0/device/vendor", "0x8086\n"),
        ("sys/class/net/wwan0/uevent", "DEVTYPE=wwan\n"),
        ("sys/class/net/can0/type", "280\n"),
        ("sys/class/net/can0/device/vendor", "0x8086\n"),
        ("sys/class/drm/card0-HDMI-A-1/status", "connected\n"),
    ]);
    let found = manifest(&look, &[WASM]);
    let properties = &found["properties"];
    assert_eq!(properties["id"], "plant/press");
    assert_eq!((&properties["vendor"], &properties["modelNumber"]), (&json!("ACME"), &json!("Box 7")));
    assert_eq!(properties["memory"], "4000Mi");
    let interfaces: Vec<_> = properties["interfaces"].as_array().unwrap().iter().map(|it| &it["type"]).collect();
    assert_eq!(interfaces, ["canbus", "cellular", "ethernet", "wifi"]);
    assert_eq!(properties["peripherals"], json!([]));
    assert_eq!(properties["supportedRuntimes"], json!(["custom"]));
    assert_eq!(properties["supportedDeploymentTypes"], json!(["custom"]));
    assert_eq!(properties["otelCollector"], false);
    assert!(properties["cpus"][0]["cores"].as_u64().unwrap() > 0);
    assert!(properties["storage"].as_str().unwrap().strip_suffix("Mi").unwrap().parse::<u64>().unwrap() > 0);
}

#[test]
fn dev_12_a_custom_runtime_has_a_label_to_be_matched_by() {
    let (_folder, look) = root(&[]);
    assert_eq!(manifest(&look, &[WASM])["labels"], json!({ "edgewright.dev/runtime-wasm": "true" }));
}

#[test]
fn dev_11_a_device_that_runs_nothing_omits_what_hosts_report() {
    let (_folder, look) = root(&[]);
    let found = manifest(&look, &[]);
    assert_eq!(found["properties"].as_object().unwrap().len(), 4);
    assert_eq!(found["labels"], json!({}));
}

#[test]
fn the_id_of_the_machine_stays_on_the_machine() {
    let id = "0123456789abcdef0123456789abcdef";
    let (_folder, look) = root(&[("etc/machine-id", id)]);
    let serial = manifest(&look, &[WASM])["properties"]["serialNumber"].as_str().unwrap().to_owned();
    assert_eq!(serial.len(), 16);
    assert!(!id.contains(&serial));
    assert_eq!(manifest(&look, &[WASM])["properties"]["serialNumber"], serial);
}

#[test]
fn this_machine_has_memory() {
    let look = Look { root: "/".into(), data: "/".into(), has_collector: true };
    assert_ne!(manifest(&look, &[WASM])["properties"]["memory"], "0Mi");
    assert_eq!(manifest(&look, &[WASM])["properties"]["otelCollector"], true);
}

#[tokio::test(start_paused = true)]
async fn dev_09_capabilities_are_told_again_whenever_a_runtime_goes_or_comes_and_not_without_a_change() {
    let (folder, look) = root(&[]);
    let journal = Arc::new(Journal::open(&folder.path().join("journal")).unwrap());
    let runtime = Arc::new(NullRuntime::default());
    let (describes, mut device) = watch::channel(None);
    let (shutdown, runtimes) = (CancellationToken::new(), vec![runtime.clone() as Arc<dyn Runtime>]);
    let running = run(look, "plant/press".parse().unwrap(), runtimes, journal.clone(), describes, shutdown.clone());
    let running = tokio::spawn(running);
    // The types of deployments that the next report to the site tells of, if it tells of capabilities.
    let told = || {
        let draft = journal.draft("stream").unwrap();
        let stored = ReportAnswer { stored: true, state_stream: "stream".to_owned(), ..ReportAnswer::default() };
        journal.settle(&draft, &stored);
        let manifest = draft.request.capabilities?.document;
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        Some(manifest["properties"]["supportedDeploymentTypes"].clone())
    };
    device.changed().await.unwrap();
    assert_eq!(told(), Some(json!(["custom"])));
    for (reason, types) in [(Some("its engine is away"), Value::Null), (None, json!(["custom"]))] {
        sleep(5 * LOOK_AGAIN).await;
        assert_eq!(told(), None, "nothing has changed");
        runtime.set_unusable(reason);
        device.changed().await.unwrap();
        assert_eq!(told(), Some(types));
    }
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
