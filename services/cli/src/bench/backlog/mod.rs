//! A backlog: everything is submitted while executors are off, then drained. Each part of the system is a
//! process of its own.

mod drain;
mod memory;
mod report;

use super::bundling::BundleMax;
use super::noop::{Counts, Noop};
use super::once::{Faults, Heard, STRAGGLERS, Stored, completions};
use super::processes::Processes;
use super::report::tell;
use super::services::{self, SLOTS, connect};
use crate::args::Backlog;
use crate::output::{Exit, Failure, Output, grouped};
use crate::stack::start_server;
use drain::Drain;
use jetlane::{Client, TaskId};
use jetlane_bus::floor::{Floor, Shape};
use memory::{Memory, Sample};
use report::{Bare, Report, Settings};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Tasks that are handed to the client at once.
const CHUNK: usize = 20_000;
/// How long nothing may complete before what is missing counts as lost.
const STALL: Duration = Duration::from_secs(60);
/// The service that is off while the backlog grows.
const EXECUTOR: &str = "executor";

/// Measures and reports.
pub(super) async fn run(args: &Backlog, output: &Output) -> Result<Exit, Failure> {
    let settings = Settings {
        tasks: args.tasks.max(2),
        bundle: BundleMax(args.travel.bundle.into()),
        body_bytes: args.travel.body as usize,
    };
    let bundled = settings.bundle.of_floor(settings.body_bytes);
    let floor = bare(settings, 1, output).await?;
    let bundled_floor = if bundled > 1 { Some(bare(settings, bundled, output).await?) } else { None };
    let mut processes = Processes::start(settings.bundle.variables()).await?;
    let system = Box::pin(system(&mut processes, settings, output)).await;
    processes.stop().await;
    let report = Report::of(settings, &floor, bundled_floor.as_ref(), &system?);
    tell(&report, &args.told, output)
}

/// The bare loop over the same backlog, on a server of its own.
async fn bare(settings: Settings, bundle: usize, output: &Output) -> Result<Bare, Failure> {
    output.say(format_args!("the bare broker, {bundle} a message: {} tasks", grouped(settings.tasks as u64)));
    let mut server = start_server(0, None).await?;
    let measured = Box::pin(bare_on(&server.url(), settings, bundle)).await;
    server.stop().await;
    measured
}

async fn bare_on(url: &str, settings: Settings, bundle: usize) -> Result<Bare, Failure> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(Exit::Error, format!("the bare broker's loop failed: {error}"))
    };
    let shape = Shape { bundle, body_bytes: settings.body_bytes, ..Shape::default() };
    let mut floor = Floor::set_up(url, shape).await.map_err(failed)?;
    let begun = Instant::now();
    floor.submit(settings.tasks).await.map_err(failed)?;
    let submitted = begun.elapsed();
    let begun = Instant::now();
    floor.run();
    let heard = floor.hear(settings.tasks).await.map_err(failed)?;
    floor.end().await.map_err(failed)?;
    let heard = heard.into_iter().map(|at| at.saturating_duration_since(begun)).collect();
    Ok(Bare { bundle, submitted, drain: Drain::of(heard) })
}

/// What came of the whole system.
struct System {
    submitted: Duration,
    drain: Drain,
    /// When the drain began, counted from the first submission, as samples are.
    drain_at: Duration,
    samples: Vec<Sample>,
    faults: Faults,
}

async fn system(processes: &mut Processes, settings: Settings, output: &Output) -> Result<System, Failure> {
    let folder = tempfile::tempdir().map_err(|error| Failure::of(Exit::Error, &error))?;
    let counts = [folder.path().join("warm-up"), folder.path().join("counts")];
    processes.run("dispatcher", &["run", "dispatcher"])?;
    processes.run("callback", &["run", "callback"])?;
    start_executor(processes, &counts[0])?;
    let url = processes.server.url();
    let client = connect(&url, "bench-submitter").await?;
    services::first(|| client.submit(Noop::probe())).await?;
    let before = Stored::read(client.bus()).await?;
    processes.end(EXECUTOR).await;
    let watched = Arc::new(Mutex::new(processes.ids()));
    let memory = Memory::watch(Arc::clone(&watched));

    output.say(format_args!("submitting {} tasks while executors are off", grouped(settings.tasks as u64)));
    let begun = Instant::now();
    let submitter = settings.bundle.apply_to_client(client);
    let waiting = submit(&submitter, settings).await?;
    let submitted = begun.elapsed();
    // Its subscription would cost the broker a delivery a task.
    drop(submitter);

    output.say("draining");
    let ear = connect(&url, "bench-ear").await?;
    let heard = completions(ear.bus()).await?;
    let drain_at = begun.elapsed();
    let begun = Instant::now();
    start_executor(processes, &counts[1])?;
    *watched.lock().await = processes.ids();
    let (drain, mut faults) = hear(heard, waiting, begun).await;
    tokio::time::sleep(STRAGGLERS).await;
    let samples = memory.end().await;
    let now = Stored::read(ear.bus()).await?;
    faults += before.compare(now, settings.tasks as u64, faults.lost);
    processes.end(EXECUTOR).await;
    faults += run_counts(&counts[1], settings.tasks as u64 - faults.lost.min(settings.tasks as u64))?;
    Ok(System { submitted, drain: Drain::of(drain), drain_at, samples, faults })
}

fn start_executor(processes: &mut Processes, counts: &Path) -> Result<(), Failure> {
    let (slots, counts) = (SLOTS.to_string(), counts.display().to_string());
    processes.run(EXECUTOR, &["bench", "executor", "--slots", &slots, "--counts", &counts])
}

/// Submits the backlog; the ids of its tasks.
async fn submit(client: &Client, settings: Settings) -> Result<HashSet<u128>, Failure> {
    let numbers: Vec<u32> = (0..settings.tasks as u32).collect();
    let mut waiting = HashSet::with_capacity(settings.tasks);
    for chunk in numbers.chunks(CHUNK) {
        let submits = chunk.iter().map(|number| client.submit(Noop::new(*number, settings.body_bytes)));
        for handle in client.submit_all(submits).await {
            // As a number: less to keep of a million.
            waiting.insert(handle?.id().bits().expect("the SDK's ids are UUIDs"));
        }
    }
    Ok(waiting)
}

/// Hears completions until all that wait have completed or nothing comes any more.
async fn hear(mut heard: Heard, mut waiting: HashSet<u128>, begun: Instant) -> (Vec<Duration>, Faults) {
    let mut moments = Vec::with_capacity(waiting.len());
    let mut faults = Faults::default();
    while !waiting.is_empty() {
        let Ok(Some(ids)) = tokio::time::timeout(STALL, heard.next()).await else { break };
        for id in ids {
            let id = TaskId::new(id).ok().and_then(|id| id.bits());
            if id.is_some_and(|id| waiting.remove(&id)) {
                moments.push(begun.elapsed());
            } else {
                faults.duplicates += 1;
            }
        }
    }
    faults.lost = waiting.len() as u64;
    (moments, faults)
}

/// What the executor's own counts say, of which so many tasks completed.
fn run_counts(path: &Path, completed: u64) -> Result<Faults, Failure> {
    let unknown = |why: &dyn std::fmt::Display| {
        Failure::new(Exit::Error, format!("the executor did not say how often tasks were run: {why}"))
    };
    let counts = std::fs::read(path).map_err(|error| unknown(&error))?;
    let counts: Counts = serde_json::from_slice(&counts).map_err(|error| unknown(&error))?;
    // A task that completed and was not run is none that was done.
    Ok(Faults { lost: completed.saturating_sub(counts.tasks), duplicates: counts.beyond_one })
}
