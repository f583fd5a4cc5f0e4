//! What is announced, as this process last heard it.

use jetlane_bus::kv::{Change, Watched};
use jetlane_bus::{Bus, Error};
use jetlane_schemas::subject::{BUCKET_REGISTRY, RegistryKey};
use jetlane_schemas::{QueueEntry, QueueName, Shard, ShardEntry, TaskType, Tenant, TypeEntry};
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
    types: HashMap<TaskType, TypeEntry>,
    queues: HashMap<QueueName, QueueEntry>,
    shards: HashMap<(QueueName, Tenant), Shard>,
    /// Which tenant a shard's key stands for: a deletion tells only the key.
    shard_keys: HashMap<String, (QueueName, Tenant)>,
}

/// A view of the registry that follows it.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    view: Arc<RwLock<View>>,
    heard: watch::Receiver<bool>,
}

impl Registry {
    /// Starts to follow the registry of this bus, until the returned task is aborted.
    pub(crate) fn follow(bus: Bus) -> (Self, tokio::task::JoinHandle<()>) {
        let view = Arc::new(RwLock::new(View::default()));
        let (heard_sender, heard) = watch::channel(false);
        let following = tokio::spawn(follow(bus, Arc::clone(&view), heard_sender));
        (Self { view, heard }, following)
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

    /// The queue of a type: cheaper than its whole announcement.
    pub(crate) fn queue_of(&self, task_type: &TaskType) -> Option<QueueName> {
        self.read(|view| view.types.get(task_type).map(|entry| entry.queue.clone()))
    }

    /// Whether a queue is announced.
    pub(crate) fn knows_queue(&self, queue: &QueueName) -> bool {
        self.read(|view| view.queues.contains_key(queue))
    }

    /// Where a tenant's tasks stand in line.
    pub(crate) fn shard(&self, queue: &QueueName, tenant: &Tenant) -> Shard {
        if tenant.is_shared() {
            return Shard::shared_by_hash(tenant);
        }
        self.read(|view| view.shards.get(&(queue.clone(), tenant.clone())).copied())
            .unwrap_or_else(|| Shard::shared_by_hash(tenant))
    }

    fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read().expect("no writer panics while it holds the view"))
    }
}

async fn follow(bus: Bus, view: Arc<RwLock<View>>, heard: watch::Sender<bool>) {
    loop {
        match watch_once(&bus, &view, &heard).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(%error, "The registry is not there yet.");
                heard.send_replace(true);
                tokio::time::sleep(LOOK_AGAIN_EVERY).await;
            }
        }
    }
}

async fn watch_once(bus: &Bus, view: &RwLock<View>, heard: &watch::Sender<bool>) -> Result<(), Error> {
    let mut watch = bus.bucket(BUCKET_REGISTRY).await?.watch(">").await?;
    while let Some(watched) = watch.next().await {
        match watched {
            Watched::UpToDate => {
                heard.send_replace(true);
            }
            Watched::Change(change) => {
                view.write().expect("no writer panics while it holds the view").apply(change);
            }
        }
    }
    Ok(())
}

impl View {
    fn apply(&mut self, change: Change) {
        let json = change.value.as_deref();
        match RegistryKey::parse(&change.key) {
            Some(RegistryKey::Type(task_type)) => replace(&mut self.types, task_type, json),
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
            None => tracing::debug!(key = change.key, "The registry has a key that this version does not know."),
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
