//! What a task type is, and what a handler can answer.

use jetlane_schemas::{Failure, InvalidName, PayloadCodec, QueueName, TaskType, TypeEntry};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::time::Duration;

/// A task type: a payload with a stable name.
pub trait Task: Serialize + DeserializeOwned + JsonSchema + Send + 'static {
    /// The name on the wire, 1 to 6 tokens such as `image.thumbnail`. A breaking change is a new name.
    const TYPE: &'static str;
    /// What the handler returns.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// How the type's tasks are run, unless a submitter says otherwise.
    fn options() -> TaskOptions {
        TaskOptions::default()
    }
}

/// How a type's tasks are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskOptions {
    /// Retries after the first attempt. Default 3, at most 100.
    pub retries: u32,
    /// How long one attempt may run. Default 10 minutes, at most a day.
    pub timeout: Duration,
    /// The first back-off before a retry; it doubles. Default 1 second.
    pub backoff: Duration,
    /// The longest back-off. Default 5 minutes.
    pub backoff_max: Duration,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self {
            retries: 3,
            timeout: Duration::from_secs(600),
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The name of a task type as a checked value.
///
/// # Errors
/// [`InvalidName`] where `T::TYPE` is no valid name.
pub(crate) fn type_name<T: Task>() -> Result<TaskType, InvalidName> {
    TaskType::new(T::TYPE)
}

/// The announcement of a task type for a queue.
pub(crate) fn entry<T: Task>(queue: &QueueName) -> TypeEntry {
    let options = T::options();
    let schema = schemars::schema_for!(T).to_value();
    TypeEntry {
        queue: queue.clone(),
        schema: Some(schema),
        codec: PayloadCodec::Json,
        retries: options.retries,
        timeout_ms: ms(options.timeout),
        backoff_ms: ms(options.backoff),
        backoff_ms_max: ms(options.backoff_max),
    }
}

/// Why a handler did not succeed. Any error becomes a retryable one by `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskError {
    pub(crate) kind: Kind,
    pub(crate) failure: Failure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Retry { after: Option<Duration> },
    Permanent,
    Cancelled,
    Yielded,
}

impl TaskError {
    /// It may go better later: retried after the type's back-off while attempts are left.
    pub fn retry(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Retry { after: None }, failure: Failure::new("handler", message.to_string()) }
    }

    /// It may go better after this long, whatever the type's back-off.
    pub fn retry_after(after: Duration, message: impl fmt::Display) -> Self {
        Self { kind: Kind::Retry { after: Some(after) }, failure: Failure::new("handler", message.to_string()) }
    }

    /// It will never go better: fails for good. `code` is a stable word for programs.
    pub fn permanent(code: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { kind: Kind::Permanent, failure: Failure::new(code, message.to_string()) }
    }

    /// The handler stopped because it was asked to.
    pub fn cancelled() -> Self {
        Self { kind: Kind::Cancelled, failure: Failure::new("cancelled", "stopped because it was asked to") }
    }

    /// The run stops at a place from which a later one goes on. Made by [`Ctx::yield_point`](crate::Ctx::yield_point)
    /// alone, since a place has to be there.
    pub(crate) fn yielded() -> Self {
        Self { kind: Kind::Yielded, failure: Failure::new("yielded", "stopped at a checkpoint, to go on later") }
    }

    /// Whether this is no failure: the handler yields, and a later run goes on from its checkpoint. For
    /// layers, which otherwise would count it as an error.
    pub fn is_yield(&self) -> bool {
        self.kind == Kind::Yielded
    }

    /// The same with a JSON Pointer to the fault.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>) -> Self {
        self.failure.path = Some(path.into());
        self
    }

    /// What is told in the completion.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    pub(crate) fn with_code(kind: Kind, code: &str, message: impl Into<String>) -> Self {
        Self { kind, failure: Failure::new(code, message) }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

impl<E: std::error::Error> From<E> for TaskError {
    fn from(error: E) -> Self {
        let mut failure = Failure::new("handler", error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            failure.chain.push(cause.to_string());
            source = cause.source();
        }
        Self { kind: Kind::Retry { after: None }, failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_mark_keeps_the_chain_of_causes() {
        fn read() -> Result<(), TaskError> {
            std::fs::read("/nonexistent").map_err(std::io::Error::other)?;
            Ok(())
        }
        let error = read().expect_err("no such file");
        assert_eq!(error.kind, Kind::Retry { after: None });
        assert!(error.failure.message.contains("No such file"));
    }
}
