//! Task ids and run tokens.

use crate::options::Micros;
use crate::token::{InvalidName, TaskType, is_token, name};
use bincode::de::{BorrowDecode, BorrowDecoder, Decode, Decoder};
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;
use uuid::{Uuid, Variant, Version};

name!(
    /// The id of a task: a UUIDv7 in 22 digits by the SDK, or what [`TaskId::from_cloud_event`] and
    /// [`TaskId::from_sequence`] derive for those who publish by the open door.
    TaskId, "task id", r"^[A-Za-z0-9_-]{1,64}$",
    |text| if is_token(text) { Ok(()) } else { Err("must be 1 to 64 of A-Z, a-z, 0-9, '_' and '-'") }
);

/// The shortest `ce-id` that is taken as it is; a shorter one is likely to be unique for its source only.
const CE_ID_BYTES_MIN: usize = 20;
/// 128 bits in digits of base 62.
const DIGITS: usize = 22;
/// The same in hexadecimal digits.
const HEX_DIGITS: usize = 32;

impl TaskId {
    /// A new id, made before the first publish: sortable by time, unique without coordination. A `UUIDv7` (RFC 9562)
    /// in 22 digits of 0-9, A-Z and a-z, which sort as it does: as short as needs no allocation wherever it is read.
    pub fn generate() -> Self {
        Self::of_uuid(Uuid::now_v7())
    }

    fn of_uuid(uuid: Uuid) -> Self {
        let mut digits = [b'0'; DIGITS];
        let count = base62::encode_bytes(uuid.as_u128(), &mut digits).expect("128 bits are 22 digits at most");
        digits.rotate_left(count);
        digits[..DIGITS - count].fill(b'0');
        let text = std::str::from_utf8(&digits).expect("digits are ASCII");
        Self(text.into())
    }

    /// The 128 bits that it has where it is written as the SDK writes a UUID, in 22 digits of base 62 or, as before, in
    /// 32 hexadecimal ones, with or without hyphens; `None` for other ids.
    pub fn bits(&self) -> Option<u128> {
        let digits: String = self.as_str().chars().filter(|c| *c != '-').collect();
        match digits.len() {
            DIGITS => base62::decode(&digits).ok(),
            HEX_DIGITS => u128::from_str_radix(&digits, 16).ok(),
            _ => None,
        }
    }

    /// When it was made, where it says so: a `UUIDv7`, in either form of [`TaskId::bits`]. Whoever made it may have had
    /// any time on their clock.
    pub fn made_at(&self) -> Option<Micros> {
        let uuid = Uuid::from_u128(self.bits()?);
        let is_v7 = uuid.get_version() == Some(Version::SortRand) && uuid.get_variant() == Variant::RFC4122;
        let (seconds, nanos) = is_v7.then(|| uuid.get_timestamp()).flatten()?.to_unix();
        Some(Micros(seconds.saturating_mul(1_000_000).saturating_add(u64::from(nanos / 1_000))))
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

    /// Whether it was made by [`TaskId::from_key`], as far as its form tells.
    pub fn is_of_key(&self) -> bool {
        let digits = self.as_str().strip_prefix('k');
        digits.is_some_and(|digits| digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// The id of the `index`-th follow-up of a task, the same however often its completion is delivered.
    pub fn of_follow_up(parent_type: &TaskType, parent: &TaskId, index: usize) -> Self {
        Self(hashed("f", &[parent_type.as_str(), parent.as_str(), &index.to_string()]).into())
    }
}

/// Identity of a task: its type and its id. Two types may use one id, such as the number of an order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskRef {
    /// Its type.
    pub task_type: TaskType,
    /// Its id.
    pub id: TaskId,
}

impl TaskRef {
    /// Reads `<type>.<id>`: the id is the last token, the type all before it.
    pub fn parse(text: &str) -> Option<Self> {
        let (task_type, id) = text.rsplit_once('.')?;
        Some(Self { task_type: TaskType::read(task_type).ok()?, id: TaskId::read(id).ok()? })
    }
}

impl fmt::Display for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.task_type, self.id)
    }
}

/// Writes a name into a frame as its text, and checks it when it is read.
macro_rules! text_in_frames {
    ($name:ident) => {
        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.as_str().encode(encoder)
            }
        }

        impl<'de, Context> BorrowDecode<'de, Context> for $name {
            fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
                let text = <&str>::borrow_decode(decoder)?;
                Self::read(text).map_err(|invalid| DecodeError::OtherString(invalid.to_string()))
            }
        }

        impl<Context> Decode<Context> for $name {
            fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
                let text = String::decode(decoder)?;
                Self::read(&text).map_err(|invalid| DecodeError::OtherString(invalid.to_string()))
            }
        }
    };
}
text_in_frames!(TaskId);
text_in_frames!(TaskType);

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
        let (high, low) = Uuid::new_v4().as_u64_pair();
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
        // Of any two UUIDs, not only of those of today.
        let shifted = (0..128).map(|bits| TaskId::of_uuid(Uuid::from_u128(1 << bits))).collect::<Vec<_>>();
        assert!(shifted.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(ids.iter().chain(&shifted).all(|id| id.as_str().len() == DIGITS), "as long as needs no allocation");
        assert_eq!(TaskId::of_uuid(Uuid::from_u128(0)).as_str(), "0".repeat(DIGITS));
        assert_eq!(TaskId::of_uuid(Uuid::from_u128(61)).as_str(), format!("{}z", "0".repeat(DIGITS - 1)));
        assert_eq!(TaskId::of_uuid(Uuid::from_u128(u128::MAX)).as_str(), "7n42DGM5Tflk9n8mt7Fhc7");
    }

    #[test]
    fn an_id_says_when_it_was_made_in_either_form_and_only_if_it_is_a_uuid_of_version_7() {
        let id = |text: &str| TaskId::new(text).expect("valid");
        let at = Some(Micros(0x0190_b8f2_7c1e * 1_000));
        let uuid = Uuid::from_u128(0x0190_b8f2_7c1e_7000_8000_0000_0000_0001);
        let made = TaskId::of_uuid(uuid);
        assert_eq!((made.made_at(), made.bits()), (at, Some(uuid.as_u128())));
        for hex in ["0190b8f2-7c1e-7000-8000-000000000001", "0190B8F27C1E70008000000000000001"] {
            assert_eq!(id(hex).made_at(), at, "{hex}");
        }
        // Version 4, another variant, a key's hash, a sequence, more than 128 bits, anything.
        for none in [
            "0190b8f2-7c1e-4000-8000-000000000001",
            "0190b8f2-7c1e-7000-0000-000000000001",
            "k0190b8f27c1e70008000000000000001aaaaaaaaa",
            "s17",
            "zzzzzzzzzzzzzzzzzzzzzz",
            "0190b8f2_7c1e_7000_8000",
        ] {
            assert_eq!(id(none).made_at(), None, "{none}");
        }
    }
}
