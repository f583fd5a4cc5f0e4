//! Submissions that gather while others are under way: what goes to the same place behind two messages
//! without an answer shares the next one, as Nagle's algorithm has it (RFC 896). An idle client waits for
//! nothing, and a busy one sends fewer and fuller messages, however many of its tasks submit.

use super::Accepted;
use jetlane_bus::publish::Expect;
use jetlane_bus::{Bus, Error, Outgoing, Published};
use jetlane_schemas::{Headers, TaskEvent, frame};
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
}

#[derive(Debug, Default)]
struct Place {
    under_way: usize,
    waiting: Vec<Waiting>,
}

/// Tasks of one caller that wait for the next message.
#[derive(Debug)]
struct Waiting {
    tasks: Vec<TaskEvent>,
    bytes: usize,
    most: usize,
    told: oneshot::Sender<Result<Accepted, Error>>,
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

/// How tasks go.
enum Turn {
    /// At once, by their caller.
    Send(Vec<TaskEvent>),
    /// With others, by whoever sends those.
    Wait(oneshot::Receiver<Result<Accepted, Error>>),
}

/// A message under way. When it is answered, or given up, what has gathered behind it goes.
struct UnderWay<'a> {
    gathering: &'a Gathering,
    subject: &'a str,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let batch = self.gathering.next(self.subject);
        if batch.is_empty() {
            return;
        }
        let (gathering, subject) = (self.gathering.clone(), self.subject.to_owned());
        // Without a runtime nobody waits any more.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { gathering.send_on(&subject, batch).await });
        }
    }
}

impl Gathering {
    /// Nothing is under way.
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, places: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Place>> {
        self.places.lock().expect("nobody panics while holding what gathers")
    }

    /// Stores tasks that may share a message with others, of at most `most`; returns once they are stored.
    ///
    /// # Errors
    /// [`Error::Publish`], [`Error::Refused`], [`Error::Frame`]; [`Error::Bundle`] where the message was
    /// others' too.
    pub(super) async fn store(&self, subject: &str, tasks: Vec<TaskEvent>, most: usize) -> Result<Accepted, Error> {
        let bytes = tasks.iter().map(frame::frame_bytes).sum();
        if tasks.len() >= most || bytes >= BUNDLE_BYTES_MAX {
            return store(&self.bus, subject, &tasks).await;
        }
        match self.turn(subject, tasks, bytes, most) {
            Turn::Send(tasks) => {
                let _under_way = UnderWay { gathering: self, subject };
                store(&self.bus, subject, &tasks).await
            }
            Turn::Wait(answer) => {
                let closed = |_| Error::Send { subject: subject.to_owned(), source: "the client ends".into() };
                answer.await.map_err(closed)?
            }
        }
    }

    fn turn(&self, subject: &str, tasks: Vec<TaskEvent>, bytes: usize, most: usize) -> Turn {
        let mut places = self.lock();
        if !places.contains_key(subject) {
            places.insert(subject.to_owned(), Place::default());
        }
        let place = places.get_mut(subject).expect("it was there, or has been made");
        if place.under_way < UNDER_WAY_MAX {
            place.under_way += 1;
            return Turn::Send(tasks);
        }
        let (told, answer) = oneshot::channel();
        place.waiting.push(Waiting { tasks, bytes, most, told });
        if place.is_full(most) {
            place.under_way += 1;
            let (batch, gathering, subject) = (place.take(), self.clone(), subject.to_owned());
            tokio::spawn(async move { gathering.send_on(&subject, batch).await });
        }
        Turn::Wait(answer)
    }

    /// Sends this batch, and whatever gathers meanwhile.
    async fn send_on(&self, subject: &str, mut batch: Vec<Waiting>) {
        while !batch.is_empty() {
            let tasks: Vec<TaskEvent> =
                batch.iter_mut().flat_map(|waiting| std::mem::take(&mut waiting.tasks)).collect();
            let stored = store(&self.bus, subject, &tasks).await;
            for waiting in batch {
                let stored = match &stored {
                    Ok(accepted) => Ok(*accepted),
                    Err(error) => Err(Error::Bundle { subject: subject.to_owned(), source: shared(error) }),
                };
                // Who has stopped waiting need not be told.
                let _gone = waiting.told.send(stored);
            }
            batch = self.next(subject);
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
fn shared(error: &Error) -> Box<dyn std::error::Error + Send + Sync> {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ").into()
}

async fn store(bus: &Bus, subject: &str, tasks: &[TaskEvent]) -> Result<Accepted, Error> {
    let unwritten = |source: frame::FrameError| Error::Frame { subject: subject.to_owned(), source: source.into() };
    let out = Outgoing {
        subject: subject.to_owned(),
        headers: Headers::new(),
        body: frame::encode_bundle(tasks).map_err(unwritten)?.into(),
        message_id: Some(frame::bundle_message_id("task", tasks.iter())),
        expect: Expect::Anything,
    };
    let published = bus.publish(out).await?;
    let sequence = published.or_refused(subject)?;
    Ok(Accepted { sequence, duplicate: matches!(published, Published::Duplicate(_)), known: true })
}
