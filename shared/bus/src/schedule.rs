//! Delays in the broker: a schedule is a stored message that fires into a due subject. No task waits
//! in a process's memory for a clock (design, decision 8).

use crate::clock;
use crate::connection::{Bus, headers_from};
use crate::error::Error;
use crate::publish::{Expect, Outgoing, Published};
use bytes::Bytes;
use jetlane_schemas::subject::{self, STREAM_TIME};
use jetlane_schemas::{Completion, Headers, Hop, Micros, TaskEvent, frame, header};
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
            (subject::schedule(&task.queue, &task.task_type, &task.id, task.run), headers)
        };
        let out =
            Outgoing { message_id: Some(task.message_id(Hop::Due)), expect: Expect::Anything, subject, headers, body };
        self.publish(out).await
    }

    /// Removes the pending schedules of a task that has ended, whatever its queue. Nobody else will see that task: what
    /// its completion triggers is stored first.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Publish`], [`Error::Refused`], [`Error::Delete`].
    pub async fn end_schedule(&self, done: &Completion) -> Result<(), Error> {
        let filter = subject::schedules_of(&done.task_type, &done.id);
        let Some((sequence, task)) = self.last_schedule(&filter).await? else { return Ok(()) };
        if let Some(task) = task {
            self.trigger_of_task(done, &task).await?;
        }
        let failed = |source| Error::Delete { stream: STREAM_TIME.into(), what: filter.clone(), source };
        let stream = self.jetstream.get_stream_no_info(STREAM_TIME).await.map_err(|e| failed(e.into()))?;
        // What is stored after the look is dropped by the dispatcher once it is due.
        let purge = stream.purge().filter(filter.clone()).sequence(sequence.saturating_add(1)).await;
        purge.map(|_purged| ()).map_err(|e| failed(e.into()))
    }

    /// The last schedule under a filter, read from the leader of the stream: its sequence and its task, which is
    /// `None` where it cannot be read.
    async fn last_schedule(&self, filter: &str) -> Result<Option<(u64, Option<TaskEvent>)>, Error> {
        use async_nats::jetstream::ErrorCode;
        use async_nats::jetstream::stream::LastRawMessageErrorKind;
        let failed = |source| Error::Read { stream: STREAM_TIME.into(), what: filter.to_owned(), source };
        let stream = self.jetstream.get_stream_no_info(STREAM_TIME).await.map_err(|e| failed(e.into()))?;
        match stream.get_last_raw_message_by_subject(filter).await {
            Ok(message) => {
                let task = frame::decode_bundle(&message.payload).ok().and_then(|mut tasks| tasks.pop());
                Ok(Some((message.sequence, task)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::stage::place;
    use crate::topology::Settings;
    use jetlane_schemas::{Outcome, QueueName, TaskId, TaskType};

    #[tokio::test]
    async fn copy_of_an_earlier_run_replaces_no_later_schedule() {
        let (_server, bus) = place().await;
        bus.ensure(&Settings::default()).await.expect("made");
        let task_type = TaskType::new("a.b").expect("valid");
        let first = TaskEvent::new(TaskId::generate(), task_type, QueueName::default_queue(), clock::now(), vec![]);
        let later = TaskEvent { run: 3, ..first.clone() };
        let at = clock::after(Duration::from_secs(3_600));
        for task in [&later, &first] {
            bus.store_due(task, at).await.expect("an answer").or_refused("the schedule").expect("stored");
        }
        assert_eq!(bus.scheduled(&first.id).await.expect("read").map(|(_, task)| task.run), Some(3));
        let ended = Completion::of(&first, Outcome::Cancelled, clock::now());
        bus.end_schedule(&ended).await.expect("purged");
        assert_eq!(bus.scheduled(&first.id).await.expect("read"), None);
    }
}
