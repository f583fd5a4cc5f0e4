//! Runs tasks: pulls by free slots, runs handlers, stores completions.
//!
//! # Layout
//! - [`Executor`]: what it serves and how much at once
//! - `handler`: plain async functions and their extractors as one kind of service
//! - `context`: what a handler can ask and tell
//! - `lanes`: pulling, and what is held
//! - `lease`: signs of life for what is held, from outside the handlers
//! - `credit`: what the leader of the queue is told of the room here
//! - `attempt`: one run, from delivery to settlement

mod attempt;
mod context;
mod credit;
mod handler;
mod lanes;
mod lease;
mod service;

pub use context::{Attempt, Ctx, State};
pub use handler::{Extracted, FromTask, Handler, Seed};
pub use service::{TaskReply, TaskRequest, TaskService};

use crate::client::Client;
use crate::error::Error;
use crate::task::{Task, entry};
use handler::{Blocking, erase};
use jetlane_bus::kv::Bucket;
use jetlane_schemas::subject::{self, BUCKET_REGISTRY};
use jetlane_schemas::{InvalidName, QueueEntry, QueueName, TaskType, TypeEntry};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::Layer;

/// Slots of an executor that does not say: as many handlers run at once.
const SLOTS_DEFAULT: usize = 16;
/// The most slots of one executor.
const SLOTS_MAX: usize = 10_000;
/// How long running handlers may go on after a drain began, unless stated.
const DRAIN_DEFAULT: Duration = Duration::from_secs(25);
/// How often a missing topology is looked for.
const LOOK_AGAIN_EVERY: Duration = Duration::from_millis(250);

type Wrap = Arc<dyn Fn(TaskService) -> TaskService + Send + Sync>;

/// A consumer service: serves the task types of one queue.
#[must_use = "nothing runs until run() is awaited"]
pub struct Executor<S = ()> {
    client: Client,
    queue: String,
    state: S,
    slots: usize,
    prefetch: Option<usize>,
    drain: Duration,
    served: Vec<Served>,
    wraps: Vec<Wrap>,
    invalid: Option<InvalidName>,
}

/// A type that an executor serves.
pub(crate) struct Served {
    task_type: TaskType,
    announce: fn(&QueueName) -> TypeEntry,
    service: TaskService,
}

impl Executor<()> {
    /// An executor of this queue, with no types yet.
    pub fn new(client: &Client, queue: impl Into<String>) -> Self {
        Self {
            client: client.clone(),
            queue: queue.into(),
            state: (),
            slots: SLOTS_DEFAULT,
            prefetch: None,
            drain: DRAIN_DEFAULT,
            served: Vec::new(),
            wraps: Vec::new(),
            invalid: None,
        }
    }

    /// What handlers get by [`State`]. Comes before the first task.
    pub fn state<S: Clone + Send + Sync + 'static>(self, state: S) -> Executor<S> {
        Executor {
            client: self.client,
            queue: self.queue,
            state,
            slots: self.slots,
            prefetch: self.prefetch,
            drain: self.drain,
            served: self.served,
            wraps: self.wraps,
            invalid: self.invalid,
        }
    }
}

impl<S: Clone + Send + Sync + 'static> Executor<S> {
    /// How many handlers run at once. Default 16.
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = slots;
        self
    }

    /// How many tasks wait here beside those that run, so that a slot never waits for the network.
    /// Default: an eighth of the slots, at least 1.
    pub fn prefetch(mut self, tasks: usize) -> Self {
        self.prefetch = Some(tasks);
        self
    }

    /// How long running handlers may go on after a drain began; what has not ended then is handed
    /// back. Default 25 seconds.
    pub fn drain_within(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// Serves the type of the handler's first argument; the others are extractors.
    pub fn task<H, T, Args>(self, handler: H) -> Self
    where
        H: Handler<S, T, Args>,
        T: Task,
        Args: 'static,
    {
        let state = self.state.clone();
        self.serve::<T>(move || erase(handler, state))
    }

    /// Serves a type by a function that blocks: it runs on a thread for such work.
    pub fn task_blocking<F, T>(self, handler: F) -> Self
    where
        F: Fn(T, Ctx) -> Result<T::Output, crate::TaskError> + Clone + Send + Sync + 'static,
        T: Task,
    {
        let state = self.state.clone();
        self.serve::<T>(move || erase(Blocking(handler), state))
    }

    fn serve<T: Task>(mut self, service: impl FnOnce() -> TaskService) -> Self {
        match TaskType::new(T::TYPE) {
            Ok(task_type) => self.served.push(Served { task_type, announce: entry::<T>, service: service() }),
            Err(error) => self.invalid = Some(error),
        }
        self
    }

    /// Wraps every handler in a tower layer; the one added last sees a task first.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<TaskService> + Send + Sync + 'static,
        L::Service:
            tower::Service<TaskRequest, Response = TaskReply, Error = crate::TaskError> + Clone + Send + Sync + 'static,
        <L::Service as tower::Service<TaskRequest>>::Future: Send + 'static,
    {
        self.wraps.push(Arc::new(move |inner| TaskService::new(layer.layer(inner))));
        self
    }

    /// Runs until SIGTERM or Ctrl-C, then drains.
    ///
    /// # Errors
    /// [`Error::Executor`] and [`Error::Name`] where it is not well configured; [`Error::Announce`],
    /// [`Error::Lanes`] where the broker refuses.
    pub async fn run(self) -> Result<(), Error> {
        let drain = CancellationToken::new();
        let on_signal = drain.clone();
        let signals = tokio::spawn(async move {
            wait_for_signal().await;
            on_signal.cancel();
        });
        let ended = self.run_until(drain).await;
        signals.abort();
        ended
    }

    /// Runs until `drain` is cancelled: then no task is taken any more, running ones end, waiting ones
    /// are handed back.
    ///
    /// # Errors
    /// As for [`Executor::run`].
    pub async fn run_until(mut self, drain: CancellationToken) -> Result<(), Error> {
        if let Some(error) = self.invalid.take() {
            return Err(error.into());
        }
        let queue = QueueName::new(self.queue.clone())?;
        self.check(&queue)?;
        if self.wait_for_topology(&queue, &drain).await?.is_none() {
            return Ok(());
        }
        let types = self.announce(&queue).await?;
        let services = self.services();
        let prefetch = self.prefetch.unwrap_or_else(|| (self.slots / 8).max(1));
        let room = lanes::Room { slots: self.slots, prefetch };
        lanes::run(self.client.bus().clone(), queue, types, services, room, self.drain, drain).await
    }

    fn check(&self, queue: &QueueName) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::Executor { queue: queue.to_string(), reason });
        if self.slots == 0 || self.slots > SLOTS_MAX {
            return refuse(format!("slots must be 1 to {SLOTS_MAX}"));
        }
        if self.served.is_empty() {
            return refuse("it serves no type: add one with .task(handler)".into());
        }
        let mut seen = std::collections::BTreeSet::new();
        match self.served.iter().find(|served| !seen.insert(&served.task_type)) {
            Some(twice) => refuse(format!("it serves {} twice", twice.task_type)),
            None => Ok(()),
        }
    }

    /// An executor may come before the first service: it waits for the streams.
    async fn wait_for_topology(&self, queue: &QueueName, drain: &CancellationToken) -> Result<Option<()>, Error> {
        let mut told = false;
        loop {
            match self.client.bus().bucket(BUCKET_REGISTRY).await {
                Ok(_) => return Ok(Some(())),
                Err(error) if !told => {
                    tracing::info!(%queue, %error, "Jetlane's streams are not there yet; waiting for a dispatcher.");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = drain.cancelled() => return Ok(None),
                () = tokio::time::sleep(LOOK_AGAIN_EVERY) => {}
            }
        }
    }

    async fn announce(&self, queue: &QueueName) -> Result<BTreeMap<TaskType, TypeEntry>, Error> {
        let failed = |what: String| move |source| Error::Announce { what, source };
        let registry = self.client.bus().bucket(BUCKET_REGISTRY).await.map_err(failed("anything".into()))?;
        registry
            .create(&subject::registry_queue(queue), &QueueEntry::default())
            .await
            .map_err(failed(format!("queue {queue}")))?;
        let mut types = BTreeMap::new();
        for served in &self.served {
            let entry = (served.announce)(queue);
            entry.check()?;
            announce_type(&registry, &served.task_type, &entry)
                .await
                .map_err(failed(format!("type {}", served.task_type)))?;
            types.insert(served.task_type.clone(), entry);
        }
        Ok(types)
    }

    fn services(&mut self) -> BTreeMap<TaskType, TaskService> {
        let wraps = std::mem::take(&mut self.wraps);
        std::mem::take(&mut self.served)
            .into_iter()
            .map(|served| {
                let service = wraps.iter().fold(served.service, |inner, wrap| wrap(inner));
                (served.task_type, service)
            })
            .collect()
    }
}

/// Written only where it differs, so that a hundred executors of one kind make one announcement.
async fn announce_type(registry: &Bucket, task_type: &TaskType, entry: &TypeEntry) -> Result<(), jetlane_bus::Error> {
    let key = subject::registry_type(task_type);
    // What is there may be no such JSON: it is replaced.
    let known: Option<serde_json::Value> = registry.get(&key).await.unwrap_or_default();
    let known = known.and_then(|json| serde_json::from_value::<TypeEntry>(json).ok());
    match known {
        Some(known) if known == *entry => Ok(()),
        Some(known) => {
            if known.queue != entry.queue {
                tracing::warn!(%task_type, from = %known.queue, to = %entry.queue, "The type moves to another queue.");
            }
            registry.put(&key, entry).await
        }
        None => registry.put(&key, entry).await,
    }
}

async fn wait_for_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = match signal(SignalKind::terminate()) {
            Ok(terminate) => terminate,
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be heard; only Ctrl-C drains.");
                let _interrupted = tokio::signal::ctrl_c().await;
                return;
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }
    #[cfg(not(unix))]
    {
        let _interrupted = tokio::signal::ctrl_c().await;
    }
}
