//! What can go wrong for a submitter, a subscriber or an executor.

use jetlane_bus::clock;
use jetlane_schemas::question::Expectation;
use jetlane_schemas::task::InvalidOption;
use jetlane_schemas::{Completion, InvalidName, Outcome, QueueName, TaskId};
use std::time::Duration;

/// One variant an operation; expected outcomes of a task are in [`Error::Task`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or no server that will do.
    #[error("could not reach the scheduler")]
    Connect(#[source] jetlane_bus::Error),
    /// A name that cannot be part of a subject.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// An option out of range.
    #[error("could not submit: {0}")]
    Option(#[from] InvalidOption),
    /// The task cannot be written.
    #[error("could not write the task {id} as JSON")]
    Encode {
        /// The task.
        id: TaskId,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The task was not stored, or it is not known whether it was. Submit again under the same id.
    #[error("could not submit the task {id}")]
    Submit {
        /// The task.
        id: TaskId,
        /// Why.
        #[source]
        source: jetlane_bus::Error,
    },
    /// The task cannot start by its deadline, and its submitter wants it refused then
    /// ([`Admit::Strict`](crate::Admit)). It was not submitted.
    #[error("the task {id} was not submitted: {}", too_late(.expected))]
    TooLate {
        /// The task.
        id: TaskId,
        /// When it would have run.
        expected: Box<Expectation>,
    },
    /// Nobody leads the queue: no dispatcher runs, or none that serves it.
    #[error("nobody answered for the queue {queue} within {} ms: is a dispatcher running?", .waited.as_millis())]
    Unanswered {
        /// The queue.
        queue: QueueName,
        /// How long was waited.
        waited: Duration,
    },
    /// The leader of a queue could not be asked.
    #[error("could not ask the leader of the queue {queue}")]
    Ask {
        /// The queue.
        queue: QueueName,
        /// Why.
        #[source]
        source: jetlane_bus::Error,
    },
    /// The leader of a queue refused a question, or its answer cannot be read.
    #[error("the answer of the leader of the queue {queue} is of no use: {reason}")]
    Answer {
        /// The queue.
        queue: QueueName,
        /// What is wrong.
        reason: String,
    },
    /// The task ended otherwise than by success.
    #[error("the task {} {}: {}", .0.id, .0.outcome, .0.failure().unwrap_or_default())]
    Task(Box<Completion>),
    /// The output does not have the type that was asked for.
    #[error("the output of task {id} is not what was expected: {reason}")]
    Output {
        /// The task.
        id: TaskId,
        /// Where and why.
        reason: String,
    },
    /// No outcome within the time that the caller gave.
    #[error("the task {id} has not completed within {waited_ms} ms; it goes on, wait again by its id")]
    Waited {
        /// The task.
        id: TaskId,
        /// How long was waited.
        waited_ms: u128,
    },
    /// The connection was closed for good while waiting.
    #[error("the connection was closed before the task {id} completed; wait again by its id")]
    Closed {
        /// The task.
        id: TaskId,
    },
    /// The outcome could not be read.
    #[error("could not read the outcome of task {id}")]
    Read {
        /// The task.
        id: TaskId,
        /// Why.
        #[source]
        source: jetlane_bus::Error,
    },
    /// A task could not be cancelled.
    #[error("could not cancel the task {id}")]
    Cancel {
        /// The task.
        id: TaskId,
        /// Why.
        #[source]
        source: jetlane_bus::Error,
    },
    /// A subscription to completions.
    #[error("could not subscribe to completions as {name}")]
    Subscribe {
        /// The durable's name, or that of the ephemeral one.
        name: String,
        /// Why.
        #[source]
        source: jetlane_bus::Error,
    },
    /// An announcement.
    #[error("could not announce {what}")]
    Announce {
        /// The type or queue.
        what: String,
        /// Why.
        #[source]
        source: jetlane_bus::Error,
    },
    /// An executor's configuration.
    #[error("the executor of queue {queue} cannot start: {reason}")]
    Executor {
        /// The queue.
        queue: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// An executor's lanes.
    #[error("the executor of queue {queue} cannot use its lanes")]
    Lanes {
        /// The queue.
        queue: String,
        /// Why.
        #[source]
        source: jetlane_bus::Error,
    },
}

fn too_late(expected: &Expectation) -> String {
    match expected.start {
        Some(start) => format!("it would start at {}, after its deadline", clock::rfc3339(start)),
        None => "no executor can take it before its deadline".into(),
    }
}

impl Error {
    /// The outcome, where the task itself ended otherwise than by success.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Task(completion) => Some(completion.outcome),
            _ => None,
        }
    }
}
