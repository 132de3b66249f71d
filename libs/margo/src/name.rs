//! Names that people choose. A name is never changed, and never given to something else after its bearer is gone.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A name that breaks its rule. The message repeats the name and says what the rule is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {raw:?} is not valid: {rule}")]
pub struct InvalidName {
    kind: &'static str,
    raw: String,
    rule: &'static str,
}

const TOKEN_RULE: &str = "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit";
const APP_ID_RULE: &str = "1 to 200 of a-z, 0-9 and -";
const TAG_RULE: &str = "1 to 128 of A-Z, a-z, 0-9, _, . and -, not beginning with . or - (an OCI tag)";

/// Tells whether the text is one subject token, one folder name and one DNS label, so that it is safe wherever a
/// name appears.
fn is_token(raw: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&raw.len()) && raw.bytes().all(allowed) && !raw.starts_with('-') && !raw.ends_with('-')
}

fn is_app_id(raw: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=200).contains(&raw.len()) && raw.bytes().all(allowed)
}

fn is_tag(raw: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=128).contains(&raw.len()) && raw.bytes().all(allowed) && !raw.starts_with(['.', '-'])
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $check:ident, $rule:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(raw: String) -> Result<Self, InvalidName> {
                if $check(&raw) { Ok(Self(raw)) } else { Err(InvalidName { kind: $kind, raw, rule: $rule }) }
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(raw: &str) -> Result<Self, InvalidName> {
                raw.to_owned().try_into()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// An organisation: one account at the hub, and one folder of repositories. Today there is one tenant, `default`.
    TenantName, "tenant name", is_token, TOKEN_RULE
);
name!(
    /// A client of the fleet manager in Margo's sense: the owner of one manifest and one repository. Its name is
    /// always exactly one subject token.
    ClientName, "client name", is_token, TOKEN_RULE
);
name!(
    /// A place with a Local Orchestrator (LO). The client that is its LO has the same name.
    SiteName, "site name", is_token, TOKEN_RULE
);
name!(
    /// A node's name within its client. It is always exactly one subject token.
    NodeName, "node name", is_token, TOKEN_RULE
);
name!(
    /// A third party that reads what a hub offers to all who are let in.
    ReaderName, "reader name", is_token, TOKEN_RULE
);
name!(
    /// The name of an assignment, which is a standing wish to run an application somewhere. It is unique in its
    /// tenant.
    AssignmentName, "assignment name", is_token, TOKEN_RULE
);
name!(
    /// The name of a component of an application (APP-01), unique in its profile.
    ComponentName, "component name", is_token, TOKEN_RULE
);
name!(
    /// The `id` of an application, which its supplier chooses in the ApplicationDescription (APP-01).
    AppId, "app id", is_app_id, APP_ID_RULE
);
name!(
    /// The `metadata.version` of an ApplicationDescription, which is also the tag of its package (APP-02).
    AppVersion, "app version", is_tag, TAG_RULE
);

impl Default for TenantName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl SiteName {
    /// Returns the client that is the LO of this site.
    pub fn client(&self) -> ClientName {
        ClientName(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_is_one_subject_token_and_one_folder() {
        for good in ["a", "n1", "press-17", &"x".repeat(63)] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in ["", "A", "a.b", "a/b", "-a", "a-", "a b", "*", ">", "..", &"x".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn app_01_an_app_id_has_no_capitals_underscores_or_periods() {
        assert!("com-northstar-ida".parse::<AppId>().is_ok());
        for bad in ["Com", "a_b", "a.b", "", &"x".repeat(201)] {
            assert!(bad.parse::<AppId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn app_02_an_app_version_is_a_tag_and_never_leaves_its_folder() {
        assert!("1.2.0-rc.1_build.5".parse::<AppVersion>().is_ok());
        for bad in ["", ".", "..", "a/b", "-1", "1+2"] {
            assert!(bad.parse::<AppVersion>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_name_is_told_with_its_rule() {
        let error = "Press 1".parse::<NodeName>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "node name \"Press 1\" is not valid: 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
        );
    }
}
