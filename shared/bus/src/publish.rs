//! Publish and wait for the ack. A publish that got no answer is unknown, not failed: the same
//! bytes go out again under the same id, which the stream deduplicates (design, decision 5).

use crate::acks::{Answer, Sending};
use crate::answer::{Fault, fault_of_code};
use crate::block::Block;
use crate::connection::Bus;
use crate::error::{Error, Source};
use async_nats::client::PublishErrorKind;
use async_nats::jetstream::context::GetStreamByNameErrorKind;
use bytes::Bytes;
use jetlane_mutants::mutant;
use jetlane_schemas::{Headers, header};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How long a publish is sent again before its outcome is given up as unknown: an election and a restart of a server
/// are over by then (facts: 4 to 9 s), and what was stored at the start is still in the dedup window of 2 min.
pub const PUBLISH_WITHIN: Duration = Duration::from_secs(90);
/// How long a completion is sent again: work is done and must not be lost to an outage of the broker. Its stream
/// takes one message a subject, so no window bounds it.
pub const COMPLETION_WITHIN: Duration = Duration::from_secs(300);
/// How long nobody answers for a subject before the broker is asked whether a stream takes it at all. A stream
/// without a leader answers nobody either. A connection that has stored something already waits for all of its time:
/// its streams were there, and whoever keeps them makes them anew.
const ABSENT_WITHIN: Duration = Duration::from_secs(3);
/// The pause before the same bytes are sent again: it doubles from the first to the longest, less up to a half by
/// chance, so that publishers do not come back all at once.
const SEND_AGAIN_PAUSE: Duration = Duration::from_millis(50);
const SEND_AGAIN_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Publishes that wait for their acks together: so many fit into a connection's room several times.
const BATCH_MAX: usize = 256;

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
pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10_071;
/// The status of what the client library itself refuses.
const REFUSED_HERE: u64 = 400;
/// The server's code for a stream at one of its limits.
const STREAM_FULL: u64 = 10_077;

impl Bus {
    /// Publishes and waits until it is known what became of it.
    ///
    /// # Errors
    /// [`Error::Publish`] when its outcome stayed unknown for [`PUBLISH_WITHIN`]; [`Error::Refused`] when
    /// it can never be stored (too large, or refused for another reason than those of [`Published`]).
    pub async fn publish(&self, out: Outgoing) -> Result<Published, Error> {
        let mut published = self.publish_all(vec![out]).await;
        published.pop().expect("one answer a publish")
    }

    /// Publishes all of these at once, and waits until it is known what became of each, [`PUBLISH_WITHIN`] at most; the
    /// answers have the order of the publishes.
    pub async fn publish_all(&self, outs: Vec<Outgoing>) -> Vec<Result<Published, Error>> {
        self.publish_all_within(outs, PUBLISH_WITHIN).await
    }

    /// Publishes all of these as [`Bus::publish_all`] does, for as long as `within`. While the connection is lost
    /// nothing is sent.
    pub async fn publish_all_within(&self, outs: Vec<Outgoing>, within: Duration) -> Vec<Result<Published, Error>> {
        let begun = Instant::now();
        let mut known: Vec<Option<Result<Published, Error>>> = outs.iter().map(|_| None).collect();
        let mut left: Vec<usize> = (0..outs.len()).collect();
        let mut sends = 0;
        loop {
            let deadline = begun + within;
            // While the connection is lost the client library would keep what is sent for the next one, however late.
            let mut answers = if self.wait_until_connected(deadline).await {
                sends += 1;
                self.send_once(&outs, &left, deadline).await.into_iter()
            } else {
                Vec::new().into_iter()
            };
            // Why each that is left is left.
            let mut open = Vec::new();
            left.retain(|place| {
                let answer = answers.next().unwrap_or(Answer::Unknown);
                if matches!(answer, Answer::Stored(_) | Answer::Duplicate(_)) {
                    self.stored_once.store(true, Ordering::Relaxed);
                }
                known[*place] = verdict(&answer, &outs[*place].subject);
                let is_open = known[*place].is_none();
                if is_open {
                    open.push(answer);
                }
                is_open
            });
            let absent_within = if self.has_stored() { within } else { ABSENT_WITHIN };
            if begun.elapsed() >= absent_within {
                self.give_up_absent(&outs, &mut left, &mut open, &mut known).await;
            }
            if left.is_empty() {
                break;
            }
            if begun.elapsed() >= within {
                for (place, answer) in left.into_iter().zip(open) {
                    let subject = outs[place].subject.clone();
                    let source = Source::from(why_open(&answer));
                    known[place] = Some(Err(Error::Publish { subject, attempts: sends, source }));
                }
                break;
            }
            tokio::time::sleep(pause_after(sends)).await;
        }
        known.into_iter().map(|known| known.expect("none is left")).collect()
    }

    /// Waits until the connection is up, or until this moment; returns whether it is up.
    async fn wait_until_connected(&self, until: Instant) -> bool {
        let mut connected = self.connected();
        let up = tokio::time::timeout_at(until, connected.wait_for(|connected| *connected)).await;
        // The other end lives as long as the client.
        matches!(up, Ok(Ok(_)))
    }

    /// Ends the publishes for whose subject the broker says that no stream takes it. A stream that has no leader for
    /// a while exists all the same: only whoever keeps the list of streams can tell the two apart.
    async fn give_up_absent(
        &self,
        outs: &[Outgoing],
        left: &mut Vec<usize>,
        open: &mut Vec<Answer>,
        known: &mut [Option<Result<Published, Error>>],
    ) {
        // Streams own whole prefixes: one question a prefix.
        let mut asked: BTreeMap<&str, bool> = BTreeMap::new();
        for (place, answer) in left.iter().zip(open.iter()) {
            let subject = outs[*place].subject.as_str();
            if *answer == Answer::NoStream && !asked.contains_key(prefix_of(subject)) {
                asked.insert(prefix_of(subject), self.is_absent(subject).await);
            }
        }
        let mut answers = std::mem::take(open).into_iter();
        left.retain(|place| {
            let Some(answer) = answers.next() else { return true };
            let is_absent =
                answer == Answer::NoStream && asked.get(prefix_of(&outs[*place].subject)).copied().unwrap_or_default();
            if is_absent {
                known[*place] = Some(Ok(Published::NoStream));
            } else {
                open.push(answer);
            }
            !is_absent
        });
    }

    /// Whether the broker has stored something of this connection's: the streams exist, or did.
    fn has_stored(&self) -> bool {
        self.stored_once.load(Ordering::Relaxed)
    }

    /// Whether the broker says that no stream takes the subject; without an answer it may.
    async fn is_absent(&self, subject: &str) -> bool {
        match self.jetstream.stream_by_subject(subject).await {
            Ok(_) => false,
            Err(error) => matches!(error.kind(), GetStreamByNameErrorKind::NotFound),
        }
    }

    /// Sends the acks that wait for a publish.
    pub(crate) async fn settle_waiting(&self) {
        if let Err(error) = self.settling.send(&self.client).await {
            tracing::debug!(%error, "Acks were not sent; what they are of comes again.");
        }
    }

    /// Sends those that are left once; the answers have their order. What is not sent by the deadline is not answered.
    async fn send_once(&self, outs: &[Outgoing], left: &[usize], deadline: Instant) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(left.len());
        self.settle_waiting().await;
        for batch in left.chunks(BATCH_MAX) {
            if !answers.is_empty() && Instant::now() >= deadline {
                break;
            }
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

/// What is known of a publish by its answer; `None` while the same bytes are to be sent again.
fn verdict(answer: &Answer, subject: &str) -> Option<Result<Published, Error>> {
    match answer {
        Answer::Stored(sequence) => Some(Ok(Published::Stored(*sequence))),
        Answer::Duplicate(sequence) => Some(Ok(Published::Duplicate(*sequence))),
        Answer::Refused(WRONG_LAST_SEQUENCE, _) => Some(Ok(Published::Taken)),
        Answer::Refused(STREAM_FULL, words) if words.contains("per subject") => Some(Ok(Published::Taken)),
        // Transient too, but for the caller to wait out: it says what goes on meanwhile.
        Answer::Refused(STREAM_FULL, _) => Some(Ok(Published::Full)),
        Answer::Refused(code, words) if fault_of_code(*code) == Fault::Final => {
            let source = Source::from(format!("{words} ({code})"));
            Some(Err(Error::Refused { subject: subject.to_owned(), source }))
        }
        Answer::NoStream if mutant!(NoRespondersFinal) => Some(Ok(Published::NoStream)),
        Answer::Refused(..) | Answer::NoStream | Answer::Unknown => None,
    }
}

/// Why a publish is still open.
fn why_open(answer: &Answer) -> String {
    match answer {
        Answer::NoStream => "nobody answers for the subject: its stream has no leader".into(),
        Answer::Refused(code, words) => format!("{words} ({code})"),
        Answer::Unknown | Answer::Stored(_) | Answer::Duplicate(_) => "the server did not answer".into(),
    }
}

/// The pause after so many sends.
fn pause_after(sends: u32) -> Duration {
    let longest =
        SEND_AGAIN_PAUSE.saturating_mul(2_u32.saturating_pow(sends.saturating_sub(1))).min(SEND_AGAIN_PAUSE_MAX);
    let chance = u32::try_from(RandomState::new().hash_one(sends) % 128).unwrap_or(0);
    longest - longest / 2 * chance / 128
}

/// The first two tokens of a subject, by which streams take subjects.
fn prefix_of(subject: &str) -> &str {
    let end = subject.match_indices('.').nth(1).map_or(subject.len(), |(at, _)| at);
    &subject[..end]
}

/// What the client itself refuses is refused for good; that its connection is closed leaves it unknown.
#[expect(clippy::needless_pass_by_value, reason = "the form that map_or_else wants")]
fn refused_here(error: async_nats::PublishError) -> Answer {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::InvalidSubject => {
            Answer::Refused(REFUSED_HERE, error.to_string())
        }
        PublishErrorKind::Send => Answer::Unknown,
    }
}

fn sending(out: &Outgoing) -> Sending {
    let mut headers = Block::of(&out.headers);
    if let Some(id) = out.message_id.as_ref().filter(|_| !mutant!(NoMessageId)) {
        headers.put(header::MSG_ID, id);
    }
    if out.expect == Expect::Absent && !mutant!(NoExpectedSequence) {
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

#[cfg(test)]
mod tests;
