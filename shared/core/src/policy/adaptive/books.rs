//! The books of `adaptive`: who waits, in which order, and who owes what.

use super::{COST_MAX, MINORITY};
use crate::entry::{EntryId, LaneId, TenantId};
use jetlane_schemas::{Micros, Priority};
use std::collections::{BTreeMap, BTreeSet};

/// Which rule sent a task; its account is settled when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Key,
    Express,
    Overtaking,
    Guard,
}

/// Where a tenant is filed, in order of vt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Idle,
    Within,
    Over,
}

/// A waiting task by its key: key, number, tenant.
pub(super) type Head = (u64, EntryId, TenantId);

/// A task about to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pick {
    pub(super) key: u64,
    pub(super) id: EntryId,
    pub(super) tenant: TenantId,
    pub(super) lane: LaneId,
    pub(super) rule: Rule,
    pub(super) flood: bool,
}

/// A task that was taken and has not ended.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) rule: Rule,
    pub(super) charge: i64,
    /// The cost that the guard's account has been given for it in advance.
    pub(super) lent: i64,
    /// Whether its work pays the guard's.
    pub(super) counts: bool,
}

/// An account that lets one kind of work go first: it goes while nothing is owed, and is paid for
/// afterwards by work of every other kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) owed: i64,
}

impl Account {
    pub(super) fn book(&mut self, own: bool, pays: i64, cost: i64, bound: i64) {
        self.owed = (self.owed + if own { pays * cost } else { -cost }).clamp(-bound, bound);
    }
}

/// A tenant's tasks of one lane.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) lane: LaneId,
    /// Arrival by key, and key by arrival.
    pub(super) by_key: BTreeMap<(u64, EntryId), Micros>,
    pub(super) by_age: BTreeMap<(Micros, EntryId), u64>,
    /// What stands in the lane's sets.
    pub(super) listed: Option<(bool, u64, EntryId)>,
    pub(super) listed_age: Option<(Micros, EntryId, u64)>,
    /// Part of the flood: in neither `heads` nor `overtaking`.
    pub(super) flood: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Tenant {
    pub(super) vt: i64,
    /// Waiting tasks by rank.
    pub(super) waiting: [u32; 4],
    pub(super) over: bool,
    pub(super) filed: (Standing, i64),
    /// Its flood's turn: the last of [`FLOOD_TURNS`] is the oldest's. See [`Adaptive::flood`].
    pub(super) turn: u8,
    pub(super) lines: Vec<Line>,
}

impl Line {
    pub(super) fn new(lane: LaneId) -> Self {
        let (by_key, by_age) = (BTreeMap::new(), BTreeMap::new());
        Self { lane, by_key, by_age, listed: None, listed_age: None, flood: false }
    }
}

impl Tenant {
    pub(super) fn new(vt: i64) -> Self {
        let (filed, lines) = ((Standing::Idle, vt), Vec::new());
        Self { vt, waiting: [0; 4], over: false, filed, turn: 0, lines }
    }

    pub(super) fn total(&self) -> u32 {
        self.waiting.iter().sum()
    }

    /// Whether its tasks of this priority are the flood while it is over: normal and low always,
    /// the urgent where they are no small part of what waits.
    pub(super) fn is_flood(&self, priority: Priority) -> bool {
        let urgent: u32 = self.waiting[..=priority.rank()].iter().sum();
        priority > Priority::High || urgent.saturating_mul(MINORITY) > self.total()
    }
}

/// The heads of the lines of one lane.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    pub(super) heads: BTreeSet<Head>,
    pub(super) overtaking: BTreeSet<Head>,
    pub(super) oldest: BTreeSet<(Micros, EntryId, TenantId, u64)>,
}

impl Lane {
    pub(super) fn set(&mut self, over: bool) -> &mut BTreeSet<Head> {
        if over { &mut self.overtaking } else { &mut self.heads }
    }
}

pub(super) fn micros(cost: u64) -> i64 {
    cost.min(COST_MAX) as i64
}

/// log2 in 1/256, straight between the powers of two; 0 for 0.
pub(super) fn log2(count: u32) -> u64 {
    let Some(whole) = count.checked_ilog2() else { return 0 };
    (u64::from(whole) << 8) + ((u64::from(count - (1 << whole)) << 8) >> whole)
}
