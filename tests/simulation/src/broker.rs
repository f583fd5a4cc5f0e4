//! A model of JetStream as Jetlane uses it, without I/O and without a clock of its own: streams with a message-id
//! window and expected sequences, work-queue consumers with ack wait and redelivery, schedules, and KV buckets
//! (streams of one message a key, with a time to live).
//!
//! Taken over from measurements (design, decisions 2, 7, 10): an ack or a sign of life of a stale delivery counts
//! as one of the current delivery; acks of a deleted consumer count no more; a consumer that is paused delivers
//! nothing; whoever waits with a pull gets what comes next.

use crate::world::{MS, SECOND, Time};
use jetlane_schemas::{Outcome, RunToken, TaskEvent};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Streams and buckets. A bucket is a stream whose subjects are its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Submissions.
    Tasks,
    /// Schedules, and what is due.
    Time,
    /// What was dispatched.
    Lanes,
    /// Completions.
    Done,
    /// Dead letters.
    Dead,
    /// Callbacks that are to be delivered.
    Callbacks,
    /// Begin marks and cancelled ids.
    Notes,
    /// Claims of keys.
    Claims,
    /// Leases of leaders.
    Leases,
}

impl Stream {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Tasks,
        Self::Time,
        Self::Lanes,
        Self::Done,
        Self::Dead,
        Self::Callbacks,
        Self::Notes,
        Self::Claims,
        Self::Leases,
    ];
}

/// Where a message lies in its stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The intake of a priority, by its rank.
    Submit(usize),
    /// What is due of a priority.
    Due(usize),
    /// The bundle lane of a priority.
    Lane(usize),
    /// A completion, dead letter, cancellation or claim: one a task.
    Of(Rc<str>),
    /// The schedule of a run.
    Schedule(Rc<str>, u32),
    /// A callback.
    Callback(Rc<str>, usize),
    /// The begin mark of a task.
    Mark(Rc<str>),
    /// The lease of the queue.
    Lease,
    /// What leaders of the queue were given.
    Delivered,
}

/// A completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The task's id.
    pub id: Rc<str>,
    /// How it ended.
    pub outcome: Outcome,
    /// The run that ended it; 0 for none.
    pub run: u32,
    /// Whose it is.
    pub token: RunToken,
    /// How many callbacks it has.
    pub callbacks: usize,
    /// Why it failed, in a word.
    pub code: &'static str,
}

/// A claim of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// A submitter has made it; its message is on its way.
    Submitted,
    /// The message that holds it.
    Held {
        /// Whether it lies in TIME rather than in TASKS.
        in_time: bool,
        /// Its sequence.
        sequence: u64,
    },
    /// Its task has completed.
    Released,
}

/// What a message carries.
#[derive(Debug, Clone)]
pub enum Body {
    /// One to K tasks.
    Tasks(Rc<[Rc<TaskEvent>]>),
    /// A completion.
    Done(Rc<Record>),
    /// The process that holds a lease.
    Holder(usize),
    /// The last sequence that leaders were given, by flow.
    Delivered(Rc<[u64]>),
    /// A run that began.
    Mark {
        /// The mark.
        mark: jetlane_core::run::Mark,
        /// Who began it last.
        token: RunToken,
        /// In which process.
        owner: usize,
    },
    /// A claim.
    Claim(Claim),
    /// Its subject says all.
    Nothing,
}

/// A stored message.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its subject.
    pub subject: Subject,
    /// Its body.
    pub body: Body,
    /// When it was stored.
    pub at: Time,
    schedule: Option<(Time, Subject)>,
}

/// What must be true of the subject of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// This is the sequence of its last message; 0 for none.
    Last(u64),
}

/// A publish.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The stream.
    pub stream: Stream,
    /// The subject.
    pub subject: Subject,
    /// The body.
    pub body: Body,
    /// Names the exact content.
    pub id: Option<Rc<str>>,
    /// What must be true.
    pub expect: Expect,
    /// How long it is kept.
    pub ttl: Option<Time>,
    /// When it is published again, and where.
    pub schedule: Option<(Time, Subject)>,
}

impl Publish {
    /// A publish that expects nothing.
    pub fn new(stream: Stream, subject: Subject, body: Body) -> Self {
        Self { stream, subject, body, id: None, expect: Expect::Anything, ttl: None, schedule: None }
    }
}

/// The server's answer to a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Stored under this sequence.
    Stored(u64),
    /// Stored before, under this sequence.
    Duplicate(u64),
    /// The subject's last message is another one.
    WrongLast,
}

/// A consumer: of one subject, for a leader of this epoch (0 for lanes).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerName {
    /// Its stream.
    pub stream: Stream,
    /// Its subject.
    pub subject: Subject,
    /// Its epoch.
    pub epoch: u64,
}

/// A delivery of a message; whoever has it can ack it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Of which consumer.
    pub consumer: ConsumerName,
    /// The sequence of its message.
    pub sequence: u64,
    /// How often the message has been delivered.
    pub delivered: u64,
    /// When it was stored.
    pub stored_at: Time,
    /// When it was sent.
    pub sent_at: Time,
    /// Its body.
    pub body: Body,
    /// The pull that it answers.
    pub pull: u64,
    /// Who asked.
    pub to: usize,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    delivered: u64,
    deadline: Time,
}

#[derive(Debug, Clone, Copy)]
struct Pull {
    number: u64,
    to: usize,
    left: u32,
    expires: Time,
}

#[derive(Debug)]
struct Consumer {
    ack_wait: Time,
    next: u64,
    pending: BTreeMap<u64, Pending>,
    deadlines: BTreeSet<(Time, u64)>,
    again: BTreeSet<u64>,
    pulls: VecDeque<Pull>,
    is_paused: bool,
    delivered_max: u64,
}

#[derive(Debug, Default)]
struct Store {
    messages: BTreeMap<u64, Stored>,
    last: u64,
    by_subject: BTreeMap<Subject, BTreeSet<u64>>,
    ids: BTreeMap<Rc<str>, (u64, Time)>,
    /// No leader answers until then.
    electing_until: Time,
}

/// What happens by itself at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Expire(Stream, u64),
    Fire(u64),
    Redeliver(ConsumerName),
    Deliver(Stream),
}

/// The bounds of the model.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a message id is remembered.
    pub dedup_window: Time,
}

/// The broker.
#[derive(Debug)]
pub struct Broker {
    settings: Settings,
    stores: BTreeMap<Stream, Store>,
    consumers: BTreeMap<ConsumerName, Consumer>,
    due: BTreeSet<(Time, Due)>,
    /// What is on its way to those who pull.
    pub outbox: Vec<Delivery>,
    /// Completions that were stored and nobody has seen.
    pub completed: Vec<Rc<Record>>,
    pulls: u64,
}

impl Broker {
    /// A broker with empty streams.
    pub fn new(settings: Settings) -> Self {
        let stores = Stream::ALL.into_iter().map(|stream| (stream, Store::default())).collect();
        Self {
            settings,
            stores,
            consumers: BTreeMap::new(),
            due: BTreeSet::new(),
            outbox: Vec::new(),
            completed: Vec::new(),
            pulls: 0,
        }
    }

    fn store(&mut self, stream: Stream) -> &mut Store {
        self.stores.get_mut(&stream).expect("all streams are made")
    }

    fn peek(&self, stream: Stream) -> &Store {
        &self.stores[&stream]
    }

    /// Whether nobody answers for a stream.
    pub fn is_electing(&self, stream: Stream, now: Time) -> bool {
        self.peek(stream).electing_until > now
    }

    /// The stream has no leader until then; pulls that wait are lost.
    pub fn elect(&mut self, stream: Stream, until: Time) {
        let store = self.store(stream);
        store.electing_until = store.electing_until.max(until);
        self.consumers.iter_mut().filter(|(name, _)| name.stream == stream).for_each(|(_, c)| c.pulls.clear());
        self.due.insert((until, Due::Deliver(stream)));
    }

    /// Stores a message.
    pub fn publish(&mut self, now: Time, publish: &Publish) -> Answer {
        let window = self.settings.dedup_window;
        let store = self.store(publish.stream);
        if let Some(id) = &publish.id
            && let Some((sequence, at)) = store.ids.get(id)
            && now < at + window
        {
            return Answer::Duplicate(*sequence);
        }
        let last = store.by_subject.get(&publish.subject).and_then(|all| all.last().copied()).unwrap_or(0);
        if let Expect::Last(expected) = publish.expect
            && expected != last
        {
            return Answer::WrongLast;
        }
        // A bucket keeps one message a key, and a schedule takes the place of the one before.
        let is_key = matches!(publish.stream, Stream::Notes | Stream::Claims | Stream::Leases);
        if last > 0 && (is_key || publish.schedule.is_some()) {
            self.remove(publish.stream, last);
        }
        let store = self.store(publish.stream);
        store.last += 1;
        let sequence = store.last;
        if let Some(id) = &publish.id {
            store.ids.insert(Rc::clone(id), (sequence, now));
        }
        let message = Stored {
            subject: publish.subject.clone(),
            body: publish.body.clone(),
            at: now,
            schedule: publish.schedule.clone(),
        };
        if let (Stream::Done, Body::Done(record)) = (publish.stream, &publish.body) {
            self.completed.push(Rc::clone(record));
        }
        let store = self.store(publish.stream);
        store.by_subject.entry(publish.subject.clone()).or_default().insert(sequence);
        store.messages.insert(sequence, message);
        if let Some(ttl) = publish.ttl {
            self.due.insert((now + ttl, Due::Expire(publish.stream, sequence)));
        }
        if let Some((at, _)) = &publish.schedule {
            self.due.insert((*at, Due::Fire(sequence)));
        }
        self.deliver(publish.stream, now);
        Answer::Stored(sequence)
    }

    fn remove(&mut self, stream: Stream, sequence: u64) -> Option<Stored> {
        let store = self.store(stream);
        let removed = store.messages.remove(&sequence)?;
        if let Some(all) = store.by_subject.get_mut(&removed.subject) {
            all.remove(&sequence);
            if all.is_empty() {
                store.by_subject.remove(&removed.subject);
            }
        }
        Some(removed)
    }

    /// Deletes a key, if this is its last revision.
    pub fn delete(&mut self, stream: Stream, subject: &Subject, revision: u64) {
        if self.last(stream, subject).is_some_and(|(sequence, _)| sequence == revision) {
            self.remove(stream, revision);
        }
    }

    /// Removes all messages of these subjects.
    pub fn purge(&mut self, stream: Stream, is_so: impl Fn(&Subject) -> bool) {
        let of_subjects = self.peek(stream).by_subject.iter().filter(|(subject, _)| is_so(subject));
        let all: Vec<u64> = of_subjects.flat_map(|(_, all)| all.iter().copied()).collect();
        all.into_iter().for_each(|sequence| drop(self.remove(stream, sequence)));
    }

    /// The last message of a subject.
    pub fn last(&self, stream: Stream, subject: &Subject) -> Option<(u64, &Stored)> {
        let store = self.peek(stream);
        let sequence = store.by_subject.get(subject)?.last()?;
        Some((*sequence, store.messages.get(sequence)?))
    }

    /// Whether a stream has the message of this sequence.
    pub fn holds(&self, stream: Stream, sequence: u64) -> bool {
        self.peek(stream).messages.contains_key(&sequence)
    }

    /// All messages of a stream.
    pub fn messages(&self, stream: Stream) -> impl Iterator<Item = &Stored> {
        self.peek(stream).messages.values()
    }

    /// How many messages a stream holds.
    pub fn len(&self, stream: Stream) -> usize {
        self.peek(stream).messages.len()
    }

    /// Makes a consumer unless it is there.
    pub fn ensure_consumer(&mut self, name: &ConsumerName, ack_wait: Time) {
        self.consumers.entry(name.clone()).or_insert_with(|| Consumer {
            ack_wait,
            next: 1,
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            again: BTreeSet::new(),
            pulls: VecDeque::new(),
            is_paused: false,
            delivered_max: 0,
        });
    }

    /// The consumers of a stream's flows, whatever their epochs.
    pub fn consumers(&self, stream: Stream) -> Vec<ConsumerName> {
        self.consumers.keys().filter(|name| name.stream == stream).cloned().collect()
    }

    /// Delivers nothing more by a consumer.
    pub fn pause_consumer(&mut self, name: &ConsumerName) {
        if let Some(consumer) = self.consumers.get_mut(name) {
            consumer.is_paused = true;
        }
    }

    /// Up to which sequence a consumer has delivered.
    pub fn delivered(&self, name: &ConsumerName) -> Option<u64> {
        self.consumers.get(name).map(|consumer| consumer.delivered_max)
    }

    /// Deletes a consumer.
    pub fn delete_consumer(&mut self, name: &ConsumerName) {
        self.consumers.remove(name);
    }

    /// Asks for messages; the number of the pull, `None` where there is no such consumer.
    pub fn pull(&mut self, now: Time, name: &ConsumerName, to: usize, messages: u32, expires: Time) -> Option<u64> {
        let consumer = self.consumers.get_mut(name)?;
        self.pulls += 1;
        let number = self.pulls;
        consumer.pulls.push_back(Pull { number, to, left: messages, expires });
        self.deliver_by(name, now);
        Some(number)
    }

    /// Forgets the pulls of a process that is gone.
    pub fn forget_pulls(&mut self, to: usize) {
        self.consumers.values_mut().for_each(|consumer| consumer.pulls.retain(|pull| pull.to != to));
    }

    /// Acks a delivery: the message leaves its work queue, whichever delivery this is of.
    pub fn ack(&mut self, delivery: &Delivery) {
        let Some(consumer) = self.consumers.get_mut(&delivery.consumer) else { return };
        let was_pending = consumer.pending.remove(&delivery.sequence).is_some();
        if was_pending || consumer.again.remove(&delivery.sequence) {
            self.remove(delivery.consumer.stream, delivery.sequence);
        }
    }

    /// Delivers a message again after a time.
    pub fn nak(&mut self, now: Time, delivery: &Delivery, after: Time) {
        self.set_deadline(delivery, now + after);
    }

    /// Extends a delivery; answered whether or not it is the current one.
    pub fn in_progress(&mut self, now: Time, delivery: &Delivery) {
        let Some(ack_wait) = self.consumers.get(&delivery.consumer).map(|c| c.ack_wait) else { return };
        self.set_deadline(delivery, now + ack_wait);
    }

    fn set_deadline(&mut self, delivery: &Delivery, deadline: Time) {
        let Some(consumer) = self.consumers.get_mut(&delivery.consumer) else { return };
        let Some(pending) = consumer.pending.get_mut(&delivery.sequence) else { return };
        consumer.deadlines.remove(&(pending.deadline, delivery.sequence));
        pending.deadline = deadline;
        consumer.deadlines.insert((deadline, delivery.sequence));
        self.due.insert((deadline, Due::Redeliver(delivery.consumer.clone())));
    }

    /// Delivers a message that is in somebody's hands once more, now.
    pub fn deliver_again(&mut self, now: Time, stream: Stream) {
        let found = self.consumers.iter().filter(|(name, _)| name.stream == stream).find_map(|(name, consumer)| {
            consumer.pending.first_key_value().map(|(sequence, pending)| (name.clone(), *sequence, pending.deadline))
        });
        let Some((name, sequence, deadline)) = found else { return };
        if let Some(consumer) = self.consumers.get_mut(&name) {
            consumer.deadlines.remove(&(deadline, sequence));
            consumer.deadlines.insert((now, sequence));
            if let Some(pending) = consumer.pending.get_mut(&sequence) {
                pending.deadline = now;
            }
        }
        self.deliver_by(&name, now);
    }

    /// When something happens by itself.
    pub fn next_at(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Lets happen what is due.
    pub fn tick(&mut self, now: Time) {
        while let Some((at, _)) = self.due.first()
            && *at <= now
        {
            let Some((_, due)) = self.due.pop_first() else { return };
            match due {
                Due::Expire(stream, sequence) => drop(self.remove(stream, sequence)),
                Due::Fire(sequence) => self.fire(now, sequence),
                Due::Redeliver(name) => self.deliver_by(&name, now),
                Due::Deliver(stream) => self.deliver(stream, now),
            }
        }
    }

    fn fire(&mut self, now: Time, sequence: u64) {
        if self.is_electing(Stream::Time, now) {
            self.due.insert((now + 100 * MS, Due::Fire(sequence)));
            return;
        }
        if let Some(Stored { body, schedule: Some((_, target)), .. }) = self.remove(Stream::Time, sequence) {
            self.publish(now, &Publish::new(Stream::Time, target, body));
        }
    }

    fn deliver(&mut self, stream: Stream, now: Time) {
        let names: Vec<ConsumerName> = self
            .consumers
            .iter()
            .filter(|(n, c)| n.stream == stream && !c.pulls.is_empty())
            .map(|(n, _)| n.clone())
            .collect();
        names.iter().for_each(|name| self.deliver_by(name, now));
    }

    fn deliver_by(&mut self, name: &ConsumerName, now: Time) {
        if self.is_electing(name.stream, now) {
            return;
        }
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let Some(store) = self.stores.get(&name.stream) else { return };
        while let Some((at, sequence)) = consumer.deadlines.first().copied()
            && at <= now
        {
            consumer.deadlines.pop_first();
            consumer.again.insert(sequence);
        }
        if consumer.is_paused {
            return;
        }
        loop {
            while consumer.pulls.front().is_some_and(|pull| pull.left == 0 || pull.expires <= now) {
                consumer.pulls.pop_front();
            }
            let Some(pull) = consumer.pulls.front_mut() else { return };
            let again = consumer.again.pop_first();
            let fresh = || {
                let all = store.by_subject.get(&name.subject)?;
                all.range(consumer.next..).next().copied()
            };
            let Some(sequence) = again.or_else(fresh) else { return };
            let Some(message) = store.messages.get(&sequence) else {
                consumer.pending.remove(&sequence);
                continue;
            };
            consumer.next = consumer.next.max(sequence + 1);
            consumer.delivered_max = consumer.delivered_max.max(sequence);
            let delivered = consumer.pending.get(&sequence).map_or(1, |pending| pending.delivered + 1);
            let deadline = now + consumer.ack_wait;
            consumer.pending.insert(sequence, Pending { delivered, deadline });
            consumer.deadlines.insert((deadline, sequence));
            self.due.insert((deadline, Due::Redeliver(name.clone())));
            pull.left -= 1;
            self.outbox.push(Delivery {
                consumer: name.clone(),
                sequence,
                delivered,
                stored_at: message.at,
                sent_at: now,
                body: message.body.clone(),
                pull: pull.number,
                to: pull.to,
            });
        }
    }
}

/// How long the server waits for a sign of a held message of intake.
pub const FLOW_ACK_WAIT: Time = 5 * SECOND;
/// The lease of a run.
pub const LANE_ACK_WAIT: Time = 10 * SECOND;
