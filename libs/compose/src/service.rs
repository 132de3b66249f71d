//! What one service may say.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::{error::ComposeError, interpolate::literal, ports::Published};

/// More containers of one service than one node is for.
const MAX_REPLICAS: u64 = 32;

/// The rights that Docker gives every container by itself. One that has dropped all of them may ask for these again.
const CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Keys whose values concern the container alone. What they mean, Compose checks.
const HARMLESS: [&str; 39] = [
    "attach",
    "cap_drop",
    "command",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_shares",
    "cpus",
    "cpuset",
    "depends_on",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "entrypoint",
    "expose",
    "extra_hosts",
    "group_add",
    "healthcheck",
    "hostname",
    "init",
    "links",
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "pids_limit",
    "read_only",
    "restart",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "working_dir",
];

/// Label keys that the platform and Compose read.
const OUR_LABELS: [&str; 2] = ["com.docker.compose", "dev.edgewright"];

/// One service of a project.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The image as the file names it.
    pub image: String,
    /// How many containers the service has.
    pub replicas: u32,
    /// Whether the service does something and ends: it says `restart: "no"` or `on-failure`, or another service waits for its
    /// success. The containers of every other service run for ever.
    pub is_job: bool,
    /// The ports that it publishes.
    pub ports: Vec<Published>,
    /// Whether it reads files of the archive.
    pub reads_files: bool,
    /// All that it says, without image and ports.
    pub(crate) rest: Map<String, Value>,
}

/// What else stands in the file and in the archive.
pub struct About<'a> {
    pub volumes: &'a Map<String, Value>,
    pub networks: &'a Map<String, Value>,
    pub configs: &'a Map<String, Value>,
    pub variables: &'a BTreeMap<String, String>,
    pub files: &'a BTreeSet<String>,
}

/// Checks one service.
pub fn check(name: &str, value: Value, about: &About<'_>) -> Result<Service, ComposeError> {
    let path = format!("services.{name}");
    let Value::Object(map) = value else { return Err(ComposeError::new(path, "must be a map")) };
    let mut service = Service {
        image: String::new(),
        replicas: 1,
        is_job: false,
        ports: Vec::new(),
        reads_files: false,
        rest: Map::new(),
    };
    for (key, value) in map {
        let field = format!("{path}.{key}");
        let refuse = |rule: &str| Err(ComposeError::new(&field, rule));
        match key.as_str() {
            _ if key.starts_with("x-") => continue,
            // Null is what an empty key means.
            _ if value.is_null() => continue,
            "image" => {
                service.image = value.as_str().unwrap_or_default().to_owned();
                continue;
            }
            // Images are never pulled, whatever the file says.
            "pull_policy" => continue,
            "ports" => {
                service.ports = Published::parse_all(&field, &value)?;
                continue;
            }
            "environment" => {
                let environment = environment(&field, &value, about.variables)?;
                service.rest.insert(key, json!(environment));
                continue;
            }
            "scale" => {
                service.replicas = replicas(&field, &value)?;
                // `deploy.replicas` and `scale` must not differ.
                service.rest.insert(key, json!(service.replicas));
                continue;
            }
            "deploy" => {
                if let Some(replicas) = deploy(&field, &value)? {
                    service.replicas = replicas;
                }
            }
            "env_file" => {
                env_file(&field, &value, about.files)?;
                service.reads_files = true;
            }
            "configs" => {
                configs(&field, &value, about.configs)?;
                service.reads_files = true;
            }
            "labels" => check_labels(&field, &value)?,
            "volumes" => volumes(&field, &value, about.volumes)?,
            "networks" => networks(&field, &value, about.networks)?,
            "network_mode" if value == "none" => {}
            "network_mode" => {
                return refuse("must be none: other modes would share a network that is not the project's");
            }
            "logging" => logging(&field, &value)?,
            "security_opt" => security_opt(&field, &value)?,
            "cap_add" => cap_add(&field, &value)?,
            "sysctls" => sysctls(&field, &value)?,
            "privileged" | "oom_kill_disable" if is_false(&value) => {}
            "ipc" if matches!(value.as_str(), Some("none" | "private" | "shareable")) => {}
            "cgroup" if value == "private" => {}
            "build" | "dockerfile_inline" => {
                return refuse("images come with the package: build them before it is made");
            }
            "platform" => return refuse("is not allowed: the platform of the node decides"),
            "container_name" => return refuse("is not allowed: two applications could want the same name"),
            "extends" => return refuse("is not allowed: the archive holds one Compose file"),
            "secrets" => return refuse("is not allowed: give the value as a parameter (APP-04)"),
            "profiles" => return refuse("is not allowed: every service of the archive runs"),
            "privileged"
            | "devices"
            | "device_cgroup_rules"
            | "gpus"
            | "pid"
            | "ipc"
            | "uts"
            | "userns_mode"
            | "cgroup"
            | "cgroup_parent"
            | "use_api_socket"
            | "volumes_from"
            | "external_links"
            | "provider"
            | "runtime"
            | "credential_spec"
            | "oom_kill_disable"
            | "oom_score_adj"
            | "isolation"
            | "storage_opt" => {
                return refuse("is not allowed: it would give the host, or what is not this application's, away");
            }
            key if HARMLESS.contains(&key) => {}
            _ => return refuse("is not allowed here"),
        }
        service.rest.insert(key, value);
    }
    let restart = service.rest.get("restart");
    service.is_job = restart.is_some_and(|restart| {
        is_false(restart) || restart.as_str().is_some_and(|text| text == "no" || text.starts_with("on-failure"))
    });
    if restart.is_some_and(is_false) {
        // YAML 1.1 reads a bare `no` as false, and Compose wants the word.
        service.rest.insert("restart".to_owned(), json!("no"));
    }
    Ok(service)
}

fn is_false(value: &Value) -> bool {
    *value == Value::Bool(false) || value == "false"
}

fn replicas(field: &str, value: &Value) -> Result<u32, ComposeError> {
    let count = value.as_u64().or_else(|| value.as_str()?.parse().ok()).filter(|count| *count <= MAX_REPLICAS);
    let count = count.and_then(|count| u32::try_from(count).ok());
    count.ok_or_else(|| ComposeError::new(field, format!("must be a number up to {MAX_REPLICAS}")))
}

/// Checks `deploy`, of which Compose uses limits and the number of containers; returns the latter.
fn deploy(field: &str, value: &Value) -> Result<Option<u32>, ComposeError> {
    let map = value.as_object().ok_or_else(|| ComposeError::new(field, "must be a map"))?;
    let mut count = None;
    for (key, value) in map {
        let field = format!("{field}.{key}");
        match key.as_str() {
            "replicas" => count = Some(replicas(&field, value)?),
            "mode" if value == "replicated" => {}
            "labels" => check_labels(&field, value)?,
            "update_config" | "rollback_config" | "endpoint_mode" => {}
            "resources" => {
                for (kind, amounts) in value.as_object().into_iter().flatten() {
                    for key in amounts.as_object().into_iter().flatten().map(|(key, _)| key) {
                        if !matches!(key.as_str(), "cpus" | "memory" | "pids") {
                            return Err(ComposeError::new(format!("{field}.{kind}.{key}"), "is not allowed here"));
                        }
                    }
                }
            }
            "restart_policy" => return Err(ComposeError::new(field, "is not known here: say restart at the service")),
            _ => return Err(ComposeError::new(field, "is not allowed here")),
        }
    }
    Ok(count)
}

/// Checks that a path is one of the archive's regular files (APP-04).
pub fn check_file(field: &str, path: &str, files: &BTreeSet<String>) -> Result<(), ComposeError> {
    if files.contains(path.strip_prefix("./").unwrap_or(path)) {
        return Ok(());
    }
    Err(ComposeError::new(field, format!("{path:?} must be the relative path of a regular file in the archive")))
}

fn env_file(field: &str, value: &Value, files: &BTreeSet<String>) -> Result<(), ComposeError> {
    match value {
        Value::String(path) => check_file(field, path, files),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(at, item)| env_file(&format!("{field}[{at}]"), item, files))
        }
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("path", Value::String(path)) => check_file(&format!("{field}.path"), path, files)?,
                    ("required" | "format", _) => {}
                    _ => return Err(ComposeError::new(format!("{field}.{key}"), "is not known here")),
                }
            }
            Ok(())
        }
        _ => Err(ComposeError::new(field, "must be the path of a file in the archive")),
    }
}

fn configs(field: &str, value: &Value, declared: &Map<String, Value>) -> Result<(), ComposeError> {
    let items = value.as_array().ok_or_else(|| ComposeError::new(field, "must be a list"))?;
    for (at, item) in items.iter().enumerate() {
        let name = item.as_str().or_else(|| item.get("source")?.as_str()).unwrap_or_default();
        if !declared.contains_key(name) {
            return Err(ComposeError::new(format!("{field}[{at}]"), format!("{name:?} is no config of the file")));
        }
    }
    Ok(())
}

/// Reads `environment` in both forms. A variable without a value gets that of the parameter with its name, or is not set.
fn environment(
    field: &str,
    value: &Value,
    variables: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ComposeError> {
    let wrong = |name: &str| ComposeError::new(format!("{field}.{name}"), "must be a text, a number or a boolean");
    let mut set = BTreeMap::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value.or_else(|| variables.get(name).cloned()) {
            set.insert(name.to_owned(), value);
        }
    };
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::Null => put(name, None),
                    Value::String(text) => put(name, Some(text.clone())),
                    Value::Number(_) | Value::Bool(_) => put(name, Some(value.to_string())),
                    _ => return Err(wrong(name)),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let text = item.as_str().ok_or_else(|| ComposeError::new(field, "must be a list of NAME=value"))?;
                match text.split_once('=') {
                    Some((name, value)) => put(name, Some(value.to_owned())),
                    None => put(text, None),
                }
            }
        }
        _ => return Err(ComposeError::new(field, "must be a map or a list")),
    }
    Ok(set)
}

fn volumes(field: &str, value: &Value, declared: &Map<String, Value>) -> Result<(), ComposeError> {
    let items = value.as_array().ok_or_else(|| ComposeError::new(field, "must be a list"))?;
    for (at, item) in items.iter().enumerate() {
        let field = format!("{field}[{at}]");
        match item {
            Value::String(text) => short_volume(&field, text, declared)?,
            Value::Object(map) => long_volume(&field, map, declared)?,
            _ => return Err(ComposeError::new(field, "must be a text or a map")),
        }
    }
    Ok(())
}

const NO_HOST_FOLDER: &str = "folders of the host are not allowed (APP-04): name a volume of the file";

fn short_volume(field: &str, text: &str, declared: &Map<String, Value>) -> Result<(), ComposeError> {
    let parts: Vec<_> = text.split(':').collect();
    let (source, target) = match parts[..] {
        [target] => (None, target),
        [source, target] | [source, target, _] => (Some(source), target),
        _ => return Err(ComposeError::new(field, "must be NAME:/path or NAME:/path:ro")),
    };
    if let Some(mode) = parts.get(2)
        && !mode.split(',').all(|word| matches!(word, "ro" | "rw" | "nocopy"))
    {
        return Err(ComposeError::new(field, format!("{mode:?} must be ro, rw or nocopy")));
    }
    if !target.starts_with('/') {
        return Err(ComposeError::new(field, "the place in the container must be an absolute path"));
    }
    match source {
        Some(source) if !declared.contains_key(source) => Err(ComposeError::new(field, NO_HOST_FOLDER)),
        _ => Ok(()),
    }
}

fn long_volume(field: &str, map: &Map<String, Value>, declared: &Map<String, Value>) -> Result<(), ComposeError> {
    let kind = map.get("type").and_then(Value::as_str);
    let source = map.get("source").and_then(Value::as_str);
    match (kind, source) {
        (Some("volume"), Some(source)) if declared.contains_key(source) => {}
        (Some("volume" | "tmpfs"), None) => {}
        _ => return Err(ComposeError::new(field, NO_HOST_FOLDER)),
    }
    let known = ["type", "source", "target", "read_only", "volume", "tmpfs"];
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        Some(other) => Err(ComposeError::new(format!("{field}.{other}"), "is not allowed here")),
        None => Ok(()),
    }
}

fn networks(field: &str, value: &Value, declared: &Map<String, Value>) -> Result<(), ComposeError> {
    let known = |name: &str| name == "default" || declared.contains_key(name);
    let unknown = |name: &str| ComposeError::new(field, format!("{name:?} is no network of the file"));
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| {
            let name = item.as_str().unwrap_or_default();
            if known(name) { Ok(()) } else { Err(unknown(name)) }
        }),
        Value::Object(map) => {
            for (name, options) in map {
                if !known(name) {
                    return Err(unknown(name));
                }
                for key in options.as_object().into_iter().flatten().map(|(key, _)| key) {
                    if !matches!(key.as_str(), "aliases" | "priority" | "gw_priority" | "interface_name") {
                        return Err(ComposeError::new(format!("{field}.{name}.{key}"), "is not allowed here"));
                    }
                }
            }
            Ok(())
        }
        _ => Err(ComposeError::new(field, "must be a list or a map")),
    }
}

/// Logs stay on the node, where they are read and do not fill the disk.
fn logging(field: &str, value: &Value) -> Result<(), ComposeError> {
    let driver = value.get("driver").and_then(Value::as_str).unwrap_or("json-file");
    if !matches!(driver, "json-file" | "local") {
        return Err(ComposeError::new(
            format!("{field}.driver"),
            "must be json-file or local: logs are read on the node",
        ));
    }
    let options = value.get("options").and_then(Value::as_object);
    let known = ["max-size", "max-file", "compress", "labels", "tag"];
    match options.and_then(|options| options.keys().find(|key| !known.contains(&key.as_str()))) {
        Some(other) => Err(ComposeError::new(format!("{field}.options.{other}"), "is not allowed here")),
        None => Ok(()),
    }
}

fn texts<'a>(field: &str, value: &'a Value) -> Result<Vec<&'a str>, ComposeError> {
    let wrong = || ComposeError::new(field, "must be a list of texts");
    value.as_array().ok_or_else(wrong)?.iter().map(|item| item.as_str().ok_or_else(wrong)).collect()
}

fn security_opt(field: &str, value: &Value) -> Result<(), ComposeError> {
    let allowed = ["no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"];
    match texts(field, value)?.into_iter().find(|option| !allowed.contains(option)) {
        Some(_) => Err(ComposeError::new(field, "only no-new-privileges:true is allowed")),
        None => Ok(()),
    }
}

fn cap_add(field: &str, value: &Value) -> Result<(), ComposeError> {
    let is_known = |name: &str| {
        let name = name.to_ascii_uppercase();
        CAPABILITIES.contains(&name.strip_prefix("CAP_").unwrap_or(&name))
    };
    match texts(field, value)?.into_iter().find(|name| !is_known(name)) {
        Some(name) => Err(ComposeError::new(field, format!("{name:?} is more than every container has"))),
        None => Ok(()),
    }
}

/// Those of the network have the container's own name space; of others the kernel does not always.
fn sysctls(field: &str, value: &Value) -> Result<(), ComposeError> {
    let keys: Vec<&str> = match value {
        Value::Object(map) => map.keys().map(String::as_str).collect(),
        other => texts(field, other)?,
    };
    match keys.into_iter().find(|key| !key.starts_with("net.")) {
        Some(key) => Err(ComposeError::new(field, format!("{key:?}: only those of net. are allowed"))),
        None => Ok(()),
    }
}

/// Checks labels in both forms: none may pass for one of the platform.
pub fn check_labels(field: &str, value: &Value) -> Result<(), ComposeError> {
    match labels(Some(value)).into_keys().find(|key| OUR_LABELS.iter().any(|ours| key.starts_with(ours))) {
        Some(key) => Err(ComposeError::new(field, format!("{key:?} is the platform's"))),
        None => Ok(()),
    }
}

/// Reads labels in both forms.
pub fn labels(value: Option<&Value>) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Some(Value::Object(map)) => map.iter().map(|(key, value)| (key.clone(), text(value))).collect(),
        Some(Value::Array(items)) => {
            let label = |item: &Value| {
                let item = text(item);
                let (key, value) = item.split_once('=').unwrap_or((&item, ""));
                (key.to_owned(), value.to_owned())
            };
            items.iter().map(label).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// Returns the services for whose success this one waits.
pub fn awaited(service: &Map<String, Value>) -> Vec<String> {
    let depends = service.get("depends_on").and_then(Value::as_object);
    let awaits = |(_, how): &(&String, &Value)| {
        how.get("condition").and_then(Value::as_str) == Some("service_completed_successfully")
    };
    depends.into_iter().flatten().filter(awaits).map(|(name, _)| name.clone()).collect()
}

/// Returns the same value with every text written so that Compose replaces nothing in it.
pub fn literal_values(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(literal(text)),
        Value::Array(items) => items.iter().map(literal_values).collect(),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.clone(), literal_values(value))).collect())
        }
        other => other.clone(),
    }
}
