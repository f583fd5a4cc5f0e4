//! How a run ends: what its handler answered becomes the one completion, a dead letter, or the next run.

use super::{Answered, Run, next_run};
use crate::executor::context::Ctx;
use crate::executor::next_run::Next;
use crate::executor::service::TaskReply;
use crate::executor::spans;
use crate::task::{Kind, TaskError};
use jetlane_bus::done::Completed;
use jetlane_bus::trace;
use jetlane_core::retry::{Answer, Backoff, Step, follow};
use jetlane_schemas::limits::BODY_BYTES_MAX;
use jetlane_schemas::{Completion, Failure, Outcome, TaskEvent, TaskId, TraceContext};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Instrument, Span};

/// How long a task waits before it runs again when its completion could not be stored.
const DONE_FULL_DELAY: Duration = Duration::from_secs(5);

impl Run<'_> {
    pub(super) async fn settle(
        &self,
        answered: Answered,
        ctx: &Ctx,
        context: TraceContext,
    ) -> Result<(), jetlane_bus::Error> {
        let mut completion = self.completion(Outcome::Succeeded);
        if !context.is_empty() {
            completion.trace = context;
        }
        let error = match answered {
            Ok(reply) => return self.succeed(completion, reply).await,
            Err(error) => error,
        };
        let answer = match error.kind {
            Kind::Retry { after } => Answer::RetryAfter(after),
            Kind::Permanent => Answer::Fail,
            Kind::Cancelled => Answer::Fail,
            Kind::Yielded => Answer::Yield,
        };
        let backoff = Backoff {
            base: Duration::from_millis(self.serving.entry.backoff_ms),
            max: Duration::from_millis(self.serving.entry.backoff_ms_max),
        };
        let seed = u64::from(self.facts.attempt) ^ hash(&self.job.task.id);
        match follow(answer, self.facts.attempt, self.facts.retries, backoff, seed) {
            Step::Retry { delay, attempts } => Box::pin(self.run_again(ctx, &error, delay, attempts)).await,
            Step::DeadLetter | Step::Complete => {
                completion.outcome = if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
                Box::pin(self.fail(completion, error.failure)).await
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
    ) -> Result<(), jetlane_bus::Error> {
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
        next_run::store(self.desk, self.job, next).await
    }

    async fn succeed(&self, mut completion: Completion, reply: TaskReply) -> Result<(), jetlane_bus::Error> {
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
    pub(super) async fn end(&self, outcome: Outcome, failure: Failure) -> Result<(), jetlane_bus::Error> {
        self.fail(self.completion(outcome), failure).await
    }

    async fn fail(&self, completion: Completion, failure: Failure) -> Result<(), jetlane_bus::Error> {
        if !self.job.parcel.lease.holds() {
            tracing::debug!(task_id = %self.job.task.id, "The lease of this run is over; its end changes nothing.");
            return Ok(());
        }
        self.store(completion.with_failure(failure)).await
    }

    async fn store(&self, mut completion: Completion) -> Result<(), jetlane_bus::Error> {
        let span = complete_span(&mut completion);
        let failed = (completion.outcome == Outcome::Failed).then(|| completion.clone());
        let begun = Instant::now();
        let stored = self.desk.completing.complete(completion).instrument(span).await?;
        self.desk.ledger.prefetch.stored(begun.elapsed());
        match (stored, failed) {
            (Completed::Won, Some(why)) => Box::pin(self.bury(&why)).await,
            (stored, _) => self.stored(stored).await,
        }
    }

    /// A failed completion that won gets its dead letter.
    async fn bury(&self, why: &Completion) -> Result<(), jetlane_bus::Error> {
        let (id, attempt) = (&self.job.task.id, self.facts.number());
        tracing::warn!(task_id = %id, attempt, failure = %why.failure().unwrap_or_default(), "Task failed.");
        let mut dead = TaskEvent::clone(&self.job.task);
        dead.attempts = attempt;
        self.desk.bus.bury(&dead, why).await
    }

    /// The first completion that is stored wins.
    pub(super) async fn stored(&self, stored: Completed) -> Result<(), jetlane_bus::Error> {
        let id = &self.job.task.id;
        match stored {
            Completed::Won => Ok(()),
            Completed::Lost(other) => {
                tracing::debug!(task_id = %id, outcome = %other.outcome, "The task had completed; this result changes nothing.");
                Ok(())
            }
            Completed::Full => {
                tracing::error!(task_id = %id, "The stream of completions is full: raise its limits or shorten its age. The task runs again.");
                let next = Next::of(self.job).after(DONE_FULL_DELAY).attempts(self.job.task.attempts);
                Box::pin(next_run::store(self.desk, self.job, next)).await
            }
        }
    }
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
