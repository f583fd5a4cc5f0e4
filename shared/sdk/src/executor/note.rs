//! The place that a run saved beside its task, where it outlives the executor.

use jetlane_bus::{Bus, Error};
use jetlane_schemas::TaskEvent;
use jetlane_schemas::subject::{self, BUCKET_NOTES};
use serde::{Deserialize, Serialize};

/// A place, and which run saved it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Note {
    /// As it was written before runs were told apart.
    Old(Vec<u8>),
    /// What this run saved.
    Of { run: u32, place: Vec<u8> },
}

impl Note {
    pub(crate) async fn read(bus: &Bus, task: &TaskEvent) -> Result<Option<Self>, Error> {
        bus.bucket(BUCKET_NOTES).await?.get(&subject::note_checkpoint(&task.task_type, &task.id)).await
    }

    pub(crate) async fn write(&self, bus: &Bus, task: &TaskEvent) -> Result<(), Error> {
        bus.bucket(BUCKET_NOTES).await?.put(&subject::note_checkpoint(&task.task_type, &task.id), self).await
    }

    /// Removes what a task has saved.
    pub(crate) async fn remove(bus: &Bus, task: &TaskEvent) -> Result<(), Error> {
        bus.bucket(BUCKET_NOTES).await?.delete(&subject::note_checkpoint(&task.task_type, &task.id)).await
    }

    pub(crate) fn into_place(self) -> Vec<u8> {
        match self {
            Self::Old(place) | Self::Of { place, .. } => place,
        }
    }

    /// Whether it counts more than the place that the task has with it: that is from an earlier run, so a
    /// note of this run or a later one is newer.
    pub(crate) fn is_newer_than(&self, task: &TaskEvent) -> bool {
        match self {
            _ if task.checkpoint.is_none() => true,
            Self::Old(_) => false,
            Self::Of { run, .. } => *run >= task.run,
        }
    }
}
