//! What is held: tasks, not messages. A message owes its ack when every task in it is settled.

use super::credit::Tally;
use super::lease::{Holding, Lease};
use jetlane_bus::Ack;
use jetlane_schemas::TaskEvent;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio_util::sync::CancellationToken;

/// A message of a lane: settled when all of its tasks are.
pub(crate) struct Parcel {
    ack: Ack,
    number: u64,
    open: AtomicUsize,
    /// Whether a task of it could not be settled: it is to come again.
    is_abandoned: AtomicBool,
    holding: Arc<Holding>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) lease: Lease,
    pub(crate) delivered: u64,
}

/// A task in hand.
pub(crate) struct Job {
    pub(crate) task: Arc<TaskEvent>,
    pub(crate) parcel: Arc<Parcel>,
    pub(crate) stop: CancellationToken,
}

impl Job {
    /// Whether the task may have run before.
    pub(crate) fn is_suspect(&self) -> bool {
        self.task.suspect || self.parcel.delivered > 1
    }
}

impl Parcel {
    /// The jobs of a message that was opened; its lease begins.
    pub(crate) fn open(
        ack: Ack,
        delivered: u64,
        tally: Arc<Tally>,
        holding: &Arc<Holding>,
        tasks: Vec<TaskEvent>,
    ) -> Vec<Job> {
        let stop = CancellationToken::new();
        let (number, lease) = holding.hold(ack.clone(), stop.clone());
        let (open, holding) = (AtomicUsize::new(tasks.len()), Arc::clone(holding));
        let is_abandoned = AtomicBool::new(false);
        let parcel = Arc::new(Self { ack, number, open, is_abandoned, holding, tally, lease, delivered });
        let job = |task| Job { task: Arc::new(task), parcel: Arc::clone(&parcel), stop: stop.child_token() };
        tasks.into_iter().map(job).collect()
    }

    /// One of its tasks is settled; the last one acks the message. Not once the lease is over: the server
    /// takes an ack of any delivery, and another executor may run what this one would remove.
    pub(crate) async fn settle_one(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.holding.release(self.number);
        if self.is_abandoned.load(Ordering::Acquire) {
            return;
        }
        if !self.lease.holds() {
            tracing::debug!("The lease of a message is over; its ack is for whoever has it now.");
            return;
        }
        if let Err(error) = self.ack.settle_soon().await {
            tracing::debug!(%error, "An ack was not sent; the message comes again and is recognised.");
        }
    }

    /// One of its tasks could not be settled: the message is left to come again, once the others are, which
    /// are its neighbours and keep its lease until then.
    pub(crate) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.holding.release(self.number);
        }
    }
}
