//! A project whose values are all known and checked: what may stand in it, and how it is written for `docker compose`.
//!
//! What is allowed is a closed set. A key that is not in it is refused, because a Compose file can otherwise hand out the
//! host: by its folders, devices, namespaces and rights, by other projects' containers, networks and volumes, by a program
//! that Compose would start on the host, or by images that nobody fixed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use margo::Digest;
use serde_json::{Map, Value, json};

use crate::{
    error::ComposeError,
    ports::Published,
    service::{self, Service},
};

/// More services than any application for one node has.
const MAX_SERVICES: usize = 64;

/// A Compose project that may run.
#[derive(Clone, Debug, PartialEq)]
pub struct Project {
    /// The services by name.
    pub services: BTreeMap<String, Service>,
    networks: Map<String, Value>,
    volumes: Map<String, Value>,
    configs: Map<String, Value>,
}

/// What the node decides about a project.
pub struct Ours<'a> {
    /// The names that images have in the engine, by the names in the file.
    pub images: &'a BTreeMap<String, String>,
    /// Labels for every container, network and volume.
    pub labels: &'a BTreeMap<String, String>,
    /// The label that tells one revision of a service from another.
    pub revision: &'a str,
    /// The address on which ports are published when the file does not name one.
    pub address: IpAddr,
    /// Variables that every container gets, unless the file sets one of that name.
    pub environment: &'a BTreeMap<String, String>,
    /// A folder of the host that every container sees without being able to change it, and where the containers see it.
    pub folder: Option<(&'a Path, &'a str)>,
    /// The digest of the archive, for services that read its files.
    pub archive: Digest,
}

/// Checks a project whose variables were replaced.
pub(crate) fn check(
    mut root: Map<String, Value>,
    variables: &BTreeMap<String, String>,
    files: &BTreeSet<String>,
) -> Result<Project, ComposeError> {
    // The name is the platform's to give, and the version says nothing any more.
    root.remove("name");
    root.remove("version");
    let services = take_map(&mut root, "services")?;
    let networks = take_map(&mut root, "networks")?;
    let volumes = take_map(&mut root, "volumes")?;
    let configs = take_map(&mut root, "configs")?;
    if let Some(key) = root.keys().next() {
        let rule = match key.as_str() {
            "include" => "other files cannot be included: the archive holds one Compose file",
            "secrets" => "secrets of Compose are not allowed: give the value as a parameter (APP-04)",
            _ => "is not allowed here",
        };
        return Err(ComposeError::new(key, rule));
    }
    if services.is_empty() || services.len() > MAX_SERVICES {
        return Err(ComposeError::new("services", format!("1 to {MAX_SERVICES} services")));
    }
    for (name, network) in &networks {
        check_shared("networks", name, network, &["internal", "enable_ipv4", "enable_ipv6"], "bridge")?;
    }
    for (name, volume) in &volumes {
        check_shared("volumes", name, volume, &[], "local")?;
    }
    for (name, config) in &configs {
        check_config(name, config, files)?;
    }
    let about = service::About { volumes: &volumes, networks: &networks, configs: &configs, variables, files };
    let mut checked = BTreeMap::new();
    for (name, value) in services {
        is_name("services", &name)?;
        checked.insert(name.clone(), service::check(&name, value, &about)?);
    }
    let awaited: BTreeSet<String> = checked.values().flat_map(|service| service::awaited(&service.rest)).collect();
    for (name, service) in &mut checked {
        service.is_job |= awaited.contains(name);
    }
    Ok(Project { services: checked, networks, volumes, configs })
}

fn take_map(root: &mut Map<String, Value>, key: &str) -> Result<Map<String, Value>, ComposeError> {
    match root.remove(key) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(map)) => Ok(map),
        Some(_) => Err(ComposeError::new(key, "must be a map")),
    }
}

fn is_name(kind: &str, name: &str) -> Result<(), ComposeError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if !(1..=63).contains(&name.len()) || !name.bytes().all(allowed) || name.starts_with(['.', '-']) {
        let shown: String = name.chars().take(63).collect();
        return Err(ComposeError::new(kind, format!("{shown:?}: a name is 1 to 63 of a-z, A-Z, 0-9, _ . -")));
    }
    Ok(())
}

/// Checks a network or a volume: nothing of another project, and the driver that has no options.
fn check_shared(kind: &str, name: &str, value: &Value, allowed: &[&str], driver: &str) -> Result<(), ComposeError> {
    is_name(kind, name)?;
    let field = format!("{kind}.{name}");
    let map = match value {
        Value::Null => return Ok(()),
        Value::Object(map) => map,
        _ => return Err(ComposeError::new(field, "must be a map")),
    };
    for (key, value) in map {
        let field = format!("{field}.{key}");
        match key.as_str() {
            "driver" if value == driver => {}
            "driver" => return Err(ComposeError::new(field, format!("must be {driver}"))),
            "labels" => service::check_labels(&field, value)?,
            "external" if *value == Value::Bool(false) => {}
            "external" | "name" => {
                return Err(ComposeError::new(field, "is not allowed: it would reach what is not this application's"));
            }
            key if allowed.contains(&key) || key.starts_with("x-") => {}
            _ => return Err(ComposeError::new(field, "is not allowed here")),
        }
    }
    Ok(())
}

fn check_config(name: &str, value: &Value, files: &BTreeSet<String>) -> Result<(), ComposeError> {
    is_name("configs", name)?;
    let field = format!("configs.{name}");
    let map = value.as_object().ok_or_else(|| ComposeError::new(&field, "must be a map"))?;
    for (key, value) in map {
        match (key.as_str(), value) {
            ("content", Value::String(_)) => {}
            ("file", Value::String(path)) => service::check_file(&format!("{field}.file"), path, files)?,
            (key, _) if key.starts_with("x-") => {}
            _ => return Err(ComposeError::new(format!("{field}.{key}"), "a config has a file or its content")),
        }
    }
    if map.contains_key("content") == map.contains_key("file") {
        return Err(ComposeError::new(field, "a config has either a file or its content"));
    }
    Ok(())
}

impl Project {
    /// Returns the ports of the host that the project takes. Those that the engine chooses are not among them.
    pub fn ports(&self) -> BTreeSet<u16> {
        let ports = self.services.values().flat_map(|service| &service.ports);
        ports.filter_map(|port| port.host).flat_map(|(first, last)| first..=last).collect()
    }

    /// Returns the first port for which an address of the host was asked that is neither this one nor a loopback address.
    pub fn port_elsewhere(&self, address: IpAddr) -> Option<&Published> {
        let elsewhere = |port: &&Published| {
            port.address.is_some_and(|asked| asked != address && !asked.is_loopback() && !address.is_unspecified())
        };
        self.services.values().flat_map(|service| &service.ports).find(elsewhere)
    }

    /// Writes the file for `docker compose`, as JSON, which is YAML too, and returns it with the revision of each service.
    /// A service has the same revision as long as nothing about its containers changes. It panics when an image has no name
    /// in the engine, which is a mistake of the caller.
    pub fn render(&self, ours: &Ours<'_>) -> (String, BTreeMap<String, String>) {
        let mut services = Map::new();
        let mut revisions = BTreeMap::new();
        for (name, service) in &self.services {
            let mut value = service.rest.clone();
            value.insert("image".to_owned(), json!(ours.images[&service.image]));
            value.insert("pull_policy".to_owned(), json!("never"));
            if !service.ports.is_empty() {
                let port = |port: &Published| {
                    if port.is_single() { port.render(ours.address) } else { port.render_short(ours.address) }
                };
                value.insert("ports".to_owned(), service.ports.iter().map(port).collect());
            }
            // Without any, nothing is added: a service has another revision when anything is.
            if !ours.environment.is_empty()
                && let Value::Object(set) = value.entry("environment").or_insert_with(|| json!({}))
            {
                for (name, text) in ours.environment {
                    set.entry(name.clone()).or_insert_with(|| json!(text));
                }
            }
            if let Some((folder, place)) = ours.folder
                && let Value::Array(volumes) = value.entry("volumes").or_insert_with(|| json!([]))
            {
                volumes.push(json!({
                    "type": "bind", "source": folder.display().to_string(), "target": place, "read_only": true,
                    "bind": { "create_host_path": false },
                }));
            }
            // Without the agent, and after a reboot, the engine keeps up what is to run for ever.
            let restart = if service.is_job { "no" } else { "unless-stopped" };
            value.entry("restart").or_insert_with(|| json!(restart));
            // Otherwise the log of one container fills the disk.
            let logging = || json!({ "driver": "json-file", "options": { "max-size": "10m", "max-file": "3" } });
            value.entry("logging").or_insert_with(logging);
            let archive = service.reads_files.then_some(&ours.archive);
            let revision = Digest::of(format!("{} {archive:?}", json!(value)).as_bytes()).hex();
            let revision = revision[..32].to_owned();
            let own = [(ours.revision.to_owned(), revision.clone())];
            let mut labels = service::labels(value.get("labels"));
            labels.extend(ours.labels.clone().into_iter().chain(own));
            value.insert("labels".to_owned(), json!(labels));
            services.insert(name.clone(), Value::Object(value));
            revisions.insert(name.clone(), revision);
        }
        let labelled = |map: &Map<String, Value>| {
            let entry = |(name, value): (&String, &Value)| {
                let mut value = value.as_object().cloned().unwrap_or_default();
                let mut labels = service::labels(value.get("labels"));
                labels.extend(ours.labels.clone());
                value.insert("labels".to_owned(), json!(labels));
                (name.clone(), Value::Object(value))
            };
            Value::Object(map.iter().map(entry).collect())
        };
        let mut networks = self.networks.clone();
        networks.entry("default").or_insert(Value::Null);
        let file = json!({
            "services": services,
            "networks": labelled(&networks),
            "volumes": labelled(&self.volumes),
            "configs": self.configs,
        });
        (service::literal_values(&file).to_string(), revisions)
    }
}

#[cfg(test)]
#[path = "project_tests.rs"]
mod tests;
