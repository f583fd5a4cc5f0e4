//! The one completion of a task, arbitrated by the server: the first that is stored wins, whichever
//! run made it (design, decision 6).

use crate::clock;
use crate::connection::{Bus, headers_from};
use crate::error::Error;
use crate::publish::{Expect, Outgoing, Published};
use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use jetlane_schemas::frame::{decode_bundle, encode_bundle};
use jetlane_schemas::subject::{self, STREAM_DEAD, STREAM_DONE};
use jetlane_schemas::{Completion, Headers, TaskEvent, TaskId, TaskType};
use std::borrow::Cow;

/// The most bytes of headers that the server stores with a message.
const STORED_HEADERS_MAX: usize = 65_535;
/// Version line, end of headers, and the header that asks for an empty subject.
const HEADERS_FRAME: usize = 128;
/// Colon, blank and line end of a header.
const HEADER_FRAME: usize = 4;

/// What became of a completion.
#[derive(Debug)]
pub enum Completed {
    /// It is the one. Also when an earlier send of the very same was stored and its answer was lost.
    Won,
    /// Another was stored before.
    Lost(Box<Completion>),
    /// DONE is at its limit and takes no more; the task must wait.
    Full,
}

impl Bus {
    /// Stores a completion unless the task has one, and tells which it is.
    ///
    /// # Errors
    /// [`Error::Publish`], [`Error::Refused`], [`Error::Read`].
    pub async fn complete(&self, completion: &Completion) -> Result<Completed, Error> {
        let subject = subject::done(&completion.task_type, &completion.id);
        let out = Outgoing {
            headers: completion.headers(&clock::rfc3339(completion.finished_at)),
            body: Bytes::copy_from_slice(&completion.body),
            // The expected sequence does what an id would do, without the window's bound.
            message_id: None,
            expect: Expect::Absent,
            subject: subject.clone(),
        };
        match self.publish(out).await? {
            Published::Stored(_) | Published::Duplicate(_) => Ok(Completed::Won),
            Published::Taken | Published::Full => match self.read_done(&completion.task_type, &completion.id).await? {
                Some(stored) if stored.token.is_some() && stored.token == completion.token => Ok(Completed::Won),
                Some(stored) => Ok(Completed::Lost(Box::new(stored))),
                None => Ok(Completed::Full),
            },
            Published::NoStream => Published::NoStream.or_refused(&subject).map(|_| Completed::Won),
        }
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
        let (mut task, mut why) = (Cow::Borrowed(task), Cow::Borrowed(why));
        let mut least = [Part::Checkpoint, Part::Extras, Part::Body].into_iter();
        let (headers, frame) = loop {
            let headers = why.headers(&clock::rfc3339(why.finished_at));
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
        match self.publish(out).await? {
            Published::Stored(_) | Published::Duplicate(_) | Published::Taken => Ok(()),
            other @ (Published::Full | Published::NoStream) => other.or_refused(&subject).map(|_| ()),
        }
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
