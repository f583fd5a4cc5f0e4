//! The completion: the one terminal event of a task, as headers and body.

use crate::header::{self, Headers};
use crate::id::{RunToken, TaskId};
use crate::limits::ERROR_BYTES_MAX;
use crate::options::{Micros, PayloadCodec, Priority};
use crate::task::{Callback, TaskEvent, TraceContext};
use crate::token::{InvalidName, QueueName, TaskType, Tenant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a task ended. Exactly one of these is stored for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The handler returned an output.
    Succeeded,
    /// The handler failed for good, or its attempts were used up.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// It had not started by its deadline.
    Expired,
    /// It was never run: its body or an option was no good.
    Rejected,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 5] = [Self::Succeeded, Self::Failed, Self::Cancelled, Self::Expired, Self::Rejected];

    /// The word that stands in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Outcome {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text).ok_or_else(|| {
            InvalidName::new("outcome", text, "must be succeeded, failed, cancelled, expired or rejected")
        })
    }
}

/// Why a task did not succeed: the body of such a completion.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// A stable word for programs: `handler`, `panic`, `timeout`, `schema`, `json`, `option`, ...
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// Where in the body the fault lies, as a JSON Pointer (RFC 6901).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What caused it, the nearest cause first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
}

impl Failure {
    /// A failure without causes.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), path: None, chain: Vec::new() }
    }

    /// Cuts message and causes to [`ERROR_BYTES_MAX`] together; says whether anything was cut.
    pub fn cut(&mut self) -> bool {
        let mut left = ERROR_BYTES_MAX;
        let mut was_cut = cut_text(&mut self.message, &mut left);
        let before = self.chain.len();
        self.chain.retain_mut(|cause| {
            let keep = left > 0;
            if keep {
                was_cut |= cut_text(cause, &mut left);
            }
            keep
        });
        was_cut | (self.chain.len() < before)
    }
}

/// Cuts at a character's boundary and leaves a visible mark.
fn cut_text(text: &mut String, left: &mut usize) -> bool {
    const MARK: &str = " … (cut)";
    if text.len() <= *left {
        *left -= text.len();
        return false;
    }
    let mut end = left.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(MARK);
    *left = 0;
    true
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if let Some(path) = self.path.as_ref().filter(|path| !path.is_empty()) {
            write!(f, " (at {path})")?;
        }
        self.chain.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

/// The terminal event of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Completion {
    /// The task.
    pub id: TaskId,
    /// Its type.
    pub task_type: TaskType,
    /// Its queue; absent where a client cancelled a task that it knows by id alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// How it ended.
    pub outcome: Outcome,
    /// The attempt that ended it, from 1; 0 where none started.
    #[serde(default)]
    pub attempt: u32,
    /// The run that ended it; 0 where none started.
    #[serde(default)]
    pub run: u32,
    /// The token of that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub token: Option<RunToken>,
    /// Its tenant.
    #[serde(default)]
    pub tenant: Tenant,
    /// Its priority.
    #[serde(default)]
    pub priority: Priority,
    /// When it was submitted.
    #[serde(default)]
    pub submitted_at: Micros,
    /// When it ended.
    #[serde(default)]
    pub finished_at: Micros,
    /// Milliseconds from its submission (or due time) to the start of its last run.
    #[serde(default)]
    pub wait_ms: f64,
    /// Milliseconds that its last run took.
    #[serde(default)]
    pub run_ms: f64,
    /// Whether the task was older than DONE's oldest record, so that it may have completed before.
    #[serde(default)]
    pub late: bool,
    /// Whether output or error was cut to its bound.
    #[serde(default)]
    pub cut: bool,
    /// The task whose completion caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// What this completion triggers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callbacks: Vec<Callback>,
    /// The claim of the task's key, which ends with it. Known to whoever has the task.
    #[serde(skip)]
    pub claim: Option<TaskId>,
    /// The trace to go on with.
    #[serde(default)]
    pub trace: TraceContext,
    /// The task's W3C Baggage, for its follow-ups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baggage: Option<String>,
    /// How `body` is written.
    #[serde(default)]
    pub codec: PayloadCodec,
    /// The output of a success; otherwise a [`Failure`] as JSON.
    #[serde(with = "crate::base64_text")]
    #[schemars(with = "String", extend("contentEncoding" = "base64"))]
    pub body: Vec<u8>,
}

/// A completion that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A header is missing or has no such value.
    #[error("the completion has no valid {0} header")]
    Header(&'static str),
    /// The subject is not that of a completion.
    #[error("{0:?} is not the subject of a completion")]
    Subject(String),
}

impl Completion {
    /// A completion of `task` that says how it ended, with no body yet.
    pub fn of(task: &TaskEvent, outcome: Outcome, finished_at: Micros) -> Self {
        Self {
            id: task.id.clone(),
            task_type: task.task_type.clone(),
            queue: Some(task.queue.clone()),
            outcome,
            attempt: 0,
            run: task.run,
            token: None,
            tenant: task.tenant.clone(),
            priority: task.priority,
            submitted_at: task.submitted_at,
            finished_at,
            wait_ms: 0.0,
            run_ms: 0.0,
            late: false,
            cut: false,
            parent: task.parent.clone(),
            callbacks: task.callbacks.clone(),
            claim: task.claim(),
            baggage: task
                .headers
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(header::BAGGAGE))
                .map(|(_, value)| value.clone()),
            trace: task.trace.clone(),
            codec: PayloadCodec::Json,
            body: Vec::new(),
        }
    }

    /// The same with a failure as its body, cut to its bound.
    pub fn with_failure(mut self, mut failure: Failure) -> Self {
        self.cut |= failure.cut();
        self.codec = PayloadCodec::Json;
        self.body = serde_json::to_vec(&failure).expect("a failure holds nothing but text");
        self
    }

    /// The same with what only the task tells, where a client cancelled it that knew it by its id alone. `own` is a
    /// completion by whoever has the task. `None` where nothing is missing.
    pub fn filled_from(&self, own: &Self) -> Option<Self> {
        if self.outcome != Outcome::Cancelled || !self.callbacks.is_empty() || own.callbacks.is_empty() {
            return None;
        }
        Some(Self {
            queue: own.queue.clone(),
            tenant: own.tenant.clone(),
            priority: own.priority,
            submitted_at: own.submitted_at,
            parent: own.parent.clone(),
            callbacks: own.callbacks.clone(),
            baggage: own.baggage.clone(),
            trace: own.trace.clone(),
            ..self.clone()
        })
    }

    /// The failure in the body; `None` after a success.
    pub fn failure(&self) -> Option<Failure> {
        if self.outcome == Outcome::Succeeded {
            return None;
        }
        Some(serde_json::from_slice(&self.body).unwrap_or_else(|_| {
            // A plain client may have written anything.
            Failure::new("handler", String::from_utf8_lossy(&self.body).chars().take(2000).collect::<String>())
        }))
    }

    /// The headers of the completion's message: a binary CloudEvent. Without a time it has no `ce-time`.
    pub fn headers(&self, time_rfc3339: &str) -> Headers {
        let mut headers = Headers::new();
        self.write_headers(time_rfc3339, |name, value| headers.push(name, value.to_string()));
        headers
    }

    /// The same, each name once, for whoever keeps headers in another form.
    pub fn write_headers(&self, time_rfc3339: &str, mut put: impl FnMut(&'static str, &dyn fmt::Display)) {
        put(header::CE_SPECVERSION, &"1.0");
        put(header::CE_ID, &self.id);
        match &self.queue {
            Some(queue) => put(header::CE_SOURCE, &format_args!("/jetlane/{queue}")),
            None => put(header::CE_SOURCE, &"/jetlane"),
        }
        put(header::CE_TYPE, &"jetlane.completion");
        if !time_rfc3339.is_empty() {
            put(header::CE_TIME, &time_rfc3339);
        }
        put(header::OUTCOME, &self.outcome.as_str());
        let (submitted, finished) = (self.submitted_at.0, self.finished_at.0);
        put(header::TIMES, &format_args!("{submitted} {finished} {:.3} {:.3}", self.wait_ms, self.run_ms));
        put(header::ATTEMPT, &self.attempt);
        if self.run != 1 {
            put(header::RUN, &self.run);
        }
        if let Some(token) = self.token {
            put(header::TOKEN, &token);
        }
        if self.codec != PayloadCodec::Json {
            put(header::CE_DATACONTENTTYPE, &self.codec.media_type());
        }
        if !self.tenant.is_shared() {
            put(header::TENANT, &crate::intake::percent_encode(self.tenant.as_str()));
        }
        if self.priority != Priority::Normal {
            put(header::PRIORITY, &self.priority.as_str());
        }
        for (name, set) in [(header::LATE, self.late), (header::CUT, self.cut)] {
            if set {
                put(name, &"true");
            }
        }
        if let Some(parent) = &self.parent {
            put(header::PARENT, parent);
        }
        if !self.callbacks.is_empty() {
            let json = serde_json::to_string(&self.callbacks).expect("callbacks hold nothing but text");
            put(header::CALLBACKS, &crate::intake::percent_encode(&json));
        }
        // For the follow-ups, and nobody else.
        if let Some(baggage) = self.baggage.as_ref().filter(|_| !self.callbacks.is_empty()) {
            put(header::BAGGAGE, baggage);
        }
        if !self.trace.is_empty() {
            put(header::TRACEPARENT, &self.trace.traceparent);
            if !self.trace.tracestate.is_empty() {
                put(header::TRACESTATE, &self.trace.tracestate);
            }
        }
    }

    /// Reads a completion from its message. Only subject and outcome are required, so that a plain
    /// client completes a task with one header.
    pub fn from_message(subject: &str, headers: &Headers, body: &[u8]) -> Result<Self, Unreadable> {
        let (task_type, id) = crate::subject::parse_done(subject)
            .ok_or_else(|| Unreadable::Subject(subject.chars().take(200).collect()))?;
        let outcome = headers
            .get(header::OUTCOME)
            .and_then(|text| text.parse().ok())
            .ok_or(Unreadable::Header(header::OUTCOME))?;
        let number =
            |name| headers.get(name).and_then(|text| text.parse::<f64>().ok()).filter(|n| n.is_finite()).unwrap_or(0.0);
        let text = |name| headers.get(name).map(crate::intake::percent_decode);
        let queue = headers
            .get(header::CE_SOURCE)
            .and_then(|source| source.strip_prefix("/jetlane/"))
            .or_else(|| headers.get(header::QUEUE))
            .and_then(|queue| QueueName::new(queue).ok());
        let Times { submitted_at, finished_at, wait_ms, run_ms } =
            headers.get(header::TIMES).and_then(times).unwrap_or_else(|| {
                let submitted_at: u64 = headers.get(header::SUBMITTED_US).and_then(|t| t.parse().ok()).unwrap_or(0);
                let (wait_ms, run_ms) = (number(header::WAIT_MS), number(header::RUN_MS));
                // Saturating, since the headers may be anyone's.
                let finished_at = Micros(submitted_at.saturating_add(((wait_ms + run_ms) * 1_000.0) as u64));
                Times { submitted_at: Micros(submitted_at), finished_at, wait_ms, run_ms }
            });
        let run = match headers.get(header::RUN) {
            Some(_) => number(header::RUN) as u32,
            None => u32::from(headers.get(header::TIMES).is_some()),
        };
        Ok(Self {
            id,
            task_type,
            queue,
            outcome,
            attempt: number(header::ATTEMPT) as u32,
            run,
            token: headers.get(header::TOKEN).and_then(|text| text.parse().ok()),
            tenant: text(header::TENANT).and_then(|t| Tenant::new(t).ok()).unwrap_or_default(),
            priority: headers.get(header::PRIORITY).and_then(|t| t.parse().ok()).unwrap_or_default(),
            submitted_at,
            finished_at,
            wait_ms,
            run_ms,
            late: headers.get(header::LATE) == Some("true"),
            cut: headers.get(header::CUT) == Some("true"),
            parent: headers.get(header::PARENT).and_then(|t| TaskId::new(t).ok()),
            claim: None,
            baggage: headers.get(header::BAGGAGE).map(str::to_owned),
            callbacks: text(header::CALLBACKS).and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default(),
            trace: TraceContext::from_headers(headers),
            codec: headers.get(header::CE_DATACONTENTTYPE).and_then(PayloadCodec::from_media_type).unwrap_or_default(),
            body: body.to_vec(),
        })
    }
}

struct Times {
    submitted_at: Micros,
    finished_at: Micros,
    wait_ms: f64,
    run_ms: f64,
}

/// Reads [`header::TIMES`].
fn times(text: &str) -> Option<Times> {
    let mut parts = text.split(' ');
    let submitted_at = Micros(parts.next()?.parse().ok()?);
    let finished_at = Micros(parts.next()?.parse().ok()?);
    let mut ms = || parts.next()?.parse::<f64>().ok().filter(|ms| ms.is_finite());
    Some(Times { submitted_at, finished_at, wait_ms: ms()?, run_ms: ms()? })
}

#[cfg(test)]
mod tests;
