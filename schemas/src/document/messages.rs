//! Every form of a message: its headers, its body, and the event that both decode to.

use super::headers;
use crate::codec::{MAGIC, PREFIX_BYTES, Wire};
use crate::frame::{Credit, Progress, TOLD_KIND, TOLD_VERSION, Yield, encode_bundle};
use crate::header;
use crate::options::Micros;
use crate::{QueueName, TaskEvent, TaskId, TaskType};
use serde_json::{Value, json};

/// A form of a message.
pub(super) struct Message {
    /// Its name in the document.
    pub(super) name: &'static str,
    title: &'static str,
    text: &'static str,
    headers: &'static [&'static str],
    required: &'static [&'static str],
    body: Body,
    /// The JSON Schema of what headers and body decode to, by name.
    event: Option<&'static str>,
}

enum Body {
    /// Any JSON.
    AnyJson,
    /// JSON of one of our schemas.
    Schema(&'static str),
    /// A CloudEvent as one JSON object.
    CloudEvent,
    /// A frame of tasks.
    Bundle,
    /// A frame of this kind and version.
    Frame(u8, u16),
    /// What the server tells.
    Advisory,
    /// What the server answers to a publish.
    PublishAck,
    /// Nothing.
    Empty,
    /// Known to Jetlane's own processes alone.
    Private,
}

const COMPLETED: &[&str] = &[header::OUTCOME];
const SERVED: &[&str] = &[header::TASK_ID, header::TASK_TYPE, header::QUEUE, header::RUN, header::ATTEMPT];

const fn message(
    name: &'static str,
    title: &'static str,
    text: &'static str,
    headers: &'static [&'static str],
    body: Body,
) -> Message {
    Message { name, title, text, headers, required: &[], body, event: None }
}

impl Message {
    const fn requires(mut self, required: &'static [&'static str]) -> Self {
        self.required = required;
        self
    }

    const fn decodes_to(mut self, event: &'static str) -> Self {
        self.event = Some(event);
        self
    }
}

pub(super) const MESSAGES: &[Message] = &[
    message(
        "submission",
        "A task",
        "The body is the task's, JSON that fits the announced schema of its type. Every header is optional: without \
         any it is a plain message, with ce-* headers a binary CloudEvent. Other headers travel to the handler.",
        headers::SUBMISSION,
        Body::AnyJson,
    )
    .decodes_to("task-event"),
    message(
        "structuredCloudEvent",
        "A task as a structured CloudEvent",
        "Attributes, options and data are members of one JSON object; options are extension attributes under the names \
         of their headers without `ce-`.",
        headers::STRUCTURED,
        Body::CloudEvent,
    )
    .requires(&[header::CONTENT_TYPE])
    .decodes_to("task-event"),
    message("bundle", "1 to 128 tasks", "Tasks with everything that rides along.", headers::FRAMED, Body::Bundle)
        .decodes_to("task-event"),
    message(
        "schedule",
        "A task that waits",
        "A bundle of one task, kept until it fires. A new one of the same subject replaces it.",
        headers::SCHEDULED,
        Body::Bundle,
    )
    .requires(&[header::SCHEDULE, header::SCHEDULE_TARGET])
    .decodes_to("task-event"),
    message("due", "A task that is due", "A bundle of tasks for another run.", headers::DUE, Body::Bundle)
        .decodes_to("task-event"),
    message(
        "plainTask",
        "A task for any client",
        "The body is what the publisher sent. Whoever serves it extends its lease with in-progress acks, publishes the \
         completion with a copy of all ce-jetlane* headers and of the trace context, and acks last.",
        headers::PLAIN,
        Body::AnyJson,
    )
    .requires(SERVED),
    message(
        "output",
        "A task succeeded",
        "A binary CloudEvent whose body is the handler's output.",
        headers::COMPLETION,
        Body::AnyJson,
    )
    .requires(COMPLETED)
    .decodes_to("completion"),
    message(
        "failure",
        "A task failed, expired, was cancelled or rejected",
        "A binary CloudEvent whose body says why. A body of another form, as plain clients may send, is read as the \
         message of a failure with the code `handler`.",
        headers::COMPLETION,
        Body::Schema("failure"),
    )
    .requires(COMPLETED)
    .decodes_to("completion"),
    message(
        "deadLetter",
        "A dead letter",
        "The task, whole, as a bundle of one; the headers are those of its completion, and why it is kept.",
        headers::DEAD_LETTER,
        Body::Bundle,
    )
    .requires(COMPLETED)
    .decodes_to("task-event"),
    message(
        "scheduledCallback",
        "A callback that waits for another delivery",
        "The completion, headers and body, kept until it fires.",
        headers::SCHEDULED_CALLBACK,
        Body::AnyJson,
    )
    .requires(&[header::OUTCOME, header::SCHEDULE, header::SCHEDULE_TARGET])
    .decodes_to("completion"),
    message(
        "callback",
        "A callback that is due",
        "The completion, headers and body, and how many deliveries failed.",
        headers::CALLBACK,
        Body::AnyJson,
    )
    .requires(COMPLETED)
    .decodes_to("completion"),
    message(
        "deadCallback",
        "A callback that was given up",
        "The completion, headers and body, and why.",
        headers::DEAD_CALLBACK,
        Body::AnyJson,
    )
    .requires(&[header::OUTCOME, header::REASON])
    .decodes_to("completion"),
    message("advisory", "A message was given up", "Told by the server.", &[], Body::Advisory),
    message(
        "credit",
        "Room of an executor",
        "Totals, so that a lost message heals with the next.",
        &[],
        Body::Frame(Credit::KIND, Credit::VERSION),
    ),
    message(
        "told",
        "Completions of a type",
        "Those that are stored, without their callbacks.",
        &[],
        Body::Frame(TOLD_KIND, TOLD_VERSION),
    ),
    message(
        "publishAck",
        "The server's answer to a publish",
        "Stored, with its sequence, or refused, with an error.",
        &[],
        Body::PublishAck,
    ),
    message(
        "question",
        "A question",
        "Answered as `answer` in json/answer.schema.json.",
        &[],
        Body::Schema("question"),
    ),
    message(
        "yield",
        "Yield at the next checkpoint",
        "The task and its run.",
        &[],
        Body::Frame(Yield::KIND, Yield::VERSION),
    ),
    message(
        "inquiry",
        "Who runs this task?",
        "Answered as `inquiry-reply` in json/inquiry-reply.schema.json.",
        &[],
        Body::Schema("inquiry"),
    ),
    message("beginMark", "A run begins", "Which run, and whose.", &[], Body::Private),
    message("estimateEntry", "Run times of a type", "By the leader.", &[], Body::Schema("estimate-entry")),
    message("wanted", "Tell your credit now", "The body is empty.", &[], Body::Empty),
    message(
        "progress",
        "Progress of a running task",
        "Percent, a text, and the attempt.",
        &[],
        Body::Frame(Progress::KIND, Progress::VERSION),
    ),
    message(
        "cancel",
        "Stop this task",
        "Best-effort signal to stop; the stored completion is what cancels the task.",
        &[],
        Body::Empty,
    ),
    message("typeEntry", "A task type is announced", "One `kv put` announces it.", &[], Body::Schema("type-entry")),
    message(
        "typeOverride",
        "People have set options of a task type",
        "All members are optional; what is given goes before the announcement.",
        &[],
        Body::Schema("type-override"),
    ),
    message("queueEntry", "A queue is announced", "All members are optional.", &[], Body::Schema("queue-entry")),
    message("shardEntry", "A tenant has a shard of its own", "By the leader.", &[], Body::Schema("shard-entry")),
    message(
        "sharedEntry",
        "A flooded shard was taken out of the hash",
        "By the leader.",
        &[],
        Body::Schema("shared-entry"),
    ),
    message("lease", "Who leads a queue", "Gone a second after its last renewal.", headers::LEASE, Body::Private),
    message("checkpoint", "A task has saved its state", "For a later run of it.", &[], Body::Private),
    message("plainType", "A type is served by clients without an SDK", "Its key says all.", &[], Body::Private),
    message("note", "A task is cancelled", "Dispatchers drop it before dispatch.", &[], Body::Private),
];

impl Message {
    /// The message object.
    pub(super) fn document(&self) -> Value {
        let mut document = json!({
            "name": self.name,
            "title": self.title,
            "description": self.text,
            "contentType": self.body.content_type(),
            "payload": self.body.schema(),
        });
        if !self.headers.is_empty() {
            document["headers"] = headers::object(self.headers, self.required);
        }
        if let Some(event) = self.event {
            document["x-jetlane-event"] = reference(event);
        }
        document
    }
}

impl Body {
    fn content_type(&self) -> &'static str {
        match self {
            Self::AnyJson | Self::Schema(_) | Self::Advisory | Self::PublishAck => "application/json",
            Self::CloudEvent => "application/cloudevents+json",
            Self::Bundle | Self::Frame(..) | Self::Empty | Self::Private => "application/octet-stream",
        }
    }

    fn schema(&self) -> Value {
        match self {
            Self::AnyJson => json!({ "description": "Any JSON." }),
            Self::Schema(name) => reference(name),
            Self::CloudEvent => json!({
                "type": "object",
                "required": ["id", "source", "specversion", "type"],
                "properties": {
                    "id": { "type": "string", "minLength": 1 },
                    "source": { "type": "string", "minLength": 1 },
                    "specversion": { "const": "1.0" },
                    "type": { "type": "string", "minLength": 1 },
                    "data": { "description": "The task's body. `data_base64` is refused." },
                },
                "additionalProperties": true,
            }),
            Self::Bundle => {
                let (kind, version) = bundle_prefix();
                frame(kind, version)
            }
            Self::Frame(kind, version) => frame(*kind, *version),
            Self::Advisory => json!({
                "type": "object",
                "required": ["stream", "consumer", "stream_seq"],
                "properties": {
                    "stream": { "type": "string" },
                    "consumer": { "type": "string" },
                    "stream_seq": { "type": "integer" },
                    "deliveries": { "type": "integer" },
                    "reason": { "type": "string" },
                },
            }),
            Self::PublishAck => json!({
                "type": "object",
                "required": ["stream"],
                "properties": {
                    "stream": { "type": "string" },
                    "seq": { "type": "integer" },
                    "error": {
                        "type": "object",
                        "properties": { "err_code": { "type": "integer" }, "description": { "type": "string" } },
                    },
                },
            }),
            Self::Empty => json!({ "type": "string", "maxLength": 0 }),
            Self::Private => json!({ "description": "For Jetlane's own processes; may change with any version." }),
        }
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("./{}", super::schema_path(name)) })
}

fn frame(kind: u8, version: u16) -> Value {
    json!({
        "type": "string",
        "format": "binary",
        "description": format!(
            "A frame of Jetlane's own processes: '{}', the codec (1 bincode 2, 2 JSON), the version (16 bits, little \
             endian), the kind, then the body: {PREFIX_BYTES} bytes before it. What is unknown is refused.",
            MAGIC.escape_ascii()
        ),
        "x-jetlane-frame": { "kind": kind, "version": version },
    })
}

/// Kind and version as a bundle's own first bytes say them.
fn bundle_prefix() -> (u8, u16) {
    let task = TaskEvent::new(
        TaskId::from_sequence(1),
        TaskType::new("a").expect("a valid name"),
        QueueName::default_queue(),
        Micros(0),
        Vec::new(),
    );
    let frame = encode_bundle(&[task]).expect("a small task is always written");
    (frame[5], u16::from_le_bytes([frame[3], frame[4]]))
}
