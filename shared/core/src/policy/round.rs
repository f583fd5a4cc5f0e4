//! `rr`: one task a turn for each tenant, or each task type, first in first out inside one.

use super::Policy;
use super::sorted::Sorted;
use crate::entry::{Entry, EntryId, LaneId, Lanes};
use jetlane_schemas::Micros;
use jetlane_schemas::registry::Round;
use std::collections::{BTreeMap, BTreeSet};

/// Round robin. A group that had nothing waiting joins at the end of the round.
#[derive(Debug, Clone)]
pub(super) struct RoundRobin {
    round: Round,
    groups: BTreeMap<u32, Group>,
    /// For each lane the groups with tasks in it, in the order of their turns: a group without room costs those
    /// behind it nothing.
    turns: BTreeMap<LaneId, BTreeSet<(u64, u32)>>,
    next_turn: u64,
    /// Tasks of each lane, and the lanes that have any.
    counts: BTreeMap<LaneId, usize>,
    waiting: Lanes,
}

#[derive(Debug, Clone)]
struct Group {
    tasks: Sorted<Micros>,
    turn: u64,
}

impl RoundRobin {
    pub(super) fn new(round: Round) -> Self {
        Self {
            round,
            groups: BTreeMap::new(),
            turns: BTreeMap::new(),
            next_turn: 0,
            counts: BTreeMap::new(),
            waiting: Lanes::default(),
        }
    }

    fn group_of(&self, entry: &Entry) -> u32 {
        match self.round {
            Round::Tenant => entry.tenant.0,
            Round::Type => entry.task_type.0,
        }
    }

    fn turn(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }

    fn count_out(&mut self, lane: LaneId) {
        let count = self.counts.entry(lane).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.waiting.remove(lane);
        }
    }

    /// A group has no tasks in a lane any more, or none at all.
    fn left(&mut self, number: u32, lane: LaneId) {
        let Some(group) = self.groups.get(&number) else { return };
        if !group.tasks.waiting().contains(lane)
            && let Some(turns) = self.turns.get_mut(&lane)
        {
            turns.remove(&(group.turn, number));
        }
        if group.tasks.is_empty() {
            self.groups.remove(&number);
        }
    }
}

impl Policy for RoundRobin {
    fn add(&mut self, _now: Micros, entry: &Entry) {
        let number = self.group_of(entry);
        if !self.groups.contains_key(&number) {
            let turn = self.turn();
            self.groups.insert(number, Group { tasks: Sorted::default(), turn });
        }
        if let Some(group) = self.groups.get_mut(&number) {
            group.tasks.add(entry, entry.first_arrival);
            self.turns.entry(entry.lane()).or_default().insert((group.turn, number));
            *self.counts.entry(entry.lane()).or_default() += 1;
            self.waiting.insert(entry.lane());
        }
    }

    fn remove(&mut self, entry: &Entry) {
        let number = self.group_of(entry);
        let group = self.groups.get_mut(&number);
        if group.is_some_and(|group| group.tasks.remove(entry, entry.first_arrival)) {
            self.count_out(entry.lane());
            self.left(number, entry.lane());
        }
    }

    fn take(&mut self, _now: Micros, lanes: Lanes) -> Option<EntryId> {
        let first = |lane: LaneId| self.turns.get(&lane).and_then(BTreeSet::first).copied();
        let (turn, number) = self.waiting.and(lanes).filter_map(first).min()?;
        let next = self.turn();
        let group = self.groups.get_mut(&number)?;
        group.turn = next;
        let (_, id, lane) = group.tasks.first(lanes)?;
        for of in group.tasks.waiting() {
            let turns = self.turns.entry(of).or_default();
            turns.remove(&(turn, number));
            turns.insert((next, number));
        }
        group.tasks.pop(lanes);
        self.count_out(lane);
        self.left(number, lane);
        Some(id)
    }

    fn copy(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}
