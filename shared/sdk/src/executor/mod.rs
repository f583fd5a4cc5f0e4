//! Runs tasks: pulls by free slots, runs handlers, stores completions.
//!
//! # Layout
//! - [`Executor`]: what it serves, what it has, and how much at once
//! - `announce`: what the registry is told at the start
//! - `handler`, `service`: plain async functions and their extractors as one kind of service
//! - `context`: what a handler can ask and tell
//! - `lanes`: its whole life; `pulling` brings messages, `counter` runs their tasks, `waiting` and `parcel` are what is
//!   held
//! - `runs`: the runs under way, several to a task of the runtime where `pace` says that they end at once
//! - `attempt`: one run, from delivery to settlement; `next_run`: the one after it
//! - `completing`: completions of many runs, stored together; `unbundle`: bundles that come again
//! - `running`: which runs are to stop or to yield; `cancelled`: tasks that are not to begin
//! - `note`: the place that a run saved; `mark`: that it has begun
//! - `lease`: signs of life for what is held, from outside the handlers; `liveness`: whether this process stood still
//! - `owners`: who runs a task that was delivered again
//! - `unreadable`: messages that cannot be read
//! - `means`, `credit`, `telling`: what it has, what it has room for, and how the leader hears of it
//! - `limit`, `pressure`, `governor`: how it takes less when it is under pressure
//! - `status`: what it reports of itself, for health checks

mod announce;
mod attempt;
mod cancelled;
mod completing;
mod context;
mod counter;
mod credit;
mod governor;
mod handler;
mod lanes;
mod lease;
mod limit;
mod liveness;
mod mark;
mod means;
mod next_run;
mod note;
mod owners;
mod pace;
mod parcel;
mod prefetch;
mod pressure;
mod pulling;
mod running;
mod runs;
mod service;
mod spans;
mod status;
mod telling;
mod unbundle;
mod unreadable;
mod waiting;

pub use context::{Attempt, Ctx, State};
pub use handler::{Extracted, FromTask, Handler, Seed};
pub use limit::Concurrency;
pub(crate) use means::milli;
pub use pressure::Pressure;
pub use service::{TaskReply, TaskRequest, TaskService};
pub use status::{Report, Status};

use crate::client::Client;
use crate::error::Error;
use crate::task::{Task, entry};
use attempt::Serving;
use governor::Governor;
use handler::{Blocking, erase};
use jetlane_schemas::task::InvalidOption;
use jetlane_schemas::{InvalidName, QueueName, TaskType, TypeEntry};
use means::Stated;
use prefetch::Prefetch;
use pressure::Gauge;
use status::Reporter;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::Layer;

/// Slots of an executor that does not say: as many handlers run at once.
const SLOTS_DEFAULT: usize = 16;
/// The most slots of one executor.
const SLOTS_MAX: usize = 10_000;
/// How long running handlers may go on after a drain began, unless stated.
const DRAIN_DEFAULT: Duration = Duration::from_secs(25);

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
    means: Stated,
    concurrency: Concurrency,
    gauge: Gauge,
    served: Vec<Offered>,
    wraps: Vec<Wrap>,
    reporter: Reporter,
    invalid: Option<Invalid>,
}

/// The first thing that is wrong, told when it runs.
enum Invalid {
    Name(InvalidName),
    Option(InvalidOption),
}

/// A type that an executor serves.
pub(crate) struct Offered {
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
            means: Stated::default(),
            concurrency: Concurrency::default(),
            gauge: pressure::machine(),
            served: Vec::new(),
            wraps: Vec::new(),
            reporter: Reporter::default(),
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
            means: self.means,
            concurrency: self.concurrency,
            gauge: self.gauge,
            served: self.served,
            wraps: self.wraps,
            reporter: self.reporter,
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
    /// Default: as many as the slots use up while the leader hears of a free one, at most as many as there
    /// are slots, and 1 where runs are long against that.
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

    /// The processor cores that its tasks may use, to a thousandth. Default: those that this process may
    /// use, its affinity and its cgroup's quota counted in.
    ///
    /// Of a fit that covers processor time or memory, no more tasks are held at once than there are
    /// cores and memory for; tasks without needs take up nothing that is counted.
    pub fn cpu(mut self, cores: f64) -> Self {
        match milli(cores) {
            Ok(milli) => self.means.cpu_milli = Some(milli),
            Err(error) => self.invalid = Some(Invalid::Option(error)),
        }
        self
    }

    /// The memory that its tasks may use, in MiB. Default: its cgroup's limit, or the machine's memory;
    /// none on systems that tell neither.
    pub fn memory(mut self, mib: u32) -> Self {
        self.means.memory_mib = Some(mib);
        self
    }

    /// So many of a countable thing, such as `gpu`; may be called more than once. Default none.
    pub fn resource(mut self, name: impl Into<String>, amount: u32) -> Self {
        self.means.other.resources.insert(name.into(), amount);
        self
    }

    /// A property that tasks may ask for, such as `zone-a`; may be called more than once. Default none.
    pub fn label(mut self, name: impl Into<String>) -> Self {
        self.means.other.labels.insert(name.into());
        self
    }

    /// Whether it takes less when it is under pressure. Default [`Concurrency::Adaptive`].
    pub fn concurrency(mut self, concurrency: Concurrency) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Where its pressure is read, once a second. Default: its cgroup and the kernel's pressure stall
    /// information; elsewhere than on Linux nothing is known.
    pub fn pressure(mut self, gauge: impl Fn() -> Pressure + Send + Sync + 'static) -> Self {
        self.gauge = Arc::new(gauge);
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
            Ok(task_type) => self.served.push(Offered { task_type, announce: entry::<T>, service: service() }),
            Err(error) => self.invalid = Some(Invalid::Name(error)),
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

    /// Returns what the executor reports of itself while it runs, for health checks.
    pub fn status(&self) -> Status {
        self.reporter.status()
    }

    /// Runs until SIGTERM or Ctrl-C, then drains; a second signal ends the drain at once.
    ///
    /// # Errors
    /// [`Error::Executor`] and [`Error::Name`] where it is not well configured; [`Error::Announce`],
    /// [`Error::Lanes`] where the broker refuses.
    pub async fn run(self) -> Result<(), Error> {
        let drain = CancellationToken::new();
        let running = self.run_until(drain.clone());
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => return ended,
            () = wait_for_signal() => drain.cancel(),
        }
        tokio::select! {
            ended = &mut running => ended,
            () = wait_for_signal() => {
                tracing::warn!("A second signal came during the drain; the executor ends at once.");
                Ok(())
            }
        }
    }

    /// Runs until `drain` is cancelled: then no task is taken any more, running ones end, waiting ones
    /// are handed back.
    ///
    /// # Errors
    /// As for [`Executor::run`].
    pub async fn run_until(mut self, drain: CancellationToken) -> Result<(), Error> {
        match self.invalid.take() {
            Some(Invalid::Name(error)) => return Err(error.into()),
            Some(Invalid::Option(error)) => return Err(self.refusal(error.to_string())),
            None => {}
        }
        let queue = QueueName::new(self.queue.clone())?;
        let means = std::mem::take(&mut self.means).complete();
        means.check().map_err(|error| self.refusal(error.to_string()))?;
        self.check()?;
        let bus = self.client.bus().clone();
        let offered = std::mem::take(&mut self.served);
        let Some(announced) = announce::all(&bus, &queue, &offered, &self.reporter, &drain).await? else {
            return Ok(());
        };
        let types = offered.iter().map(|offered| offered.task_type.clone()).zip(announced.types.iter().cloned());
        let announcing = announce::Announcing { bus: bus.clone(), queue: queue.clone(), types: types.collect() };
        let mut served = BTreeMap::new();
        for (offered, entry) in offered.into_iter().zip(announced.types) {
            let service = self.wraps.iter().fold(offered.service, |inner, wrap| wrap(inner));
            served.insert(
                offered.task_type,
                Serving { entry, service, usual: Mutex::default(), pace: pace::Pace::default() },
            );
        }
        let plan = lanes::Plan {
            bus,
            registry: self.client.registry().clone(),
            queue,
            fits: announced.fits,
            served,
            announcing,
            slots: self.slots,
            prefetch: Prefetch::new(self.prefetch),
            means,
            governor: Governor::new(self.slots, self.concurrency, self.gauge),
            reporter: self.reporter,
            drain_within: self.drain,
        };
        // Large, and for as long as the process: not on whoever awaits it.
        Box::pin(lanes::run(plan, drain)).await
    }

    fn refusal(&self, reason: String) -> Error {
        Error::Executor { queue: self.queue.clone(), reason }
    }

    fn check(&self) -> Result<(), Error> {
        if self.slots == 0 || self.slots > SLOTS_MAX {
            return Err(self.refusal(format!("slots must be 1 to {SLOTS_MAX}")));
        }
        if self.served.is_empty() {
            return Err(self.refusal("it serves no type: add one with .task(handler)".into()));
        }
        let mut seen = std::collections::BTreeSet::new();
        match self.served.iter().find(|served| !seen.insert(&served.task_type)) {
            Some(twice) => Err(self.refusal(format!("it serves {} twice", twice.task_type))),
            None => Ok(()),
        }
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
