//! Reading JSON, and where it is at fault.

use serde::de::DeserializeOwned;

/// What is wrong, with the path to it.
pub(crate) type Fault = serde_path_to_error::Error<serde_json::Error>;

/// Following the path costs as much as reading: it is done only where there is a fault to be found.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        Err(_) => serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(bytes)),
    }
}
