//! Completions of many runs, stored together: what ends while others are being stored shares the next
//! messages and the next wait. Alone, a completion waits for nobody.

use futures::stream::{FuturesUnordered, StreamExt};
use jetlane_bus::done::Completed;
use jetlane_bus::{Bus, Error};
use jetlane_schemas::Completion;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

/// Completions that are stored together, at most.
const TOGETHER_MAX: usize = 128;
/// Batches under way at once: while one is answered the next are on their way.
const UNDER_WAY_MAX: usize = 6;

/// Completions that runs store themselves: idle, none takes the way through another task.
const ALONE_MAX: usize = 2;

/// Where runs bring their completions.
pub(crate) struct Completing {
    bus: Bus,
    alone: Semaphore,
    sender: mpsc::Sender<Ending>,
    working: AbortHandle,
}

struct Ending {
    completion: Completion,
    told: oneshot::Sender<Result<Completed, Error>>,
}

impl Drop for Completing {
    fn drop(&mut self) {
        self.working.abort();
    }
}

impl Completing {
    /// Begins to take completions; as many wait as there are slots, at most.
    pub(crate) fn begin(bus: Bus, slots: usize) -> Self {
        let (sender, endings) = mpsc::channel(slots.max(1));
        let working = tokio::spawn(work(bus.clone(), endings)).abort_handle();
        Self { bus, alone: Semaphore::new(ALONE_MAX), sender, working }
    }

    /// Stores a completion unless the task has one, and tells which it is: see [`Bus::complete`].
    ///
    /// # Errors
    /// As for [`Bus::complete`].
    pub(crate) async fn complete(&self, completion: Completion) -> Result<Completed, Error> {
        let subject = || jetlane_schemas::subject::STREAM_DONE.to_owned();
        let closed = || Error::Send { subject: subject(), source: "the executor ends".into() };
        if let Ok(_alone) = self.alone.try_acquire() {
            return self.bus.complete(completion).await;
        }
        let (told, answer) = oneshot::channel();
        self.sender.send(Ending { completion, told }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

async fn work(bus: Bus, mut endings: mpsc::Receiver<Ending>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let mut batch = Vec::new();
        tokio::select! {
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            taken = endings.recv_many(&mut batch, TOGETHER_MAX), if under_way.len() < UNDER_WAY_MAX => {
                if taken == 0 {
                    break;
                }
                under_way.push(store(&bus, batch));
            }
        }
    }
    while under_way.next().await.is_some() {}
}

async fn store(bus: &Bus, batch: Vec<Ending>) {
    let (completions, told): (Vec<_>, Vec<_>) = batch.into_iter().map(|e| (e.completion, e.told)).unzip();
    for (completed, told) in bus.complete_all(completions).await.into_iter().zip(told) {
        // A run that was halted meanwhile is settled by its next delivery.
        let _halted = told.send(completed);
    }
}
