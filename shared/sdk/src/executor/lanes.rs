//! An executor's whole life: the lanes it pulls, the counter where tasks are run, and what is told and
//! heard meanwhile.

use super::announce::Announcing;
use super::attempt::{Desk, Serving};
use super::cancelled::Cancelled;
use super::completing::Completing;
use super::counter::Counter;
use super::credit::Ledger;
use super::governor::Governor;
use super::lease::Holding;
use super::liveness::Liveness;
use super::mark::Unbegun;
use super::owners::Owners;
use super::prefetch::Prefetch;
use super::pulling::Lanes;
use super::running::Running;
use super::status::Reporter;
use crate::error::Error;
use crate::registry::Registry;
use jetlane_bus::Bus;
use jetlane_schemas::{FitEntry, Needs, QueueName, TaskId, TaskType, subject};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use super::parcel::Job;

/// How long the last word of an executor may take to reach the broker.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What an executor is made of.
pub(crate) struct Plan {
    pub(crate) bus: Bus,
    pub(crate) registry: Registry,
    pub(crate) queue: QueueName,
    /// The fits of the queue, as they are declared at the start.
    pub(crate) fits: Vec<FitEntry>,
    pub(crate) served: BTreeMap<TaskType, Serving>,
    pub(crate) announcing: Announcing,
    pub(crate) slots: usize,
    pub(crate) prefetch: Prefetch,
    pub(crate) means: Needs,
    pub(crate) governor: Governor,
    pub(crate) reporter: Reporter,
    pub(crate) drain_within: Duration,
}

/// Runs the executor until it has drained.
pub(crate) async fn run(plan: Plan, drain: CancellationToken) -> Result<(), Error> {
    let Plan {
        bus,
        registry,
        queue,
        fits,
        served,
        announcing,
        slots,
        prefetch,
        means,
        governor,
        reporter,
        drain_within,
    } = plan;
    let failed = |source| Error::Lanes { queue: queue.to_string(), source };
    let types = served.len();
    let ledger = Arc::new(Ledger::new(TaskId::generate().to_string(), slots, prefetch, means));
    let (governor, running) = (Arc::new(governor), Arc::new(Running::default()));
    let (holding, freed) = (Arc::new(Holding::default()), Arc::new(watch::Sender::new(0)));
    let (arrivals, inbox) = mpsc::channel(slots + ledger.prefetch.tasks(slots, slots).max(slots) + 1);
    let (cancelled, liveness) = (Arc::new(Cancelled::default()), Arc::new(Liveness::default()));
    let id = ledger.executor().to_owned();
    let unbegun = Arc::new(Unbegun::default());
    let owners = Arc::new(Owners::new(
        bus.clone(),
        queue.clone(),
        id.clone(),
        Arc::clone(&holding),
        Arc::clone(&running),
        Arc::clone(&unbegun),
    ));
    let mut helpers = JoinSet::new();
    let mut lanes = Lanes {
        bus: bus.clone(),
        queue: queue.clone(),
        ledger: Arc::clone(&ledger),
        freed: Arc::clone(&freed),
        arrivals,
        reporter: reporter.clone(),
        liveness: Arc::clone(&liveness),
        drain: drain.clone(),
        unmade: Vec::new(),
        pulls: JoinSet::new(),
    };
    // Before the first pull, on the same connection: the server knows of these before it sends a task, and a
    // task that runs can be cancelled and asked to yield.
    let cancels = bus.subscribe(subject::CANCEL_ALL).await.map_err(failed)?;
    helpers.spawn(Arc::clone(&cancelled).hear(Arc::clone(&running), cancels));
    helpers.spawn(Arc::clone(&cancelled).watch(Arc::clone(&running), bus.clone()));
    let yields = bus.subscribe(&subject::yield_wanted(&queue)).await.map_err(failed)?;
    helpers.spawn(Arc::clone(&running).hear_yields(yields));
    let questions = owners.listen().await.map_err(failed)?;
    helpers.spawn(Arc::clone(&owners).answer(questions));
    helpers.spawn(Arc::clone(&owners).keep());
    helpers.spawn(liveness.watch(Arc::clone(&owners)));
    helpers.spawn(announcing.keep());
    lanes.begin(&fits).await.map_err(failed)?;
    helpers.spawn(lanes.follow(registry.clone()));
    helpers.spawn(Arc::clone(&holding).keep_alive());
    helpers.spawn(Arc::clone(&governor).run(Arc::clone(&ledger)));
    {
        let (bus, queue, ledger) = (bus.clone(), queue.clone(), Arc::clone(&ledger));
        helpers.spawn(async move { ledger.keep_telling(&bus, &queue).await });
    }
    tracing::info!(%queue, executor = %id, types, slots, "Executor is ready.");
    let (bus, queue) = (bus.clone(), queue.clone());
    let completing = Completing::begin(bus.clone(), slots);
    let desk = Desk {
        bus: bus.clone(),
        queue: queue.clone(),
        served,
        running,
        ledger,
        governor,
        completing,
        owners,
        cancelled,
        unbegun,
        registry,
    };
    Counter::new(desk, holding, freed, reporter).serve(inbox, drain_within, drain).await;
    helpers.shutdown().await;
    let failed = |source| Error::Lanes { queue: queue.to_string(), source };
    // The broker may be away: what it does not hear now it finds out by itself.
    match tokio::time::timeout(FLUSH_TIMEOUT, bus.flush()).await {
        Ok(flushed) => flushed.map_err(failed)?,
        Err(_) => tracing::warn!(%queue, "The broker did not hear the last word of this executor."),
    }
    tracing::info!(%queue, "Executor has drained.");
    Ok(())
}
