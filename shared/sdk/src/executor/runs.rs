//! The runs under way. Each has a task of the runtime to itself; those of types whose runs usually end at
//! once go several to one, one after the other, and their completions are stored together: making,
//! waking and ending a task costs more than such a run does.

use super::attempt::{self, Begun, Desk, Ended, Look, Over};
use super::pace::AT_ONCE;
use super::parcel::Job;
use super::telling::Ran;
use super::{next_run, waiting::Waiting};
use jetlane_schemas::frame::RunEnd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs that go one after the other, at most.
const TOGETHER_MAX: usize = 32;
/// How long runs may go one after the other: what is left by then goes to another task of the runtime, and so to
/// another thread where one is free. As long as all of them take that end at once.
const TOGETHER_WITHIN: Duration = AT_ONCE.saturating_mul(TOGETHER_MAX as u32);

/// The runs under way on an executor.
pub(crate) struct Runs {
    desk: Arc<Desk>,
    /// Told when there is room for more.
    freed: Arc<watch::Sender<u64>>,
    tasks: TaskTracker,
    slots_used: AtomicUsize,
    slot_freed: Notify,
    /// Handlers are to end now.
    halt: CancellationToken,
    /// Nobody waits for anything any more: runs end where they are.
    abandon: CancellationToken,
    /// Runs that processors can do at the same time.
    abreast: usize,
}

/// Slots in use; free again when this is dropped.
struct Slots {
    runs: Arc<Runs>,
    count: usize,
}

impl Drop for Slots {
    fn drop(&mut self) {
        if self.count > 0 {
            self.runs.slots_used.fetch_sub(self.count, Ordering::AcqRel);
            self.runs.slot_freed.notify_one();
        }
    }
}

impl Slots {
    /// So many of them, which are freed apart.
    fn split(&mut self, count: usize) -> Self {
        self.count -= count;
        Self { runs: Arc::clone(&self.runs), count }
    }
}

impl Runs {
    /// None yet.
    pub(crate) fn new(desk: Arc<Desk>, freed: Arc<watch::Sender<u64>>) -> Self {
        Self {
            desk,
            freed,
            tasks: TaskTracker::new(),
            slots_used: AtomicUsize::new(0),
            slot_freed: Notify::new(),
            halt: CancellationToken::new(),
            abandon: CancellationToken::new(),
            abreast: tokio::runtime::Handle::current().metrics().num_workers().max(1),
        }
    }

    /// How many slots are in use.
    pub(crate) fn len(&self) -> usize {
        self.slots_used.load(Ordering::Acquire)
    }

    /// Resolves once a slot has become free since this resolved last.
    pub(crate) async fn slot_freed(&self) {
        self.slot_freed.notified().await;
    }

    /// Starts what waits, as far as the limit allows.
    pub(crate) fn start(self: &Arc<Self>, waiting: &mut Waiting) {
        let room = || self.desk.governor.limit().saturating_sub(self.len());
        // Each thread its part of what can start.
        let part = room().min(waiting.len()).div_ceil(self.abreast).min(TOGETHER_MAX);
        loop {
            let most = room().min(part);
            let mut jobs = waiting.pop_together(most, |job| attempt::may_end_at_once(&self.desk, job));
            self.slots_used.fetch_add(jobs.len(), Ordering::AcqRel);
            let slots = Slots { runs: Arc::clone(self), count: jobs.len() };
            match (jobs.len(), jobs.pop()) {
                (1, Some(job)) if !attempt::may_end_at_once(&self.desk, &job) => self.run_alone(slots, job, None),
                (_, Some(job)) => {
                    jobs.push(job);
                    self.run_together(slots, jobs);
                }
                (_, None) => return,
            }
        }
    }

    /// Waits for all that is under way, until `end`; says whether nothing is left.
    pub(crate) async fn ended_by(&self, end: Instant) -> bool {
        self.tasks.close();
        tokio::time::timeout_at(end, self.tasks.wait()).await.is_ok()
    }

    /// Ends the handlers under way and hands their tasks back; says whether all were within this time.
    pub(crate) async fn halt(&self, within: Duration) -> bool {
        self.halt.cancel();
        let all = self.ended_by(Instant::now() + within).await;
        self.abandon.cancel();
        self.tasks.wait().await;
        all
    }

    /// Ends everything where it is, and hands nothing back: the executor is gone, and nobody gives signs of life
    /// for its tasks.
    pub(crate) fn abandon(&self) {
        self.abandon.cancel();
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.abandon.clone().run_until_cancelled_owned(work));
    }

    fn run_alone(self: &Arc<Self>, slots: Slots, mut job: Job, begun: Option<Begun>) {
        let runs = Arc::clone(self);
        self.spawn(async move {
            let _slots = slots;
            let started = Instant::now();
            let run = async {
                match begun {
                    Some(begun) => attempt::go_on(&runs.desk, &job, begun).await,
                    None => attempt::run(&runs.desk, &job).await,
                }
            };
            let ran = tokio::select! {
                biased;
                ran = run => Some(ran),
                () = runs.halt.cancelled() => None,
            };
            let Over { ran, thread } = match ran {
                Some(over) => over,
                None => {
                    Box::pin(next_run::halt(&runs.desk, &mut job)).await;
                    Over { ran: Ran { end: RunEnd::NotRun, took: started.elapsed() }, thread: None }
                }
            };
            // Its task is settled; its slot is free once its thread is.
            if let Some(thread) = thread {
                tokio::select! {
                    _ended = thread => {}
                    () = runs.halt.cancelled() => {}
                }
            }
            runs.over(&job, ran);
        });
    }

    fn run_together(self: &Arc<Self>, mut slots: Slots, jobs: Vec<Job>) {
        let runs = Arc::clone(self);
        self.spawn(async move {
            let mut ended = Ended::of(jobs.len());
            let until = Instant::now() + TOGETHER_WITHIN;
            let mut jobs = jobs.into_iter();
            while let Some(job) = jobs.next() {
                // The type has turned out slower: the rest go as every run does.
                if !attempt::may_end_at_once(&runs.desk, &job) {
                    runs.run_alone(slots.split(1), job, None);
                    continue;
                }
                match attempt::look(&runs.desk, job, &mut ended).await {
                    Look::Ended => {}
                    Look::Open(job, begun) => runs.run_alone(slots.split(1), job, Some(*begun)),
                    Look::NotBegun(job) => runs.run_alone(slots.split(1), job, None),
                }
                if Instant::now() > until && jobs.len() > 0 {
                    let rest: Vec<Job> = jobs.by_ref().collect();
                    runs.run_together(slots.split(rest.len()), rest);
                }
            }
            if ended.is_empty() {
                return;
            }
            // In a box of its own: the runtime moves a task's future as it is made and as it ends.
            let over = Box::pin(attempt::settle_all(&runs.desk, ended)).await;
            over.iter().for_each(|(job, ran)| runs.over(job, *ran));
            drop(slots);
        });
    }

    /// A run is over, whatever became of it.
    pub(crate) fn over(&self, job: &Job, ran: Ran) {
        let ledger = &self.desk.ledger;
        if ran.end == RunEnd::Done {
            ledger.prefetch.ran(ran.took);
        }
        ledger.news.ended(&job.task, ran);
        if ledger.settle(&job.parcel.tally) {
            self.freed.send_modify(|count| *count += 1);
        }
    }
}
