//! What the leader of the queue is told of the room here: totals, so that a lost message heals with
//! the next. Told at once when something settles, and no more often than the pace below.

use jetlane_bus::Bus;
use jetlane_schemas::frame::Credit;
use jetlane_schemas::{Fit, Headers, QueueName, subject};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// The shortest time between two announcements.
const PACE: Duration = Duration::from_millis(1);
/// How often room is told when nothing happens: the leader drops executors that are silent for longer.
const EVERY: Duration = Duration::from_secs(1);

/// The running totals of one executor.
pub(crate) struct Ledger {
    executor: String,
    fits: Vec<Fit>,
    capacity: AtomicU32,
    /// Messages that have come and are not opened yet.
    arriving: AtomicUsize,
    taken: AtomicU64,
    settled: AtomicU64,
    changed: Notify,
}

impl Ledger {
    pub(crate) fn new(executor: String, capacity: usize) -> Self {
        Self {
            executor,
            fits: vec![Fit::default()],
            capacity: AtomicU32::new(u32::try_from(capacity).unwrap_or(u32::MAX)),
            arriving: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// A message came from a lane: its room is taken before anybody has looked how many tasks it holds.
    pub(crate) fn arrive(&self) {
        self.arriving.fetch_add(1, Ordering::Relaxed);
    }

    /// A message that arrived was opened, with so many tasks in it.
    pub(crate) fn take(&self, tasks: usize) {
        self.taken.fetch_add(tasks as u64, Ordering::Relaxed);
        self.arriving.fetch_sub(1, Ordering::Relaxed);
    }

    /// A task is settled: there is room for another. Returns how many have been.
    pub(crate) fn settle(&self) -> u64 {
        let before = self.settled.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        before + 1
    }

    /// Nothing is wanted any more.
    pub(crate) fn close(&self) {
        self.capacity.store(0, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// How many tasks are here, a message that is not opened yet counted as one.
    pub(crate) fn held(&self) -> usize {
        let arriving = self.arriving.load(Ordering::Relaxed);
        let settled = self.settled.load(Ordering::Relaxed);
        let taken = self.taken.load(Ordering::Relaxed).saturating_sub(settled);
        usize::try_from(taken).unwrap_or(usize::MAX).saturating_add(arriving)
    }

    fn credit(&self) -> Credit {
        // Settled is read first: taken is never told as less.
        let settled = self.settled.load(Ordering::Relaxed);
        Credit {
            executor: self.executor.clone(),
            capacity: self.capacity.load(Ordering::Relaxed),
            taken: self.taken.load(Ordering::Relaxed),
            settled,
            fits: self.fits.iter().map(ToString::to_string).collect(),
        }
    }

    /// Tells the room now.
    pub(crate) async fn tell(&self, bus: &Bus, queue: &QueueName) {
        let sent = match self.credit().encode() {
            Ok(frame) => bus.send(subject::credit(queue), Headers::new(), frame.into()).await,
            Err(error) => {
                tracing::error!(%error, "The credit of this executor cannot be written.");
                return;
            }
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "The credit was not told; the next time tells all.");
        }
    }

    /// Tells the room whenever it changes, and when a new leader asks.
    pub(crate) async fn keep_telling(&self, bus: &Bus, queue: &QueueName) {
        let mut wanted = match bus.subscribe(&subject::credit_wanted(queue)).await {
            Ok(wanted) => Some(wanted),
            Err(error) => {
                tracing::warn!(%error, "A new leader's question for credit cannot be heard; it waits a second longer.");
                None
            }
        };
        let asked = async || match &mut wanted {
            Some(wanted) => wanted.next().await.is_some(),
            None => std::future::pending().await,
        };
        let mut asked = asked;
        loop {
            self.tell(bus, queue).await;
            tokio::time::sleep(PACE).await;
            tokio::select! {
                () = self.changed.notified() => {}
                open = asked() => if !open {
                    return;
                },
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }
}
