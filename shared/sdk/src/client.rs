//! The client: one connection, what is announced, and who waits for what.

use crate::completions::Completions;
use crate::error::Error;
use crate::handle::TaskHandle;
use crate::listening::Listening;
use crate::registry::Registry;
use crate::submit::{Gathering, Submit, submit_all};
use crate::task::{Task, type_name};
use jetlane_bus::letters::{Destination, Letter, Resent};
use jetlane_bus::{Bus, Connect};
use jetlane_schemas::limits::BUNDLE_TASKS_MAX;
use jetlane_schemas::question::{Answer, Question};
use jetlane_schemas::{InvalidName, QueueName, TaskId, TaskType, Tenant, TypeEntry};
use serde_json::value::RawValue;
use std::sync::Arc;

/// A connection to the scheduler. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// The most tasks of one message.
    bundle_most: usize,
}

#[derive(Debug)]
struct Inner {
    bus: Bus,
    registry: Registry,
    listening: Listening,
    gathering: Gathering,
    following: tokio::task::JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Client {
    /// Connects to a NATS server, which must answer.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub async fn connect(url: impl Into<String>) -> Result<Self, Error> {
        Self::connect_with(&Connect::to(url, "jetlane-client")).await
    }

    /// Connects as told: name, credentials, private inbox, what to do when no server answers.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub async fn connect_with(connect: &Connect) -> Result<Self, Error> {
        let bus = Bus::connect(connect).await.map_err(Error::Connect)?;
        Ok(Self::over(bus).await)
    }

    /// A client over a connection that is there already.
    pub async fn over(bus: Bus) -> Self {
        let (registry, following) = Registry::follow(bus.clone());
        registry.settled().await;
        let listening = Listening::new(bus.clone());
        let gathering = Gathering::new(bus.clone());
        let inner = Arc::new(Inner { bus, registry, listening, gathering, following });
        Self { inner, bundle_most: BUNDLE_TASKS_MAX }
    }

    /// A task to submit: set its options, then await it. Awaiting returns once the broker has stored it.
    ///
    /// A payload that cannot be written or a name that is invalid is told by that await.
    #[expect(clippy::needless_pass_by_value, reason = "a task is handed over, and reads so at every call")]
    pub fn submit<T: Task>(&self, task: T) -> Submit<T::Output> {
        let payload = serde_json::to_vec(&task);
        Submit::new(self.clone(), type_name::<T>(), payload)
    }

    /// The same for a type that is known by name alone: the body goes as it is, and the output comes as it was
    /// written.
    pub fn submit_json(&self, task_type: impl Into<String>, body: Vec<u8>) -> Submit<Box<RawValue>> {
        Submit::new(self.clone(), TaskType::new(task_type), Ok(body))
    }

    /// The same client, which puts at most so many tasks into one message: 1 to 128, 1 for no bundles. Default
    /// 128. Tasks share a message when they are submitted by one [`Client::submit_all`], or while others are on
    /// their way.
    #[must_use]
    pub fn bundle_at_most(mut self, tasks: usize) -> Self {
        self.bundle_most = tasks.clamp(1, BUNDLE_TASKS_MAX);
        self
    }

    pub(crate) fn bundle_most(&self) -> usize {
        self.bundle_most
    }

    /// Submits many tasks, pipelined and in as few messages as can be; one answer for each, in order.
    pub async fn submit_all<O: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        tasks: impl IntoIterator<Item = Submit<O>>,
    ) -> Vec<Result<TaskHandle<O>, Error>> {
        submit_all(tasks).await
    }

    /// The handle of a task that this or another process submitted.
    ///
    /// # Errors
    /// [`Error::Name`] where `T::TYPE` is no valid name.
    pub fn handle<T: Task>(&self, id: TaskId) -> Result<TaskHandle<T::Output>, Error> {
        Ok(TaskHandle::attached(self.clone(), type_name::<T>()?, id))
    }

    /// The same for a type that is known by name alone.
    pub fn handle_json(&self, task_type: TaskType, id: TaskId) -> TaskHandle<Box<RawValue>> {
        TaskHandle::attached(self.clone(), task_type, id)
    }

    /// Asks the leader of a queue why a task waits, and when it is expected to run. A task that it does
    /// not hold has been dispatched, or stands in the stream behind what the leader has read, or has
    /// ended ([`TaskHandle::look`] tells).
    ///
    /// # Errors
    /// [`Error::Unanswered`] where nobody leads the queue.
    pub async fn explain(&self, queue: &QueueName, id: &TaskId) -> Result<Answer, Error> {
        crate::question::ask(self.bus(), queue, &Question::Explain { id: id.clone(), task_type: None }).await
    }

    /// Sends what a dead letter holds once more: a task begins a new life under its id, in the queue that its type is
    /// announced for now. The letter is removed once that is stored. May be repeated after an error.
    ///
    /// # Errors
    /// [`Error::Submit`].
    pub async fn resend(&self, letter: &Letter) -> Result<Resent, Error> {
        let (queue, tenant) = match letter.task() {
            Some(task) => (task.queue.clone(), task.tenant.clone()),
            None => (QueueName::default_queue(), Tenant::default()),
        };
        let queue = self.registry().queue_of(&letter.task_type).unwrap_or(queue);
        let to = Destination { shard: self.registry().shard(&queue, &tenant), queue };
        let resent = self.bus().resend(letter, &to).await;
        resent.map_err(|source| Error::Submit { id: letter.id.clone(), source })
    }

    /// A subscription to completions: set what it wants, then await it.
    pub fn completions(&self) -> Completions {
        Completions::new(self.clone())
    }

    /// What is announced of a type, as last heard; `None` where nobody has announced it.
    pub fn task_type(&self, task_type: &TaskType) -> Option<TypeEntry> {
        self.inner.registry.task_type(task_type)
    }

    /// Whether a queue is announced.
    pub fn knows_queue(&self, queue: &QueueName) -> bool {
        self.inner.registry.knows_queue(queue)
    }

    /// The type's name as a checked value.
    ///
    /// # Errors
    /// [`InvalidName`].
    pub fn type_of<T: Task>() -> Result<TaskType, InvalidName> {
        type_name::<T>()
    }

    /// The connection underneath.
    pub fn bus(&self) -> &Bus {
        &self.inner.bus
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    pub(crate) fn listening(&self) -> &Listening {
        &self.inner.listening
    }

    pub(crate) fn gathering(&self) -> &Gathering {
        &self.inner.gathering
    }
}
