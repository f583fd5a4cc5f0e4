//! Leases of runs: signs of life for what is held, sent from outside the handlers and confirmed by
//! the server. A lease is over for good once the ack time has passed since the last confirmed sign was
//! *sent*, by a clock that counts suspension (design, decision 7).

use futures::StreamExt;
use jetlane_bus::Ack;
use jetlane_bus::clock::Boottime;
use jetlane_bus::flows::{LANE_ACK_WAIT, LANE_HOLD_EVERY};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// Signs of life in flight at once.
const SIGNS_IN_FLIGHT: usize = 64;

/// The lease of one message that is held.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    /// When the last confirmed sign was sent; `None` once it is over.
    proven: Arc<Mutex<Option<Boottime>>>,
}

impl Lease {
    /// A lease that begins with the delivery.
    pub(crate) fn begin() -> Self {
        Self { proven: Arc::new(Mutex::new(Some(Boottime::now()))) }
    }

    /// Whether this run may still act for its task.
    pub(crate) fn holds(&self) -> bool {
        self.lock().is_some_and(|proven| Boottime::now().since(proven) < LANE_ACK_WAIT)
    }

    /// It is over, for good.
    pub(crate) fn end(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Boottime>> {
        self.proven.lock().expect("nobody panics while holding a lease")
    }

    /// A sign that was sent at `sent` has been answered. A lease that is over does not come back.
    fn prove(&self, sent: Boottime) {
        let mut proven = self.lock();
        *proven = proven.filter(|proven| Boottime::now().since(*proven) < LANE_ACK_WAIT).map(|proven| sent.max(proven));
    }
}

struct Held {
    ack: Ack,
    lease: Lease,
    since: Boottime,
    lost: CancellationToken,
}

/// Everything that an executor holds.
#[derive(Default)]
pub(crate) struct Holding {
    held: Mutex<(u64, HashMap<u64, Held>)>,
}

impl Holding {
    /// Begins to give signs of life for a message; `lost` is cancelled when its lease is over.
    pub(crate) fn hold(&self, ack: Ack, lost: CancellationToken) -> (u64, Lease) {
        let lease = Lease::begin();
        let mut held = self.lock();
        held.0 += 1;
        let number = held.0;
        held.1.insert(number, Held { ack, lease: lease.clone(), since: Boottime::now(), lost });
        (number, lease)
    }

    /// Ends the signs of life for a message that is settled.
    pub(crate) fn release(&self, number: u64) {
        self.lock().1.remove(&number);
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<u64, Held>)> {
        self.held.lock().expect("nobody panics while holding the list of what is held")
    }

    /// Gives a sign of life for everything that is held, again and again.
    pub(crate) async fn keep_alive(self: Arc<Self>) {
        let mut every = tokio::time::interval(LANE_HOLD_EVERY / 3);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.give_signs().await;
        }
    }

    pub(super) async fn give_signs(&self) {
        let now = Boottime::now();
        let due: Vec<(Ack, Lease)> = self
            .lock()
            .1
            .values_mut()
            .filter(|held| {
                if !held.lease.holds() {
                    held.lease.end();
                    held.lost.cancel();
                }
                now.since(held.since) >= LANE_HOLD_EVERY && held.lease.holds()
            })
            .map(|held| {
                held.since = now;
                (held.ack.clone(), held.lease.clone())
            })
            .collect();
        futures::stream::iter(due)
            .for_each_concurrent(SIGNS_IN_FLIGHT, |(ack, lease)| async move {
                let sent = Boottime::now();
                if ack.hold_confirmed(LANE_HOLD_EVERY).await {
                    lease.prove(sent);
                }
            })
            .await;
    }
}
