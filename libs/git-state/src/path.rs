//! Paths of files in a commit, checked once: a path that a source names can neither leave its repository nor mean
//! something to Git.

use std::fmt;

/// A path that may stand in a repository of the platform: relative, at most 16 names of `A-Z`, `a-z`, `0-9`, `.`,
/// `_` and `-` with `/` between them, none beginning with a dot. So it is neither absolute nor leads out, and no
/// name is one that Git or a file system treats in its own way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(String);

/// The text is no path that may stand in a repository. It holds the first 200 characters of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("path {0:?} is not valid: at most 16 names of A-Z, a-z, 0-9, ., _ and -, none beginning with a dot")]
pub struct InvalidPath(String);

impl TreePath {
    /// Returns the path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TreePath {
    type Error = InvalidPath;

    fn try_from(raw: String) -> Result<Self, InvalidPath> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let name = |name: &str| (1..=255).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('.');
        if raw.len() > 1_024 || raw.split('/').count() > 16 || !raw.split('/').all(name) {
            return Err(InvalidPath(raw.chars().take(200).collect()));
        }
        Ok(Self(raw))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_leaves_its_repository() {
        for good in ["VERSION", "apps/com-acme-hello/1.2.0_rc.1/margo.yaml", "nodes/press/KEYS.sig"] {
            assert!(TreePath::try_from(good.to_owned()).is_ok(), "{good}");
        }
        let deep = ["a"; 17].join("/");
        let long = "x".repeat(256);
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "a/",
            "a//b",
            "..",
            "../a",
            "a/../b",
            ".",
            "a/.git/config",
            ".gitmodules",
            "a\\b",
            "a b",
            "a\nb",
            "GIT~1",
            "c:x",
            "ä",
            &deep,
            &long,
        ] {
            assert!(TreePath::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
