//! Ports that no workload may take.

use std::{fmt, ops::RangeInclusive, str::FromStr};

/// The ports of the platform's own servers on a node. A workload that took one while its server is away would be taken for
/// that server. Written as ports and ranges with commas between them, such as `4222,4323-4325`; an empty text reserves none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservedPorts(Vec<RangeInclusive<u16>>);

/// A text that names no ports.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} must be a port or two ports with - between them, the lower one first, such as 4222 or 4323-4325")]
pub struct InvalidPorts(String);

impl ReservedPorts {
    /// Tells whether no workload may take this port.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// Reserves this port as well.
    pub fn add(&mut self, port: u16) {
        self.0.push(port..=port);
    }
}

impl FromStr for ReservedPorts {
    type Err = InvalidPorts;

    fn from_str(text: &str) -> Result<Self, InvalidPorts> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first <= last && first > 0).then_some(first..=last)
        };
        let parts = text.split(',').filter(|_| !text.trim().is_empty());
        let ranges = parts.map(|part| range(part).ok_or_else(|| InvalidPorts(part.to_owned())));
        ranges.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for ReservedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.iter().map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        });
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_reserved_and_what_is_neither_is_refused() {
        let ports: ReservedPorts = "4222, 4323-4325".parse().unwrap();
        let reserved: Vec<_> = (4000..5000).filter(|port| ports.contains(*port)).collect();
        assert_eq!(reserved, [4222, 4323, 4324, 4325]);
        assert_eq!(ports.to_string().parse::<ReservedPorts>().unwrap(), ports);
        assert!(!"".parse::<ReservedPorts>().unwrap().contains(4222));
        for bad in ["http", "1,,2", "70000", "0", "4325-4323", "1-2-3", "-5"] {
            assert!(bad.parse::<ReservedPorts>().is_err(), "{bad}");
        }
    }
}
