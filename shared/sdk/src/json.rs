//! Reading JSON, and where it is at fault.

use jetlane_schemas::json;
use serde::de::DeserializeOwned;

/// What is wrong, with the path to it.
pub(crate) type Fault = serde_path_to_error::Error<serde_json::Error>;

/// Following the path costs as much as reading: it is done only where there is a fault to be found.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        Err(_) => {
            let mut reader = serde_json::Deserializer::from_slice(bytes);
            // The reader's own limit of 128 levels is below ours.
            if json::check(bytes).is_ok() {
                reader.disable_recursion_limit();
            }
            serde_path_to_error::deserialize(&mut reader)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::json::JSON_DEPTH_MAX;
    use serde_json::Value;

    #[test]
    fn what_intake_accepts_is_read_at_any_depth() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read::<Value>(nested(JSON_DEPTH_MAX).as_bytes()).is_ok());
        assert!(read::<Value>(nested(JSON_DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(read::<Value>(nested(100_000).as_bytes()).is_err());
    }
}
