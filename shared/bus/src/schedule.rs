//! Delays in the broker: a schedule is a stored message that fires into a due subject. No task waits
//! in a process's memory for a clock (design, decision 8).

use crate::clock;
use crate::connection::{Bus, headers_from};
use crate::error::Error;
use crate::publish::{Expect, Outgoing, Published};
use bytes::Bytes;
use jetlane_schemas::subject::{self, STREAM_TIME};
use jetlane_schemas::{Headers, Hop, Micros, TaskEvent, TaskId, TaskType, frame, header};
use std::time::Duration;

/// The soonest that a schedule fires: the server's timer has a floor of 250 ms.
pub const SCHEDULE_FLOOR: Duration = Duration::from_millis(300);

impl Bus {
    /// Stores a task so that it is due at `at` by the broker's clock, or at once where that has passed. What is
    /// due within [`SCHEDULE_FLOOR`] comes about then, and never sooner. `task.run` must already be the next run:
    /// the message id names it.
    ///
    /// # Errors
    /// [`Error::Publish`], [`Error::Refused`], [`Error::Frame`].
    pub async fn store_due(&self, task: &TaskEvent, at: Micros) -> Result<Published, Error> {
        let due = task.due_subject();
        let body: Bytes = frame::encode_bundle(std::slice::from_ref(task))
            .map_err(|source| Error::Frame { subject: due.clone(), source: source.into() })?
            .into();
        let (subject, headers) = if at <= clock::now() {
            (due, Headers::new())
        } else {
            let mut headers = Headers::new();
            headers.push(header::SCHEDULE, format!("@at {}", clock::rfc3339(at)));
            headers.push(header::SCHEDULE_TARGET, due);
            // A fire has no message id of the server's: the id travels in a header of our own.
            headers.push(header::TASK_ID, task.id.as_str());
            (subject::schedule(&task.queue, &task.task_type, &task.id), headers)
        };
        let out =
            Outgoing { message_id: Some(task.message_id(Hop::Due)), expect: Expect::Anything, subject, headers, body };
        self.publish(out).await
    }

    /// Removes a task's pending schedule, whatever its queue; says how many there were.
    ///
    /// # Errors
    /// [`Error::Delete`].
    pub async fn purge_schedule(&self, task_type: &TaskType, id: &TaskId) -> Result<u64, Error> {
        let filter = subject::schedule_in_any_queue(task_type, id);
        let failed = |source| Error::Delete { stream: STREAM_TIME.into(), what: filter.clone(), source };
        let stream = self.jetstream.get_stream_no_info(STREAM_TIME).await.map_err(|e| failed(e.into()))?;
        let purged = stream.purge().filter(filter.clone()).await.map_err(|e| failed(e.into()))?;
        Ok(purged.purged)
    }

    /// Reads a message by its sequence: subject, headers, body; `None` where it is gone.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn read_sequence(&self, stream: &str, sequence: u64) -> Result<Option<(String, Headers, Bytes)>, Error> {
        use async_nats::jetstream::ErrorCode;
        use async_nats::jetstream::stream::LastRawMessageErrorKind;
        let failed = |source| Error::Read { stream: stream.to_owned(), what: sequence.to_string(), source };
        let handle = self.jetstream.get_stream_no_info(stream).await.map_err(|e| failed(e.into()))?;
        match handle.get_raw_message(sequence).await {
            Ok(message) => {
                Ok(Some((message.subject.into_string(), headers_from(Some(&message.headers)), message.payload)))
            }
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                LastRawMessageErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
                    Ok(None)
                }
                _ => Err(failed(error.into())),
            },
        }
    }

    /// Deletes a message by its sequence; says whether it was there.
    ///
    /// # Errors
    /// [`Error::Delete`].
    pub async fn delete_sequence(&self, stream: &str, sequence: u64) -> Result<bool, Error> {
        let failed = |source| Error::Delete { stream: stream.to_owned(), what: sequence.to_string(), source };
        let handle = self.jetstream.get_stream_no_info(stream).await.map_err(|e| failed(e.into()))?;
        // Deleting what is gone is answered with an error; a look settles which it is.
        match handle.delete_message(sequence).await {
            Ok(deleted) => Ok(deleted),
            Err(error) => match self.read_sequence(stream, sequence).await? {
                None => Ok(false),
                Some(_) => Err(failed(error.into())),
            },
        }
    }
}
