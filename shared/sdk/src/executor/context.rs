//! What a handler can ask of its run, and tell of it.

use super::lease::Lease;
use crate::task::TaskError;
use jetlane_bus::{Bus, clock};
use jetlane_schemas::frame::Progress;
use jetlane_schemas::limits::CHECKPOINT_BYTES_MAX;
use jetlane_schemas::{Headers, Micros, TaskEvent, TaskId, TaskType, subject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

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

#[derive(Debug)]
struct Run {
    bus: Bus,
    task: Arc<TaskEvent>,
    attempt: u32,
    attempts_max: u32,
    cancelled: CancellationToken,
    lease: Lease,
    checkpoint: Mutex<Option<Vec<u8>>>,
}

impl Ctx {
    pub(crate) fn new(
        bus: Bus,
        task: Arc<TaskEvent>,
        attempt: u32,
        attempts_max: u32,
        cancelled: CancellationToken,
        lease: Lease,
    ) -> Self {
        let checkpoint = Mutex::new(task.checkpoint.clone());
        Self { run: Arc::new(Run { bus, task, attempt, attempts_max, cancelled, lease, checkpoint }) }
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

    /// Until when the task should have started, where the submitter said so.
    pub fn deadline(&self) -> Option<SystemTime> {
        self.run.task.deadline.map(|Micros(at)| SystemTime::UNIX_EPOCH + Duration::from_micros(at))
    }

    /// Resolves when the handler is to stop: somebody cancelled the task, its time is up, or this
    /// run's lease is lost.
    pub async fn cancelled(&self) {
        self.run.cancelled.cancelled().await;
    }

    /// Whether the handler is to stop: for loops that do not await.
    pub fn is_cancelled(&self) -> bool {
        self.run.cancelled.is_cancelled()
    }

    /// Tells how far it is, to whoever listens. Never stored.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn progress(&self, percent: u8, message: impl Into<String>) -> Result<(), TaskError> {
        let progress = Progress { percent: percent.min(100), message: message.into(), attempt: self.run.attempt };
        let body = progress.encode()?;
        self.run.bus.send(subject::progress(self.id()), Headers::new(), body.into()).await?;
        Ok(())
    }

    /// Saves where it is, so that the next attempt resumes from here. At most 32 KiB as JSON.
    ///
    /// # Errors
    /// When the value is too large or no JSON, or when this run's lease is lost: then another may run.
    pub async fn checkpoint<T: Serialize + Sync>(&self, place: &T) -> Result<(), TaskError> {
        let bytes = serde_json::to_vec(place)?;
        if bytes.len() > CHECKPOINT_BYTES_MAX {
            return Err(TaskError::permanent(
                "checkpoint",
                format!("the checkpoint has {} bytes, the limit is {CHECKPOINT_BYTES_MAX}", bytes.len()),
            ));
        }
        if !self.run.lease.holds() {
            return Err(TaskError::retry("the lease of this run is lost: another run may have begun"));
        }
        let notes = self.run.bus.bucket(subject::BUCKET_NOTES).await?;
        notes.put(&subject::note_checkpoint(self.id()), &bytes).await?;
        *self.run.checkpoint.lock().expect("nobody panics while holding a checkpoint") = Some(bytes);
        Ok(())
    }

    /// Where an earlier attempt left off; `None` where none has saved anything of this shape.
    pub fn resume<T: DeserializeOwned>(&self) -> Option<T> {
        let saved = self.saved()?;
        serde_json::from_slice(&saved).ok()
    }

    pub(crate) fn saved(&self) -> Option<Vec<u8>> {
        self.run.checkpoint.lock().expect("nobody panics while holding a checkpoint").clone()
    }

    /// How long ago the task was submitted.
    pub fn age(&self) -> Duration {
        Duration::from_micros(clock::now().0.saturating_sub(self.run.task.submitted_at.0))
    }
}
