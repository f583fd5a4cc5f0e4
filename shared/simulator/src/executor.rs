//! The one executor: slots that run tasks, checkpoints between which a task cannot stop, and totals
//! that it tells as an executor tells its credit. No prefetch, and no way to go.

use jetlane_core::EntryId;
use jetlane_schemas::Micros;
use jetlane_schemas::frame::Credit;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How often an executor tells its credit at least: a silent one counts as gone after three seconds.
const TELL_EVERY: Micros = Micros(1_000_000);

/// A task on a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Under which number the queue knows it.
    pub(crate) entry: EntryId,
    /// Its place among the arrivals.
    pub(crate) task: u32,
    /// When this run began.
    pub(crate) since: Micros,
    /// What is left to do.
    pub(crate) left: Micros,
    /// Whether it is to stop at its next checkpoint.
    pub(crate) asked: Asked,
}

/// Whether a run is to stop at its next checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    No,
    ToYield,
}

/// The slots.
#[derive(Debug)]
pub(crate) struct Executor {
    slots: Vec<Option<Run>>,
    free: Vec<usize>,
    /// The next end or checkpoint of each slot that is in use: it alone can stop the run.
    stops: BinaryHeap<Reverse<(Micros, usize)>>,
    /// How much can be done between two checkpoints; `Micros(u64::MAX)` without checkpoints.
    quantum: Micros,
    taken: u64,
    settled: u64,
    told_at: Option<Micros>,
}

impl Executor {
    pub(crate) fn new(slots: u32, quantum: Micros) -> Self {
        let slots = slots as usize;
        Self {
            slots: vec![None; slots],
            free: (0..slots).rev().collect(),
            stops: BinaryHeap::new(),
            quantum,
            taken: 0,
            settled: 0,
            told_at: None,
        }
    }

    /// When a run ends or comes to a checkpoint next.
    pub(crate) fn next_stop(&self) -> Option<Micros> {
        self.stops.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes a task.
    pub(crate) fn start(&mut self, run: Run) {
        let slot = self.free.pop().expect("the queue dispatches only against credit");
        self.taken += 1;
        self.slots[slot] = Some(run);
        self.stops.push(Reverse((Micros(run.since.0 + run.left.0.min(self.quantum.0)), slot)));
    }

    /// The run that stops next has come to that place: its slot, and the run with what is left of it.
    pub(crate) fn stop(&mut self) -> Option<(usize, Run)> {
        let Reverse((_, slot)) = self.stops.pop()?;
        let run = self.slots[slot].as_mut()?;
        run.left = Micros(run.left.0 - run.left.0.min(self.quantum.0));
        Some((slot, *run))
    }

    /// A stopped run goes on.
    pub(crate) fn go_on(&mut self, now: Micros, slot: usize) {
        if let Some(run) = &self.slots[slot] {
            self.stops.push(Reverse((Micros(now.0 + run.left.0.min(self.quantum.0)), slot)));
        }
    }

    /// A stopped run is over.
    pub(crate) fn end(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.free.push(slot);
        self.settled += 1;
    }

    /// The run of this entry is to yield. Told at most once a checkpoint of one of few slots.
    pub(crate) fn ask(&mut self, entry: EntryId) {
        if let Some(run) = self.slots.iter_mut().flatten().find(|run| run.entry == entry) {
            run.asked = Asked::ToYield;
        }
    }

    /// The run on this slot.
    pub(crate) fn on_slot(&self, slot: usize) -> Option<Run> {
        self.slots[slot]
    }

    /// Whether it is time to tell the credit, although nothing has ended.
    pub(crate) fn is_silent(&self, now: Micros) -> bool {
        self.told_at.is_none_or(|told| now.0.saturating_sub(told.0) >= TELL_EVERY.0)
    }

    /// What the executor tells.
    pub(crate) fn tell(&mut self, now: Micros) -> Credit {
        self.told_at = Some(now);
        let slots = self.slots.len() as u32;
        Credit {
            executor: "simulated".into(),
            slots,
            capacity: slots,
            taken: self.taken,
            settled: self.settled,
            fits: vec!["any".into()],
            ..Credit::default()
        }
    }
}
