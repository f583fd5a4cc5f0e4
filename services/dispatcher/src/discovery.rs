//! Which flows have messages, polled. Those of the public intake are opened once their type is announced.

use crate::error::Error;
use crate::readiness::Readiness;
use crate::registry::Known;
use jetlane_bus::Bus;
use jetlane_schemas::subject::{DUE_ALL, STREAM_TASKS, STREAM_TIME, TASK_ALL};
use jetlane_schemas::{Flow, QueueName};
use jetlane_service::health::Heartbeat;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often the streams are asked. What lay in a flow before its first publish could be heard waits so long
/// to be seen.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// What is due is counted every so many polls: a retry of a flow that was never used can wait a second.
const DUE_EVERY: u32 = 2;
/// How often it is said again that nobody serves something.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// The most subjects that are counted at once, as many as the server tells at once: more than 300 queues have.
const SUBJECTS_MAX: usize = 100_000;

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
    let mut said = None::<Instant>;
    let mut due = BTreeMap::new();
    for poll in 0_u32.. {
        beat.beat();
        let counted = async {
            if poll.is_multiple_of(DUE_EVERY) {
                due = bus.subject_counts_up_to(STREAM_TIME, DUE_ALL, SUBJECTS_MAX).await?;
            }
            bus.subject_counts_up_to(STREAM_TASKS, TASK_ALL, SUBJECTS_MAX).await
        };
        match counted.await {
            Ok(tasks) => {
                let all = tasks.iter().chain(&due);
                let queues = registry.borrow().queues();
                let (served, unserved): (BTreeMap<Flow, u64>, BTreeMap<Flow, u64>) = all
                    .filter_map(|(subject, count)| Some((Flow::parse(subject)?, *count)))
                    .partition(|(flow, _)| is_of(flow, &queues));
                if !unserved.is_empty() && said.is_none_or(|at| at.elapsed() >= SAID_EVERY) {
                    said = Some(Instant::now());
                    let (flows, tasks) = (unserved.len(), unserved.values().sum::<u64>());
                    let first = unserved.keys().next().map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(
                        flows,
                        tasks,
                        such_as = first,
                        "Tasks wait that nobody serves: no executor has announced their queue."
                    );
                }
                told.send_replace(Arc::new(served));
            }
            Err(error) => tracing::debug!(%error, "The streams could not be counted; trying again."),
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(())
}

/// Whether a flow is of one of these queues.
fn is_of(flow: &Flow, queues: &BTreeSet<QueueName>) -> bool {
    match flow {
        Flow::Task(queue, ..) | Flow::Due(queue, ..) => queues.contains(queue),
        Flow::Raw(_) => false,
    }
}
