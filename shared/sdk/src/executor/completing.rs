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
/// Batches that are not full, under way at once: while one is answered the next is on its way, and what ends
/// meanwhile gathers.
const PARTS_UNDER_WAY_MAX: usize = 2;
/// The same of full ones.
const UNDER_WAY_MAX: usize = 8;
/// Batches that runs store themselves: idle, none takes the way through another task.
const ALONE_MAX: usize = 1;

/// Where runs bring their completions.
pub(crate) struct Completing {
    bus: Bus,
    alone: Semaphore,
    sender: mpsc::Sender<Ending>,
    working: AbortHandle,
}

type Answers = Vec<Result<Completed, Error>>;

struct Ending {
    completions: Vec<Completion>,
    told: oneshot::Sender<Answers>,
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
        let mut completed = self.complete_all(vec![completion]).await;
        completed.pop().expect("one answer a completion")
    }

    /// The same of several; the answers have the order of the completions.
    pub(crate) async fn complete_all(&self, completions: Vec<Completion>) -> Answers {
        if let Ok(_alone) = self.alone.try_acquire() {
            return match completions.as_slice() {
                [one] => vec![self.bus.complete_alone(one).await],
                all => self.bus.complete_all(all).await,
            };
        }
        let count = completions.len();
        let (told, answers) = oneshot::channel();
        let sent = self.sender.send(Ending { completions, told }).await;
        match (sent, answers.await) {
            (Ok(()), Ok(answers)) => answers,
            (Ok(()), Err(_)) | (Err(_), _) => (0..count).map(|_| Err(closed())).collect(),
        }
    }
}

fn closed() -> Error {
    Error::Send { subject: jetlane_schemas::subject::STREAM_DONE.to_owned(), source: "the executor ends".into() }
}

async fn work(bus: Bus, mut endings: mpsc::Receiver<Ending>) {
    let mut under_way = FuturesUnordered::new();
    let (mut gathered, mut count) = (Vec::new(), 0);
    let mut is_open = true;
    while is_open || count > 0 || !under_way.is_empty() {
        let most = if count < TOGETHER_MAX { PARTS_UNDER_WAY_MAX } else { UNDER_WAY_MAX };
        if count > 0 && under_way.len() < most {
            under_way.push(store(&bus, std::mem::take(&mut gathered)));
            count = 0;
        }
        tokio::select! {
            biased;
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            ending = endings.recv(), if is_open && count < TOGETHER_MAX => match ending {
                Some(ending) => {
                    gather(&mut gathered, &mut count, ending);
                    while count < TOGETHER_MAX && let Ok(ending) = endings.try_recv() {
                        gather(&mut gathered, &mut count, ending);
                    }
                }
                None => is_open = false,
            },
        }
    }
}

fn gather(gathered: &mut Vec<Ending>, count: &mut usize, ending: Ending) {
    *count += ending.completions.len();
    gathered.push(ending);
}

async fn store(bus: &Bus, batch: Vec<Ending>) {
    let mut completions = Vec::with_capacity(batch.iter().map(|ending| ending.completions.len()).sum());
    let mut told = Vec::with_capacity(batch.len());
    for ending in batch {
        told.push((ending.completions.len(), ending.told));
        completions.extend(ending.completions);
    }
    let mut answers = bus.complete_all(&completions).await.into_iter();
    for (count, told) in told {
        // A run that was halted meanwhile is settled by its next delivery.
        let _halted = told.send(answers.by_ref().take(count).collect());
    }
}
