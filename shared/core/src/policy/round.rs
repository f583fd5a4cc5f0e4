//! `rr`: one task a turn for each tenant, or each task type, first in first out inside one.

use super::Policy;
use super::sorted::Sorted;
use crate::entry::{Entry, EntryId, Lanes};
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
}

#[derive(Debug, Clone)]
struct Group {
    tasks: Sorted<Micros>,
    turn: u64,
}

impl RoundRobin {
    pub(super) fn new(round: Round) -> Self {
        Self { round, groups: BTreeMap::new(), turns: BTreeSet::new(), next_turn: 0 }
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
        }
    }

    fn remove(&mut self, entry: &Entry) {
        let number = self.group_of(entry);
        if let Some(group) = self.groups.get_mut(&number) {
            group.tasks.remove(entry, entry.first_arrival);
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
        let (_, id) = group.tasks.pop(lanes)?;
        self.turns.insert((turn, number));
        self.drop_if_empty(number);
        Some(id)
    }

    fn copy(&self) -> Box<dyn Policy> {
        Box::new(self.clone())
    }
}
