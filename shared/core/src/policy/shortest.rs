//! `sjf` and `srtf`: the least estimate first, among equals the oldest.
//!
//! `srtf` is the same order over what waits, where a task that has yielded waits with what remains of it;
//! beside that it names contenders, for which running tasks are asked to yield.

use super::Policy;
use super::sorted::Sorted;
use crate::entry::{Entry, EntryId, Lanes};
use jetlane_schemas::Micros;

/// Shortest first.
#[derive(Debug, Clone)]
pub(super) struct Shortest {
    tasks: Sorted<(Micros, Micros)>,
    running: Running,
}

/// What becomes of running tasks that have much more left to do than a waiting one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    /// They go on.
    Stay,
    /// They are asked to yield.
    Yield,
}

impl Shortest {
    /// `sjf`.
    pub(super) fn first() -> Self {
        Self { tasks: Sorted::default(), running: Running::Stay }
    }

    /// `srtf`.
    pub(super) fn remaining() -> Self {
        Self { running: Running::Yield, ..Self::first() }
    }
}

fn key(entry: &Entry) -> (Micros, Micros) {
    (entry.estimate, entry.first_arrival)
}

impl Policy for Shortest {
    fn add(&mut self, _now: Micros, entry: &Entry) {
        self.tasks.add(entry, key(entry));
    }

    fn remove(&mut self, entry: &Entry) {
        self.tasks.remove(entry, key(entry));
    }

    fn take(&mut self, _now: Micros, lanes: Lanes) -> Option<EntryId> {
        self.tasks.pop(lanes).map(|(_, id)| id)
    }

    fn contender(&self, nth: usize, lanes: Lanes) -> Option<Micros> {
        match self.running {
            Running::Stay => None,
            Running::Yield => self.tasks.nth(nth, lanes).map(|(estimate, _)| estimate),
        }
    }

    fn copy(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}
