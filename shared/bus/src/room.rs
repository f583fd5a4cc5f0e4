//! How many types and queues the registry takes.
//!
//! Asked only where a name is new. Two that ask at once may both find the last place: the limits can be passed by as
//! many as announce at the same moment. Dispatchers keep to them whatever the registry holds.

use crate::error::Error;
use crate::kv::{Bucket, Watched};
use jetlane_schemas::limits::{QUEUES_MAX, TYPES_MAX};
use jetlane_schemas::subject::{self, BUCKET_REGISTRY, RegistryKey};
use jetlane_schemas::{QueueEntry, QueueName, TaskType};
use std::collections::BTreeSet;

/// Types or queues, as the registry counts them.
#[derive(Debug, Clone, Copy)]
struct Kind {
    what: &'static str,
    limit: &'static str,
    most: usize,
    /// Patterns of the keys that name one.
    patterns: &'static [&'static str],
    removable: &'static str,
}

const TYPES: Kind = Kind {
    what: "types",
    limit: "TYPES_MAX",
    most: TYPES_MAX,
    patterns: &["types.>", "overrides.>"],
    removable: "types.NAME (and overrides.NAME where something is set by hand)",
};
const QUEUES: Kind =
    Kind { what: "queues", limit: "QUEUES_MAX", most: QUEUES_MAX, patterns: &["queues.>"], removable: "queues.NAME" };

impl Bucket {
    /// Checks that the registry has room for a type; it has for one that is announced or of which something is set.
    /// Two requests.
    ///
    /// # Errors
    /// [`Error::RegistryFull`], and where the registry does not answer.
    pub async fn room_for_type(&self, task_type: &TaskType) -> Result<(), Error> {
        // Boxed: rare, and inlining it would enlarge the future of every caller.
        Box::pin(self.room(TYPES, task_type.as_str())).await
    }

    /// Checks that the registry has room for a queue; it has for one that is announced. One request.
    ///
    /// # Errors
    /// [`Error::RegistryFull`], and where the registry does not answer.
    pub async fn room_for_queue(&self, queue: &QueueName) -> Result<(), Error> {
        Box::pin(self.room(QUEUES, queue.as_str())).await
    }

    /// Announces a queue with its defaults where nobody has and there is room; returns whether it was new. One request
    /// for a queue that is announced.
    ///
    /// # Errors
    /// [`Error::RegistryFull`], [`Error::Kv`].
    pub async fn announce_queue(&self, queue: &QueueName) -> Result<bool, Error> {
        let key = subject::registry_queue(queue);
        if self.has(&key).await? {
            return Ok(false);
        }
        self.room_for_queue(queue).await?;
        Ok(self.create(&key, &QueueEntry::default()).await?.is_some())
    }

    async fn room(&self, kind: Kind, name: &str) -> Result<(), Error> {
        let mut names = BTreeSet::new();
        for pattern in kind.patterns {
            names.extend(self.keys_and_marks(pattern).await?.iter().filter_map(|key| named(key)));
        }
        if names.len() < kind.most {
            return Ok(());
        }
        // Some may be marks of what was removed within the hour: only a reading tells.
        names.clear();
        for pattern in kind.patterns {
            let mut watch = self.watch(pattern).await?;
            while let Some(Watched::Change(change)) = watch.next().await {
                names.extend(named(&change.key).filter(|_| change.value.is_some()));
            }
        }
        if names.len() < kind.most || names.contains(name) {
            return Ok(());
        }
        let Kind { what, limit, most, removable, .. } = kind;
        Err(Error::RegistryFull { what, count: names.len(), most, limit, bucket: BUCKET_REGISTRY, keys: removable })
    }
}

/// The type or queue that a key announces.
fn named(key: &str) -> Option<String> {
    match RegistryKey::parse(key)? {
        RegistryKey::Type(task_type) | RegistryKey::Override(task_type) => Some(task_type.to_string()),
        RegistryKey::Queue(queue) => Some(queue.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::stage::place;
    use futures::{StreamExt as _, TryStreamExt as _};
    use jetlane_schemas::TypeEntry;

    /// How many entries are written at once.
    const AT_ONCE: usize = 128;

    fn task_type(number: usize) -> TaskType {
        TaskType::new(format!("kind.t{number}")).expect("valid")
    }

    fn queue(number: usize) -> QueueName {
        QueueName::new(format!("q{number}")).expect("valid")
    }

    async fn fill(registry: &Bucket) {
        let entry = TypeEntry::new(queue(0));
        let types = futures::stream::iter(0..TYPES_MAX - 1).map(async |n| {
            // Every second is set by hand and not announced; either way it is one type.
            let key = if n % 2 == 0 { subject::registry_type } else { subject::registry_override };
            registry.put(&key(&task_type(n)), &entry).await
        });
        types.buffer_unordered(AT_ONCE).try_collect::<()>().await.expect("announced");
        let queues = futures::stream::iter(0..QUEUES_MAX - 1)
            .map(async |n| registry.put(&subject::registry_queue(&queue(n)), &QueueEntry::default()).await);
        queues.buffer_unordered(AT_ONCE).try_collect::<()>().await.expect("announced");
    }

    #[tokio::test]
    async fn registry_refuses_the_type_and_the_queue_beyond_its_limits_and_takes_them_once_there_is_room() {
        let (_server, bus) = place().await;
        let registry = bus.bucket(BUCKET_REGISTRY).await.expect("opened");
        fill(&registry).await;
        let (last, beyond) = (task_type(TYPES_MAX), task_type(TYPES_MAX + 1));
        registry.room_for_type(&last).await.expect("one more has room");
        registry.put(&subject::registry_type(&last), &TypeEntry::new(queue(0))).await.expect("announced");
        let refused = registry.room_for_type(&beyond).await.expect_err("full").to_string();
        assert!(refused.contains("4096 types") && refused.contains("TYPES_MAX"), "{refused}");
        assert!(refused.contains("nats kv del jetlane_registry types."), "{refused}");
        registry.room_for_type(&task_type(1)).await.expect("one that is known has room");
        // The mark of a removed one takes no place.
        registry.delete(&subject::registry_type(&last)).await.expect("removed");
        registry.room_for_type(&beyond).await.expect("there is room again");

        let (last, beyond) = (queue(QUEUES_MAX), queue(QUEUES_MAX + 1));
        assert!(registry.announce_queue(&last).await.expect("has room"));
        let refused = registry.announce_queue(&beyond).await.expect_err("full").to_string();
        assert!(refused.contains("1024 queues") && refused.contains("QUEUES_MAX"), "{refused}");
        assert!(!registry.announce_queue(&last).await.expect("is announced"));
        assert!(!registry.has(&subject::registry_queue(&beyond)).await.expect("read"));
    }
}
