//! How frames are written and read: behind one trait, so that the format is a line to change.
//!
//! bincode 2.0.1 is final and unmaintained (RUSTSEC-2025-0141); it is pinned and fenced by the rules
//! that stand here: a frame names codec, version and kind; sizes are checked before decoding;
//! trailing bytes are refused; types are flat (no recursion, no zero-size elements, no maps).

use crate::limits::FRAME_BYTES_MAX;
use serde::{Deserialize, Serialize};

/// The first two bytes of every frame.
pub const MAGIC: [u8; 2] = *b"JL";
/// Bytes before a frame's body: magic, codec, version (little endian), kind.
pub const PREFIX_BYTES: usize = 6;

/// The largest byte that names a codec of this version.
pub(crate) const CODEC_ID_MAX: u8 = Json::ID;

/// What can stand in a frame: a flat type that both codecs can write and read. It may borrow from the frame.
pub trait Wire<'a>: Serialize + Deserialize<'a> + bincode::Encode + bincode::BorrowDecode<'a, ()> {
    /// What the frame holds.
    const KIND: u8;
    /// The version of its layout. A new layout is a new version and a new type; the last one is still read.
    const VERSION: u16;
}

/// A way to write flat types.
pub trait Codec {
    /// The byte that names it in a frame.
    const ID: u8;
    /// Writes a value behind what `frame` holds.
    fn encode<'a, T: Wire<'a>>(value: &T, frame: &mut Vec<u8>) -> Result<(), CodecError>;
    /// Reads a value that takes up all of `bytes`.
    fn decode<'a, T: Wire<'a>>(bytes: &'a [u8]) -> Result<T, CodecError>;
}

/// Why a frame could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Too large to send or to accept.
    #[error("a frame of {bytes} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Shorter than a frame's prefix, or it does not start with the magic.
    #[error("not a frame: it does not start with 'JL'")]
    NoFrame,
    /// Written by a codec that this version does not know.
    #[error("the frame is written by codec {0}, which this version does not know")]
    UnknownCodec(u8),
    /// Of another kind or version than wanted.
    #[error("the frame holds kind {kind} version {version}, wanted kind {wanted_kind} version {wanted_version}")]
    OtherKind {
        /// The kind found.
        kind: u8,
        /// The version found.
        version: u16,
        /// The kind wanted.
        wanted_kind: u8,
        /// The version wanted.
        wanted_version: u16,
    },
    /// The body does not hold the type, or not only that.
    #[error("the frame's body is malformed: {0}")]
    Malformed(String),
}

/// The default: bincode 2, standard configuration, with a limit.
#[derive(Debug, Clone, Copy)]
pub struct Bincode;

/// JSON, for debugging and for tests.
#[derive(Debug, Clone, Copy)]
pub struct Json;

impl Codec for Bincode {
    const ID: u8 = 1;

    fn encode<'a, T: Wire<'a>>(value: &T, frame: &mut Vec<u8>) -> Result<(), CodecError> {
        bincode::encode_into_std_write(value, frame, bincode::config::standard())
            .map(|_written| ())
            .map_err(|e| CodecError::Malformed(e.to_string()))
    }

    fn decode<'a, T: Wire<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
        let config = bincode::config::standard().with_limit::<FRAME_BYTES_MAX>();
        let (value, read) =
            bincode::borrow_decode_from_slice(bytes, config).map_err(|e| CodecError::Malformed(e.to_string()))?;
        if read == bytes.len() {
            Ok(value)
        } else {
            Err(CodecError::Malformed(format!("{} bytes follow the value", bytes.len() - read)))
        }
    }
}

impl Codec for Json {
    const ID: u8 = 2;

    fn encode<'a, T: Wire<'a>>(value: &T, frame: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(frame, value).map_err(|e| CodecError::Malformed(e.to_string()))
    }

    fn decode<'a, T: Wire<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(|e| CodecError::Malformed(e.to_string()))
    }
}

/// Writes a frame: prefix and body.
pub fn encode_frame<'a, C: Codec, T: Wire<'a>>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode_frame_of::<C, T>(value, 0)
}

/// The same, where it is known of about how many bytes the body will be.
pub(crate) fn encode_frame_of<'a, C: Codec, T: Wire<'a>>(value: &T, bytes: usize) -> Result<Vec<u8>, CodecError> {
    let mut frame = Vec::with_capacity(PREFIX_BYTES + bytes);
    frame.extend_from_slice(&MAGIC);
    frame.push(C::ID);
    frame.extend_from_slice(&T::VERSION.to_le_bytes());
    frame.push(T::KIND);
    C::encode(value, &mut frame)?;
    let bytes = frame.len() - PREFIX_BYTES;
    if bytes > FRAME_BYTES_MAX { Err(CodecError::TooLarge { bytes }) } else { Ok(frame) }
}

/// The version that a frame names; `None` for what is no frame.
pub fn version_of(frame: &[u8]) -> Option<u16> {
    let prefix = frame.get(..PREFIX_BYTES)?;
    (prefix[..2] == MAGIC).then(|| u16::from_le_bytes([prefix[3], prefix[4]]))
}

/// Reads a frame by the codec that it names.
pub fn decode_frame<'a, T: Wire<'a>>(frame: &'a [u8]) -> Result<T, CodecError> {
    if frame.len() > PREFIX_BYTES + FRAME_BYTES_MAX {
        return Err(CodecError::TooLarge { bytes: frame.len() });
    }
    let (Some(prefix), Some(body)) = (frame.get(..PREFIX_BYTES), frame.get(PREFIX_BYTES..)) else {
        return Err(CodecError::NoFrame);
    };
    if prefix[..2] != MAGIC {
        return Err(CodecError::NoFrame);
    }
    let (kind, version) = (prefix[5], u16::from_le_bytes([prefix[3], prefix[4]]));
    if (kind, version) != (T::KIND, T::VERSION) {
        return Err(CodecError::OtherKind { kind, version, wanted_kind: T::KIND, wanted_version: T::VERSION });
    }
    match prefix[2] {
        Bincode::ID => Bincode::decode(body),
        Json::ID => Json::decode(body),
        other => Err(CodecError::UnknownCodec(other)),
    }
}
