//! What was dispatched and has not ended, and which of it is asked to yield (facts of srtf: the rule of
//! gain, and its bounds against livelock).

use crate::entry::{Entry, EntryId, FITS_MAX, FitId};
use jetlane_schemas::Micros;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The most dispatched tasks that are remembered; beyond it the one dispatched first counts as ended.
const RUNNING_MAX: usize = 65_536;
/// How often a task may be asked to yield in all its runs. Giants of heavy-tailed loads need hundreds, about
/// the root of twice their size over the cost of resuming: with 64 they hold servers that small tasks
/// wait for (mean response 1.18 times the ideal's, with 1,024 1.08).
const YIELDS_MAX: u32 = 1_024;
/// A task is asked only if what waits takes less than this part of what is left of it.
const GAIN_PARTS: u64 = 2;
/// And only if what is left is worth more than so many times what stopping and going on costs.
const WORTH_RESUMES: u64 = 4;
/// A task that was dispatched.
#[derive(Debug, Clone, Copy)]
struct Run {
    entry: Entry,
    since: Micros,
    remaining: Option<Remaining>,
    asked: Asked,
}

#[derive(Debug, Clone, Copy)]
struct Remaining {
    at: Micros,
    left: Micros,
    resume: Micros,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    Yes,
}

/// The dispatched tasks of a queue.
#[derive(Debug, Default)]
pub(super) struct Running {
    runs: BTreeMap<EntryId, Run>,
    /// In the order of dispatch, with many that have ended.
    order: VecDeque<(Micros, EntryId)>,
    /// Those that told what is left since they were last looked at.
    told: BTreeSet<EntryId>,
    /// How many of each fit have been asked to yield and have not ended.
    yielding: [usize; FITS_MAX],
}

impl Running {
    /// Takes note of a dispatch; returns what is forgotten for it.
    pub(super) fn add(&mut self, now: Micros, entry: Entry) -> Option<Entry> {
        self.runs.insert(entry.id, Run { entry, since: now, remaining: None, asked: Asked::No });
        self.order.push_back((now, entry.id));
        // One long run must not keep the marks of all that came and went after it.
        if self.order.len() > 2 * RUNNING_MAX {
            let runs = &self.runs;
            self.order.retain(|(since, id)| runs.get(id).is_some_and(|run| run.since == *since));
        }
        if self.runs.len() <= RUNNING_MAX {
            return None;
        }
        while let Some((since, oldest)) = self.order.pop_front() {
            if self.runs.get(&oldest).is_some_and(|run| run.since == since) {
                return self.remove(oldest);
            }
        }
        None
    }

    pub(super) fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let run = self.runs.remove(&id)?;
        self.told.remove(&id);
        if run.asked == Asked::Yes {
            self.yielding[run.entry.fit.place()] -= 1;
        }
        Some(run.entry)
    }

    /// A task told what is left of it, at a place where it can stop.
    pub(super) fn told(&mut self, now: Micros, id: EntryId, left: Micros, resume: Micros) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.remaining = Some(Remaining { at: now, left, resume });
            if run.asked == Asked::No {
                self.told.insert(id);
            }
        }
    }

    /// Nobody is asked now: what was told is out of date by the time somebody could be.
    pub(super) fn pass_over(&mut self) {
        self.told.clear();
    }

    /// The next task to ask to yield, of those that told what is left: one a waiting task that is worth it.
    /// `contender` is asked for the nth of a fit: only that can take the slot.
    pub(super) fn ask_next(
        &mut self,
        now: Micros,
        contender: impl Fn(usize, FitId) -> Option<Micros>,
    ) -> Option<EntryId> {
        while let Some(id) = self.told.pop_first() {
            let Some(run) = self.runs.get_mut(&id) else { continue };
            let fit = run.entry.fit;
            let yielding = &mut self.yielding[fit.place()];
            if contender(*yielding, fit).is_some_and(|best| run.is_worth_yielding_to(now, best)) {
                run.asked = Asked::Yes;
                *yielding += 1;
                return Some(id);
            }
        }
        None
    }

    /// When each running task of these is expected to end, in no order.
    pub(super) fn ends(&self, now: Micros) -> impl Iterator<Item = (Entry, Micros)> {
        self.runs.values().map(move |run| {
            let (from, takes) = match run.remaining {
                Some(told) => (told.at, told.left),
                None => (run.since, run.entry.estimate),
            };
            (run.entry, Micros(from.0.saturating_add(takes.0).max(now.0)))
        })
    }
}

impl Run {
    fn is_worth_yielding_to(&self, now: Micros, best: Micros) -> bool {
        let Some(Remaining { left, resume, .. }) = self.remaining else { return false };
        // With each yield a run must go on for longer, or stopping would become most of its work.
        let least_run = resume.0.saturating_mul(u64::from(self.entry.yields));
        self.entry.yields < YIELDS_MAX
            && best.0.saturating_mul(GAIN_PARTS) < left.0
            && left.0 > resume.0.saturating_mul(WORTH_RESUMES)
            && now.0.saturating_sub(self.since.0) >= least_run
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{FlowId, TenantId, TypeId};
    use jetlane_schemas::Priority;

    fn entry(id: u64) -> Entry {
        Entry {
            id: EntryId(id),
            flow: FlowId(0),
            priority: Priority::Normal,
            tenant: TenantId(0),
            task_type: TypeId(0),
            fit: FitId::default(),
            first_arrival: Micros(id),
            expires: None,
            due: None,
            estimate: Micros(1),
            yields: 0,
            bytes: 1,
        }
    }

    #[test]
    fn beyond_the_bound_the_run_that_was_dispatched_first_is_forgotten() {
        let (mut running, most) = (Running::default(), RUNNING_MAX as u64);
        // The last to arrive is dispatched first.
        for id in (1..=most).rev() {
            assert_eq!(running.add(Micros(most - id), entry(id)), None);
        }
        assert_eq!(running.add(Micros(most), entry(0)).map(|entry| entry.id), Some(EntryId(most)));
        // One that ended is no candidate.
        running.remove(EntryId(most - 1));
        assert_eq!(running.add(Micros(most), entry(most + 1)), None);
        assert_eq!(running.add(Micros(most), entry(most + 2)).map(|entry| entry.id), Some(EntryId(most - 2)));
        for n in 0..3 * most {
            running.add(Micros(most + n), entry(most + 3));
        }
        assert!(running.order.len() <= 2 * RUNNING_MAX + 1, "{} marks", running.order.len());
    }
}
