//! How many tasks wait at an executor beside those that run: as many as its slots use up while the
//! leader hears of a free one and sends the next, and no more, since what waits here is out of the
//! policy's hands (docs/scheduling.md).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A hop that takes at most this part of a run needs one task in hand.
const SHORT_HOP: f64 = 0.05;
/// A hop is the announcement of room, which waits for its pace, and a store of the leader's, as long as
/// one of the executor's own; the way there and back is in that twice.
const HOP_PACE: Duration = Duration::from_millis(1);
const HOP_STORES: u32 = 2;
/// What is assumed of a store before one was measured.
const STORE_ASSUMED: Duration = Duration::from_millis(1);
/// The part of a new measurement in the mean: one in so many.
const MEAN_OVER: u64 = 16;

/// How many tasks wait beside those that run.
#[derive(Debug)]
pub(crate) struct Prefetch {
    fixed: Option<usize>,
    runs: Mean,
    stores: Mean,
}

impl Prefetch {
    /// So many, or as many as are needed.
    pub(crate) fn new(fixed: Option<usize>) -> Self {
        Self { fixed, runs: Mean::default(), stores: Mean::default() }
    }

    /// A handler ran for so long.
    pub(crate) fn ran(&self, took: Duration) {
        self.runs.add(took);
    }

    /// A completion took so long to store.
    pub(crate) fn stored(&self, took: Duration) {
        self.stores.add(took);
    }

    /// How many while so many of the slots may be used: at least one and at most as many as those. What
    /// was said is for all slots; of fewer it is the same part.
    pub(crate) fn tasks(&self, limit: usize, slots: usize) -> usize {
        if let Some(fixed) = self.fixed {
            return (fixed * limit).div_ceil(slots.max(1));
        }
        let slots = limit;
        let Some(run) = self.runs.get() else { return (slots / 8).max(1) };
        let hop = HOP_PACE + self.stores.get().unwrap_or(STORE_ASSUMED) * HOP_STORES;
        let runs_a_hop = hop.as_secs_f64() / run.as_secs_f64().max(1e-6);
        if runs_a_hop <= SHORT_HOP {
            return 1;
        }
        ((slots as f64 * runs_a_hop).ceil() as usize).clamp(1, slots.max(1))
    }
}

/// A moving mean. A measurement that another overtakes is lost, which changes little.
#[derive(Debug, Default)]
struct Mean(AtomicU64);

impl Mean {
    fn add(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let before = self.0.load(Ordering::Relaxed);
        let mean = if before == 0 { took } else { before - before / MEAN_OVER + took / MEAN_OVER };
        self.0.store(mean.max(1), Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        let mean = self.0.load(Ordering::Relaxed);
        (mean > 0).then(|| Duration::from_nanos(mean))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(runs: Duration, stores: Duration) -> Prefetch {
        let prefetch = Prefetch::new(None);
        for _ in 0..100 {
            prefetch.ran(runs);
            prefetch.stored(stores);
        }
        prefetch
    }

    #[test]
    fn long_runs_leave_one_task_waiting() {
        assert_eq!(after(Duration::from_secs(1), Duration::from_millis(1)).tasks(16, 16), 1);
    }

    #[test]
    fn as_many_wait_as_the_slots_use_up_in_a_hop() {
        // A hop of 3 ms, runs of 12 ms: a quarter of the slots.
        assert_eq!(after(Duration::from_millis(12), Duration::from_millis(1)).tasks(16, 16), 4);
    }

    #[test]
    fn no_more_wait_than_there_are_slots() {
        assert_eq!(after(Duration::from_micros(10), Duration::from_millis(1)).tasks(16, 16), 16);
    }

    #[test]
    fn what_was_said_is_kept_and_a_new_executor_begins_with_an_eighth() {
        let said = Prefetch::new(Some(0));
        said.ran(Duration::from_micros(10));
        assert_eq!(said.tasks(16, 16), 0);
        let said = Prefetch::new(Some(4));
        assert_eq!([16, 8, 1].map(|limit| said.tasks(limit, 16)), [4, 2, 1]);
        assert_eq!((Prefetch::new(None).tasks(16, 16), Prefetch::new(None).tasks(1, 1)), (2, 1));
    }
}
