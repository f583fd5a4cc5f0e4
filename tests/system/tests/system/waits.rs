//! Waiting for what nobody tells: looked at again and again, for no longer than a test may take.

use jetlane_bus::Bus;
use jetlane_schemas::subject::{DUE_ALL, STREAM_LANES, STREAM_TASKS, STREAM_TIME};
use jetlane_testkit::{Kit, PATIENCE};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often is looked: often enough that no test waits for it, seldom enough for two cores.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until there is something, and returns it.
pub(crate) async fn until_some<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "not in time: {what}");
    }
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    until_some(what, async || look().await.then_some(())).await;
}

/// Waits until a type is known to the kit's client: what is submitted from here on goes by the SDK's door.
pub(crate) async fn announced(kit: &Kit, task_type: &str) {
    let task_type = task_type.parse().expect("valid");
    until("the type is announced", async || kit.client().task_type(&task_type).is_some()).await;
}

/// Waits until nothing is left to do: no task waits, is held, or is redelivered for ever. What a work
/// queue still has is pending or not acknowledged. `but` names subjects whose messages are to stay.
pub(crate) async fn drained(bus: &Bus, but: &[&str]) {
    let until = Instant::now() + PATIENCE;
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let mut left = BTreeMap::new();
        for (stream, filter) in [(STREAM_TASKS, ">"), (STREAM_TIME, DUE_ALL), (STREAM_LANES, ">")] {
            left.extend(bus.subject_counts(stream, filter).await.expect("can be counted"));
        }
        left.retain(|subject, _| !but.contains(&subject.as_str()));
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "messages stay behind: {left:?}");
    }
}
