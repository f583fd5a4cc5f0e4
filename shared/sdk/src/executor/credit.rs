//! The running totals of an executor: what it holds of each fit, and what it has room for.
//!
//! Room has two bounds. Over all fits, no more is held than the slots that may be used plus what waits
//! for them. And of each fit no more than the rest of processors, memory and custom resources is enough
//! for, once everything that is held has its part.

use super::prefetch::Prefetch;
use super::telling::News;
use jetlane_schemas::frame::{Credit, OfFit};
use jetlane_schemas::needs::fits_of;
use jetlane_schemas::{Fit, FitEntry, Needs, QueueEntry};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};

/// The most fits that one executor serves in its life: as many as the queue can declare at once. A fit
/// is never forgotten, since totals that shrink would be taken for late news.
const FITS_MAX: usize = QueueEntry::FITS_MAX;

/// The parts in which a mean of tasks a message is kept.
const PER_MESSAGE_PARTS: usize = 16;

/// What is held of one fit.
#[derive(Debug)]
pub(crate) struct Tally {
    fit: Fit,
    /// Whether its tasks take up anything that is counted.
    is_scarce: AtomicBool,
    /// Its place among the fits, the narrowest first.
    rank: AtomicUsize,
    /// Messages that have come and are not opened yet.
    arriving: AtomicUsize,
    /// About how many tasks its messages have had of late, in 1/16.
    per_message: AtomicUsize,
    taken: AtomicU64,
    settled: AtomicU64,
}

impl Tally {
    fn new(fit: Fit) -> Self {
        Self {
            fit,
            is_scarce: AtomicBool::new(false),
            rank: AtomicUsize::new(usize::MAX),
            arriving: AtomicUsize::new(0),
            per_message: AtomicUsize::new(PER_MESSAGE_PARTS),
            taken: AtomicU64::new(0),
            settled: AtomicU64::new(0),
        }
    }

    pub(crate) fn fit(&self) -> &Fit {
        &self.fit
    }

    fn is_scarce(&self) -> bool {
        self.is_scarce.load(Ordering::Relaxed)
    }

    /// Its place among the fits, the narrowest first.
    pub(crate) fn rank(&self) -> usize {
        self.rank.load(Ordering::Relaxed)
    }

    /// A message had so many tasks. The mean follows quickly upwards, since who asks for too many messages
    /// gets what others have room for, and slowly downwards.
    fn had(&self, tasks: usize) {
        let (was, is) = (self.per_message.load(Ordering::Relaxed), tasks * PER_MESSAGE_PARTS);
        let mean = if is > was { is } else { was - (was - is) / 8 };
        self.per_message.store(mean.max(PER_MESSAGE_PARTS), Ordering::Relaxed);
    }

    /// In how many messages so many tasks come, by those of late.
    pub(crate) fn messages_of(&self, tasks: usize) -> usize {
        (tasks * PER_MESSAGE_PARTS).div_ceil(self.per_message.load(Ordering::Relaxed))
    }

    fn opened(&self) -> usize {
        // Settled is read first: taken is never told as less.
        let settled = self.settled.load(Ordering::Relaxed);
        usize::try_from(self.taken.load(Ordering::Relaxed).saturating_sub(settled)).unwrap_or(usize::MAX)
    }

    /// A message that is not opened yet counts as one task.
    fn held(&self) -> usize {
        self.opened().saturating_add(self.arriving.load(Ordering::Relaxed))
    }
}

/// A fit that is served.
#[derive(Debug)]
struct Served {
    tally: Arc<Tally>,
    /// What each of its tasks takes up.
    covers: Needs,
    /// Whether the means cover it: a fit may be declared anew with more.
    reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Covered,
    Beyond,
}

impl Served {
    fn set(&mut self, rank: Option<usize>, covers: &Needs) {
        self.reach = if rank.is_some() { Reach::Covered } else { Reach::Beyond };
        self.covers = covers.clone();
        self.tally.rank.store(rank.unwrap_or(usize::MAX), Ordering::Relaxed);
        let is_scarce = rank.is_none() || Needs::default().times(covers) == 0;
        self.tally.is_scarce.store(is_scarce, Ordering::Relaxed);
    }
}

/// How many tasks of a message that was opened there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// By slots and prefetch.
    pub(crate) by_capacity: usize,
    /// By resources.
    pub(crate) by_means: usize,
}

/// All that one executor counts.
pub(crate) struct Ledger {
    executor: String,
    slots: usize,
    pub(crate) prefetch: Prefetch,
    means: Needs,
    limit: AtomicUsize,
    /// What was told of late: tasks on their way by it are taken although less would be told now.
    told: AtomicUsize,
    /// What had been settled when it was told last.
    settled_told: AtomicU64,
    is_closed: AtomicBool,
    fits: RwLock<Vec<Served>>,
    settled: AtomicU64,
    pub(crate) news: News,
}

impl Ledger {
    /// The ledger of an executor that has these means and serves no fit yet.
    pub(crate) fn new(executor: String, slots: usize, prefetch: Prefetch, means: Needs) -> Self {
        Self {
            executor,
            slots,
            prefetch,
            means,
            limit: AtomicUsize::new(slots),
            told: AtomicUsize::new(0),
            settled_told: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            fits: RwLock::default(),
            settled: AtomicU64::new(0),
            news: News::default(),
        }
    }

    /// The id of the executor.
    pub(crate) fn executor(&self) -> &str {
        &self.executor
    }

    fn fits(&self) -> RwLockReadGuard<'_, Vec<Served>> {
        self.fits.read().expect("nobody panics while the fits change")
    }

    /// Serves what the means cover of the declared fits; returns the new ones, the narrowest first. What
    /// is no longer declared stays as it was, for the tasks that its lanes still hold.
    pub(crate) fn serve(&self, declared: &[FitEntry]) -> Vec<Arc<Tally>> {
        let mine = fits_of(declared, &self.means);
        let rank_of = |fit: &Fit| mine.iter().position(|entry| entry.name == *fit);
        let mut new = Vec::new();
        let mut fits = self.fits.write().expect("nobody panics while the fits change");
        for entry in &mine {
            if fits.iter().any(|served| served.tally.fit == entry.name) {
                continue;
            }
            if fits.len() == FITS_MAX {
                tracing::warn!(fit = %entry.name, "The executor has served {FITS_MAX} fits already; start it anew for this one.");
                continue;
            }
            let tally = Arc::new(Tally::new(entry.name.clone()));
            new.push(Arc::clone(&tally));
            fits.push(Served { tally, covers: Needs::default(), reach: Reach::Beyond });
        }
        for served in fits.iter_mut() {
            if let Some(entry) = declared.iter().find(|entry| entry.name == served.tally.fit) {
                served.set(rank_of(&entry.name), &entry.covers);
            }
        }
        drop(fits);
        self.news.changed();
        new
    }

    /// Slots, however many of them may be used now.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Only so many slots may be used from now on.
    pub(crate) fn limit(&self, slots: usize) {
        self.limit.store(slots.min(self.slots), Ordering::Relaxed);
        self.news.changed();
    }

    /// The most tasks that may be held.
    pub(crate) fn capacity(&self) -> usize {
        if self.is_closed.load(Ordering::Relaxed) {
            return 0;
        }
        let limit = self.limit.load(Ordering::Relaxed);
        limit + self.prefetch.tasks(limit, self.slots)
    }

    /// The most tasks that are kept of those that arrive: what was told of late, while anything is wanted.
    fn admits(&self) -> usize {
        match self.capacity() {
            0 => 0,
            capacity => capacity.max(self.told.load(Ordering::Relaxed)),
        }
    }

    /// Room is asked for in steps: a pull for every freed slot would cost the broker a message a task.
    /// What waits here meanwhile is more than a step, so no slot waits for it. A scarce resource is
    /// asked for at once.
    pub(crate) fn step(&self, tally: &Tally) -> usize {
        if tally.is_scarce() {
            return 1;
        }
        (self.prefetch.tasks(self.limit.load(Ordering::Relaxed), self.slots) / 2).max(1)
    }

    /// A message came from a lane of this fit: its room is taken before anybody has looked how many
    /// tasks it holds.
    pub(crate) fn arrive(&self, tally: &Tally) {
        tally.arriving.fetch_add(1, Ordering::Relaxed);
    }

    /// A message that arrived was opened, with so many tasks in it: for how many of them is there room?
    pub(crate) fn open(&self, tally: &Tally, tasks: usize) -> Admitted {
        let fits = self.fits();
        let admitted = Admitted {
            by_capacity: self.admits().saturating_sub(fits.iter().map(|served| served.tally.opened()).sum()),
            by_means: if tally.is_scarce() { self.room_by_means(&fits, tally, Tally::opened) } else { usize::MAX },
        };
        if tasks > 0 {
            tally.had(tasks);
        }
        tally.taken.fetch_add(tasks as u64, Ordering::Relaxed);
        tally.arriving.fetch_sub(1, Ordering::Relaxed);
        admitted
    }

    /// A task is settled: there is room for another. Says whether whoever pulls should look.
    pub(crate) fn settle(&self, tally: &Tally) -> bool {
        tally.settled.fetch_add(1, Ordering::Relaxed);
        let settled = self.settled.fetch_add(1, Ordering::Relaxed) + 1;
        if self.room_left() > self.capacity() / 2 {
            self.news.changed_a_little();
        } else {
            self.news.changed();
        }
        settled.is_multiple_of(self.step(tally) as u64)
    }

    /// So many tasks were settled by an executor that may not have lived to tell it.
    pub(crate) fn found_settled(&self, tally: &Tally, tasks: usize) {
        tally.taken.fetch_add(tasks as u64, Ordering::Relaxed);
        tally.settled.fetch_add(tasks as u64, Ordering::Relaxed);
        self.news.changed();
    }

    /// Nothing is wanted any more.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.news.changed();
    }

    /// How many more tasks of this fit are wanted.
    pub(crate) fn wanted(&self, tally: &Tally) -> usize {
        let fits = self.fits();
        let free = self.capacity().saturating_sub(held(&fits));
        if free == 0 || !tally.is_scarce() { free } else { free.min(self.room_by_means(&fits, tally, Tally::held)) }
    }

    /// How many more tasks of this fit resources are enough for, beside what is held.
    fn room_by_means(&self, fits: &[Served], tally: &Tally, held: fn(&Tally) -> usize) -> usize {
        let own = fits.iter().find(|served| served.tally.fit == tally.fit);
        let Some(own) = own.filter(|own| own.reach == Reach::Covered) else { return 0 };
        let left = fits.iter().filter(|other| other.tally.is_scarce()).fold(self.means.clone(), |left, other| {
            left.less(&other.covers, u32::try_from(held(&other.tally)).unwrap_or(u32::MAX))
        });
        usize::try_from(left.times(&own.covers)).unwrap_or(usize::MAX)
    }

    /// How much of the capacity is left to the leader, by what it was told last and what has come since. Of a
    /// scarce fit too little is left at any time.
    fn room_left(&self) -> usize {
        let fits = self.fits();
        if fits.iter().any(|served| served.tally.is_scarce()) {
            return 0;
        }
        let taken: u64 = fits.iter().map(|served| served.tally.taken.load(Ordering::Relaxed)).sum();
        let open = taken.saturating_sub(self.settled_told.load(Ordering::Relaxed));
        self.capacity().saturating_sub(usize::try_from(open).unwrap_or(usize::MAX))
    }

    /// The totals, with nothing of the news.
    pub(crate) fn credit(&self) -> Credit {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let capacity = self.capacity();
        // It falls by one an announcement: longer than a task is on its way.
        let told = self.told.load(Ordering::Relaxed).saturating_sub(1);
        self.told.store(capacity.max(told), Ordering::Relaxed);
        let mut credit = Credit {
            executor: self.executor.clone(),
            slots: number(self.slots),
            capacity: number(capacity),
            ..Credit::default()
        };
        let fits = self.fits();
        for Served { tally, .. } in fits.iter() {
            let is_scarce = tally.is_scarce();
            let room = if is_scarce { number(self.room_by_means(&fits, tally, Tally::held)) } else { u32::MAX };
            // Settled is read first: taken is never told as less.
            let settled = tally.settled.load(Ordering::Relaxed);
            let taken = tally.taken.load(Ordering::Relaxed);
            credit.fits.push(tally.fit.to_string());
            credit.of_fits.push(OfFit { room, taken, settled });
            credit.taken += taken;
            credit.settled += settled;
        }
        self.settled_told.store(credit.settled, Ordering::Relaxed);
        credit
    }
}

fn held(fits: &[Served]) -> usize {
    fits.iter().map(|served| served.tally.held()).sum()
}

#[cfg(test)]
mod tests;
