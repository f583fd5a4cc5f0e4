//! What is held: tasks, not messages. A message owes its ack when every task in it is settled.

use super::credit::Tally;
use super::lease::{Holding, Lease};
use jetlane_bus::Ack;
use jetlane_schemas::TaskEvent;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// A message of a lane: settled when all of its tasks are.
pub(crate) struct Parcel {
    ack: Ack,
    number: u64,
    open: AtomicUsize,
    /// Cancelled once its lease is over.
    lost: CancellationToken,
    /// What stops each of its tasks, where somebody has asked.
    stops: Vec<OnceLock<CancellationToken>>,
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
    /// Which of its message's tasks it is.
    place: usize,
}

/// What stops a run: somebody who says so, or the end of its message's lease. A signal is made when it is first
/// asked for, which most runs are over before.
#[derive(Clone)]
pub(crate) struct Stop {
    parcel: Arc<Parcel>,
    place: usize,
}

impl Stop {
    /// Stops the run.
    pub(crate) fn cancel(&self) {
        self.signal().cancel();
    }

    /// Whether the run is to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.parcel.stops[self.place].get().unwrap_or(&self.parcel.lost).is_cancelled()
    }

    /// Resolves once the run is to stop.
    pub(crate) async fn cancelled(&self) {
        self.signal().cancelled().await;
    }

    /// Whether the run may still act for its task.
    pub(crate) fn lease_holds(&self) -> bool {
        self.parcel.lease.holds()
    }

    fn signal(&self) -> &CancellationToken {
        self.parcel.stops[self.place].get_or_init(|| self.parcel.lost.child_token())
    }
}

impl Job {
    /// Whether the task may have run before.
    pub(crate) fn is_suspect(&self) -> bool {
        self.task.suspect || self.parcel.delivered > 1
    }

    /// What stops its run.
    pub(crate) fn stop(&self) -> Stop {
        Stop { parcel: Arc::clone(&self.parcel), place: self.place }
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
        let lost = CancellationToken::new();
        let (number, lease) = holding.hold(ack.clone(), lost.clone());
        let (open, holding) = (AtomicUsize::new(tasks.len()), Arc::clone(holding));
        let (is_abandoned, stops) = (AtomicBool::new(false), vec![OnceLock::new(); tasks.len()]);
        let parcel = Arc::new(Self { ack, number, open, lost, stops, is_abandoned, holding, tally, lease, delivered });
        let job = |(place, task)| Job { task: Arc::new(task), parcel: Arc::clone(&parcel), place };
        tasks.into_iter().enumerate().map(job).collect()
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
