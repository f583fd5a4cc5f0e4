//! The task event: a unit of work with everything that rides along.

use crate::claim::UNIQUE_FOR_MS_MAX;
use crate::id::{TaskId, TaskRef};
use crate::limits::{
    BAGGAGE_BYTES_MAX, BAGGAGE_MEMBERS_MAX, CALLBACKS_MAX, CHECKPOINT_BYTES_MAX, HEADER_BYTES_MAX, HEADERS_MAX,
    NAME_BYTES_MAX, RETRIES_MAX, TIMEOUT_MS_MAX,
};
use crate::needs::Needs;
use crate::options::{Admit, Micros, PayloadCodec, Priority, Shard};
use crate::token::{Fit, QueueName, TaskType, Tenant};
use crate::{header, subject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a task's message is stored on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// Its submission, in TASKS.
    Intake,
    /// A run that was dispatched, in LANES.
    Lane,
    /// A run that is due later or goes back into line, in TIME.
    Due,
}

impl Hop {
    /// Its word in message ids.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Intake => "task",
            Self::Lane => "lane",
            Self::Due => "due",
        }
    }
}

/// A task as the dispatcher, the executors and the dead letters know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskEvent {
    /// Made by whoever submits it, before the first publish.
    pub id: TaskId,
    /// What it is: names the handler.
    pub task_type: TaskType,
    /// The pool of executors.
    pub queue: QueueName,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
    /// Where it stands in line.
    #[serde(default)]
    pub shard: Shard,
    /// Which executors can take it at all.
    #[serde(default)]
    pub fit: Fit,
    /// Its fairness key; empty means shared.
    #[serde(default)]
    pub tenant: Tenant,
    /// The submitter's idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How long the key stays taken after the task has ended, in milliseconds. Known at the intake alone: from there on
    /// it stands in the claim.
    #[serde(skip)]
    pub unique_for_ms: Option<u64>,
    /// Groups tasks for estimates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_key: Option<String>,
    /// What it needs of an executor.
    #[serde(default, skip_serializing_if = "Needs::is_none")]
    pub needs: Needs,
    /// The submitter's estimate of its run time, in microseconds: a prior for the learned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_us: Option<u64>,
    /// What is left to do of it, in microseconds, as the run that yielded told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_us: Option<u64>,
    /// How often it has yielded.
    #[serde(default)]
    pub yields: u32,
    /// Whether it is refused when it cannot meet its deadline.
    #[serde(default)]
    pub admit: Admit,
    /// How the body is written.
    #[serde(default)]
    pub codec: PayloadCodec,
    /// When the submitter made it, or the broker stored it.
    pub submitted_at: Micros,
    /// When it becomes due, for a delayed task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Micros>,
    /// Until when it must have started; past it, it completes as `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Micros>,
    /// Retries after the first attempt; the type's announcement decides where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// How long one attempt may run, in milliseconds; the type's announcement decides where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The number of this hand-over: grows with every retry, yield and hand-back. The first is 1.
    pub run: u32,
    /// Attempts spent before this run.
    #[serde(default)]
    pub attempts: u32,
    /// Whether it may have run already, so that DONE is read before it runs.
    #[serde(default)]
    pub suspect: bool,
    /// The trace that it belongs to.
    #[serde(default)]
    pub trace: TraceContext,
    /// The task whose completion caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// What its completion triggers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callbacks: Vec<Callback>,
    /// Headers for the handler.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Bytes that an earlier run saved, so that this one resumes.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::base64_text::optional")]
    #[schemars(with = "Option<String>", extend("contentEncoding" = "base64"))]
    pub checkpoint: Option<Vec<u8>>,
    /// The body, as the publisher sent it.
    #[serde(with = "crate::base64_text")]
    #[schemars(with = "String", extend("contentEncoding" = "base64"))]
    pub payload: Vec<u8>,
}

/// W3C trace context as it stands in headers; empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TraceContext {
    /// `00-<trace id>-<span id>-<flags>`.
    #[serde(default)]
    pub traceparent: String,
    /// The vendors' part.
    #[serde(default)]
    pub tracestate: String,
}

impl TraceContext {
    /// Reads the context from headers. A malformed `traceparent` counts as none (W3C Trace Context, 3.2.2.5).
    pub fn from_headers(headers: &crate::Headers) -> Self {
        match headers.get(header::TRACEPARENT).and_then(read_traceparent) {
            Some(traceparent) => Self {
                traceparent,
                // Printable ASCII (3.3.1.3.2); what is not could not be sent on as a header.
                tracestate: headers
                    .get(header::TRACESTATE)
                    .filter(|state| state.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\t'))
                    .map(shorten_tracestate)
                    .unwrap_or_default(),
            },
            None => Self::default(),
        }
    }

    /// Whether there is no context.
    pub fn is_empty(&self) -> bool {
        self.traceparent.is_empty()
    }

    /// The trace's id, 32 hex digits.
    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.get(3..35)
    }
}

/// The longest `tracestate` that is carried, in bytes: what W3C Trace Context asks of everybody (3.3.1.5).
const TRACESTATE_BYTES_MAX: usize = 512;
/// The most entries of a `tracestate` (3.3.1.1).
const TRACESTATE_ENTRIES_MAX: usize = 32;
/// Of a `tracestate` that is too long, entries longer than this go first (3.3.1.5).
const TRACESTATE_ENTRY_BYTES_MAX: usize = 128;

/// Drops whole entries of a `tracestate` that is too long: the very long ones, then from the end.
fn shorten_tracestate(state: &str) -> String {
    let is_short = |entries: &[&str]| {
        entries.len() <= TRACESTATE_ENTRIES_MAX
            && entries.iter().map(|entry| entry.len() + 1).sum::<usize>() <= TRACESTATE_BYTES_MAX + 1
    };
    let mut entries: Vec<&str> = state.split(',').collect();
    if !is_short(&entries) {
        entries.retain(|entry| entry.trim().len() <= TRACESTATE_ENTRY_BYTES_MAX);
    }
    while !is_short(&entries) {
        entries.pop();
    }
    entries.join(",")
}

/// Reads a `traceparent`. One of a later version is read as far as this version knows it, and goes on as such (3.2.4).
fn read_traceparent(text: &str) -> Option<String> {
    if is_traceparent(text) && text.starts_with("00") {
        return Some(text.to_owned());
    }
    let (known, rest) = (text.get(..TRACEPARENT_BYTES)?, text.get(TRACEPARENT_BYTES..)?);
    let is_later = is_traceparent(known) && !known.starts_with("00") && (rest.is_empty() || rest.starts_with('-'));
    let flags = u8::from_str_radix(known.get(FLAGS_AT..)?, 16).ok()? & FLAGS_KNOWN;
    is_later.then(|| format!("00{}{flags:02x}", &known[2..FLAGS_AT]))
}

/// The length of a `traceparent` of version 00, where its flags stand, and those of them that are known: sampled,
/// and random.
const TRACEPARENT_BYTES: usize = 55;
const FLAGS_AT: usize = 53;
const FLAGS_KNOWN: u8 = 0x03;

fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    parts.len() == 4
        && hex(parts[0], 2)
        && parts[0] != "ff"
        && hex(parts[1], 32)
        && !zero(parts[1])
        && hex(parts[2], 16)
        && !zero(parts[2])
        && hex(parts[3], 2)
}

/// What a completion triggers outside the process that submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Callback {
    /// A named endpoint of the callback service's configuration; a URL only where that allows it.
    Webhook {
        /// The endpoint's name, or a URL.
        endpoint: String,
    },
    /// A NATS subject that receives the completion's headers and body.
    Subject {
        /// The subject: literal, not one of Jetlane's own and not the server's.
        subject: String,
    },
    /// A follow-up task that receives the output as its body. Only after success.
    Task {
        /// Its type.
        task_type: TaskType,
        /// Its priority; the parent's where none is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priority: Option<Priority>,
        /// What its own completion triggers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        callbacks: Vec<Callback>,
    },
}

/// An option out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} {reason}")]
pub struct InvalidOption {
    /// The option.
    pub option: &'static str,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

fn invalid(option: &'static str, reason: impl Into<String>) -> InvalidOption {
    InvalidOption { option, reason: reason.into() }
}

impl TaskEvent {
    /// A first run with every option at its default.
    pub fn new(id: TaskId, task_type: TaskType, queue: QueueName, submitted_at: Micros, payload: Vec<u8>) -> Self {
        Self {
            id,
            task_type,
            queue,
            priority: Priority::default(),
            shard: Shard::default(),
            fit: Fit::default(),
            tenant: Tenant::default(),
            key: None,
            unique_for_ms: None,
            size_key: None,
            needs: Needs::default(),
            estimate_us: None,
            remaining_us: None,
            yields: 0,
            admit: Admit::default(),
            codec: PayloadCodec::default(),
            submitted_at,
            due_at: None,
            deadline: None,
            retries: None,
            timeout_ms: None,
            run: 1,
            attempts: 0,
            suspect: false,
            trace: TraceContext::default(),
            parent: None,
            callbacks: Vec::new(),
            headers: Vec::new(),
            checkpoint: None,
            payload,
        }
    }

    /// Where this task goes when it is handed back or due.
    pub fn due_subject(&self) -> String {
        subject::due(&self.queue, self.priority, self.shard)
    }

    /// Returns the identity of the task: its type and id.
    pub fn identity(&self) -> TaskRef {
        TaskRef { task_type: self.task_type.clone(), id: self.id.clone() }
    }

    /// The message id of this run at one hop: names the exact content (design, decision 5).
    ///
    /// Behind the intake it names the submission as well, by its time: a task that is submitted again under its own
    /// id once its completion is forgotten must not be taken for the earlier one, whose messages the streams' windows
    /// for duplicates may still remember. At the intake that is what they are for.
    pub fn message_id(&self, hop: Hop) -> String {
        let (Self { task_type, id, run, .. }, name) = (self, hop.name());
        match hop {
            Hop::Intake => format!("{task_type}.{id}:{name}:{run}"),
            Hop::Lane | Hop::Due => format!("{task_type}.{id}:{name}:{run}:{:x}", self.submitted_at.0),
        }
    }

    /// Adds a header for the handler. Baggage is one, however often it is given: the members that fit its bounds.
    pub fn push_header(&mut self, name: String, value: String) {
        if !name.eq_ignore_ascii_case(header::BAGGAGE) {
            return self.headers.push((name, value));
        }
        let known = self.headers.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(header::BAGGAGE));
        match known {
            Some((_, members)) => *members = join_baggage([members.as_str(), &value]),
            None => self.headers.push((name, join_baggage([value.as_str()]))),
        }
    }

    /// Checks every option against its range. `payload_bytes_max` is the limit on the body.
    pub fn check(&self, payload_bytes_max: usize) -> Result<(), InvalidOption> {
        if self.payload.len() > payload_bytes_max {
            return Err(invalid(
                "payload",
                format!(
                    "has {} bytes, the limit is {payload_bytes_max}: store it elsewhere and send its place",
                    self.payload.len()
                ),
            ));
        }
        if self.retries.is_some_and(|retries| retries > RETRIES_MAX) {
            return Err(invalid("retries", format!("must be at most {RETRIES_MAX}")));
        }
        if self.timeout_ms.is_some_and(|ms| ms == 0 || ms > TIMEOUT_MS_MAX) {
            return Err(invalid("timeout", format!("must be 1 to {TIMEOUT_MS_MAX} ms")));
        }
        for (option, text) in [("key", &self.key), ("size_key", &self.size_key)] {
            if text.as_ref().is_some_and(|text| !is_key(text)) {
                return Err(invalid(option, format!("must be 1 to {NAME_BYTES_MAX} bytes without control characters")));
            }
        }
        if self.unique_for_ms.is_some_and(|ms| ms > UNIQUE_FOR_MS_MAX) {
            return Err(invalid("unique_for", format!("must be at most {UNIQUE_FOR_MS_MAX} ms")));
        }
        if self.checkpoint.as_ref().is_some_and(|bytes| bytes.len() > CHECKPOINT_BYTES_MAX) {
            return Err(invalid("checkpoint", format!("must be at most {CHECKPOINT_BYTES_MAX} bytes")));
        }
        if self.estimate_us.is_some_and(|us| us == 0 || us > TIMEOUT_MS_MAX * 1_000) {
            return Err(invalid("estimate", format!("must be over 0 and at most {TIMEOUT_MS_MAX} ms")));
        }
        self.needs.check()?;
        check_headers(&self.headers)?;
        check_callbacks(&self.callbacks)
    }
}

/// Whether this can be a key: 1 to 256 bytes without control characters.
pub(crate) fn is_key(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control)
}

/// The members of baggage, of one header or several, as one value: whole ones, from the first, as far as they fit.
fn join_baggage<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let members = values.into_iter().flat_map(|value| value.split(',')).map(str::trim);
    let (mut joined, mut count) = (String::new(), 0);
    for member in members.filter(|member| !member.is_empty()) {
        let comma = usize::from(!joined.is_empty());
        if count == BAGGAGE_MEMBERS_MAX || joined.len() + comma + member.len() > BAGGAGE_BYTES_MAX {
            break;
        }
        joined.push_str(&","[..comma]);
        joined.push_str(member);
        count += 1;
    }
    joined
}

fn check_headers(headers: &[(String, String)]) -> Result<(), InvalidOption> {
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > HEADERS_MAX || bytes > HEADER_BYTES_MAX {
        return Err(invalid("headers", format!("must be at most {HEADERS_MAX} of {HEADER_BYTES_MAX} bytes together")));
    }
    for (name, value) in headers {
        if !header::is_well_formed(name, value) || !header::is_users(name) {
            return Err(invalid(
                "headers",
                format!(
                    "has {:?}: not a printable name, a control character, or a word of the protocol",
                    name.chars().take(80).collect::<String>()
                ),
            ));
        }
    }
    Ok(())
}

/// Checks the number of callbacks, their depth and their targets.
pub fn check_callbacks(callbacks: &[Callback]) -> Result<(), InvalidOption> {
    let mut count = 0;
    let mut open: Vec<&Callback> = callbacks.iter().collect();
    while let Some(callback) = open.pop() {
        count += 1;
        if count > CALLBACKS_MAX {
            return Err(invalid("callbacks", format!("must be at most {CALLBACKS_MAX}, those of follow-ups included")));
        }
        match callback {
            Callback::Webhook { endpoint } if endpoint.is_empty() || endpoint.len() > 2048 => {
                return Err(invalid("callbacks", "has a webhook endpoint that is empty or over 2048 bytes"));
            }
            Callback::Webhook { .. } => {}
            Callback::Subject { subject } => check_target(subject)?,
            Callback::Task { callbacks, .. } => open.extend(callbacks),
        }
    }
    Ok(())
}

fn check_target(target: &str) -> Result<(), InvalidOption> {
    let token_ok =
        |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>');
    let first = target.split('.').next().unwrap_or_default();
    if target.len() > 256 || !target.split('.').all(token_ok) {
        return Err(invalid(
            "callbacks",
            format!(
                "has the subject {:?}: must be literal and at most 256 bytes",
                target.chars().take(80).collect::<String>()
            ),
        ));
    }
    // A callback is no back door into the pipeline or the server's API.
    if first.starts_with('$') || first.starts_with("_INBOX") || first == "jetlane" {
        return Err(invalid(
            "callbacks",
            format!("has the subject {target:?}: jetlane.*, _INBOX.* and $* are not yours to publish to"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
