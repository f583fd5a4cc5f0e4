//! Words that become part of a subject, validated once.

use crate::limits::{NAME_BYTES_MAX, TOKEN_BYTES_MAX, TYPE_BYTES_MAX, TYPE_TOKENS_MAX};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What names are kept as: short ones in place, long ones shared. They are copied with every task.
pub(crate) type Text = smol_str::SmolStr;

/// A name that may not become part of a subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name:?} {reason}")]
pub struct InvalidName {
    /// What the name was meant to be: `queue`, `task type`, `task id`, ...
    pub kind: &'static str,
    /// The name as given, cut after 80 characters.
    pub name: String,
    /// What is wrong with it, and what would be right.
    pub reason: &'static str,
}

impl InvalidName {
    pub(crate) fn new(kind: &'static str, name: &str, reason: &'static str) -> Self {
        Self { kind, name: name.chars().take(80).collect(), reason }
    }
}

/// Whether `text` is one token of a subject: `[A-Za-z0-9_-]{1,64}`.
pub(crate) fn is_token(text: &str) -> bool {
    is_token_of(text.as_bytes())
}

fn is_token_of(bytes: &[u8]) -> bool {
    (1..=TOKEN_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

const TOKEN_RULE: &str = "must be 1 to 64 of A-Z, a-z, 0-9, '_' and '-'";

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $pattern:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        // Otherwise the JSON Schema is that of String, without the pattern.
        #[schemars(!try_from, !into)]
        pub struct $name(#[schemars(with = "String", regex(pattern = $pattern))] $crate::token::Text);

        impl $name {
            /// Checks the name and takes it.
            pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
                Self::read(&name.into())
            }

            /// Checks a name that is only borrowed, and copies it.
            pub fn read(name: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(name) {
                    Ok(()) => Ok(Self(name.into())),
                    Err(reason) => Err(InvalidName::new($kind, name, reason)),
                }
            }

            /// The name as it stands in a subject.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        /// Kept in maps, it is found by its text.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::read(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }
    };
}
pub(crate) use name;

fn token(text: &str) -> Result<(), &'static str> {
    if is_token(text) { Ok(()) } else { Err(TOKEN_RULE) }
}

name!(
    /// A named pool of executors that all serve the same types: one token.
    QueueName, "queue", r"^[A-Za-z0-9_-]{1,64}$", token
);

name!(
    /// A named class of needs, declared with the queue: one token, `any` unless a task states needs.
    Fit, "fit", r"^[A-Za-z0-9_-]{1,64}$", token
);

name!(
    /// A stable dotted name of 1 to 6 tokens, such as `image.thumbnail`.
    TaskType, "task type", r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,5}$",
    |text| {
        // Of bytes, and once: each decoded task has one.
        let mut tokens = text.as_bytes().split(|byte| *byte == b'.');
        if text.len() > TYPE_BYTES_MAX {
            Err("must be at most 200 bytes")
        } else if tokens.by_ref().take(TYPE_TOKENS_MAX).all(is_token_of) && tokens.next().is_none() {
            Ok(())
        } else {
            Err("must be 1 to 6 tokens joined by '.', each 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")
        }
    }
);

name!(
    /// The fairness key of a task; empty means shared. Never part of a subject, so almost any text.
    #[derive(Default)]
    Tenant, "tenant", r"^[^\x00-\x1f\x7f-\x9f]{0,256}$",
    |text| {
        if text.len() > NAME_BYTES_MAX {
            Err("must be at most 256 bytes")
        } else if text.chars().any(char::is_control) {
            Err("must not hold control characters")
        } else {
            Ok(())
        }
    }
);

impl QueueName {
    /// The queue `default`, which holds the reference types.
    pub fn default_queue() -> Self {
        Self("default".into())
    }
}

impl Default for Fit {
    fn default() -> Self {
        Self("any".into())
    }
}

impl Tenant {
    /// Whether the task is shared: it belongs to no tenant.
    pub fn is_shared(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_widen_a_subject_are_refused() {
        for bad in ["", "a b", "*", ">", "a.*", "a..b", ".a", "a.", "é", "a\u{1}", "a\r\nb", "a/b", "$JS"] {
            assert!(TaskType::new(bad).is_err(), "{bad:?} passed as a task type");
            assert!(QueueName::new(bad).is_err(), "{bad:?} passed as a queue");
        }
        assert!(QueueName::new("a.b").is_err());
        assert!(QueueName::new("x".repeat(65)).is_err());
        assert!(TaskType::new("a.b.c.d.e.f").is_ok());
        assert!(TaskType::new("a.b.c.d.e.f.g").is_err());
    }

    #[test]
    fn deserialising_checks_as_new_does() {
        assert!(serde_json::from_str::<QueueName>("\"a.b\"").is_err());
        assert!(serde_json::from_str::<QueueName>("\"pictures\"").is_ok());
    }

    proptest! {
        #[test]
        fn what_passes_has_no_character_of_the_subject_grammar(text in ".{0,80}") {
            if let Ok(name) = TaskType::new(text) {
                prop_assert!(!name.as_str().contains(['*', '>', ' ', '\r', '\n', '\t']));
                prop_assert!(name.as_str().split('.').all(|t| !t.is_empty()));
            }
        }
    }
}
