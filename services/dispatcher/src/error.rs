//! One variant an operation.

use jetlane_schemas::QueueName;

/// Why the dispatcher, or its lead of a queue, ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker could not be reached at start.
    #[error("could not connect")]
    Connect(#[source] jetlane_bus::Error),
    /// The streams and buckets are missing and could not be made.
    #[error("could not prepare the streams")]
    Prepare(#[source] jetlane_bus::Error),
    /// A bucket could not be watched.
    #[error("could not watch {bucket}")]
    Watch {
        /// The bucket.
        bucket: &'static str,
        /// Why.
        #[source]
        source: jetlane_bus::Error,
    },
    /// The lead of a queue could not be asked for.
    #[error("could not ask for the lead of queue {queue}")]
    Lead {
        /// The queue.
        queue: QueueName,
        /// Why.
        #[source]
        source: jetlane_bus::Error,
    },
    /// A queue was led, but its lanes, flows or executors could not be reached.
    #[error("could not take over queue {queue}")]
    TakeOver {
        /// The queue.
        queue: QueueName,
        /// Why.
        #[source]
        source: jetlane_bus::Error,
    },
    /// The connection to the broker is closed for good.
    #[error("the connection to NATS is closed")]
    Closed,
}
