//! What is announced, watched: types with their validators compiled, queues, tenants' shards.

use crate::error::Error;
use crate::validate::Schema;
use futures::FutureExt as _;
use jetlane_bus::Bus;
use jetlane_bus::kv::{Change, Watch, Watched};
use jetlane_core::shards::Assignment;
use jetlane_schemas::subject::{BUCKET_REGISTRY, RegistryKey};
use jetlane_schemas::{QueueEntry, QueueName, ShardEntry, TaskType, TypeEntry};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The registry as it was last told.
pub(crate) type Known = watch::Receiver<Arc<Registry>>;

/// A type that somebody has announced.
#[derive(Debug)]
pub(crate) struct KnownType {
    pub(crate) entry: TypeEntry,
    pub(crate) schema: Schema,
}

/// Everything that is announced.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    types: BTreeMap<TaskType, Arc<KnownType>>,
    queues: BTreeMap<QueueName, QueueEntry>,
    shards: BTreeMap<String, (QueueName, ShardEntry)>,
}

impl Registry {
    /// The type's announcement.
    pub(crate) fn task_type(&self, task_type: &TaskType) -> Option<&Arc<KnownType>> {
        self.types.get(task_type)
    }

    /// The types that a queue serves.
    pub(crate) fn types_of<'a>(&'a self, queue: &'a QueueName) -> impl Iterator<Item = &'a TaskType> {
        self.types.iter().filter(move |(_, known)| known.entry.queue == *queue).map(|(task_type, _)| task_type)
    }

    /// Every queue that has an announcement of its own or a type.
    pub(crate) fn queues(&self) -> BTreeSet<QueueName> {
        let of_types = self.types.values().map(|known| known.entry.queue.clone());
        self.queues.keys().cloned().chain(of_types).collect()
    }

    /// The queue's announcement; the defaults where it has none.
    pub(crate) fn queue(&self, queue: &QueueName) -> QueueEntry {
        self.queues.get(queue).cloned().unwrap_or_default()
    }

    /// The tenants' shards of a queue.
    pub(crate) fn shards(&self, queue: &QueueName) -> Vec<Assignment> {
        let mine = self.shards.values().filter(|(of, _)| of == queue);
        mine.map(|(_, entry)| Assignment { tenant: entry.tenant.clone(), shard: entry.shard }).collect()
    }

    fn apply(&mut self, change: &Change) {
        match RegistryKey::parse(&change.key) {
            Some(RegistryKey::Type(task_type)) => match &change.value {
                None => drop(self.types.remove(&task_type)),
                Some(json) => match read_type(&task_type, json) {
                    Ok(known) => drop(self.types.insert(task_type, Arc::new(known))),
                    // The last good announcement stays: a typo must not stop a queue.
                    Err(reason) => {
                        tracing::warn!(%task_type, reason, "The announcement of a type is no good and is passed over.");
                    }
                },
            },
            Some(RegistryKey::Queue(queue)) => match change.value.as_deref().map(serde_json::from_slice) {
                None => drop(self.queues.remove(&queue)),
                Some(Ok(entry)) => drop(self.queues.insert(queue, entry)),
                Some(Err(error)) => {
                    tracing::warn!(%queue, %error, "The announcement of a queue is no good and is passed over.");
                }
            },
            Some(RegistryKey::Shard(queue)) => match change.value.as_deref().map(serde_json::from_slice) {
                None => drop(self.shards.remove(&change.key)),
                Some(Ok(entry)) => drop(self.shards.insert(change.key.clone(), (queue, entry))),
                Some(Err(error)) => {
                    tracing::warn!(%queue, %error, "The shard of a tenant is no good and is passed over.");
                }
            },
            None => tracing::debug!(key = change.key, "The registry has a key that this version does not know."),
        }
    }
}

fn read_type(task_type: &TaskType, json: &[u8]) -> Result<KnownType, String> {
    let entry: TypeEntry = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    entry.check().map_err(|e| e.to_string())?;
    let schema = Schema::compile(entry.schema.as_ref()).unwrap_or_else(|reason| {
        tracing::warn!(%task_type, reason, "The schema of a type is no good: its bodies are not checked against it.");
        Schema::any()
    });
    Ok(KnownType { entry, schema })
}

/// Reads everything that is announced, then goes on watching.
pub(crate) async fn watch(bus: &Bus, helpers: &mut JoinSet<Result<(), Error>>) -> Result<Known, Error> {
    let failed = |source| Error::Watch { bucket: BUCKET_REGISTRY, source };
    let mut watch = bus.bucket(BUCKET_REGISTRY).await.map_err(failed)?.watch(">").await.map_err(failed)?;
    let mut registry = Registry::default();
    while let Watched::Change(change) = watch.next().await.ok_or(Error::Closed)? {
        registry.apply(&change);
    }
    let (told, known) = watch::channel(Arc::new(registry.clone()));
    helpers.spawn(follow(watch, registry, told));
    Ok(known)
}

async fn follow(mut watch: Watch, mut registry: Registry, told: watch::Sender<Arc<Registry>>) -> Result<(), Error> {
    loop {
        let mut next = Some(watch.next().await.ok_or(Error::Closed)?);
        // All that has come is told at once: a thousand tenants are not a thousand copies.
        while let Some(watched) = next.take() {
            if let Watched::Change(change) = watched {
                registry.apply(&change);
            }
            next = watch.next().now_or_never().flatten();
        }
        told.send_replace(Arc::new(registry.clone()));
    }
}

/// A registry of these types and nothing else.
#[cfg(test)]
pub(crate) fn of_types(types: &[(&str, &str)]) -> Registry {
    let mut registry = Registry::default();
    for (task_type, json) in types {
        let value = Some(json.as_bytes().to_vec());
        registry.apply(&Change { key: format!("types.{task_type}"), value, revision: 1 });
    }
    registry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, json: Option<&str>) -> Change {
        Change { key: key.into(), value: json.map(|json| json.as_bytes().to_vec()), revision: 1 }
    }

    #[test]
    fn a_type_announced_in_one_field_makes_its_queue_known() {
        let mut registry = Registry::default();
        registry.apply(&change("types.image.thumbnail", Some(r#"{"queue":"pictures"}"#)));
        let queue = QueueName::new("pictures").expect("valid");
        assert_eq!(registry.queues(), BTreeSet::from([queue.clone()]));
        assert_eq!(registry.types_of(&queue).count(), 1);
        registry.apply(&change("types.image.thumbnail", None));
        assert!(registry.queues().is_empty());
    }

    #[test]
    fn an_announcement_that_is_no_good_leaves_the_last_good_one() {
        let mut registry = Registry::default();
        registry.apply(&change("types.a", Some(r#"{"queue":"pictures"}"#)));
        for bad in ["", "{", r#"{"queue":"a.b"}"#, r#"{"queue":"x","retries":101}"#, "null"] {
            registry.apply(&change("types.a", Some(bad)));
            let known = registry.task_type(&TaskType::new("a").expect("valid")).expect("known");
            assert_eq!(known.entry.queue.as_str(), "pictures", "{bad:?} was taken");
        }
    }

    #[test]
    fn a_schema_that_is_none_does_not_make_the_type_unknown() {
        let mut registry = Registry::default();
        registry.apply(&change("types.a", Some(r#"{"queue":"x","schema":{"type":"nonsense"}}"#)));
        assert!(registry.task_type(&TaskType::new("a").expect("valid")).is_some());
    }
}
