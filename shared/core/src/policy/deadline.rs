//! `edf`: the earliest deadline first, among those that can still be met.
//!
//! Earliest-deadline-first is best while everything can be met and worst once it cannot: a task that is
//! late makes the next one late too. So each task is tested when its turn comes, and one that would end
//! past its deadline stands back behind all that would not, first in first out, together with those
//! that have no deadline.

use super::Policy;
use super::sorted::Sorted;
use crate::entry::{Entry, EntryId, Lanes};
use jetlane_schemas::Micros;

/// Earliest deadline first, with the late ones last.
#[derive(Debug, Clone, Default)]
pub(super) struct EarliestDeadline {
    hopeful: Sorted<Hope>,
    rest: Sorted<Micros>,
}

/// What the hopeful are sorted by, and what their test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hope {
    due: Micros,
    estimate: Micros,
    first_arrival: Micros,
}

impl Hope {
    fn of(entry: &Entry) -> Option<Self> {
        entry.due.map(|due| Self { due, estimate: entry.estimate, first_arrival: entry.first_arrival })
    }
}

impl EarliestDeadline {
    /// Moves those that cannot be met any more out of the way of those that can.
    fn set_back(&mut self, now: Micros, lanes: Lanes) {
        while let Some((hope, id, lane)) = self.hopeful.first(lanes)
            && now.0.saturating_add(hope.estimate.0) > hope.due.0
        {
            self.hopeful.pop(lanes);
            self.rest.add_to(lane, id, hope.first_arrival);
        }
    }
}

impl Policy for EarliestDeadline {
    fn add(&mut self, _now: Micros, entry: &Entry) {
        match Hope::of(entry) {
            Some(hope) => self.hopeful.add(entry, hope),
            None => self.rest.add(entry, entry.first_arrival),
        }
    }

    fn remove(&mut self, entry: &Entry) {
        let was_hopeful = Hope::of(entry).is_some_and(|hope| self.hopeful.remove(entry, hope));
        if !was_hopeful {
            self.rest.remove(entry, entry.first_arrival);
        }
    }

    fn take(&mut self, now: Micros, lanes: Lanes) -> Option<EntryId> {
        self.set_back(now, lanes);
        if let Some((_, id)) = self.hopeful.pop(lanes) {
            return Some(id);
        }
        self.rest.pop(lanes).map(|(_, id)| id)
    }

    fn copy(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}
