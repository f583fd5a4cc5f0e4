//! Announcements in the registry: small JSON, so that a client in any language makes one with a
//! single `kv put`.

mod order;
mod overrides;

pub use order::{Order, PolicyName, Round, Weights};
pub use overrides::{TypeLayers, TypeOverride};

use crate::limits::{RETRIES_MAX, TIMEOUT_MS_MAX};
use crate::needs::FitEntry;
use crate::options::{Micros, PayloadCodec, Shard};
use crate::task::InvalidOption;
use crate::token::{Fit, QueueName, Tenant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
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

/// What is known of a queue: the value of `queues.<queue>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueEntry {
    /// The order of dispatch.
    #[serde(default, flatten)]
    pub order: Order,
    /// Its classes of needs; `any` is always there.
    #[serde(default = "fits_default")]
    pub fits: Vec<FitEntry>,
    /// Whether dispatch rests.
    #[serde(default)]
    pub paused: bool,
}

fn fits_default() -> Vec<FitEntry> {
    vec![FitEntry::default()]
}

impl Default for QueueEntry {
    fn default() -> Self {
        Self { order: Order::default(), fits: fits_default(), paused: false }
    }
}

impl QueueEntry {
    /// The most fits of a queue, `any` included.
    pub const FITS_MAX: usize = 16;

    /// The declared fits, `any` among them whether it is listed or not.
    pub fn all_fits(&self) -> Vec<FitEntry> {
        let mut fits = self.fits.clone();
        if !fits.iter().any(|fit| fit.name == Fit::default()) {
            fits.insert(0, FitEntry::default());
        }
        fits
    }

    /// Checks every option against its range.
    ///
    /// # Errors
    /// [`InvalidOption`] names the option.
    pub fn check(&self) -> Result<(), InvalidOption> {
        let out = |option, reason: String| Err(InvalidOption { option, reason });
        if self.order.weights.0.iter().any(|weight| *weight == 0 || *weight > Weights::MAX) {
            return out("weights", format!("must be four numbers from 1 to {}", Weights::MAX));
        }
        let fits = self.all_fits();
        if fits.len() > Self::FITS_MAX {
            return out("fits", format!("must be at most {}, `any` included", Self::FITS_MAX));
        }
        let mut names = BTreeSet::new();
        for fit in &fits {
            fit.covers.check()?;
            if !names.insert(fit.name.clone()) {
                return out("fits", format!("has {} twice", fit.name));
            }
            if fit.name == Fit::default() && !fit.covers.is_none() {
                return out("fits", "has needs for `any`: that is the fit of tasks without needs".into());
            }
        }
        Ok(())
    }
}

/// What is known of the run times of a type: the value of `estimates.<type>`, written by the leader.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EstimateEntry {
    /// All its tasks together.
    #[serde(flatten)]
    pub all: RunTimes,
    /// By `size_key`, for those that were seen last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sizes: BTreeMap<String, RunTimes>,
    /// By how much runs differ from their submitters' estimates: the logarithm of their ratio.
    #[serde(default)]
    pub hints: RunTimes,
    /// When it was written.
    #[serde(default)]
    pub updated_at: Micros,
}

/// Run times as a log-normal distribution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunTimes {
    /// Runs that were measured.
    pub runs: u64,
    /// Mean of the natural logarithm of the run time in microseconds.
    pub mu: f64,
    /// Variance of that logarithm.
    pub variance: f64,
}

impl RunTimes {
    /// The mean run time, in milliseconds.
    pub fn mean_ms(&self) -> f64 {
        (self.mu + self.variance / 2.0).exp() / 1_000.0
    }

    /// The median run time, in milliseconds.
    pub fn p50_ms(&self) -> f64 {
        self.mu.exp() / 1_000.0
    }

    /// The run time that nine in ten stay under, in milliseconds.
    pub fn p90_ms(&self) -> f64 {
        /// The standard normal distribution's 90th percentile.
        const Z90: f64 = 1.281_551_565_544_600_4;
        (self.mu + Z90 * self.variance.max(0.0).sqrt()).exp() / 1_000.0
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

/// Which shards of a queue are shared by hash: the value of `shared.<queue>`, written by the leader when
/// a tenant floods one of them: that tenant keeps it, and a free one takes its place here. A tenant
/// without an entry of its own has the shard at the place of its [`Shard::shared_by_hash`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedEntry {
    /// The shards, by place: the numbers 0 to 7 and 56 to 63, each at most once.
    pub shards: [Shard; Shard::SHARED as usize],
}

impl Default for SharedEntry {
    /// Every shard at its own place.
    fn default() -> Self {
        let mut number = 0..Shard::SHARED;
        let shards = [(); Shard::SHARED as usize].map(|()| {
            let number = number.next().expect("as many numbers as places");
            Shard::new(number).expect("under the count of shards")
        });
        Self { shards }
    }
}

impl SharedEntry {
    /// Where a tenant stands that has no shard of its own.
    pub fn of(&self, tenant: &Tenant) -> Shard {
        self.shards[usize::from(Shard::shared_by_hash(tenant).number())]
    }

    /// Checks the shards.
    ///
    /// # Errors
    /// [`InvalidOption`] names `shards`.
    pub fn check(&self) -> Result<(), InvalidOption> {
        let numbers: BTreeSet<u8> = self.shards.iter().map(|shard| shard.number()).collect();
        let are_shareable = numbers.iter().all(|number| !Shard::ASSIGNED.contains(number));
        if numbers.len() == self.shards.len() && are_shareable {
            return Ok(());
        }
        Err(InvalidOption { option: "shards", reason: "must be eight different ones of 0 to 7 and 56 to 63".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_without_a_shard_of_its_own_has_the_one_at_its_place() {
        let tenant = Tenant::new("acme").expect("valid");
        let mut shared = SharedEntry::default();
        assert_eq!((shared.of(&tenant), shared.check()), (Shard::shared_by_hash(&tenant), Ok(())));
        let free = Shard::new(Shard::FREE.start).expect("valid");
        shared.shards[usize::from(Shard::shared_by_hash(&tenant).number())] = free;
        assert_eq!((shared.of(&tenant), shared.check()), (free, Ok(())));
        shared.shards = [free; 8];
        assert!(shared.check().is_err(), "one shard at two places");
        shared.shards = SharedEntry::default().shards;
        shared.shards[0] = Shard::new(Shard::ASSIGNED.start).expect("valid");
        assert!(shared.check().is_err(), "one that belongs to a tenant");
    }

    #[test]
    fn one_field_announces_a_type() {
        let entry: TypeEntry = serde_json::from_str(r#"{"queue":"pictures"}"#).expect("valid");
        assert_eq!(entry, TypeEntry::new(QueueName::new("pictures").expect("valid")));
        assert_eq!(entry.check(), Ok(()));
    }

    #[test]
    fn an_empty_announcement_of_a_queue_is_all_defaults() {
        let entry: QueueEntry = serde_json::from_str("{}").expect("valid");
        assert_eq!((entry.order.policy, entry.check()), (PolicyName::Adaptive, Ok(())));
        assert_eq!(entry, QueueEntry::default());
        let set: QueueEntry =
            serde_json::from_str(r#"{"policy":"weighted","weights":[8,4,2,1],"fits":["gpu"]}"#).expect("valid");
        assert_eq!((set.order.policy, set.order.weights), (PolicyName::Weighted, Weights([8, 4, 2, 1])));
        assert_eq!(set.all_fits().len(), 2, "any is always there");
    }

    #[test]
    fn a_queue_out_of_range_is_refused() {
        for bad in [
            r#"{"weights":[0,1,1,1]}"#,
            r#"{"fits":["a","a"]}"#,
            r#"{"fits":[{"name":"any","covers":{"cpu_milli":1}}]}"#,
        ] {
            let entry: QueueEntry = serde_json::from_str(bad).expect("readable");
            assert!(entry.check().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<QueueEntry>(r#"{"policy":"fastest"}"#).is_err());
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
