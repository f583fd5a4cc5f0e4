//! Looking ahead: why a task waits, and when it is expected to run.
//!
//! The policy is copied and asked on and on, with the executors' slots as servers and the estimates as
//! run times, until the task's turn comes. What will arrive meanwhile is not known, so the answer is a
//! lower bound under policies in which later tasks overtake.

use super::{Dispatching, Place, Queue};
use crate::entry::{Entry, EntryId, Lanes};
use jetlane_schemas::Micros;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The most tasks that are looked past; a task behind so many has no expected start.
const AHEAD_MAX: u64 = 20_000;
/// The number that stands for a task which is only asked about.
const PROSPECT: EntryId = EntryId(u64::MAX);

/// When a task is expected to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// When it starts; `None` while no live executor satisfies its fit, or behind 20,000 tasks.
    pub start: Option<Micros>,
    /// When it ends.
    pub finish: Option<Micros>,
    /// Tasks that go before it.
    pub ahead: u64,
    /// Of them, those of its flow.
    pub ahead_in_flow: u64,
}

/// Why a task waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The task.
    pub entry: Entry,
    /// Whether it is being stored in its lane, or ended, already.
    pub is_leaving: bool,
    /// Whether the queue is paused.
    pub is_paused: bool,
    /// Until when dispatch rests, if it does.
    pub rests_until: Option<Micros>,
    /// Whether a live executor satisfies its fit.
    pub has_executor: bool,
    /// Whether there is room in its lane.
    pub has_room: bool,
    /// Whether its tenant has had more than its share.
    pub is_over_share: bool,
    /// When it is expected to run.
    pub forecast: Forecast,
}

impl Queue {
    /// Why a held task waits; `None` for one that is not held. Costs as much as dispatching all before it.
    pub fn standing(&self, now: Micros, id: EntryId) -> Option<Standing> {
        let slot = self.slots.get(&id)?;
        let entry = slot.entry;
        let is_leaving = slot.place != Place::Waiting;
        let forecast = if is_leaving {
            let finish = Some(Micros(now.0.saturating_add(entry.estimate.0)));
            Forecast { start: Some(now), finish, ahead: 0, ahead_in_flow: 0 }
        } else {
            self.look_ahead(now, &entry)
        };
        Some(Standing {
            entry,
            is_leaving,
            is_paused: self.dispatch == Dispatching::Paused,
            rests_until: self.rests(now).then_some(self.starved.rest_until),
            has_executor: self.servers(&entry) > 0,
            has_room: self.open_lanes().contains(entry.lane()),
            is_over_share: self.policy.is_over_share(&entry),
            forecast,
        })
    }

    /// When such a task would run, were it to arrive now. Its number is passed over.
    pub fn forecast(&self, now: Micros, entry: &Entry) -> Forecast {
        self.look_ahead(now, &Entry { id: PROSPECT, ..*entry })
    }

    fn servers(&self, entry: &Entry) -> u64 {
        let plain = u64::from(self.plain.open().contains(entry.lane()));
        self.ledger.slots(entry.fit).max(plain)
    }

    fn look_ahead(&self, now: Micros, entry: &Entry) -> Forecast {
        let mut policy = self.policy.copy();
        if entry.id == PROSPECT {
            policy.add(now, entry);
        }
        let servers = usize::try_from(self.servers(entry)).unwrap_or(usize::MAX);
        let mut forecast = Forecast { start: None, finish: None, ahead: 0, ahead_in_flow: 0 };
        let mut free = self.free_from(now, servers);
        let lanes = self.lanes_of_live_executors();
        while forecast.ahead < AHEAD_MAX {
            let Reverse(at) = free.pop().unwrap_or(Reverse(now));
            let Some(next) = policy.take(at, lanes) else { break };
            if next == entry.id {
                if servers > 0 {
                    forecast.start = Some(at);
                    forecast.finish = Some(Micros(at.0.saturating_add(entry.estimate.0)));
                }
                break;
            }
            let Some(slot) = self.slots.get(&next) else { continue };
            policy.taken(&slot.entry);
            forecast.ahead += 1;
            forecast.ahead_in_flow += u64::from(slot.entry.flow == entry.flow);
            free.push(Reverse(Micros(at.0.saturating_add(slot.entry.estimate.0))));
        }
        forecast
    }

    /// When each server is free, the earliest first.
    fn free_from(&self, now: Micros, servers: usize) -> BinaryHeap<Reverse<Micros>> {
        let mut ends: Vec<Micros> = self.running.ends(now).map(|(_, end)| end).collect();
        ends.sort_unstable();
        // Prefetched tasks wait at the executors: they follow those that run, which ends give no order of.
        let mut free: BinaryHeap<_> = ends.iter().take(servers).map(|end| Reverse(*end)).collect();
        free.extend(std::iter::repeat_n(Reverse(now), servers.saturating_sub(ends.len()).min(RUNS_ASSUMED_MAX)));
        for end in ends.iter().skip(servers) {
            if let Some(Reverse(at)) = free.pop() {
                free.push(Reverse(Micros(at.0.saturating_add(end.0.saturating_sub(now.0)))));
            }
        }
        free
    }

    fn lanes_of_live_executors(&self) -> Lanes {
        let mut lanes = self.plain.open();
        for fit in self.fits.numbers().filter(|fit| self.ledger.slots(*fit) > 0) {
            lanes.insert_fit(fit);
        }
        lanes
    }
}

/// Free servers beyond this number make no difference to a forecast.
const RUNS_ASSUMED_MAX: usize = 20_000;
