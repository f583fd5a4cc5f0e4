//! What is announced, as this process last heard it.

use jetlane_bus::kv::{Change, Watched};
use jetlane_bus::{Bus, Error};
use jetlane_schemas::subject::{BUCKET_REGISTRY, RegistryKey};
use jetlane_schemas::{
    QueueEntry, QueueName, Shard, ShardEntry, SharedEntry, TaskType, Tenant, TypeEntry, TypeLayers, TypeOverride,
};
use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// How long a new client waits to hear what is announced.
const FIRST_NEWS_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a missing registry is looked for: no service has run yet.
const LOOK_AGAIN_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct View {
    /// As they are served: what code announced under what people have set.
    types: HashMap<TaskType, TypeEntry>,
    layers: TypeLayers,
    queues: HashMap<QueueName, QueueEntry>,
    shards: HashMap<(QueueName, Tenant), Shard>,
    /// Which shards those share that have none of their own, where it is not as at first.
    shared: HashMap<QueueName, SharedEntry>,
    /// Which tenant a shard's key stands for: a deletion tells only the key.
    shard_keys: HashMap<String, (QueueName, Tenant)>,
}

/// A view of the registry that follows it.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    view: Arc<RwLock<View>>,
    heard: watch::Receiver<bool>,
    queues_heard: watch::Receiver<u64>,
}

impl Registry {
    /// Starts to follow the registry of this bus, until the returned task is aborted.
    pub(crate) fn follow(bus: Bus) -> (Self, tokio::task::JoinHandle<()>) {
        let view = Arc::new(RwLock::new(View::default()));
        let (heard_sender, heard) = watch::channel(false);
        let (queues_sender, queues_heard) = watch::channel(0);
        let news = News { heard: heard_sender, queues: queues_sender };
        let following = tokio::spawn(follow(bus, Arc::clone(&view), news));
        (Self { view, heard, queues_heard }, following)
    }

    /// Waits until what was announced before has been heard, for a bounded time.
    pub(crate) async fn settled(&self) {
        let mut heard = self.heard.clone();
        let _timed_out = tokio::time::timeout(FIRST_NEWS_TIMEOUT, heard.wait_for(|heard| *heard)).await;
    }

    /// The announcement of a type.
    pub(crate) fn task_type(&self, task_type: &TaskType) -> Option<TypeEntry> {
        self.read(|view| view.types.get(task_type).cloned())
    }

    /// An announcement of this process under what people have set of the type.
    pub(crate) fn overridden(&self, task_type: &TaskType, announced: TypeEntry) -> TypeEntry {
        let merged = self.read(|view| view.layers.of_people(task_type).and_then(|set| set.over(Some(&announced))));
        merged.filter(|merged| merged.check().is_ok()).unwrap_or(announced)
    }

    /// The queue of a type: cheaper than its whole announcement.
    pub(crate) fn queue_of(&self, task_type: &TaskType) -> Option<QueueName> {
        self.read(|view| view.types.get(task_type).map(|entry| entry.queue.clone()))
    }

    /// Whether a queue is announced.
    pub(crate) fn knows_queue(&self, queue: &QueueName) -> bool {
        self.read(|view| view.queues.contains_key(queue))
    }

    /// The announcement of a queue.
    pub(crate) fn queue(&self, queue: &QueueName) -> Option<QueueEntry> {
        self.read(|view| view.queues.get(queue).cloned())
    }

    /// Counts what is heard of queues: it changes with every announcement of one.
    pub(crate) fn queues_heard(&self) -> watch::Receiver<u64> {
        self.queues_heard.clone()
    }

    /// Where a tenant's tasks stand in line.
    pub(crate) fn shard(&self, queue: &QueueName, tenant: &Tenant) -> Shard {
        self.read(|view| {
            // Tasks of no tenant have an entry too once they flood the shard that they share.
            let own = view.shards.get(&(queue.clone(), tenant.clone())).copied();
            own.unwrap_or_else(|| match view.shared.get(queue) {
                Some(shared) => shared.of(tenant),
                None => Shard::shared_by_hash(tenant),
            })
        })
    }

    fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read().expect("no writer panics while it holds the view"))
    }
}

/// Who is told of what was heard.
struct News {
    heard: watch::Sender<bool>,
    queues: watch::Sender<u64>,
}

async fn follow(bus: Bus, view: Arc<RwLock<View>>, news: News) {
    loop {
        match watch_once(&bus, &view, &news).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(%error, "The registry is not there yet.");
                news.heard.send_replace(true);
                tokio::time::sleep(LOOK_AGAIN_EVERY).await;
            }
        }
    }
}

async fn watch_once(bus: &Bus, view: &RwLock<View>, news: &News) -> Result<(), Error> {
    let mut watch = bus.bucket(BUCKET_REGISTRY).await?.watch(">").await?;
    while let Some(watched) = watch.next().await {
        match watched {
            Watched::UpToDate => {
                news.heard.send_replace(true);
            }
            Watched::Change(change) => {
                let is_queue = matches!(RegistryKey::parse(&change.key), Some(RegistryKey::Queue(_)));
                view.write().expect("no writer panics while it holds the view").apply(change);
                if is_queue {
                    news.queues.send_modify(|count| *count += 1);
                }
            }
        }
    }
    Ok(())
}

impl View {
    fn apply(&mut self, change: Change) {
        let json = change.value.as_deref();
        match RegistryKey::parse(&change.key) {
            Some(RegistryKey::Type(task_type)) => {
                if let Some(entry) = read::<TypeEntry>(&change.key, json) {
                    let merged = self.layers.announce(&task_type, entry);
                    self.serve(task_type, merged);
                }
            }
            Some(RegistryKey::Override(task_type)) => {
                if let Some(set) = read::<TypeOverride>(&change.key, json) {
                    match self.layers.set(&task_type, set) {
                        Ok(merged) => self.serve(task_type, merged),
                        Err(error) => tracing::warn!(%task_type, %error, "Ignoring invalid options of a type."),
                    }
                }
            }
            Some(RegistryKey::Queue(queue)) => replace(&mut self.queues, queue, json),
            Some(RegistryKey::Shard(queue)) => {
                if let Some(old) = self.shard_keys.remove(&change.key) {
                    self.shards.remove(&old);
                }
                if let Some(entry) = json.and_then(|json| serde_json::from_slice::<ShardEntry>(json).ok()) {
                    let place = (queue, entry.tenant);
                    self.shard_keys.insert(change.key, place.clone());
                    self.shards.insert(place, entry.shard);
                }
            }
            Some(RegistryKey::Shared(queue)) => {
                replace(&mut self.shared, queue.clone(), json);
                if self.shared.get(&queue).is_some_and(|shared| shared.check().is_err()) {
                    tracing::warn!(%queue, "The shared shards of a queue are malformed; they are passed over.");
                    self.shared.remove(&queue);
                }
            }
            // Estimates are the leaders'.
            Some(RegistryKey::Estimate(_)) => {}
            None => tracing::debug!(key = change.key, "The registry has a key that this version does not know."),
        }
    }
}

impl View {
    fn serve(&mut self, task_type: TaskType, merged: Option<TypeEntry>) {
        match merged {
            Some(entry) => drop(self.types.insert(task_type, entry)),
            None => drop(self.types.remove(&task_type)),
        }
    }
}

/// Reads a value; `Some(None)` where it was deleted, `None` where it is no such JSON and is left out.
fn read<V: serde::de::DeserializeOwned>(key: &str, json: Option<&[u8]>) -> Option<Option<V>> {
    match json.map(serde_json::from_slice::<V>).transpose() {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(key, %error, "An announcement is no such JSON; it is passed over.");
            None
        }
    }
}

fn replace<K: std::hash::Hash + Eq + std::fmt::Debug, V: serde::de::DeserializeOwned>(
    map: &mut HashMap<K, V>,
    key: K,
    json: Option<&[u8]>,
) {
    match json.map(serde_json::from_slice::<V>) {
        Some(Ok(value)) => {
            map.insert(key, value);
        }
        Some(Err(error)) => tracing::warn!(?key, %error, "An announcement is no such JSON; it is passed over."),
        None => {
            map.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::subject;

    fn put<T: serde::Serialize>(view: &mut View, key: String, value: &T) {
        let value = Some(serde_json::to_vec(value).expect("JSON"));
        view.apply(Change { key, value, revision: 1 });
    }

    #[test]
    fn a_tenant_stands_in_its_own_shard_or_in_the_shared_one_that_the_leader_names() {
        let (queue, ada) = (QueueName::default_queue(), Tenant::new("ada").expect("valid"));
        let mut view = View::default();
        let by_hash = Shard::shared_by_hash(&ada);
        let shard = |view: View| {
            let (_, heard) = watch::channel(true);
            let (_, queues_heard) = watch::channel(0);
            Registry { view: Arc::new(RwLock::new(view)), heard, queues_heard }.shard(&queue, &ada)
        };
        assert_eq!(shard(View::default()), by_hash);

        let free = Shard::new(60).expect("valid");
        let mut shared = SharedEntry::default();
        shared.shards[usize::from(by_hash.number())] = free;
        put(&mut view, subject::registry_shared(&queue), &shared);
        let own = Shard::new(9).expect("valid");
        let key = subject::registry_shard(&queue, &ada);
        put(&mut view, key.clone(), &ShardEntry { tenant: ada.clone(), shard: own });
        assert_eq!(view.shared.get(&queue), Some(&shared));
        view.apply(Change { key: key.clone(), value: None, revision: 2 });
        assert_eq!(shard(view), free, "taken back: it shares again, and what is shared has moved");

        let mut view = View::default();
        put(&mut view, key, &ShardEntry { tenant: ada.clone(), shard: own });
        let malformed = SharedEntry { shards: [free; Shard::SHARED as usize] };
        put(&mut view, subject::registry_shared(&queue), &malformed);
        assert!(view.shared.is_empty());
        assert_eq!(shard(view), own);
    }
}
