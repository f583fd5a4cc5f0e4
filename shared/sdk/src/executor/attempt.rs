//! One run of a task, from delivery to settlement: decide, store, then ack.

use super::context::Ctx;
use super::lanes::{Job, Running};
use super::service::{TaskReply, TaskRequest, TaskService};
use crate::task::{Kind, TaskError};
use futures::FutureExt;
use jetlane_bus::done::Completed;
use jetlane_bus::{Bus, clock, trace};
use jetlane_core::retry::{Answer, Backoff, Step, follow};
use jetlane_schemas::limits::BODY_BYTES_MAX;
use jetlane_schemas::subject::{self, BUCKET_NOTES};
use jetlane_schemas::{
    Completion, Failure, Micros, Outcome, QueueName, RunToken, TaskEvent, TaskId, TaskType, TypeEntry,
};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tower::{Service, ServiceExt};
use tracing::Instrument;

/// A type that this executor does not serve (a rolling deploy) comes again after this long, so that it
/// does not circle.
const UNSERVED_DELAY: Duration = Duration::from_secs(1);
/// How long a task waits before it runs again when its completion could not be stored.
const DONE_FULL_DELAY: Duration = Duration::from_secs(5);

/// What every run on this executor needs.
pub(crate) struct Desk {
    pub(crate) bus: Bus,
    pub(crate) queue: QueueName,
    pub(crate) types: BTreeMap<TaskType, TypeEntry>,
    pub(crate) services: BTreeMap<TaskType, TaskService>,
    pub(crate) running: Arc<Running>,
}

/// A run under way.
struct Run<'a> {
    desk: &'a Desk,
    job: &'a Job,
    entry: &'a TypeEntry,
    attempt: u32,
    retries: u32,
    token: RunToken,
    started_at: Micros,
    late: bool,
}

/// Runs a task and settles it. What cannot be settled is left to come again.
pub(crate) async fn run(desk: &Desk, job: &Job) {
    match settle(desk, job).await {
        Ok(()) => job.parcel.settle_one().await,
        Err(error) => {
            tracing::warn!(task_id = %job.task.id, %error, cause = ?std::error::Error::source(&error), "A run could not be settled; the task comes again.");
            job.parcel.abandon();
        }
    }
}

/// Gives a task back to its queue without spending an attempt.
pub(crate) async fn hand_back(desk: &Desk, job: &Job, delay: Duration) {
    let spent = u32::try_from(job.parcel.delivered.saturating_sub(1)).unwrap_or(u32::MAX);
    let attempts = job.task.attempts.saturating_add(spent);
    match store_next_run(desk, job, delay, attempts, job.task.checkpoint.clone()).await {
        Ok(()) => job.parcel.settle_one().await,
        Err(error) => {
            tracing::warn!(task_id = %job.task.id, %error, "A task could not be handed back; it comes again by itself.");
            job.parcel.abandon();
        }
    }
}

/// Gives a task back that has begun and may even have ended: the next run looks for its completion first.
pub(crate) async fn halt(desk: &Desk, mut job: Job) {
    job.stop.cancel();
    Arc::make_mut(&mut job.task).suspect = true;
    hand_back(desk, &job, Duration::ZERO).await;
}

async fn settle(desk: &Desk, job: &Job) -> Result<(), jetlane_bus::Error> {
    let task = &job.task;
    let (Some(service), Some(entry)) = (desk.services.get(&task.task_type), desk.types.get(&task.task_type)) else {
        tracing::debug!(task_id = %task.id, task_type = %task.task_type, "This executor does not serve the type; handed back.");
        return store_next_run(desk, job, UNSERVED_DELAY, task.attempts, task.checkpoint.clone()).await;
    };
    let late = match suspicion(desk, job).await? {
        Suspicion::Settled => return Ok(()),
        Suspicion::Run { late } => late,
    };
    let delivered = u32::try_from(job.parcel.delivered).unwrap_or(u32::MAX);
    let run = Run {
        desk,
        job,
        entry,
        attempt: task.attempts.saturating_add(delivered),
        retries: task.retries.unwrap_or(entry.retries),
        token: RunToken::draw(),
        started_at: clock::now(),
        late,
    };
    if task.deadline.is_some_and(|deadline| run.started_at > deadline) && run.attempt == 1 {
        return run.end(Outcome::Expired, Failure::new("deadline", "had not started by its deadline")).await;
    }
    if run.attempt > run.retries.saturating_add(1) {
        // Every delivery so far ended with its executor.
        let died = Failure::new("crashed", format!("its executor died in each of {} attempts", run.attempt - 1));
        return run.end(Outcome::Failed, died).await;
    }
    let stop = job.stop.clone();
    desk.running.begin(&task.id, &stop);
    let settled = run.attempt(service).await;
    desk.running.end(&task.id);
    settled
}

enum Suspicion {
    /// It has completed: there is nothing to do.
    Settled,
    /// It is to run.
    Run { late: bool },
}

/// A task that may have run already is looked up before it runs (design, decision 7).
async fn suspicion(desk: &Desk, job: &Job) -> Result<Suspicion, jetlane_bus::Error> {
    let task = &job.task;
    if !task.suspect && job.parcel.delivered <= 1 {
        return Ok(Suspicion::Run { late: false });
    }
    if let Some(done) = desk.bus.read_done(&task.task_type, &task.id).await? {
        if done.outcome == Outcome::Failed {
            // The run that failed may have died before its dead letter was stored.
            desk.bus.bury(task, &done).await?;
        }
        tracing::debug!(task_id = %task.id, outcome = %done.outcome, "The task had completed; this delivery changes nothing.");
        return Ok(Suspicion::Settled);
    }
    let horizon = desk.bus.done_horizon().await?;
    Ok(Suspicion::Run { late: horizon.is_some_and(|oldest| task.submitted_at < oldest) && task.suspect })
}

/// The same task for its next run, stored so that it is due after `delay`.
async fn store_next_run(
    desk: &Desk,
    job: &Job,
    delay: Duration,
    attempts: u32,
    checkpoint: Option<Vec<u8>>,
) -> Result<(), jetlane_bus::Error> {
    let mut next = TaskEvent::clone(&job.task);
    next.run += 1;
    next.attempts = attempts;
    next.checkpoint = checkpoint;
    let due_at = Micros(clock::now().0.saturating_add(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX)));
    next.due_at = Some(due_at);
    let subject = next.due_subject();
    desk.bus.store_due(&next, due_at).await?.or_refused(&subject).map(|_| ())
}

impl Run<'_> {
    /// Runs the handler, within its time and with its panics caught, and settles what it answers.
    async fn attempt(&self, service: &TaskService) -> Result<(), jetlane_bus::Error> {
        let span = self.span();
        let task = self.task_for_the_handler().await;
        let attempts_max = self.retries.saturating_add(1);
        let ctx = Ctx::new(
            self.desk.bus.clone(),
            Arc::clone(&task),
            self.attempt,
            attempts_max,
            self.job.stop.clone(),
            self.job.parcel.lease.clone(),
        );
        let request = TaskRequest { task, ctx: ctx.clone() };
        let answered = self.answer(service, request).instrument(span.clone()).await;
        if let Err(error) = &answered {
            trace::set_error(&span, &error.to_string());
            trace::set_attribute(&span, "error.type", error.failure.code.clone());
        }
        let context = trace::context_of(&span);
        self.settle(answered, ctx, context).instrument(span).await
    }

    /// A run that may not be the first resumes from what was saved, wherever that was.
    async fn task_for_the_handler(&self) -> Arc<TaskEvent> {
        let mut task = Arc::clone(&self.job.task);
        if task.checkpoint.is_none() && (task.suspect || self.job.parcel.delivered > 1) {
            let notes = async {
                self.desk.bus.bucket(BUCKET_NOTES).await?.get::<Vec<u8>>(&subject::note_checkpoint(&task.id)).await
            };
            match notes.await {
                Ok(saved) => Arc::make_mut(&mut task).checkpoint = saved,
                Err(error) => {
                    tracing::warn!(task_id = %task.id, %error, "The checkpoint cannot be read; starting over.")
                }
            }
        }
        task
    }

    async fn answer(&self, service: &TaskService, request: TaskRequest) -> Result<TaskReply, TaskError> {
        let timeout = Duration::from_millis(self.job.task.timeout_ms.unwrap_or(self.entry.timeout_ms));
        let mut service = service.clone();
        let work = AssertUnwindSafe(async move { service.ready().await?.call(request).await }).catch_unwind();
        tokio::select! {
            biased;
            ended = work => match ended {
                Ok(answer) => answer,
                Err(panic) => Err(TaskError::with_code(Kind::Retry { after: None }, "panic", panic_text(&*panic))),
            },
            () = tokio::time::sleep(timeout) => {
                // A blocking handler goes on until it looks.
                self.job.stop.cancel();
                let text = format!("did not end within {} ms", timeout.as_millis());
                Err(TaskError::with_code(Kind::Retry { after: None }, "timeout", text))
            }
        }
    }

    async fn settle(
        &self,
        answered: Result<TaskReply, TaskError>,
        ctx: Ctx,
        context: jetlane_schemas::TraceContext,
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
        };
        let backoff = Backoff {
            base: Duration::from_millis(self.entry.backoff_ms),
            max: Duration::from_millis(self.entry.backoff_ms_max),
        };
        let seed = u64::from(self.attempt) ^ hash(&self.job.task.id);
        match follow(answer, self.attempt, self.retries, backoff, seed) {
            Step::Retry { delay, attempts } => {
                if !self.job.parcel.lease.holds() {
                    tracing::debug!(task_id = %self.job.task.id, "The lease of this run is over; its failure changes nothing.");
                    return Ok(());
                }
                tracing::info!(task_id = %self.job.task.id, attempt = self.attempt, delay_ms = delay.as_millis() as u64, error = %error, "Attempt failed; it is retried.");
                store_next_run(self.desk, self.job, delay, attempts, ctx.saved()).await
            }
            Step::DeadLetter | Step::Complete => {
                completion.outcome = if error.kind == Kind::Cancelled { Outcome::Cancelled } else { Outcome::Failed };
                self.fail(completion, error.failure).await
            }
        }
    }

    async fn succeed(&self, mut completion: Completion, reply: TaskReply) -> Result<(), jetlane_bus::Error> {
        let limit = self.desk.bus.body_bytes_max().min(BODY_BYTES_MAX);
        if reply.output.len() > limit {
            let text = format!(
                "the output has {} bytes, the limit is {limit}: store it and return its place",
                reply.output.len()
            );
            completion.outcome = Outcome::Failed;
            return self.fail(completion, Failure::new("output", text)).await;
        }
        completion.body = reply.output;
        self.store(completion).await
    }

    /// Ends the task before its handler ran.
    async fn end(&self, outcome: Outcome, failure: Failure) -> Result<(), jetlane_bus::Error> {
        self.fail(self.completion(outcome), failure).await
    }

    async fn fail(&self, completion: Completion, failure: Failure) -> Result<(), jetlane_bus::Error> {
        if !self.job.parcel.lease.holds() {
            tracing::debug!(task_id = %self.job.task.id, "The lease of this run is over; its end changes nothing.");
            return Ok(());
        }
        self.store(completion.with_failure(failure)).await
    }

    /// The first completion that is stored wins; a failed one that won gets its dead letter.
    async fn store(&self, mut completion: Completion) -> Result<(), jetlane_bus::Error> {
        let span = complete_span(&completion);
        let context = trace::context_of(&span);
        if !context.is_empty() {
            // What the completion triggers goes on from here.
            completion.trace = context;
        }
        match self.desk.bus.complete(&completion).instrument(span).await? {
            Completed::Won if completion.outcome == Outcome::Failed => {
                tracing::warn!(task_id = %completion.id, attempt = self.attempt, failure = %completion.failure().unwrap_or_default(), "Task failed.");
                let mut dead = TaskEvent::clone(&self.job.task);
                dead.attempts = self.attempt;
                self.desk.bus.bury(&dead, &completion).await
            }
            Completed::Won => Ok(()),
            Completed::Lost(other) => {
                tracing::debug!(task_id = %completion.id, outcome = %other.outcome, "The task had completed; this result changes nothing.");
                Ok(())
            }
            Completed::Full => {
                tracing::error!(task_id = %completion.id, "The stream of completions is full: raise its limits or shorten its age. The task runs again.");
                let attempts = self.job.task.attempts;
                store_next_run(self.desk, self.job, DONE_FULL_DELAY, attempts, self.job.task.checkpoint.clone()).await
            }
        }
    }

    fn completion(&self, outcome: Outcome) -> Completion {
        let task = &self.job.task;
        let now = clock::now();
        let waited_from = task.due_at.unwrap_or(task.submitted_at);
        let mut completion = Completion::of(task, outcome, now);
        completion.attempt = self.attempt;
        completion.token = Some(self.token);
        completion.wait_ms = self.started_at.ms_since(waited_from);
        completion.run_ms = now.ms_since(self.started_at);
        completion.late = self.late;
        completion
    }

    fn span(&self) -> tracing::Span {
        let task = &self.job.task;
        let span = tracing::info_span!(
            target: "jetlane::span",
            "process",
            otel.name = format_args!("process {}", task.task_type),
            otel.kind = "consumer",
            messaging.system = "nats",
            messaging.operation.name = "process",
            messaging.operation.type = "process",
            messaging.destination.name = format_args!("jetlane.bundle.{}.{}.{}", task.queue, task.priority, task.fit),
            messaging.consumer.group.name = format_args!("bundle-{}-{}-{}", task.queue, task.priority, task.fit),
            messaging.message.id = %task.id,
            jetlane.task.id = %task.id,
            jetlane.task.type = %task.task_type,
            jetlane.task.attempt = i64::from(self.attempt),
            jetlane.task.run = i64::from(task.run),
            jetlane.queue = %self.desk.queue,
            jetlane.wait_ms = self.started_at.ms_since(task.due_at.unwrap_or(task.submitted_at)),
        );
        match trace::propagation() {
            trace::Propagation::Child => trace::set_parent(&span, &task.trace),
            trace::Propagation::Link => trace::add_link(&span, &task.trace),
            trace::Propagation::None => {}
        }
        span
    }
}

fn complete_span(completion: &Completion) -> tracing::Span {
    let span = tracing::info_span!(
        target: "jetlane::span",
        "complete",
        otel.name = format_args!("complete {}", completion.task_type),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "complete",
        messaging.operation.type = "send",
        messaging.destination.name = format_args!("jetlane.done.{}", completion.task_type),
        messaging.message.id = %completion.id,
        jetlane.task.id = %completion.id,
        jetlane.task.type = %completion.task_type,
        jetlane.task.outcome = %completion.outcome,
        jetlane.task.attempt = i64::from(completion.attempt),
    );
    // The run's, or the task's where there was no run.
    trace::set_parent(&span, &completion.trace);
    if completion.outcome != Outcome::Succeeded {
        trace::set_error(&span, completion.outcome.as_str());
    }
    span
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".into());
    format!("the handler panicked: {text}")
}

fn hash(id: &TaskId) -> u64 {
    id.as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
