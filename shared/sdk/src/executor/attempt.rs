//! One run of a task, from delivery to settlement: decide, store, then ack.

use super::completing::Completing;
use super::context::Ctx;
use super::credit::Ledger;
use super::governor::Governor;
use super::lanes::Job;
use super::limit::Usual;
use super::next_run::{self, Next};
use super::note::Note;
use super::pace::Pace;
use super::running::Running;
use super::service::{TaskReply, TaskRequest, TaskService};
use super::spans;
use super::telling::Ran;
use super::unbundle;
use crate::task::{Kind, TaskError};
use futures::FutureExt;
use futures::future::BoxFuture;
use jetlane_bus::{Bus, clock, trace};
use jetlane_core::run::{self, Begin, Evidence, Mark, OUTAGE_MAX, Suspicion, Verdict, judge};
use jetlane_schemas::frame::RunEnd;
use jetlane_schemas::{Completion, Failure, Micros, Outcome, QueueName, RunToken, TaskType, TypeEntry};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tower::{Service, ServiceExt};
use tracing::{Instrument, Span};

/// A type that this executor does not serve (a rolling deploy) comes again after this long, so that it
/// does not circle.
const UNSERVED_DELAY: Duration = Duration::from_secs(1);

/// What every run on this executor needs.
pub(crate) struct Desk {
    pub(crate) bus: Bus,
    pub(crate) queue: QueueName,
    pub(crate) served: BTreeMap<TaskType, Serving>,
    pub(crate) running: Arc<Running>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) governor: Arc<Governor>,
    pub(crate) completing: Completing,
}

/// A type that is served.
pub(crate) struct Serving {
    pub(crate) entry: TypeEntry,
    pub(crate) service: TaskService,
    /// How long its runs take.
    pub(crate) usual: Mutex<Usual>,
    /// Whether they end at once.
    pub(crate) pace: Pace,
}

/// A run under way.
struct Run<'a> {
    desk: &'a Desk,
    job: &'a Job,
    serving: &'a Serving,
    facts: Facts,
}

/// What is known of a run when it begins.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// The attempt that counts against the retries.
    attempt: u32,
    /// Runs that may have ended with their executors.
    crashes: u32,
    retries: u32,
    token: RunToken,
    started_at: Micros,
    /// Whether it may have completed before DONE's memory.
    late: bool,
}

/// What a handler answers.
type Answered = Result<TaskReply, TaskError>;

/// A run whose handler is at work.
pub(crate) struct Begun {
    facts: Facts,
    ctx: Ctx,
    span: Span,
    started: Instant,
    work: BoxFuture<'static, Answered>,
}

/// Runs a task and settles it; says what became of the handler. What cannot be settled is left to come
/// again.
pub(crate) async fn run(desk: &Desk, job: &Job) -> Ran {
    let mut ran = Ran::NOT;
    let settled = settle(desk, job, &mut ran).await;
    settled_by(job, settled).await;
    ran
}

/// The same of a run whose handler is at work already.
pub(crate) async fn go_on(desk: &Desk, job: &Job, begun: Begun) -> Ran {
    let mut ran = Ran::NOT;
    let settled = match desk.served.get(&job.task.task_type) {
        Some(serving) => Run { desk, job, serving, facts: begun.facts }.go_on(begun, &mut ran).await,
        None => Ok(()),
    };
    settled_by(job, settled).await;
    ran
}

async fn settled_by(job: &Job, settled: Result<(), jetlane_bus::Error>) {
    match settled {
        Ok(()) => job.parcel.settle_one().await,
        Err(error) => {
            tracing::warn!(task_id = %job.task.id, %error, cause = ?std::error::Error::source(&error), "A run could not be settled; the task comes again.");
            job.parcel.abandon();
        }
    }
}

async fn settle(desk: &Desk, job: &Job, ran: &mut Ran) -> Result<(), jetlane_bus::Error> {
    let task = &job.task;
    let Some(serving) = desk.served.get(&task.task_type) else {
        tracing::debug!(task_id = %task.id, task_type = %task.task_type, "This executor does not serve the type; handed back.");
        let next = Next::of(job).after(UNSERVED_DELAY).attempts(task.attempts);
        return Box::pin(next_run::store(desk, job, next)).await;
    };
    // What most runs do not come to is not on their way: a future is as large as its largest part.
    let late = if job.is_suspect() { Box::pin(look_up(desk, job)).await? } else { LookedUp::Open { late: false } };
    let LookedUp::Open { late } = late else { return Ok(()) };
    // Here and not before: a task waits for its slot, and then for what is looked up.
    if !job.parcel.lease.holds() {
        tracing::debug!(task_id = %task.id, "The lease of this run was over before it began; it runs elsewhere.");
        return Ok(());
    }
    let (now, delivered) = (clock::now(), delivered(job, serving));
    let begin = match judge(&delivered, &evidence(&delivered), now) {
        Verdict::Begin(begin) => begin,
        other => {
            let facts = Facts::never(task.attempts, delivered.retries, now, late);
            return Box::pin(Run { desk, job, serving, facts }.never_begin(other)).await;
        }
    };
    let run = Run { desk, job, serving, facts: Facts::of(begin, delivered.retries, now, late) };
    let begun = run.begin();
    if job.is_suspect() {
        Box::pin(run.find_place(&begun.ctx)).await;
    }
    run.go_on(begun, ran).await
}

impl Facts {
    fn of(begin: Begin, retries: u32, started_at: Micros, late: bool) -> Self {
        let Begin { attempt, crashes, .. } = begin;
        Self { attempt, crashes, retries, token: RunToken::draw(), started_at, late }
    }

    /// What is known of a run that does not begin.
    fn never(attempt: u32, retries: u32, started_at: Micros, late: bool) -> Self {
        Self { attempt, crashes: 0, retries, token: RunToken::draw(), started_at, late }
    }

    /// The number of the attempt as people read it.
    fn number(&self) -> u32 {
        self.attempt.saturating_add(self.crashes)
    }

    /// The most attempts there may be, by the same count.
    fn number_max(&self) -> u32 {
        self.retries.saturating_add(1).saturating_add(self.crashes)
    }
}

/// A run as it was delivered.
fn delivered(job: &Job, serving: &Serving) -> run::Run {
    let task = &job.task;
    run::Run {
        run: task.run,
        attempts: task.attempts,
        retries: task.retries.unwrap_or(serving.entry.retries),
        yields: task.yields,
        deadline: task.deadline,
        delivered: job.parcel.delivered,
        suspicion: if job.is_suspect() { Suspicion::Suspect } else { Suspicion::None },
    }
}

/// What DONE says of a task that may have run.
enum LookedUp {
    /// It has completed: there is nothing to do.
    Settled,
    /// It has no completion.
    Open { late: bool },
}

/// What speaks for and against a run.
fn evidence(delivered: &run::Run) -> Evidence {
    // Every delivery so far ended with its executor.
    let begun = u32::try_from(delivered.delivered.saturating_sub(1)).unwrap_or(u32::MAX);
    let mark = (begun > 0).then_some(Mark { run: delivered.run, begun });
    Evidence { mark, waited: OUTAGE_MAX, ..Evidence::NONE }
}

/// A task that may have run already is looked up before it runs (design, decision 7).
async fn look_up(desk: &Desk, job: &Job) -> Result<LookedUp, jetlane_bus::Error> {
    let task = &job.task;
    if let Some(done) = desk.bus.read_done(&task.task_type, &task.id).await? {
        unbundle::finish(&desk.bus, task, &done).await?;
        tracing::debug!(task_id = %task.id, outcome = %done.outcome, "The task had completed; this delivery changes nothing.");
        return Ok(LookedUp::Settled);
    }
    let horizon = desk.bus.done_horizon().await?;
    Ok(LookedUp::Open { late: horizon.is_some_and(|oldest| task.submitted_at < oldest) && task.suspect })
}

impl Run<'_> {
    /// Ends a task whose handler is not to begin.
    async fn never_begin(mut self, verdict: Verdict) -> Result<(), jetlane_bus::Error> {
        match verdict {
            Verdict::Expired => {
                self.facts.attempt += 1;
                self.end(Outcome::Expired, Failure::new("deadline", "had not started by its deadline")).await
            }
            Verdict::Crashed { runs } => {
                self.facts.crashes = runs;
                let died = format!("its executor died in each of {runs} runs");
                self.end(Outcome::Failed, Failure::new("crashed", died)).await
            }
            Verdict::Begin(_)
            | Verdict::Completed
            | Verdict::Cancelled
            | Verdict::Superseded
            | Verdict::LeaveToOwner
            | Verdict::WaitForOwner => Ok(()),
        }
    }

    /// Sets the handler to work, with its panics caught.
    fn begin(&self) -> Begun {
        let ctx = Ctx::new(self.desk, self.job, self.facts.number(), self.facts.number_max());
        let span = spans::process(&self.job.task, self.facts.number(), self.facts.started_at);
        let request = TaskRequest { task: Arc::clone(&self.job.task), ctx: ctx.clone() };
        let mut service = self.serving.service.clone();
        let work = AssertUnwindSafe(async move { service.ready().await?.call(request).await }).catch_unwind();
        let work = work.map(|ended| match ended {
            Ok(answer) => answer,
            Err(panic) => Err(TaskError::with_code(Kind::Retry { after: None }, "panic", panic_text(&*panic))),
        });
        Begun { facts: self.facts, ctx, span, started: Instant::now(), work: Box::pin(work) }
    }

    /// Waits for the handler, within its time, and settles what it answers.
    async fn go_on(&self, begun: Begun, ran: &mut Ran) -> Result<(), jetlane_bus::Error> {
        let Begun { ctx, span, started, work, .. } = begun;
        self.desk.running.begin(&ctx);
        let answered = self.answer(work, started).instrument(span.clone()).await;
        let end = match &answered {
            Ok(_) => RunEnd::Done,
            Err(error) if error.is_yield() => RunEnd::Yielded,
            Err(_) => RunEnd::Broken,
        };
        *ran = self.ran(started.elapsed(), end);
        match &answered {
            Ok(_) => {}
            Err(error) if error.is_yield() => trace::set_attribute(&span, "jetlane.yielded", true),
            Err(error) => {
                trace::set_error(&span, &error.to_string());
                trace::set_attribute(&span, "error.type", error.failure.code.clone());
            }
        }
        let context = trace::context_of(&span);
        let settled = self.settle(answered, &ctx, context).instrument(span).await;
        self.desk.running.end(&self.job.task);
        settled
    }

    /// What became of the handler. Whole runs that succeeded tell how long the type takes.
    fn ran(&self, took: Duration, end: RunEnd) -> Ran {
        self.serving.pace.ran(took);
        if end == RunEnd::Done && self.job.task.yields == 0 {
            self.desk.governor.measure(&self.serving.usual, took);
        }
        Ran { end, took }
    }

    /// A run that may not be the first resumes from what was saved last, beside the task or with it.
    async fn find_place(&self, ctx: &Ctx) {
        let task = &self.job.task;
        match Note::read(&self.desk.bus, task).await {
            Ok(Some(note)) if note.is_newer_than(task) => ctx.left_off_at(note.into_place()),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(task_id = %task.id, %error, "The checkpoint cannot be read; it goes on from an earlier one, or starts over.");
            }
        }
    }

    async fn answer(&self, work: BoxFuture<'static, Answered>, started: Instant) -> Answered {
        let timeout = Duration::from_millis(self.job.task.timeout_ms.unwrap_or(self.serving.entry.timeout_ms));
        tokio::select! {
            biased;
            answer = work => answer,
            () = tokio::time::sleep(timeout.saturating_sub(started.elapsed())) => {
                // A blocking handler goes on until it looks.
                self.job.stop().cancel();
                let text = format!("did not end within {} ms", timeout.as_millis());
                Err(TaskError::with_code(Kind::Retry { after: None }, "timeout", text))
            }
        }
    }

    fn completion(&self, outcome: Outcome) -> Completion {
        let task = &self.job.task;
        let now = clock::now();
        let waited_from = task.due_at.unwrap_or(task.submitted_at);
        let mut completion = Completion::of(task, outcome, now);
        completion.attempt = self.facts.number();
        completion.token = Some(self.facts.token);
        completion.wait_ms = self.facts.started_at.ms_since(waited_from);
        completion.run_ms = now.ms_since(self.facts.started_at);
        completion.late = self.facts.late;
        completion
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a value that is no text".into());
    format!("the handler panicked: {text}")
}

mod at_once;
mod ending;

pub(crate) use at_once::{Ended, Look, look, may_end_at_once, settle_all};

#[cfg(test)]
mod tests;
