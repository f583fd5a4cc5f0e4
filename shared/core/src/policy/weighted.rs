//! `weighted`: priorities share the work by their weights, first in first out inside one.
//!
//! Weighted fair queueing by virtual time: a priority is charged the estimate when a task of it goes and
//! the difference when the task has ended, each divided by its weight. A priority that had nothing
//! waiting starts where the others are: it saves nothing up.

use super::Policy;
use super::sorted::Sorted;
use crate::entry::{Entry, EntryId, Lanes};
use jetlane_schemas::registry::Weights;
use jetlane_schemas::{Micros, Priority};
use std::collections::BTreeMap;

/// Virtual time is kept in microseconds of work times this over the weight, so that whole numbers do.
const SCALE: i128 = 1 << 20;

/// The longest run that is reckoned with: a day, as for one attempt.
const COST_MAX: Micros = Micros(86_400_000_000);

/// Weighted priorities.
#[derive(Debug, Clone)]
pub(super) struct Weighted {
    weights: Weights,
    tasks: Sorted<Micros>,
    /// Virtual time of each priority, the most urgent first.
    times: [i128; 4],
    waiting: [usize; 4],
    /// The virtual time of what went last: grows only.
    now: i128,
    /// What was charged for tasks that have not ended: another order may have sent others.
    charged: BTreeMap<EntryId, Micros>,
}

impl Weighted {
    pub(super) fn new(weights: Weights) -> Self {
        Self { weights, tasks: Sorted::default(), times: [0; 4], waiting: [0; 4], now: 0, charged: BTreeMap::new() }
    }

    fn charge(&mut self, priority: Priority, cost: i128) {
        self.times[priority.rank()] += cost * SCALE / i128::from(self.weights.of(priority));
    }

    fn most_behind(&self, lanes: Lanes) -> Option<Priority> {
        let can_go = |priority: &Priority| !self.tasks.waiting().and(lanes).of(*priority).is_empty();
        Priority::ALL.into_iter().filter(can_go).min_by_key(|priority| (self.times[priority.rank()], priority.rank()))
    }
}

impl Policy for Weighted {
    fn add(&mut self, _now: Micros, entry: &Entry) {
        let rank = entry.priority.rank();
        if self.waiting[rank] == 0 {
            self.times[rank] = self.times[rank].max(self.now);
        }
        self.waiting[rank] += 1;
        self.tasks.add(entry, entry.first_arrival);
    }

    fn remove(&mut self, entry: &Entry) {
        if self.tasks.remove(entry, entry.first_arrival) {
            self.waiting[entry.priority.rank()] -= 1;
        }
    }

    fn take(&mut self, _now: Micros, lanes: Lanes) -> Option<EntryId> {
        let priority = self.most_behind(lanes)?;
        let (_, id) = self.tasks.pop(lanes.of(priority))?;
        self.waiting[priority.rank()] -= 1;
        self.now = self.now.max(self.times[priority.rank()]);
        Some(id)
    }

    fn taken(&mut self, entry: &Entry) {
        let charge = entry.estimate.min(COST_MAX);
        self.charged.insert(entry.id, charge);
        self.charge(entry.priority, i128::from(charge.0));
    }

    fn not_stored(&mut self, entry: &Entry) {
        if let Some(charge) = self.charged.remove(&entry.id) {
            self.charge(entry.priority, -i128::from(charge.0));
        }
    }

    fn ended(&mut self, entry: &Entry, cost: Micros) {
        if let Some(charge) = self.charged.remove(&entry.id) {
            self.charge(entry.priority, i128::from(cost.min(COST_MAX).0) - i128::from(charge.0));
        }
    }

    fn copy(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}
