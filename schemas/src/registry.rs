//! Announcements in the registry: small JSON, so that a client in any language makes one with a
//! single `kv put`.

use crate::limits::{RETRIES_MAX, TIMEOUT_MS_MAX};
use crate::options::{PayloadCodec, Shard};
use crate::task::InvalidOption;
use crate::token::{Fit, QueueName, Tenant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is known of a task type: the value of `types.<type>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TypeEntry {
    /// The queue whose executors serve it.
    pub queue: QueueName,
    /// JSON Schema of its body; absent means that any JSON will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
    /// How its body is written.
    #[serde(default)]
    pub codec: PayloadCodec,
    /// Retries after the first attempt. Default 3.
    #[serde(default = "retries_default")]
    #[schemars(range(max = RETRIES_MAX))]
    pub retries: u32,
    /// How long one attempt may run, in milliseconds. Default 10 minutes.
    #[serde(default = "timeout_ms_default")]
    #[schemars(range(min = 1, max = TIMEOUT_MS_MAX))]
    pub timeout_ms: u64,
    /// The first back-off before a retry, in milliseconds; it doubles. Default 1 second.
    #[serde(default = "backoff_ms_default")]
    pub backoff_ms: u64,
    /// The longest back-off, in milliseconds. Default 5 minutes.
    #[serde(default = "backoff_ms_max_default")]
    #[schemars(range(max = TIMEOUT_MS_MAX))]
    pub backoff_ms_max: u64,
}

fn retries_default() -> u32 {
    3
}

fn timeout_ms_default() -> u64 {
    10 * 60 * 1000
}

fn backoff_ms_default() -> u64 {
    1000
}

fn backoff_ms_max_default() -> u64 {
    5 * 60 * 1000
}

impl TypeEntry {
    /// A type of this queue with every option at its default.
    pub fn new(queue: QueueName) -> Self {
        Self {
            queue,
            schema: None,
            codec: PayloadCodec::default(),
            retries: retries_default(),
            timeout_ms: timeout_ms_default(),
            backoff_ms: backoff_ms_default(),
            backoff_ms_max: backoff_ms_max_default(),
        }
    }

    /// Checks every option against its range.
    pub fn check(&self) -> Result<(), InvalidOption> {
        let out = |option, reason: String| Err(InvalidOption { option, reason });
        if self.retries > RETRIES_MAX {
            return out("retries", format!("must be at most {RETRIES_MAX}"));
        }
        if self.timeout_ms == 0 || self.timeout_ms > TIMEOUT_MS_MAX {
            return out("timeout_ms", format!("must be 1 to {TIMEOUT_MS_MAX}"));
        }
        if self.backoff_ms > self.backoff_ms_max || self.backoff_ms_max > TIMEOUT_MS_MAX {
            return out("backoff_ms", format!("must be at most backoff_ms_max, and that at most {TIMEOUT_MS_MAX}"));
        }
        Ok(())
    }

    /// How long one attempt may run.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// The order in which a queue's tasks are dispatched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// Strictly by priority, first in first out inside one.
    #[default]
    Strict,
    /// First in, first out, whatever the priority.
    Fifo,
}

/// What is known of a queue: the value of `queues.<queue>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueEntry {
    /// The order of dispatch.
    #[serde(default)]
    pub policy: PolicyName,
    /// Its classes of needs; `any` is always there.
    #[serde(default = "fits_default")]
    pub fits: Vec<Fit>,
    /// Whether dispatch rests.
    #[serde(default)]
    pub paused: bool,
}

fn fits_default() -> Vec<Fit> {
    vec![Fit::default()]
}

impl Default for QueueEntry {
    fn default() -> Self {
        Self { policy: PolicyName::default(), fits: fits_default(), paused: false }
    }
}

/// A tenant's own shard in a queue: the value of `shards.<queue>.<hash>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShardEntry {
    /// The tenant.
    pub tenant: Tenant,
    /// Its shard.
    pub shard: Shard,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_field_announces_a_type() {
        let entry: TypeEntry = serde_json::from_str(r#"{"queue":"pictures"}"#).expect("valid");
        assert_eq!(entry, TypeEntry::new(QueueName::new("pictures").expect("valid")));
        assert_eq!(entry.check(), Ok(()));
    }

    #[test]
    fn an_announcement_out_of_range_is_refused() {
        let mut entry = TypeEntry::new(QueueName::default_queue());
        entry.retries = RETRIES_MAX + 1;
        assert!(entry.check().is_err());
        entry.retries = 0;
        entry.timeout_ms = 0;
        assert!(entry.check().is_err());
    }
}
