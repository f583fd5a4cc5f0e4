//! The one completion of a task, arbitrated by the server: the first that is stored wins, whichever
//! run made it (design, decision 6).

use crate::acks::{Answer, Sending};
use crate::answer::Fault;
use crate::block::Block;
use crate::clock;
use crate::connection::{Bus, headers_from};
use crate::error::Error;
use crate::letters::{REASON_CHARS_MAX, is_same};
use crate::publish::{COMPLETION_WITHIN, Expect, Outgoing, Published};
use crate::subjects::Subjects;
use crate::topology::takes_one_a_subject;
use async_nats::HeaderMap;
use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use jetlane_mutants::mutant;
use jetlane_schemas::frame::{TOLD_MAX, decode_bundle, encode_bundle, encode_told, told_bytes};
use jetlane_schemas::intake::percent_encode;
use jetlane_schemas::subject::{self, STREAM_DEAD, STREAM_DONE};
use jetlane_schemas::task::check_callbacks;
use jetlane_schemas::{Completion, Headers, TaskEvent, TaskId, TaskType, header};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Completions that are sent before the first of them is answered.
const TOGETHER_MAX: usize = 256;
/// The most bytes of completions that are told in one message, unless one alone has more.
const TOLD_BYTES_MAX: usize = 64 * 1024;
/// Bodies of so many bytes at most lie in one piece of memory; longer ones are copied each.
const SMALL_MAX: usize = 1_024;
/// The most bytes of headers that the server stores with a message.
const STORED_HEADERS_MAX: usize = 65_535;
/// Version line, end of headers, and the header that asks for an empty subject.
const HEADERS_FRAME: usize = 128;
/// Colon, blank and line end of a header.
const HEADER_FRAME: usize = 4;

/// The pause before a read that failed is tried again.
const READ_AGAIN_PAUSE: Duration = Duration::from_millis(250);

/// What became of a completion.
#[derive(Debug)]
pub enum Completed {
    /// It is stored. Also when an earlier send of the very same was, and its answer was lost.
    Won,
    /// Another was stored before.
    Lost(Box<Completion>),
    /// DONE is at its limit and takes no more; the task must wait.
    Full,
}

impl Completed {
    /// The completion that is stored, where this became of `own`.
    pub fn stored<'a>(&'a self, own: &'a Completion) -> Option<&'a Completion> {
        match self {
            Self::Won => Some(own),
            Self::Lost(other) => Some(other),
            Self::Full => None,
        }
    }
}

fn outgoing(completion: &Completion) -> Outgoing {
    Outgoing {
        subject: subject::done(&completion.task_type, &completion.id),
        // Without the time: it follows from the others, and every byte is scanned by the server many times.
        headers: completion.headers(""),
        body: Bytes::copy_from_slice(&completion.body),
        // The expected sequence does what an id would do, without the window's bound.
        message_id: None,
        expect: Expect::Absent,
    }
}

/// The same, ready to be sent for the first time.
fn sendings_of(completions: &[Completion], expect: Expect) -> Vec<Sending> {
    let bytes = completions.first().map_or(0, |first| subject::done(&first.task_type, &first.id).len());
    let mut subjects = Subjects::with_capacity(completions.len(), bytes);
    let mut small = Vec::with_capacity(completions.iter().map(small_bytes).sum());
    for completion in completions {
        subjects.add(|text| subject::write_done(text, &completion.task_type, &completion.id));
        small.extend_from_slice(&completion.body[..small_bytes(completion)]);
    }
    let (small, mut from) = (Bytes::from(small), 0);
    let mut body_of = |completion: &Completion| match small_bytes(completion) {
        0 => Bytes::copy_from_slice(&completion.body),
        bytes => {
            let to = from + bytes;
            small.slice(std::mem::replace(&mut from, to)..to)
        }
    };
    let sending = |(completion, subject): (&Completion, _)| Sending {
        subject,
        headers: headers_of(completion, expect),
        body: body_of(completion),
    };
    completions.iter().zip(subjects.done()).map(sending).collect()
}

fn headers_of(completion: &Completion, expect: Expect) -> HeaderMap {
    let mut headers = Block::default();
    if expect == Expect::Absent && !mutant!(NoExpectedSequence) {
        headers.put(header::EXPECTED_LAST_SUBJECT_SEQUENCE, 0);
    }
    completion.write_headers("", |name, value| headers.put(name, value));
    headers.into_map()
}

/// How many bytes of its body lie in one piece of memory with those of others: all of a small one.
fn small_bytes(completion: &Completion) -> usize {
    if completion.body.len() <= SMALL_MAX { completion.body.len() } else { 0 }
}

/// How many of these go into one message: as many as a bundle's bytes, one at least.
fn together(completions: &[&Completion]) -> usize {
    let mut bytes = 0;
    let fit = |done: &&&Completion| {
        bytes += told_bytes(done);
        bytes <= TOLD_BYTES_MAX
    };
    completions.iter().take(TOLD_MAX).take_while(fit).count().max(1)
}

/// Tries again what failed for no final reason, with a pause, until it succeeds or this time is over.
async fn until_known<T, F: Future<Output = Result<T, Error>>>(
    attempt: impl Fn() -> F,
    within: Duration,
) -> Result<T, Error> {
    let begun = Instant::now();
    loop {
        match attempt().await {
            Err(error) if error.fault() != Fault::Final && begun.elapsed() < within => {
                tracing::debug!(%error, "A read failed; trying again.");
                tokio::time::sleep(READ_AGAIN_PAUSE).await;
            }
            known => return known,
        }
    }
}

impl Bus {
    /// Stores a completion unless the task has one, and tells which it is: here, and to who waits for it.
    /// The claim of the task's key has ended, and what the completion triggers is stored too, once this returns,
    /// unless it has no token: then it counts as a plain client's, whose callbacks the callback service finds in DONE.
    ///
    /// # Errors
    /// [`Error::Publish`], [`Error::Refused`], [`Error::Read`].
    pub async fn complete(&self, completion: &Completion) -> Result<Completed, Error> {
        let mut completed = self.complete_all(std::slice::from_ref(completion)).await;
        completed.pop().expect("one answer a completion")
    }

    /// The same of many at once; the answers have the order of the completions.
    pub async fn complete_all(&self, completions: &[Completion]) -> Vec<Result<Completed, Error>> {
        self.settle_waiting().await;
        let expect = self.expected_of_done().await;
        let mut said = Vec::with_capacity(completions.len());
        for some in completions.chunks(TOGETHER_MAX) {
            let sendings = sendings_of(some, expect);
            let answers = self.acks.publish_together(&self.client, sendings).await;
            said.extend(answers.unwrap_or_else(|_| vec![Answer::Unknown; some.len()]));
        }
        // Whatever became of the others is found out by sending them again.
        let is_open = |said: &Answer| !matches!(said, Answer::Stored(_));
        let open = completions.iter().zip(&said).filter(|(_, said)| is_open(said));
        let outs = open.map(|(completion, _)| outgoing(completion)).collect();
        let mut published = self.publish_all_within(outs, COMPLETION_WITHIN).await.into_iter();
        let mut all = Vec::with_capacity(completions.len());
        for (completion, said) in completions.iter().zip(said) {
            let published = if is_open(&said) { published.next() } else { None };
            all.push(match published {
                None => Ok(Completed::Won),
                Some(Ok(published)) => self.arbitrated(completion, published).await,
                Some(Err(error)) => Err(error),
            });
        }
        self.tell(all.iter().zip(completions).filter_map(|(completed, own)| completed.as_ref().ok()?.stored(own)))
            .await;
        for (completed, own) in all.iter_mut().zip(completions) {
            let Some(done) = completed.as_ref().ok().and_then(|completed| completed.stored(own)) else { continue };
            if let Some(claim) = &own.claim
                && let Err(error) = self.end_claim(&own.task_type, claim, &own.id).await
            {
                *completed = Err(error);
                continue;
            }
            if let Err(error) = self.trigger_of(done, own).await {
                *completed = Err(error);
            }
        }
        all
    }

    /// The same of one that is stored while nothing else is: its submitters hear the server's ack themselves,
    /// one way through the broker earlier than they would be told.
    ///
    /// # Errors
    /// As for [`Bus::complete`].
    pub async fn complete_alone(&self, completion: &Completion) -> Result<Completed, Error> {
        let told = match encode_told(&completion.task_type, &[completion]) {
            Ok(told) if told.len() <= TOLD_BYTES_MAX => told,
            Ok(_) | Err(_) => return self.complete(completion).await,
        };
        self.settle_waiting().await;
        let sending = Sending {
            subject: subject::done(&completion.task_type, &completion.id).into(),
            headers: headers_of(completion, self.expected_of_done().await),
            body: Bytes::copy_from_slice(&completion.body),
        };
        match self.acks.publish_told(&self.client, &completion.task_type, told.into(), sending).await {
            Ok(Answer::Stored(_)) => {}
            // Whatever became of it is found out by the way of all others.
            Ok(_) | Err(_) => return self.complete(completion).await,
        }
        if let Some(claim) = &completion.claim {
            self.end_claim(&completion.task_type, claim, &completion.id).await?;
        }
        if completion.token.is_some() && !completion.callbacks.is_empty() {
            self.trigger(completion).await?;
        }
        Ok(Completed::Won)
    }

    /// What a completion's first send asks of its subject: nothing where the stream itself refuses a second message a
    /// subject, since the server checks each of the two by itself. Found out once a connection; where it cannot be,
    /// the subject must have none.
    async fn expected_of_done(&self) -> Expect {
        let find_out = async || match self.find_stream(STREAM_DONE).await {
            Ok(Some(config)) if takes_one_a_subject(&config) => Expect::Anything,
            Ok(_) | Err(_) => Expect::Absent,
        };
        *self.done_expects.get_or_init(find_out).await
    }

    /// Who won: a refused publish may have been preceded by one of the very same, whose answer was lost. The record is
    /// read from the leader of DONE for as long as a completion is sent: what was refused for it is there, and a finished
    /// run must not be repeated because an election came in between.
    async fn arbitrated(&self, completion: &Completion, published: Published) -> Result<Completed, Error> {
        let subject = subject::done(&completion.task_type, &completion.id);
        match published {
            Published::Stored(_) | Published::Duplicate(_) => Ok(Completed::Won),
            Published::NoStream => Published::NoStream.or_refused(&subject).map(|_| Completed::Full),
            Published::Taken if mutant!(NoReadBack) => {
                let of_another = Completion { token: None, callbacks: Vec::new(), ..completion.clone() };
                Ok(Completed::Lost(Box::new(of_another)))
            }
            Published::Taken | Published::Full => {
                let read = || self.read_done_of_leader(&completion.task_type, &completion.id);
                match until_known(read, COMPLETION_WITHIN).await? {
                    Some(_) if mutant!(RunTokenNotCompared) => Ok(Completed::Won),
                    Some(stored) if stored.token.is_some() && stored.token == completion.token => Ok(Completed::Won),
                    Some(stored) => Ok(Completed::Lost(Box::new(stored))),
                    None if published == Published::Full => Ok(Completed::Full),
                    // It has aged, or was purged, since it was refused for: the subject is free.
                    None => match self.publish(outgoing(completion)).await? {
                        Published::Stored(_) | Published::Duplicate(_) => Ok(Completed::Won),
                        Published::Full => Ok(Completed::Full),
                        Published::Taken => Err(Error::Publish {
                            subject,
                            attempts: 2,
                            source: "another completion came and went".into(),
                        }),
                        Published::NoStream => Published::NoStream.or_refused(&subject).map(|_| Completed::Full),
                    },
                }
            }
        }
    }

    /// Tells submitters of completions that are stored. Core NATS: who misses it looks it up.
    pub async fn tell<'a>(&self, completions: impl Iterator<Item = &'a Completion>) {
        let mut by_type = BTreeMap::<&TaskType, Vec<&Completion>>::new();
        completions.for_each(|done| by_type.entry(&done.task_type).or_default().push(done));
        for (task_type, completions) in by_type {
            let mut rest = completions.as_slice();
            while !rest.is_empty() {
                let (some, others) = rest.split_at(together(rest));
                rest = others;
                let told = match encode_told(task_type, some) {
                    Ok(frame) => self.send(subject::told(task_type), Headers::new(), frame.into()).await,
                    Err(source) => Err(Error::Frame { subject: subject::told(task_type), source: source.into() }),
                };
                if let Err(error) = told {
                    tracing::debug!(%error, "Completions were not told; who waits for them looks them up.");
                }
            }
        }
    }

    /// Stores what the completion of a task triggers. `own` is a completion by whoever has the task: its callbacks are
    /// triggered where a client cancelled the task by its id alone.
    ///
    /// # Errors
    /// As for [`Bus::trigger`].
    pub async fn trigger_of(&self, done: &Completion, own: &Completion) -> Result<(), Error> {
        match done.filled_from(own) {
            Some(filled) if check_callbacks(&filled.callbacks).is_ok() => self.trigger(&filled).await,
            // A plain client's: the callback service reads it from DONE.
            _ if done.token.is_none() || done.callbacks.is_empty() => Ok(()),
            _ => self.trigger(done).await,
        }
    }

    /// The same for whoever has the task itself.
    ///
    /// # Errors
    /// As for [`Bus::trigger`].
    pub async fn trigger_of_task(&self, done: &Completion, task: &TaskEvent) -> Result<(), Error> {
        self.trigger_of(done, &Completion::of(task, done.outcome, done.finished_at)).await
    }

    /// Stores what a completion triggers, for the callback service. Doing so again changes nothing within the
    /// window of the stream; after it a callback is delivered once more, under the same id.
    ///
    /// # Errors
    /// [`Error::Publish`], [`Error::Refused`].
    pub async fn trigger(&self, done: &Completion) -> Result<(), Error> {
        let mut headers = done.headers(&clock::rfc3339(done.finished_at));
        headers.push(header::DELIVERY, "0");
        // A task that is submitted or sent again under its id may end twice within the window: each end has its token.
        let message_id = |index| {
            let name = format!("{}.{}:{index}:callback", done.task_type, done.id);
            done.token.map_or_else(|| name.clone(), |token| format!("{name}:{token}"))
        };
        let out = |index: usize| Outgoing {
            subject: subject::callback(&done.task_type, &done.id, index),
            headers: headers.clone(),
            body: Bytes::copy_from_slice(&done.body),
            message_id: Some(message_id(index)),
            expect: Expect::Anything,
        };
        let outs: Vec<Outgoing> = (0..done.callbacks.len()).map(out).collect();
        let subjects: Vec<String> = outs.iter().map(|out| out.subject.clone()).collect();
        mutant!(CallbacksAfterAck => {
            let bus = self.clone();
            tokio::spawn(async move { (tokio::time::sleep(jetlane_mutants::GAP).await, bus.publish_all(outs).await) });
            return Ok(());
        });
        for (published, subject) in self.publish_all(outs).await.into_iter().zip(subjects) {
            published?.or_refused(&subject)?;
        }
        Ok(())
    }

    /// Reads a task's completion; `None` where it has none (or none any more: DONE's age).
    ///
    /// # Errors
    /// [`Error::Read`] when the server does not answer, or the record is no completion.
    pub async fn read_done(&self, task_type: &TaskType, id: &TaskId) -> Result<Option<Completion>, Error> {
        let subject = subject::done(task_type, id);
        let failed = |source| Error::Read { stream: STREAM_DONE.into(), what: subject.clone(), source };
        match self.last(STREAM_DONE, &subject).await? {
            None => Ok(None),
            Some((headers, body)) => {
                Completion::from_message(&subject, &headers, &body).map(Some).map_err(|e| failed(e.into()))
            }
        }
    }

    /// Reads a task's completion from the leader of DONE, which has all that it answered for.
    async fn read_done_of_leader(&self, task_type: &TaskType, id: &TaskId) -> Result<Option<Completion>, Error> {
        use async_nats::jetstream::ErrorCode;
        use async_nats::jetstream::stream::LastRawMessageErrorKind;
        let subject = subject::done(task_type, id);
        let failed = |source| Error::Read { stream: STREAM_DONE.into(), what: subject.clone(), source };
        let handle = self.jetstream.get_stream_no_info(STREAM_DONE).await.map_err(|e| failed(e.into()))?;
        let message = match handle.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => message,
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => return Ok(None),
                LastRawMessageErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
                    return Ok(None);
                }
                _ => return Err(failed(error.into())),
            },
        };
        let headers = headers_from(Some(&message.headers));
        Completion::from_message(&subject, &headers, &message.payload).map(Some).map_err(|e| failed(e.into()))
    }

    /// Finds a task's completion by its id alone: slower than [`Bus::read_done`], for people.
    ///
    /// # Errors
    /// [`Error::Read`] when the server does not answer, or the record is no completion.
    pub async fn find_done(&self, id: &TaskId) -> Result<Option<Completion>, Error> {
        for tokens in 1..=jetlane_schemas::limits::TYPE_TOKENS_MAX {
            let filter = format!("{}{}{id}", subject::DONE_ALL.trim_end_matches('>'), "*.".repeat(tokens));
            let counts = self.subject_counts(STREAM_DONE, &filter).await?;
            for found in counts.keys() {
                if let Some((task_type, id)) = subject::parse_done(found) {
                    return self.read_done(&task_type, &id).await;
                }
            }
        }
        Ok(None)
    }

    /// The last message of a subject: headers and body.
    pub(crate) async fn last(&self, stream: &str, subject: &str) -> Result<Option<(Headers, Bytes)>, Error> {
        let failed = |source| Error::Read { stream: stream.to_owned(), what: subject.to_owned(), source };
        let handle = self.jetstream.get_stream_no_info(stream).await.map_err(|e| failed(e.into()))?;
        match handle.direct_get_last_for_subject(subject).await {
            Ok(message) => Ok(Some((headers_from(Some(&message.headers)), message.payload))),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Keeps a task that will not run again, whole, with everything needed to send it again. Where one
    /// message does not take all of that, what is missed least is left out first, the body last, and the
    /// letter says that it is cut.
    ///
    /// # Errors
    /// [`Error::Publish`], [`Error::Refused`], [`Error::Frame`].
    pub async fn bury(&self, task: &TaskEvent, why: &Completion) -> Result<(), Error> {
        let subject = subject::dead(&task.queue, &task.task_type, &task.id);
        let failed = |source| Error::Frame { subject: subject.clone(), source };
        let reason = why.failure().map(|failure| failure.to_string()).unwrap_or_default();
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        let (mut task, mut why) = (Cow::Borrowed(task), Cow::Borrowed(why));
        let mut least = [Part::Checkpoint, Part::Extras, Part::Body].into_iter();
        let (headers, frame) = loop {
            let mut headers = why.headers(&clock::rfc3339(why.finished_at));
            headers.push(header::REASON, percent_encode(&reason));
            let frame = encode_bundle(std::slice::from_ref(&*task));
            let left_out = match &frame {
                Ok(frame) if takes(self.server().max_payload, &headers, frame) => None,
                Ok(_) | Err(_) => least.next(),
            };
            match left_out {
                Some(part) => leave_out(part, task.to_mut(), why.to_mut()),
                // Whole, or as little as it can be.
                None => break (headers, frame.map_err(|e| failed(e.into()))?),
            }
        };
        let out = Outgoing {
            headers,
            body: frame.into(),
            message_id: None,
            expect: Expect::Absent,
            subject: subject.clone(),
        };
        match self.publish(out.clone()).await? {
            Published::Stored(_) | Published::Duplicate(_) => Ok(()),
            Published::Taken if !self.remove_earlier_letter(&subject, &why).await? => Ok(()),
            Published::Taken => match self.publish(out).await? {
                // Somebody else was quicker.
                Published::Taken => Ok(()),
                other => other.or_refused(&subject).map(|_| ()),
            },
            other @ (Published::Full | Published::NoStream) => other.or_refused(&subject).map(|_| ()),
        }
    }

    /// Removes the dead letter of an earlier life of a task that was sent again and has failed again before that
    /// letter was gone; says whether there was one.
    async fn remove_earlier_letter(&self, subject: &str, why: &Completion) -> Result<bool, Error> {
        let failed = |source| Error::Read { stream: STREAM_DEAD.into(), what: subject.to_owned(), source };
        let Some((headers, _)) = self.last(STREAM_DEAD, subject).await? else { return Ok(true) };
        let done = subject::done(&why.task_type, &why.id);
        let kept = Completion::from_message(&done, &headers, &[]).map_err(|e| failed(e.into()))?;
        if is_same(&kept, why) || kept.finished_at >= why.finished_at {
            return Ok(false);
        }
        self.purge_subject(STREAM_DEAD, subject).await?;
        Ok(true)
    }

    async fn purge_subject(&self, stream: &str, subject: &str) -> Result<(), Error> {
        let failed = |source| Error::Delete { stream: stream.to_owned(), what: subject.to_owned(), source };
        let handle = self.jetstream.get_stream_no_info(stream).await.map_err(|e| failed(e.into()))?;
        handle.purge().filter(subject.to_owned()).await.map(|_purged| ()).map_err(|e| failed(e.into()))
    }

    /// Reads a dead letter back: the task, whole.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn read_dead(&self, subject: &str) -> Result<Option<TaskEvent>, Error> {
        let failed = |source| Error::Read { stream: STREAM_DEAD.into(), what: subject.to_owned(), source };
        let Some((_, frame)) = self.last(STREAM_DEAD, subject).await? else { return Ok(None) };
        let mut tasks = decode_bundle(&frame).map_err(|e| failed(e.into()))?;
        Ok(tasks.pop())
    }
}

/// What a dead letter can be without.
#[derive(Debug, Clone, Copy)]
enum Part {
    Checkpoint,
    /// Headers for the handler, callbacks, keys.
    Extras,
    Body,
}

fn leave_out(part: Part, task: &mut TaskEvent, why: &mut Completion) {
    why.cut = true;
    match part {
        Part::Checkpoint => task.checkpoint = None,
        Part::Extras => {
            (task.headers, task.callbacks, why.callbacks) = (Vec::new(), Vec::new(), Vec::new());
            (task.key, task.size_key) = (None, None);
        }
        Part::Body => task.payload = Vec::new(),
    }
}

/// Whether one message takes these headers and this body.
fn takes(max_payload: usize, headers: &Headers, body: &[u8]) -> bool {
    let headers = headers.bytes() + headers.len() * HEADER_FRAME + HEADERS_FRAME;
    headers <= STORED_HEADERS_MAX && headers + body.len() <= max_payload
}

#[cfg(test)]
mod tests;
