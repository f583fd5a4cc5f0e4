//! Publish and wait for the ack. A publish that got no answer is unknown, not failed: the same
//! bytes go out again under the same id, which the stream deduplicates (design, decision 5).

use crate::connection::{Bus, headers_into};
use crate::error::{Error, Source};
use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use bytes::Bytes;
use jetlane_schemas::{Headers, header};

/// How often the same bytes are sent before the outcome is given up as unknown. With the answer
/// time-out of 5 s this outlasts an election and a restart, and stays inside the dedup window of 2 min.
const SENDS_MAX: u32 = 16;

/// A message to be stored.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Its subject.
    pub subject: String,
    /// Its headers, without those that the fields below make.
    pub headers: Headers,
    /// Its body.
    pub body: Bytes,
    /// Names the exact content, so that sending again stores nothing twice within the window.
    pub message_id: Option<String>,
    /// What must be true of the subject.
    pub expect: Expect,
}

/// What must be true of a subject for a publish to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// It has no message.
    Absent,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is stored under this sequence.
    Stored(u64),
    /// These very bytes had been stored before, under this sequence.
    Duplicate(u64),
    /// The subject has a message already ([`Expect::Absent`]).
    Taken,
    /// The stream is at its limit and discards new messages.
    Full,
    /// No stream takes the subject.
    NoStream,
}

/// The server's code for a wrong last sequence of a subject.
const WRONG_LAST_SEQUENCE: u64 = 10_071;
/// The server's code for a stream at one of its limits.
const STREAM_FULL: u64 = 10_077;

impl Bus {
    /// Publishes and waits until it is known what became of it.
    ///
    /// # Errors
    /// [`Error::Publish`] when no answer came, however often it was sent; [`Error::Refused`] when
    /// it can never be stored (too large, or refused for another reason than those of [`Published`]).
    pub async fn publish(&self, out: Outgoing) -> Result<Published, Error> {
        let mut sends = 0;
        loop {
            sends += 1;
            let outcome = match self.start(&out).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            let error = match outcome {
                Ok(ack) if ack.duplicate => return Ok(Published::Duplicate(ack.sequence)),
                Ok(ack) => return Ok(Published::Stored(ack.sequence)),
                Err(error) => error,
            };
            match error.kind() {
                PublishErrorKind::WrongLastSequence => return Ok(Published::Taken),
                PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::WrongLastMessageId => {
                    return Err(Error::Refused { subject: out.subject, source: error.into() });
                }
                PublishErrorKind::Other => {
                    if let Some(known) = known_refusal(&error) {
                        return Ok(known);
                    }
                    return Err(Error::Refused { subject: out.subject, source: error.into() });
                }
                PublishErrorKind::StreamNotFound if sends >= 2 => return Ok(Published::NoStream),
                PublishErrorKind::StreamNotFound
                | PublishErrorKind::TimedOut
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::MaxAckPending => {}
            }
            if sends >= SENDS_MAX {
                return Err(Error::Publish { subject: out.subject, attempts: sends, source: error.into() });
            }
            self.pause_before_sending_again(&error).await;
        }
    }

    async fn start(&self, out: &Outgoing) -> Result<PublishAckFuture, async_nats::jetstream::context::PublishError> {
        let headers = wire_headers(out);
        if headers.is_empty() {
            self.jetstream.publish(out.subject.clone(), out.body.clone()).await
        } else {
            self.jetstream.publish_with_headers(out.subject.clone(), headers, out.body.clone()).await
        }
    }

    /// A time-out has waited already; the others would be a hot loop without a pause.
    async fn pause_before_sending_again(&self, error: &async_nats::jetstream::context::PublishError) {
        if error.kind() != PublishErrorKind::TimedOut {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

fn wire_headers(out: &Outgoing) -> HeaderMap {
    let mut headers = headers_into(&out.headers);
    if let Some(id) = &out.message_id {
        headers.insert(header::MSG_ID, id.as_str());
    }
    if out.expect == Expect::Absent {
        headers.insert(header::EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
    }
    headers
}

fn known_refusal(error: &async_nats::jetstream::context::PublishError) -> Option<Published> {
    let source = std::error::Error::source(error)?;
    let code = source.downcast_ref::<async_nats::jetstream::Error>()?.error_code();
    match code_number(code) {
        WRONG_LAST_SEQUENCE => Some(Published::Taken),
        STREAM_FULL => Some(Published::Full),
        _ => None,
    }
}

fn code_number(code: ErrorCode) -> u64 {
    code.0
}

impl Published {
    /// Whether these bytes are in the stream, or were.
    pub fn is_stored(self) -> bool {
        matches!(self, Self::Stored(_) | Self::Duplicate(_))
    }

    /// The error for a caller to whom anything but stored is a fault.
    pub fn or_refused(self, subject: &str) -> Result<u64, Error> {
        let refused = |reason: &str| Error::Refused { subject: subject.to_owned(), source: Source::from(reason) };
        match self {
            Self::Stored(sequence) | Self::Duplicate(sequence) => Ok(sequence),
            Self::Taken => Err(refused("the subject has a message already")),
            Self::Full => Err(refused("the stream is full: let executors catch up, or raise its limit")),
            Self::NoStream => Err(refused("no stream takes the subject: start a Jetlane service once, it makes them")),
        }
    }
}
