//! Every stream, subject, key and consumer name: built and parsed here and nowhere else.

mod bucket;
mod callback;

pub use bucket::{
    NOTES_CANCELLED_ALL, REGISTRY_PLAIN_ALL, RegistryKey, claim, kv, lease_delivered, lease_queue, note_begun,
    note_cancelled, note_checkpoint, parse_note_cancelled, parse_registry_plain, registry_estimate, registry_override,
    registry_plain, registry_queue, registry_shard, registry_shared, registry_type,
};
pub use callback::{
    CALLBACK_ALL, DEAD_CALLBACK_ALL, callback, dead_callback, dead_callbacks_matching, parse_callback,
    parse_dead_callback, schedule_callback,
};

use crate::id::{TaskId, TaskRef};
use crate::limits::TYPE_TOKENS_MAX;
use crate::options::{Priority, Shard};
use crate::token::{Fit, QueueName, TaskType};
use std::fmt;

/// Intake, work queue, discard new: submissions of the SDK and of the open door.
pub const STREAM_TASKS: &str = "JETLANE_TASKS";
/// Schedules and where they fire, work queue, no limits of its own.
pub const STREAM_TIME: &str = "JETLANE_TIME";
/// Dispatched tasks, work queue, discard new.
pub const STREAM_LANES: &str = "JETLANE_LANES";
/// Completions, at most one a subject.
pub const STREAM_DONE: &str = "JETLANE_DONE";
/// Dead letters.
pub const STREAM_DEAD: &str = "JETLANE_DEAD";
/// The server's advisories on messages that it gave up.
pub const STREAM_ADVISORIES: &str = "JETLANE_ADVISORIES";

/// Types, queues, shards and estimates.
pub const BUCKET_REGISTRY: &str = "jetlane_registry";
/// One lease a queue.
pub const BUCKET_LEASES: &str = "jetlane_leases";
/// Checkpoints and cancelled ids, with a time to live.
pub const BUCKET_NOTES: &str = "jetlane_notes";
/// KV: who has an idempotency key.
pub const BUCKET_CLAIMS: &str = "jetlane_claims";

/// All subjects of the open door.
pub const SUBMIT_ALL: &str = "jetlane.submit.>";
/// All subjects of the SDK's door.
pub const TASK_ALL: &str = "jetlane.task.>";
/// All schedules.
pub const SCHEDULE_ALL: &str = "jetlane.schedule.>";
/// All subjects that schedules fire to.
pub const DUE_ALL: &str = "jetlane.due.>";
/// All plain lanes.
pub const LANE_ALL: &str = "jetlane.lane.>";
/// All bundle lanes.
pub const BUNDLE_ALL: &str = "jetlane.bundle.>";
/// All completions.
pub const DONE_ALL: &str = "jetlane.done.>";
/// All dead letters.
pub const DEAD_ALL: &str = "jetlane.dead.>";
/// Where the server says that a message of a lane used up its deliveries.
pub const MAX_DELIVERIES_ALL: &str = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.JETLANE_LANES.>";
/// Where the server says that a message of a lane was terminated by its consumer.
pub const TERMINATED_ALL: &str = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.JETLANE_LANES.>";

/// Where anyone submits a task of this type: `jetlane.submit.<type>`.
pub fn submit(task_type: &TaskType) -> String {
    format!("jetlane.submit.{task_type}")
}

/// Where the SDK submits: `jetlane.task.<queue>.<priority>.<shard>`.
pub fn task(queue: &QueueName, priority: Priority, shard: Shard) -> String {
    format!("jetlane.task.{queue}.{priority}.{shard}")
}

/// Where a task's schedule is stored: one subject a run, so that the same run that is stored again replaces the old one,
/// and a copy of an earlier run replaces no later one. The id stands before the type, whose number of tokens varies: one
/// filter finds the schedules of an id, whatever their types.
pub fn schedule(queue: &QueueName, task_type: &TaskType, id: &TaskId, run: u32) -> String {
    format!("jetlane.schedule.task.{queue}.{id}.{run}.{task_type}")
}

/// Matches the schedules of a task whose queue and run are not known, for purging.
pub fn schedules_of(task_type: &TaskType, id: &TaskId) -> String {
    format!("jetlane.schedule.task.*.{id}.*.{task_type}")
}

/// Matches the schedules of all tasks with this id: a task is identified by its type and id together.
pub fn schedules_of_id(id: &TaskId) -> String {
    format!("jetlane.schedule.task.*.{id}.>")
}

/// Where schedules fire and hand-backs go: `jetlane.due.<queue>.<priority>.<shard>`.
pub fn due(queue: &QueueName, priority: Priority, shard: Shard) -> String {
    format!("jetlane.due.{queue}.{priority}.{shard}")
}

/// One JSON task a message, for any client: `jetlane.lane.<queue>.<priority>.<fit>`.
pub fn lane(queue: &QueueName, priority: Priority, fit: &Fit) -> String {
    format!("jetlane.lane.{queue}.{priority}.{fit}")
}

/// Bundles of framed tasks, for SDK executors: `jetlane.bundle.<queue>.<priority>.<fit>`.
pub fn bundle(queue: &QueueName, priority: Priority, fit: &Fit) -> String {
    format!("jetlane.bundle.{queue}.{priority}.{fit}")
}

/// The one terminal record of a task: `jetlane.done.<type>.<id>`.
pub fn done(task_type: &TaskType, id: &TaskId) -> String {
    let mut subject = String::new();
    write_done(&mut subject, task_type, id);
    subject
}

/// Appends the same to a text: for those who make many.
pub fn write_done(text: &mut String, task_type: &TaskType, id: &TaskId) {
    text.extend(["jetlane.done.", task_type.as_str(), ".", id.as_str()]);
}

/// All completions of one type.
pub fn done_of_type(task_type: &TaskType) -> String {
    format!("jetlane.done.{task_type}.*")
}

/// Where a task that used up its attempts or was rejected is kept.
pub fn dead(queue: &QueueName, task_type: &TaskType, id: &TaskId) -> String {
    format!("jetlane.dead.{queue}.{task_type}.{id}")
}

/// Matches dead letters of a queue, a type and an id, as far as they are known. Several filters where the id is known
/// without its type: it is the last token behind any number of them.
pub fn dead_matching(queue: Option<&QueueName>, task_type: Option<&TaskType>, id: Option<&TaskId>) -> Vec<String> {
    let queue = queue.map_or("*", QueueName::as_str);
    match (task_type, id) {
        (None, None) => vec![format!("jetlane.dead.{queue}.>")],
        (Some(task_type), None) => vec![format!("jetlane.dead.{queue}.{task_type}.*")],
        (Some(task_type), Some(id)) => vec![format!("jetlane.dead.{queue}.{task_type}.{id}")],
        (None, Some(id)) => {
            (1..=TYPE_TOKENS_MAX).map(|tokens| format!("jetlane.dead.{queue}.{}{id}", "*.".repeat(tokens))).collect()
        }
    }
}

/// Core NATS: executors of a queue tell their credit.
pub fn credit(queue: &QueueName) -> String {
    format!("jetlane.credit.{queue}")
}

/// Core NATS: a leader asks the executors of a queue to tell their credit now.
pub fn credit_wanted(queue: &QueueName) -> String {
    format!("jetlane.wanted.{queue}")
}

/// Core NATS, request and reply: anyone asks the leader of a queue a [`crate::question::Question`].
pub fn ask(queue: &QueueName) -> String {
    format!("jetlane.ask.{queue}")
}

/// Core NATS: the leader of a queue asks for a running task to yield at its next checkpoint.
pub fn yield_wanted(queue: &QueueName) -> String {
    format!("jetlane.yield.{queue}")
}

/// Core NATS, request and reply: an executor asks the others of its queue whether one of them runs a task that was
/// delivered to it again ([`crate::inquiry::Inquiry`]). Only the one that does answers.
pub fn owner(queue: &QueueName) -> String {
    format!("jetlane.owner.{queue}")
}

/// Core NATS, request and reply: the same asked of one executor, which always answers. Without a connection of that
/// executor the server says at once that nobody listens.
pub fn owner_of(queue: &QueueName, executor: &str) -> String {
    format!("jetlane.owner.{queue}.{executor}")
}

/// Core NATS: progress of a running task.
pub fn progress(task_type: &TaskType, id: &TaskId) -> String {
    format!("jetlane.progress.{task_type}.{id}")
}

/// Core NATS: a running task is asked to stop. The decision is the stored completion.
pub fn cancel(task_type: &TaskType, id: &TaskId) -> String {
    format!("jetlane.cancel.{task_type}.{id}")
}

/// Core NATS: all requests to stop a running task.
pub const CANCEL_ALL: &str = "jetlane.cancel.>";

/// The queue of a credit subject.
pub fn parse_credit(subject: &str) -> Option<QueueName> {
    subject.strip_prefix("jetlane.credit.").and_then(|queue| QueueName::new(queue).ok())
}

/// The task of a cancel subject.
pub fn parse_cancel(subject: &str) -> Option<TaskRef> {
    subject.strip_prefix("jetlane.cancel.").and_then(TaskRef::parse)
}

/// Core NATS: whoever has stored completions of a type tells submitters of them, many in one message:
/// `jetlane.told.<type>`.
pub fn told(task_type: &TaskType) -> String {
    format!("jetlane.told.{task_type}")
}

/// The type of [`told`].
pub fn parse_told(subject: &str) -> Option<TaskType> {
    subject.strip_prefix("jetlane.told.").and_then(|task_type| TaskType::read(task_type).ok())
}

/// `jetlane.told.<type>.@.<connection>.<number>`: where the server acks a completion that is stored alone. The
/// executor hears it there, and the submitter at the same moment.
pub fn acked(task_type: &TaskType, connection: &str, number: impl std::fmt::Display) -> String {
    format!("jetlane.told.{task_type}.@.{connection}.{number}")
}

/// Acks of one connection for all types of so many tokens, for a subscription.
pub fn acked_of_types(tokens: usize, connection: &str) -> String {
    format!("jetlane.told.{}@.{connection}.*", "*.".repeat(tokens))
}

/// `jetlane.told.<type>.@.<connection>.<number>.told`: the same completion, told before it is stored. Whoever
/// hears it believes it once the ack has come, too.
pub fn told_ahead(task_type: &TaskType, connection: &str, number: impl std::fmt::Display) -> String {
    format!("jetlane.told.{task_type}.@.{connection}.{number}.told")
}

/// Where the ack of a completion comes that was told ahead under this subject; `None` where it is no such.
pub fn parse_told_ahead(subject: &str) -> Option<&str> {
    subject.strip_suffix(".told").filter(|acked| acked.contains(".@."))
}

/// Whether acks of completions that were told ahead come on this subject.
pub fn is_acked(subject: &str) -> bool {
    subject.contains(".@.") && parse_told_ahead(subject).is_none()
}

/// All of both, of a type.
pub fn told_alone(task_type: &TaskType) -> String {
    format!("jetlane.told.{task_type}.@.>")
}

/// All that is told of completions.
pub const TOLD_ALL: &str = "jetlane.told.>";

/// What stands before the subject of a completion where the broker tells that it has stored it, if the
/// streams' settings say so. Core NATS: `jetlane.stored.<type>.<id>`, with the completion's headers and body.
pub const STORED_PREFIX: &str = "jetlane.stored.";

/// Where the broker tells of one task's stored completion.
pub fn stored(task_type: &TaskType, id: &TaskId) -> String {
    format!("{STORED_PREFIX}{task_type}.{id}")
}

/// The type and id in the subject of a completion that the broker has stored.
pub fn parse_stored(subject: &str) -> Option<(TaskType, TaskId)> {
    let (task_type, id) = subject.strip_prefix(STORED_PREFIX)?.rsplit_once('.')?;
    Some((TaskType::new(task_type).ok()?, TaskId::new(id).ok()?))
}

/// The type and id of a completion's subject: the id is the last token, the type all before it.
pub fn parse_done(subject: &str) -> Option<(TaskType, TaskId)> {
    let (task_type, id) = subject.strip_prefix("jetlane.done.")?.rsplit_once('.')?;
    Some((TaskType::new(task_type).ok()?, TaskId::new(id).ok()?))
}

/// The queue, type and id of a dead letter's subject.
pub fn parse_dead(subject: &str) -> Option<(QueueName, TaskType, TaskId)> {
    let (queue, rest) = subject.strip_prefix("jetlane.dead.")?.split_once('.')?;
    let (task_type, id) = rest.rsplit_once('.')?;
    Some((QueueName::new(queue).ok()?, TaskType::new(task_type).ok()?, TaskId::new(id).ok()?))
}

/// The unit of windowing: one subject of intake, read by one durable consumer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flow {
    /// What the SDK submits.
    Task(QueueName, Priority, Shard),
    /// What schedules, retries and hand-backs bring.
    Due(QueueName, Priority, Shard),
    /// What anyone publishes for one type.
    Raw(TaskType),
}

impl Flow {
    /// The flow whose messages have this subject.
    pub fn parse(subject: &str) -> Option<Self> {
        if let Some(task_type) = subject.strip_prefix("jetlane.submit.") {
            return TaskType::new(task_type).ok().map(Self::Raw);
        }
        let (place, due) = match subject.strip_prefix("jetlane.task.") {
            Some(place) => (place, false),
            None => (subject.strip_prefix("jetlane.due.")?, true),
        };
        let mut tokens = place.split('.');
        let queue = QueueName::new(tokens.next()?).ok()?;
        let priority = tokens.next()?.parse().ok()?;
        let shard = Shard::new(tokens.next()?.parse().ok()?).ok()?;
        if tokens.next().is_some() {
            return None;
        }
        Some(if due { Self::Due(queue, priority, shard) } else { Self::Task(queue, priority, shard) })
    }

    /// The stream that holds the flow.
    pub fn stream(&self) -> &'static str {
        match self {
            Self::Task(..) | Self::Raw(_) => STREAM_TASKS,
            Self::Due(..) => STREAM_TIME,
        }
    }

    /// The subject of the flow's messages.
    pub fn subject(&self) -> String {
        match self {
            Self::Task(queue, priority, shard) => task(queue, *priority, *shard),
            Self::Due(queue, priority, shard) => due(queue, *priority, *shard),
            Self::Raw(task_type) => submit(task_type),
        }
    }

    /// The durable consumer that a leader of this epoch reads the flow with.
    pub fn consumer(&self, epoch: u64) -> String {
        format!("{}-{epoch}", self.consumer_stem())
    }

    /// The part of [`Flow::consumer`] that all epochs share; no two flows have the same.
    pub fn consumer_stem(&self) -> String {
        match self {
            Self::Task(queue, priority, shard) => format!("task-{queue}-{priority}-{shard}"),
            Self::Due(queue, priority, shard) => format!("due-{queue}-{priority}-{shard}"),
            Self::Raw(task_type) => {
                format!("raw-{}", type_stem(task_type))
            }
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject())
    }
}

/// A type's part of a consumer's name, which has no dots: they are written as `=`, which no type holds.
fn type_stem(task_type: &TaskType) -> String {
    task_type.as_str().replace('.', "=")
}

/// The durable consumer by which callback services read the completions that clients without an SDK made
/// of a type.
pub fn callback_consumer(task_type: &TaskType) -> String {
    format!("callback-{}", type_stem(task_type))
}

/// Which of a lane's two consumers: bundles for SDK executors, plain messages for everyone else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaneKind {
    /// 1 to K framed tasks a message.
    Bundle,
    /// One JSON task a message.
    Plain,
}

/// A lane: queue x priority x fit, in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Bundles or plain messages.
    pub kind: LaneKind,
    /// The queue.
    pub queue: QueueName,
    /// The priority.
    pub priority: Priority,
    /// The class of needs.
    pub fit: Fit,
}

impl Lane {
    /// The subject of the lane's messages.
    pub fn subject(&self) -> String {
        match self.kind {
            LaneKind::Bundle => bundle(&self.queue, self.priority, &self.fit),
            LaneKind::Plain => lane(&self.queue, self.priority, &self.fit),
        }
    }

    /// The durable consumer that the lane's executors share: `<kind>-<queue>-<priority>-<fit>`. A `-` of the fit is
    /// written as `=`, which no name holds, so that no two lanes share a consumer.
    pub fn consumer(&self) -> String {
        let kind = match self.kind {
            LaneKind::Bundle => "bundle",
            LaneKind::Plain => "lane",
        };
        format!("{kind}-{}-{}-{}", self.queue, self.priority, self.fit.as_str().replace('-', "="))
    }

    /// The lane whose messages have this subject.
    pub fn parse(subject: &str) -> Option<Self> {
        let (kind, place) = match subject.strip_prefix("jetlane.bundle.") {
            Some(place) => (LaneKind::Bundle, place),
            None => (LaneKind::Plain, subject.strip_prefix("jetlane.lane.")?),
        };
        let mut tokens = place.split('.');
        let queue = QueueName::new(tokens.next()?).ok()?;
        let priority = tokens.next()?.parse().ok()?;
        let fit = Fit::new(tokens.next()?).ok()?;
        if tokens.next().is_some() {
            return None;
        }
        Some(Self { kind, queue, priority, fit })
    }
}

#[cfg(test)]
mod tests;
