//! Drives ChasquiMQ: adds in bulk, a consumer of 100 in batches, results read back in bulk where asked for.

#[path = "../measure/measure.rs"]
mod measure;

use chasquimq::{Consumer, ConsumerConfig, HandlerError, Job, Producer, ProducerConfig};
use futures_util::{StreamExt, TryStreamExt, stream};
use measure::{Ledger, Noop, Outcome, Plan};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Tasks an add in bulk, and so many adds under way.
const BULK: usize = 500;
const BULKS_IN_FLIGHT: usize = 4;
/// Handlers at once: the crate's own benchmark has 100.
const CONCURRENCY: usize = 100;
/// Entries a read, and an ack.
const BATCH: usize = 256;
/// Results asked for at once.
const RESULTS_A_READ: usize = 500;
/// How long to wait after a read of results that found none.
const RESULT_POLL: Duration = Duration::from_micros(500);
/// How long no result may come before what is missing counts as lost.
const STANDSTILL: Duration = Duration::from_secs(20);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let results = std::env::var("PEER_VARIANT").is_ok_and(|variant| variant == "results");
    let plan = Plan::from_env();
    let ledger = Ledger::of(&plan);
    let producer = Producer::connect(&plan.url, ProducerConfig { queue_name: "bench".into(), ..Default::default() });
    let producer = producer.await?;
    tokio::spawn(consume(plan.url.clone(), results, ledger.clone()));

    let (lost_first, latencies, took, lost);
    if results {
        lost_first = run_and_read(&producer, plan.warm_up.clone()).await?;
        latencies = latencies_of_results(&producer, &plan).await?;
        let begun = Instant::now();
        lost = run_and_read(&producer, plan.tasks.clone()).await?;
        took = begun.elapsed();
    } else {
        ledger.time(plan.warm_up.end, add(&producer, plan.warm_up.clone())).await?;
        lost_first = ledger.lost(&plan.warm_up);
        latencies = latencies_of_handlers(&producer, &plan, &ledger).await?;
        took = ledger.time(plan.tasks.end, add(&producer, plan.tasks.clone())).await?;
        lost = ledger.lost(&plan.tasks);
    }
    if lost_first > 0 {
        return Err(format!("{lost_first} tasks of the warm-up were lost").into());
    }
    let mut outcome = Outcome::of(plan.tasks.len(), lost, took, latencies);
    outcome.doubled = ledger.doubled();
    outcome.hears_result = results;
    outcome.latency_until = if results { "result" } else { "handler" };
    outcome.settings = format!(
        "add_bulk of {BULK}, {BULKS_IN_FLIGHT} under way; {CONCURRENCY} handlers, reads and acks of {BATCH}, events \
         off{}",
        if results { ", results stored and read in bulk" } else { "" }
    );
    outcome.print()
}

/// The worker.
async fn consume(url: String, results: bool, ledger: Ledger) {
    let config = ConsumerConfig {
        queue_name: "bench".into(),
        concurrency: CONCURRENCY,
        batch: BATCH,
        ack_batch: BATCH,
        events_enabled: false,
        run_scheduler: false,
        store_results: results,
        result_batch: BATCH,
        result_idle_ms: 1,
        ..Default::default()
    };
    let handler = move |job: Job<Noop>| {
        let ledger = ledger.clone();
        async move {
            ledger.started(job.payload.number);
            let answer = if results { job.payload.number.to_string() } else { String::new() };
            Ok::<_, HandlerError>(bytes::Bytes::from(answer))
        }
    };
    if let Err(error) = Consumer::<Noop>::new(url, config).run(handler, CancellationToken::new()).await {
        eprintln!("the consumer ended: {error}");
        std::process::exit(1);
    }
}

async fn add(producer: &Producer<Noop>, numbers: std::ops::Range<usize>) -> Result<()> {
    let bulks = numbers.clone().step_by(BULK).map(|first| {
        let bulk = (first..numbers.end.min(first + BULK)).map(Noop::new).collect();
        producer.add_bulk(bulk)
    });
    stream::iter(bulks).buffer_unordered(BULKS_IN_FLIGHT).try_for_each(|_ids| async { Ok(()) }).await?;
    Ok(())
}

/// Adds, reads every result back at the same time, and tells how many never came.
async fn run_and_read(producer: &Producer<Noop>, numbers: std::ops::Range<usize>) -> Result<usize> {
    let (ids, mut added) = tokio::sync::mpsc::channel::<Vec<String>>(1_000);
    let adding = async {
        let bulks = numbers.clone().step_by(BULK).map(|first| {
            let bulk = (first..numbers.end.min(first + BULK)).map(Noop::new).collect();
            producer.add_bulk(bulk)
        });
        let mut bulks = stream::iter(bulks).buffer_unordered(BULKS_IN_FLIGHT);
        while let Some(bulk) = bulks.next().await {
            ids.send(bulk?).await?;
        }
        drop(ids);
        Result::Ok(())
    };
    let reading = async {
        let (mut waiting, mut open, mut last) = (VecDeque::new(), true, Instant::now());
        while (open || !waiting.is_empty()) && last.elapsed() < STANDSTILL {
            if open && waiting.is_empty() {
                match added.recv().await {
                    Some(bulk) => waiting.extend(bulk),
                    None => open = false,
                }
            }
            while let Ok(bulk) = added.try_recv() {
                waiting.extend(bulk);
            }
            let asked: Vec<String> = waiting.drain(..waiting.len().min(RESULTS_A_READ)).collect();
            let told = producer.get_result_bulk(&asked).await?;
            let missing: Vec<String> =
                asked.into_iter().zip(&told).filter(|(_, told)| told.is_none()).map(|(id, _)| id).collect();
            if missing.len() < told.len() {
                last = Instant::now();
            } else {
                tokio::time::sleep(RESULT_POLL).await;
            }
            for id in missing.into_iter().rev() {
                waiting.push_front(id);
            }
        }
        Result::Ok(waiting.len())
    };
    let (added, missing) = tokio::join!(adding, reading);
    added?;
    missing
}

async fn latencies_of_results(producer: &Producer<Noop>, plan: &Plan) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(plan.latency.len());
    for number in plan.latency.clone() {
        let begun = Instant::now();
        let id = producer.add(Noop::new(number)).await?;
        while producer.get_result(&id).await?.is_none() {
            if begun.elapsed() > STANDSTILL {
                return Err("a task one at a time was lost".into());
            }
        }
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}

async fn latencies_of_handlers(producer: &Producer<Noop>, plan: &Plan, ledger: &Ledger) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(plan.latency.len());
    for number in plan.latency.clone() {
        let submit = async { Result::Ok(producer.add(Noop::new(number)).await.map(drop)?) };
        latencies.push(ledger.time(number + 1, submit).await?);
    }
    Ok(latencies)
}
