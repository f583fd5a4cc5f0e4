//! Leases of messages in hand: signs of life sent from outside the handlers and confirmed by the server.
//!
//! A lease lapses once the ack time has passed since the last confirmed sign was *sent*, by a clock that counts
//! suspension (design, decision 7). A lapsed lease is renewed by a redelivery of the message to this executor, or
//! after every other executor was asked and none runs its tasks; it is lost once another one does.

use futures::StreamExt;
use jetlane_bus::clock::Boottime;
use jetlane_bus::flows::{LANE_ACK_WAIT, LANE_HOLD_EVERY};
use jetlane_bus::{Ack, Delivery};
use jetlane_core::run::{Custody, Hold, OUTAGE_MAX};
use jetlane_mutants::mutant;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// Signs of life in flight at once.
const SIGNS_IN_FLIGHT: usize = 64;

/// Identifies a message of the lanes' stream: its sequence, and when it was stored, which tells it from one of an
/// earlier stream.
pub(crate) type MessageKey = (u64, u64);

/// The key of a delivered message.
pub(crate) fn key_of(delivery: &Delivery) -> MessageKey {
    (delivery.facts.stream_sequence, delivery.facts.stored_at.0)
}

/// The lease of one message. Clones are the same lease.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// How often the message has been delivered, as far as this lease depends on it.
    delivered: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    hold: Hold,
    /// When the last confirmed sign was sent.
    proven: Boottime,
    ack: Ack,
    /// Deliveries of further messages with the same run: settled with this one.
    others: Vec<Ack>,
}

impl State {
    fn refresh(&mut self) -> Hold {
        mutant!(LeaseNotChecked => { return Hold::Holds });
        if self.hold == Hold::Holds && Boottime::now().since(self.proven) >= LANE_ACK_WAIT {
            self.hold = Hold::Lapsed;
        }
        self.hold
    }
}

impl Lease {
    /// A lease that begins when a delivery was received.
    fn begin(ack: Ack, delivered: u64, received: Boottime) -> Self {
        let state = Mutex::new(State { hold: Hold::Holds, proven: received, ack, others: Vec::new() });
        Self { shared: Arc::new(Shared { delivered: AtomicU64::new(delivered), state }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("nobody panics while holding a lease")
    }

    /// Whether this run may still act for its task.
    pub(crate) fn holds(&self) -> bool {
        self.state() == Hold::Holds
    }

    /// Whether it holds, has lapsed, or is lost.
    pub(crate) fn state(&self) -> Hold {
        self.lock().refresh()
    }

    /// How often the message has been delivered, as far as its tasks that have not begun are concerned.
    pub(crate) fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// It is lost: another executor runs the tasks.
    pub(crate) fn lose(&self) {
        self.lock().hold = Hold::Lost;
    }

    /// The acks that settle it.
    pub(crate) fn acks(&self) -> (Ack, Vec<Ack>) {
        let mut state = self.lock();
        (state.ack.clone(), std::mem::take(&mut state.others))
    }

    /// The ack subject of the newest delivery.
    pub(crate) fn ack_subject(&self) -> String {
        self.lock().ack.subject().to_owned()
    }

    /// A sign that was sent at `sent` has been answered. A lease that has lapsed does not come back by it.
    fn prove(&self, sent: Boottime) {
        let mut state = self.lock();
        if state.refresh() == Hold::Holds {
            state.proven = state.proven.max(sent);
        }
    }

    /// No other executor runs the tasks, and a sign that was sent at `sent` has been answered.
    pub(crate) fn win_back(&self, sent: Boottime) {
        let mut state = self.lock();
        if state.hold == Hold::Lapsed {
            (state.hold, state.proven) = (Hold::Holds, sent);
            drop(state);
            self.doubt();
        }
    }

    /// Another run of the message's tasks may have begun or be stored: what follows from them is looked up first.
    pub(crate) fn doubt(&self) {
        self.shared.delivered.fetch_max(2, Ordering::Relaxed);
    }

    /// Gives one confirmed sign of life; says whether the server answered.
    pub(crate) async fn sign(&self) -> bool {
        let ack = self.lock().ack.clone();
        ack.hold_confirmed(LANE_HOLD_EVERY).await
    }

    /// Settles another message with the same run together with this one.
    pub(crate) fn attach(&self, ack: Ack) {
        let mut state = self.lock();
        if state.others.iter().all(|other| other.subject() != ack.subject()) {
            state.others.push(ack);
        }
    }

    /// Goes on under a new delivery of the message. A lost lease stays lost.
    fn adopt(&self, ack: Ack, delivered: u64, received: Boottime) -> Custody {
        let mut state = self.lock();
        match state.refresh() {
            Hold::Lost => return Custody::New,
            Hold::Holds => {}
            // Another executor may have had it in between: what has not begun here may have begun there.
            Hold::Lapsed => self.shared.delivered.store(delivered, Ordering::Relaxed),
        }
        (state.hold, state.proven, state.ack) = (Hold::Holds, state.proven.max(received), ack);
        Custody::Held
    }
}

struct Held {
    number: u64,
    lease: Lease,
    since: Boottime,
    lost: CancellationToken,
}

/// The messages in the hands of an executor.
#[derive(Default)]
pub(crate) struct Holding {
    held: Mutex<(u64, HashMap<MessageKey, Held>)>,
}

impl Holding {
    /// Begins to give signs of life for a message; `lost` is cancelled when its lease is lost. `None` where the message
    /// is in hand already: it goes on under this delivery.
    pub(crate) fn hold(
        &self,
        key: MessageKey,
        ack: Ack,
        delivered: u64,
        received: Boottime,
        lost: CancellationToken,
    ) -> Option<(u64, Lease)> {
        let mut held = self.lock();
        let (last, held) = &mut *held;
        if let Some(earlier) = held.get(&key)
            && earlier.lease.adopt(ack.clone(), delivered, received) == Custody::Held
        {
            return None;
        }
        *last += 1;
        let lease = Lease::begin(ack, delivered, received);
        held.insert(key, Held { number: *last, lease: lease.clone(), since: received, lost });
        Some((*last, lease))
    }

    /// Ends the signs of life for a message that is settled.
    pub(crate) fn release(&self, key: MessageKey, number: u64) {
        let mut held = self.lock();
        if held.1.get(&key).is_some_and(|held| held.number == number) {
            held.1.remove(&key);
        }
    }

    /// Goes on under a new delivery where the message is in hand.
    pub(crate) fn adopt(&self, key: MessageKey, ack: Ack, delivered: u64, received: Boottime) -> Custody {
        let lease = self.lock().1.get(&key).map(|held| held.lease.clone());
        lease.map_or(Custody::New, |lease| lease.adopt(ack, delivered, received))
    }

    fn lock(&self) -> MutexGuard<'_, (u64, HashMap<MessageKey, Held>)> {
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
        let due: Vec<Lease> = self
            .lock()
            .1
            .values_mut()
            .filter(|held| {
                let mut state = held.lease.lock();
                if state.refresh() == Hold::Lapsed && now.since(state.proven) > OUTAGE_MAX {
                    state.hold = Hold::Lost;
                }
                if state.hold == Hold::Lost {
                    held.lost.cancel();
                }
                state.hold == Hold::Holds && now.since(held.since) >= LANE_HOLD_EVERY
            })
            .map(|held| {
                held.since = now;
                held.lease.clone()
            })
            .collect();
        futures::stream::iter(due)
            .for_each_concurrent(SIGNS_IN_FLIGHT, |lease| async move {
                let sent = Boottime::now();
                let others = lease.lock().others.clone();
                for other in others {
                    if let Err(error) = other.hold().await {
                        tracing::debug!(%error, "A sign of life was not sent.");
                    }
                }
                if lease.sign().await {
                    lease.prove(sent);
                }
            })
            .await;
    }
}
