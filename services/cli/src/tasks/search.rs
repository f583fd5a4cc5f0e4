//! Looks for a task in the streams: what stands behind the leaders' windows, and what has been dispatched.

use crate::output::grouped;
use jetlane::{Bus, QueueName, TaskId, TaskType, TypeEntry};
use jetlane_bus::look::{LOOK_MESSAGES_MAX, Start, Stored};
use jetlane_bus::{Error, clock};
use jetlane_schemas::subject::{
    self, BUNDLE_ALL, DUE_ALL, LANE_ALL, Lane, LaneKind, STREAM_LANES, STREAM_TASKS, STREAM_TIME, SUBMIT_ALL, TASK_ALL,
};
use jetlane_schemas::{Micros, TaskEvent, frame, header, intake};
use std::time::Duration;
use tokio::time::Instant;

/// The most messages that one search reads.
const MESSAGES_MAX: u64 = 10_000;
/// How long one search may take.
const TIME_MAX: Duration = Duration::from_secs(2);
/// How far a submitter's clock may be ahead of the broker's before the search has to begin at the start.
const CLOCKS_APART_US: u64 = 1_000_000;

/// Where a task stands.
#[derive(Debug)]
pub(super) enum Place {
    /// In a flow of intake, before dispatch.
    Intake {
        /// The task.
        task: Box<TaskEvent>,
        /// The flow's subject.
        subject: String,
        /// Its message's sequence.
        sequence: u64,
        /// Messages of its flow that stand before it; absent where it has just left.
        ahead: Option<u64>,
        /// Whether it came by the open door.
        is_raw: bool,
    },
    /// In a lane: it has been dispatched.
    Lane {
        /// The lane.
        lane: Lane,
        /// Its type, where the message says it.
        task_type: Option<TaskType>,
        /// Its message's sequence.
        sequence: u64,
        /// Whether an executor has been given it.
        is_delivered: bool,
    },
}

/// A search and what it has left to spend.
#[derive(Debug)]
pub(super) struct Search<'a> {
    bus: &'a Bus,
    id: &'a TaskId,
    now: Micros,
    messages: u64,
    messages_max: u64,
    until: Instant,
    /// What was looked through, for people.
    pub(super) looked_at: Vec<String>,
}

impl<'a> Search<'a> {
    pub(super) fn of(bus: &'a Bus, id: &'a TaskId) -> Self {
        let until = Instant::now() + TIME_MAX;
        Self { bus, id, now: clock::now(), messages: 0, messages_max: MESSAGES_MAX, until, looked_at: Vec::new() }
    }

    /// Whether its bounds ended it: the task may stand where it has not looked.
    pub(super) fn is_cut(&self) -> bool {
        self.messages >= self.messages_max || Instant::now() >= self.until
    }

    /// Looks through the lanes, of one queue where it is known.
    pub(super) async fn in_lanes(&mut self, queue: Option<&QueueName>) -> Result<Option<Place>, Error> {
        for all in [BUNDLE_ALL, LANE_ALL] {
            let Some((stored, task_type)) = self.through(STREAM_LANES, &under(all, queue), read_lane).await? else {
                continue;
            };
            let Some(lane) = Lane::parse(&stored.subject) else { continue };
            let backlog = self.bus.backlog(STREAM_LANES, &lane.consumer()).await?;
            let is_delivered = backlog.is_some_and(|backlog| stored.sequence <= backlog.delivered);
            return Ok(Some(Place::Lane { lane, task_type, sequence: stored.sequence, is_delivered }));
        }
        Ok(None)
    }

    /// Looks through intake: what is due, what the SDK submitted, and the open door.
    pub(super) async fn in_intake(
        &mut self,
        task_type: Option<&TaskType>,
        queue: Option<&QueueName>,
    ) -> Result<Option<Place>, Error> {
        for (stream, all) in [(STREAM_TIME, DUE_ALL), (STREAM_TASKS, TASK_ALL)] {
            if let Some((stored, task)) = self.through(stream, &under(all, queue), read_frame).await? {
                return self.placed(stream, stored, task, false).await.map(Some);
            }
        }
        let filter = task_type.map_or_else(|| SUBMIT_ALL.to_owned(), subject::submit);
        match self.through_the_open_door(&filter).await? {
            Some((stored, task)) => self.placed(STREAM_TASKS, stored, task, true).await.map(Some),
            None => Ok(None),
        }
    }

    async fn placed(
        &self,
        stream: &'static str,
        stored: Stored,
        task: TaskEvent,
        is_raw: bool,
    ) -> Result<Place, Error> {
        let ahead = self.bus.ahead_of(stream, &stored.subject, stored.sequence).await?;
        let Stored { subject, sequence, .. } = stored;
        Ok(Place::Intake { task: Box::new(task), subject, sequence, ahead, is_raw })
    }

    /// Reads what our own processes wrote: from the time in the id on, then what stands before that.
    async fn through<T>(
        &mut self,
        stream: &str,
        filter: &str,
        read: fn(&TaskId, &Stored) -> Option<T>,
    ) -> Result<Option<(Stored, T)>, Error> {
        let before = self.messages;
        let since = made_at(self.id, self.now);
        let from = since.map_or(Start::Sequence(1), |at| Start::Time(Micros(at.0.saturating_sub(CLOCKS_APART_US))));
        let (mut found, first) = self.from(stream, filter, from, u64::MAX, read).await?;
        if found.is_none() && since.is_some() {
            found = self.from(stream, filter, Start::Sequence(1), first, read).await?.0;
        }
        self.note(before, filter);
        Ok(found)
    }

    /// Reads from here to before a sequence; also tells the first sequence that was there.
    async fn from<T>(
        &mut self,
        stream: &str,
        filter: &str,
        mut start: Start,
        before: u64,
        read: fn(&TaskId, &Stored) -> Option<T>,
    ) -> Result<(Option<(Stored, T)>, u64), Error> {
        let mut first = before;
        while !self.is_cut() {
            let batch = self.bus.look(stream, filter, start, LOOK_MESSAGES_MAX).await?;
            let Some(last) = batch.last().map(|stored| stored.sequence) else { break };
            first = first.min(batch[0].sequence);
            for stored in batch {
                if stored.sequence >= before || self.is_cut() {
                    return Ok((None, first));
                }
                self.messages += 1;
                if let Some(value) = read(self.id, &stored) {
                    return Ok((Some((stored, value)), first));
                }
            }
            start = Start::Sequence(last + 1);
        }
        Ok((None, first))
    }

    fn note(&mut self, before: u64, filter: &str) {
        let read = self.messages - before;
        let messages = if read == 1 { "message" } else { "messages" };
        self.looked_at.push(format!("{} {messages} of {filter}", grouped(read)));
    }

    /// Reads what anyone wrote, one message at a time. An id may name its sequence.
    async fn through_the_open_door(&mut self, filter: &str) -> Result<Option<(Stored, TaskEvent)>, Error> {
        let before = self.messages;
        let numbered = self.id.as_str().strip_prefix('s').and_then(|digits| digits.parse::<u64>().ok());
        let mut start = match (numbered, made_at(self.id, self.now)) {
            (Some(sequence), _) => Start::Sequence(sequence),
            (None, Some(at)) => Start::Time(Micros(at.0.saturating_sub(CLOCKS_APART_US))),
            (None, None) => Start::Sequence(1),
        };
        let mut found = None;
        while found.is_none() && !self.is_cut() {
            let Some(stored) = self.bus.look_at_next(STREAM_TASKS, filter, start).await? else { break };
            if numbered.is_some_and(|sequence| stored.sequence > sequence) {
                break;
            }
            self.messages += 1;
            start = Start::Sequence(stored.sequence + 1);
            found = read_raw(self.id, &stored).map(|task| (stored, task));
        }
        self.note(before, filter);
        Ok(found)
    }
}

/// The subjects of one queue among all of a kind.
fn under(all: &str, queue: Option<&QueueName>) -> String {
    match queue {
        Some(queue) => format!("{}{queue}.>", all.trim_end_matches('>')),
        None => all.to_owned(),
    }
}

/// When an id was made, where it says so. A time ahead is that of another clock, or none at all.
fn made_at(id: &TaskId, now: Micros) -> Option<Micros> {
    id.made_at().filter(|at| at.0 <= now.0.saturating_add(CLOCKS_APART_US))
}

fn read_frame(id: &TaskId, stored: &Stored) -> Option<TaskEvent> {
    let tasks = frame::decode_bundle(&stored.body).ok()?;
    tasks.into_iter().find(|task| task.id == *id)
}

fn read_lane(id: &TaskId, stored: &Stored) -> Option<Option<TaskType>> {
    match Lane::parse(&stored.subject)?.kind {
        LaneKind::Bundle => read_frame(id, stored).map(|task| Some(task.task_type)),
        LaneKind::Plain => {
            let is_it = stored.headers.get(header::TASK_ID) == Some(id.as_str());
            is_it.then(|| stored.headers.get(header::TASK_TYPE).and_then(|text| TaskType::new(text).ok()))
        }
    }
}

/// As the dispatcher reads it; what it will refuse has its id all the same.
fn read_raw(id: &TaskId, stored: &Stored) -> Option<TaskEvent> {
    let Some(jetlane::Flow::Raw(task_type)) = jetlane::Flow::parse(&stored.subject) else { return None };
    let entry = TypeEntry::new(QueueName::default_queue());
    let message = intake::Message {
        stream_sequence: stored.sequence,
        stored_at: stored.stored_at,
        headers: &stored.headers,
        body: &stored.body,
    };
    let task = match intake::read(&task_type, &entry, message, clock::parse_rfc3339) {
        Ok(task) => task,
        Err(refused) => *refused.task,
    };
    (task.id == *id).then_some(task)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_bus::local::{self, Options, Server};
    use jetlane_bus::publish::Expect;
    use jetlane_bus::topology::Settings;
    use jetlane_bus::{Connect, Outgoing};
    use jetlane_schemas::{Headers, Priority, Shard};

    /// A server with tasks of these ids in one flow.
    async fn place(ids: &[&str]) -> (Server, Bus) {
        let binary = local::find(|text| eprintln!("{text}")).await.expect("there is a nats-server");
        let server = Server::start(&binary, Options::default()).await.expect("it starts");
        let bus = Bus::connect(&Connect::to(server.url(), "test")).await.expect("it answers");
        bus.ensure(&Settings::default()).await.expect("made");
        let queue = QueueName::default_queue();
        for id in ids {
            let (id, task_type) = (TaskId::new(*id).expect("valid"), TaskType::new("a.b").expect("valid"));
            let task = TaskEvent::new(id, task_type, queue.clone(), clock::now(), Vec::new());
            let out = Outgoing {
                subject: subject::task(&queue, Priority::Normal, Shard::default()),
                headers: Headers::new(),
                body: frame::encode_bundle(&[task]).expect("a frame").into(),
                message_id: None,
                expect: Expect::Anything,
            };
            bus.publish(out).await.expect("stored");
        }
        (server, bus)
    }

    #[tokio::test]
    async fn a_task_whose_submitters_clock_is_ahead_is_found_all_the_same() {
        let ahead = Micros(clock::now().0 + 60_000_000);
        let id = format!("{:012x}70008000000000000001", ahead.0 / 1_000);
        let (_server, bus) = place(&["first", &id, "last"]).await;
        let id = TaskId::new(id).expect("valid");
        let mut search = Search { now: Micros(ahead.0 + 1_000_000), ..Search::of(&bus, &id) };
        let found = search.in_intake(None, None).await.expect("read");
        assert!(matches!(found, Some(Place::Intake { sequence: 2, ahead: Some(1), .. })), "{found:?}");
    }

    #[tokio::test]
    async fn a_search_ends_at_its_bounds_and_says_so() {
        let (_server, bus) = place(&["first", "second", "third"]).await;
        let id = TaskId::new("third").expect("valid");
        let mut search = Search { messages_max: 2, ..Search::of(&bus, &id) };
        assert!(search.in_intake(None, None).await.expect("read").is_none());
        assert_eq!((search.messages, search.is_cut()), (2, true));
        let mut late = Search { until: Instant::now(), ..Search::of(&bus, &id) };
        assert!(late.in_intake(None, None).await.expect("read").is_none());
        assert_eq!((late.messages, late.is_cut()), (0, true));
        let mut whole = Search::of(&bus, &id);
        assert!(whole.in_intake(None, None).await.expect("read").is_some());
    }

    #[test]
    fn an_id_tells_when_it_was_made_only_where_it_can() {
        let now = clock::now();
        let at = made_at(&TaskId::generate(), now).expect("made by the SDK");
        assert!(now.0.abs_diff(at.0) < 1_000_000);
        let id = |text: &str| TaskId::new(text).expect("valid");
        let known = id("0190b8f2-7c1e-7000-8000-000000000001");
        assert_eq!(made_at(&known, now), Some(Micros(0x0190_b8f2_7c1e * 1_000)));
        for none in ["s17", "ffffffffffff70008000000000000001"] {
            assert_eq!(made_at(&id(none), now), None, "{none}");
        }
    }

    #[test]
    fn the_subjects_of_one_queue_are_fewer() {
        let queue = QueueName::new("q").expect("valid");
        assert_eq!(under(BUNDLE_ALL, Some(&queue)), format!("{}q.>", BUNDLE_ALL.trim_end_matches('>')));
        assert_eq!(under(BUNDLE_ALL, None), BUNDLE_ALL);
    }
}
