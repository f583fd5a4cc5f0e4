//! What a dispatcher can be told.

use jetlane_bus::topology::Settings;
use jetlane_schemas::QueueName;
use jetlane_schemas::limits::BUNDLE_TASKS_MAX;
use serde::Deserialize;

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
    pub bundle_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        let (queues, name) = (Vec::new(), String::new());
        Self { queues, name, streams: Settings::default(), bundle_max: BUNDLE_TASKS_MAX }
    }
}

impl Config {
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
