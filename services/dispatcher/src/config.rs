//! What a dispatcher can be told.

use jetlane_bus::topology::Settings;
use jetlane_schemas::limits::BUNDLE_TASKS_MAX;
use jetlane_schemas::{Micros, QueueName};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// The section `[dispatcher]`, or `JETLANE_DISPATCHER_<FIELD>`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The queues that it may lead. Default none named, which means all.
    pub queues: Vec<QueueName>,
    /// The name under which it holds leases, for people who read them. Default `dispatcher`; what makes
    /// it unique is added.
    pub name: String,
    /// How the streams are kept, where this dispatcher is the first to need them.
    pub streams: Settings,
    /// The most tasks of one message of a lane, 1 to 128; 1 turns bundles off. Default 128.
    #[serde(deserialize_with = "bundle_max")]
    pub bundle_max: usize,
    /// How long a task is kept whose type nobody has announced, or whose needs no declared fit covers, in seconds.
    /// Then it is rejected and dead-lettered. Default 604800: 7 days.
    pub unserved_kept_s: u64,
}

fn bundle_max<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let tasks = usize::deserialize(deserializer)?;
    if (1..=BUNDLE_TASKS_MAX).contains(&tasks) {
        return Ok(tasks);
    }
    Err(D::Error::custom(format!("the most tasks of a message must be 1 to {BUNDLE_TASKS_MAX}, not {tasks}")))
}

impl Default for Config {
    fn default() -> Self {
        let (queues, name) = (Vec::new(), String::new());
        Self {
            queues,
            name,
            streams: Settings::default(),
            bundle_max: BUNDLE_TASKS_MAX,
            unserved_kept_s: UNSERVED_KEPT_S,
        }
    }
}

/// A week: longer than the weekend after a deployment that went wrong.
const UNSERVED_KEPT_S: u64 = 7 * 24 * 60 * 60;

impl Config {
    /// How long a task is kept that nobody serves.
    pub(crate) fn unserved_kept(&self) -> Micros {
        Micros(self.unserved_kept_s.saturating_mul(1_000_000))
    }

    /// Whether this dispatcher may lead the queue.
    pub(crate) fn serves(&self, queue: &QueueName) -> bool {
        self.queues.is_empty() || self.queues.contains(queue)
    }

    /// A holder of leases, new at every start.
    pub(crate) fn holder(&self) -> String {
        let name = if self.name.is_empty() { "dispatcher" } else { &self.name };
        format!("{name}-{}", jetlane_schemas::RunToken::draw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_have_one_to_128_tasks() {
        let read = |json: &str| serde_json::from_str::<Config>(json);
        for (json, bundle_max) in [("{}", 128), (r#"{"bundle_max":1}"#, 1), (r#"{"bundle_max":128}"#, 128)] {
            assert_eq!(read(json).expect("in range").bundle_max, bundle_max);
        }
        for json in [r#"{"bundle_max":0}"#, r#"{"bundle_max":129}"#] {
            let error = read(json).expect_err("out of range").to_string();
            assert!(error.contains("1 to 128"), "{error}");
        }
    }
}
