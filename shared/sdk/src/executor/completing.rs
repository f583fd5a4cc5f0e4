//! Completions of many runs, stored together: what ends while others are being stored shares the next
//! messages and the next wait. Alone, a completion waits for nobody.

use futures::stream::{FuturesUnordered, StreamExt};
use jetlane_bus::done::Completed;
use jetlane_bus::{Bus, Error, Fault};
use jetlane_core::run::OUTAGE_MAX;
use jetlane_mutants::mutant;
use jetlane_schemas::Completion;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Completions that are stored together, at most.
const TOGETHER_MAX: usize = 128;
/// Batches that are not full, under way at once: while one is answered the next is on its way, and what ends
/// meanwhile gathers.
const PARTS_UNDER_WAY_MAX: usize = 2;
/// The same of full ones.
const UNDER_WAY_MAX: usize = 8;
/// Batches that runs store themselves: idle, none takes the way through another task.
const ALONE_MAX: usize = 1;

/// The first and the longest pause before a completion that was not stored is stored again.
const STORE_AGAIN_AFTER: Duration = Duration::from_millis(500);
const STORE_AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);
/// How often it is reported that the stream of completions is full.
const FULL_REPORTED_EVERY: Duration = Duration::from_secs(60);

/// Where runs bring their completions.
pub(crate) struct Completing {
    bus: Bus,
    alone: Semaphore,
    sender: mpsc::Sender<Ending>,
    working: AbortHandle,
}

type Answers = Vec<Stored>;

/// What became of a completion.
pub(crate) enum Stored {
    /// It is stored.
    Won,
    /// Another was stored before.
    Lost(Box<Completion>),
    /// It is not stored yet.
    Unstored(Box<Unstored>),
}

/// A completion that is not stored yet, and why.
pub(crate) struct Unstored {
    completion: Completion,
    /// `None` where the stream is full.
    error: Option<Error>,
}

impl Stored {
    fn of(answer: Result<Completed, Error>, own: Completion) -> Self {
        match answer {
            Ok(Completed::Won) => Self::Won,
            Ok(Completed::Lost(other)) => Self::Lost(other),
            Ok(Completed::Full) => Self::Unstored(Box::new(Unstored { completion: own, error: None })),
            Err(error) => Self::Unstored(Box::new(Unstored { completion: own, error: Some(error) })),
        }
    }
}

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

    /// Stores a completion unless the task has one, and tells which it is: see [`Bus::complete`]. Waits until there is
    /// room for it, and while the broker is away.
    ///
    /// # Errors
    /// As for [`Completing::insist`].
    pub(crate) async fn complete(&self, completion: Completion) -> Result<Completed, Error> {
        let mut stored = self.complete_all(vec![completion]).await;
        match stored.pop().expect("one answer a completion") {
            Stored::Won => Ok(Completed::Won),
            Stored::Lost(other) => Ok(Completed::Lost(other)),
            Stored::Unstored(unstored) => Box::pin(self.insist(*unstored)).await,
        }
    }

    /// The same of several, without waiting; the answers have the order of the completions.
    pub(crate) async fn complete_all(&self, completions: Vec<Completion>) -> Answers {
        if let Ok(_alone) = self.alone.try_acquire() {
            let answers = match completions.as_slice() {
                [one] => vec![self.bus.complete_alone(one).await],
                all => self.bus.complete_all(all).await,
            };
            return answers.into_iter().zip(completions).map(|(answer, own)| Stored::of(answer, own)).collect();
        }
        let (told, answers) = oneshot::channel();
        let kept = match self.sender.send(Ending { completions, told }).await {
            Ok(()) => match answers.await {
                Ok(answers) => return answers,
                Err(_) => Vec::new(),
            },
            Err(unsent) => unsent.0.completions,
        };
        kept.into_iter().map(|own| Stored::of(Err(closed()), own)).collect()
    }

    /// Stores a completion that could not be stored yet: waits for room in the stream, and for the broker for up to
    /// [`OUTAGE_MAX`]. What a handler returned is kept meanwhile, and the handler is not called again.
    ///
    /// # Errors
    /// The last fault of the broker.
    pub(crate) async fn insist(&self, unstored: Unstored) -> Result<Completed, Error> {
        let Unstored { completion, mut error } = unstored;
        mutant!(ResultDroppedWhileFull => { return Err(error.unwrap_or_else(closed)) });
        let (mut faulty_since, mut reported) = (Instant::now(), None::<Instant>);
        let mut pause = STORE_AGAIN_AFTER;
        loop {
            match error {
                Some(error) if error.fault() == Fault::Final || faulty_since.elapsed() > OUTAGE_MAX => {
                    return Err(error);
                }
                Some(error) => {
                    tracing::debug!(task_id = %completion.id, %error, "A completion is not stored yet; trying again.");
                }
                None => {
                    faulty_since = Instant::now();
                    if reported.is_none_or(|at| at.elapsed() > FULL_REPORTED_EVERY) {
                        reported = Some(Instant::now());
                        tracing::error!(task_id = %completion.id, "The stream of completions is full: raise its limits or shorten its age. The result waits here for room.");
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(STORE_AGAIN_AFTER_MAX);
            error = match self.bus.complete(&completion).await {
                Ok(Completed::Full) => None,
                Ok(completed) => return Ok(completed),
                Err(error) => Some(error),
            };
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
    let answers = bus.complete_all(&completions).await.into_iter().zip(completions);
    let mut answers = answers.map(|(answer, own)| Stored::of(answer, own));
    for (count, told) in told {
        // A run that was halted meanwhile is settled by its next delivery.
        let _halted = told.send(answers.by_ref().take(count).collect());
    }
}
