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

    /// Those that start next, `most` at most: the first alone, unless it and those that follow are so.
    pub(crate) fn pop_together(&mut self, most: usize, is_so: impl Fn(&Job) -> bool) -> Vec<Job> {
        if most == 0 {
            return Vec::new();
        }
        let mut jobs = Vec::from_iter(self.pop_first());
        while jobs.len() < most
            && jobs.last().is_some_and(&is_so)
            && let Some(rank) = self.by_rank.iter().position(|jobs| !jobs.is_empty())
            && self.by_rank[rank].front().is_some_and(&is_so)
        {
            jobs.extend(self.pop_first());
        }
        jobs
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

    /// Takes all that are so.
    pub(crate) fn take_all(&mut self, is_so: impl Fn(&Job) -> bool) -> Vec<Job> {
        let mut taken = Vec::new();
        for jobs in &mut self.by_rank {
            let (those, others) = std::mem::take(jobs).into_iter().partition::<VecDeque<Job>, _>(|job| is_so(job));
            taken.extend(those);
            *jobs = others;
        }
        self.len -= taken.len();
        taken
    }

    /// All of them, those that would start last first.
    pub(crate) fn drain(&mut self) -> Vec<Job> {
        std::iter::from_fn(|| self.pop_last()).collect()
    }
}
