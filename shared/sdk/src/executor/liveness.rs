//! Notices that this process stood still (stopped, suspended, starved): what it reads next may have lain
//! unread for longer than its ack wait, and may run elsewhere.

use super::owners::Owners;
use jetlane_bus::clock::Boottime;
use jetlane_bus::flows::LANE_ACK_WAIT;
use jetlane_core::run::Freshness;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often it is noted that the process runs.
const TICK: Duration = Duration::from_secs(1);
/// A tick that is later than this means that messages may have lain unread: half of their ack wait.
const STALL_MAX: Duration = Duration::from_secs(LANE_ACK_WAIT.as_secs() / 2);

/// When the process last ran, as far as what it reads is concerned.
pub(crate) struct Liveness(Mutex<Boottime>);

impl Default for Liveness {
    fn default() -> Self {
        Self(Mutex::new(Boottime::now()))
    }
}

impl Liveness {
    /// Whether what is read now was sent not long ago.
    pub(crate) fn of(&self, received: Boottime) -> Freshness {
        let ticked = *self.0.lock().expect("nobody panics while holding a time");
        if received.since(ticked) > STALL_MAX { Freshness::Stale } else { Freshness::Fresh }
    }

    /// Notes again and again that the process runs. After it stood still, what arrives is stale until everything that
    /// had been sent before has been read: a question to itself comes back behind it.
    pub(crate) async fn watch(self: Arc<Self>, owners: Arc<Owners>) {
        let mut last = Boottime::now();
        loop {
            tokio::time::sleep(TICK).await;
            let now = Boottime::now();
            if now.since(last) > STALL_MAX {
                let stood_ms = now.since(last).as_millis() as u64;
                tracing::warn!(
                    stood_ms,
                    "This process stood still; what arrived meanwhile is looked up before it runs."
                );
                while !owners.round_trip().await {
                    tokio::time::sleep(TICK).await;
                }
                // What was read by then is taken from its subscriptions.
                tokio::time::sleep(TICK).await;
            }
            last = Boottime::now();
            *self.0.lock().expect("nobody panics while holding a time") = last;
        }
    }
}
