//! The same task for its next run: stored where it is due, before this run's message is acked.

use super::attempt::{self, Desk, Settled, settled_by};
use super::lanes::Job;
use super::mark::{self, Found, Stored};
use super::telling::micros;
use jetlane_bus::clock;
use jetlane_bus::schedule::SCHEDULE_FLOOR;
use jetlane_core::run::Mark;
use jetlane_schemas::{Micros, TaskEvent};
use std::sync::Arc;
use std::time::Duration;

/// What the next run is like.
#[derive(Debug, Clone)]
pub(crate) struct Next {
    /// After how long it is due. Without a delay it keeps its place in line.
    delay: Duration,
    attempts: u32,
    yields: u32,
    checkpoint: Option<Vec<u8>>,
    remaining_us: Option<u64>,
}

impl Next {
    /// Goes on as this run began, with no attempt spent.
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            delay: Duration::ZERO,
            attempts: job.task.attempts,
            yields: job.task.yields,
            checkpoint: job.task.checkpoint.clone(),
            remaining_us: job.task.remaining_us,
        }
    }

    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub(crate) fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// It goes on from here.
    pub(crate) fn at_place(mut self, checkpoint: Option<Vec<u8>>, remaining: Option<Duration>) -> Self {
        self.checkpoint = checkpoint;
        self.remaining_us = remaining.map(micros).or(self.remaining_us);
        self
    }

    pub(crate) fn one_more_yield(mut self) -> Self {
        self.yields = self.yields.saturating_add(1);
        self
    }

    fn of_task(self, task: &TaskEvent, now: Micros) -> TaskEvent {
        TaskEvent {
            run: task.run.saturating_add(1),
            attempts: self.attempts,
            yields: self.yields,
            checkpoint: self.checkpoint,
            remaining_us: self.remaining_us,
            due_at: if self.delay.is_zero() {
                task.due_at
            } else {
                Some(Micros(now.0.saturating_add(micros(self.delay))))
            },
            ..task.clone()
        }
    }
}

/// Stores the next run of one that has a mark: the mark says first that the handler has answered, and then that the next
/// run is stored. A copy of this run that comes again neither counts as a crash nor begins once more.
pub(crate) async fn store_after(
    desk: &Desk,
    job: &Job,
    next: Next,
    mark: &Found,
) -> Result<Settled, jetlane_bus::Error> {
    let Some(answered) = advance(desk, job, mark, Mark::answered).await? else { return Ok(Settled::Leave) };
    match store(desk, job, next).await? {
        Settled::Ack => advance(desk, job, &answered, Mark::next).await.map(|_| Settled::Ack),
        Settled::Leave => Ok(Settled::Leave),
    }
}

/// Moves a mark on; `None` where another executor has stored one since.
async fn advance(
    desk: &Desk,
    job: &Job,
    found: &Found,
    to: impl Fn(Mark) -> Mark,
) -> Result<Option<Found>, jetlane_bus::Error> {
    let Some(mark) = found.of(&job.task) else { return Ok(None) };
    let mark = mark::of(to(mark), &job.task, found.mark.token, desk.owners.executor());
    Ok(match mark::store(&desk.bus, &job.task, &mark, Some(found)).await? {
        Stored::This(found) => Some(found),
        Stored::Other(_) => None,
    })
}

/// Stores the next run; nothing unless the lease of this one holds, since it may run elsewhere.
pub(crate) async fn store(desk: &Desk, job: &Job, next: Next) -> Result<Settled, jetlane_bus::Error> {
    if !job.parcel.lease.holds() {
        tracing::debug!(task_id = %job.task.id, "The lease of this run is over; it is not for this executor to store the next.");
        return Ok(Settled::Leave);
    }
    let (delay, now) = (next.delay, clock::now());
    let at = if delay < SCHEDULE_FLOOR { now } else { clock::after(delay) };
    if !delay.is_zero() && delay < SCHEDULE_FLOOR {
        // The broker's timer has a floor, and what is nearer is due at once: a run is never sooner than asked.
        tokio::time::sleep(delay).await;
    }
    let mut next = next.of_task(&job.task, now);
    // If this process dies before the ack, this run comes again beside the next. One that yields is trusted, for the sake
    // of those that yield often, unless it must not run twice.
    next.suspect |= job.parcel.is_redelivered() || next.yields == job.task.yields || is_once(desk, job);
    let subject = next.due_subject();
    desk.bus.store_due(&next, at).await?.or_refused(&subject).map(|_| Settled::Ack)
}

/// Gives a task back to its queue without spending an attempt.
pub(crate) async fn hand_back(desk: &Desk, job: &Job) {
    settled_by(job, store(desk, job, Next::of(job)).await).await;
}

/// Gives a task back that has begun and may even have ended: the next run looks for its completion
/// first, and otherwise goes on from where this one was. One that must not begin twice ends as failed.
pub(crate) async fn halt(desk: &Desk, job: &mut Job) {
    job.stop().cancel();
    let begun = desk.running.end(&job.task);
    Arc::make_mut(&mut job.task).suspect = true;
    let mut next = Next::of(job);
    let settled = match begun {
        Some(ctx) if ctx.is_once() => attempt::interrupt(desk, job, &ctx).await,
        Some(ctx) => {
            let left_off = ctx.left_off();
            next = next.at_place(left_off.place, left_off.remaining);
            match ctx.mark() {
                Some(mark) => store_after(desk, job, next, mark).await,
                None => store(desk, job, next).await,
            }
        }
        None => store_unbegun(desk, job, next).await,
    };
    settled_by(job, settled).await;
}

/// Stores the next run of one that did not begin, though its mark may be on its way to the broker.
async fn store_unbegun(desk: &Desk, job: &Job, next: Next) -> Result<Settled, jetlane_bus::Error> {
    let settled = store(desk, job, next).await?;
    if settled == Settled::Ack && attempt::is_marked(desk, job) {
        mark::remove(&desk.bus, &job.task).await?;
    }
    Ok(settled)
}

/// Whether the task must not begin a second time. One of a type that is not served here may be so.
fn is_once(desk: &Desk, job: &Job) -> bool {
    let of_type = || desk.served.get(&job.task.task_type).map(|serving| serving.entry.retries);
    job.task.retries.or_else(of_type).is_none_or(|retries| retries == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::{QueueName, TaskId, TaskType};

    fn task() -> TaskEvent {
        let task_type = TaskType::new("a.b").expect("valid");
        let mut task =
            TaskEvent::new(TaskId::generate(), task_type, QueueName::default_queue(), Micros(7), b"{}".to_vec());
        (task.run, task.attempts, task.yields, task.due_at) = (3, 1, 2, Some(Micros(50)));
        task
    }

    fn next(delay: Duration) -> Next {
        Next { delay, attempts: 1, yields: 2, checkpoint: None, remaining_us: None }
    }

    #[test]
    fn without_a_delay_the_next_run_keeps_its_place_in_line() {
        let next_run = next(Duration::ZERO).of_task(&task(), Micros(1_000));
        assert_eq!((next_run.run, next_run.due_at, next_run.submitted_at), (4, Some(Micros(50)), Micros(7)));
        let never_delayed = TaskEvent { due_at: None, ..task() };
        assert_eq!(next(Duration::ZERO).of_task(&never_delayed, Micros(1_000)).due_at, None);
    }

    #[test]
    fn with_a_delay_it_waits_from_when_it_is_due() {
        let next_run = next(Duration::from_micros(5)).of_task(&task(), Micros(1_000));
        assert_eq!(next_run.due_at, Some(Micros(1_005)));
    }

    #[test]
    fn a_yield_takes_its_place_and_what_is_left_along_and_spends_no_attempt() {
        let yielded = next(Duration::ZERO).one_more_yield();
        let yielded = yielded.at_place(Some(b"9".to_vec()), Some(Duration::from_millis(2)));
        let next_run = yielded.of_task(&task(), Micros(1_000));
        assert_eq!((next_run.run, next_run.attempts, next_run.yields), (4, 1, 3));
        assert_eq!((next_run.checkpoint.as_deref(), next_run.remaining_us), (Some(b"9".as_slice()), Some(2_000)));
    }
}
