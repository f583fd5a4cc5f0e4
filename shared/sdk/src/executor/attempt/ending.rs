//! How a run ends: what its handler answered becomes the one completion, a dead letter, or the next run.

use super::{Answered, Desk, Job, Outcomes, Run, STORE_AGAIN_AFTER, Settled, next_run, unbundle};
use crate::executor::context::Ctx;
use crate::executor::mark;
use crate::executor::next_run::Next;
use crate::executor::note::Note;
use crate::executor::service::TaskReply;
use crate::executor::spans;
use crate::task::{Kind, TaskError};
use jetlane_bus::done::Completed;
use jetlane_bus::{Fault, trace};
use jetlane_core::retry::{Answer, Backoff, Step, follow};
use jetlane_core::run::{self, OUTAGE_MAX, Settlement};
use jetlane_schemas::limits::BODY_BYTES_MAX;
use jetlane_schemas::{Completion, Failure, Outcome, TaskEvent, TaskId, TraceContext};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Instrument, Span};

impl Run<'_> {
    pub(super) async fn settle(&self, answered: Answered, ctx: &Ctx, context: TraceContext) -> Outcomes {
        let since = Instant::now();
        let mut completion = self.completion(Outcome::Succeeded);
        if !context.is_empty() {
            completion.trace = context;
        }
        let error = match answered {
            Ok(reply) => {
                let settled = self.succeed(completion, reply).await;
                return self.without_notes(ctx, settled).await;
            }
            Err(error) => error,
        };
        if !self.may_step(since).await {
            tracing::debug!(task_id = %self.job.task.id, "The lease of this run is lost; its end changes nothing.");
            return Ok(Settled::Leave);
        }
        let answer = match error.kind {
            Kind::Retry { after } => Answer::RetryAfter(after),
            Kind::Permanent => Answer::Fail,
            Kind::Cancelled => Answer::Fail,
            Kind::Yielded => Answer::Yield,
        };
        // Retries and timeout of a task come with it, from the dispatcher; the back-off does not.
        let entry = self.desk.registry.overridden(&self.job.task.task_type, self.serving.entry.clone());
        let backoff =
            Backoff { base: Duration::from_millis(entry.backoff_ms), max: Duration::from_millis(entry.backoff_ms_max) };
        let seed = u64::from(self.facts.attempt) ^ hash(&self.job.task.id);
        match follow(answer, self.facts.attempt, self.facts.retries, backoff, seed) {
            Step::Retry { delay, attempts } => Box::pin(self.run_again(ctx, &error, delay, attempts, since)).await,
            Step::DeadLetter | Step::Complete => {
                completion.outcome = if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
                let settled = Box::pin(self.fail(completion, error.failure)).await;
                self.without_notes(ctx, settled).await
            }
        }
    }

    /// Keeps what the handler answered until this run may act for its task, or somebody else does.
    async fn may_step(&self, since: Instant) -> bool {
        loop {
            match run::settle(run::Answered::Step, self.job.parcel.lease.state(), since.elapsed()) {
                Settlement::Store => return true,
                Settlement::Leave => return false,
                Settlement::Keep => tokio::time::sleep(STORE_AGAIN_AFTER).await,
            }
        }
    }

    /// Removes the notes of a task that is over.
    pub(super) async fn without_notes(&self, ctx: &Ctx, settled: Outcomes) -> Outcomes {
        let (has_note, has_mark) = (ctx.has_note(), ctx.mark().is_some());
        if settled.is_ok() && (has_note || has_mark) {
            Box::pin(self.remove_notes(has_note, has_mark)).await;
        }
        settled
    }

    async fn remove_notes(&self, has_note: bool, has_mark: bool) {
        let (bus, task) = (&self.desk.bus, &self.job.task);
        let note = async { if has_note { Note::remove(bus, task).await } else { Ok(()) } };
        let mark = async { if has_mark { mark::remove(bus, task).await } else { Ok(()) } };
        let (note, mark) = tokio::join!(note, mark);
        for removed in [note, mark] {
            if let Err(error) = removed {
                tracing::debug!(task_id = %task.id, %error, "A note of a task was not removed; it goes by its age.");
            }
        }
    }

    /// Stores the next run, which goes on from where this one left off.
    async fn run_again(
        &self,
        ctx: &Ctx,
        error: &TaskError,
        delay: Duration,
        attempts: u32,
        since: Instant,
    ) -> Outcomes {
        let task_id = &self.job.task.id;
        let left_off = ctx.left_off();
        let next = Next::of(self.job).after(delay).attempts(attempts).at_place(left_off.place, left_off.remaining);
        let next = if error.is_yield() {
            tracing::debug!(%task_id, run = self.job.task.run, remaining = ?left_off.remaining, "The task yields.");
            next.one_more_yield()
        } else {
            tracing::info!(%task_id, attempt = self.facts.number(), delay_ms = delay.as_millis() as u64, %error, "Attempt failed; it is retried.");
            next
        };
        loop {
            let stored = match ctx.mark() {
                Some(mark) => Box::pin(next_run::store_after(self.desk, self.job, next.clone(), mark)).await,
                None => next_run::store(self.desk, self.job, next.clone()).await,
            };
            match stored {
                Err(error) if error.fault() != Fault::Final && since.elapsed() < OUTAGE_MAX => {
                    tracing::debug!(%task_id, %error, "The next run was not stored; trying again.");
                    // It may be stored all the same: the next run looks for a completion.
                    self.job.parcel.lease.doubt();
                    tokio::time::sleep(STORE_AGAIN_AFTER).await;
                    if !self.may_step(since).await {
                        return Ok(Settled::Leave);
                    }
                }
                stored => return stored,
            }
        }
    }

    async fn succeed(&self, mut completion: Completion, reply: TaskReply) -> Outcomes {
        let (bytes, limit) = (reply.output.len(), self.output_bytes_max());
        if bytes > limit {
            let text = format!("the output has {bytes} bytes, the limit is {limit}: store it and return its place");
            completion.outcome = Outcome::Failed;
            return Box::pin(self.fail(completion, Failure::new("output", text))).await;
        }
        completion.body = reply.output;
        self.store(completion).await
    }

    pub(super) fn output_bytes_max(&self) -> usize {
        self.desk.bus.body_bytes_max().min(BODY_BYTES_MAX)
    }

    /// Ends the task before its handler ran.
    pub(super) async fn end(&self, outcome: Outcome, failure: Failure) -> Outcomes {
        self.fail(self.completion(outcome), failure).await
    }

    async fn fail(&self, completion: Completion, failure: Failure) -> Outcomes {
        self.store(completion.with_failure(failure)).await
    }

    async fn store(&self, mut completion: Completion) -> Outcomes {
        let span = complete_span(&mut completion);
        let failed = (completion.outcome == Outcome::Failed).then(|| completion.clone());
        let begun = Instant::now();
        let stored = self.desk.completing.complete(completion).instrument(span).await?;
        self.desk.ledger.prefetch.stored(begun.elapsed());
        match (stored, failed) {
            (Completed::Won, Some(why)) => Box::pin(self.bury(&why)).await,
            (Completed::Won, None) => Ok(Settled::Ack),
            (Completed::Lost(other), _) => Box::pin(lost_to(self.desk, self.job, &other)).await,
            // Waited for where completions are stored.
            (Completed::Full, _) => Ok(Settled::Leave),
        }
    }

    /// A failed completion that won gets its dead letter.
    async fn bury(&self, why: &Completion) -> Outcomes {
        let (id, attempt) = (&self.job.task.id, self.facts.number());
        tracing::warn!(task_id = %id, attempt, failure = %why.failure().unwrap_or_default(), "Task failed.");
        let mut dead = TaskEvent::clone(&self.job.task);
        dead.attempts = attempt;
        self.desk.bus.bury(&dead, why).await.map(|()| Settled::Ack)
    }
}

/// The first completion that is stored wins. Whoever stored it may have died before what follows from it was stored.
pub(super) async fn lost_to(desk: &Desk, job: &Job, other: &Completion) -> Outcomes {
    tracing::debug!(task_id = %job.task.id, outcome = %other.outcome, "The task had completed; this result changes nothing.");
    unbundle::finish(&desk.bus, &job.task, other).await.map(|()| Settled::Ack)
}

/// The span of a completion; what the completion triggers goes on from there.
pub(super) fn complete_span(completion: &mut Completion) -> Span {
    let span = spans::complete(completion);
    let context = trace::context_of(&span);
    if !context.is_empty() {
        completion.trace = context;
    }
    span
}

fn hash(id: &TaskId) -> u64 {
    id.as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
