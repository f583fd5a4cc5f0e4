//! Ids of cancelled tasks, watched: dropped before dispatch. The stored completion decides; this
//! only saves the way to an executor.

use crate::error::Error;
use crate::names::CANCELLED_NOTES;
use jetlane_bus::Bus;
use jetlane_bus::kv::{Watch, Watched};
use jetlane_schemas::TaskId;
use jetlane_schemas::subject::{BUCKET_NOTES, parse_note_cancelled};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, RwLock};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

/// The most ids that are remembered: the oldest go first, and then the executor finds the completion.
const REMEMBERED_MAX: usize = 65_536;
/// News that a leader may fall behind; beyond it the leader looks at all that it holds.
const NEWS_MAX: usize = 1_024;

/// What has been cancelled. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Cancelled {
    ids: Arc<RwLock<Remembered>>,
    news: broadcast::Sender<TaskId>,
}

#[derive(Debug, Default)]
struct Remembered {
    ids: BTreeSet<TaskId>,
    order: VecDeque<TaskId>,
}

impl Remembered {
    fn insert(&mut self, id: TaskId) {
        if !self.ids.insert(id.clone()) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

impl Cancelled {
    /// Reads what is noted, then goes on watching.
    pub(crate) async fn watch(bus: &Bus, helpers: &mut JoinSet<Result<(), Error>>) -> Result<Self, Error> {
        let failed = |source| Error::Watch { bucket: BUCKET_NOTES, source };
        let bucket = bus.bucket(BUCKET_NOTES).await.map_err(failed)?;
        let watch = bucket.watch(CANCELLED_NOTES).await.map_err(failed)?;
        let cancelled = Self { ids: Arc::default(), news: broadcast::Sender::new(NEWS_MAX) };
        helpers.spawn(cancelled.clone().follow(watch));
        Ok(cancelled)
    }

    /// Whether the task has been cancelled.
    pub(crate) fn contains(&self, id: &TaskId) -> bool {
        self.ids.read().expect("nobody panics while holding the ids").ids.contains(id)
    }

    /// What is cancelled from now on.
    pub(crate) fn news(&self) -> broadcast::Receiver<TaskId> {
        self.news.subscribe()
    }

    async fn follow(self, mut watch: Watch) -> Result<(), Error> {
        loop {
            let Watched::Change(change) = watch.next().await.ok_or(Error::Closed)? else { continue };
            let Some(id) = parse_note_cancelled(&change.key).filter(|_| change.value.is_some()) else { continue };
            self.ids.write().expect("nobody panics while holding the ids").insert(id.clone());
            // Nobody leads: then nobody needs to know now.
            let _listeners = self.news.send(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_beyond_the_bound() {
        let mut remembered = Remembered::default();
        let id = |n: usize| TaskId::new(format!("id-{n}")).expect("valid");
        for n in 0..=REMEMBERED_MAX {
            remembered.insert(id(n));
            remembered.insert(id(n));
        }
        assert_eq!((remembered.ids.len(), remembered.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert!(!remembered.ids.contains(&id(0)) && remembered.ids.contains(&id(REMEMBERED_MAX)));
    }
}
