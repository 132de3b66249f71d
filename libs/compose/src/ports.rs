//! Ports that a service publishes, in the short and the long form of Compose.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::error::ComposeError;

/// One port, or one range of ports, that a service publishes on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The port in the container, or the first and last one: `80` or `8000-8010`.
    pub target: String,
    /// The ports of the host, the first and the last one; `None` when the engine chooses.
    pub host: Option<(u16, u16)>,
    /// The address of the host that the file asks for; `None` when the node decides.
    pub address: Option<IpAddr>,
    /// `tcp` or `udp`.
    pub protocol: String,
}

impl Published {
    /// Reads `services.<name>.ports`.
    pub(crate) fn parse_all(field: &str, value: &Value) -> Result<Vec<Self>, ComposeError> {
        let items = value.as_array().ok_or_else(|| ComposeError::new(field, "must be a list"))?;
        items.iter().enumerate().map(|(at, item)| Self::parse(&format!("{field}[{at}]"), item)).collect()
    }

    fn parse(field: &str, value: &Value) -> Result<Self, ComposeError> {
        match value {
            Value::String(text) => Self::short(text).ok_or_else(|| {
                ComposeError::new(field, format!("{text:?} must be [ADDRESS:][PORT:]PORT[/tcp|udp], ranges with -"))
            }),
            Value::Number(port) => Self::short(&port.to_string())
                .ok_or_else(|| ComposeError::new(field, format!("{port} must be a port, 1 to 65535"))),
            Value::Object(map) => Self::long(field, map),
            _ => Err(ComposeError::new(field, "must be a port or a map")),
        }
    }

    fn short(text: &str) -> Option<Self> {
        let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (rest, target) = rest.rsplit_once(':').map_or((None, rest), |(rest, target)| (Some(rest), target));
        let (address, host) = match rest {
            None => (None, ""),
            Some(rest) => match rest.rsplit_once(':') {
                Some((address, host)) => (Some(address), host),
                None => (None, rest),
            },
        };
        let address = match address {
            None | Some("") => None,
            Some(address) => Some(address.trim_matches(['[', ']']).parse().ok()?),
        };
        let host = if host.is_empty() { None } else { Some(range(host)?) };
        range(target)?;
        matches!(protocol, "tcp" | "udp").then(|| Self {
            target: target.to_owned(),
            host,
            address,
            protocol: protocol.to_owned(),
        })
    }

    fn long(field: &str, map: &Map<String, Value>) -> Result<Self, ComposeError> {
        let text = |key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(ComposeError::new(format!("{field}.{key}"), "must be a text or a number")),
        };
        let known = ["target", "published", "host_ip", "protocol", "mode", "name", "app_protocol"];
        if let Some(other) = map.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(ComposeError::new(format!("{field}.{other}"), "is not known here"));
        }
        let wrong = |key: &str| ComposeError::new(format!("{field}.{key}"), "is missing or not valid");
        let target = text("target")?.filter(|target| range(target).is_some()).ok_or_else(|| wrong("target"))?;
        let host = match text("published")? {
            None => None,
            Some(text) if text.is_empty() => None,
            Some(text) => Some(range(&text).ok_or_else(|| wrong("published"))?),
        };
        let address = match text("host_ip")? {
            None => None,
            Some(text) if text.is_empty() => None,
            Some(text) => Some(text.parse().map_err(|_| wrong("host_ip"))?),
        };
        let protocol = text("protocol")?.unwrap_or_else(|| "tcp".to_owned());
        if !matches!(protocol.as_str(), "tcp" | "udp") {
            return Err(wrong("protocol"));
        }
        Ok(Self { target, host, address, protocol })
    }

    /// Returns the long form, which asks for an address in any case.
    pub(crate) fn render(&self, default: IpAddr) -> Value {
        let mut port = json!({
            "mode": "ingress",
            "target": self.target.parse::<u16>().map_or_else(|_| json!(self.target), |port| json!(port)),
            "host_ip": self.address.unwrap_or(default).to_string(),
            "protocol": self.protocol,
        });
        if let Some((first, last)) = self.host {
            let published = if first == last { first.to_string() } else { format!("{first}-{last}") };
            port["published"] = json!(published);
        }
        port
    }

    /// Whether the target is one port. Compose takes ranges in the short form alone.
    pub(crate) fn is_single(&self) -> bool {
        !self.target.contains('-')
    }

    /// Returns the short form, for ranges.
    pub(crate) fn render_short(&self, default: IpAddr) -> Value {
        let address = match self.address.unwrap_or(default) {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let host = self.host.map_or_else(String::new, |(first, last)| format!("{first}-{last}"));
        json!(format!("{address}:{host}:{}/{}", self.target, self.protocol))
    }
}

/// Reads `80` or `8000-8010`: the first and the last port.
fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && !text.starts_with('+'));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_both_forms() {
        let parse = |value: Value| Published::parse("ports[0]", &value);
        for (value, host, address, protocol) in [
            (json!(80), None, None, "tcp"),
            (json!("80"), None, None, "tcp"),
            (json!("8080:80"), Some((8080, 8080)), None, "tcp"),
            (json!("127.0.0.1:8080:80/udp"), Some((8080, 8080)), Some("127.0.0.1"), "udp"),
            (json!("[::1]:8080:80"), Some((8080, 8080)), Some("::1"), "tcp"),
            (json!("127.0.0.1::80"), None, Some("127.0.0.1"), "tcp"),
            (json!({ "target": 80, "published": "8080-8082" }), Some((8080, 8082)), None, "tcp"),
            (json!({ "target": 80, "published": 8080, "host_ip": "::1" }), Some((8080, 8080)), Some("::1"), "tcp"),
        ] {
            let port = parse(value.clone()).unwrap();
            let address = address.map(|address| address.parse().unwrap());
            assert_eq!((port.host, port.address, port.protocol.as_str()), (host, address, protocol), "{value}");
        }
        for wrong in [
            json!("0:80"),
            json!("x:80"),
            json!("host:8080:80"),
            json!("8080:80/sctp"),
            json!("8082-8080:80"),
            json!(true),
            json!({ "target": 80, "publish": 1 }),
            json!({ "published": 1 }),
        ] {
            assert!(parse(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
