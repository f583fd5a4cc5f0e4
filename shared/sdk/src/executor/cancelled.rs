//! Tasks that are known to be cancelled: looked up in DONE before they begin, and dropped there. The stored
//! completion decides; what stands here only says which tasks to look up.

use super::running::Running;
use jetlane_bus::kv::Watched;
use jetlane_bus::{Bus, Subscription};
use jetlane_mutants::mutant;
use jetlane_schemas::subject::{self, BUCKET_NOTES};
use jetlane_schemas::{TaskEvent, TaskRef};
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::Notify;

/// The most cancelled ids that are remembered; beyond it the oldest are forgotten, and such a task runs with its
/// result thrown away.
const REMEMBERED_MAX: usize = 65_536;
/// The pause before notes that could not be watched are watched again.
const WATCH_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The ids of cancelled tasks.
#[derive(Default)]
pub(crate) struct Cancelled {
    remembered: RwLock<Remembered>,
    /// How many there are: most executors know of none, and look no further.
    count: AtomicUsize,
    news: Notify,
}

#[derive(Default)]
struct Remembered {
    ids: HashSet<TaskRef>,
    order: VecDeque<TaskRef>,
}

impl Cancelled {
    /// Whether the task is known to be cancelled.
    pub(crate) fn contains(&self, task: &TaskEvent) -> bool {
        self.count.load(Ordering::Relaxed) > 0
            && self.remembered.read().expect("nobody panics while holding ids").ids.contains(&task.identity())
    }

    /// Resolves once another task is known to be cancelled.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    pub(super) fn insert(&self, id: TaskRef) {
        let mut remembered = self.remembered.write().expect("nobody panics while holding ids");
        if mutant!(CancelNotRemembered) || !remembered.ids.insert(id.clone()) {
            return;
        }
        remembered.order.push_back(id);
        if remembered.order.len() > REMEMBERED_MAX
            && let Some(oldest) = remembered.order.pop_front()
        {
            remembered.ids.remove(&oldest);
        }
        self.count.store(remembered.ids.len(), Ordering::Relaxed);
        drop(remembered);
        self.news.notify_one();
    }

    /// Stops running tasks that are cancelled, and remembers all.
    pub(crate) async fn hear(self: Arc<Self>, running: Arc<Running>, mut cancels: Subscription) {
        while let Some(message) = cancels.next().await {
            if let Some(id) = subject::parse_cancel(&message.subject) {
                running.cancel(&id);
                self.insert(id);
            }
        }
    }

    /// Watches the notes on cancelled tasks: what was broadcast before this executor began, or while it had no
    /// connection.
    pub(crate) async fn watch(self: Arc<Self>, running: Arc<Running>, bus: Bus) {
        loop {
            let watch = async { bus.bucket(BUCKET_NOTES).await?.watch(subject::NOTES_CANCELLED_ALL).await };
            match watch.await {
                Ok(mut watch) => {
                    while let Some(watched) = watch.next().await {
                        let Watched::Change(change) = watched else { continue };
                        let id = subject::parse_note_cancelled(&change.key).filter(|_| change.value.is_some());
                        if let Some(id) = id {
                            running.cancel(&id);
                            self.insert(id);
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "The notes on cancelled tasks cannot be watched yet; trying again.")
                }
            }
            tokio::time::sleep(WATCH_AGAIN_AFTER).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::{Micros, QueueName, TaskId, TaskType};

    #[test]
    fn oldest_ids_are_forgotten_beyond_the_bound() {
        let cancelled = Cancelled::default();
        let id = |n: usize| TaskId::new(format!("id-{n}")).expect("valid");
        let task = |n| {
            let task_type = TaskType::new("a.b").expect("valid");
            TaskEvent::new(id(n), task_type, QueueName::default_queue(), Micros(0), Vec::new())
        };
        assert!(!cancelled.contains(&task(0)));
        for n in 0..=REMEMBERED_MAX {
            cancelled.insert(task(n).identity());
            cancelled.insert(task(n).identity());
        }
        assert!(!cancelled.contains(&task(0)) && cancelled.contains(&task(REMEMBERED_MAX)));
        assert_eq!(cancelled.count.load(Ordering::Relaxed), REMEMBERED_MAX);
    }
}
