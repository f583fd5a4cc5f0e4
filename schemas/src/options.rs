//! What a submitter may ask for, and how it is told on the wire.

use crate::token::{InvalidName, Tenant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// How urgent a task is. `Normal` unless stated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before everything else.
    Critical,
    /// Before normal work.
    High,
    /// The default.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

impl Priority {
    /// All priorities, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    /// The token that stands in subjects.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// Its place in [`Priority::ALL`]: 0 is the most urgent.
    pub fn rank(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Priority {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str() == text)
            .ok_or_else(|| InvalidName::new("priority", text, "must be critical, high, normal or low"))
    }
}

/// What becomes of a task that cannot meet its deadline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Admit {
    /// It is taken all the same, and completes as `expired` if its deadline passes before it starts.
    #[default]
    Always,
    /// It is refused: at submission by the SDK, otherwise it completes as `rejected` when it is read.
    Strict,
}

impl Admit {
    /// The word that stands in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Strict => "strict",
        }
    }
}

impl FromStr for Admit {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let found = [Self::Always, Self::Strict].into_iter().find(|admit| admit.as_str() == text);
        found.ok_or_else(|| InvalidName::new("admit", text, "must be always or strict"))
    }
}

/// How a task's body is written. JSON unless its type says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PayloadCodec {
    /// UTF-8 JSON: every language reads it.
    #[default]
    Json,
    /// bincode 2, standard configuration: Rust only, for flat types.
    Bincode,
}

impl PayloadCodec {
    /// The media type that stands in `ce-datacontenttype`.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Bincode => "application/x-bincode2",
        }
    }

    /// The codec of a media type; parameters such as `charset` are passed over.
    pub fn from_media_type(text: &str) -> Option<Self> {
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/x-bincode2" => Some(Self::Bincode),
            "application/json" | "text/json" => Some(Self::Json),
            other if other.ends_with("+json") => Some(Self::Json),
            _ => None,
        }
    }
}

/// Microseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    /// Milliseconds from `earlier` to this moment; 0 when it lies before.
    pub fn ms_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1_000.0
    }
}

/// Where a tenant's tasks stand in line: one of [`Shard::COUNT`] per queue and priority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u8", into = "u8")]
#[schemars(!try_from, !into)]
pub struct Shard(#[schemars(range(max = 63))] u8);

impl Shard {
    /// All shards of a queue (design, decision 2).
    pub const COUNT: u8 = 64;
    /// So many are shared by hash: 0 to 7, unless the queue says otherwise ([`crate::SharedEntry`]).
    pub const SHARED: u8 = 8;
    /// Shards 8 to 55 are assigned to one tenant each.
    pub const ASSIGNED: std::ops::Range<u8> = 8..56;
    /// Shards 56 to 63 are free at first: they take the place of shared ones that a tenant floods.
    pub const FREE: std::ops::Range<u8> = 56..64;

    /// Checks that the number is under [`Shard::COUNT`].
    pub fn new(number: u8) -> Result<Self, InvalidName> {
        if number < Self::COUNT {
            Ok(Self(number))
        } else {
            Err(InvalidName::new("shard", &number.to_string(), "must be under 64"))
        }
    }

    /// The shared shard of a tenant that has none of its own, in a queue none of whose shared shards was
    /// ever flooded; the empty tenant has shard 0. Otherwise its number is the tenant's place in
    /// [`crate::SharedEntry`].
    pub fn shared_by_hash(tenant: &Tenant) -> Self {
        if tenant.is_shared() {
            return Self(0);
        }
        let digest = Sha256::digest(tenant.as_str().as_bytes());
        Self(digest[0] % Self::SHARED)
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Shard {
    type Error = InvalidName;
    fn try_from(number: u8) -> Result<Self, InvalidName> {
        Self::new(number)
    }
}

impl From<Shard> for u8 {
    fn from(shard: Shard) -> u8 {
        shard.0
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_with_parameters_and_suffixes_are_json() {
        for text in ["application/json; charset=utf-8", "Application/JSON", "application/vnd.a+json"] {
            assert_eq!(PayloadCodec::from_media_type(text), Some(PayloadCodec::Json));
        }
        assert_eq!(PayloadCodec::from_media_type("text/plain"), None);
    }

    #[test]
    fn the_empty_tenant_has_the_first_shared_shard() {
        assert_eq!(Shard::shared_by_hash(&Tenant::default()).number(), 0);
        assert!(Shard::shared_by_hash(&Tenant::new("acme").expect("valid")).number() < Shard::SHARED);
    }
}
