//! The order of dispatch, behind one interface.
//!
//! A policy holds the order of what waits and nothing else: credit, deadlines, pausing and windows
//! are the queue's. A new policy is a new file with one type and a line in [`make`]; what it needs to
//! know of a task stands in [`Entry`].

use crate::entry::{Entry, EntryId, LaneId, Lanes};
use jetlane_schemas::Micros;
use jetlane_schemas::registry::PolicyName;
use std::collections::BTreeSet;

/// An order of dispatch. Every method is O(log n) in the number of waiting tasks.
pub trait Policy: Send {
    /// A task waits from now on, or is back after it could not be stored: its place follows from the
    /// entry, not from `now`.
    fn add(&mut self, now: Micros, entry: &Entry);
    /// A task waits no more, although it was not taken: expired or cancelled.
    fn remove(&mut self, entry: &Entry);
    /// Takes out the task that goes next among those of the given lanes, which have room.
    fn take(&mut self, now: Micros, lanes: Lanes) -> Option<EntryId>;
}

/// The policy of this name, empty.
pub fn make(name: PolicyName) -> Box<dyn Policy> {
    match name {
        PolicyName::Strict => Box::new(Strict::default()),
        PolicyName::Fifo => Box::new(Fifo::default()),
    }
}

/// Strictly by priority, first in first out inside one.
#[derive(Debug, Default)]
pub struct Strict(ByArrival);

/// First in, first out, whatever the priority.
#[derive(Debug, Default)]
pub struct Fifo(ByArrival);

impl Policy for Strict {
    fn add(&mut self, _now: Micros, entry: &Entry) {
        self.0.add(entry);
    }

    fn remove(&mut self, entry: &Entry) {
        self.0.remove(entry);
    }

    fn take(&mut self, _now: Micros, lanes: Lanes) -> Option<EntryId> {
        self.0.take_oldest(self.0.waiting.and(lanes).most_urgent())
    }
}

impl Policy for Fifo {
    fn add(&mut self, _now: Micros, entry: &Entry) {
        self.0.add(entry);
    }

    fn remove(&mut self, entry: &Entry) {
        self.0.remove(entry);
    }

    fn take(&mut self, _now: Micros, lanes: Lanes) -> Option<EntryId> {
        self.0.take_oldest(self.0.waiting.and(lanes))
    }
}

/// Tasks by lane and, in each, by arrival; those that arrived at once by their number.
#[derive(Debug)]
struct ByArrival {
    lanes: Vec<BTreeSet<(Micros, EntryId)>>,
    waiting: Lanes,
}

impl Default for ByArrival {
    fn default() -> Self {
        Self { lanes: vec![BTreeSet::new(); LaneId::COUNT], waiting: Lanes::default() }
    }
}

impl ByArrival {
    fn add(&mut self, entry: &Entry) {
        self.lanes[entry.lane().number()].insert((entry.first_arrival, entry.id));
        self.waiting.insert(entry.lane());
    }

    fn remove(&mut self, entry: &Entry) {
        let lane = &mut self.lanes[entry.lane().number()];
        lane.remove(&(entry.first_arrival, entry.id));
        if lane.is_empty() {
            self.waiting.remove(entry.lane());
        }
    }

    fn take_oldest(&mut self, lanes: Lanes) -> Option<EntryId> {
        let oldest = lanes
            .filter_map(|lane| self.lanes[lane.number()].first().map(|&(arrival, id)| (arrival, id, lane)))
            .min()?;
        let (_, id, lane) = oldest;
        self.lanes[lane.number()].pop_first();
        if self.lanes[lane.number()].is_empty() {
            self.waiting.remove(lane);
        }
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{FitId, FlowId, TenantId};
    use jetlane_schemas::Priority;

    fn entry(id: u64, priority: Priority, arrival: u64, fit: usize) -> Entry {
        Entry {
            id: EntryId(id),
            flow: FlowId(0),
            priority,
            tenant: TenantId(0),
            fit: FitId::new(fit).expect("in range"),
            first_arrival: Micros(arrival),
            deadline: None,
            bytes: 100,
        }
    }

    fn order(name: PolicyName, entries: &[Entry], lanes: Lanes) -> Vec<u64> {
        let mut policy = make(name);
        entries.iter().for_each(|entry| policy.add(Micros(0), entry));
        std::iter::from_fn(|| policy.take(Micros(0), lanes)).map(|id| id.0).collect()
    }

    #[test]
    fn strict_takes_the_urgent_first_and_the_older_first_inside_a_priority() {
        let entries = [
            entry(1, Priority::Low, 1, 0),
            entry(2, Priority::Normal, 5, 0),
            entry(3, Priority::Normal, 4, 0),
            entry(4, Priority::Critical, 9, 0),
            entry(5, Priority::Normal, 4, 0),
        ];
        assert_eq!(order(PolicyName::Strict, &entries, Lanes::all()), [4, 3, 5, 2, 1]);
        assert_eq!(order(PolicyName::Fifo, &entries, Lanes::all()), [1, 3, 5, 2, 4]);
    }

    #[test]
    fn a_fit_without_room_blocks_nobody_else() {
        let entries = [entry(1, Priority::Critical, 1, 3), entry(2, Priority::Low, 2, 0)];
        let mut lanes = Lanes::default();
        lanes.insert_fit(FitId::default());
        for name in [PolicyName::Strict, PolicyName::Fifo] {
            assert_eq!(order(name, &entries, lanes), [2]);
        }
    }

    #[test]
    fn what_is_removed_is_never_taken() {
        let entries = [entry(1, Priority::Normal, 1, 0), entry(2, Priority::Normal, 2, 0)];
        for name in [PolicyName::Strict, PolicyName::Fifo] {
            let mut policy = make(name);
            entries.iter().for_each(|entry| policy.add(Micros(0), entry));
            policy.remove(&entries[0]);
            assert_eq!(policy.take(Micros(0), Lanes::all()), Some(EntryId(2)));
            assert_eq!(policy.take(Micros(0), Lanes::all()), None);
        }
    }
}
