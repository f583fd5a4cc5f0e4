//! How many tasks go into one message of a lane: as many as can go at once, within bounds that keep one
//! executor from taking what several could share, and one long run from holding its neighbours' message
//! (design, decision 15).

use jetlane_schemas::Micros;
use jetlane_schemas::limits::BUNDLE_TASKS_MAX;

/// The most bytes of one bundle: past this the number of messages is not what costs.
pub const BUNDLE_BYTES_MAX: usize = 64 * 1024;
/// How long an executor may need for all tasks of a bundle: half of a run's lease of 10 s, so that what
/// a dead executor leaves is elsewhere about as soon as a single task would be.
pub const BUNDLE_RUN_MAX: Micros = Micros(5_000_000);

/// How much one message of a fit's lanes may carry now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Tasks: an executor's part of the room.
    pub tasks: u32,
    /// How many of them run at once on one executor.
    pub slots: u32,
    /// From so many tasks on it is worth no waiting: half of what one executor runs at once, `most` at most.
    pub full: u32,
}

impl Bound {
    /// The part of one of so many executors, with this room and these slots together; at most `most` tasks.
    pub(crate) fn share(room: u64, slots: u64, executors: u64, most: usize) -> Self {
        let executors = executors.max(1);
        let most = most.clamp(1, BUNDLE_TASKS_MAX) as u64;
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let slots = (slots / executors).max(1);
        Self {
            tasks: number((room / executors).clamp(1, most)),
            slots: number(slots),
            full: number((slots / 2).clamp(1, most)),
        }
    }
}

/// What is asked of a bundle: to take one more task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct More {
    /// Its size in the frame.
    pub bytes: usize,
    /// What nearly all runs of its kind stay under; `None` where too little is known of them.
    pub run_most: Option<Micros>,
}

/// A bundle that is being filled.
#[derive(Debug, Clone, Copy)]
pub struct Filling {
    tasks: u32,
    bytes: usize,
    /// The runs of all its tasks, one after the other; `None` where one is not known.
    run: Option<Micros>,
}

impl Filling {
    /// A bundle with its first task, which it always takes.
    pub fn begin(first: More) -> Self {
        Self { tasks: 1, bytes: first.bytes, run: first.run_most }
    }

    /// How many tasks it has.
    pub fn tasks(&self) -> u32 {
        self.tasks
    }

    /// Takes another task, if this bound allows it; says whether it has.
    #[must_use]
    pub fn take(&mut self, bound: Bound, more: More) -> bool {
        let (Some(run), Some(run_most)) = (self.run, more.run_most) else { return false };
        let run = Micros(run.0.saturating_add(run_most.0));
        let bytes = self.bytes.saturating_add(more.bytes);
        let is_short = run.0 / u64::from(bound.slots) <= BUNDLE_RUN_MAX.0 && run_most <= BUNDLE_RUN_MAX;
        if self.tasks >= bound.tasks || bytes > BUNDLE_BYTES_MAX || !is_short {
            return false;
        }
        (self.tasks, self.bytes, self.run) = (self.tasks + 1, bytes, Some(run));
        true
    }

    /// Whether it goes without waiting for more.
    pub fn is_full(&self, bound: Bound) -> bool {
        self.tasks >= bound.full || self.bytes >= BUNDLE_BYTES_MAX || self.run.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(bound: Bound, more: More) -> u32 {
        let mut filling = Filling::begin(more);
        (0..1_000).for_each(|_| {
            let _taken = filling.take(bound, more);
        });
        filling.tasks
    }

    const SHORT: More = More { bytes: 300, run_most: Some(Micros(100)) };

    #[test]
    fn an_executor_gets_its_part_of_the_room_and_at_least_one() {
        assert_eq!(Bound::share(80, 64, 8, 128), Bound { tasks: 10, slots: 8, full: 4 });
        assert_eq!(Bound::share(3, 64, 8, 128).tasks, 1);
        assert_eq!(Bound::share(4_000, 64, 1, 128).tasks, 128);
        assert_eq!(Bound::share(4_000, 64, 1, 1).tasks, 1, "bundles are off");
        assert_eq!(Bound::share(10, 0, 0, 128), Bound { tasks: 10, slots: 1, full: 1 }, "nobody is known yet");
    }

    #[test]
    fn a_bundle_takes_what_its_bound_allows() {
        assert_eq!(filled(Bound { tasks: 10, slots: 8, full: 4 }, SHORT), 10);
        let large = More { bytes: 20_000, ..SHORT };
        assert_eq!(filled(Bound { tasks: 10, slots: 8, full: 4 }, large), 3, "64 KiB");
        let larger = More { bytes: 100_000, ..SHORT };
        assert_eq!(filled(Bound { tasks: 10, slots: 8, full: 4 }, larger), 1, "the first is always taken");
    }

    #[test]
    fn what_runs_long_or_is_not_known_goes_alone() {
        let bound = Bound { tasks: 128, slots: 4, full: 2 };
        let second = More { run_most: Some(Micros(1_000_000)), ..SHORT };
        assert_eq!(filled(bound, second), 20, "twenty of a second each, four at once: half the lease");
        assert_eq!(filled(bound, More { run_most: Some(Micros(6_000_000)), ..SHORT }), 1);
        assert_eq!(filled(bound, More { run_most: None, ..SHORT }), 1);
        let mut short = Filling::begin(SHORT);
        assert!(!short.take(bound, More { run_most: None, ..SHORT }), "an unknown one joins nobody");
    }

    #[test]
    fn half_of_what_an_executor_runs_and_what_nobody_can_join_wait_for_nothing() {
        let bound = Bound::share(80, 64, 8, 128);
        let mut filling = Filling::begin(SHORT);
        for tasks in 1..4 {
            assert!(!filling.is_full(bound), "with {tasks}");
            assert!(filling.take(bound, SHORT));
        }
        assert!(filling.is_full(bound));
        assert!(Filling::begin(More { run_most: None, ..SHORT }).is_full(bound));
        assert!(Filling::begin(SHORT).is_full(Bound::share(80, 64, 8, 1)), "bundles are off");
    }
}
