//! Submissions that gather while others are under way: what goes to the same place behind two messages
//! without an answer shares the next one, as Nagle's algorithm has it (RFC 896). An idle client waits for
//! nothing, and a busy one sends fewer and fuller messages, however many of its tasks submit.

use super::Accepted;
use super::send::framed;
use jetlane_bus::{Bus, Error, Published};
use jetlane_schemas::{TaskEvent, frame};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Messages of a place under way behind which others gather.
const UNDER_WAY_MAX: usize = 2;
/// The most bytes of a message, unless a task alone has more.
pub(super) const BUNDLE_BYTES_MAX: usize = 64 * 1024;

/// What this client has under way, by the subject that it goes to.
#[derive(Debug, Clone)]
pub(crate) struct Gathering {
    bus: Bus,
    places: Arc<Mutex<HashMap<String, Place>>>,
    runtime: Handle,
}

#[derive(Debug, Default)]
struct Place {
    under_way: usize,
    waiting: Vec<Waiting>,
}

/// Tasks of one caller that wait for the next message.
#[derive(Debug)]
struct Waiting {
    tasks: Vec<Box<TaskEvent>>,
    bytes: usize,
    most: usize,
    told: oneshot::Sender<Result<Accepted, Error>>,
}

impl Waiting {
    fn tell(self, stored: Result<Accepted, Error>) {
        // Who has stopped waiting need not be told.
        let _gone = self.told.send(stored);
    }
}

impl Place {
    /// Those that wait, as many as share a message.
    fn take(&mut self) -> Vec<Waiting> {
        let (mut tasks, mut bytes) = (0, 0);
        let fit = |waiting: &&Waiting| {
            tasks += waiting.tasks.len();
            bytes += waiting.bytes;
            tasks <= waiting.most && bytes <= BUNDLE_BYTES_MAX
        };
        let count = self.waiting.iter().take_while(fit).count().max(1);
        self.waiting.drain(..count.min(self.waiting.len())).collect()
    }

    fn is_full(&self, most: usize) -> bool {
        let (tasks, bytes) = self
            .waiting
            .iter()
            .fold((0, 0), |(tasks, bytes), waiting| (tasks + waiting.tasks.len(), bytes + waiting.bytes));
        tasks >= most || bytes >= BUNDLE_BYTES_MAX
    }
}

impl Gathering {
    /// Nothing is under way. To be called on the runtime that the connection lives on: messages go from there,
    /// whatever becomes of their callers.
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, places: Arc::default(), runtime: Handle::current() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Place>> {
        self.places.lock().expect("nobody panics while holding what gathers")
    }

    /// Stores tasks that may share a message with others, of at most `most`; returns once they are stored.
    ///
    /// # Errors
    /// [`Error::Publish`], [`Error::Refused`], [`Error::Frame`]; [`Error::Bundle`] where the message was
    /// others' too.
    pub(super) async fn store(
        &self,
        subject: &str,
        tasks: Vec<Box<TaskEvent>>,
        most: usize,
    ) -> Result<Accepted, Error> {
        let bytes = tasks.iter().map(|task| frame::frame_bytes(task)).sum();
        if tasks.len() >= most || bytes >= BUNDLE_BYTES_MAX {
            return store(&self.bus, subject, &tasks).await;
        }
        let (told, answer) = oneshot::channel();
        self.add(subject, Waiting { tasks, bytes, most, told });
        let closed = |_| Error::Send { subject: subject.to_owned(), source: "the client ends".into() };
        answer.await.map_err(closed)?
    }

    /// These go at once, or with what goes next. In a task of its own: others may wait behind this message, so no
    /// caller that pauses or stops may hold it up.
    fn add(&self, subject: &str, waiting: Waiting) {
        let mut places = self.lock();
        if !places.contains_key(subject) {
            places.insert(subject.to_owned(), Place::default());
        }
        let place = places.get_mut(subject).expect("it was there, or has been made");
        let most = waiting.most;
        place.waiting.push(waiting);
        if place.under_way < UNDER_WAY_MAX || place.is_full(most) {
            place.under_way += 1;
            let (batch, gathering, subject) = (place.take(), self.clone(), subject.to_owned());
            self.runtime.spawn(async move { gathering.send_on(&subject, batch).await });
        }
    }

    /// Sends this batch, and whatever gathers meanwhile.
    async fn send_on(&self, subject: &str, mut batch: Vec<Waiting>) {
        while !batch.is_empty() {
            self.send(subject, batch).await;
            batch = self.next(subject);
        }
    }

    async fn send(&self, subject: &str, mut batch: Vec<Waiting>) {
        if batch.len() == 1
            && let Some(alone) = batch.pop()
        {
            let stored = store(&self.bus, subject, &alone.tasks).await;
            return alone.tell(stored);
        }
        let tasks: Vec<Box<TaskEvent>> = batch.iter().flat_map(|waiting| waiting.tasks.clone()).collect();
        match store(&self.bus, subject, &tasks).await {
            // It may be the company that is too large: each goes by itself, and is told for itself.
            Err(Error::Refused { .. } | Error::Frame { .. }) => {
                for alone in batch {
                    let stored = store(&self.bus, subject, &alone.tasks).await;
                    alone.tell(stored);
                }
            }
            Ok(accepted) => batch.into_iter().for_each(|waiting| waiting.tell(Ok(accepted))),
            Err(error) => batch.into_iter().for_each(|waiting| {
                waiting.tell(Err(Error::Bundle { subject: subject.to_owned(), source: shared(&error) }));
            }),
        }
    }

    /// A message has been answered: what goes next, or nothing, and then one less is under way.
    fn next(&self, subject: &str) -> Vec<Waiting> {
        let mut places = self.lock();
        let Some(place) = places.get_mut(subject) else { return Vec::new() };
        if !place.waiting.is_empty() {
            return place.take();
        }
        place.under_way = place.under_way.saturating_sub(1);
        if place.under_way == 0 {
            places.remove(subject);
        }
        Vec::new()
    }
}

/// An error and its causes on one line, for all that share it.
pub(super) fn shared(error: &(dyn std::error::Error + 'static)) -> Box<dyn std::error::Error + Send + Sync> {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ").into()
}

async fn store(bus: &Bus, subject: &str, tasks: &[Box<TaskEvent>]) -> Result<Accepted, Error> {
    let out = framed(subject.to_owned(), tasks)?;
    accepted(subject, bus.publish(out).await)
}

/// Stores tasks in messages of their own, which are waited for together; the answers have the order of the tasks.
pub(super) async fn store_apart(bus: &Bus, subject: &str, tasks: &[Box<TaskEvent>]) -> Vec<Result<Accepted, Error>> {
    let framed = tasks.iter().map(|task| framed(subject.to_owned(), std::slice::from_ref(task)));
    let (mut outs, mut answers) = (Vec::with_capacity(tasks.len()), Vec::with_capacity(tasks.len()));
    for framed in framed {
        answers.push(framed.map(|out| outs.push(out)));
    }
    let mut published = bus.publish_all(outs).await.into_iter();
    let answer = |framed: Result<(), Error>| {
        framed?;
        accepted(subject, published.next().expect("one answer a publish"))
    };
    answers.into_iter().map(answer).collect()
}

fn accepted(subject: &str, published: Result<Published, Error>) -> Result<Accepted, Error> {
    let published = published?;
    let sequence = published.or_refused(subject)?;
    Ok(Accepted { sequence, duplicate: matches!(published, Published::Duplicate(_)), known: true })
}
