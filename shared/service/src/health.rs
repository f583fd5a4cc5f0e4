//! `/livez` and `/readyz`, for whoever restarts processes and sends them work.
//!
//! `/readyz` answers 200 while every [`Condition`] of the service is met, otherwise 503 with one line a reason.
//! `/livez` answers 503 once a registered loop has given no [`Heartbeat`] for longer than its bound. Plain text.
//!
//! # Layout
//! - [`Health`]: conditions and heartbeats of one process, and what follows from them
//! - [`serve`]: the HTTP server that answers probes
//!
//! Deliberately absent: metrics and control, and what a condition is about, which the service knows.

mod loops;
mod probes;

pub use loops::{BEAT_EVERY, Heartbeat, STALL_MAX};
pub use probes::serve;

use loops::Loops;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The longest reason that is kept, in characters: an error and its causes, not a whole log.
const REASON_CHARS_MAX: usize = 500;

/// Whether a process should be sent work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet: the service has registered no condition.
    Starting,
    /// Every condition is met.
    Ready,
    /// These conditions are not met.
    NotReady(Vec<Unmet>),
    /// It finishes what it has and ends. No other state follows.
    Draining,
}

/// A condition that is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// The condition: `broker`.
    pub condition: &'static str,
    /// Why it is not met: `not connected to NATS`.
    pub reason: String,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.condition, self.reason)
    }
}

/// The health of one process. Clones speak for the same process.
#[derive(Debug, Clone, Default)]
pub struct Health {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    conditions: Mutex<Conditions>,
    readiness: watch::Sender<Readiness>,
    loops: Mutex<Loops>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            conditions: Mutex::default(),
            readiness: watch::Sender::new(Readiness::Starting),
            loops: Mutex::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Conditions {
    next: u64,
    all: BTreeMap<u64, Kept>,
}

#[derive(Debug)]
struct Kept {
    name: &'static str,
    cause: Cause,
    state: Result<(), String>,
}

/// Who can mend a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// This process.
    Own,
    /// Something outside: a restart would not help, so loops that wait for it do not count as stalled.
    Outside,
}

impl Health {
    /// Registers a condition that is not met yet. It counts until the returned value is dropped.
    pub fn condition(&self, name: &'static str, reason: impl Into<String>) -> Condition {
        self.register(name, Cause::Own, reason.into())
    }

    /// Registers a condition that only the outside can meet, such as the connection to the broker. While it is not
    /// met `/livez` judges no loop: they wait for it, and a restart would only lose what the process holds.
    pub fn outside_condition(&self, name: &'static str, reason: impl Into<String>) -> Condition {
        self.register(name, Cause::Outside, reason.into())
    }

    fn register(&self, name: &'static str, cause: Cause, reason: String) -> Condition {
        let mut conditions = self.conditions();
        conditions.next += 1;
        let number = conditions.next;
        conditions.all.insert(number, Kept { name, cause, state: Err(cut(reason)) });
        self.publish(&conditions);
        Condition { health: self.clone(), number }
    }

    /// Registers a loop that gives a sign of life at least every [`BEAT_EVERY`] while it moves. `/livez` fails once
    /// the last sign is older than `bound`. It counts until the returned value is dropped.
    pub fn heartbeat(&self, name: impl Into<String>, bound: Duration) -> Heartbeat {
        let (number, beat) = self.loops().register(name.into(), bound, Instant::now());
        Heartbeat::new(self.clone(), number, beat)
    }

    /// Says that the process finishes what it has, and ends.
    pub fn draining(&self) {
        self.loops().drain();
        self.set(Readiness::Draining);
    }

    /// Returns whether the process should be sent work.
    pub fn readiness(&self) -> Readiness {
        self.shared.readiness.borrow().clone()
    }

    /// Waits until the readiness is as wanted, and returns it.
    pub async fn wait_for(&self, is_wanted: impl Fn(&Readiness) -> bool) -> Readiness {
        let mut readiness = self.shared.readiness.subscribe();
        // The sender lives as long as `self`.
        match readiness.wait_for(|now| is_wanted(now)).await {
            Ok(now) => now.clone(),
            Err(_closed) => self.readiness(),
        }
    }

    /// Returns the loops that stand still, one line each; none while they all move.
    pub fn stalled(&self) -> Vec<String> {
        self.loops().stalled(Instant::now())
    }

    fn publish(&self, conditions: &Conditions) {
        let waits = conditions.all.values().any(|kept| kept.cause == Cause::Outside && kept.state.is_err());
        self.loops().outside(waits.then_some(loops::Outage), Instant::now());
        let unmet: Vec<Unmet> = conditions
            .all
            .values()
            .filter_map(|kept| Some(Unmet { condition: kept.name, reason: kept.state.clone().err()? }))
            .collect();
        self.set(match (conditions.all.is_empty(), unmet.is_empty()) {
            (true, _) => Readiness::Starting,
            (false, true) => Readiness::Ready,
            (false, false) => Readiness::NotReady(unmet),
        });
    }

    fn set(&self, readiness: Readiness) {
        let changed = self.shared.readiness.send_if_modified(|now| {
            let changes = *now != Readiness::Draining && *now != readiness;
            if changes {
                now.clone_from(&readiness);
            }
            changes
        });
        if !changed {
            return;
        }
        match readiness {
            Readiness::Ready => tracing::info!("Ready."),
            Readiness::NotReady(unmet) => {
                let reasons: Vec<String> = unmet.iter().map(ToString::to_string).collect();
                tracing::debug!(reasons = reasons.join("; "), "Not ready.");
            }
            Readiness::Starting | Readiness::Draining => {}
        }
    }

    fn conditions(&self) -> MutexGuard<'_, Conditions> {
        self.shared.conditions.lock().expect("nobody panics while holding the conditions")
    }

    fn loops(&self) -> MutexGuard<'_, Loops> {
        self.shared.loops.lock().expect("nobody panics while holding the loops")
    }
}

/// One condition of readiness. Dropped, it counts no more.
#[derive(Debug)]
pub struct Condition {
    health: Health,
    number: u64,
}

impl Condition {
    /// Meets the condition, or says why it is not met.
    pub fn set(&self, state: Result<(), impl Into<String>>) {
        let state = state.map_err(|reason| cut(reason.into()));
        let mut conditions = self.health.conditions();
        if let Some(kept) = conditions.all.get_mut(&self.number).filter(|kept| kept.state != state) {
            kept.state = state;
            self.health.publish(&conditions);
        }
    }

    /// Meets the condition.
    pub fn meet(&self) {
        self.set(Ok::<(), String>(()));
    }

    /// Says why the condition is not met.
    pub fn fail(&self, reason: impl Into<String>) {
        self.set(Err(reason));
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        let mut conditions = self.health.conditions();
        conditions.all.remove(&self.number);
        // What ends with the last condition has not begun anew.
        if !conditions.all.is_empty() {
            self.health.publish(&conditions);
        }
    }
}

/// One line of at most [`REASON_CHARS_MAX`] characters: a probe's answer has one line a reason.
fn cut(reason: String) -> String {
    let is_plain = reason.len() <= REASON_CHARS_MAX && !reason.contains(char::is_control);
    if is_plain {
        return reason;
    }
    let line = reason.split(char::is_control).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    line.chars().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmet(condition: &'static str, reason: &str) -> Unmet {
        Unmet { condition, reason: reason.into() }
    }

    #[test]
    fn process_is_ready_while_every_condition_is_met() {
        let health = Health::default();
        assert_eq!(health.readiness(), Readiness::Starting);
        let broker = health.outside_condition("broker", "not connected");
        let lanes = health.condition("lanes", "not pulled yet");
        broker.meet();
        assert_eq!(health.readiness(), Readiness::NotReady(vec![unmet("lanes", "not pulled yet")]));
        lanes.meet();
        assert_eq!(health.readiness(), Readiness::Ready);
        broker.fail("the connection is lost");
        lanes.fail("the stream is gone");
        let both = vec![unmet("broker", "the connection is lost"), unmet("lanes", "the stream is gone")];
        assert_eq!(health.readiness(), Readiness::NotReady(both));
        broker.meet();
        drop(lanes);
        assert_eq!(health.readiness(), Readiness::Ready, "a condition that was dropped counts no more");
    }

    #[test]
    fn nothing_follows_on_draining() {
        let health = Health::default();
        let condition = health.condition("broker", "not connected");
        health.clone().draining();
        condition.meet();
        condition.fail("late");
        drop(condition);
        assert_eq!(health.readiness(), Readiness::Draining);
    }

    #[test]
    fn reason_is_one_bounded_line() {
        let health = Health::default();
        let condition = health.condition("broker", "a\r\nbroker: met\n");
        assert_eq!(health.readiness(), Readiness::NotReady(vec![unmet("broker", "a broker: met")]));
        condition.fail("x".repeat(10_000));
        let Readiness::NotReady(found) = health.readiness() else { panic!("not ready") };
        assert_eq!(found[0].reason.len(), REASON_CHARS_MAX);
    }
}
