//! What waits, by lane and, in each lane, by a key; those of the same key by their number.

use crate::entry::{Entry, EntryId, LaneId, Lanes};
use std::collections::{BTreeMap, BTreeSet};

/// Waiting tasks with keys of type `K`.
#[derive(Debug, Clone)]
pub(super) struct Sorted<K> {
    lanes: BTreeMap<LaneId, BTreeSet<(K, EntryId)>>,
    waiting: Lanes,
}

impl<K> Default for Sorted<K> {
    fn default() -> Self {
        Self { lanes: BTreeMap::new(), waiting: Lanes::default() }
    }
}

impl<K: Ord + Copy> Sorted<K> {
    pub(super) fn add(&mut self, entry: &Entry, key: K) {
        self.add_to(entry.lane(), entry.id, key);
    }

    pub(super) fn add_to(&mut self, lane: LaneId, id: EntryId, key: K) {
        self.lanes.entry(lane).or_default().insert((key, id));
        self.waiting.insert(lane);
    }

    /// Takes out a task; whether it was there.
    pub(super) fn remove(&mut self, entry: &Entry, key: K) -> bool {
        let Some(lane) = self.lanes.get_mut(&entry.lane()) else { return false };
        let was_there = lane.remove(&(key, entry.id));
        if lane.is_empty() {
            self.waiting.remove(entry.lane());
        }
        was_there
    }

    /// The task with the least key in these lanes, and its lane.
    pub(super) fn first(&self, lanes: Lanes) -> Option<(K, EntryId, LaneId)> {
        let heads = self.waiting.and(lanes).filter_map(|lane| self.lanes.get(&lane)?.first().map(|head| (head, lane)));
        heads.map(|(&(key, id), lane)| (key, id, lane)).min()
    }

    /// Takes out the task with the least key in these lanes.
    pub(super) fn pop(&mut self, lanes: Lanes) -> Option<(K, EntryId)> {
        let (key, id, number) = self.first(lanes)?;
        // Lanes stay once they have been used: there are few, and a busy one is empty now and then.
        let lane = self.lanes.get_mut(&number)?;
        lane.pop_first();
        if lane.is_empty() {
            self.waiting.remove(number);
        }
        Some((key, id))
    }

    /// The lanes that have tasks.
    pub(super) fn waiting(&self) -> Lanes {
        self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The key of the `nth` task in these lanes, counted from 0. Costs as much as looking at that many in each.
    pub(super) fn nth(&self, nth: usize, lanes: Lanes) -> Option<K> {
        let lanes = self.waiting.and(lanes).filter_map(|lane| self.lanes.get(&lane));
        let mut first: Vec<(K, EntryId)> = lanes.flat_map(|lane| lane.iter().take(nth + 1).copied()).collect();
        first.sort_unstable();
        first.get(nth).map(|(key, _)| *key)
    }
}
