//! Enums whose variants are words of the bus: one token in a subject, in JSON and on the command line.

/// The text is no subject of the platform. It holds the first 300 characters of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no subject of the platform")]
pub struct InvalidSubject(String);

impl InvalidSubject {
    /// Keeps as much of the text as a subject of the platform can have.
    pub(crate) fn of(raw: &str) -> Self {
        Self(raw.chars().take(300).collect())
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$variant_doc])* $variant,)* }

        impl $type {
            /// All variants, in the order in which they are declared.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the word as it stands in subjects. It is always one token.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::InvalidSubject;

            fn from_str(raw: &str) -> Result<Self, $crate::InvalidSubject> {
                let found = Self::ALL.iter().copied().find(|word| word.as_str() == raw);
                found.ok_or_else(|| $crate::InvalidSubject::of(raw))
            }
        }
    };
}
pub(crate) use words;
