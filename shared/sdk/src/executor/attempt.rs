//! One run of a task, from delivery to settlement: decide, store, then ack.

use super::cancelled::Cancelled;
use super::completing::Completing;
use super::context::Ctx;
use super::credit::Ledger;
use super::governor::Governor;
use super::lanes::Job;
use super::limit::Usual;
use super::mark::{self, Found, Stored, Unbegun};
use super::next_run::{self, Next};
use super::note::Note;
use super::owners::{Owners, inquired};
use super::pace::Pace;
use super::running::Running;
use super::service::{TaskReply, TaskRequest, TaskService};
use super::spans;
use super::telling::Ran;
use super::unbundle;
use crate::registry::Registry;
use crate::task::{Kind, TaskError};
use futures::FutureExt;
use futures::future::BoxFuture;
use jetlane_bus::{Bus, Fault, clock, trace};
use jetlane_core::run::{self, Begin, Evidence, Marking, OUTAGE_MAX, Owner, Suspicion, Verdict, judge, needs_inquiry};
use jetlane_mutants::mutant;
use jetlane_schemas::frame::RunEnd;
use jetlane_schemas::inquiry::{BeginMark, InquiryReply};
use jetlane_schemas::{Completion, Failure, Micros, Outcome, QueueName, RunToken, TaskEvent, TaskType, TypeEntry};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tower::{Service, ServiceExt};
use tracing::{Instrument, Span};

/// A type that this executor does not serve (a rolling deploy) comes again after this long, so that it
/// does not circle.
const UNSERVED_DELAY: Duration = Duration::from_secs(1);
/// How often a run that waits for its owner asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Why a task without retries failed whose handler did not end in the drain time.
const INTERRUPTED: &str =
    "its executor stopped before the handler ended, and the task has no retries: give the executor a longer drain time";
/// Evidence that is older when a handler is about to begin is looked at once more: storing a mark may wait for an election.
const EVIDENCE_AGE_MAX: Duration = Duration::from_secs(1);
/// The pause before something that the broker did not take is stored again.
const STORE_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What every run on this executor needs.
pub(crate) struct Desk {
    pub(crate) bus: Bus,
    pub(crate) queue: QueueName,
    pub(crate) served: BTreeMap<TaskType, Serving>,
    pub(crate) running: Arc<Running>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) governor: Arc<Governor>,
    pub(crate) completing: Completing,
    pub(crate) owners: Arc<Owners>,
    pub(crate) cancelled: Arc<Cancelled>,
    pub(crate) unbegun: Arc<Unbegun>,
    pub(crate) registry: Registry,
}

/// A type that is served.
pub(crate) struct Serving {
    /// As this executor announced it: what people have set over it is in the registry.
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

/// What is left when a run is over.
pub(crate) struct Over {
    /// What became of the handler.
    pub(crate) ran: Ran,
    /// Resolves when the thread of a blocking handler is free.
    pub(crate) thread: Option<oneshot::Receiver<()>>,
}

impl Over {
    const NOT_RUN: Self = Self { ran: Ran::NOT, thread: None };
}

/// What happens to the delivery of a run that is over here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It is acked: all that follows from it is stored.
    Ack,
    /// It is left: the task goes on elsewhere, or comes again.
    Leave,
}

/// What is known of a task that was delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inquired {
    /// It waits for a slot. The owner of this mark, if there is one, was waited for in vain.
    Ready(Option<RunToken>),
    /// It is not to run here.
    Over(Settled),
}

type Outcomes = Result<Settled, jetlane_bus::Error>;

/// Runs a task and settles it; says what became of the handler. What cannot be settled is left to come
/// again.
pub(crate) async fn run(desk: &Desk, job: &Job) -> Over {
    let mut over = Over::NOT_RUN;
    let settled = settle(desk, job, &mut over).await;
    settled_by(job, settled).await;
    over
}

/// The same of a run whose handler is at work already.
pub(crate) async fn go_on(desk: &Desk, job: &Job, begun: Begun) -> Over {
    let mut over = Over::NOT_RUN;
    let settled = match desk.served.get(&job.task.task_type) {
        Some(serving) => Run { desk, job, serving, facts: begun.facts }.go_on(begun, &mut over).await,
        None => Ok(Settled::Leave),
    };
    settled_by(job, settled).await;
    over
}

/// Acks the delivery of a run that is over, or leaves it.
pub(crate) async fn settled_by(job: &Job, settled: Outcomes) {
    match settled {
        Ok(Settled::Ack) => job.parcel.settle_one().await,
        Ok(Settled::Leave) => job.parcel.abandon(),
        Err(error) => {
            tracing::warn!(task_id = %job.task.id, %error, cause = ?std::error::Error::source(&error), "A run could not be settled; the task comes again.");
            job.parcel.abandon();
        }
    }
}

async fn settle(desk: &Desk, job: &Job, over: &mut Over) -> Outcomes {
    let task = &job.task;
    let Some(serving) = desk.served.get(&task.task_type) else {
        tracing::debug!(task_id = %task.id, task_type = %task.task_type, "This executor does not serve the type; handed back.");
        let next = Next::of(job).after(UNSERVED_DELAY).attempts(task.attempts);
        return Box::pin(next_run::store(desk, job, next)).await;
    };
    // Boxed: rarely taken, and inlining it would enlarge every run's future.
    let late =
        if is_looked_up(desk, job) { Box::pin(look_up(desk, job)).await? } else { LookedUp::Open { late: false } };
    let LookedUp::Open { late } = late else { return Ok(Settled::Ack) };
    if job.is_suspect() && desk.owners.adopt_here(job) {
        tracing::debug!(task_id = %task.id, "The same run is under way here by another message, and settles this one.");
        return Ok(Settled::Leave);
    }
    // Here and not before: a task waits for its slot, and then for what is looked up.
    if !job.parcel.lease.holds() {
        tracing::debug!(task_id = %task.id, "The lease of this run lapsed before it began; it comes again.");
        return Ok(Settled::Leave);
    }
    let (now, delivered) = (clock::now(), delivered(job, serving));
    let token = RunToken::draw();
    let (verdict, mark) = if run::is_marked(&delivered) {
        Box::pin(judge_marked(desk, job, serving, token)).await?
    } else {
        (judge(&delivered, &Evidence::NONE, now), None)
    };
    let begin = match verdict {
        Verdict::Begin(begin) => begin,
        other => {
            let facts = Facts::never(task.attempts, delivered.retries, now, late);
            return Box::pin(Run { desk, job, serving, facts }.never_begin(other, mark)).await;
        }
    };
    let facts = Facts::of(begin, delivered.retries, token, now, late);
    let run = Run { desk, job, serving, facts };
    let begun = run.begin();
    if let Some(mark) = mark {
        begun.ctx.marked(mark);
    }
    if job.is_suspect() {
        Box::pin(run.find_place(&begun.ctx)).await;
    }
    run.go_on(begun, over).await
}

/// Whether DONE is read before a task begins.
pub(crate) fn is_looked_up(desk: &Desk, job: &Job) -> bool {
    job.is_suspect() || desk.cancelled.contains(&job.task)
}

/// Whether other executors are asked for a task before it takes a slot.
pub(crate) fn is_inquired(desk: &Desk, job: &Job) -> bool {
    job.is_suspect()
        && desk.served.get(&job.task.task_type).is_some_and(|serving| needs_inquiry(&delivered(job, serving)))
}

/// Whether a mark is stored before a task begins.
pub(crate) fn is_marked(desk: &Desk, job: &Job) -> bool {
    desk.served.get(&job.task.task_type).is_some_and(|serving| run::is_marked(&delivered(job, serving)))
}

/// Ends a task that has begun and must not begin again: its executor stops.
pub(crate) async fn interrupt(desk: &Desk, job: &Job, ctx: &Ctx) -> Outcomes {
    let Some(serving) = desk.served.get(&job.task.task_type) else { return Ok(Settled::Leave) };
    if !job.parcel.lease.holds() {
        return Ok(Settled::Leave);
    }
    let attempt = job.task.attempts.saturating_add(1);
    let run = Run { desk, job, serving, facts: Facts::never(attempt, 0, ctx.started_at(), false) };
    let settled = run.end(Outcome::Failed, Failure::new("interrupted", INTERRUPTED)).await;
    run.without_notes(ctx, settled).await
}

/// Finds out whether a task that was delivered again, or is known to be cancelled, is to run here. Waits while its
/// owner may be back.
pub(crate) async fn inquire(desk: &Desk, job: &Job) -> Result<Inquired, jetlane_bus::Error> {
    let Some(serving) = desk.served.get(&job.task.task_type) else { return Ok(Inquired::Ready(None)) };
    let run = delivered(job, serving);
    if !needs_inquiry(&run) {
        return Ok(match look_up(desk, job).await? {
            LookedUp::Settled => Inquired::Over(Settled::Ack),
            LookedUp::Open { .. } => Inquired::Ready(None),
        });
    }
    let over = |reply| match reply {
        InquiryReply::Adopted | InquiryReply::Running => Some(Inquired::Over(Settled::Leave)),
        InquiryReply::Superseded => Some(Inquired::Over(Settled::Ack)),
        InquiryReply::Unheld | InquiryReply::Unbegun => None,
    };
    let is_asked_of_everybody = run::is_asked_of_everybody(&run);
    if is_asked_of_everybody && let Some(over) = over(desk.owners.reply_here(job)) {
        return Ok(over);
    }
    let inquiry = desk.owners.inquiry(&job.parcel, vec![inquired(&job.task)]);
    let connections = desk.bus.connections();
    let mut since = None;
    loop {
        let connection = *connections.borrow();
        if is_asked_of_everybody && let Some(over) = desk.owners.ask(&inquiry).await?.and_then(over) {
            return Ok(over);
        }
        // The mark first: it goes once the completion is stored.
        let found = mark::read(&desk.bus, &job.task).await?;
        if let LookedUp::Settled = look_up(desk, job).await? {
            return Ok(Inquired::Over(Settled::Ack));
        }
        if *connections.borrow() != connection {
            // The question may not have been heard.
            continue;
        }
        let waited = match since {
            Some((at, on)) if on == connection => Instant::elapsed(&at),
            _ => {
                since = Some((Instant::now(), connection));
                Duration::ZERO
            }
        };
        let owner = match found.as_ref().filter(|found| run.retries == 0 && counts(&run, found, &job.task)) {
            Some(found) => match desk.owners.ask_owner(job, found, &inquiry).await? {
                Owner::NeverBegan => {
                    tracing::info!(task_id = %job.task.id, "The mark of a handler that never began is removed.");
                    mark::withdraw(&desk.bus, &job.task, found).await?;
                    continue;
                }
                owner => owner,
            },
            None => Owner::Unknown,
        };
        let mark = found.as_ref().and_then(|found| found.of(&job.task));
        match judge(&run, &Evidence { mark, owner, waited, ..Evidence::NONE }, clock::now()) {
            Verdict::LeaveToOwner => return Ok(Inquired::Over(Settled::Leave)),
            Verdict::Completed | Verdict::Cancelled | Verdict::Superseded => return Ok(Inquired::Over(Settled::Ack)),
            Verdict::Begin(_) | Verdict::Expired | Verdict::Crashed { .. } => {
                return Ok(Inquired::Ready(found.map(|found| found.mark.token)));
            }
            Verdict::WaitForOwner => tokio::time::sleep(ASK_AGAIN_AFTER).await,
        }
    }
}

/// Whether a mark says that this run, or a copy of it, has begun.
fn counts(run: &run::Run, found: &Found, task: &TaskEvent) -> bool {
    found.of(task).is_some_and(|mark| run::counts(run, mark))
}

/// Decides about a run before which a mark is stored, and stores it; returns that mark, or the one that spoke against it.
async fn judge_marked(
    desk: &Desk,
    job: &Job,
    serving: &Serving,
    token: RunToken,
) -> Result<(Verdict, Option<Found>), jetlane_bus::Error> {
    let run = delivered(job, serving);
    let since = Instant::now();
    let mut found = if needs_inquiry(&run) { mark::read(&desk.bus, &job.task).await? } else { None };
    let mut given_up = job.given_up;
    loop {
        // A copy that began while this run waited for its slot has an owner that was not asked.
        if let Some(other) = found.as_ref().filter(|found| run.retries == 0 && counts(&run, found, &job.task))
            && given_up != Some(other.mark.token)
        {
            match inquire(desk, job).await? {
                Inquired::Ready(mark) => given_up = mark,
                Inquired::Over(Settled::Ack) => return Ok((Verdict::Superseded, None)),
                Inquired::Over(Settled::Leave) => return Ok((Verdict::LeaveToOwner, None)),
            }
            found = mark::read(&desk.bus, &job.task).await?;
            continue;
        }
        let evidence = Evidence {
            mark: found.as_ref().and_then(|found| found.of(&job.task)),
            waited: OUTAGE_MAX,
            ..Evidence::NONE
        };
        let verdict = judge(&run, &evidence, clock::now());
        let Verdict::Begin(Begin { marking: Marking::Store(wanted), .. }) = verdict else {
            return Ok((verdict, found));
        };
        let mark = mark::of(wanted, &job.task, token, desk.owners.executor());
        let undecided = desk.unbegun.decide(token);
        match store_mark(desk, job, &mark, found.as_ref()).await? {
            Stored::This(stored) => {
                let instead = if !job.parcel.lease.holds() {
                    Verdict::LeaveToOwner
                } else if is_looked_up_again(desk, job, since) && !is_open(desk, job).await? {
                    Verdict::Completed
                } else {
                    undecided.begins();
                    return Ok((verdict, Some(stored)));
                };
                drop(undecided);
                if let Err(error) = mark::withdraw(&desk.bus, &job.task, &stored).await {
                    tracing::debug!(task_id = %job.task.id, %error, "The mark of a handler that never began was not removed; it is known here.");
                }
                return Ok((instead, None));
            }
            Stored::Other(other) => found = Some(other),
        }
    }
}

/// Whether DONE is read once more after the mark was stored: a copy may have completed meanwhile, and so may somebody who
/// cancelled the task.
fn is_looked_up_again(desk: &Desk, job: &Job, since: Instant) -> bool {
    is_looked_up(desk, job) || since.elapsed() > EVIDENCE_AGE_MAX
}

async fn is_open(desk: &Desk, job: &Job) -> Result<bool, jetlane_bus::Error> {
    look_up(desk, job).await.map(|looked_up| matches!(looked_up, LookedUp::Open { .. }))
}

/// Stores a mark, again and again while the broker may be back.
async fn store_mark(
    desk: &Desk,
    job: &Job,
    mark: &BeginMark,
    seen: Option<&Found>,
) -> Result<Stored, jetlane_bus::Error> {
    let since = Instant::now();
    loop {
        match mark::store(&desk.bus, &job.task, mark, seen).await {
            Err(error) if error.fault() != Fault::Final && since.elapsed() < OUTAGE_MAX => {
                tracing::debug!(task_id = %job.task.id, %error, "The mark of a run was not stored; trying again.");
                tokio::time::sleep(STORE_AGAIN_AFTER).await;
            }
            stored => return stored,
        }
    }
}

impl Facts {
    fn of(begin: Begin, retries: u32, token: RunToken, started_at: Micros, late: bool) -> Self {
        let Begin { attempt, crashes, .. } = begin;
        Self { attempt, crashes, retries, token, started_at, late }
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
        delivered: job.parcel.lease.delivered(),
        freshness: job.parcel.freshness,
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

/// A task that may have run already is looked up before it runs (design, decision 7).
async fn look_up(desk: &Desk, job: &Job) -> Result<LookedUp, jetlane_bus::Error> {
    mutant!(SuspectsNotLookedUp => { return Ok(LookedUp::Open { late: false }) });
    let task = &job.task;
    if let Some(done) = desk.bus.read_done(&task.task_type, &task.id).await? {
        unbundle::finish(&desk.bus, task, &done).await?;
        tracing::debug!(task_id = %task.id, outcome = %done.outcome, "The task had completed; this delivery changes nothing.");
        return Ok(LookedUp::Settled);
    }
    // A later run is stored by whoever held the earlier one: that had not completed.
    let may_be_late = task.suspect && (task.run == 1 || job.parcel.is_redelivered());
    let horizon = if may_be_late { desk.bus.done_horizon().await? } else { None };
    Ok(LookedUp::Open { late: horizon.is_some_and(|oldest| task.submitted_at < oldest) })
}

impl Run<'_> {
    /// Ends a task whose handler is not to begin; the mark of another run may say why.
    async fn never_begin(mut self, verdict: Verdict, mark: Option<Found>) -> Outcomes {
        match verdict {
            Verdict::Expired => {
                self.facts.attempt += 1;
                self.end(Outcome::Expired, Failure::new("deadline", "had not started by its deadline")).await
            }
            Verdict::Crashed { runs } => {
                self.facts.crashes = runs;
                let last = mark.map(|found| format!(", the last was {}", found.mark.executor)).unwrap_or_default();
                let died = format!("its executor died in each of {runs} attempts{last}");
                self.end(Outcome::Failed, Failure::new("crashed", died)).await
            }
            Verdict::Completed | Verdict::Cancelled | Verdict::Superseded => Ok(Settled::Ack),
            Verdict::Begin(_) | Verdict::LeaveToOwner | Verdict::WaitForOwner => Ok(Settled::Leave),
        }
    }

    /// Sets the handler to work, with its panics caught.
    fn begin(&self) -> Begun {
        let ctx = Ctx::new(self.desk, self.job, self.facts.number(), self.facts.number_max(), self.facts.started_at);
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
    async fn go_on(&self, begun: Begun, over: &mut Over) -> Outcomes {
        let Begun { ctx, span, started, work, .. } = begun;
        self.desk.running.begin(&ctx);
        let answered = self.answer(work, started).instrument(span.clone()).await;
        let end = match &answered {
            Ok(_) => RunEnd::Done,
            Err(error) if error.is_yield() => RunEnd::Yielded,
            Err(_) => RunEnd::Broken,
        };
        over.ran = self.ran(started.elapsed(), end);
        over.thread = ctx.thread();
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
            Ok(Some(note)) => {
                ctx.noted();
                if note.is_newer_than(task) {
                    ctx.left_off_at(note.into_place());
                }
            }
            Ok(None) => {}
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
