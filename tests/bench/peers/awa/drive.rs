//! Drives awa: inserts by COPY, a client of 256 workers on its queue storage, without deadlines.

#[path = "../measure/measure.rs"]
mod measure;

use awa::{Client, InsertOpts, JobArgs, JobContext, JobError, JobResult, QueueConfig, QueueStorage, Worker};
use awa::{QueueStorageConfig, migrations};
use measure::{Ledger, Noop, Outcome, Plan};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgPool, PgPoolOptions};
use std::time::{Duration, Instant};

/// Tasks a COPY.
const BATCH: usize = 2_000;
const WORKERS: u32 = 256;
const CLAIMERS: u16 = 2;
const CONNECTIONS: u32 = 20;
/// As in the crate's own benchmark.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long completions may take to be stored once all has run.
const STORED_WITHIN: Duration = Duration::from_secs(60);
const QUEUE: &str = "bench";

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Serialize, Deserialize, JobArgs)]
struct NoopJob {
    number: usize,
    padding: String,
}

impl NoopJob {
    fn new(number: usize) -> Self {
        let Noop { number, padding } = Noop::new(number);
        Self { number, padding }
    }
}

struct Counting(Ledger);

#[async_trait::async_trait]
impl Worker for Counting {
    fn kind(&self) -> &'static str {
        NoopJob::kind()
    }

    async fn perform(&self, context: &JobContext) -> Result<JobResult, JobError> {
        let number = context.job.args["number"].as_u64().and_then(|number| usize::try_from(number).ok());
        self.0.started(number.expect("every task has its number"));
        Ok(JobResult::Completed)
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let plan = Plan::from_env();
    let ledger = Ledger::of(&plan);
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(&plan.url).await?;
    migrations::run(&pool).await?;
    let store = QueueStorage::new(QueueStorageConfig::default())?;
    let queue = QueueConfig {
        max_workers: WORKERS,
        claimers: CLAIMERS,
        poll_interval: POLL_INTERVAL,
        deadline_duration: Duration::ZERO,
        ..QueueConfig::default()
    };
    let client = Client::builder(pool.clone()).queue(QUEUE, queue).register_worker(Counting(ledger.clone())).build()?;
    client.start().await?;

    ledger.time(plan.warm_up.end, insert(&store, &pool, plan.warm_up.clone())).await?;
    let mut latencies = Vec::with_capacity(plan.latency.len());
    for number in plan.latency.clone() {
        let submit = async {
            awa::insert_with(&pool, &NoopJob::new(number), options()).await?;
            Ok::<_, Error>(())
        };
        latencies.push(ledger.time(number + 1, submit).await?);
    }
    let begun = Instant::now();
    let took = ledger.time(plan.tasks.end, insert(&store, &pool, plan.tasks.clone())).await?;
    let stored = stored(&store, &pool, i64::try_from(plan.tasks.end)?, begun).await?;

    let mut outcome = Outcome::of(plan.tasks.len(), ledger.lost(&plan.tasks), took, latencies);
    outcome.doubled = ledger.doubled();
    outcome.settings = format!(
        "inserts by COPY of {BATCH}; max_workers {WORKERS}, {CLAIMERS} claimers, no deadlines; counted when run, {:.0} \
         tasks/s until stored as completed",
        plan.tasks.len() as f64 / stored.as_secs_f64()
    );
    outcome.print()
}

fn options() -> InsertOpts {
    InsertOpts { queue: QUEUE.into(), ..InsertOpts::default() }
}

async fn insert(store: &QueueStorage, pool: &PgPool, numbers: std::ops::Range<usize>) -> Result<(), Error> {
    let end = numbers.end;
    for first in numbers.step_by(BATCH) {
        let batch = (first..end.min(first + BATCH))
            .map(|number| awa::model::insert::params_with(&NoopJob::new(number), options()))
            .collect::<Result<Vec<_>, _>>()?;
        store.enqueue_params_copy(pool, &batch).await?;
    }
    Ok(())
}

/// How long it took until so many were stored as completed: handlers run ahead of that.
async fn stored(store: &QueueStorage, pool: &PgPool, wanted: i64, begun: Instant) -> Result<Duration, Error> {
    let end = Instant::now() + STORED_WITHIN;
    while store.queue_counts(pool, QUEUE).await?.terminal < wanted && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(begun.elapsed())
}
