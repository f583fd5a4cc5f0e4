//! Every header of the wire, described once; channels say which of them their messages carry.

use crate::header::*;
use crate::{Outcome, Priority};
use serde_json::{Map, Value, json};

/// What a header's text looks like.
enum Form {
    /// Any text; what is outside printable ASCII, and blanks, quotes and `%`, are percent-encoded.
    Text,
    /// Exactly this.
    Constant(&'static str),
    /// A whole number, 0 or more.
    Whole,
    /// A number with decimals.
    Number,
    /// `true`, or the header is absent.
    Flag,
    /// RFC 3339.
    Time,
    /// 16 hex digits.
    Hex,
    /// A task id.
    Id,
    /// One of the priorities.
    Priority,
    /// One of the outcomes.
    Outcome,
    /// W3C Trace Context.
    Traceparent,
}

const ALL: &[(&str, Form, &str)] = &[
    (
        CE_ID,
        Form::Text,
        "A CloudEvent's id. It is the task's where it is 20 to 64 of A-Z, a-z, 0-9, '_' and '-'; otherwise the task's \
         id is `e` and 40 hex digits of SHA-256 over source and id, each after its length in bytes (64 bits, little \
         endian). Without it the id is `s` and the stream sequence of the publish ack.",
    ),
    (CE_SOURCE, Form::Text, "A CloudEvent's source. On a completion `/jetlane/<queue>`."),
    (CE_TYPE, Form::Text, "A CloudEvent's type, free on submission. The task's type is in the subject."),
    (CE_SPECVERSION, Form::Constant("1.0"), "The version of the CloudEvents specification."),
    (CE_TIME, Form::Time, "When it happened."),
    (CE_SUBJECT, Form::Text, "What the event is about. Free on submission."),
    (CE_DATACONTENTTYPE, Form::Text, "The media type of the body: JSON unless the type's announcement says bincode."),
    (CE_PARTITIONKEY, Form::Text, "The CloudEvents extension for ordering keys; the tenant where none is given."),
    (PRIORITY, Form::Priority, "How urgent the task is; `normal` where absent."),
    (TENANT, Form::Text, "The fairness key, at most 256 bytes without control characters; absent means shared."),
    (
        KEY,
        Form::Text,
        "The submitter's idempotency key, 1 to 256 bytes without control characters: one task of a type, tenant and key waits or runs at a time.",
    ),
    (
        UNIQUE_FOR_MS,
        Form::Whole,
        "Milliseconds for which the key stays taken after its task has ended, at most one year; as long as the completion is kept where absent.",
    ),
    (DELAY_MS, Form::Whole, "Milliseconds from storing until the task is due; at most one year."),
    (DEADLINE, Form::Time, "Until when the task must have started; past it, it completes as `expired`."),
    (RETRIES, Form::Whole, "Retries after the first attempt, 0 to 100; the type's announcement decides where absent."),
    (
        TIMEOUT_MS,
        Form::Whole,
        "Milliseconds that one attempt may run, 1 to one day; the type's announcement decides where absent.",
    ),
    (SIZE_KEY, Form::Text, "Groups tasks of a type for estimates, 1 to 256 bytes without control characters."),
    (ESTIMATE_MS, Form::Whole, "The submitter's estimate of the run time in milliseconds, over 0 and at most one day."),
    (
        NEEDS,
        Form::Text,
        "What the task needs of an executor: a JSON object as `needs` in json/task-event.schema.json, percent-encoded.",
    ),
    (ADMIT, Form::Text, "`strict`: refuse the task when it cannot start by its deadline. Otherwise `always`."),
    (
        CALLBACKS,
        Form::Text,
        "What the completion triggers: a JSON array of json/callback.schema.json, percent-encoded. At most 8, those of \
         follow-ups included.",
    ),
    (PARENT, Form::Id, "The task whose completion caused this one."),
    (TASK_ID, Form::Id, "The task's id: the last token of its completion's subject."),
    (TASK_TYPE, Form::Text, "The task's type: the middle of its completion's subject."),
    (QUEUE, Form::Text, "The queue."),
    (RUN, Form::Whole, "The number of the hand-over, from 1: grows with every retry, yield and hand-back."),
    (ATTEMPT, Form::Whole, "The attempt, from 1; 0 on a completion where none started."),
    (OUTCOME, Form::Outcome, "How the task ended: the one header that a completion must have."),
    (TOKEN, Form::Hex, "Drawn by the executor for each run, so that it knows its own completion."),
    (WAIT_MS, Form::Number, "Milliseconds from submission (or due time) to the start of the last run."),
    (RUN_MS, Form::Number, "Milliseconds that the last run took."),
    (SUBMITTED_US, Form::Whole, "When the task was submitted or stored, microseconds since the Unix epoch."),
    (
        TIMES,
        Form::Text,
        "When the task was stored and when it ended, microseconds since the Unix epoch, the milliseconds until its \
         last run started, and those that it took, with blanks between. Where it stands, an absent run is the first. \
         Earlier versions wrote headers of their own.",
    ),
    (LATE, Form::Flag, "The task is older than the oldest completion kept, so it may have completed before."),
    (CUT, Form::Flag, "The output or the error was cut to its bound."),
    (DELIVERY, Form::Whole, "How often the callback was delivered in vain."),
    (REASON, Form::Text, "Why the task failed, or the callback was given up."),
    (TRACEPARENT, Form::Traceparent, "W3C Trace Context; a malformed one counts as none."),
    (BAGGAGE, Form::Text, "W3C Baggage of the task, for its follow-ups."),
    (TRACESTATE, Form::Text, "W3C Trace Context, the vendors' part; cut after 512 characters."),
    (CONTENT_TYPE, Form::Text, "`application/cloudevents+json` marks a structured CloudEvent; otherwise passed over."),
    (MSG_ID, Form::Text, "The server's. Names the exact content; the same id is stored once in the dedup window."),
    (
        EXPECTED_LAST_SUBJECT_SEQUENCE,
        Form::Whole,
        "The server's. `0`: store only where the subject has no message yet (error 10071 otherwise). On a lease, the \
         revision that is renewed.",
    ),
    (SCHEDULE, Form::Text, "The server's. When the message fires: `@at <RFC 3339>`, `@every <duration>` or cron."),
    (SCHEDULE_TARGET, Form::Text, "The server's. The subject it fires to, of the same stream."),
    (TTL, Form::Text, "The server's. How long the message lives: whole seconds or a duration, at least 1 s."),
];

/// What a submission may carry. All of it is optional.
pub(super) const SUBMISSION: &[&str] = &[
    CE_ID,
    CE_SOURCE,
    CE_TYPE,
    CE_SPECVERSION,
    CE_TIME,
    CE_SUBJECT,
    CE_DATACONTENTTYPE,
    CE_PARTITIONKEY,
    PRIORITY,
    TENANT,
    KEY,
    UNIQUE_FOR_MS,
    DELAY_MS,
    DEADLINE,
    RETRIES,
    TIMEOUT_MS,
    SIZE_KEY,
    ESTIMATE_MS,
    NEEDS,
    ADMIT,
    CALLBACKS,
    PARENT,
    TRACEPARENT,
    TRACESTATE,
    MSG_ID,
];

/// What a structured CloudEvent carries beside its body, where everything else stands.
pub(super) const STRUCTURED: &[&str] = &[CONTENT_TYPE, TRACEPARENT, TRACESTATE, MSG_ID];

/// What a message on a plain lane carries.
pub(super) const PLAIN: &[&str] = &[
    TASK_ID,
    TASK_TYPE,
    QUEUE,
    RUN,
    ATTEMPT,
    SUBMITTED_US,
    PRIORITY,
    TENANT,
    DEADLINE,
    TIMEOUT_MS,
    CALLBACKS,
    PARENT,
    CE_DATACONTENTTYPE,
    TRACEPARENT,
    TRACESTATE,
    MSG_ID,
];

/// What a completion carries, stored or told again.
pub(super) const COMPLETION: &[&str] = &[
    CE_SPECVERSION,
    CE_ID,
    CE_SOURCE,
    CE_TYPE,
    CE_TIME,
    CE_DATACONTENTTYPE,
    OUTCOME,
    ATTEMPT,
    RUN,
    TOKEN,
    WAIT_MS,
    RUN_MS,
    SUBMITTED_US,
    TIMES,
    TENANT,
    PRIORITY,
    LATE,
    CUT,
    PARENT,
    CALLBACKS,
    QUEUE,
    TRACEPARENT,
    BAGGAGE,
    TRACESTATE,
    EXPECTED_LAST_SUBJECT_SEQUENCE,
];

/// A completion's headers without the last, which is for storing it, and more.
const fn completion_and<const N: usize>(more: &[&'static str]) -> [&'static str; N] {
    let (completion, _) = COMPLETION.split_at(COMPLETION.len() - 1);
    let mut all = [""; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < completion.len() { completion[at] } else { more[at - completion.len()] };
        at += 1;
    }
    all
}

/// What a callback carries that is due once more.
pub(super) const CALLBACK: &[&str] = &completion_and::<{ COMPLETION.len() + 1 }>(&[DELIVERY, MSG_ID]);

/// What a callback carries that waits for another delivery.
pub(super) const SCHEDULED_CALLBACK: &[&str] =
    &completion_and::<{ COMPLETION.len() + 3 }>(&[DELIVERY, MSG_ID, SCHEDULE, SCHEDULE_TARGET]);

/// What a dead letter carries.
pub(super) const DEAD_LETTER: &[&str] =
    &completion_and::<{ COMPLETION.len() + 1 }>(&[REASON, EXPECTED_LAST_SUBJECT_SEQUENCE]);

/// What a callback carries that was given up.
pub(super) const DEAD_CALLBACK: &[&str] =
    &completion_and::<{ COMPLETION.len() + 2 }>(&[DELIVERY, REASON, EXPECTED_LAST_SUBJECT_SEQUENCE]);

/// What a bundle carries: everything else is in its frame.
pub(super) const FRAMED: &[&str] = &[MSG_ID];

/// What a schedule carries.
pub(super) const SCHEDULED: &[&str] = &[SCHEDULE, SCHEDULE_TARGET, TASK_ID, MSG_ID];

/// What a message in a due subject carries: the id of the task where a schedule brought it.
pub(super) const DUE: &[&str] = &[TASK_ID, MSG_ID];

/// What the record of a lease carries.
pub(super) const LEASE: &[&str] = &[TTL, EXPECTED_LAST_SUBJECT_SEQUENCE];

/// The schemas of all headers, by name.
pub(super) fn schemas() -> Vec<(String, Value)> {
    ALL.iter().map(|(name, form, text)| ((*name).to_owned(), schema(form, text))).collect()
}

/// The schema of a set of headers.
pub(super) fn object(names: &[&str], required: &[&str]) -> Value {
    let properties: Map<_, _> = names
        .iter()
        .map(|name| ((*name).to_owned(), json!({ "$ref": format!("#/components/schemas/{name}") })))
        .collect();
    let mut object = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn schema(form: &Form, text: &str) -> Value {
    let mut schema = json!({ "type": "string", "description": text });
    let pattern = match form {
        Form::Text => None,
        Form::Constant(value) => {
            schema["const"] = json!(value);
            None
        }
        Form::Flag => {
            schema["const"] = json!("true");
            None
        }
        Form::Priority => {
            schema["enum"] = json!(Priority::ALL.map(Priority::as_str));
            None
        }
        Form::Outcome => {
            schema["enum"] = json!(Outcome::ALL.map(Outcome::as_str));
            None
        }
        Form::Time => {
            schema["format"] = json!("date-time");
            None
        }
        Form::Whole => Some(r"^[0-9]+$"),
        Form::Number => Some(r"^[0-9]+(\.[0-9]+)?$"),
        Form::Hex => Some(r"^[0-9a-f]{16}$"),
        Form::Id => Some(r"^[A-Za-z0-9_-]{1,64}$"),
        Form::Traceparent => Some(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"),
    };
    if let Some(pattern) = pattern {
        schema["pattern"] = json!(pattern);
    }
    schema
}
