//! The JetStream facts of every channel, as data: the design's table of streams and its decisions 2, 3, 6 and 8.

use crate::options::{Priority, Shard};
use crate::subject::{self, Flow, Lane, LaneKind};
use crate::token::{Fit, QueueName, TaskType};
use serde_json::{Value, json};

/// How a channel is kept.
pub(super) enum Storage {
    /// In a stream.
    Stream(&'static Stream, Reader),
    /// Under keys of a bucket.
    Bucket(&'static str, &'static str),
    /// Core NATS: whoever does not listen misses it.
    Core,
}

/// A stream's settings; those that a cluster's owner may change are given with their defaults.
pub(super) struct Stream {
    name: &'static str,
    retention: &'static str,
    discard: &'static str,
    max_age_s: Option<u64>,
    messages_per_subject_max: Option<u64>,
    note: &'static str,
}

/// Two minutes, for every stream: how long the server remembers a message id.
const DUPLICATE_WINDOW_S: u64 = 120;
const DAY_S: u64 = 24 * 60 * 60;

/// Who pulls from a channel.
#[derive(Clone, Copy)]
pub(super) enum Reader {
    /// The leader of the queue: one durable consumer a flow and leader.
    Flow(Sample),
    /// The lane's executors share one durable consumer.
    Lane(LaneKind),
    /// Whoever wants: one durable consumer a subscriber.
    Subscribers,
    /// Nobody: the server fires it, or people read it.
    Nobody,
}

/// Which kind of flow.
#[derive(Clone, Copy)]
pub(super) enum Sample {
    /// The open door.
    Raw,
    /// The SDK's door.
    Task,
    /// Schedules and hand-backs.
    Due,
}

pub(super) const TASKS: Stream = Stream {
    name: subject::STREAM_TASKS,
    retention: "workqueue",
    discard: "new",
    max_age_s: None,
    messages_per_subject_max: None,
    note: "Full means that submitters are refused (error 10077), never that a task is dropped.",
};

pub(super) const TIME: Stream = Stream {
    name: subject::STREAM_TIME,
    retention: "workqueue",
    discard: "old",
    max_age_s: None,
    messages_per_subject_max: None,
    note: "Allows message schedules (server 2.14). Without limits of its own, so that nothing is ever discarded.",
};

pub(super) const LANES: Stream = Stream {
    name: subject::STREAM_LANES,
    retention: "workqueue",
    discard: "new",
    max_age_s: None,
    messages_per_subject_max: None,
    note: "Shallow: dispatched against credit, never the backlog.",
};

pub(super) const DONE: Stream = Stream {
    name: subject::STREAM_DONE,
    retention: "limits",
    discard: "new",
    max_age_s: Some(60 * 60),
    messages_per_subject_max: Some(1),
    note: "The first completion stored wins; every later one is refused. Its age is the horizon of that promise. What \
        is stored is published again on the channel `stored` where the streams' settings ask for it.",
};

pub(super) const DEAD: Stream = Stream {
    name: subject::STREAM_DEAD,
    retention: "limits",
    discard: "new",
    max_age_s: Some(30 * DAY_S),
    messages_per_subject_max: None,
    note: "Dead letters are stored once a task: expected last subject sequence 0.",
};

pub(super) const ADVISORIES: Stream = Stream {
    name: subject::STREAM_ADVISORIES,
    retention: "limits",
    discard: "old",
    max_age_s: Some(30 * DAY_S),
    messages_per_subject_max: None,
    note: "Captures what the server tells over core NATS, so that no task is given up unseen.",
};

impl Storage {
    /// The `x-jetstream` extension.
    pub(super) fn document(&self) -> Value {
        match self {
            Self::Core => json!({ "stream": null, "note": "Core NATS: never stored." }),
            Self::Bucket(bucket, note) => {
                json!({ "stream": format!("KV_{bucket}"), "bucket": bucket, "history": 1, "note": note })
            }
            Self::Stream(stream, reader) => json!({
                "stream": stream.name,
                "retention": stream.retention,
                "discard": stream.discard,
                "max_age_s": stream.max_age_s,
                "messages_per_subject_max": stream.messages_per_subject_max,
                "duplicate_window_s": DUPLICATE_WINDOW_S,
                "note": stream.note,
                "consumer": reader.document(),
            }),
        }
    }
}

impl Reader {
    fn document(self) -> Value {
        let queue = QueueName::new("pictures").expect("a valid name");
        let place = |kind| Lane { kind, queue: queue.clone(), priority: Priority::High, fit: Fit::default() };
        match self {
            Self::Nobody => Value::Null,
            Self::Subscribers => json!({
                "kind": "pull, durable or ephemeral, one a subscriber",
                "ack": "explicit",
                "filter": "this channel's subjects, or those of one type",
            }),
            Self::Lane(kind) => json!({
                "kind": "pull, durable, shared by all executors of the lane (a consumer group)",
                "name_example": place(kind).consumer(),
                "ack": "explicit",
                "ack_wait_s": 10,
                "in_progress_every_s": 3,
                "max_deliver": match kind { LaneKind::Bundle => 110, LaneKind::Plain => 5 },
                "filter": "one subject of this channel",
            }),
            Self::Flow(sample) => {
                let shard = Shard::new(8).expect("a valid shard");
                let flow = match sample {
                    Sample::Raw => Flow::Raw(TaskType::new("image.thumbnail").expect("a valid name")),
                    Sample::Task => Flow::Task(queue, Priority::High, shard),
                    Sample::Due => Flow::Due(queue, Priority::High, shard),
                };
                json!({
                    "kind": "pull, durable, the queue's leader alone",
                    "name_example": flow.consumer(42),
                    "ack": "explicit",
                    "ack_wait_s": 5,
                    "in_progress_every_s": 1.5,
                    "max_deliver": -1,
                    "max_ack_pending": 2048,
                    "filter": "one subject of this channel",
                })
            }
        }
    }
}
