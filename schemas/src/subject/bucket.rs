//! Keys of the buckets: what is announced, who leads, and notes on tasks.

use crate::id::{TaskId, TaskRef};
use crate::token::{QueueName, TaskType, Tenant};
use sha2::{Digest, Sha256};

/// Registry key of a type's announcement.
pub fn registry_type(task_type: &TaskType) -> String {
    format!("types.{task_type}")
}

/// Registry key of the options of a type that people have set.
pub fn registry_override(task_type: &TaskType) -> String {
    format!("overrides.{task_type}")
}

/// Registry key of a queue's announcement.
pub fn registry_queue(queue: &QueueName) -> String {
    format!("queues.{queue}")
}

/// Registry key of a tenant's own shard.
pub fn registry_shard(queue: &QueueName, tenant: &Tenant) -> String {
    let digest = Sha256::digest(tenant.as_str().as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("shards.{queue}.{hex}")
}

/// Registry key of the shards of a queue that are shared by hash.
pub fn registry_shared(queue: &QueueName) -> String {
    format!("shared.{queue}")
}

/// Registry key of what is known of a type's run times.
pub fn registry_estimate(task_type: &TaskType) -> String {
    format!("estimates.{task_type}")
}

/// Registry key that says that clients without an SDK have been given tasks of a type with callbacks: who
/// carries those out has to read the type's completions.
pub fn registry_plain(task_type: &TaskType) -> String {
    format!("plain.{task_type}")
}

/// All keys of [`registry_plain`].
pub const REGISTRY_PLAIN_ALL: &str = "plain.>";

/// The type of [`registry_plain`].
pub fn parse_registry_plain(key: &str) -> Option<TaskType> {
    key.strip_prefix("plain.").and_then(|task_type| TaskType::read(task_type).ok())
}

/// What a registry key announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryKey {
    /// A type's announcement.
    Type(TaskType),
    /// Options of a type that people have set.
    Override(TaskType),
    /// A queue's announcement.
    Queue(QueueName),
    /// A tenant's own shard in a queue.
    Shard(QueueName),
    /// The shards of a queue that are shared by hash.
    Shared(QueueName),
    /// The run times of a type.
    Estimate(TaskType),
}

impl RegistryKey {
    /// Reads a key; `None` for what this version does not know.
    pub fn parse(key: &str) -> Option<Self> {
        if let Some(task_type) = key.strip_prefix("types.") {
            return TaskType::new(task_type).ok().map(Self::Type);
        }
        if let Some(task_type) = key.strip_prefix("overrides.") {
            return TaskType::new(task_type).ok().map(Self::Override);
        }
        if let Some(queue) = key.strip_prefix("queues.") {
            return QueueName::new(queue).ok().map(Self::Queue);
        }
        if let Some(task_type) = key.strip_prefix("estimates.") {
            return TaskType::new(task_type).ok().map(Self::Estimate);
        }
        if let Some(queue) = key.strip_prefix("shared.") {
            return QueueName::new(queue).ok().map(Self::Shared);
        }
        let (queue, _hash) = key.strip_prefix("shards.")?.split_once('.')?;
        QueueName::new(queue).ok().map(Self::Shard)
    }
}

/// Leases key of a queue's leader.
pub fn lease_queue(queue: &QueueName) -> String {
    format!("queue.{queue}")
}

/// Leases key of what a queue's leaders were given: the last sequence by subject of a flow, as a JSON object.
pub fn lease_delivered(queue: &QueueName) -> String {
    format!("delivered.{queue}")
}

/// Claims key of an idempotency key: the type, and what [`crate::TaskEvent::claim`] makes of the key.
pub fn claim(task_type: &TaskType, name: &TaskId) -> String {
    format!("{task_type}.{name}")
}

/// Notes key of a cancelled task.
pub fn note_cancelled(task_type: &TaskType, id: &TaskId) -> String {
    format!("cancelled.{task_type}.{id}")
}

/// All keys of [`note_cancelled`].
pub const NOTES_CANCELLED_ALL: &str = "cancelled.>";

/// Notes key of the mark that a run of a task has begun.
pub fn note_begun(task_type: &TaskType, id: &TaskId) -> String {
    format!("begun.{task_type}.{id}")
}

/// Notes key of what a running task has saved.
pub fn note_checkpoint(task_type: &TaskType, id: &TaskId) -> String {
    format!("checkpoint.{task_type}.{id}")
}

/// The task of a note on a cancellation.
pub fn parse_note_cancelled(key: &str) -> Option<TaskRef> {
    key.strip_prefix("cancelled.").and_then(TaskRef::parse)
}

/// The subject behind a key of a key-value bucket.
pub fn kv(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}
