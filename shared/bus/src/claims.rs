//! Claims of keys: one task of a key waits or runs, whoever leads its queue and wherever it entered.
//!
//! The submitter makes the claim, the leader that reads the task holds it for that one message, and whoever stores
//! the completion ends it. Every step compares and swaps, so each may be repeated or be done by two at once.

use crate::acks::{self, Answer};
use crate::answer::{Fault, fault_of_code};
use crate::clock;
use crate::connection::{ANSWER_TIMEOUT, Bus, headers_from};
use crate::error::Error;
use crate::publish::WRONG_LAST_SEQUENCE;
use async_nats::HeaderMap;
use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use jetlane_schemas::claim::{CLAIM_AGE_S, Claim, ClaimState};
use jetlane_schemas::subject::{self, BUCKET_CLAIMS, STREAM_DONE, STREAM_TIME};
use jetlane_schemas::{Completion, Headers, Micros, TaskEvent, TaskId, TaskType, header};
use std::time::Duration;
use tokio::time::Instant;

/// How long a claim is tried to be read or written: an election, and a restart of a server.
const CLAIM_WITHIN: Duration = Duration::from_secs(60);
/// The pause before it is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long the key of an ended task stays taken where completions are kept without a limit.
const UNIQUE_FOR_MAX: Duration = Duration::from_secs(CLAIM_AGE_S);

/// What a submitter has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The key: its task is to be published, under a message id with this revision.
    Fresh {
        /// The claim's revision.
        revision: u64,
        /// The sequence in DONE of the last completion of an earlier task with this id; 0 for none.
        done_sequence: u64,
    },
    /// The key is another submission's, of which it is not known whether it was published: publish under the same
    /// message id.
    Again {
        /// The claim's revision.
        revision: u64,
    },
    /// A task of this key waits, runs or has ended a short time ago.
    Duplicate {
        /// The task.
        id: TaskId,
        /// The sequence of its message in the stream that it was read from; 0 where no leader has read it.
        sequence: u64,
    },
}

/// What a leader is to do with a message of a task that has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It is the task of the key.
    Held,
    /// The key is another message's, or the task has ended: acknowledge it.
    Duplicate,
}

/// How long a key counts as taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// While its task waits or runs.
    UntilItEnds,
    /// And for as long after its end as its submitter chose.
    AndForATime,
}

/// A message of a subject: its sequence, when it was stored, its headers and its body.
struct Last {
    sequence: u64,
    stored_at: Micros,
    headers: Headers,
    body: Bytes,
}

/// A claim as it is stored, with its revision; 0 where there never was one.
struct Stored {
    claim: Option<Claim>,
    revision: u64,
    at: Micros,
}

impl Bus {
    /// Claims the key of a task that is to be submitted; `None` for a task without one.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn claim(&self, task: &TaskEvent) -> Result<Option<Claimed>, Error> {
        self.claim_while(task, Taken::AndForATime).await
    }

    /// The same for a task that is submitted once more by choice: its key is free once its last task has ended,
    /// however long it was to stay taken.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn claim_anew(&self, task: &TaskEvent) -> Result<Option<Claimed>, Error> {
        self.claim_while(task, Taken::UntilItEnds).await
    }

    async fn claim_while(&self, task: &TaskEvent, while_taken: Taken) -> Result<Option<Claimed>, Error> {
        let Some(name) = task.claim() else { return Ok(None) };
        let key = subject::claim(&task.task_type, &name);
        let until = Instant::now() + CLAIM_WITHIN;
        loop {
            let stored = self.read_claim(&key).await?;
            match self.taken(&task.task_type, &stored, while_taken).await? {
                Some(Claim { id, state: ClaimState::Submitted, .. }) if *id == task.id => {
                    if self.last_of(STREAM_TIME, &subject::schedules_of(&task.task_type, id)).await?.is_some() {
                        return Ok(Some(Claimed::Duplicate { id: id.clone(), sequence: 0 }));
                    }
                    return Ok(Some(Claimed::Again { revision: stored.revision }));
                }
                Some(Claim { id, state, .. }) => {
                    let sequence = if let ClaimState::Held { sequence, .. } = state { *sequence } else { 0 };
                    return Ok(Some(Claimed::Duplicate { id: id.clone(), sequence }));
                }
                None => {
                    // The very task once more: what its submitter chose stands in its claim alone.
                    let own = stored.claim.as_ref().filter(|_| while_taken == Taken::UntilItEnds);
                    let unique_for_ms = task.unique_for_ms.or(own.and_then(|claim| claim.unique_for_ms));
                    let submitted = Claim { id: task.id.clone(), unique_for_ms, state: ClaimState::Submitted };
                    let earlier = self.last_of(STREAM_DONE, &subject::done(&task.task_type, &task.id)).await?;
                    let age = claim_age(task);
                    if let Some(revision) = self.write_claim(&key, &submitted, stored.revision, age).await? {
                        let done_sequence = earlier.map_or(0, |earlier| earlier.sequence);
                        return Ok(Some(Claimed::Fresh { revision, done_sequence }));
                    }
                }
            }
            self.pause(until, &key).await?;
        }
    }

    /// Holds the key of a task for the message that a leader has read it from, on its first run.
    ///
    /// A completion of the same task that is older than the message is an earlier task's: it is removed, so that this
    /// one can have its own.
    ///
    /// # Errors
    /// [`Error::Kv`], [`Error::Read`], [`Error::Delete`].
    pub async fn hold_claim(
        &self,
        task: &TaskEvent,
        (stream, sequence): (&str, u64),
        stored_at: Micros,
    ) -> Result<Hold, Error> {
        let Some(name) = task.claim() else { return Ok(Hold::Held) };
        let key = subject::claim(&task.task_type, &name);
        let state = ClaimState::Held { stream: stream.to_owned(), sequence };
        let until = Instant::now() + CLAIM_WITHIN;
        loop {
            let stored = self.read_claim(&key).await?;
            let is_ours = stored.claim.as_ref().is_some_and(|claim| claim.id == task.id && claim.state == state);
            let is_open = is_ours
                || match self.taken(&task.task_type, &stored, Taken::AndForATime).await? {
                    None => true,
                    Some(claim) => claim.id == task.id && claim.state == ClaimState::Submitted,
                };
            if !is_open {
                return Ok(Hold::Duplicate);
            }
            let done = self.last_of(STREAM_DONE, &subject::done(&task.task_type, &task.id)).await?;
            if done.as_ref().is_some_and(|done| done.stored_at > stored_at) {
                // It ended after this message was stored: this message is the task that ended, or a copy of it.
                return Ok(Hold::Duplicate);
            }
            // An earlier task's choice is not this one's.
            let own = stored.claim.as_ref().filter(|claim| !matches!(claim.state, ClaimState::Ended { .. }));
            let unique_for_ms = own.and_then(|claim| claim.unique_for_ms).or(task.unique_for_ms);
            let held = Claim { id: task.id.clone(), unique_for_ms, state: state.clone() };
            if is_ours || self.write_claim(&key, &held, stored.revision, claim_age(task)).await?.is_some() {
                if let Some(earlier) = done {
                    self.purge_done(&task.task_type, &task.id, earlier.sequence).await?;
                }
                return Ok(Hold::Held);
            }
            self.pause(until, &key).await?;
        }
    }

    /// Ends the claim of a task that has completed. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn end_claim(&self, task_type: &TaskType, name: &TaskId, id: &TaskId) -> Result<(), Error> {
        let key = subject::claim(task_type, name);
        let until = Instant::now() + CLAIM_WITHIN;
        loop {
            let stored = self.read_claim(&key).await?;
            let Some(claim) = stored.claim.filter(|claim| claim.id == *id) else { return Ok(()) };
            if matches!(claim.state, ClaimState::Ended { .. }) {
                return Ok(());
            }
            let unique_for = self.unique_for(&claim).await?;
            let state = ClaimState::Ended { until: after(clock::now(), unique_for) };
            if self.write_claim(&key, &Claim { state, ..claim }, stored.revision, unique_for).await?.is_some() {
                return Ok(());
            }
            self.pause(until, &key).await?;
        }
    }

    /// The claim, where the key is taken. A task that has ended while nobody ended its claim is recognised by its
    /// completion.
    async fn taken<'a>(
        &self,
        task_type: &TaskType,
        stored: &'a Stored,
        while_taken: Taken,
    ) -> Result<Option<&'a Claim>, Error> {
        let Some(claim) = &stored.claim else { return Ok(None) };
        let now = clock::now();
        let is_kept = |until| while_taken == Taken::AndForATime && now < until;
        if let ClaimState::Ended { until } = claim.state {
            return Ok(is_kept(until).then_some(claim));
        }
        match self.last_of(STREAM_DONE, &subject::done(task_type, &claim.id)).await? {
            Some(done) if done.stored_at > stored.at => {
                Ok(is_kept(after(done.stored_at, self.unique_for(claim).await?)).then_some(claim))
            }
            Some(_) | None => Ok(Some(claim)),
        }
    }

    async fn unique_for(&self, claim: &Claim) -> Result<Duration, Error> {
        if let Some(ms) = claim.unique_for_ms {
            return Ok(Duration::from_millis(ms));
        }
        let config = self.find_stream(STREAM_DONE).await?;
        let age = config.map(|config| config.max_age).filter(|age| !age.is_zero());
        Ok(age.unwrap_or(UNIQUE_FOR_MAX))
    }

    async fn pause(&self, until: Instant, key: &str) -> Result<(), Error> {
        if Instant::now() > until {
            return Err(failed("claim", key, "it was changed by others again and again"));
        }
        tokio::time::sleep(AGAIN_AFTER).await;
        Ok(())
    }

    async fn read_claim(&self, key: &str) -> Result<Stored, Error> {
        let last = self.last_of(&format!("KV_{BUCKET_CLAIMS}"), &subject::kv(BUCKET_CLAIMS, key)).await?;
        let Some(last) = last else { return Ok(Stored { claim: None, revision: 0, at: Micros(0) }) };
        // What is no claim binds nobody: the mark of one that has aged has no body.
        let claim = serde_json::from_slice(&last.body).ok();
        Ok(Stored { claim, revision: last.sequence, at: last.stored_at })
    }

    /// Writes a claim if the key is still at this revision; returns the new one, and `None` where it is not.
    async fn write_claim(&self, key: &str, claim: &Claim, revision: u64, age: Duration) -> Result<Option<u64>, Error> {
        let body: Bytes = serde_json::to_vec(claim).map_err(|e| failed("write", key, e))?.into();
        let mut headers = HeaderMap::new();
        headers.insert(header::EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
        // The server counts whole seconds, one at least.
        headers.insert(header::TTL, format!("{}s", age.as_secs().saturating_add(1)));
        let out = subject::kv(BUCKET_CLAIMS, key);
        let until = Instant::now() + CLAIM_WITHIN;
        loop {
            let request = self.client.request_with_headers(out.clone(), headers.clone(), body.clone());
            let source = match tokio::time::timeout(ANSWER_TIMEOUT, request).await {
                Ok(Ok(answer)) => match acks::read(answer.status, &answer.payload) {
                    Answer::Stored(sequence) | Answer::Duplicate(sequence) => return Ok(Some(sequence)),
                    Answer::Refused(WRONG_LAST_SEQUENCE, _) => {
                        // An earlier send of the very same may have been stored.
                        let now = self.read_claim(key).await?;
                        let is_ours = now.revision > revision && now.claim.as_ref() == Some(claim);
                        return Ok(is_ours.then_some(now.revision));
                    }
                    Answer::Refused(code, words) if fault_of_code(code) == Fault::Final => {
                        return Err(failed("write", key, words));
                    }
                    Answer::Refused(_, words) => failed("write", key, words),
                    Answer::NoStream | Answer::Unknown => failed("write", key, "the server did not answer"),
                },
                Ok(Err(error)) => failed("write", key, error),
                Err(error) => failed("write", key, error),
            };
            if Instant::now() > until {
                return Err(source);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Reads a task's completion; `None` where it has none that was stored later than this sequence of DONE.
    ///
    /// # Errors
    /// [`Error::Read`] when the server does not answer, or the record is no completion.
    pub async fn read_done_after(
        &self,
        task_type: &TaskType,
        id: &TaskId,
        sequence: u64,
    ) -> Result<Option<Completion>, Error> {
        if sequence == 0 {
            return self.read_done(task_type, id).await;
        }
        let subject = subject::done(task_type, id);
        let last = self.last_of(STREAM_DONE, &subject).await?.filter(|last| last.sequence > sequence);
        let read = last.map(|last| Completion::from_message(&subject, &last.headers, &last.body)).transpose();
        read.map_err(|error| Error::Read { stream: STREAM_DONE.into(), what: subject, source: error.into() })
    }

    /// A task's completion and its sequence.
    pub(crate) async fn last_done(
        &self,
        task_type: &TaskType,
        id: &TaskId,
    ) -> Result<Option<(Completion, u64)>, Error> {
        let subject = subject::done(task_type, id);
        let Some(last) = self.last_of(STREAM_DONE, &subject).await? else { return Ok(None) };
        let read = Completion::from_message(&subject, &last.headers, &last.body);
        let done = read.map_err(|e| Error::Read { stream: STREAM_DONE.into(), what: subject, source: e.into() })?;
        Ok(Some((done, last.sequence)))
    }

    async fn last_of(&self, stream: &str, subject: &str) -> Result<Option<Last>, Error> {
        let failed = |source| Error::Read { stream: stream.to_owned(), what: subject.to_owned(), source };
        let handle = self.jetstream.get_stream_no_info(stream).await.map_err(|e| failed(e.into()))?;
        let until = Instant::now() + CLAIM_WITHIN;
        loop {
            match handle.direct_get_last_for_subject(subject).await {
                Ok(message) => {
                    let micros = message.time.unix_timestamp_nanos() / 1_000;
                    return Ok(Some(Last {
                        sequence: message.sequence,
                        stored_at: Micros(u64::try_from(micros).unwrap_or(0)),
                        headers: headers_from(Some(&message.headers)),
                        body: message.payload,
                    }));
                }
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(None),
                Err(error) if Instant::now() > until => return Err(failed(error.into())),
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    }

    /// Removes the completions of a task up to one.
    pub(crate) async fn purge_done(&self, task_type: &TaskType, id: &TaskId, sequence: u64) -> Result<(), Error> {
        let filter = subject::done(task_type, id);
        let failed = |source| Error::Delete { stream: STREAM_DONE.into(), what: filter.clone(), source };
        let stream = self.jetstream.get_stream_no_info(STREAM_DONE).await.map_err(|e| failed(e.into()))?;
        let purge = stream.purge().filter(filter.clone()).sequence(sequence.saturating_add(1)).await;
        purge.map(|_purged| ()).map_err(|e| failed(e.into()))
    }
}

/// How long the claim of a task is kept that is never seen to end.
fn claim_age(task: &TaskEvent) -> Duration {
    let delay = task.due_at.map_or(0, |due_at| due_at.0.saturating_sub(clock::now().0));
    Duration::from_secs(CLAIM_AGE_S) + Duration::from_micros(delay)
}

fn after(at: Micros, time: Duration) -> Micros {
    Micros(at.0.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
}

fn failed(operation: &'static str, key: &str, source: impl Into<crate::error::Source>) -> Error {
    Error::Kv { operation, bucket: BUCKET_CLAIMS.into(), key: key.to_owned(), source: source.into() }
}
