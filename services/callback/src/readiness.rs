//! Readiness of a callback service: the broker, the streams, its consumers, and a loop that moves.

use jetlane_bus::{Bus, probe};
use jetlane_schemas::subject::{BUCKET_REGISTRY, STREAM_DEAD, STREAM_DONE, STREAM_TASKS, STREAM_TIME};
use jetlane_service::health::{Condition, Health, Heartbeat, STALL_MAX};
use std::convert::Infallible;

/// The streams that the service reads and writes.
const STREAMS: [&str; 4] = [STREAM_TIME, STREAM_DONE, STREAM_DEAD, STREAM_TASKS];
/// The buckets that it reads.
const BUCKETS: [&str; 1] = [BUCKET_REGISTRY];

/// The readiness of a callback service.
#[derive(Debug)]
pub(crate) struct Readiness {
    health: Health,
    broker: Condition,
    streams: Condition,
}

impl Readiness {
    /// Registers the conditions of a service that is starting.
    pub(crate) fn new(health: Health) -> Self {
        let broker = health.outside_condition("broker", "not connected to NATS yet");
        let streams = health.condition("streams", "not looked for yet");
        Self { health, broker, streams }
    }

    /// Registers a consumer that is not read yet.
    pub(crate) fn consumer(&self) -> Condition {
        self.health.condition("callbacks", "not read yet")
    }

    /// Registers a loop that must move.
    pub(crate) fn heartbeat(&self, name: impl Into<String>) -> Heartbeat {
        self.health.heartbeat(name, STALL_MAX)
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
}
