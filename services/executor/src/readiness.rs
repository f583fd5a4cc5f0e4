//! Readiness of an executor service: the broker, the streams, its announcement, its lanes, and a loop that moves.

use jetlane::{Bus, Status};
use jetlane_bus::probe;
use jetlane_schemas::subject::{BUCKET_NOTES, BUCKET_REGISTRY, STREAM_DEAD, STREAM_DONE, STREAM_LANES, STREAM_TIME};
use jetlane_service::health::{BEAT_EVERY, Condition, Health, Heartbeat, STALL_MAX};
use std::convert::Infallible;

/// The streams that an executor reads and writes.
const STREAMS: [&str; 4] = [STREAM_LANES, STREAM_DONE, STREAM_TIME, STREAM_DEAD];
/// The buckets that it reads and writes.
const BUCKETS: [&str; 2] = [BUCKET_REGISTRY, BUCKET_NOTES];

/// The readiness of an executor.
#[derive(Debug)]
pub(crate) struct Readiness {
    broker: Condition,
    streams: Condition,
    announced: Condition,
    lanes: Condition,
    run_loop: Heartbeat,
}

impl Readiness {
    /// Registers the conditions of an executor that is starting.
    pub(crate) fn new(health: &Health) -> Self {
        Self {
            broker: health.outside_condition("broker", "not connected to NATS yet"),
            streams: health.condition("streams", "not looked for yet"),
            announced: health.condition("announced", "not announced yet"),
            lanes: health.condition("lanes", "no lane is pulled yet"),
            run_loop: health.heartbeat("run loop", STALL_MAX),
        }
    }

    /// Reports for as long as it is polled.
    pub(crate) async fn watch(&self, bus: &Bus, status: Status) -> Infallible {
        let connection = probe::connection(bus.clone(), |state| self.broker.set(state));
        let streams = probe::streams(bus.clone(), &STREAMS, &BUCKETS, |state| self.streams.set(state));
        tokio::select! {
            never = connection => never,
            never = streams => never,
            never = self.follow(status) => never,
        }
    }

    async fn follow(&self, mut status: Status) -> Infallible {
        let mut every = tokio::time::interval(BEAT_EVERY);
        let mut turns = None;
        loop {
            let report = status.report();
            self.announced.set(report.announced);
            self.lanes.set(report.pulling);
            tokio::select! {
                Some(_) = status.changed() => {}
                _ = every.tick() => {
                    let now = status.turns();
                    if turns.replace(now) != Some(now) {
                        self.run_loop.beat();
                    }
                }
            }
        }
    }
}
