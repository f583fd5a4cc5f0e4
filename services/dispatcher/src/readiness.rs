//! Readiness of a dispatcher: the broker, the streams, the leases of its queues, and loops that move.

use jetlane_bus::{Bus, probe};
use jetlane_schemas::QueueName;
use jetlane_schemas::subject::{
    BUCKET_LEASES, BUCKET_NOTES, BUCKET_REGISTRY, STREAM_ADVISORIES, STREAM_DEAD, STREAM_DONE, STREAM_LANES,
    STREAM_TASKS, STREAM_TIME,
};
use jetlane_service::health::{Condition, Health, Heartbeat, STALL_MAX};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

/// The streams that a dispatcher reads and writes.
const STREAMS: [&str; 6] = [STREAM_TASKS, STREAM_TIME, STREAM_LANES, STREAM_DONE, STREAM_DEAD, STREAM_ADVISORIES];
/// The buckets that it reads and writes.
const BUCKETS: [&str; 3] = [BUCKET_REGISTRY, BUCKET_LEASES, BUCKET_NOTES];
/// Queues that a reason names; the others are counted.
const QUEUES_NAMED_MAX: usize = 3;

/// The readiness of a dispatcher. Clones report for the same process.
#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    health: Health,
    broker: Arc<Condition>,
    streams: Arc<Condition>,
    leases: Arc<Leases>,
}

#[derive(Debug)]
struct Leases {
    condition: Condition,
    /// Queues whose lease cannot be had, and why. One that another dispatcher leads is none of them.
    failing: Mutex<BTreeMap<QueueName, String>>,
}

impl Readiness {
    /// Registers the conditions of a dispatcher that is starting.
    pub(crate) fn new(health: &Health) -> Self {
        let broker = Arc::new(health.outside_condition("broker", "not connected to NATS yet"));
        let streams = Arc::new(health.condition("streams", "not looked for yet"));
        let condition = health.condition("leases", "no lease has been asked for yet");
        let leases = Arc::new(Leases { condition, failing: Mutex::default() });
        Self { health: health.clone(), broker, streams, leases }
    }

    /// Reports on broker and streams for as long as it is polled.
    pub(crate) async fn watch(&self, bus: &Bus) -> Infallible {
        let connection = probe::connection(bus.clone(), |state| self.broker.set(state));
        let streams = probe::streams(bus.clone(), &STREAMS, &BUCKETS, |state| self.streams.set(state));
        tokio::select! {
            never = connection => never,
            never = streams => never,
        }
    }

    /// Registers a loop that must move.
    pub(crate) fn heartbeat(&self, name: impl Into<String>) -> Heartbeat {
        self.health.heartbeat(name, STALL_MAX)
    }

    /// Reports that the supervisor asks for leases from now on, and of nothing that was asked before.
    pub(crate) fn begun(&self) {
        self.leases.report(BTreeMap::clear);
    }

    /// Reports whether the lease of a queue can be had, here or elsewhere.
    pub(crate) fn lease(&self, queue: &QueueName, state: Result<(), String>) {
        self.leases.report(|failing| match state {
            Ok(()) => drop(failing.remove(queue)),
            Err(reason) => drop(failing.insert(queue.clone(), reason)),
        });
    }
}

impl Leases {
    fn report(&self, change: impl FnOnce(&mut BTreeMap<QueueName, String>)) {
        let mut failing = self.failing.lock().expect("nobody panics while holding the failing leases");
        change(&mut failing);
        if failing.is_empty() {
            return self.condition.meet();
        }
        let named = failing.iter().take(QUEUES_NAMED_MAX).map(|(queue, reason)| format!("queue {queue}: {reason}"));
        let mut reason = named.collect::<Vec<_>>().join("; ");
        if failing.len() > QUEUES_NAMED_MAX {
            reason = format!("{reason}; and {} more", failing.len() - QUEUES_NAMED_MAX);
        }
        self.condition.fail(reason);
    }
}
