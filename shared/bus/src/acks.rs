//! Acks of publishes, heard on one subscription of the connection: publishes that go out together wait
//! together, so that a hundred of them cost one wait. Acks that submitters receive too come on a subscription for all
//! types of as many tokens.

use crate::connection::ANSWER_TIMEOUT;
use crate::ingest::{self, Word};
use crate::subjects;
use async_nats::{Client, HeaderMap, StatusCode, Subject};
use bytes::Bytes;
use futures::StreamExt;
use jetlane_schemas::{TaskType, subject};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

/// What the server said to one publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Stored under this sequence; of several that were stored together, that of the last.
    Stored(u64),
    /// Stored before, under this sequence.
    Duplicate(u64),
    /// Refused, with the server's code and words.
    Refused(u64, String),
    /// No stream takes the subject.
    NoStream,
    /// Nothing, in time or before the connection was lost: it may be stored.
    Unknown,
}

/// A publish on its way.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) subject: Subject,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Publishes of one connection whose acks are waited for.
#[derive(Debug)]
pub(crate) struct Acks {
    inbox: String,
    waiting: Arc<Mutex<Waiting>>,
    room: Semaphore,
    room_max: usize,
    hearing: Mutex<JoinSet<()>>,
    /// The name of this connection where acks are heard by others too.
    name: String,
    /// Of how many tokens the types are of which it hears such acks: a few, however many types there are.
    shared: tokio::sync::Mutex<HashSet<usize>>,
}

/// The batches that wait, by the number of their first publish.
#[derive(Debug)]
struct Waiting {
    next: u64,
    batches: BTreeMap<u64, Batch>,
    /// Counts the connections, as far as was looked.
    connection: u64,
    connections: watch::Receiver<u64>,
    /// A stream has said that it takes no batches, as those that were made before do not.
    singly: bool,
}

#[derive(Debug)]
struct Batch {
    answers: Vec<Answer>,
    missing: usize,
    /// The connection that it was sent over.
    connection: u64,
    told: oneshot::Sender<Vec<Answer>>,
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().expect("nobody panics while holding the acks that are waited for")
}

impl Acks {
    /// Begins to hear acks; at most `room` publishes wait at once.
    ///
    /// # Errors
    /// Where the client cannot subscribe.
    pub(crate) async fn hear(
        client: &Client,
        connections: watch::Receiver<u64>,
        room: usize,
    ) -> Result<Self, async_nats::SubscribeError> {
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.>")).await?;
        let waiting = Arc::new(Mutex::new(Waiting::over(connections.clone())));
        let mut hearing = JoinSet::new();
        hearing.spawn(hear_and_end(subscriber, Arc::clone(&waiting), connections));
        let hearing = Mutex::new(hearing);
        let name = inbox.rsplit('.').next().unwrap_or_default().to_owned();
        let (room, room_max) = (Semaphore::new(room), room);
        Ok(Self { inbox, waiting, room, room_max, hearing, name, shared: tokio::sync::Mutex::default() })
    }

    /// Sends all of these, and waits until each is answered or nothing more is to be expected. The
    /// answers have the order of the publishes.
    ///
    /// # Errors
    /// Where the client refuses one: it is too large, or its subject is none. What was sent before it may
    /// be stored.
    pub(crate) async fn publish(
        &self,
        client: &Client,
        all: Vec<Sending>,
    ) -> Result<Vec<Answer>, async_nats::PublishError> {
        let begin = |_| format!("{}.", self.inbox);
        let end = |subject: &mut String, first, place| {
            write!(subject, "{}", first + place as u64).expect("a string takes everything");
        };
        self.send(client, all, begin, end).await
    }

    /// The same of publishes into one stream, with one answer for all where there are enough of them: those up to the
    /// first that was not stored are stored, the rest is unknown.
    ///
    /// # Errors
    /// As for [`Acks::publish`].
    pub(crate) async fn publish_together(
        &self,
        client: &Client,
        all: Vec<Sending>,
    ) -> Result<Vec<Answer>, async_nats::PublishError> {
        let count = all.len();
        if count < ingest::TOGETHER_MIN || lock(&self.waiting).singly {
            return self.publish(client, all).await;
        }
        let begin = |first| ingest::replies(&self.inbox, &self.name, first);
        self.send(client, all, begin, |subject, _, place| ingest::end_reply(subject, place, count)).await
    }

    /// Sends all of these. `begin` makes what their reply subjects begin with, of the number of the first; `end` appends
    /// the rest, of that and the place.
    async fn send(
        &self,
        client: &Client,
        all: Vec<Sending>,
        begin: impl FnOnce(u64) -> String,
        end: impl Fn(&mut String, u64, usize),
    ) -> Result<Vec<Answer>, async_nats::PublishError> {
        let count = all.len();
        let wanted = u32::try_from(count.min(self.room_max)).unwrap_or(u32::MAX);
        let _room = self.room.acquire_many(wanted).await.expect("the room for publishes is never closed");
        let (told, answers) = oneshot::channel();
        let first = lock(&self.waiting).begin(count, told);
        let _forgotten = Forget { waiting: &self.waiting, first };
        let replies = subjects::replies(&begin(first), count, |reply, place| end(reply, first, place));
        for (sending, reply) in all.into_iter().zip(replies) {
            let Sending { subject, headers, body } = sending;
            if headers.is_empty() {
                client.publish_with_reply(subject, reply, body).await?;
            } else {
                client.publish_with_reply_and_headers(subject, reply, headers, body).await?;
            }
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, answers).await {
            Ok(Ok(answers)) => Ok(answers),
            // The connection is closed for good.
            Ok(Err(_)) => Ok(vec![Answer::Unknown; count]),
            Err(_) => Ok(lock(&self.waiting).end(first).unwrap_or_else(|| vec![Answer::Unknown; count])),
        }
    }
}

impl Acks {
    /// Sends one completion whose ack its submitters hear too, and before it what they are told once they have.
    ///
    /// # Errors
    /// As for [`Acks::publish`].
    pub(crate) async fn publish_told(
        &self,
        client: &Client,
        task_type: &TaskType,
        told: Bytes,
        sending: Sending,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        self.share(client, task_type).await?;
        let _room = self.room.acquire().await.expect("the room for publishes is never closed");
        let (answered, answers) = oneshot::channel();
        let number = lock(&self.waiting).begin(1, answered);
        let _forgotten = Forget { waiting: &self.waiting, first: number };
        client.publish(subject::told_ahead(task_type, &self.name, number), told).await?;
        let reply = subject::acked(task_type, &self.name, number);
        client.publish_with_reply_and_headers(sending.subject, reply, sending.headers, sending.body).await?;
        match tokio::time::timeout(ANSWER_TIMEOUT, answers).await {
            Ok(Ok(mut answers)) => Ok(answers.pop().unwrap_or(Answer::Unknown)),
            Ok(Err(_)) | Err(_) => Ok(Answer::Unknown),
        }
    }

    /// Hears acks that are others' too.
    async fn share(&self, client: &Client, task_type: &TaskType) -> Result<(), async_nats::SubscribeError> {
        let tokens = task_type.as_str().split('.').count();
        let mut shared = self.shared.lock().await;
        if shared.contains(&tokens) {
            return Ok(());
        }
        let subscriber = client.subscribe(subject::acked_of_types(tokens, &self.name)).await?;
        let heard = hear(subscriber, Arc::clone(&self.waiting));
        self.hearing.lock().expect("nobody panics while beginning to hear acks").spawn(heard);
        shared.insert(tokens);
        Ok(())
    }
}

/// Whether the server's answer to a publish says that it is stored.
pub(crate) fn says_stored(body: &[u8]) -> bool {
    matches!(read(None, body), Answer::Stored(_))
}

/// Takes a batch that nobody waits for any more out of the list.
struct Forget<'a> {
    waiting: &'a Mutex<Waiting>,
    first: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.waiting).batches.remove(&self.first);
    }
}

impl Waiting {
    fn over(mut connections: watch::Receiver<u64>) -> Self {
        connections.mark_unchanged();
        Self { next: 0, batches: BTreeMap::new(), connection: 0, connections, singly: false }
    }

    fn begin(&mut self, count: usize, told: oneshot::Sender<Vec<Answer>>) -> u64 {
        self.look_for_connection();
        let first = self.next;
        self.next += count as u64;
        let (answers, connection) = (vec![Answer::Unknown; count], self.connection);
        self.batches.insert(first, Batch { answers, missing: count, connection, told });
        first
    }

    /// Takes note of a new connection. Costs the reading of a number, and no lock.
    fn look_for_connection(&mut self) {
        if self.connections.has_changed().unwrap_or(false) {
            self.connections.mark_unchanged();
            self.connection += 1;
        }
    }

    fn take(&mut self, number: u64, answer: Answer) {
        let Some((first, batch)) = self.batches.range_mut(..=number).next_back() else { return };
        let (first, place) = (*first, usize::try_from(number - first).unwrap_or(usize::MAX));
        let Some(place) = batch.answers.get_mut(place).filter(|place| **place == Answer::Unknown) else { return };
        *place = answer;
        batch.missing -= 1;
        if batch.missing == 0
            && let Some(batch) = self.batches.remove(&first)
        {
            // Who has stopped waiting need not be told.
            let _gone = batch.told.send(batch.answers);
        }
    }

    /// The last word on publishes that went together: so many of them are stored, from the first.
    fn conclude(&mut self, first: u64, word: Word) {
        self.singly |= word == Word::Disabled;
        let Some(mut batch) = self.batches.remove(&first) else { return };
        if let Word::Stored { count, sequence } = word {
            batch.answers.iter_mut().take(count).for_each(|answer| *answer = Answer::Stored(sequence));
        }
        let _gone = batch.told.send(batch.answers);
    }

    fn end(&mut self, first: u64) -> Option<Vec<Answer>> {
        self.batches.remove(&first).map(|batch| batch.answers)
    }

    /// Ends what was sent over an earlier connection: nothing of it will be answered. What has gone over the new one
    /// since is waited for.
    fn end_earlier(&mut self) {
        self.look_for_connection();
        let now = self.connection;
        // The numbers grow, and so do the connections.
        let first = self.batches.iter().find(|(_, batch)| batch.connection == now).map(|(number, _)| *number);
        let new = first.map(|first| self.batches.split_off(&first)).unwrap_or_default();
        for (_, batch) in std::mem::replace(&mut self.batches, new) {
            let _gone = batch.told.send(batch.answers);
        }
    }

    /// Nothing of what was sent will be answered.
    fn end_all(&mut self) {
        for (_, batch) in std::mem::take(&mut self.batches) {
            let _gone = batch.told.send(batch.answers);
        }
    }
}

/// Hears acks, and ends what a lost connection leaves without one: one task a connection does so.
async fn hear_and_end(
    mut acks: async_nats::Subscriber,
    waiting: Arc<Mutex<Waiting>>,
    mut connections: watch::Receiver<u64>,
) {
    loop {
        tokio::select! {
            biased;
            ack = acks.next() => match ack {
                Some(ack) => take(&waiting, &ack),
                None => break,
            },
            changed = connections.changed() => match changed {
                Ok(()) => lock(&waiting).end_earlier(),
                Err(_) => break,
            },
        }
    }
    lock(&waiting).end_all();
}

async fn hear(mut acks: async_nats::Subscriber, waiting: Arc<Mutex<Waiting>>) {
    while let Some(ack) = acks.next().await {
        take(&waiting, &ack);
    }
}

fn take(waiting: &Mutex<Waiting>, ack: &async_nats::Message) {
    if let Some(first) = ingest::batch_of(&ack.subject) {
        let is_taken = ack.status != Some(StatusCode::NO_RESPONDERS);
        if let Some(word) = if is_taken { ingest::last_word(&ack.payload) } else { Some(Word::Refused) } {
            lock(waiting).conclude(first, word);
        }
        return;
    }
    let number = ack.subject.rsplit('.').next().and_then(|number| number.parse().ok());
    if let Some(number) = number {
        lock(waiting).take(number, read(ack.status, &ack.payload));
    }
}

#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    error: Option<Refusal>,
}

/// Why the server refuses, as it says so in its answers.
#[derive(Deserialize)]
pub(crate) struct Refusal {
    #[serde(default)]
    pub(crate) err_code: u64,
    /// A status as HTTP has it: all there is where the server has no code of its own.
    #[serde(default)]
    code: u64,
    #[serde(default)]
    description: String,
}

/// Reads the answer to a publish.
pub(crate) fn read(status: Option<StatusCode>, body: &[u8]) -> Answer {
    if status == Some(StatusCode::NO_RESPONDERS) {
        return Answer::NoStream;
    }
    match serde_json::from_slice(body) {
        Ok(PubAck { error: Some(Refusal { err_code: 0, code, description }), .. }) => {
            Answer::Refused(code, description)
        }
        Ok(PubAck { error: Some(Refusal { err_code, description, .. }), .. }) => Answer::Refused(err_code, description),
        Ok(PubAck { seq, duplicate: true, .. }) => Answer::Duplicate(seq),
        Ok(PubAck { seq, .. }) if seq > 0 => Answer::Stored(seq),
        // Whatever it is, it is no word on the publish.
        Ok(_) | Err(_) => Answer::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::stage::place;

    fn waiting() -> (watch::Sender<u64>, Waiting) {
        let (connections, seen) = watch::channel(1);
        (connections, Waiting::over(seen))
    }

    #[test]
    fn the_servers_words_are_understood() {
        let read = |body: &str| read(None, body.as_bytes());
        assert_eq!(read(r#"{"stream":"S","seq":7}"#), Answer::Stored(7));
        assert_eq!(read(r#"{"stream":"S","seq":7,"duplicate":true,"domain":"d"}"#), Answer::Duplicate(7));
        let refused =
            r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"},"stream":"S","seq":0}"#;
        assert_eq!(read(refused), Answer::Refused(10_071, "wrong last sequence: 1".into()));
        let not_leader = r#"{"error":{"code":503,"description":"raft: not leader"},"stream":"S","seq":0}"#;
        assert_eq!(read(not_leader), Answer::Refused(503, "raft: not leader".into()));
        assert_eq!(read("{}"), Answer::Unknown);
        assert_eq!(read("+OK"), Answer::Unknown);
        assert_eq!(super::read(Some(StatusCode::NO_RESPONDERS), b""), Answer::NoStream);
    }

    #[test]
    fn acks_find_their_batch_in_any_order_and_are_counted_once() {
        let (_connections, mut waiting) = waiting();
        let (first, mut first_told) = oneshot::channel();
        let (second, mut second_told) = oneshot::channel();
        assert_eq!((waiting.begin(2, first), waiting.begin(2, second)), (0, 2));
        waiting.take(3, Answer::Stored(4));
        waiting.take(3, Answer::Stored(9));
        waiting.take(0, Answer::Stored(1));
        assert!(first_told.try_recv().is_err() && second_told.try_recv().is_err());
        waiting.take(1, Answer::Duplicate(2));
        waiting.take(2, Answer::Stored(3));
        assert_eq!(first_told.try_recv(), Ok(vec![Answer::Stored(1), Answer::Duplicate(2)]));
        assert_eq!(second_told.try_recv(), Ok(vec![Answer::Stored(3), Answer::Stored(4)]));
        waiting.take(0, Answer::Stored(1));
        waiting.take(77, Answer::Stored(1));
        assert!(waiting.batches.is_empty());
    }

    #[test]
    fn of_those_that_went_together_so_many_are_stored_as_the_last_word_says() {
        let (_connections, mut waiting) = waiting();
        let (told, mut answers) = oneshot::channel();
        let first = waiting.begin(3, told);
        waiting.conclude(first + 1, Word::Refused);
        waiting.conclude(first, Word::Stored { count: 2, sequence: 9 });
        assert_eq!(answers.try_recv(), Ok(vec![Answer::Stored(9), Answer::Stored(9), Answer::Unknown]));
        assert!(!waiting.singly);
        let (told, mut answers) = oneshot::channel();
        let first = waiting.begin(2, told);
        waiting.conclude(first, Word::Disabled);
        assert_eq!(answers.try_recv(), Ok(vec![Answer::Unknown, Answer::Unknown]));
        assert!(waiting.singly, "the next go singly");
    }

    #[test]
    fn new_connection_ends_what_went_over_the_old_one_and_nothing_else() {
        let (connections, mut waiting) = waiting();
        let (old, mut old_answers) = oneshot::channel();
        waiting.begin(1, old);
        connections.send_modify(|count| *count += 1);
        let (new, mut new_answers) = oneshot::channel();
        let first = waiting.begin(1, new);
        waiting.end_earlier();
        assert_eq!(old_answers.try_recv(), Ok(vec![Answer::Unknown]));
        assert!(new_answers.try_recv().is_err(), "its ack may still come");
        waiting.end_earlier();
        waiting.take(first, Answer::Stored(3));
        assert_eq!(new_answers.try_recv(), Ok(vec![Answer::Stored(3)]));
    }

    #[tokio::test]
    async fn completions_of_many_types_cost_a_few_subscriptions() {
        const TYPES: usize = 200;
        let (_server, bus) = place().await;
        for number in 0..TYPES {
            let task_type = TaskType::new(format!("a{}.b{number}", ".x".repeat(number % 3))).expect("valid");
            let (headers, body) = (HeaderMap::new(), Bytes::from_static(b"{}"));
            let subject = Subject::from(format!("jetlane.dead.default.test.t{number}"));
            let sending = Sending { subject, headers, body };
            let told = Bytes::from_static(b"told");
            let answer = bus.acks.publish_told(&bus.client, &task_type, told, sending).await.expect("sent");
            assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
        }
        let hearing = bus.acks.hearing.lock().expect("no panic").len();
        assert!(hearing <= 1 + 3, "{hearing} subscriptions for {TYPES} types");
    }

    #[test]
    fn a_lost_connection_tells_what_was_answered_and_the_rest_is_unknown() {
        let (_connections, mut waiting) = waiting();
        let (told, mut answers) = oneshot::channel();
        waiting.begin(2, told);
        waiting.take(1, Answer::Stored(4));
        waiting.end_all();
        assert_eq!(answers.try_recv(), Ok(vec![Answer::Unknown, Answer::Stored(4)]));
    }
}
