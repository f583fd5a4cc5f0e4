//! Publish and wait for the ack. A publish that got no answer is unknown, not failed: the same
//! bytes go out again under the same id, which the stream deduplicates (design, decision 5).

use crate::acks::{Answer, Sending};
use crate::block::Block;
use crate::connection::Bus;
use crate::error::{Error, Source};
use async_nats::client::PublishErrorKind;
use bytes::Bytes;
use jetlane_schemas::{Headers, header};
use std::time::Duration;

/// How often the same bytes are sent before the outcome is given up as unknown. With the answer
/// time-out of 5 s this outlasts an election and a restart, and stays inside the dedup window of 2 min.
const SENDS_MAX: u32 = 16;

/// Publishes that wait for their acks together: so many fit into a connection's room several times.
const BATCH_MAX: usize = 256;
/// The pause before sending again what no stream took.
const SEND_AGAIN_PAUSE: Duration = Duration::from_millis(100);

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
        let mut published = self.publish_all(vec![out]).await;
        published.pop().expect("one answer a publish")
    }

    /// Publishes all of these at once, and waits until it is known what became of each; the answers have
    /// the order of the publishes.
    pub async fn publish_all(&self, outs: Vec<Outgoing>) -> Vec<Result<Published, Error>> {
        let mut known: Vec<Option<Result<Published, Error>>> = outs.iter().map(|_| None).collect();
        let mut left: Vec<usize> = (0..outs.len()).collect();
        let mut sends = 0;
        while !left.is_empty() {
            sends += 1;
            let mut answers = self.send_once(&outs, &left).await.into_iter();
            let mut pause = false;
            left.retain(|place| {
                let answer = answers.next().unwrap_or(Answer::Unknown);
                let verdict = verdict(&answer, &outs[*place].subject, sends);
                pause |= matches!(answer, Answer::NoStream);
                let is_open = verdict.is_none();
                known[*place] = verdict;
                is_open
            });
            if pause && !left.is_empty() {
                // A time-out has waited already; this would be a hot loop without a pause.
                tokio::time::sleep(SEND_AGAIN_PAUSE).await;
            }
        }
        known.into_iter().map(|known| known.expect("none is left")).collect()
    }

    /// Sends the acks that wait for a publish.
    pub(crate) async fn settle_waiting(&self) {
        if let Err(error) = self.settling.send(&self.client).await {
            tracing::debug!(%error, "Acks were not sent; what they are of comes again.");
        }
    }

    /// Sends those that are left once; the answers have their order.
    async fn send_once(&self, outs: &[Outgoing], left: &[usize]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(left.len());
        self.settle_waiting().await;
        for batch in left.chunks(BATCH_MAX) {
            let all = batch.iter().map(|place| sending(&outs[*place])).collect();
            match self.acks.publish(&self.client, all).await {
                Ok(said) => answers.extend(said),
                // One of them is at fault: each goes by itself, and is told for itself.
                Err(_) if batch.len() > 1 => {
                    for place in batch {
                        let said = self.acks.publish(&self.client, vec![sending(&outs[*place])]).await;
                        answers.push(said.map_or_else(refused_here, |mut said| said.remove(0)));
                    }
                }
                Err(error) => answers.push(refused_here(error)),
            }
        }
        answers
    }
}

fn verdict(answer: &Answer, subject: &str, sends: u32) -> Option<Result<Published, Error>> {
    let subject = || subject.to_owned();
    match answer {
        Answer::Stored(sequence) => Some(Ok(Published::Stored(*sequence))),
        Answer::Duplicate(sequence) => Some(Ok(Published::Duplicate(*sequence))),
        Answer::Refused(WRONG_LAST_SEQUENCE, _) => Some(Ok(Published::Taken)),
        Answer::Refused(STREAM_FULL, words) if words.contains("per subject") => Some(Ok(Published::Taken)),
        Answer::Refused(STREAM_FULL, _) => Some(Ok(Published::Full)),
        Answer::Refused(code, words) => {
            let source = Source::from(format!("{words} ({code})"));
            Some(Err(Error::Refused { subject: subject(), source }))
        }
        Answer::NoStream if sends >= 2 => Some(Ok(Published::NoStream)),
        Answer::NoStream | Answer::Unknown if sends >= SENDS_MAX => {
            let source = Source::from("the server did not answer");
            Some(Err(Error::Publish { subject: subject(), attempts: sends, source }))
        }
        Answer::NoStream | Answer::Unknown => None,
    }
}

/// What the client itself refuses is refused for good; that its connection is closed leaves it unknown.
#[expect(clippy::needless_pass_by_value, reason = "the form that map_or_else wants")]
fn refused_here(error: async_nats::PublishError) -> Answer {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::InvalidSubject => {
            Answer::Refused(0, error.to_string())
        }
        PublishErrorKind::Send => Answer::Unknown,
    }
}

fn sending(out: &Outgoing) -> Sending {
    let mut headers = Block::of(&out.headers);
    if let Some(id) = &out.message_id {
        headers.put(header::MSG_ID, id);
    }
    if out.expect == Expect::Absent {
        headers.put(header::EXPECTED_LAST_SUBJECT_SEQUENCE, 0);
    }
    Sending { subject: out.subject.as_str().into(), headers: headers.into_map(), body: out.body.clone() }
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
