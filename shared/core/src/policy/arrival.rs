//! `fifo` and `strict`: by arrival.

use super::Policy;
use super::sorted::Sorted;
use crate::entry::{Entry, EntryId, Lanes};
use jetlane_schemas::Micros;

/// First in, first out, whatever the priority.
#[derive(Debug, Clone, Default)]
pub(super) struct Fifo(Sorted<Micros>);

/// Strictly by priority, first in first out inside one.
#[derive(Debug, Clone, Default)]
pub(super) struct Strict(Sorted<Micros>);

impl Policy for Fifo {
    fn add(&mut self, _now: Micros, entry: &Entry) {
        self.0.add(entry, entry.first_arrival);
    }

    fn remove(&mut self, entry: &Entry) {
        self.0.remove(entry, entry.first_arrival);
    }

    fn take(&mut self, _now: Micros, lanes: Lanes) -> Option<EntryId> {
        self.0.pop(lanes).map(|(_, id)| id)
    }

    fn copy(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}

impl Policy for Strict {
    fn add(&mut self, _now: Micros, entry: &Entry) {
        self.0.add(entry, entry.first_arrival);
    }

    fn remove(&mut self, entry: &Entry) {
        self.0.remove(entry, entry.first_arrival);
    }

    fn take(&mut self, _now: Micros, lanes: Lanes) -> Option<EntryId> {
        let urgent = self.0.waiting().and(lanes).most_urgent();
        self.0.pop(urgent).map(|(_, id)| id)
    }

    fn copy(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}
