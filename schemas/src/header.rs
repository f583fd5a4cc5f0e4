//! Every header name on the wire, and the set of headers itself.
//!
//! Names are written in lower case and read in any: CloudEvents calls them case-insensitive, NATS
//! keeps the case (ADR-4). Names that start with `Nats-` belong to the server.

use std::borrow::Cow;

/// A CloudEvent's id.
pub const CE_ID: &str = "ce-id";
/// A CloudEvent's source.
pub const CE_SOURCE: &str = "ce-source";
/// A CloudEvent's type.
pub const CE_TYPE: &str = "ce-type";
/// The version of the CloudEvents specification: `1.0`.
pub const CE_SPECVERSION: &str = "ce-specversion";
/// When it happened, RFC 3339.
pub const CE_TIME: &str = "ce-time";
/// What the event is about: the task's id on a completion.
pub const CE_SUBJECT: &str = "ce-subject";
/// The media type of the body.
pub const CE_DATACONTENTTYPE: &str = "ce-datacontenttype";
/// The standard extension for ordering keys; read as the tenant where none is given.
pub const CE_PARTITIONKEY: &str = "ce-partitionkey";

/// Task: its priority.
pub const PRIORITY: &str = "ce-jetlanepriority";
/// Task: its tenant.
pub const TENANT: &str = "ce-jetlanetenant";
/// Task: the submitter's idempotency key.
pub const KEY: &str = "ce-jetlanekey";
/// How long the key stays taken after its task has ended, in milliseconds.
pub const UNIQUE_FOR_MS: &str = "ce-jetlaneuniquefor";
/// Task: how long it waits before it is due, in milliseconds.
pub const DELAY_MS: &str = "ce-jetlanedelayms";
/// Task: until when it must have started, RFC 3339.
pub const DEADLINE: &str = "ce-jetlanedeadline";
/// Task: how many retries it has after its first attempt.
pub const RETRIES: &str = "ce-jetlaneretries";
/// Task: how long one attempt may run, in milliseconds.
pub const TIMEOUT_MS: &str = "ce-jetlanetimeoutms";
/// Task: what groups it with others for estimates.
pub const SIZE_KEY: &str = "ce-jetlanesizekey";
/// Task: the submitter's estimate of its run time, in milliseconds.
pub const ESTIMATE_MS: &str = "ce-jetlaneestimatems";
/// Task: what it needs of an executor, a JSON object of [`crate::Needs`].
pub const NEEDS: &str = "ce-jetlaneneeds";
/// Task: `strict` where it is to be refused when it cannot meet its deadline.
pub const ADMIT: &str = "ce-jetlaneadmit";
/// Task: its callbacks, a JSON array of [`crate::Callback`].
pub const CALLBACKS: &str = "ce-jetlanecallbacks";
/// Task and completion: the task whose completion caused it.
pub const PARENT: &str = "ce-jetlaneparent";
/// Task on a plain lane, and completion: the task's id.
pub const TASK_ID: &str = "ce-jetlaneid";
/// Task on a plain lane, and completion: the task's type.
pub const TASK_TYPE: &str = "ce-jetlanetype";
/// Task on a plain lane, and completion: the queue.
pub const QUEUE: &str = "ce-jetlanequeue";
/// Task on a plain lane: the number of the run.
pub const RUN: &str = "ce-jetlanerun";
/// Task on a plain lane, and completion: the attempt, from 1.
pub const ATTEMPT: &str = "ce-jetlaneattempt";

/// Completion: `succeeded`, `failed`, `cancelled`, `expired` or `rejected`.
pub const OUTCOME: &str = "ce-jetlaneoutcome";
/// Completion: the token of the run that made it.
pub const TOKEN: &str = "ce-jetlanetoken";
/// Completion: milliseconds from the task's storing to the start of its last run.
pub const WAIT_MS: &str = "ce-jetlanewaitms";
/// Completion: milliseconds that its last run took.
pub const RUN_MS: &str = "ce-jetlanerunms";
/// Completion: when the task was stored, microseconds since the Unix epoch.
pub const SUBMITTED_US: &str = "ce-jetlanesubmittedus";
/// Completion: when the task was stored and when it ended, in microseconds since the Unix epoch, the
/// milliseconds until its last run started, and those that it took, with blanks between them. Where it
/// stands, an absent run is the first.
pub const TIMES: &str = "ce-jetlanetimes";
/// Completion: `true` where the task is older than DONE's oldest record (design, decision 6).
pub const LATE: &str = "ce-jetlanelate";
/// Completion: `true` where the output or the error was cut to its bound.
pub const CUT: &str = "ce-jetlanecut";

/// Callback that is due once more, or was given up: how often it was delivered in vain.
pub const DELIVERY: &str = "ce-jetlanedelivery";
/// Callback that was given up: why.
pub const REASON: &str = "ce-jetlanereason";

/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace context, vendor part.
pub const TRACESTATE: &str = "tracestate";
/// W3C Baggage: what the submitter says about the whole of a trace. Passes from a task to its follow-ups.
pub const BAGGAGE: &str = "baggage";
/// The media type of a structured CloudEvent.
pub const CONTENT_TYPE: &str = "content-type";

/// The server's: deduplicates a publish within the stream's window.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// The server's: refuse unless the subject's last sequence is this.
pub const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// The server's: when a scheduled message fires.
pub const SCHEDULE: &str = "Nats-Schedule";
/// The server's: where a scheduled message fires to.
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
/// The server's: how long a message lives.
pub const TTL: &str = "Nats-TTL";

/// Headers of the server's status messages, which no stream holds.
pub mod status {
    /// On the end of a pull: how many of the messages that it asked for will not come.
    pub const PENDING_MESSAGES: &str = "Nats-Pending-Messages";
}

/// Headers that the server adds where a stored message is read straight from its stream.
pub mod stored {
    /// Its subject.
    pub const SUBJECT: &str = "Nats-Subject";
    /// Its sequence.
    pub const SEQUENCE: &str = "Nats-Sequence";
    /// When it was stored, RFC 3339.
    pub const TIME_STAMP: &str = "Nats-Time-Stamp";
    /// How many messages of the filter stand behind it.
    pub const NUM_PENDING: &str = "Nats-Num-Pending";
}

/// Headers in the order in which they were written. Look-ups pass over case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Name, String)>);

/// The protocol's own names are never copied.
type Name = Cow<'static, str>;

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a header; an earlier one of the same name stays.
    pub fn push(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// The first value under `name`, in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All headers in order, those with names of the protocol's told apart: they need not be copied.
    pub fn pairs(&self) -> impl Iterator<Item = (&Cow<'static, str>, &str)> {
        self.0.iter().map(|(name, value)| (name, value.as_str()))
    }

    /// All headers in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Names and values together, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The pairs themselves.
    pub fn into_pairs(self) -> Vec<(String, String)> {
        self.0.into_iter().map(|(name, value)| (name.into_owned(), value)).collect()
    }
}

impl From<Vec<(String, String)>> for Headers {
    fn from(pairs: Vec<(String, String)>) -> Self {
        pairs.into_iter().collect()
    }
}

impl FromIterator<(String, String)> for Headers {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

/// Whether a task may carry a header of this name for its handler: it is no word of the protocol.
pub fn is_users(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    !(lower.starts_with("nats-")
        || lower.starts_with("ce-")
        || lower == TRACEPARENT
        || lower == TRACESTATE
        || lower == CONTENT_TYPE)
}

/// Whether name and value can travel as a NATS header: no control character, no colon or space in the name.
pub fn is_well_formed(name: &str, value: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
        && !value.chars().any(|c| c.is_control() && c != '\t')
}
