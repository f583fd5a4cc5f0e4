//! What clients in any language answer to the tasks of a plain lane: their acks are overheard, and a
//! refusal for good is the end of a task that only this leader can tell of.

use super::Leader;
use super::output::{Beside, Carried};
use crate::carry::{self, Joins};
use crate::names;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jetlane_bus::{Message, clock};
use jetlane_core::estimate::Observed;
use jetlane_core::{EntryId, Event};
use jetlane_schemas::subject::{Lane, LaneKind};
use jetlane_schemas::{Completion, Failure, Outcome, TaskEvent};
use std::collections::BTreeMap;
use std::time::Duration;

/// Answers kept for messages that are on their way; of more, the oldest go.
const EARLY_MAX: usize = 1_024;
/// How often it is tried to end a task that its client refused for good: nobody else can.
const END_TRIES_MAX: u32 = 600;
const END_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Completions of refused tasks that wait to be stored, beside all other work: while DONE is full they must not stop
/// dispatch. Beyond so many they count as work, so that memory stays bounded.
const ENDINGS_MAX: usize = 1_024;

/// Completions that are being stored for clients that refused their tasks for good.
pub(crate) type Endings = FuturesUnordered<BoxFuture<'static, Carried>>;

/// What was sent to the plain lanes of a queue and not yet answered.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Tasks of this leader in plain lanes, by the sequence of their message. A few each.
    sent: BTreeMap<u64, Sent>,
    /// Answers to messages of which the broker has not yet said that they are stored: a client may be faster.
    early: BTreeMap<u64, Bytes>,
}

/// A task in a plain lane.
#[derive(Debug)]
struct Sent {
    lane: Lane,
    task: TaskEvent,
    counted: Counts,
}

/// What the last count said of a task's lane.
#[derive(Debug, PartialEq, Eq)]
enum Counts {
    Unknown,
    /// Nothing lies there; the answer may be on its way still.
    Empty,
}

impl Answers {
    /// A task was stored in a plain lane.
    fn sent(&mut self, sequence: u64, task: &TaskEvent) {
        let (queue, priority, fit) = (task.queue.clone(), task.priority, task.fit.clone());
        let lane = Lane { kind: LaneKind::Plain, queue, priority, fit };
        self.sent.insert(sequence, Sent { lane, task: task.clone(), counted: Counts::Unknown });
    }

    /// An answer to a message of which nothing is known yet.
    fn came_early(&mut self, sequence: u64, answer: Bytes) {
        self.early.insert(sequence, answer);
        if self.early.len() > EARLY_MAX {
            self.early.pop_first();
        }
    }

    /// Nothing is on its way any more: what came early and is still here is of no message of this leader.
    pub(super) fn all_known(&mut self) {
        self.early.clear();
    }

    /// Nothing lies in a lane. What was sent there is forgotten at the second such count: until then its
    /// answer may be on its way, and a refusal that is missed would be the end of its task.
    pub(super) fn counted_empty(&mut self, lane: &Lane) {
        self.sent.retain(|_, sent| {
            sent.lane != *lane || std::mem::replace(&mut sent.counted, Counts::Empty) == Counts::Unknown
        });
    }

    /// Whether an answer from a lane is awaited.
    pub(super) fn awaits(&self, lane: &Lane) -> bool {
        self.sent.values().any(|sent| sent.lane == *lane)
    }
}

impl Leader {
    pub(super) fn take_answer(&mut self, message: &Message) {
        let Some(sequence) = names::answered_sequence(&message.subject) else { return };
        if !settles(&message.body) {
            return;
        }
        if self.clients.answers.sent.contains_key(&sequence) {
            self.answered(sequence, &message.body);
        } else if self.on_the_way > 0 {
            self.clients.answers.came_early(sequence, message.body.clone());
        }
    }

    /// A task was stored in a plain lane; a client may have answered it before this was known.
    pub(super) fn sent_plain(&mut self, sequence: u64, entry: EntryId) {
        if let Some(held) = self.held.get(&entry) {
            self.clients.answers.sent(sequence, &held.task);
        }
    }

    /// What came before it was known that its message is stored.
    pub(super) fn take_early(&mut self, sequence: u64) {
        if let Some(answer) = self.clients.answers.early.remove(&sequence) {
            self.answered(sequence, &answer);
        }
    }

    fn answered(&mut self, sequence: u64, answer: &[u8]) {
        let Some(Sent { lane, mut task, .. }) = self.clients.answers.sent.remove(&sequence) else { return };
        if let Some(fit) = self.core.fit(&lane.fit) {
            self.core.on(clock::now(), Event::PlainSettled { priority: lane.priority, fit, tasks: 1 });
        }
        self.upkeep.moved();
        let reason = terminated(answer);
        if reason.is_none() {
            self.tell_answered(&task);
        }
        self.run_was_answered(&task, if reason.is_none() { Observed::Whole } else { Observed::AtLeast });
        if let Some(reason) = reason {
            // The server has removed the message already: nobody else can end its task.
            let bus = self.world.bus.clone();
            let room = if self.endings.len() < ENDINGS_MAX { &mut self.endings } else { &mut self.works };
            room.push(Box::pin(async move {
                let span = carry::end_span(&mut task, Outcome::Failed, Joins::Child);
                let failure = Failure::new("terminated", reason);
                let mut tries = 1;
                let ended = loop {
                    match carry::end(&bus, &task, Outcome::Failed, failure.clone(), &span).await {
                        Ok(true) => break Ok(()),
                        Ok(false) | Err(_) if tries < END_TRIES_MAX => tries += 1,
                        ended => break ended.map(|_| ()),
                    }
                    tokio::time::sleep(END_AGAIN_AFTER).await;
                };
                Carried::Beside(Beside::Written("end a terminated task", ended))
            }));
        }
    }

    /// A client without an SDK completes a task and tells nobody: submitters hear of it from here.
    fn tell_answered(&mut self, task: &TaskEvent) {
        let bus = self.world.bus.clone();
        // What its canceller may not have known.
        let own = Completion::of(task, Outcome::Cancelled, clock::now());
        self.works.push(Box::pin(async move {
            let told = async {
                let Some(done) = bus.read_done(&own.task_type, &own.id).await? else { return Ok(()) };
                bus.tell(std::iter::once(&done)).await;
                if let Some(claim) = &own.claim {
                    bus.end_claim(&own.task_type, claim, &own.id).await?;
                }
                match done.filled_from(&own) {
                    Some(_) => bus.trigger_of(&done, &own).await,
                    None => Ok(()),
                }
            };
            Carried::Beside(Beside::Written("tell of a completion", told.await))
        }));
    }
}

/// Whether an answer ends the delivery: an ack, also with a request for the next one, or a refusal for good.
fn settles(body: &[u8]) -> bool {
    body.is_empty() || [&b"+ACK"[..], b"+NXT", b"+TERM"].iter().any(|word| body.starts_with(word))
}

/// The reason of a refusal for good.
fn terminated(body: &[u8]) -> Option<String> {
    let reason = body.strip_prefix(b"+TERM")?;
    let reason = String::from_utf8_lossy(reason).trim().to_owned();
    Some(if reason.is_empty() { "its executor refused it for good".into() } else { reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::{Micros, Priority, QueueName, TaskId, TaskType};

    fn task(id: &str) -> TaskEvent {
        let (id, task_type) = (TaskId::new(id).expect("valid"), TaskType::new("a.b").expect("valid"));
        TaskEvent::new(id, task_type, QueueName::default_queue(), Micros(0), Vec::new())
    }

    #[test]
    fn what_was_sent_is_forgotten_at_the_second_empty_count_only() {
        let mut answers = Answers::default();
        answers.sent(1, &task("a"));
        let lane = answers.sent[&1].lane.clone();
        answers.counted_empty(&lane);
        answers.sent(2, &task("b"));
        assert!(answers.sent.contains_key(&1), "its answer may be on its way");
        answers.counted_empty(&Lane { priority: Priority::Critical, ..lane.clone() });
        answers.counted_empty(&lane);
        assert_eq!(answers.sent.keys().collect::<Vec<_>>(), [&2]);
    }

    #[test]
    fn of_answers_to_what_is_on_its_way_the_oldest_go() {
        let mut answers = Answers::default();
        (0..=EARLY_MAX as u64).for_each(|sequence| answers.came_early(sequence, Bytes::new()));
        assert_eq!((answers.early.len(), answers.early.first_key_value().map(|(at, _)| *at)), (EARLY_MAX, Some(1)));
    }

    #[test]
    fn only_an_end_settles() {
        for (body, ends) in
            [("", true), ("+ACK", true), ("+NXT 1", true), ("+TERM bad", true), ("-NAK", false), ("+WPI", false)]
        {
            assert_eq!(settles(body.as_bytes()), ends, "{body:?}");
        }
        assert_eq!(terminated(b"+TERM disk full"), Some("disk full".into()));
        assert_eq!(terminated(b"+ACK"), None);
    }
}
