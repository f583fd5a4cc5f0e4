//! What is held: tasks, not messages. A message owes its ack when every task in it is settled.

use super::credit::Tally;
use super::lease::{Holding, Lease, MessageKey};
use jetlane_bus::Ack;
use jetlane_bus::clock::Boottime;
use jetlane_core::run::{Freshness, Hold};
use jetlane_mutants::mutant;
use jetlane_schemas::{RunToken, TaskEvent};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a message that is given back stays away from those that have no room for it.
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(100);

/// A delivery that is opened.
pub(crate) struct Opened {
    pub(crate) key: MessageKey,
    pub(crate) ack: Ack,
    /// How often the message has been delivered, this time included.
    pub(crate) delivered: u64,
    pub(crate) received: Boottime,
    pub(crate) freshness: Freshness,
}

/// A message of a lane: settled when all of its tasks are.
pub(crate) struct Parcel {
    pub(crate) key: MessageKey,
    number: u64,
    open: AtomicUsize,
    /// Cancelled once its lease is lost.
    lost: CancellationToken,
    /// What stops each of its tasks, where somebody has asked.
    stops: Vec<OnceLock<CancellationToken>>,
    /// Whether a task of it could not be settled: it is to come again.
    is_abandoned: AtomicBool,
    holding: Arc<Holding>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) lease: Lease,
    pub(crate) freshness: Freshness,
}

/// A task in hand.
pub(crate) struct Job {
    pub(crate) task: Arc<TaskEvent>,
    pub(crate) parcel: Arc<Parcel>,
    /// Which of its message's tasks it is.
    place: usize,
    /// The mark whose owner was waited for in vain.
    pub(crate) given_up: Option<RunToken>,
}

/// What stops a run: somebody who says so, or the loss of its message's lease. A signal is made when it is first
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

    /// The message of the run.
    pub(crate) fn parcel(&self) -> &Arc<Parcel> {
        &self.parcel
    }

    fn signal(&self) -> &CancellationToken {
        self.parcel.stops[self.place].get_or_init(|| self.parcel.lost.child_token())
    }
}

impl Job {
    /// Whether the task may have run before.
    pub(crate) fn is_suspect(&self) -> bool {
        self.task.suspect || self.parcel.is_redelivered()
    }

    /// What stops its run.
    pub(crate) fn stop(&self) -> Stop {
        Stop { parcel: Arc::clone(&self.parcel), place: self.place }
    }
}

impl Parcel {
    /// The jobs of a message that was opened; its lease begins with the delivery. None where the message is in hand
    /// already: its jobs go on under this delivery.
    pub(crate) fn open(opened: Opened, tally: Arc<Tally>, holding: &Arc<Holding>, tasks: Vec<TaskEvent>) -> Vec<Job> {
        let Opened { key, ack, delivered, received, freshness } = opened;
        let lost = CancellationToken::new();
        let Some((number, lease)) = holding.hold(key, ack, delivered, received, lost.clone()) else {
            tracing::debug!(sequence = key.0, "A message in hand was delivered again; it goes on here.");
            return Vec::new();
        };
        let (open, holding) = (AtomicUsize::new(tasks.len()), Arc::clone(holding));
        let (is_abandoned, stops) = (AtomicBool::new(false), vec![OnceLock::new(); tasks.len()]);
        let parcel = Arc::new(Self { key, number, open, lost, stops, is_abandoned, holding, tally, lease, freshness });
        let job = |(place, task)| Job { task: Arc::new(task), parcel: Arc::clone(&parcel), place, given_up: None };
        tasks.into_iter().enumerate().map(job).collect()
    }

    /// Whether another delivery of the message may have begun elsewhere.
    pub(crate) fn is_redelivered(&self) -> bool {
        self.lease.delivered() > 1 || self.freshness == Freshness::Stale
    }

    /// Another executor runs its tasks: they stop here.
    pub(crate) fn lose(&self) {
        self.lease.lose();
        self.lost.cancel();
    }

    /// One of its tasks is settled; the last one acks the message. Not once the lease has lapsed: the server
    /// takes an ack of any delivery, and another executor may run what this one would remove.
    pub(crate) async fn settle_one(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) > 1 && !mutant!(BundleSettledAtFirst) {
            return;
        }
        self.holding.release(self.key, self.number);
        if self.is_abandoned.load(Ordering::Acquire) {
            return;
        }
        if self.lease.state() != Hold::Holds {
            tracing::debug!("The lease of a message is over; its ack is for whoever has it now.");
            return;
        }
        let (ack, others) = self.lease.acks();
        if let Err(error) = ack.settle_soon().await {
            tracing::debug!(%error, "An ack was not sent; the message comes again and is recognised.");
        }
        for other in others {
            if let Err(error) = other.settle().await {
                tracing::debug!(%error, "An ack was not sent; the message comes again and is recognised.");
            }
        }
    }

    /// One of its tasks could not be settled: the message is left to come again, once the others are, which
    /// are its neighbours and keep its lease until then.
    pub(crate) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.holding.release(self.key, self.number);
        }
    }

    /// Its one task goes back to the broker, as the same run.
    pub(crate) async fn give_back(&self) {
        self.abandon();
        let (ack, _) = self.lease.acks();
        if let Err(error) = ack.give_back(GIVE_BACK_PAUSE).await {
            tracing::debug!(%error, "A message was not given back; it comes again once its lease is over.");
        }
    }
}
