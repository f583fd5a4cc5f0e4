//! What a handler can ask of its run, and tell of it.

use super::attempt::Desk;
use super::credit::Ledger;
use super::lanes::Job;
use super::mark::Found;
use super::note::Note;
use super::parcel::{Parcel, Stop};
use crate::task::TaskError;
use jetlane_bus::{Bus, clock};
use jetlane_core::run::{Hold, OUTAGE_MAX};
use jetlane_schemas::frame::Progress;
use jetlane_schemas::inquiry::InquiredRun;
use jetlane_schemas::limits::CHECKPOINT_BYTES_MAX;
use jetlane_schemas::{Headers, Micros, TaskEvent, TaskId, TaskRef, TaskType, subject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What stopping and going on elsewhere costs a task whose handler does not say: another trip through
/// the broker, and the way back to where it was.
const RESUME_COST_DEFAULT: Duration = Duration::from_millis(20);

/// The pause before a checkpoint that could not be stored is stored again.
const CHECKPOINT_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The executor's state, as an argument of a handler.
#[derive(Debug, Clone, Copy)]
pub struct State<S>(pub S);

/// The number of the attempt, from 1, as an argument of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt(pub u32);

/// One run of a task. Clones are the same run.
#[derive(Debug, Clone)]
pub struct Ctx {
    run: Arc<Run>,
}

struct Run {
    bus: Bus,
    ledger: Arc<Ledger>,
    task: Arc<TaskEvent>,
    attempt: u32,
    attempts_max: u32,
    started_at: Micros,
    stop: Stop,
    yield_wanted: AtomicBool,
    /// Whether a checkpoint of the task is stored beside it, which goes when it is over.
    has_note: AtomicBool,
    /// Its begin mark, which is stored beside it too.
    mark: OnceLock<Found>,
    saved: Mutex<Saved>,
    /// Resolves when the thread of a blocking handler is free.
    thread: Mutex<Option<oneshot::Receiver<()>>>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("task", &self.task).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// Where a run is, as it said last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Saved {
    /// The place, as JSON.
    pub(crate) place: Option<Vec<u8>>,
    /// How much is left to do from there.
    pub(crate) remaining: Option<Duration>,
    resume_cost: Option<Duration>,
}

impl Ctx {
    pub(crate) fn new(desk: &Desk, job: &Job, attempt: u32, attempts_max: u32, started_at: Micros) -> Self {
        let saved = Saved { place: job.task.checkpoint.clone(), ..Saved::default() };
        let run = Run {
            bus: desk.bus.clone(),
            ledger: Arc::clone(&desk.ledger),
            task: Arc::clone(&job.task),
            attempt,
            attempts_max,
            started_at,
            stop: job.stop(),
            yield_wanted: AtomicBool::new(false),
            has_note: AtomicBool::new(job.task.checkpoint.is_some()),
            mark: OnceLock::new(),
            saved: Mutex::new(saved),
            thread: Mutex::new(None),
        };
        Self { run: Arc::new(run) }
    }

    pub(crate) fn cancel(&self) {
        self.run.stop.cancel();
    }

    /// The number of the run.
    pub(crate) fn run(&self) -> u32 {
        self.run.task.run
    }

    /// When it began.
    pub(crate) fn started_at(&self) -> Micros {
        self.run.started_at
    }

    /// The message that it came by.
    pub(crate) fn parcel(&self) -> &Arc<Parcel> {
        self.run.stop.parcel()
    }

    /// The run, as other executors are asked for it.
    pub(crate) fn inquired(&self) -> InquiredRun {
        let TaskEvent { task_type, id, run, .. } = &*self.run.task;
        InquiredRun { task_type: task_type.clone(), id: id.clone(), run: *run, started_at: Some(self.run.started_at) }
    }

    /// A checkpoint of the task may be stored beside it.
    pub(crate) fn noted(&self) {
        self.run.has_note.store(true, Ordering::Relaxed);
    }

    /// Its begin mark is stored beside it.
    pub(crate) fn marked(&self, mark: Found) {
        // A run is marked once.
        let _first = self.run.mark.set(mark);
    }

    /// Its begin mark, where one is stored.
    pub(crate) fn mark(&self) -> Option<&Found> {
        self.run.mark.get()
    }

    /// Whether a checkpoint may be stored beside the task.
    pub(crate) fn has_note(&self) -> bool {
        self.run.has_note.load(Ordering::Relaxed)
    }

    /// Whether the task must not begin a second time.
    pub(crate) fn is_once(&self) -> bool {
        self.run.attempts_max == 1 && self.mark().is_some()
    }

    /// The run keeps its slot until this resolves: its thread cannot be stopped.
    pub(crate) fn occupies(&self, thread: oneshot::Receiver<()>) {
        *self.run.thread.lock().expect("nobody panics while holding a receiver") = Some(thread);
    }

    /// What is to resolve before its slot is free.
    pub(crate) fn thread(&self) -> Option<oneshot::Receiver<()>> {
        self.run.thread.lock().expect("nobody panics while holding a receiver").take()
    }

    /// Whether it is the run of this very delivery.
    pub(crate) fn is_of(&self, task: &Arc<TaskEvent>) -> bool {
        Arc::ptr_eq(&self.run.task, task)
    }

    pub(crate) fn identity(&self) -> TaskRef {
        self.run.task.identity()
    }

    /// The leader asks for a run of this task to yield; another run is not meant.
    pub(crate) fn ask_to_yield(&self, run: u32) {
        if run == self.run.task.run {
            self.run.yield_wanted.store(true, Ordering::Relaxed);
        }
    }

    /// An earlier run left off at this place.
    pub(crate) fn left_off_at(&self, place: Vec<u8>) {
        self.saved().place = Some(place);
    }

    /// The task's id: the key by which effects elsewhere are made once.
    pub fn id(&self) -> &TaskId {
        &self.run.task.id
    }

    /// The task's type.
    pub fn task_type(&self) -> &TaskType {
        &self.run.task.task_type
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.run.attempt
    }

    /// Whether no other attempt follows this one.
    pub fn is_last_attempt(&self) -> bool {
        self.run.attempt >= self.run.attempts_max
    }

    /// The task's tenant; empty where it has none.
    pub fn tenant(&self) -> &str {
        self.run.task.tenant.as_str()
    }

    /// The headers that the submitter gave.
    pub fn headers(&self) -> Headers {
        self.run.task.headers.clone().into()
    }

    /// Until when the task should have started, by this machine's clock, where the submitter said so.
    pub fn deadline(&self) -> Option<SystemTime> {
        self.run.task.deadline.map(clock::to_calendar)
    }

    /// Resolves when the handler is to stop: somebody cancelled the task, its time is up, or another
    /// executor runs the task. A broker that is away for less than five minutes stops no handler.
    pub async fn cancelled(&self) {
        self.run.stop.cancelled().await;
    }

    /// Whether the handler is to stop: for loops that do not await.
    pub fn is_cancelled(&self) -> bool {
        self.run.stop.is_cancelled()
    }

    /// Tells how far it is, to whoever listens. Never stored.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn progress(&self, percent: u8, message: impl Into<String>) -> Result<(), TaskError> {
        let progress = Progress { percent: percent.min(100), message: message.into(), attempt: self.run.attempt };
        let body = progress.encode()?;
        self.run.bus.send(subject::progress(self.task_type(), self.id()), Headers::new(), body.into()).await?;
        Ok(())
    }

    /// Saves where it is, so that the next attempt resumes from here, even if this process dies. At most
    /// 32 KiB as JSON. While the broker is away this waits, for up to five minutes.
    ///
    /// # Errors
    /// When the value is too large or no JSON, or when another executor runs the task.
    pub async fn checkpoint<T: Serialize + Sync>(&self, place: &T) -> Result<(), TaskError> {
        let note = Note::Of { run: self.run.task.run, place: written(place)? };
        let until = Instant::now() + OUTAGE_MAX;
        self.noted();
        loop {
            match self.parcel().lease.state() {
                Hold::Lost => {
                    return Err(TaskError::retry("the lease of this run is lost: another run may have begun"));
                }
                Hold::Lapsed if Instant::now() >= until => {
                    return Err(TaskError::retry("the lease of this run has lapsed: another run may have begun"));
                }
                Hold::Lapsed => {}
                Hold::Holds => match note.write(&self.run.bus, &self.run.task).await {
                    Ok(()) => break,
                    Err(error) if Instant::now() >= until => return Err(error.into()),
                    Err(error) => tracing::debug!(%error, "A checkpoint was not stored; trying again."),
                },
            }
            tokio::time::sleep(CHECKPOINT_AGAIN_AFTER).await;
        }
        self.saved().place = Some(note.into_place());
        Ok(())
    }

    /// A place where this run can stop, and how much is left to do from there. Where a much shorter task
    /// waits and the queue's policy says so (`srtf`), this is an error that `?` carries out of the
    /// handler: the task goes back into line, and a later run resumes from this place, on any executor.
    /// That spends no attempt. A handler that never calls this is never interrupted.
    ///
    /// ```no_run
    /// # use jetlane::{Ctx, TaskError};
    /// # use std::time::Duration;
    /// # async fn work(ctx: Ctx, pages: u32) -> Result<u32, TaskError> {
    /// let first = ctx.resume::<u32>().unwrap_or(0);
    /// for page in first..pages {
    ///     ctx.yield_point(&page, Duration::from_millis(40) * (pages - page))?;
    ///     // ... 40 ms of work on this page
    /// }
    /// # Ok(pages) }
    /// ```
    ///
    /// It costs as much as writing the place (at most 32 KiB as JSON), so call it every few milliseconds
    /// of work rather than in every turn of a tight loop. It does not wait, and stores nothing: what has
    /// to survive the death of this process is for [`Ctx::checkpoint`]. A retry resumes from here too.
    ///
    /// # Errors
    /// The yield itself, to be returned as it is ([`TaskError::is_yield`]); or that the place is too large
    /// or no JSON.
    pub fn yield_point<T: Serialize>(&self, place: &T, remaining: Duration) -> Result<(), TaskError> {
        let bytes = written(place)?;
        let mut saved = self.saved();
        saved.place = Some(bytes);
        saved.remaining = Some(remaining);
        let cost = saved.resume_cost.unwrap_or(RESUME_COST_DEFAULT);
        drop(saved);
        if self.run.yield_wanted.load(Ordering::Relaxed) && !remaining.is_zero() {
            return Err(TaskError::yielded());
        }
        self.run.ledger.news.remains(&self.run.task, remaining, cost);
        Ok(())
    }

    /// What it costs this task to stop and go on elsewhere, such as the time to load a model again. It is
    /// asked to yield only when much more than that is left to do. Default 20 ms.
    pub fn resume_costs(&self, cost: Duration) {
        self.saved().resume_cost = Some(cost);
    }

    /// Where an earlier run left off; `None` where none has saved anything of this shape.
    pub fn resume<T: DeserializeOwned>(&self) -> Option<T> {
        let place = self.saved().place.clone()?;
        serde_json::from_slice(&place).ok()
    }

    fn saved(&self) -> MutexGuard<'_, Saved> {
        self.run.saved.lock().expect("nobody panics while holding a checkpoint")
    }

    /// Where it is, as it said last.
    pub(crate) fn left_off(&self) -> Saved {
        self.saved().clone()
    }

    /// How long ago the task was submitted.
    pub fn age(&self) -> Duration {
        Duration::from_micros(clock::now().0.saturating_sub(self.run.task.submitted_at.0))
    }
}

fn written<T: Serialize>(place: &T) -> Result<Vec<u8>, TaskError> {
    let bytes = serde_json::to_vec(place)?;
    if bytes.len() > CHECKPOINT_BYTES_MAX {
        let text = format!("the checkpoint has {} bytes, the limit is {CHECKPOINT_BYTES_MAX}", bytes.len());
        return Err(TaskError::permanent("checkpoint", text));
    }
    Ok(bytes)
}
