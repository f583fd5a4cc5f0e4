//! What is announced, watched: types with their validators compiled, queues, tenants' shards.

use crate::error::Error;
use crate::validate::Schema;
use futures::FutureExt as _;
use jetlane_bus::Bus;
use jetlane_bus::kv::{Change, Watch, Watched};
use jetlane_core::shards::Assignment;
use jetlane_schemas::limits::{QUEUES_MAX, TYPES_MAX};
use jetlane_schemas::subject::{BUCKET_REGISTRY, RegistryKey};
use jetlane_schemas::{
    EstimateEntry, QueueEntry, QueueName, ShardEntry, SharedEntry, TaskType, TypeEntry, TypeLayers, TypeOverride,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often types or queues beyond the limits are reported, each of the two.
const IGNORED_REPORTED_EVERY: Duration = Duration::from_secs(60);

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
    /// What code announced and what people have set; shared by all copies, of which only the last changes.
    layers: Arc<Mutex<TypeLayers>>,
    queues: BTreeMap<QueueName, QueueEntry>,
    /// How many types name each queue.
    named: BTreeMap<QueueName, usize>,
    types_beyond: Ignored,
    queues_beyond: Ignored,
    shards: BTreeMap<String, (QueueName, ShardEntry)>,
    shared: BTreeMap<QueueName, SharedEntry>,
    /// Written by leaders every few seconds and read when a lead begins: shared by all copies, and no news.
    estimates: Arc<Mutex<BTreeMap<TaskType, EstimateEntry>>>,
}

/// Types, or queues, that are ignored because the registry holds more than its limit.
#[derive(Debug, Clone, Copy, Default)]
struct Ignored {
    /// How many since the last report.
    count: u64,
    reported: Option<Instant>,
}

impl Ignored {
    fn one(&mut self, what: &'static str, name: &str, limit: usize) {
        self.count += 1;
        if self.reported.is_none_or(|at| at.elapsed() >= IGNORED_REPORTED_EVERY) {
            let ignored = self.count;
            tracing::warn!(
                what,
                name,
                limit,
                ignored,
                "Ignoring what the registry holds beyond its limit, until it is announced again and there is room."
            );
            *self = Self { count: 0, reported: Some(Instant::now()) };
        }
    }
}

/// Whether a change is worth waking anybody for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Yes,
    No,
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

    /// Every queue that has an announcement of its own or a type; at most [`QUEUES_MAX`].
    pub(crate) fn queues(&self) -> BTreeSet<QueueName> {
        self.queues.keys().chain(self.named.keys()).cloned().collect()
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

    /// Which shards of a queue are shared by hash.
    pub(crate) fn shared(&self, queue: &QueueName) -> SharedEntry {
        self.shared.get(queue).copied().unwrap_or_default()
    }

    /// What was kept of a type's run times.
    pub(crate) fn estimate(&self, task_type: &TaskType) -> Option<EstimateEntry> {
        self.estimates.lock().expect("nobody panics while holding the estimates").get(task_type).cloned()
    }

    fn apply(&mut self, change: &Change) -> News {
        let key = RegistryKey::parse(&change.key);
        if change.value.is_some() && key.as_ref().is_some_and(|key| self.is_beyond(key)) {
            return News::No;
        }
        match key {
            Some(RegistryKey::Type(task_type)) => match change.value.as_deref().map(read_type).transpose() {
                Ok(entry) => {
                    let merged = self.layers().announce(&task_type, entry);
                    self.serve(task_type, merged);
                }
                // The last good announcement stays: a typo must not stop a queue.
                Err(reason) => {
                    tracing::warn!(%task_type, reason, "Ignoring an invalid announcement of a type.");
                }
            },
            Some(RegistryKey::Override(task_type)) => match change.value.as_deref().map(read_override).transpose() {
                Ok(set) => {
                    let merged = self.layers().set(&task_type, set);
                    match merged {
                        Ok(merged) => self.serve(task_type, merged),
                        Err(error) => tracing::warn!(%task_type, %error, "Ignoring invalid options of a type."),
                    }
                }
                Err(reason) => tracing::warn!(%task_type, reason, "Ignoring unreadable options of a type."),
            },
            Some(RegistryKey::Queue(queue)) => match change.value.as_deref().map(read_queue) {
                None => drop(self.queues.remove(&queue)),
                Some(Ok(entry)) => drop(self.queues.insert(queue, entry)),
                Some(Err(reason)) => {
                    tracing::warn!(%queue, reason, "The announcement of a queue is no good and is passed over.");
                }
            },
            Some(RegistryKey::Shard(queue)) => match change.value.as_deref().map(serde_json::from_slice) {
                None => drop(self.shards.remove(&change.key)),
                Some(Ok(entry)) => drop(self.shards.insert(change.key.clone(), (queue, entry))),
                Some(Err(error)) => {
                    tracing::warn!(%queue, %error, "The shard of a tenant is no good and is passed over.");
                }
            },
            Some(RegistryKey::Shared(queue)) => match change.value.as_deref().map(read_shared) {
                None => drop(self.shared.remove(&queue)),
                Some(Ok(entry)) => drop(self.shared.insert(queue, entry)),
                Some(Err(reason)) => {
                    tracing::warn!(%queue, reason, "What is said of a queue's shared shards is no good and is passed over.");
                }
            },
            Some(RegistryKey::Estimate(task_type)) => {
                let mut kept = self.estimates.lock().expect("nobody panics while holding the estimates");
                match change.value.as_deref().map(serde_json::from_slice) {
                    None => drop(kept.remove(&task_type)),
                    Some(Ok(entry)) => drop(kept.insert(task_type, entry)),
                    Some(Err(error)) => {
                        tracing::warn!(%task_type, %error, "The run times of a type are no good and are passed over.");
                    }
                }
                return News::No;
            }
            None => tracing::debug!(key = change.key, "The registry has a key that this version does not know."),
        }
        News::Yes
    }
}

impl Registry {
    fn layers(&self) -> MutexGuard<'_, TypeLayers> {
        self.layers.lock().expect("nobody panics while holding the layers")
    }

    /// Whether this is a type or a queue beyond the limits, which is then passed over. Whoever was first stays.
    fn is_beyond(&mut self, key: &RegistryKey) -> bool {
        match key {
            RegistryKey::Type(task_type) | RegistryKey::Override(task_type) => {
                let is_beyond = {
                    let layers = self.layers();
                    layers.count() >= TYPES_MAX && !layers.knows(task_type)
                };
                if is_beyond {
                    self.types_beyond.one("type", task_type.as_str(), TYPES_MAX);
                }
                is_beyond
            }
            RegistryKey::Queue(queue) => !self.has_room(queue),
            _ => false,
        }
    }

    /// Whether a queue is known, or there is room for one more.
    fn has_room(&mut self, queue: &QueueName) -> bool {
        let is_known = self.queues.contains_key(queue) || self.named.contains_key(queue);
        // The sum counts a queue twice that is both announced and named by a type; the exact count costs more.
        if is_known || self.queues.len() + self.named.len() < QUEUES_MAX || self.queues().len() < QUEUES_MAX {
            return true;
        }
        self.queues_beyond.one("queue", queue.as_str(), QUEUES_MAX);
        false
    }

    /// Forgets that a type names its queue.
    fn unname(&mut self, task_type: &TaskType) {
        let Some(known) = self.types.remove(task_type) else { return };
        if let Some(types) = self.named.get_mut(&known.entry.queue) {
            *types -= 1;
            if *types == 0 {
                self.named.remove(&known.entry.queue);
            }
        }
    }

    /// Takes a type as it is served from now on.
    fn serve(&mut self, task_type: TaskType, entry: Option<TypeEntry>) {
        let Some(entry) = entry else {
            self.unname(&task_type);
            return;
        };
        // One that moves to a queue beyond the limits stays where it is.
        if !self.has_room(&entry.queue) {
            return;
        }
        let schema = Schema::compile(entry.schema.as_ref()).unwrap_or_else(|reason| {
            tracing::warn!(%task_type, reason, "The schema of a type is no good: its bodies are not checked against it.");
            Schema::any()
        });
        self.unname(&task_type);
        *self.named.entry(entry.queue.clone()).or_default() += 1;
        self.types.insert(task_type, Arc::new(KnownType { entry, schema }));
    }
}

fn read_override(json: &[u8]) -> Result<TypeOverride, String> {
    serde_json::from_slice(json).map_err(|e| e.to_string())
}

fn read_queue(json: &[u8]) -> Result<QueueEntry, String> {
    let entry: QueueEntry = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    entry.check().map_err(|e| e.to_string())?;
    Ok(entry)
}

fn read_shared(json: &[u8]) -> Result<SharedEntry, String> {
    let entry: SharedEntry = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    entry.check().map_err(|e| e.to_string())?;
    Ok(entry)
}

fn read_type(json: &[u8]) -> Result<TypeEntry, String> {
    let entry: TypeEntry = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    entry.check().map_err(|e| e.to_string())?;
    Ok(entry)
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
        let mut news = News::No;
        // All that has come is told at once: a thousand tenants are not a thousand copies.
        while let Some(watched) = next.take() {
            if let Watched::Change(change) = watched
                && registry.apply(&change) == News::Yes
            {
                news = News::Yes;
            }
            next = watch.next().now_or_never().flatten();
        }
        if news == News::Yes {
            told.send_replace(Arc::new(registry.clone()));
        }
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
    fn types_beyond_the_limit_are_passed_over_and_those_before_them_go_on() {
        let mut registry = Registry::default();
        let name = |number: usize| TaskType::new(format!("t{number}")).expect("valid");
        for number in 0..TYPES_MAX + 20 {
            // What people have set of a type makes it one too.
            let room = if number % 2 == 0 { "types" } else { "overrides" };
            registry.apply(&change(&format!("{room}.t{number}"), Some(r#"{"queue":"pictures"}"#)));
        }
        assert_eq!((registry.types.len(), registry.layers().count()), (TYPES_MAX, TYPES_MAX));
        assert!(registry.task_type(&name(0)).is_some() && registry.task_type(&name(TYPES_MAX)).is_none());
        assert_eq!(registry.types_beyond.count, 19, "one is reported, the others with the next that is");
        let known = registry.apply(&change("types.t0", Some(r#"{"queue":"pictures","retries":7}"#)));
        assert_eq!(known, News::Yes, "one that is known changes as ever");
        assert_eq!(registry.task_type(&name(0)).map(|known| known.entry.retries), Some(7));
        registry.apply(&change("types.t0", None));
        registry.apply(&change("types.late", Some(r#"{"queue":"pictures"}"#)));
        assert_eq!(registry.types.len(), TYPES_MAX, "a removed one makes room");
        assert!(registry.task_type(&TaskType::new("late").expect("valid")).is_some());
    }

    #[test]
    fn queues_beyond_the_limit_are_passed_over_whether_announced_or_named_by_a_type() {
        let mut registry = Registry::default();
        for number in 0..QUEUES_MAX {
            if number % 2 == 0 {
                registry.apply(&change(&format!("queues.q{number}"), Some("{}")));
            }
            if number % 3 != 0 || number % 2 == 1 {
                registry.apply(&change(&format!("types.t{number}"), Some(&format!(r#"{{"queue":"q{number}"}}"#))));
            }
        }
        let all = registry.queues();
        assert_eq!(all.len(), QUEUES_MAX);
        registry.apply(&change("queues.new", Some("{}")));
        registry.apply(&change("types.new", Some(r#"{"queue":"another"}"#)));
        registry.apply(&change("types.t1", Some(r#"{"queue":"another"}"#)));
        assert_eq!(registry.queues(), all);
        let queue = |registry: &Registry, name: &str| {
            registry.task_type(&name.parse().expect("valid")).map(|known| known.entry.queue.to_string())
        };
        assert_eq!((queue(&registry, "new"), queue(&registry, "t1")), (None, Some("q1".into())));
        // A queue that is named by a type may be announced, and a type may name one that is.
        registry.apply(&change("queues.q1", Some(r#"{"policy":"sjf"}"#)));
        registry.apply(&change("types.other", Some(r#"{"queue":"q0"}"#)));
        assert_eq!(registry.queue(&"q1".parse().expect("valid")).order.policy, jetlane_schemas::PolicyName::Sjf);
        assert_eq!(queue(&registry, "other").as_deref(), Some("q0"));
        registry.apply(&change("queues.q0", None));
        registry.apply(&change("types.other", None));
        registry.apply(&change("queues.new", Some("{}")));
        assert!(registry.queues().contains("new"), "a removed one makes room");
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
    fn a_queue_or_run_times_that_are_no_good_leave_the_last_good_ones() {
        let mut registry = Registry::default();
        let (queue, task_type) = (QueueName::default_queue(), TaskType::new("a").expect("valid"));
        assert_eq!(registry.apply(&change("queues.default", Some(r#"{"policy":"sjf"}"#))), News::Yes);
        assert_eq!(registry.apply(&change("estimates.a", Some(r#"{"runs":7,"mu":8.5,"variance":1.0}"#))), News::No);
        let free = r#"{"shards":[0,1,2,63,4,5,6,7]}"#;
        registry.apply(&change("shared.default", Some(free)));
        for bad in ["{", r#"{"policy":"fastest"}"#, r#"{"weights":[0,1,1,1]}"#, r#"{"fits":["a","a"]}"#] {
            registry.apply(&change("queues.default", Some(bad)));
            assert_eq!(registry.queue(&queue).order.policy, jetlane_schemas::PolicyName::Sjf, "{bad} was taken");
        }
        for bad in ["{", r#"{"runs":"many"}"#, r#"{"shards":[1,1,2,3,4,5,6,7]}"#, r#"{"shards":[8,1,2,3,4,5,6,7]}"#] {
            registry.apply(&change("estimates.a", Some(bad)));
            registry.apply(&change("shared.default", Some(bad)));
            assert_eq!(registry.estimate(&task_type).map(|kept| kept.all.runs), Some(7), "{bad} was taken");
            assert_eq!(registry.shared(&queue).shards[3].number(), 63, "{bad} was taken");
        }
    }

    #[test]
    fn options_that_people_have_set_survive_the_next_announcement() {
        let mut registry = Registry::default();
        let task_type = TaskType::new("a").expect("valid");
        registry.apply(&change("types.a", Some(r#"{"queue":"x","retries":3}"#)));
        registry.apply(&change("overrides.a", Some(r#"{"retries":9}"#)));
        registry.apply(&change("types.a", Some(r#"{"queue":"x","retries":5}"#)));
        let retries = |registry: &Registry| registry.task_type(&task_type).map(|known| known.entry.retries);
        assert_eq!(retries(&registry), Some(9));
        for bad in ["{", r#"{"retries":101}"#, r#"{"timeout_ms":0}"#] {
            registry.apply(&change("overrides.a", Some(bad)));
            assert_eq!(retries(&registry), Some(9), "{bad} was taken");
        }
        registry.apply(&change("overrides.a", None));
        assert_eq!(retries(&registry), Some(5));
    }

    #[test]
    fn a_schema_that_is_none_does_not_make_the_type_unknown() {
        let mut registry = Registry::default();
        registry.apply(&change("types.a", Some(r#"{"queue":"x","schema":{"type":"nonsense"}}"#)));
        assert!(registry.task_type(&TaskType::new("a").expect("valid")).is_some());
    }
}
