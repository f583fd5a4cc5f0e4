//! Messages at the public intake whose type nobody has announced: no leader reads them. One whose deadline passes,
//! or that was kept for as long as such tasks are, is ended here. Every dispatcher looks; the first completion wins.

use crate::carry::{self, Joins};
use crate::config::Config;
use crate::error::Error;
use crate::read::UNKNOWN_TYPE;
use crate::registry::Known;
use jetlane_bus::look::Start;
use jetlane_bus::{Bus, Fault, clock};
use jetlane_schemas::intake::{self, Message};
use jetlane_schemas::subject::{self, STREAM_TASKS, SUBMIT_ALL};
use jetlane_schemas::{Failure, Flow, Micros, Outcome, QueueName, TaskEvent, TaskType, TypeEntry};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked. A deadline is missed by as much.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same where so many types are made up that counting them costs.
const LOOK_EVERY_AT_MOST: Duration = Duration::from_secs(10);
/// The types that are counted each second.
const TYPES_CHEAP: usize = 10_000;
/// The most types that are counted: as many subjects as the server tells at once.
const TYPES_MAX: usize = 100_000;
/// The most messages whose end is remembered. Those beyond are looked at once these have gone.
const ENDS_MAX: usize = 16_384;
/// The most messages that are looked at in a round, and the most that are ended.
const A_ROUND: usize = 256;
/// The pause after the broker has refused the end of a task for good.
const END_AGAIN_AFTER: Micros = Micros(60_000_000);
/// How often it is said that tasks wait which nobody serves.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// How many of the types are named.
const NAMED_MAX: usize = 5;

/// Looks for as long as the dispatcher runs.
pub(crate) async fn watch(bus: Bus, config: Config, registry: Known) -> Result<(), Error> {
    let (mut ends, mut said) = (Ends::default(), None::<Instant>);
    loop {
        let types = match round(&bus, &config, &registry, &mut ends).await {
            Ok(waiting) => {
                if !waiting.is_empty() && said.is_none_or(|at| at.elapsed() >= SAID_EVERY) {
                    said = Some(Instant::now());
                    say(&waiting);
                }
                waiting.len()
            }
            Err(error) => {
                tracing::debug!(%error, "The public intake could not be looked through; trying again.");
                0
            }
        };
        tokio::time::sleep(if types > TYPES_CHEAP { LOOK_EVERY_AT_MOST } else { LOOK_EVERY }).await;
    }
}

fn say(waiting: &BTreeMap<TaskType, u64>) {
    let (types, tasks) = (waiting.len(), waiting.values().sum::<u64>());
    let named: Vec<&str> = waiting.keys().take(NAMED_MAX).map(TaskType::as_str).collect();
    tracing::warn!(types, tasks, such_as = %named.join(", "), "Tasks wait that nobody serves: no executor has announced their types.");
}

/// One look: which types wait, when their messages end, and the end of those that are due.
async fn round(
    bus: &Bus,
    config: &Config,
    registry: &Known,
    ends: &mut Ends,
) -> Result<BTreeMap<TaskType, u64>, jetlane_bus::Error> {
    let counts = bus.subject_counts_up_to(STREAM_TASKS, SUBMIT_ALL, TYPES_MAX).await?;
    let known = registry.borrow().clone();
    let waiting: BTreeMap<TaskType, u64> = counts
        .into_iter()
        .filter_map(|(subject, count)| match Flow::parse(&subject)? {
            Flow::Raw(task_type) if known.task_type(&task_type).is_none() => Some((task_type, count)),
            Flow::Raw(_) | Flow::Task(..) | Flow::Due(..) => None,
        })
        .collect();
    ends.keep(&waiting);
    for _ in 0..A_ROUND {
        let Some((task_type, from)) = ends.to_look_at(&waiting) else { break };
        let stored = bus.look_at_next(STREAM_TASKS, &subject::submit(&task_type), Start::Sequence(from)).await?;
        match stored {
            Some(stored) => {
                let task = read(&task_type, stored.sequence, stored.stored_at, &stored.headers, &stored.body);
                let kept = Micros(stored.stored_at.0.saturating_add(config.unserved_kept().0));
                ends.found(task_type, stored.sequence, task.deadline.map_or(kept, |deadline| deadline.min(kept)));
            }
            None => ends.looked_through(task_type),
        }
    }
    for due in ends.due(clock::now(), A_ROUND) {
        match end(bus, &due.task_type, due.sequence).await {
            Ok(()) => ends.ended(&due),
            // Another message may still be ended: this one is tried again a while later.
            Err(error) if error.fault() == Fault::Final => {
                let Due { task_type, sequence, .. } = &due;
                tracing::warn!(%task_type, sequence, %error, "Could not end a task that nobody serves; trying again later.");
                ends.put_off(&due, END_AGAIN_AFTER);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(waiting)
}

/// The task of a message, whatever its options are worth: a type that nobody has announced has no defaults.
fn read(
    task_type: &TaskType,
    sequence: u64,
    stored_at: Micros,
    headers: &jetlane_schemas::Headers,
    body: &[u8],
) -> TaskEvent {
    let entry = TypeEntry::new(QueueName::default_queue());
    let message = Message { stream_sequence: sequence, stored_at, headers, body };
    intake::read(task_type, &entry, message, clock::parse_rfc3339).unwrap_or_else(|refused| *refused.task)
}

/// Ends the task of a message, and takes the message out of the stream.
async fn end(bus: &Bus, task_type: &TaskType, sequence: u64) -> Result<(), jetlane_bus::Error> {
    let filter = subject::submit(task_type);
    let stored = bus.look_at_next(STREAM_TASKS, &filter, Start::Sequence(sequence)).await?;
    let Some(stored) = stored.filter(|stored| stored.sequence == sequence) else { return Ok(()) };
    let mut task = read(task_type, sequence, stored.stored_at, &stored.headers, &stored.body);
    let is_late = task.deadline.is_some_and(|deadline| deadline < clock::now());
    let (outcome, failure) = if is_late {
        let text = "it had not started by its deadline: nobody has announced its type";
        (Outcome::Expired, Failure::new("expired", text))
    } else {
        (Outcome::Rejected, Failure::new(UNKNOWN_TYPE, "nobody announced its type for as long as such tasks are kept"))
    };
    let span = carry::end_span(&mut task, outcome, Joins::Child);
    if carry::end(bus, &task, outcome, failure, &span).await? {
        tracing::warn!(task_id = %task.id, %task_type, %outcome, "A task ended that nobody serves.");
        bus.delete_sequence(STREAM_TASKS, sequence).await?;
    }
    Ok(())
}

/// When the messages end that nobody reads, as far as they were looked at.
#[derive(Debug, Default)]
struct Ends {
    by_time: BTreeMap<(Micros, u64), TaskType>,
    types: BTreeMap<TaskType, Looked>,
}

/// How far a type was looked through.
#[derive(Debug, Default)]
struct Looked {
    /// The sequence from which on it is looked next.
    next: u64,
    /// Messages whose end is known.
    known: u64,
}

impl Ends {
    /// Forgets types that are served or gone, and looks those through again of which messages went.
    fn keep(&mut self, waiting: &BTreeMap<TaskType, u64>) {
        self.types.retain(|task_type, looked| waiting.get(task_type).is_some_and(|count| looked.known <= *count));
        let types = &self.types;
        self.by_time.retain(|_, task_type| types.contains_key(task_type));
    }

    /// A type with messages that were not looked at, and from where on; `None` where there is none, or no room.
    fn to_look_at(&self, waiting: &BTreeMap<TaskType, u64>) -> Option<(TaskType, u64)> {
        if self.by_time.len() >= ENDS_MAX {
            return None;
        }
        let known = |task_type| self.types.get(task_type).map_or((0, 1), |looked| (looked.known, looked.next));
        waiting.iter().find_map(|(task_type, count)| {
            let (known, next) = known(task_type);
            (known < *count).then(|| (task_type.clone(), next))
        })
    }

    /// A message was looked at.
    fn found(&mut self, task_type: TaskType, sequence: u64, end: Micros) {
        let looked = self.types.entry(task_type.clone()).or_default();
        (looked.next, looked.known) = (sequence + 1, looked.known + 1);
        self.by_time.insert((end, sequence), task_type);
    }

    /// Nothing more was there: what was counted has gone meanwhile.
    fn looked_through(&mut self, task_type: TaskType) {
        self.types.entry(task_type).or_default().known = u64::MAX;
    }

    /// What ends by now, the first `most` of it.
    fn due(&self, now: Micros, most: usize) -> Vec<Due> {
        let due = self.by_time.range(..(now, 0)).take(most);
        due.map(|((end, sequence), task_type)| Due { end: *end, sequence: *sequence, task_type: task_type.clone() })
            .collect()
    }

    /// A message has ended.
    fn ended(&mut self, due: &Due) {
        self.by_time.remove(&(due.end, due.sequence));
        if let Some(looked) = self.types.get_mut(&due.task_type) {
            looked.known = looked.known.saturating_sub(1);
        }
    }

    /// A message ends later.
    fn put_off(&mut self, due: &Due, by: Micros) {
        if let Some(task_type) = self.by_time.remove(&(due.end, due.sequence)) {
            self.by_time.insert((Micros(clock::now().0.saturating_add(by.0)), due.sequence), task_type);
        }
    }
}

/// A message that ends by now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Due {
    end: Micros,
    sequence: u64,
    task_type: TaskType,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<TaskType, u64> {
        counts.into_iter().map(|(name, count)| (name.parse().expect("a type"), count)).collect()
    }

    fn task_type(name: &str) -> TaskType {
        name.parse().expect("a type")
    }

    #[test]
    fn messages_are_looked_at_once_and_end_in_the_order_of_their_times() {
        let (mut ends, waiting) = (Ends::default(), waiting([("a.b", 2), ("a.c", 1)]));
        let mut sequence = 0;
        while let Some((task_type, from)) = ends.to_look_at(&waiting) {
            sequence += 1;
            assert!(from <= sequence);
            ends.found(task_type, sequence, Micros(100 - sequence));
        }
        assert_eq!(sequence, 3);
        ends.keep(&waiting);
        assert_eq!(ends.to_look_at(&waiting), None);
        assert_eq!(ends.due(Micros(97), 9), []);
        let due = ends.due(Micros(99), 9);
        assert_eq!(due.iter().map(|due| due.sequence).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(ends.due(Micros(200), 1).len(), 1);
        ends.ended(&due[0]);
        assert_eq!(ends.due(Micros(98), 9), []);
        ends.put_off(&due[1], Micros(1_000));
        assert_eq!(ends.due(Micros(99), 9), [], "one that is refused keeps no other waiting");
        assert!(ends.due(Micros(u64::MAX), 9).iter().any(|due| due.sequence == 2), "it is tried again");
    }

    #[test]
    fn type_that_is_announced_is_forgotten_and_one_that_lost_messages_is_looked_through_again() {
        let mut ends = Ends::default();
        ends.found(task_type("a.b"), 1, Micros(1));
        ends.found(task_type("a.c"), 2, Micros(2));
        ends.found(task_type("a.c"), 3, Micros(3));
        let left = waiting([("a.c", 1)]);
        ends.keep(&left);
        assert_eq!((ends.due(Micros(9), 9), ends.to_look_at(&left)), (vec![], Some((task_type("a.c"), 1))));
    }

    #[test]
    fn no_more_ends_are_remembered_than_there_is_room_for() {
        let (mut ends, waiting) = (Ends::default(), waiting([("a.b", u64::MAX)]));
        let mut sequence = 0;
        while let Some((task_type, _)) = ends.to_look_at(&waiting) {
            sequence += 1;
            ends.found(task_type, sequence, Micros(sequence));
        }
        assert_eq!(sequence, ENDS_MAX as u64);
    }

    #[test]
    fn what_was_counted_and_has_gone_is_not_looked_for_again_in_this_round() {
        let (mut ends, waiting) = (Ends::default(), waiting([("a.b", 1)]));
        ends.looked_through(task_type("a.b"));
        assert_eq!(ends.to_look_at(&waiting), None);
        ends.keep(&waiting);
        assert!(ends.to_look_at(&waiting).is_some(), "in the next round it is");
    }
}
