//! Dead letters: read without taking them, sent again as a new life of their tasks, and removed.
//!
//! A letter is removed only once what it holds is stored elsewhere. Sending one again a second time stores the very
//! same message, so a command that died half-way may be repeated.

use crate::claims::Claimed;
use crate::clock;
use crate::connection::Bus;
use crate::error::{Error, Source};
use crate::look::{Start, Stored};
use crate::publish::{Expect, Outgoing};
use bytes::Bytes;
use jetlane_schemas::subject::{self, STREAM_DEAD};
use jetlane_schemas::{
    Completion, Headers, Hop, Micros, Outcome, QueueName, Shard, TaskEvent, TaskId, TaskType, frame, header, intake,
};

/// The longest reason that is kept with a dead letter, in characters.
pub(crate) const REASON_CHARS_MAX: usize = 1_000;

/// A dead letter as it is stored.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When it was stored.
    pub stored_at: Micros,
    /// Its task's type.
    pub task_type: TaskType,
    /// Its task's id.
    pub id: TaskId,
    /// How its task ended, without a body.
    pub completion: Completion,
    /// Why it is kept; empty where its writer did not say.
    pub reason: String,
    /// What it holds.
    pub content: Content,
    /// Its bytes in the stream.
    pub bytes: usize,
}

/// What a dead letter holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// A task.
    Task(Box<TaskEvent>),
    /// A callback of its task's completion: its place among those, and the completion's body.
    Callback {
        /// Its place.
        index: usize,
        /// The completion's headers, as the callback service reads them.
        headers: Headers,
        /// The completion's body.
        body: Bytes,
    },
    /// Nothing that can be sent again, and why.
    Unreadable(String),
}

/// Where a task goes that is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The queue that serves its type now.
    pub queue: QueueName,
    /// The tenant's shard there.
    pub shard: Shard,
}

/// What became of a dead letter that was to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resent {
    /// It is stored, and the letter is removed.
    Stored,
    /// Its task has succeeded since: the letter is removed.
    Succeeded,
    /// Another task of its key waits or runs: the letter stays.
    KeyTaken(TaskId),
    /// It cannot be sent again, and why: the letter stays.
    Unsendable(String),
}

impl Letter {
    /// Reads a stored letter. What is none is kept by its subject alone.
    fn read(stored: Stored) -> Option<Self> {
        let Stored { subject, sequence, stored_at, headers, body, .. } = stored;
        let bytes = headers.bytes() + body.len();
        let reason = headers.get(header::REASON).map(intake::percent_decode).unwrap_or_default();
        let (task_type, id, content) = if let Some((_, task_type, id)) = subject::parse_dead(&subject) {
            let content = match frame::decode_bundle(&body) {
                Ok(tasks) => match <[TaskEvent; 1]>::try_from(tasks) {
                    Ok([task]) => Content::Task(Box::new(task)),
                    Err(tasks) => Content::Unreadable(format!("it holds {} tasks instead of one", tasks.len())),
                },
                Err(error) => Content::Unreadable(error.to_string()),
            };
            (task_type, id, content)
        } else {
            let (task_type, id, index) = subject::parse_dead_callback(&subject)?;
            let mut kept = Headers::new();
            let own = [header::REASON, header::DELIVERY];
            let of_completion = |name: &str| !own.contains(&name) && !is_of_server(name);
            let pairs = headers.clone().into_pairs().into_iter().filter(|(name, _)| of_completion(name));
            pairs.for_each(|(name, value)| kept.push(name, value));
            (task_type, id, Content::Callback { index, headers: kept, body })
        };
        let done = subject::done(&task_type, &id);
        let (completion, content) = match Completion::from_message(&done, &headers, &[]) {
            Ok(completion) => (completion, content),
            Err(error) => {
                // Its headers are foreign: what is known stands in its subject.
                let mut task =
                    TaskEvent::new(id.clone(), task_type.clone(), QueueName::default_queue(), stored_at, Vec::new());
                if let Content::Task(kept) = &content {
                    task = (**kept).clone();
                }
                let content = match content {
                    Content::Callback { .. } => Content::Unreadable(error.to_string()),
                    task_or_unreadable => task_or_unreadable,
                };
                (Completion::of(&task, Outcome::Failed, stored_at), content)
            }
        };
        Some(Self { sequence, stored_at, task_type, id, completion, reason, content, bytes })
    }

    /// The task, where it holds one.
    pub fn task(&self) -> Option<&TaskEvent> {
        match &self.content {
            Content::Task(task) => Some(task),
            Content::Callback { .. } | Content::Unreadable(_) => None,
        }
    }

    /// Whether this is the completion with which the letter was written.
    fn is_of(&self, done: &Completion) -> bool {
        is_same(&self.completion, done)
    }
}

/// Whether two records are of one completion.
pub(crate) fn is_same(one: &Completion, other: &Completion) -> bool {
    match (one.token, other.token) {
        (None, None) => (one.outcome, one.finished_at) == (other.outcome, other.finished_at),
        (one, other) => one == other,
    }
}

impl Bus {
    /// Reads up to `count` dead letters under a filter from a sequence on, in their order; with them the sequence to go
    /// on with, which is `None` at the end.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Subscribe`].
    pub async fn dead_letters(
        &self,
        filter: &str,
        start: u64,
        count: usize,
    ) -> Result<(Vec<Letter>, Option<u64>), Error> {
        let found = self.look(STREAM_DEAD, filter, Start::Sequence(start), count).await?;
        let next = found.last().map(|last| last.sequence + 1);
        Ok((found.into_iter().filter_map(Letter::read).collect(), next))
    }

    /// Sends what a dead letter holds once more, and removes the letter once that is stored.
    ///
    /// A task begins a new life under its id: its attempts, run times and checkpoints are forgotten, and so are a
    /// deadline that has passed and the failure among the completions. Its key is taken again, whatever `unique_for`
    /// says, unless another task of the key waits or runs. A callback is due at once, with all its deliveries.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Kv`], [`Error::Publish`], [`Error::Refused`], [`Error::Frame`], [`Error::Delete`]:
    /// the letter stays, and may be sent again.
    pub async fn resend(&self, letter: &Letter, to: &Destination) -> Result<Resent, Error> {
        let out = match &letter.content {
            Content::Unreadable(reason) => return Ok(Resent::Unsendable(format!("it cannot be read: {reason}"))),
            Content::Callback { index, headers, body } => self.callback_again(letter, *index, headers.clone(), body),
            Content::Task(task) => {
                if letter.completion.cut && task.payload.is_empty() {
                    return Ok(Resent::Unsendable("its body was too large to be kept".into()));
                }
                let done = self.last_done(&letter.task_type, &letter.id).await?;
                let was = done.as_ref().map(|(done, _)| done);
                if was.is_some_and(|done| done.outcome == Outcome::Succeeded && !letter.is_of(done)) {
                    self.remove_letter(letter).await?;
                    return Ok(Resent::Succeeded);
                }
                let task = self.new_life(letter, task, to);
                if let Err(invalid) = task.check(self.body_bytes_max()) {
                    return Ok(Resent::Unsendable(invalid.to_string()));
                }
                match self.claim_anew(&task).await? {
                    Some(Claimed::Duplicate { id, .. }) => return Ok(Resent::KeyTaken(id)),
                    // Its leader removes the failure once it holds the key.
                    Some(Claimed::Fresh { revision, .. } | Claimed::Again { revision }) => keyed(&task, revision)?,
                    None => {
                        if let Some((_, sequence)) = done {
                            self.purge_done(&letter.task_type, &letter.id, sequence).await?;
                        }
                        keyless(letter, &task)?
                    }
                }
            }
        };
        let subject = out.subject.clone();
        self.publish(out).await?.or_refused(&subject)?;
        self.remove_letter(letter).await?;
        Ok(Resent::Stored)
    }

    /// Removes a dead letter; says whether it was there.
    ///
    /// # Errors
    /// [`Error::Delete`].
    pub async fn remove_letter(&self, letter: &Letter) -> Result<bool, Error> {
        self.delete_sequence(STREAM_DEAD, letter.sequence).await
    }

    /// The task of a letter as it was when it was submitted, at the present time.
    fn new_life(&self, letter: &Letter, task: &TaskEvent, to: &Destination) -> TaskEvent {
        let now = clock::now();
        TaskEvent {
            queue: to.queue.clone(),
            shard: to.shard,
            submitted_at: now,
            due_at: None,
            deadline: task.deadline.filter(|deadline| *deadline > now),
            attempts: 0,
            yields: 0,
            checkpoint: None,
            // A task with a key is told from its earlier life by its claim, any other by its run.
            run: if task.key.is_some() { 1 } else { task.run.max(letter.completion.run).saturating_add(1) },
            suspect: true,
            ..task.clone()
        }
    }

    fn callback_again(&self, letter: &Letter, index: usize, mut headers: Headers, body: &Bytes) -> Outgoing {
        headers.push(header::DELIVERY, "0");
        Outgoing {
            subject: subject::callback(&letter.task_type, &letter.id, index),
            headers,
            body: body.clone(),
            message_id: Some(message_id(letter)),
            expect: Expect::Anything,
        }
    }
}

/// Headers that start with `Nats-` speak to the server.
fn is_of_server(name: &str) -> bool {
    name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"))
}

/// Names the letter: sending it again twice stores one message.
fn message_id(letter: &Letter) -> String {
    format!("{}.{}:resent:{}", letter.task_type, letter.id, letter.sequence)
}

fn keyless(letter: &Letter, task: &TaskEvent) -> Result<Outgoing, Error> {
    Ok(Outgoing { message_id: Some(message_id(letter)), ..framed(task.due_subject(), task)? })
}

/// As its submitter would publish it: who submits the same key meanwhile publishes the same message.
fn keyed(task: &TaskEvent, revision: u64) -> Result<Outgoing, Error> {
    let message_id = Some(format!("{}:{revision}", task.message_id(Hop::Intake)));
    Ok(Outgoing { message_id, ..framed(subject::task(&task.queue, task.priority, task.shard), task)? })
}

fn framed(subject: String, task: &TaskEvent) -> Result<Outgoing, Error> {
    let failed = |source: frame::FrameError| Error::Frame { subject: subject.clone(), source: Source::from(source) };
    let body = frame::encode_bundle([task]).map_err(failed)?.into();
    Ok(Outgoing { headers: Headers::new(), body, message_id: None, expect: Expect::Anything, subject })
}
