//! Tasks that wait for a slot, the most urgent first: a bundle that came before does not hold up what
//! matters more.

use super::parcel::Job;
use jetlane_schemas::Priority;
use std::collections::VecDeque;

/// The tasks that wait, each priority in the order of arrival.
#[derive(Default)]
pub(crate) struct Waiting {
    by_rank: [VecDeque<Job>; Priority::ALL.len()],
    len: usize,
}

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, job: Job) {
        self.by_rank[job.task.priority.rank()].push_back(job);
        self.len += 1;
    }

    /// The one that starts next.
    pub(crate) fn pop_first(&mut self) -> Option<Job> {
        let job = self.by_rank.iter_mut().find_map(VecDeque::pop_front)?;
        self.len -= 1;
        Some(job)
    }

    /// The one that would start last.
    pub(crate) fn pop_last(&mut self) -> Option<Job> {
        let job = self.by_rank.iter_mut().rev().find_map(VecDeque::pop_back)?;
        self.len -= 1;
        Some(job)
    }

    /// The one that would start last of those that are so.
    pub(crate) fn take_last(&mut self, is_so: impl Fn(&Job) -> bool) -> Option<Job> {
        let found = self.by_rank.iter_mut().rev().find_map(|jobs| {
            let place = jobs.iter().rposition(&is_so)?;
            jobs.remove(place)
        })?;
        self.len -= 1;
        Some(found)
    }

    /// All of them, those that would start last first.
    pub(crate) fn drain(&mut self) -> Vec<Job> {
        std::iter::from_fn(|| self.pop_last()).collect()
    }
}
