//! The caller of a request: on whose behalf it is made.

use std::fmt;

use margo::TenantName;
use serde::{Deserialize, Serialize};

use crate::ServiceName;

/// The longest name of a caller, in bytes. The name becomes the author of a commit and stands in a header.
const MAX_NAME: usize = 100;

/// The largest header that is read, in bytes. A name, a tenant and every role fit several times.
const MAX_HEADER: usize = 1_024;

/// What a caller may do. Every role may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A viewer reads, and changes nothing.
    Viewer,
    /// A deployer gives orders about assignments.
    Deployer,
    /// A publisher adds applications.
    Publisher,
    /// A supplier adds sites and nodes.
    Supplier,
    /// An admin may do everything.
    Admin,
}

impl Role {
    /// Every role, from the one that may do the least to the one that may do everything.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Deployer, Self::Publisher, Self::Supplier, Self::Admin];

    /// Tells whether a holder of this role may do what the other role is demanded for.
    pub fn covers(self, demanded: Self) -> bool {
        self == demanded || self == Self::Admin || demanded == Self::Viewer
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::Publisher => "publisher",
            Self::Supplier => "supplier",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == raw);
        found.ok_or_else(|| format!("{raw:?} is no role: viewer, deployer, publisher, supplier or admin"))
    }
}

/// The name breaks its rule. It holds the first 100 characters of the name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("caller {0:?} is not valid: 1 to 100 of A-Z, a-z, 0-9, ., _, @ and -")]
pub struct InvalidCallerName(String);

/// The "who" of an order: the name of a token, later of a person who logged in, or of a service of the platform.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallerName(String);

impl CallerName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether a service of the platform has this name, so that no person may have it.
    pub fn is_service(&self) -> bool {
        self.0.parse::<ServiceName>().is_ok()
    }
}

impl TryFrom<String> for CallerName {
    type Error = InvalidCallerName;

    fn try_from(raw: String) -> Result<Self, InvalidCallerName> {
        // The name becomes the author of a commit, and nothing in it may end a line of a log or a trailer.
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-');
        if !(1..=MAX_NAME).contains(&raw.len()) || !raw.bytes().all(allowed) {
            return Err(InvalidCallerName(raw.chars().take(MAX_NAME).collect()));
        }
        Ok(Self(raw))
    }
}

impl std::str::FromStr for CallerName {
    type Err = InvalidCallerName;

    fn from_str(raw: &str) -> Result<Self, InvalidCallerName> {
        raw.to_owned().try_into()
    }
}

impl From<CallerName> for String {
    fn from(name: CallerName) -> String {
        name.0
    }
}

impl From<ServiceName> for CallerName {
    fn from(service: ServiceName) -> Self {
        Self(service.as_str().to_owned())
    }
}

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whose request this is, as the service that admitted it says. It travels as one header of JSON, which only central
/// services can set: whoever may publish a request to a service belongs to the same trust zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// The organisation within which the request counts.
    pub tenant: TenantName,
    /// The name under which the caller is known, in the audit too.
    pub name: CallerName,
    /// The roles that the caller holds.
    pub roles: Vec<Role>,
}

impl Caller {
    /// Makes the caller for a service that asks on its own behalf. It holds no role: what a service may ask is in its
    /// bus permissions.
    pub fn service(tenant: TenantName, service: ServiceName) -> Self {
        Self { tenant, name: service.into(), roles: Vec::new() }
    }

    pub(crate) fn to_header(&self) -> String {
        serde_json::to_string(self).expect("names and words always have a JSON form")
    }

    pub(crate) fn from_header(header: &str) -> Option<Self> {
        if header.len() > MAX_HEADER {
            return None;
        }
        serde_json::from_str(header).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_survives_the_way_and_a_forged_one_is_nobody() {
        let ada = Caller {
            tenant: TenantName::default(),
            name: "ada@example.org".parse().unwrap(),
            roles: vec![Role::Deployer, Role::Publisher],
        };
        assert_eq!(Caller::from_header(&ada.to_header()), Some(ada.clone()));
        let forged = ada.to_header().replace("ada@", "a\\n");
        for bad in ["", "ada", "{}", &forged, &format!("{}{}", ada.to_header(), " ".repeat(MAX_HEADER))] {
            assert_eq!(Caller::from_header(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_role_covers_reading_and_its_own_matter() {
        for role in Role::ALL {
            for demanded in Role::ALL {
                let covered = demanded == Role::Viewer || role == demanded || role == Role::Admin;
                assert_eq!(role.covers(demanded), covered, "{role} {demanded}");
            }
            assert_eq!(role.to_string().parse(), Ok(role));
        }
    }

    #[test]
    fn a_service_is_known_by_its_name() {
        assert!(CallerName::from(ServiceName::GitWriter).is_service());
        assert!(!"ada".parse::<CallerName>().unwrap().is_service());
        for bad in ["", "a b", "a\nb", "<a>", &"x".repeat(101)] {
            assert!(bad.parse::<CallerName>().is_err(), "{bad}");
        }
    }
}
