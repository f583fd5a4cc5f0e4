//! Drives apalis on Redis: pushes in bulk, a worker with large batches, woken by a short poll interval.

#[path = "../measure/measure.rs"]
mod measure;

use apalis::prelude::*;
use apalis_core::backend::ext::BackendExt;
use apalis_redis::{Config, RedisStorage};
use measure::{Ledger, Noop, Outcome, Plan};
use std::time::Duration;
use tokio::runtime::Handle;

/// Tasks a push: one script each.
const BULK: usize = 500;
/// Tasks a fetch.
const BATCH: usize = 500;
/// Handlers at once.
const CONCURRENCY: usize = 1_000;
/// What may wait: a fetch unpacks all that is due on the stack of Redis' Lua, which ends near 8,000.
const WAITING_MAX: usize = 4_000;
/// How often an idle worker looks. Without a strategy it would look at each heartbeat, every 30 s; with 1 ms some
/// tasks were seen to wait for that heartbeat all the same.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let plan = Plan::from_env();
    let ledger = Ledger::of(&plan);
    let config = Config::default().queue("bench").batch_size(BATCH).lock_tasks(false).emit_events(false);
    let connection = apalis_redis::connect(plan.url.as_str()).await?;
    let mut storage = RedisStorage::<Noop>::new(connection).with_config(config.clone());
    let (runtime, url, seen) = (Handle::current(), plan.url.clone(), ledger.clone());
    // On a thread, since the compiler does not see that the worker's future may be spawned; its tasks are.
    std::thread::spawn(move || runtime.block_on(work(url, config, seen)));

    ledger.time(plan.warm_up.end, push(&mut storage, &ledger, plan.warm_up.clone())).await?;
    let mut latencies = Vec::with_capacity(plan.latency.len());
    for number in plan.latency.clone() {
        let submit = async { storage.push(Noop::new(number)).await.map_err(Error::from) };
        latencies.push(ledger.time(number + 1, submit).await?);
    }
    let took = ledger.time(plan.tasks.end, push(&mut storage, &ledger, plan.tasks.clone())).await?;

    let mut outcome = Outcome::of(plan.tasks.len(), ledger.lost(&plan.tasks), took, latencies);
    outcome.doubled = ledger.doubled();
    outcome.settings = format!(
        "push_bulk of {BULK}, at most {WAITING_MAX} waiting; fetches of {BATCH}, polled each {} ms, {CONCURRENCY} \
         handlers in parallel; leases and events off, results stored",
        POLL_INTERVAL.as_millis()
    );
    outcome.print()
}

async fn push(storage: &mut RedisStorage<Noop>, ledger: &Ledger, numbers: std::ops::Range<usize>) -> Result<(), Error> {
    let end = numbers.end;
    for first in numbers.step_by(BULK) {
        while first.saturating_sub(ledger.distinct()) > WAITING_MAX - BULK {
            tokio::task::yield_now().await;
        }
        storage.push_bulk((first..end.min(first + BULK)).map(Noop::new).collect()).await?;
    }
    Ok(())
}

/// The worker, with a connection of its own.
async fn work(url: String, config: Config, ledger: Ledger) {
    let connection = apalis_redis::connect(url).await.expect("Redis answers");
    let storage = RedisStorage::<Noop>::new(connection).with_config(config).poll_with_interval(POLL_INTERVAL);
    let worker = WorkerBuilder::new("bench")
        .backend(storage)
        .concurrency(CONCURRENCY)
        .data(ledger)
        .parallelize(tokio::spawn)
        .build(handle);
    if let Err(error) = worker.run().await {
        eprintln!("the worker ended: {error}");
        std::process::exit(1);
    }
}

async fn handle(task: Noop, ledger: Data<Ledger>) -> Result<(), BoxDynError> {
    ledger.started(task.number);
    Ok(())
}
