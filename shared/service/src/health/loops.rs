//! Loops and their signs of life: which of them stand still.

use super::Health;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a loop that moves gives a sign of life.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long a loop may stand still before its process should be restarted: longer than the longest single wait for an
/// answer of the broker (90 s while a stream has no leader), so that waiting is no stall.
pub const STALL_MAX: Duration = Duration::from_secs(120);

/// The signs of life of one loop. Dropped, the loop has ended and counts no more.
#[derive(Debug)]
pub struct Heartbeat {
    health: Health,
    number: u64,
    beat: Beat,
}

impl Heartbeat {
    pub(super) fn new(health: Health, number: u64, beat: Beat) -> Self {
        Self { health, number, beat }
    }

    /// Gives a sign of life: one store, without a lock.
    pub fn beat(&self) {
        self.beat.give(Instant::now());
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.health.loops().all.remove(&self.number);
    }
}

/// When a loop gave its last sign, in milliseconds after the start of the process's loops.
#[derive(Debug, Clone)]
pub(super) struct Beat {
    origin: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Beat {
    fn give(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.origin);
        let elapsed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(elapsed, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.origin + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

/// Something outside is missing that loops may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outage;

/// All loops of a process.
#[derive(Debug, Default)]
pub(super) struct Loops {
    next: u64,
    all: BTreeMap<u64, Loop>,
    outage: Option<Outage>,
    /// When the last outage ended: until then nobody could move.
    judged_from: Option<Instant>,
    draining: Option<Draining>,
}

#[derive(Debug)]
struct Draining;

#[derive(Debug)]
struct Loop {
    name: String,
    bound: Duration,
    beat: Beat,
}

impl Loops {
    pub(super) fn register(&mut self, name: String, bound: Duration, now: Instant) -> (u64, Beat) {
        self.next += 1;
        let beat = Beat { origin: now, last_ms: Arc::default() };
        self.all.insert(self.next, Loop { name, bound, beat: beat.clone() });
        (self.next, beat)
    }

    /// Notes whether something outside is missing.
    pub(super) fn outside(&mut self, outage: Option<Outage>, now: Instant) {
        if self.outage.is_some() && outage.is_none() {
            self.judged_from = Some(now);
        }
        self.outage = outage;
    }

    /// Judges no loop any more: a drain has a bound of its own.
    pub(super) fn drain(&mut self) {
        self.draining = Some(Draining);
    }

    /// Describes the loops whose last sign of life is older than their bound.
    pub(super) fn stalled(&self, now: Instant) -> Vec<String> {
        if self.outage.is_some() || self.draining.is_some() {
            return Vec::new();
        }
        let stalled = self.all.values().filter_map(|each| {
            let last = each.beat.last().max(self.judged_from.unwrap_or(each.beat.origin));
            let age = now.saturating_duration_since(last);
            (age > each.bound).then(|| {
                format!("{}: no sign of life for {} s (allowed {} s)", each.name, age.as_secs(), each.bound.as_secs())
            })
        });
        stalled.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Vec<String> = Vec::new();

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn loop_without_a_sign_of_life_within_its_bound_stands_still() {
        let (mut loops, start) = (Loops::default(), Instant::now());
        let (_, quick) = loops.register("quick".into(), BEAT_EVERY * 10, start);
        let (slow, _) = loops.register("slow".into(), STALL_MAX, start);
        assert_eq!(loops.stalled(after(start, 10)), NONE, "the bound itself is allowed");
        assert_eq!(loops.stalled(after(start, 11)), ["quick: no sign of life for 11 s (allowed 10 s)"]);
        quick.give(after(start, 11));
        assert_eq!(loops.stalled(after(start, 11)), NONE);
        assert_eq!(loops.stalled(after(start, 132)).len(), 2);
        loops.all.remove(&slow);
        assert_eq!(loops.stalled(after(start, 132)).len(), 1, "a loop that has ended counts no more");
    }

    #[test]
    fn loops_that_wait_for_the_broker_do_not_stand_still() {
        let (mut loops, start) = (Loops::default(), Instant::now());
        let (_, beat) = loops.register("run loop".into(), STALL_MAX, start);
        loops.outside(Some(Outage), start);
        assert_eq!(loops.stalled(after(start, 1_000)), NONE);
        loops.outside(None, after(start, 1_000));
        assert_eq!(loops.stalled(after(start, 1_120)), NONE, "the bound begins when the broker is back");
        assert_eq!(loops.stalled(after(start, 1_121)).len(), 1);
        beat.give(after(start, 1_121));
        assert_eq!(loops.stalled(after(start, 1_121)), NONE);
    }

    #[test]
    fn draining_process_is_alive_until_its_drain_is_overdue() {
        let (mut loops, start) = (Loops::default(), Instant::now());
        loops.register("run loop".into(), STALL_MAX, start);
        loops.drain();
        assert_eq!(loops.stalled(after(start, 1_000)), NONE);
    }
}
