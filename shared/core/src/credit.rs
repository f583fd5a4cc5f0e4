//! The ledger of credit: how much the executors of a queue can take.
//!
//! Executors tell totals, so a lost announcement heals with the next and a repeated or late one
//! changes nothing. `outstanding` is what this leader dispatched and no executor has settled;
//! what lies in the lanes is that less what the live executors say they hold. A task can be dispatched
//! to a fit while two things are left: slots of the executors that satisfy it, less all that lies in
//! the lanes; and their processors, memory and custom resources, less what lies in the fit's own lanes.

use crate::entry::{FITS_MAX, FitId};
use crate::fits::{FitSet, FitTable};
use jetlane_mutants::mutant;
use jetlane_schemas::Micros;
use jetlane_schemas::frame::Credit;
use std::collections::BTreeMap;

/// An executor that has not told its credit for so long adds no capacity. It tells at least once a second.
pub const EXECUTOR_SILENCE_MAX: Micros = Micros(3_000_000);
/// A silent executor is forgotten after so long; should it come back, its totals start afresh.
pub const EXECUTOR_MEMORY: Micros = Micros(3_600_000_000);
/// The most executors that are remembered; beyond it the one silent for longest is forgotten.
pub const EXECUTORS_MAX: usize = 4096;
/// How often silence is looked for.
const CHECK_EVERY: Micros = Micros(250_000);

/// An announcement, with its fits by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) slots: u32,
    pub(crate) capacity: u32,
    pub(crate) fits: FitSet,
    pub(crate) of: [Totals; FITS_MAX],
}

/// What an executor told of one fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) room: u32,
    pub(crate) taken: u64,
    pub(crate) settled: u64,
}

impl Totals {
    fn held(&self) -> u64 {
        // Bounded, so that no numbers an executor tells can make the sums overflow.
        self.taken.saturating_sub(self.settled).min(u64::from(u32::MAX))
    }
}

impl Told {
    /// Reads an announcement.
    pub(crate) fn read(credit: &Credit, table: &FitTable) -> Self {
        let mut of = [Totals::default(); FITS_MAX];
        let mut fits = FitSet::default();
        for (place, name) in credit.fits.iter().enumerate() {
            // One that no task has needed and nobody declared: an announcement takes no number.
            let Some(fit) = table.find(name) else { continue };
            fits.insert(fit);
            if let Some(told) = credit.of_fits.get(place) {
                of[fit.place()] = Totals { room: told.room, taken: told.taken, settled: told.settled };
            } else if credit.of_fits.is_empty() {
                // One that tells no more than its capacity: all it holds counts as the first of its fits'.
                let (taken, settled) = if place == 0 { (credit.taken, credit.settled) } else { (0, 0) };
                of[fit.place()] = Totals { room: u32::MAX, taken, settled };
            }
        }
        let slots = if credit.slots == 0 { credit.capacity } else { credit.slots };
        Self { slots, capacity: credit.capacity, fits, of }
    }

    fn held(&self) -> u64 {
        self.of.iter().map(Totals::held).sum()
    }

    fn free(&self) -> u64 {
        u64::from(self.capacity).saturating_sub(self.held())
    }
}

#[derive(Debug, Clone, Copy)]
struct Executor {
    told: Told,
    seen: Micros,
    is_live: bool,
}

/// Sums over the live executors, for one fit.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    /// Tasks of it that they hold.
    held: u64,
    /// Free slots and prefetch of those that satisfy it.
    free: u64,
    /// The same as far as their resources go.
    room: u64,
    /// Slots of those that satisfy it.
    slots: u64,
    /// How many of those want tasks at all.
    executors: u64,
    /// Free slots and prefetch of those that satisfy it and each other fit.
    free_with: [u64; FITS_MAX],
}

/// The ledger of one queue's bundle lanes.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    executors: BTreeMap<String, Executor>,
    outstanding: [u64; FITS_MAX],
    sums: [Sums; FITS_MAX],
    live: usize,
    check_at: Micros,
}

impl Ledger {
    /// How many more tasks of this fit can be dispatched.
    pub(crate) fn room(&self, fit: FitId) -> u64 {
        let place = fit.place();
        let sums = &self.sums[place];
        let taken: u64 = (0..FITS_MAX).map(|other| self.takes_from(other, place)).sum();
        sums.free.saturating_sub(taken).min(sums.room.saturating_sub(self.in_lanes(place)))
    }

    /// How many slots of a fit's executors are spoken for by what lies in another fit's lanes: what those
    /// that serve only the other cannot take. A lane that nobody serves takes nothing from anybody.
    fn takes_from(&self, other: usize, place: usize) -> u64 {
        let in_lanes = self.in_lanes(other);
        if in_lanes == 0 || other == place {
            return in_lanes;
        }
        let shared = self.sums[place].free_with[other];
        let elsewhere = self.sums[other].free.saturating_sub(shared);
        in_lanes.saturating_sub(elsewhere).min(shared)
    }

    fn in_lanes(&self, place: usize) -> u64 {
        self.outstanding[place].saturating_sub(self.sums[place].held)
    }

    /// How many tasks of this fit can run at once, by the live executors' slots.
    pub(crate) fn slots(&self, fit: FitId) -> u64 {
        self.sums[fit.place()].slots
    }

    /// How many executors the room of this fit is spread over.
    pub(crate) fn executors(&self, fit: FitId) -> u64 {
        self.sums[fit.place()].executors
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding.iter().sum()
    }

    pub(crate) fn dispatched(&mut self, fit: FitId) {
        self.outstanding[fit.place()] += 1;
    }

    /// A dispatch came to nothing.
    pub(crate) fn undone(&mut self, fit: FitId) {
        let place = fit.place();
        self.outstanding[place] = self.outstanding[place].saturating_sub(1).max(self.sums[place].held);
    }

    pub(crate) fn told(&mut self, now: Micros, name: String, told: Told) {
        let is = Executor { told, seen: now, is_live: true };
        match self.executors.get_mut(&name) {
            Some(executor) => {
                let was = *executor;
                let known = was.told.of;
                let is_older = |place: usize| {
                    told.of[place].taken < known[place].taken || told.of[place].settled < known[place].settled
                };
                if (0..FITS_MAX).any(is_older) {
                    // Overtaken by a later one: totals never shrink.
                    return;
                }
                *executor = is;
                if was.is_live {
                    if !mutant!(CreditCountedTwice) {
                        self.change(&was, |sum, part| sum - part);
                    }
                    self.live -= 1;
                }
                for (place, outstanding) in self.outstanding.iter_mut().enumerate() {
                    *outstanding = outstanding.saturating_sub(told.of[place].settled - known[place].settled);
                }
            }
            None => {
                self.make_room();
                self.executors.insert(name, is);
            }
        }
        self.change(&is, |sum, part| sum + part);
        self.live += 1;
        // What executors hold is outstanding, whoever dispatched it: a new leader starts from there.
        for (outstanding, sums) in self.outstanding.iter_mut().zip(&self.sums) {
            *outstanding = (*outstanding).max(sums.held);
        }
    }

    pub(crate) fn lost(&mut self, name: &str) {
        if let Some(executor) = self.executors.get_mut(name)
            && executor.is_live
        {
            executor.is_live = false;
            let was = *executor;
            self.change(&was, |sum, part| sum - part);
            self.live -= 1;
        }
    }

    /// Nothing moves, and so many tasks lie in the fit's lanes unpulled or unacknowledged.
    pub(crate) fn counted(&mut self, fit: FitId, tasks: u64) {
        self.outstanding[fit.place()] = tasks.max(self.sums[fit.place()].held);
    }

    /// Looks for executors gone silent.
    pub(crate) fn check(&mut self, now: Micros) {
        if now < self.check_at {
            return;
        }
        self.check_at = Micros(now.0 + CHECK_EVERY.0);
        let silence = |executor: &Executor| now.0.saturating_sub(executor.seen.0);
        let is_silent = |executor: &Executor| executor.is_live && silence(executor) > EXECUTOR_SILENCE_MAX.0;
        let silent: Vec<String> =
            self.executors.iter().filter(|(_, executor)| is_silent(executor)).map(|(name, _)| name.clone()).collect();
        silent.iter().for_each(|name| self.lost(name));
        self.executors.retain(|_, executor| silence(executor) <= EXECUTOR_MEMORY.0);
    }

    /// When [`Ledger::check`] is due, if anybody is there to go silent.
    pub(crate) fn check_at(&self) -> Option<Micros> {
        (self.live > 0).then_some(self.check_at)
    }

    fn change(&mut self, executor: &Executor, change: fn(u64, u64) -> u64) {
        let Told { slots, capacity, fits, of } = executor.told;
        let free = executor.told.free();
        for (place, sums) in self.sums.iter_mut().enumerate() {
            sums.held = change(sums.held, of[place].held());
            if fits.contains(place) {
                sums.free = change(sums.free, free);
                sums.room = change(sums.room, free.min(u64::from(of[place].room)));
                sums.slots = change(sums.slots, u64::from(slots));
                sums.executors = change(sums.executors, u64::from(capacity > 0));
                for (other, shared) in sums.free_with.iter_mut().enumerate().filter(|(other, _)| fits.contains(*other))
                {
                    *shared = if other == place { 0 } else { change(*shared, free) };
                }
            }
        }
    }

    fn make_room(&mut self) {
        if self.executors.len() < EXECUTORS_MAX {
            return;
        }
        let longest = self.executors.iter().min_by_key(|(_, executor)| executor.seen).map(|(name, _)| name.clone());
        if let Some(name) = longest {
            self.lost(&name);
            self.executors.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests;
