//! What waits in the streams, polled: which flows there are, and what nobody serves.

use crate::error::Error;
use crate::names::ALL;
use crate::readiness::Readiness;
use crate::registry::{Known, Registry};
use jetlane_bus::Bus;
use jetlane_schemas::Flow;
use jetlane_schemas::subject::{DUE_ALL, STREAM_TASKS, STREAM_TIME};
use jetlane_service::health::Heartbeat;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often the streams are asked. What lay in a flow before its first publish could be heard waits so long
/// to be seen.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// What is due is counted every so many polls: a retry of a flow that was never used can wait a second.
const DUE_EVERY: u32 = 2;
/// How often it is said again that nobody serves something: every so many polls.
const WARN_EVERY: u32 = 120;

/// The flows with messages in them, and how many.
pub(crate) type Seen = watch::Receiver<Arc<BTreeMap<Flow, u64>>>;

/// Polls for as long as the dispatcher runs.
pub(crate) fn watch(
    bus: &Bus,
    registry: Known,
    readiness: &Readiness,
    helpers: &mut JoinSet<Result<(), Error>>,
) -> Seen {
    let (told, seen) = watch::channel(Arc::default());
    helpers.spawn(poll(bus.clone(), registry, told, readiness.heartbeat("discovery")));
    seen
}

async fn poll(
    bus: Bus,
    registry: Known,
    told: watch::Sender<Arc<BTreeMap<Flow, u64>>>,
    beat: Heartbeat,
) -> Result<(), Error> {
    let mut unserved = Unserved::default();
    let mut due = BTreeMap::new();
    for poll in 0_u32.. {
        beat.beat();
        let counted = async {
            if poll.is_multiple_of(DUE_EVERY) {
                due = bus.subject_counts(STREAM_TIME, DUE_ALL).await?;
            }
            bus.subject_counts(STREAM_TASKS, ALL).await
        };
        match counted.await {
            Ok(tasks) => {
                let all = tasks.iter().chain(&due);
                let flows = all.filter_map(|(subject, count)| Some((Flow::parse(subject)?, *count))).collect();
                unserved.look(&flows, &registry.borrow());
                told.send_replace(Arc::new(flows));
            }
            Err(error) => tracing::debug!(%error, "The streams could not be counted; trying again."),
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(())
}

/// What waits although nobody serves it: being early is no error, but it is said.
#[derive(Debug, Default)]
struct Unserved {
    said: BTreeSet<Flow>,
    polls: u32,
}

impl Unserved {
    fn look(&mut self, flows: &BTreeMap<Flow, u64>, registry: &Registry) {
        self.polls += 1;
        if self.polls.is_multiple_of(WARN_EVERY) {
            self.said.clear();
        }
        let queues = registry.queues();
        for (flow, count) in flows {
            let is_served = match flow {
                Flow::Raw(task_type) => registry.task_type(task_type).is_some(),
                Flow::Task(queue, ..) | Flow::Due(queue, ..) => queues.contains(queue),
            };
            if !is_served && self.said.insert(flow.clone()) {
                tracing::warn!(subject = %flow, tasks = count, "Tasks wait that nobody serves: no executor has announced their type or queue.");
            }
        }
        self.said.retain(|flow| flows.contains_key(flow));
    }
}
