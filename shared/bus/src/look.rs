//! Looks at what is stored, in its order and without taking it: for people who ask where a task is. The
//! consumers of a work queue would take it, so the stream itself is read.
//!
//! What our own processes write is read in batches. The open door is read one message at a time by the
//! server's JSON interface: the client library gives up a connection over headers that are none.

use crate::clock;
use crate::connection::{ANSWER_TIMEOUT, Bus, headers_from};
use crate::error::{Error, Source};
use crate::unreadable;
use bytes::Bytes;
use futures::StreamExt;
use jetlane_schemas::header::{self, stored};
use jetlane_schemas::subject::{self, Lane, STREAM_DEAD, STREAM_LANES, STREAM_TIME};
use jetlane_schemas::{Completion, Headers, Micros, TaskEvent, TaskId, frame};
use serde::Serialize;

/// The most messages of one batch.
pub const LOOK_MESSAGES_MAX: usize = 256;
/// The most bytes of one batch, unless one message has more.
const LOOK_BYTES_MAX: usize = 4 << 20;

/// The most messages that are read to count their tasks: lanes are shallow.
pub const COUNTED_MESSAGES_MAX: usize = 8_192;

/// Where a look begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With this sequence, or the next one that is there.
    Sequence(u64),
    /// With what was stored from this moment on.
    Time(Micros),
}

/// A stored message, still where it was.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its subject.
    pub subject: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When it was stored.
    pub stored_at: Micros,
    /// How many messages of the look's filter stand behind it; 0 where the look does not tell.
    pub behind: u64,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub body: Bytes,
}

#[derive(Serialize)]
struct Batch<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    next_by_subj: &'a str,
    batch: usize,
    max_bytes: usize,
}

impl Bus {
    /// Reads up to `count` (at most [`LOOK_MESSAGES_MAX`]) stored messages under `filter` in their order.
    /// Less is no end, only nothing is: a batch also has a bound on bytes.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Subscribe`].
    pub async fn look(&self, stream: &str, filter: &str, start: Start, count: usize) -> Result<Vec<Stored>, Error> {
        if count == 0 {
            // The server takes no batch of none.
            return Ok(Vec::new());
        }
        let failed = |source: Source| Error::Read { stream: stream.to_owned(), what: filter.to_owned(), source };
        let (seq, start_time) = match start {
            Start::Sequence(sequence) => (Some(sequence.max(1)), None),
            Start::Time(at) => (None, Some(clock::rfc3339(at))),
        };
        let max_bytes = LOOK_BYTES_MAX.max(self.client.max_payload());
        let batch = Batch { seq, start_time, next_by_subj: filter, batch: count.min(LOOK_MESSAGES_MAX), max_bytes };
        let body = serde_json::to_vec(&batch).map_err(|e| failed(e.into()))?;
        let inbox = self.client.new_inbox();
        let subscribed = self.client.subscribe(inbox.clone()).await;
        let mut answers =
            subscribed.map_err(|source| Error::Subscribe { subject: inbox.clone(), source: source.into() })?;
        let asked = self.client.publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), inbox, body.into()).await;
        asked.map_err(|e| failed(e.into()))?;
        let mut found = Vec::new();
        loop {
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, answers.next()).await.map_err(|e| failed(e.into()))?;
            let answer = answer.ok_or_else(|| failed("the connection was closed".into()))?;
            match answer.status.map(|status| status.as_u16()) {
                None => found.push(stored(answer).ok_or_else(|| failed("the server says not what it is".into()))?),
                // The end of the batch; nothing there.
                Some(204 | 404) => return Ok(found),
                Some(_) => return Err(failed(answer.description.unwrap_or_default().into())),
            }
        }
    }

    /// How many tasks lie in the messages of a bundle lane, pulled or not. At most [`COUNTED_MESSAGES_MAX`]
    /// messages are read; those behind count as one task each.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Subscribe`].
    pub async fn tasks_in(&self, lane: &Lane) -> Result<u64, Error> {
        let subject = lane.subject();
        let (mut tasks, mut messages, mut next) = (0, 0, 1);
        loop {
            let found = self.look(STREAM_LANES, &subject, Start::Sequence(next), LOOK_MESSAGES_MAX).await?;
            let Some(last) = found.last() else { return Ok(tasks) };
            (next, messages) = (last.sequence + 1, messages + found.len());
            let behind = last.behind;
            // One that cannot be read is dropped by whoever pulls it.
            tasks +=
                found.iter().map(|m| frame::decode_bundle(&m.body).map_or(1, |tasks| tasks.len() as u64)).sum::<u64>();
            if messages >= COUNTED_MESSAGES_MAX {
                return Ok(tasks + behind);
            }
        }
    }

    /// Reads the next stored message under `filter`, whatever its headers; `None` at the end. Headers
    /// that are none are left out.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn look_at_next(&self, stream: &str, filter: &str, start: Start) -> Result<Option<Stored>, Error> {
        Ok(self.get_raw(stream, start, filter).await?.map(|raw| Stored {
            sequence: raw.seq,
            stored_at: clock::parse_rfc3339(&raw.time).unwrap_or_default(),
            behind: 0,
            headers: unreadable::headers(&raw.header_block()),
            body: raw.body().into(),
            subject: raw.subject,
        }))
    }

    /// How many messages of its own subject stand before a stored message; `None` once it is gone.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Subscribe`].
    pub async fn ahead_of(&self, stream: &str, subject: &str, sequence: u64) -> Result<Option<u64>, Error> {
        let here = self.look(stream, subject, Start::Sequence(sequence), 1).await?;
        let Some(message) = here.first().filter(|message| message.sequence == sequence) else { return Ok(None) };
        let counts = self.subject_counts(stream, subject).await?;
        let all = counts.get(subject).copied().unwrap_or(0);
        Ok(Some(all.saturating_sub(message.behind + 1)))
    }

    /// The schedule of a task with this id that is not due yet, of its latest run: when it is, and the task. `None` where
    /// it has none.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn scheduled(&self, id: &TaskId) -> Result<Option<(Micros, TaskEvent)>, Error> {
        let filter = subject::schedules_of_id(id);
        let failed = |source: Source| Error::Read { stream: STREAM_TIME.into(), what: filter.clone(), source };
        let mut latest = None::<(Micros, TaskEvent)>;
        for subject in self.subject_counts(STREAM_TIME, &filter).await?.keys() {
            let Some((headers, body)) = self.last(STREAM_TIME, subject).await? else { continue };
            let at = headers.get(header::SCHEDULE).and_then(|when| clock::parse_rfc3339(when.strip_prefix("@at ")?));
            let mut tasks = frame::decode_bundle(&body).map_err(|e| failed(e.into()))?;
            if let (Some(at), Some(task)) = (at, tasks.pop())
                && latest.as_ref().is_none_or(|(_, other)| other.run < task.run)
            {
                latest = Some((at, task));
            }
        }
        Ok(latest)
    }

    /// Finds a dead letter by its task's id alone: the task, and how it ended.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn find_dead(&self, id: &TaskId) -> Result<Option<Completion>, Error> {
        let failed = |what: &str, source| Error::Read { stream: STREAM_DEAD.into(), what: what.to_owned(), source };
        for tokens in 1..=jetlane_schemas::limits::TYPE_TOKENS_MAX {
            // Its queue is one token more.
            let filter = format!("{}*.{}{id}", subject::DEAD_ALL.trim_end_matches('>'), "*.".repeat(tokens));
            for found in self.subject_counts(STREAM_DEAD, &filter).await?.keys() {
                let Some((_, task_type, id)) = subject::parse_dead(found) else { continue };
                let Some((headers, _task)) = self.last(STREAM_DEAD, found).await? else { continue };
                let completion = Completion::from_message(&subject::done(&task_type, &id), &headers, &[]);
                return completion.map(Some).map_err(|e| failed(found, e.into()));
            }
        }
        Ok(None)
    }
}

fn stored(message: async_nats::Message) -> Option<Stored> {
    let headers = headers_from(message.headers.as_ref());
    let number = |name| headers.get(name).and_then(|text| text.parse().ok());
    Some(Stored {
        subject: headers.get(stored::SUBJECT)?.to_owned(),
        sequence: number(stored::SEQUENCE)?,
        stored_at: headers.get(stored::TIME_STAMP).and_then(clock::parse_rfc3339)?,
        behind: number(stored::NUM_PENDING).unwrap_or(0),
        body: message.payload,
        headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Bucket;
    use crate::local::stage::place;
    use crate::publish::{Expect, Outgoing};
    use jetlane_schemas::subject::{BUCKET_REGISTRY, STREAM_TASKS, SUBMIT_ALL, TASK_ALL};
    use jetlane_schemas::{Failure, Outcome, Priority, QueueName, Shard, TaskType};

    async fn publish(bus: &Bus, subject: String, headers: Headers, body: &'static [u8]) -> u64 {
        let out = Outgoing { subject, headers, body: body.into(), message_id: None, expect: Expect::Anything };
        bus.publish(out).await.expect("sent").or_refused("it").expect("stored")
    }

    fn task(id: &str) -> TaskEvent {
        let (id, task_type) = (TaskId::new(id).expect("valid"), TaskType::new("a.b").expect("valid"));
        TaskEvent::new(id, task_type, QueueName::default_queue(), clock::now(), b"{}".to_vec())
    }

    #[tokio::test]
    async fn a_work_queue_is_read_from_a_time_in_order_and_nothing_is_taken() {
        let (_server, bus) = place().await;
        let subject =
            |number| subject::task(&QueueName::default_queue(), Priority::Normal, Shard::new(number).expect("valid"));
        let before = publish(&bus, subject(0), Headers::new(), b"0").await;
        let since = bus.look(STREAM_TASKS, TASK_ALL, Start::Sequence(before), 1).await.expect("read")[0].stored_at;
        for number in [1, 0, 1] {
            publish(&bus, subject(number), Headers::new(), b"1").await;
        }
        let all = bus.look(STREAM_TASKS, TASK_ALL, Start::Sequence(0), 10).await.expect("read");
        let told: Vec<_> = all.iter().map(|one| (one.sequence, one.subject.clone(), one.behind)).collect();
        assert_eq!(told, [(1, subject(0), 3), (2, subject(1), 2), (3, subject(0), 1), (4, subject(1), 0)]);
        let later = bus.look(STREAM_TASKS, TASK_ALL, Start::Time(Micros(since.0 + 1)), 2).await.expect("read");
        assert_eq!(later.iter().map(|one| one.sequence).collect::<Vec<_>>(), [2, 3]);
        assert!(bus.look(STREAM_TASKS, TASK_ALL, Start::Sequence(5), 2).await.expect("read").is_empty());
        assert!(bus.look(STREAM_TASKS, TASK_ALL, Start::Sequence(1), 0).await.expect("read").is_empty());
        assert_eq!(bus.ahead_of(STREAM_TASKS, &subject(1), 4).await.expect("read"), Some(1));
        bus.delete_sequence(STREAM_TASKS, 4).await.expect("deleted");
        assert_eq!(bus.ahead_of(STREAM_TASKS, &subject(1), 4).await.expect("read"), None);
        assert_eq!(bus.subject_counts(STREAM_TASKS, TASK_ALL).await.expect("read").values().sum::<u64>(), 3);
    }

    #[tokio::test]
    async fn the_open_door_is_read_past_headers_that_are_none() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (server, bus) = place().await;
        let subject = subject::submit(&TaskType::new("a.b").expect("valid"));
        // The client library would not send it.
        let block = "NATS/1.0\r\nno header\r\n\r\n";
        let frame = format!(
            "CONNECT {{\"headers\":true}}\r\nHPUB {subject} {} {}\r\n{block}1\r\nPING\r\n",
            block.len(),
            block.len() + 1
        );
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", server.port())).await.expect("connected");
        socket.write_all(frame.as_bytes()).await.expect("sent");
        let mut told = String::new();
        while !told.contains("PONG") {
            let mut buffer = [0; 1_024];
            let count = socket.read(&mut buffer).await.expect("answered");
            assert!(count > 0, "the server has closed: {told}");
            told.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        publish(&bus, subject, [(header::CE_ID.to_owned(), "7".to_owned())].into_iter().collect(), b"2").await;
        let bad = bus.look_at_next(STREAM_TASKS, SUBMIT_ALL, Start::Sequence(1)).await.expect("read").expect("there");
        assert_eq!((&*bad.body, bad.headers.len()), (&b"1"[..], 0));
        let next = bus.look_at_next(STREAM_TASKS, SUBMIT_ALL, Start::Sequence(bad.sequence + 1)).await;
        let next = next.expect("read").expect("there");
        assert_eq!((&*next.body, next.headers.get(header::CE_ID)), (&b"2"[..], Some("7")));
        let end = bus.look_at_next(STREAM_TASKS, SUBMIT_ALL, Start::Sequence(next.sequence + 1)).await;
        assert!(end.expect("read").is_none());
    }

    #[tokio::test]
    async fn a_schedule_and_a_dead_letter_are_found_by_the_id_alone() {
        let (_server, bus) = place().await;
        let (delayed, dead) = (task("s1"), task("s2"));
        let at = Micros(clock::now().0 + 60_000_000);
        bus.store_due(&delayed, at).await.expect("stored");
        assert_eq!(bus.scheduled(&delayed.id).await.expect("read"), Some((at, delayed)));
        assert_eq!(bus.scheduled(&dead.id).await.expect("read"), None);
        let why = Completion::of(&dead, Outcome::Failed, clock::now()).with_failure(Failure::new("handler", "no"));
        bus.bury(&dead, &why).await.expect("buried");
        let found = bus.find_dead(&dead.id).await.expect("read").expect("there");
        assert_eq!((found.id, found.outcome), (dead.id, Outcome::Failed));
        assert!(bus.find_dead(&TaskId::new("s3").expect("valid")).await.expect("read").is_none());
    }

    #[tokio::test]
    async fn a_value_is_replaced_only_at_the_revision_that_was_read() {
        let (_server, bus) = place().await;
        let registry: Bucket = bus.bucket(BUCKET_REGISTRY).await.expect("there");
        assert_eq!(registry.get_revision::<u32>("k").await.expect("read"), (None, 0));
        assert!(registry.replace("k", &1_u32, 0).await.expect("asked").is_some());
        let (value, revision) = registry.get_revision::<u32>("k").await.expect("read");
        assert_eq!(value, Some(1));
        assert!(registry.replace("k", &2_u32, revision).await.expect("asked").is_some());
        assert!(registry.replace("k", &3_u32, revision).await.expect("asked").is_none(), "somebody was quicker");
        registry.delete("k").await.expect("deleted");
        let (value, revision) = registry.get_revision::<u32>("k").await.expect("read");
        assert_eq!(value, None);
        assert!(registry.replace("k", &4_u32, revision).await.expect("asked").is_some(), "over the mark");
    }
}
