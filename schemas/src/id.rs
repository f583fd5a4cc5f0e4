//! Task ids and run tokens.

use crate::token::{InvalidName, is_token, name};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

name!(
    /// The id of a task: a UUIDv7 by the SDK, or what [`TaskId::from_cloud_event`] and
    /// [`TaskId::from_sequence`] derive for those who publish by the open door.
    TaskId, "task id", r"^[A-Za-z0-9_-]{1,64}$",
    |text| if is_token(text) { Ok(()) } else { Err("must be 1 to 64 of A-Z, a-z, 0-9, '_' and '-'") }
);

/// The shortest `ce-id` that is taken as it is; a shorter one is likely to be unique for its source only.
const CE_ID_BYTES_MIN: usize = 20;

impl TaskId {
    /// A new id, made before the first publish: sortable by time, unique without coordination.
    pub fn generate() -> Self {
        let mut buffer = uuid::Uuid::encode_buffer();
        let text: &str = uuid::Uuid::now_v7().simple().encode_lower(&mut buffer);
        Self(text.into())
    }

    /// The id of a CloudEvent: its own where that is a token of 20 to 64 characters, otherwise a
    /// hash of source and id (a CloudEvents id is unique for its source only: specification 1.0, `id`).
    pub fn from_cloud_event(source: &str, id: &str) -> Self {
        if id.len() >= CE_ID_BYTES_MIN && is_token(id) {
            return Self(id.into());
        }
        Self(hashed("e", &[source, id]).into())
    }

    /// The id of a message without one: `s` and its sequence in the stream, which its publish ack told.
    pub fn from_sequence(stream_sequence: u64) -> Self {
        Self(format!("s{stream_sequence}").into())
    }

    /// The id of a task with an idempotency key: the same key of the same tenant and type is the same task.
    pub fn from_key(task_type: &str, tenant: &str, key: &str) -> Self {
        Self(hashed("k", &[task_type, tenant, key]).into())
    }

    /// The id of the `index`-th follow-up of a task, the same however often its completion is delivered.
    pub fn of_follow_up(parent: &TaskId, index: usize) -> Self {
        Self(hashed("f", &[parent.as_str(), &index.to_string()]).into())
    }
}

/// `prefix` and 40 hex digits of a hash over the parts, each with its length so that none can pose as two.
fn hashed(prefix: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(20).fold(prefix.to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// What an executor draws for each run, so that its own completion is told from another run's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunToken(u64);

impl RunToken {
    /// A token from 64 random bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its 64 bits.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// A new random token.
    pub fn draw() -> Self {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        Self(high ^ low)
    }
}

impl fmt::Display for RunToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<RunToken> for String {
    fn from(token: RunToken) -> String {
        token.to_string()
    }
}

impl TryFrom<String> for RunToken {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl FromStr for RunToken {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| InvalidName::new("run token", text, "must be 1 to 16 hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cloud_event_id_is_kept_and_a_short_one_is_hashed_with_its_source() {
        let kept = TaskId::from_cloud_event("/a", "0190b8f2-7c1e-7000-8000-000000000001");
        assert_eq!(kept.as_str(), "0190b8f2-7c1e-7000-8000-000000000001");
        let (a, b) = (TaskId::from_cloud_event("/a", "1"), TaskId::from_cloud_event("/b", "1"));
        assert_ne!(a, b);
        assert!(TaskId::new(a.as_str()).is_ok());
    }

    #[test]
    fn parts_cannot_be_shifted_between_source_and_id() {
        assert_ne!(TaskId::from_cloud_event("ab", "c"), TaskId::from_cloud_event("a", "bc"));
    }

    #[test]
    fn generated_ids_sort_by_time_and_differ() {
        let ids: Vec<_> = (0..100).map(|_| TaskId::generate()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
