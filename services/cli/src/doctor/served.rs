//! Types and queues that nobody serves: what waits there waits for ever, without any error.

use super::{Check, grouped, told};
use crate::announce::{Announced, announced, waiting};
use futures::{StreamExt, TryStreamExt};
use jetlane::{Bus, Flow, Priority, QueueEntry, QueueName, TaskType};
use jetlane_bus::Error;
use jetlane_bus::kv::Watched;
use jetlane_schemas::subject::{
    self, BUCKET_LEASES, BUCKET_REGISTRY, DUE_ALL, Lane, LaneKind, STREAM_LANES, STREAM_TASKS, STREAM_TIME, TASK_ALL,
};
use std::collections::{BTreeMap, BTreeSet};

const TYPES: &str = "types";
const QUEUES: &str = "queues";

/// Questions to the server in flight at once.
const QUESTIONS_IN_FLIGHT: usize = 16;

/// What is known of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Found {
    /// Somebody dispatches it.
    leader: bool,
    /// Somebody pulls from its lanes, or runs what is in them.
    executors: bool,
    /// Somebody has paused it.
    paused: bool,
    /// Tasks before dispatch and in its lanes.
    waiting: u64,
}

/// Checks every type and queue that is announced or waited for.
pub(super) async fn check(bus: &Bus) -> Vec<Check> {
    match look(bus).await {
        Ok((announced, waiting, found)) => {
            let mut checks = types(&announced, &waiting);
            checks.extend(queues(&found));
            checks
        }
        Err(error) => {
            vec![Check::fail(
                TYPES,
                told(&error),
                "Give this account the right to read streams, consumers and buckets.",
            )]
        }
    }
}

type Looked = (Announced, BTreeMap<TaskType, u64>, BTreeMap<QueueName, Found>);

async fn look(bus: &Bus) -> Result<Looked, Error> {
    let announced = announced(bus).await?;
    let waiting = waiting(bus).await?;
    let leaders = leaders(bus).await?;
    let mut found: BTreeMap<QueueName, Found> =
        announced.all_queues().into_iter().map(|queue| (queue.clone(), Found::default())).collect();
    for stream_and_subjects in [(STREAM_TASKS, TASK_ALL), (STREAM_TIME, DUE_ALL)] {
        let (stream, subjects) = stream_and_subjects;
        for (subject, count) in bus.subject_counts(stream, subjects).await? {
            if let Some(Flow::Task(queue, ..) | Flow::Due(queue, ..)) = Flow::parse(&subject) {
                // Also a queue that nobody has announced.
                found.entry(queue).or_default().waiting += count;
            }
        }
    }
    for (task_type, count) in &waiting {
        if let Some(queue) = announced.types.get(task_type).and_then(|entry| found.get_mut(&entry.queue)) {
            queue.waiting += count;
        }
    }
    for (queue, found) in &mut found {
        found.leader = leaders.contains(&subject::lease_queue(queue));
        let entry = announced.queues.get(queue).cloned().unwrap_or_default();
        found.paused = entry.paused;
        let (pulled, pending) = lanes(bus, queue, &entry).await?;
        found.executors = pulled;
        found.waiting += pending;
    }
    Ok((announced, waiting, found))
}

/// The keys of all leases that are held.
async fn leaders(bus: &Bus) -> Result<BTreeSet<String>, Error> {
    let mut watch = bus.bucket(BUCKET_LEASES).await?.watch(">").await?;
    let mut held = BTreeSet::new();
    while let Some(Watched::Change(change)) = watch.next().await {
        match change.value {
            Some(_) => held.insert(change.key),
            None => held.remove(&change.key),
        };
    }
    Ok(held)
}

/// Whether anybody pulls from the lanes of a queue or runs what is in them; and what waits there.
async fn lanes(bus: &Bus, queue: &QueueName, entry: &QueueEntry) -> Result<(bool, u64), Error> {
    let lanes = entry.fits.iter().flat_map(|fit| {
        Priority::ALL.into_iter().flat_map(move |priority| {
            let lane = move |kind| Lane { kind, queue: queue.clone(), priority, fit: fit.clone() };
            [lane(LaneKind::Bundle), lane(LaneKind::Plain)]
        })
    });
    let consumers: Vec<String> = lanes.map(|lane| lane.consumer()).collect();
    let backlogs = futures::stream::iter(consumers)
        .map(|consumer| async move { bus.backlog(STREAM_LANES, &consumer).await })
        .buffer_unordered(QUESTIONS_IN_FLIGHT);
    let all: Vec<_> = backlogs.try_collect().await?;
    let there = || all.iter().flatten();
    let pulled = there().any(|backlog| backlog.waiting_pulls + backlog.unanswered > 0);
    Ok((pulled, there().map(|backlog| backlog.pending).sum()))
}

fn types(announced: &Announced, waiting: &BTreeMap<TaskType, u64>) -> Vec<Check> {
    let unknown = waiting.iter().filter(|(task_type, _)| !announced.types.contains_key(task_type));
    let mut checks: Vec<Check> = unknown
        .map(|(task_type, count)| {
            let detail = format!("nobody serves {task_type}: {} of its tasks wait", grouped(*count));
            let help = format!("Start an executor that serves it, or: jetlane types set {task_type} --queue QUEUE");
            Check::warn(TYPES, detail, help)
        })
        .collect();
    checks.extend(announced.unreadable.iter().map(|(key, why)| {
        let detail = format!("{key} in {BUCKET_REGISTRY} is no announcement: {why}");
        Check::warn(TYPES, detail, "Announce it again: `jetlane types set`, or start its executor.")
    }));
    if checks.is_empty() {
        checks.push(Check::ok(TYPES, format!("{} announced, none waits without", announced.types.len())));
    }
    checks
}

fn queues(found: &BTreeMap<QueueName, Found>) -> Vec<Check> {
    let mut checks: Vec<Check> = found.iter().filter_map(|(queue, found)| problem(queue, *found)).collect();
    if checks.is_empty() {
        let idle = found.iter().filter(|(_, found)| !found.executors).map(|(queue, _)| queue.as_str());
        let idle: Vec<&str> = idle.collect();
        let note = if idle.is_empty() { String::new() } else { format!("; no executor now: {}", idle.join(", ")) };
        checks.push(Check::ok(QUEUES, format!("{} known, each with a leader{note}", found.len())));
    }
    checks
}

fn problem(queue: &QueueName, found: Found) -> Option<Check> {
    let waiting = grouped(found.waiting);
    match found {
        Found { leader: false, .. } => Some(Check::fail(
            QUEUES,
            format!("queue {queue} has no leader: nothing of it is dispatched, {waiting} wait"),
            "Start a dispatcher: `jetlane run dispatcher`. If one runs, its log says why it does not lead this queue.",
        )),
        Found { waiting: 0, .. } => None,
        Found { paused: true, .. } => Some(Check::warn(
            QUEUES,
            format!("queue {queue} is paused, {waiting} wait"),
            format!("Set `paused` to false in the key {} of {BUCKET_REGISTRY}.", subject::registry_queue(queue)),
        )),
        Found { executors: false, .. } => Some(Check::warn(
            QUEUES,
            format!("nobody serves the queue {queue}: no executor pulls from it, {waiting} wait"),
            format!("Start an executor of the queue {queue}."),
        )),
        Found { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn one(found: Found) -> Check {
        let queue = QueueName::new("q").expect("valid");
        queues(&BTreeMap::from([(queue, found)])).remove(0)
    }

    #[test]
    fn what_nobody_has_announced_and_what_waits_of_it_is_told() {
        let name = TaskType::new("a.b").expect("valid");
        let checks = types(&Announced::default(), &BTreeMap::from([(name, 1_200)]));
        assert_eq!((checks.len(), checks[0].state), (1, State::Warn));
        assert!(checks[0].detail.contains("nobody serves a.b: 1,200"), "{}", checks[0].detail);
        assert_eq!(types(&Announced::default(), &BTreeMap::new())[0].state, State::Ok);
    }

    #[test]
    fn a_queue_without_a_leader_fails_and_one_without_executors_is_warned_of_while_tasks_wait() {
        let well = Found { leader: true, executors: true, paused: false, waiting: 7 };
        assert_eq!(one(well).state, State::Ok);
        assert_eq!(one(Found { leader: false, ..well }).state, State::Fail);
        let idle = Found { executors: false, ..well };
        assert_eq!(one(idle).state, State::Warn);
        assert!(one(idle).detail.contains("no executor"));
        assert_eq!(one(Found { waiting: 0, ..idle }).state, State::Ok);
        assert!(one(Found { paused: true, ..idle }).detail.contains("paused"));
    }
}
