//! Drives apalis on NATS: a stream of pushes, a durable pull consumer, and handlers in parallel.

#[path = "../measure/measure.rs"]
mod measure;

use apalis::prelude::*;
use apalis_nats::{Config, NatsJetStream};
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::RetentionPolicy;
use measure::{Ledger, Noop, Outcome, Plan};
use tokio::runtime::Handle;

/// Tasks a push in bulk.
const BULK: usize = 1_000;
/// Messages handed out and not yet acked.
const ACK_PENDING_MAX: i64 = 50_000;
/// Handlers at once.
const CONCURRENCY: usize = 1_000;
/// Where nothing is ever published: what the producer's own consumer listens to. Every backend of the crate makes
/// one with its first push, and would take tasks away from the worker where both listened to the queue.
const NOWHERE: &str = "bench.nowhere";
/// Pushes wait for nothing, so that the producer itself keeps within what the client can buffer.
const AHEAD_MAX: usize = 20_000;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let plan = Plan::from_env();
    let ledger = Ledger::of(&plan);
    let client = async_nats::connect(plan.url.as_str()).await?;
    let mut producer = NatsJetStream::<Noop, _>::new(client).with_config(producers_config());
    let (runtime, url, seen) = (Handle::current(), plan.url.clone(), ledger.clone());
    // On a thread, since the compiler does not see that the worker's future may be spawned; its tasks are.
    std::thread::spawn(move || runtime.block_on(work(url, seen)));

    ledger.time(plan.warm_up.end, push(&mut producer, &ledger, plan.warm_up.clone())).await?;
    let mut latencies = Vec::with_capacity(plan.latency.len());
    for number in plan.latency.clone() {
        let submit = async { producer.push(Noop::new(number)).await.map_err(Error::from) };
        latencies.push(ledger.time(number + 1, submit).await?);
    }
    let took = ledger.time(plan.tasks.end, push(&mut producer, &ledger, plan.tasks.clone())).await?;

    let mut outcome = Outcome::of(plan.tasks.len(), ledger.lost(&plan.tasks), took, latencies);
    outcome.doubled = ledger.doubled();
    outcome.settings = format!(
        "push_bulk of {BULK}, publishes not confirmed; durable pull consumer, {ACK_PENDING_MAX} acks pending, \
         {CONCURRENCY} handlers in parallel; {} retention",
        if work_queue() { "work queue" } else { "default" }
    );
    outcome.print()
}

fn work_queue() -> bool {
    std::env::var("PEER_VARIANT").is_ok_and(|variant| variant == "work-queue")
}

fn config() -> Config<pull::Config> {
    let mut config = Config::new("bench").with_pull_consumer().durable().with_max_ack_pending(ACK_PENDING_MAX);
    config.stream.subjects = vec!["bench".into(), NOWHERE.into()];
    if work_queue() {
        config.stream.retention = RetentionPolicy::WorkQueue;
    }
    config.with_filter_subject("bench")
}

fn producers_config() -> Config<pull::Config> {
    let mut config = config().with_filter_subject(NOWHERE);
    config.consumer.durable_name = Some("nowhere".into());
    config.consumer.name = Some("nowhere".into());
    config
}

async fn push(
    producer: &mut NatsJetStream<Noop, pull::Config>,
    ledger: &Ledger,
    numbers: std::ops::Range<usize>,
) -> Result<(), Error> {
    let end = numbers.end;
    for first in numbers.step_by(BULK) {
        while first.saturating_sub(ledger.distinct()) > AHEAD_MAX {
            tokio::task::yield_now().await;
        }
        producer.push_bulk((first..end.min(first + BULK)).map(Noop::new).collect()).await?;
    }
    Ok(())
}

/// The worker, with a connection of its own.
async fn work(url: String, ledger: Ledger) {
    let client = async_nats::connect(url).await.expect("NATS answers");
    let worker = WorkerBuilder::new("bench")
        .backend(NatsJetStream::<Noop, _>::new(client).with_config(config()))
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
