//! One variant an operation, with what it was about and what to do next.

/// The library's own sources are many; they are kept as they are.
pub(crate) type Source = Box<dyn std::error::Error + Send + Sync>;

/// What failed on the way to the broker or in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("could not connect to NATS at {url}: is a nats-server running there, and is NATS_URL right?")]
    Connect {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// An address that cannot be read.
    #[error("the NATS address '{url}' is invalid: {reason}; write NATS_URL as nats://host:4222, several with commas")]
    Address {
        /// The address, without its login.
        url: String,
        /// Why.
        reason: String,
    },
    /// Credentials that the server refuses.
    #[error("NATS at {url} refused the credentials: check the user, password or token in NATS_URL, or NATS_CREDS")]
    Denied {
        /// The address, without its login.
        url: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// The credentials file.
    #[error("could not read the credentials file {path}")]
    Credentials {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// A server without what Jetlane needs.
    #[error("nats-server {found} at {url} is too old: Jetlane needs 2.14 or newer, and 2.15.1 is recommended")]
    TooOld {
        /// The address.
        url: String,
        /// Its version.
        found: String,
    },
    /// JetStream does not answer.
    #[error("JetStream does not answer at {url}: start nats-server with -js, or give this account JetStream")]
    NoJetStream {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// A stream or bucket.
    #[error("could not ensure {name}")]
    Ensure {
        /// The stream or bucket.
        name: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// A consumer.
    #[error("could not {operation} the consumer {consumer} of {stream}")]
    Consumer {
        /// `create`, `delete`, `pause`, `list`, `read`.
        operation: &'static str,
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// A publish whose outcome stayed unknown.
    #[error(
        "could not publish to {subject}: no answer after {attempts} attempts; it may have been stored, send the same bytes again under the same id"
    )]
    Publish {
        /// The subject.
        subject: String,
        /// How often it was tried.
        attempts: u32,
        /// The last reason.
        #[source]
        source: Source,
    },
    /// A publish that the client or the server refused.
    #[error("the publish to {subject} was refused")]
    Refused {
        /// The subject.
        subject: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// A message that carried several tasks; each is told.
    #[error("the message to {subject} failed that it shares with others")]
    Bundle {
        /// The subject.
        subject: String,
        /// Why, the same for all.
        #[source]
        source: Source,
    },
    /// A core publish or flush.
    #[error("could not send to {subject}")]
    Send {
        /// The subject.
        subject: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// A subscription.
    #[error("could not subscribe to {subject}")]
    Subscribe {
        /// The subject.
        subject: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// A read of a stored message.
    #[error("could not read {what} from {stream}")]
    Read {
        /// The stream.
        stream: String,
        /// A subject or a sequence.
        what: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// A deletion of stored messages.
    #[error("could not delete {what} from {stream}")]
    Delete {
        /// The stream.
        stream: String,
        /// A subject or a sequence.
        what: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// A key of a bucket.
    #[error("could not {operation} {key} in {bucket}")]
    Kv {
        /// `get`, `put`, `create`, `delete`, `watch`.
        operation: &'static str,
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// The registry has as many types or queues as it takes.
    #[error(
        "the registry is full: it has {count} {what} and takes {most} ({limit}); remove some that are not used: \
         nats kv del {bucket} {keys}"
    )]
    RegistryFull {
        /// `types` or `queues`.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many it takes.
        most: usize,
        /// The name of the limit.
        limit: &'static str,
        /// The bucket.
        bucket: &'static str,
        /// The keys that can be removed to make room.
        keys: &'static str,
    },
    /// Output over the body limit, or a frame that cannot be written.
    #[error("could not write a frame for {subject}")]
    Frame {
        /// The subject.
        subject: String,
        /// Why.
        #[source]
        source: Source,
    },
}
