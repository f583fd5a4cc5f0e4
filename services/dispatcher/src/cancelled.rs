//! Cancelled tasks, watched: dropped before dispatch if DONE has their completion. The stored completion decides; this
//! only saves the way to an executor.

use crate::error::Error;
use jetlane_bus::Bus;
use jetlane_bus::kv::{Watch, Watched};
use jetlane_mutants::mutant;
use jetlane_schemas::subject::{BUCKET_NOTES, NOTES_CANCELLED_ALL, parse_note_cancelled};
use jetlane_schemas::{TaskEvent, TaskRef};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, RwLock};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

/// The most cancelled tasks that are remembered; the oldest are forgotten first.
const REMEMBERED_MAX: usize = 65_536;
/// News that a leader may fall behind; beyond it the leader looks at all that it holds.
const NEWS_MAX: usize = 1_024;

/// What has been cancelled. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Cancelled {
    remembered: Arc<RwLock<Remembered>>,
    news: broadcast::Sender<TaskRef>,
}

#[derive(Debug, Default)]
struct Remembered {
    tasks: BTreeSet<TaskRef>,
    order: VecDeque<TaskRef>,
}

impl Remembered {
    fn insert(&mut self, task: TaskRef) {
        if !self.tasks.insert(task.clone()) {
            return;
        }
        self.order.push_back(task);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.tasks.remove(&oldest);
        }
    }
}

impl Cancelled {
    /// Reads what is noted, then goes on watching.
    pub(crate) async fn watch(bus: &Bus, helpers: &mut JoinSet<Result<(), Error>>) -> Result<Self, Error> {
        let failed = |source| Error::Watch { bucket: BUCKET_NOTES, source };
        let bucket = bus.bucket(BUCKET_NOTES).await.map_err(failed)?;
        let watch = bucket.watch(NOTES_CANCELLED_ALL).await.map_err(failed)?;
        let cancelled = Self { remembered: Arc::default(), news: broadcast::Sender::new(NEWS_MAX) };
        helpers.spawn(cancelled.clone().follow(watch));
        Ok(cancelled)
    }

    /// Whether the task has been cancelled.
    pub(crate) fn contains(&self, task: &TaskEvent) -> bool {
        let remembered = self.remembered.read().expect("nobody panics while holding the cancelled tasks");
        !remembered.tasks.is_empty() && remembered.tasks.contains(&task.identity())
    }

    /// What is cancelled from now on.
    pub(crate) fn news(&self) -> broadcast::Receiver<TaskRef> {
        self.news.subscribe()
    }

    async fn follow(self, mut watch: Watch) -> Result<(), Error> {
        loop {
            let Watched::Change(change) = watch.next().await.ok_or(Error::Closed)? else { continue };
            mutant!(CancelNotRemembered => { continue });
            let Some(task) = parse_note_cancelled(&change.key).filter(|_| change.value.is_some()) else { continue };
            self.remembered.write().expect("nobody panics while holding the cancelled tasks").insert(task.clone());
            // Nobody leads: then nobody needs to know now.
            let _listeners = self.news.send(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_beyond_the_bound() {
        let mut remembered = Remembered::default();
        let id = |n: usize| TaskRef::parse(&format!("a.b.id-{n}")).expect("valid");
        for n in 0..=REMEMBERED_MAX {
            remembered.insert(id(n));
            remembered.insert(id(n));
        }
        assert_eq!((remembered.tasks.len(), remembered.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert!(!remembered.tasks.contains(&id(0)) && remembered.tasks.contains(&id(REMEMBERED_MAX)));
    }
}
