//! What is known of every queue: its announcement, who leads it, who serves it, and what waits.

use crate::announce::{Announced, announced, waiting};
use futures::{StreamExt, TryStreamExt};
use jetlane::{Bus, Flow, Priority, QueueEntry, QueueName, TaskType};
use jetlane_bus::Error;
use jetlane_bus::kv::Watched;
use jetlane_schemas::subject::{
    self, BUCKET_LEASES, DUE_ALL, Lane, LaneKind, STREAM_LANES, STREAM_TASKS, STREAM_TIME, TASK_ALL,
};
use std::collections::{BTreeMap, BTreeSet};

/// Questions to the server in flight at once.
const QUESTIONS_IN_FLIGHT: usize = 16;

/// What is known of a queue.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Found {
    /// Its announcement; nobody has announced it where there is none.
    pub(crate) entry: Option<QueueEntry>,
    /// The types that its executors serve.
    pub(crate) types: BTreeSet<TaskType>,
    /// Who dispatches it.
    pub(crate) leader: Option<String>,
    /// Whether somebody pulls from its lanes, or runs what is in them.
    pub(crate) executors: bool,
    /// Messages before dispatch, retries and hand-backs included.
    pub(crate) before_dispatch: u64,
    /// Messages that wait in its lanes.
    pub(crate) in_lanes: u64,
}

impl Found {
    /// What waits, wherever it does.
    pub(crate) fn waiting(&self) -> u64 {
        self.before_dispatch + self.in_lanes
    }

    /// Whether somebody has paused it.
    pub(crate) fn is_paused(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.paused)
    }
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) announced: Announced,
    /// Tasks of each type that wait in the open door.
    pub(crate) waiting: BTreeMap<TaskType, u64>,
    pub(crate) queues: BTreeMap<QueueName, Found>,
}

/// Looks at all queues that are announced, or that something waits for.
pub(crate) async fn look(bus: &Bus) -> Result<Looked, Error> {
    let announced = announced(bus).await?;
    let waiting = waiting(bus).await?;
    let mut leaders = leaders(bus).await?;
    let mut queues: BTreeMap<QueueName, Found> =
        announced.all_queues().into_iter().map(|queue| (queue.clone(), Found::default())).collect();
    for (stream, subjects) in [(STREAM_TASKS, TASK_ALL), (STREAM_TIME, DUE_ALL)] {
        for (subject, count) in bus.subject_counts(stream, subjects).await? {
            if let Some(Flow::Task(queue, ..) | Flow::Due(queue, ..)) = Flow::parse(&subject) {
                // Also a queue that nobody has announced.
                queues.entry(queue).or_default().before_dispatch += count;
            }
        }
    }
    for (task_type, entry) in &announced.types {
        let found = queues.entry(entry.queue.clone()).or_default();
        found.types.insert(task_type.clone());
        found.before_dispatch += waiting.get(task_type).copied().unwrap_or(0);
    }
    for (queue, found) in &mut queues {
        found.leader = leaders.remove(&subject::lease_queue(queue));
        found.entry = announced.queues.get(queue).cloned();
        (found.executors, found.in_lanes) = lanes(bus, queue, found.entry.as_ref()).await?;
    }
    Ok(Looked { announced, waiting, queues })
}

/// The keys of all leases that are held, and who holds them.
pub(crate) async fn leaders(bus: &Bus) -> Result<BTreeMap<String, String>, Error> {
    let mut watch = bus.bucket(BUCKET_LEASES).await?.watch(">").await?;
    let mut held = BTreeMap::new();
    while let Some(Watched::Change(change)) = watch.next().await {
        match change.value {
            Some(holder) => held.insert(change.key, String::from_utf8_lossy(&holder).into_owned()),
            None => held.remove(&change.key),
        };
    }
    Ok(held)
}

/// Whether anybody pulls from the lanes of a queue or runs what is in them; and what waits there.
async fn lanes(bus: &Bus, queue: &QueueName, entry: Option<&QueueEntry>) -> Result<(bool, u64), Error> {
    let fits = entry.cloned().unwrap_or_default().all_fits();
    let lanes = fits.iter().flat_map(|fit| {
        Priority::ALL.into_iter().flat_map(move |priority| {
            let lane = move |kind| Lane { kind, queue: queue.clone(), priority, fit: fit.name.clone() };
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
