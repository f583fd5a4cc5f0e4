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
    /// Groups with waiting tasks in the order of their turns.
    turns: BTreeSet<(u64, u32)>,
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
            turns: BTreeSet::new(),
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

    fn drop_if_empty(&mut self, number: u32) {
        if let Some(group) = self.groups.get(&number)
            && group.tasks.is_empty()
        {
            self.turns.remove(&(group.turn, number));
            self.groups.remove(&number);
        }
    }
}

impl Policy for RoundRobin {
    fn add(&mut self, _now: Micros, entry: &Entry) {
        let number = self.group_of(entry);
        if !self.groups.contains_key(&number) {
            let turn = self.turn();
            self.turns.insert((turn, number));
            self.groups.insert(number, Group { tasks: Sorted::default(), turn });
        }
        if let Some(group) = self.groups.get_mut(&number) {
            group.tasks.add(entry, entry.first_arrival);
            *self.counts.entry(entry.lane()).or_default() += 1;
            self.waiting.insert(entry.lane());
        }
    }

    fn remove(&mut self, entry: &Entry) {
        let number = self.group_of(entry);
        let group = self.groups.get_mut(&number);
        if group.is_some_and(|group| group.tasks.remove(entry, entry.first_arrival)) {
            self.count_out(entry.lane());
        }
        self.drop_if_empty(number);
    }

    fn take(&mut self, _now: Micros, lanes: Lanes) -> Option<EntryId> {
        let has_some =
            |number: &u32| self.groups.get(number).is_some_and(|group| !group.tasks.waiting().and(lanes).is_empty());
        let &(turn, number) = self.turns.iter().find(|(_, number)| has_some(number))?;
        self.turns.remove(&(turn, number));
        let turn = self.turn();
        let group = self.groups.get_mut(&number)?;
        group.turn = turn;
        let (_, id, lane) = group.tasks.first(lanes)?;
        group.tasks.pop(lanes);
        self.count_out(lane);
        self.turns.insert((turn, number));
        self.drop_if_empty(number);
        Some(id)
    }

    fn copy(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}
