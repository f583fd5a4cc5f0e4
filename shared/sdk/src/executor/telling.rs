//! What the leader of the queue is told: the totals, so that a lost message heals with the next, and
//! with them the news of runs. Told at once when something settles, and no more often than the pace
//! below; what remains of running tasks rides along, or follows at a slower pace.

use super::credit::Ledger;
use jetlane_bus::{Bus, Subscription};
use jetlane_schemas::frame::{Credit, RUNS_TOLD_MAX, Remaining, RunEnd, RunEnded};
use jetlane_schemas::{Headers, QueueName, TaskEvent, TaskRef, subject};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// The shortest time between two announcements.
const PACE: Duration = Duration::from_millis(1);
/// The same while the leader knows of more than half of all room.
const AMPLE_PACE: Duration = Duration::from_millis(10);
/// How long what remains of runs waits for an announcement that is made anyway.
const REMAINING_PACE: Duration = Duration::from_millis(10);
/// How often room is told when nothing happens: the leader drops executors that are silent for longer.
const EVERY: Duration = Duration::from_secs(1);
/// The most ended runs that wait to be told; beyond it the oldest are not, which costs measurements.
const RUNS_UNTOLD_MAX: usize = 8 * RUNS_TOLD_MAX;
/// The most running tasks whose remaining time waits to be told.
const REMAINING_UNTOLD_MAX: usize = 8 * RUNS_TOLD_MAX;

/// What has become of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) end: RunEnd,
    /// How long the handler ran.
    pub(crate) took: Duration,
}

impl Ran {
    /// The handler did not run.
    pub(crate) const NOT: Self = Self { end: RunEnd::NotRun, took: Duration::ZERO };
}

/// A time as it stands in a frame.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What happened since it was told last.
#[derive(Default)]
pub(crate) struct News {
    untold: Mutex<Untold>,
    changed: Notify,
    changed_a_little: Notify,
    remaining_changed: Notify,
}

#[derive(Default)]
struct Untold {
    runs: VecDeque<RunEnded>,
    remaining: HashMap<TaskRef, (u32, Duration, Duration)>,
}

impl News {
    fn lock(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().expect("nobody panics while holding the news")
    }

    /// The totals are others.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }

    /// They are, and the leader knows of room enough: it can wait.
    pub(crate) fn changed_a_little(&self) {
        self.changed_a_little.notify_one();
    }

    /// A run is over. Told with the totals that follow from it.
    pub(crate) fn ended(&self, task: &TaskEvent, ran: Ran) {
        let TaskRef { task_type, id } = task.identity();
        let ended = RunEnded { task_type: Some(task_type), id, run: task.run, run_us: micros(ran.took), end: ran.end };
        let mut untold = self.lock();
        if !untold.remaining.is_empty() {
            untold.remaining.remove(&task.identity());
        }
        if untold.runs.len() == RUNS_UNTOLD_MAX {
            untold.runs.pop_front();
        }
        untold.runs.push_back(ended);
    }

    /// A running task said what is left of it; only the last word is told.
    pub(crate) fn remains(&self, task: &TaskEvent, remaining: Duration, resume: Duration) {
        let mut untold = self.lock();
        let identity = task.identity();
        if untold.remaining.len() < REMAINING_UNTOLD_MAX || untold.remaining.contains_key(&identity) {
            untold.remaining.insert(identity, (task.run, remaining, resume));
        }
        drop(untold);
        self.remaining_changed.notify_one();
    }

    /// Moves as much as one announcement takes; says whether there is more.
    fn take(&self, credit: &mut Credit) -> bool {
        let mut untold = self.lock();
        let runs = untold.runs.len().min(RUNS_TOLD_MAX);
        credit.runs.extend(untold.runs.drain(..runs));
        let told: Vec<TaskRef> = untold.remaining.keys().take(RUNS_TOLD_MAX).cloned().collect();
        for task in told {
            if let Some((run, remaining, resume)) = untold.remaining.remove(&task) {
                let (remaining_us, resume_us) = (micros(remaining), micros(resume));
                let TaskRef { task_type, id } = task;
                credit.remaining.push(Remaining { task_type: Some(task_type), id, run, remaining_us, resume_us });
            }
        }
        !untold.runs.is_empty() || !untold.remaining.is_empty()
    }
}

impl Ledger {
    /// The next announcement, and whether another has to follow it.
    pub(crate) fn announcement(&self) -> (Credit, bool) {
        // Taken before the totals are read: a run is never told before its room.
        let mut news = Credit::default();
        let has_more = self.news.take(&mut news);
        let Credit { runs, remaining, .. } = news;
        (Credit { runs, remaining, ..self.credit() }, has_more)
    }

    /// Tells room and news now; says whether there is more news.
    async fn tell(&self, bus: &Bus, queue: &QueueName) -> bool {
        let (credit, has_more) = self.announcement();
        let sent = match credit.encode() {
            Ok(frame) => bus.send(subject::credit(queue), Headers::new(), frame.into()).await,
            Err(error) => {
                tracing::error!(%error, "The credit of this executor cannot be written.");
                return has_more;
            }
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "The credit was not told; the next time tells all but the runs.");
        }
        has_more
    }

    /// Tells all there is.
    pub(crate) async fn tell_all(&self, bus: &Bus, queue: &QueueName) {
        // Nothing new comes meanwhile that would not fit into the bound.
        for _ in 0..=RUNS_UNTOLD_MAX.max(REMAINING_UNTOLD_MAX) / RUNS_TOLD_MAX {
            if !self.tell(bus, queue).await {
                return;
            }
        }
    }

    /// Tells the room whenever it changes, and when a new leader asks.
    pub(crate) async fn keep_telling(&self, bus: &Bus, queue: &QueueName) {
        let mut wanted = match bus.subscribe(&subject::credit_wanted(queue)).await {
            Ok(wanted) => Some(wanted),
            Err(error) => {
                tracing::warn!(%error, "A new leader's question for credit cannot be heard; it waits a second longer.");
                None
            }
        };
        loop {
            let has_more = self.tell(bus, queue).await;
            tokio::time::sleep(PACE).await;
            if has_more {
                continue;
            }
            tokio::select! {
                () = self.news.changed.notified() => {}
                () = self.something_changed_a_little() => {}
                () = self.something_remains() => {}
                is_open = asked(&mut wanted) => if !is_open {
                    return;
                },
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    async fn something_changed_a_little(&self) {
        self.news.changed_a_little.notified().await;
        tokio::time::sleep(AMPLE_PACE).await;
    }

    async fn something_remains(&self) {
        self.news.remaining_changed.notified().await;
        tokio::time::sleep(REMAINING_PACE).await;
    }
}

async fn asked(wanted: &mut Option<Subscription>) -> bool {
    match wanted {
        Some(wanted) => wanted.next().await.is_some(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::prefetch::Prefetch;
    use super::*;
    use jetlane_schemas::{FitEntry, Micros, Needs, TaskId, TaskType};

    fn ledger() -> Ledger {
        let ledger = Ledger::new("e".into(), 4, Prefetch::new(Some(1)), Needs::default());
        ledger.serve(&[FitEntry::default()]);
        ledger
    }

    fn task(run: u32) -> TaskEvent {
        let task_type = TaskType::new("a.b").expect("valid");
        let mut task = TaskEvent::new(TaskId::generate(), task_type, QueueName::default_queue(), Micros(0), Vec::new());
        task.run = run;
        task
    }

    #[test]
    fn runs_that_ended_are_told_once_with_the_totals() {
        let (ledger, task) = (ledger(), task(3));
        ledger.news.ended(&task, Ran { end: RunEnd::Done, took: Duration::from_micros(1_500) });
        let (credit, has_more) = ledger.announcement();
        let told = RunEnded {
            task_type: Some(task.task_type.clone()),
            id: task.id.clone(),
            run: 3,
            run_us: 1_500,
            end: RunEnd::Done,
        };
        assert_eq!((credit.runs, credit.capacity, has_more), (vec![told], 5, false));
        assert!(ledger.announcement().0.runs.is_empty());
    }

    #[test]
    fn what_one_announcement_has_no_room_for_follows_and_the_rest_has_a_bound() {
        let ledger = ledger();
        let tasks: Vec<TaskEvent> = (0..RUNS_UNTOLD_MAX + 3).map(|_| task(1)).collect();
        for task in &tasks {
            ledger.news.ended(task, Ran::NOT);
            ledger.news.remains(task, Duration::from_secs(1), Duration::ZERO);
        }
        let (mut told, mut remaining, mut has_more) = (Vec::new(), 0, true);
        while has_more {
            let (credit, more) = ledger.announcement();
            assert!(credit.runs.len() <= RUNS_TOLD_MAX && credit.remaining.len() <= RUNS_TOLD_MAX);
            assert!(credit.encode().expect("small enough").len() < 128 * 1_024);
            told.extend(credit.runs.into_iter().map(|run| run.id));
            remaining += credit.remaining.len();
            has_more = more;
        }
        let last: Vec<TaskId> = tasks[3..].iter().map(|task| task.id.clone()).collect();
        assert_eq!(told, last, "the oldest are not told");
        assert_eq!(remaining, REMAINING_UNTOLD_MAX);
    }

    #[test]
    fn only_the_last_word_on_what_remains_is_told_and_none_after_the_end() {
        let (ledger, going_on, ended) = (ledger(), task(2), task(1));
        for seconds in [9, 8] {
            ledger.news.remains(&going_on, Duration::from_secs(seconds), Duration::from_millis(20));
            ledger.news.remains(&ended, Duration::from_secs(seconds), Duration::from_millis(20));
        }
        ledger.news.ended(&ended, Ran::NOT);
        let TaskRef { task_type, id } = going_on.identity();
        let told = Remaining { task_type: Some(task_type), id, run: 2, remaining_us: 8_000_000, resume_us: 20_000 };
        assert_eq!(ledger.announcement().0.remaining, [told]);
        assert!(ledger.announcement().0.remaining.is_empty());
    }
}
