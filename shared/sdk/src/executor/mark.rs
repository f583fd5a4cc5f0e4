//! The mark that a run begins, stored before its handler: a task without retries never begins twice, and a task
//! that takes its executors with it is counted.

use jetlane_bus::{Bus, Error};
use jetlane_core::run::Mark;
use jetlane_schemas::inquiry::BeginMark;
use jetlane_schemas::subject::{self, BUCKET_NOTES};
use jetlane_schemas::{RunToken, TaskEvent};

/// A mark as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) mark: BeginMark,
    revision: u64,
}

impl Found {
    /// The mark as evidence; `None` where an earlier task of the same id left it.
    pub(crate) fn of(&self, task: &TaskEvent) -> Option<Mark> {
        let BeginMark { run, begun, submitted_at, .. } = self.mark;
        (submitted_at == task.submitted_at).then_some(Mark { run, begun })
    }
}

/// Reads the mark of a task.
pub(crate) async fn read(bus: &Bus, task: &TaskEvent) -> Result<Option<Found>, Error> {
    let key = subject::note_begun(&task.task_type, &task.id);
    let (mark, revision) = bus.bucket(BUCKET_NOTES).await?.get_revision::<BeginMark>(&key).await?;
    Ok(mark.map(|mark| Found { mark, revision }))
}

/// Stores a mark unless another was stored since `seen`; returns the other one. A mark of the same token is this
/// run's own: the answer to an earlier try was lost.
pub(crate) async fn store(
    bus: &Bus,
    task: &TaskEvent,
    mark: &BeginMark,
    seen: Option<&Found>,
) -> Result<Option<Found>, Error> {
    let key = subject::note_begun(&task.task_type, &task.id);
    let notes = bus.bucket(BUCKET_NOTES).await?;
    let is_stored = match seen {
        Some(seen) => notes.replace(&key, mark, seen.revision).await?,
        None => notes.create(&key, mark).await?,
    };
    if is_stored {
        return Ok(None);
    }
    Ok(read(bus, task).await?.filter(|found| found.mark.token != mark.token))
}

/// Removes the notes of a task that is over.
pub(crate) async fn remove(bus: &Bus, task: &TaskEvent) -> Result<(), Error> {
    bus.bucket(BUCKET_NOTES).await?.delete(&subject::note_begun(&task.task_type, &task.id)).await
}

/// What the mark of a run says.
pub(crate) fn of(mark: Mark, task: &TaskEvent, token: RunToken, executor: &str) -> BeginMark {
    let Mark { run, begun } = mark;
    BeginMark { submitted_at: task.submitted_at, run, begun, token, executor: executor.to_owned() }
}
