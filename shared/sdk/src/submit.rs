//! Submitting: a task is accepted once the broker has stored it.

use crate::client::Client;
use crate::error::Error;
use crate::handle::TaskHandle;
use crate::task::Task;
use futures::FutureExt;
use futures::future::BoxFuture;
use jetlane_bus::claims::Claimed;
use jetlane_bus::clock;
use jetlane_schemas::Admit;
use jetlane_schemas::limits::DELAY_MS_MAX;
use jetlane_schemas::question::{Expectation, Prospect, Question};
use jetlane_schemas::task::InvalidOption;
use jetlane_schemas::{Callback, InvalidName, Needs, Priority, QueueName, TaskEvent, TaskId, TaskType, Tenant};
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

mod bundles;
mod gathering;
mod send;

pub(crate) use bundles::submit_all;
pub(crate) use gathering::Gathering;

/// A task to submit. Await it, or [`forget`](Submit::forget) it; until then nothing is sent.
#[must_use = "nothing is submitted until it is awaited"]
#[derive(Debug)]
pub struct Submit<O> {
    client: Client,
    /// Boxed: it changes hands many times until it is sent.
    draft: Result<Box<TaskEvent>, Error>,
    queue: Option<QueueName>,
    delay: Duration,
    /// Whether its id is the caller's: then its message's id is made of it, for submitting it again.
    named: Named,
    output: PhantomData<fn() -> O>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    ByUs,
    ByCaller,
}

/// What the broker said to a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its sequence in the stream; 0 for a duplicate of a key that nobody has read yet.
    pub sequence: u64,
    /// Whether it had been submitted before, under the same id or key.
    pub duplicate: bool,
    /// Whether somebody has announced the type: otherwise it waits until somebody does.
    pub known: bool,
}

impl<O> Submit<O> {
    pub(crate) fn new(
        client: Client,
        task_type: Result<TaskType, InvalidName>,
        payload: Result<Vec<u8>, serde_json::Error>,
    ) -> Self {
        let draft = draft(task_type, payload);
        let named = Named::ByUs;
        Self { client, draft, queue: None, delay: Duration::ZERO, named, output: PhantomData }
    }

    fn set(mut self, change: impl FnOnce(&mut TaskEvent) -> Result<(), Error>) -> Self {
        if let Ok(task) = &mut self.draft
            && let Err(error) = change(task)
        {
            self.draft = Err(error);
        }
        self
    }

    /// How urgent it is. Default normal.
    pub fn priority(self, priority: Priority) -> Self {
        self.set(|task| {
            task.priority = priority;
            Ok(())
        })
    }

    /// Its fairness key. Default none: shared.
    pub fn tenant(self, tenant: impl Into<String>) -> Self {
        self.set(|task| {
            task.tenant = Tenant::new(tenant)?;
            Ok(())
        })
    }

    /// Its idempotency key: of one type, tenant and key a single task waits or runs at a time, however long that
    /// takes. Who submits it again meanwhile, or within [`Submit::unique_for`] after its end, gets the handle of
    /// that task and hears [`Accepted::duplicate`]. The task's id is made of the key.
    pub fn key(self, key: impl Into<String>) -> Self {
        self.set(|task| {
            task.key = Some(key.into());
            Ok(())
        })
    }

    /// How long its key stays taken after it has ended. Default: as long as its completion is kept. Zero lets the
    /// next submission run at once, such as after a failure. At most a year. What is asked for beyond the age of
    /// completions has no output to give by then.
    pub fn unique_for(self, unique_for: Duration) -> Self {
        self.set(|task| {
            task.unique_for_ms = Some(u64::try_from(unique_for.as_millis()).unwrap_or(u64::MAX));
            Ok(())
        })
    }

    /// Until when it must have started, by this machine's clock; past it, it completes as expired. The broker's
    /// clock decides: the time that is left is kept, however far the two clocks are apart.
    pub fn deadline(self, at: SystemTime) -> Self {
        self.set(|task| {
            task.deadline = Some(clock::from_calendar(at));
            Ok(())
        })
    }

    /// How long it waits from its submission on: it is never due sooner. At most a year. The broker keeps the
    /// time, to about 0.3 s.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self.set(|_| {
            if delay.as_millis() > u128::from(DELAY_MS_MAX) {
                let reason = format!("must be at most {DELAY_MS_MAX} ms");
                return Err(InvalidOption { option: "delay", reason }.into());
            }
            Ok(())
        })
    }

    /// Retries after the first attempt. Default: as the type is announced.
    pub fn retries(self, retries: u32) -> Self {
        self.set(|task| {
            task.retries = Some(retries);
            Ok(())
        })
    }

    /// How long one attempt may run. Default: as the type is announced.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set(|task| {
            task.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
            Ok(())
        })
    }

    /// How long it runs, as far as its submitter knows: what is learned of its type weighs more with
    /// every run. Default none. At most a day.
    pub fn estimate(self, estimate: Duration) -> Self {
        self.set(|task| {
            task.estimate_us = Some(u64::try_from(estimate.as_micros()).unwrap_or(u64::MAX));
            Ok(())
        })
    }

    /// What it has in common with tasks that run about as long, such as `large`: their run times are
    /// learned apart from those of the type's other tasks.
    pub fn size_key(self, key: impl Into<String>) -> Self {
        self.set(|task| {
            task.size_key = Some(key.into());
            Ok(())
        })
    }

    /// What it needs of an executor, all at once. Default nothing.
    pub fn needs(self, needs: Needs) -> Self {
        self.set(|task| {
            task.needs = needs;
            Ok(())
        })
    }

    /// So many processor cores, to a thousandth: `0.5` is half a core.
    pub fn cpu(self, cores: f64) -> Self {
        self.set(|task| {
            task.needs.cpu_milli = crate::executor::milli(cores)?;
            Ok(())
        })
    }

    /// So much memory, in MiB.
    pub fn memory(self, mib: u32) -> Self {
        self.set(|task| {
            task.needs.memory_mib = mib;
            Ok(())
        })
    }

    /// So many of a countable thing, such as `gpu`; may be called more than once.
    pub fn resource(self, name: impl Into<String>, amount: u32) -> Self {
        self.set(|task| {
            task.needs.resources.insert(name.into(), amount);
            Ok(())
        })
    }

    /// A property that its executor must have, such as `zone-a`; may be called more than once.
    pub fn label(self, name: impl Into<String>) -> Self {
        self.set(|task| {
            task.needs.labels.insert(name.into());
            Ok(())
        })
    }

    /// Whether it is refused when it cannot start by its deadline. Default [`Admit::Always`]: it is
    /// taken, and expires.
    ///
    /// With [`Admit::Strict`] the leader of the queue is asked before anything is stored: awaiting this
    /// fails with [`Error::TooLate`], which says when it would have started, or with
    /// [`Error::Unanswered`] where nobody answers. What is delayed, or of a type that nobody has
    /// announced, or what the leader refuses to be asked about since it is asked too much, is judged
    /// later, when the dispatcher reads it.
    pub fn admit(self, admit: Admit) -> Self {
        self.set(|task| {
            task.admit = admit;
            Ok(())
        })
    }

    /// The queue. Default: the one that the type is announced for. A type that nobody has announced waits in
    /// this queue until somebody does.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        match QueueName::new(queue) {
            Ok(queue) => self.queue = Some(queue),
            Err(error) => self.draft = Err(error.into()),
        }
        self
    }

    /// What its completion triggers; may be called more than once.
    pub fn callback(self, callback: Callback) -> Self {
        self.set(|task| {
            task.callbacks.push(callback);
            Ok(())
        })
    }

    /// A webhook endpoint of the callback service that its completion is sent to.
    pub fn webhook(self, endpoint: impl Into<String>) -> Self {
        self.callback(Callback::Webhook { endpoint: endpoint.into() })
    }

    /// A task that runs after its success, with its output as the body.
    pub fn then<T: Task>(self) -> Self {
        match TaskType::new(T::TYPE) {
            Ok(task_type) => self.callback(Callback::Task { task_type, priority: None, callbacks: Vec::new() }),
            Err(error) => Self { draft: Err(error.into()), ..self },
        }
    }

    /// A header for the handler; may be called more than once. W3C `baggage` goes on to follow-ups: 64 members of 8 KiB
    /// together at most, the first ones.
    pub fn header(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.set(|task| {
            task.push_header(name.into(), value.into());
            Ok(())
        })
    }

    /// An id of the caller's making, for submitting the very same again after an unknown outcome.
    pub fn id(mut self, id: TaskId) -> Self {
        self.named = Named::ByCaller;
        self.set(|task| {
            task.id = id;
            Ok(())
        })
    }

    /// The task whose completion caused this one.
    pub fn parent(self, parent: TaskId) -> Self {
        self.set(|task| {
            task.parent = Some(parent);
            Ok(())
        })
    }

    /// Submits without listening for the completion: cheaper for those who never await it.
    ///
    /// # Errors
    /// As for awaiting it.
    pub async fn forget(self) -> Result<(TaskId, Accepted), Error> {
        let (client, ready) = self.ready()?;
        let id = ready.id.clone();
        ready.admit(&client).await?;
        let accepted = match ready.claim(&client).await? {
            Key::Taken(id, accepted) => return Ok((id, accepted)),
            Key::Free { suffix, .. } => send::send(&client, ready, suffix).await?,
        };
        Ok((id, accepted))
    }

    /// When it would run, were it submitted now. Nothing is submitted.
    ///
    /// # Errors
    /// [`Error::Unanswered`] where nobody leads its queue; otherwise as for awaiting it.
    pub async fn expected(self) -> Result<Expectation, Error> {
        let (client, ready) = self.ready()?;
        crate::question::expect(client.bus(), &ready.task.queue, &ready.question()).await
    }

    /// Whether its message may carry others too, as far as the client allows: none that the same task may be
    /// submitted again with.
    fn can_share(&self) -> bool {
        let has_key = self.draft.as_ref().is_ok_and(|task| task.key.is_some());
        self.named == Named::ByUs && !has_key && self.delay.is_zero()
    }

    /// The checked task: id, queue and shard settled.
    fn ready(self) -> Result<(Client, Ready), Error> {
        let company = if self.can_share() { Company::Any } else { Company::None };
        let mut task = self.draft?;
        if let Some(key) = &task.key {
            task.id = TaskId::from_key(task.task_type.as_str(), task.tenant.as_str(), key);
        }
        if task.key.is_some() || self.named == Named::ByCaller {
            // The same may have been submitted longer ago than the broker's window remembers.
            task.suspect = true;
        }
        task.check(self.client.bus().body_bytes_max())?;
        let announced = self.client.registry().queue_of(&task.task_type);
        let known = announced.is_some();
        // A type that nobody has announced and that names no queue goes to the open door: there it waits
        // without standing in anybody's way.
        let door = match self.queue.or(announced) {
            Some(queue) => {
                task.shard = self.client.registry().shard(&queue, &task.tenant);
                task.queue = queue;
                Door::Queue
            }
            None => Door::Open,
        };
        Ok((self.client, Ready { id: task.id.clone(), task, known, door, delay: self.delay, company }))
    }
}

#[derive(Debug)]
struct Ready {
    id: TaskId,
    task: Box<TaskEvent>,
    known: bool,
    door: Door,
    delay: Duration,
    company: Company,
}

/// Where a submission enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// Framed, at its queue's subject.
    Queue,
    /// As any client publishes it, at its type's.
    Open,
}

/// Whose tasks a submission's message may carry beside its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    Any,
    None,
}

/// Whether a task may be published.
enum Key {
    /// It has no key, or its key is its own: it may, under a message id with this suffix.
    Free {
        /// Names the claim, so that a later task of the same key is no copy of this one.
        suffix: Option<u64>,
        /// What DONE has of its id under this sequence or before is an earlier task's.
        done_sequence: u64,
    },
    /// The key is the one of this task, which waits, runs or has ended.
    Taken(TaskId, Accepted),
}

impl Ready {
    /// Claims the task's key, where it has one.
    async fn claim(&self, client: &Client) -> Result<Key, Error> {
        if self.task.key.is_none() {
            return Ok(Key::Free { suffix: None, done_sequence: 0 });
        }
        // Boxed: rare, and large beside the rest of a submission.
        let claimed = Box::pin(client.bus().claim(&self.task)).await;
        Ok(match claimed.map_err(|source| Error::Submit { id: self.id.clone(), source })? {
            None => Key::Free { suffix: None, done_sequence: 0 },
            Some(Claimed::Fresh { revision, done_sequence }) => Key::Free { suffix: Some(revision), done_sequence },
            Some(Claimed::Again { revision }) => Key::Free { suffix: Some(revision), done_sequence: 0 },
            Some(Claimed::Duplicate { id, sequence }) => {
                Key::Taken(id, Accepted { sequence, duplicate: true, known: self.known })
            }
        })
    }

    /// Asks whether it can meet its deadline, where it is to be refused otherwise.
    async fn admit(&self, client: &Client) -> Result<(), Error> {
        if self.task.admit != Admit::Strict
            || self.task.deadline.is_none()
            || self.door == Door::Open
            || !self.delay.is_zero()
        {
            return Ok(());
        }
        let told = crate::question::expect_if_told(client.bus(), &self.task.queue, &self.question()).await?;
        match told {
            Some(expected) if !expected.meets_deadline => {
                Err(Error::TooLate { id: self.id.clone(), expected: Box::new(expected) })
            }
            // A leader that did not say judges the task when it reads it.
            Some(_) | None => Ok(()),
        }
    }

    fn question(&self) -> Question {
        let task = &self.task;
        Question::Expect(Prospect {
            task_type: task.task_type.clone(),
            priority: task.priority,
            tenant: task.tenant.clone(),
            needs: task.needs.clone(),
            size_key: task.size_key.clone(),
            estimate_us: task.estimate_us,
            deadline: task.deadline,
        })
    }
}

fn draft(
    task_type: Result<TaskType, InvalidName>,
    payload: Result<Vec<u8>, serde_json::Error>,
) -> Result<Box<TaskEvent>, Error> {
    let id = TaskId::generate();
    let payload = payload.map_err(|source| Error::Encode { id: id.clone(), source })?;
    Ok(Box::new(TaskEvent::new(id, task_type?, QueueName::default_queue(), clock::now(), payload)))
}

impl<O: Send + 'static> IntoFuture for Submit<O> {
    type Output = Result<TaskHandle<O>, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move {
            let (client, ready) = self.ready()?;
            submit_ready(client, ready).await
        }
        .boxed()
    }
}

async fn submit_ready<O>(client: Client, ready: Ready) -> Result<TaskHandle<O>, Error> {
    ready.admit(&client).await?;
    let (id, task_type) = (ready.id.clone(), ready.task.task_type.clone());
    let (suffix, done_sequence) = match ready.claim(&client).await? {
        Key::Free { suffix, done_sequence } => (suffix, done_sequence),
        Key::Taken(id, accepted) => {
            let listener = client.listening().expect(&task_type, &id, 0).await?;
            return Ok(TaskHandle::submitted(client, task_type, id, accepted, listener));
        }
    };
    // Listening begins before the task can complete.
    let listener = client.listening().expect(&task_type, &id, done_sequence).await?;
    let accepted = send::send(&client, ready, suffix).await?;
    Ok(TaskHandle::submitted(client, task_type, id, accepted, listener).later_than(done_sequence))
}
