//! The whole pipeline beside the bare broker: no-op tasks whose results are all awaited by the client
//! that submitted them, in the same run and in turns.

use super::noop::{Noop, Runs, noop};
use crate::args::Pipeline;
use crate::output::{Exit, Failure, Output, table};
use crate::stack::start_server;
use hdrhistogram::Histogram;
use jetlane::{Client, Connect, Executor, Task, TaskType};
use jetlane_bus::floor::Floor;
use jetlane_bus::{Bus, Subscription};
use jetlane_callback::Endpoints;
use jetlane_schemas::subject;
use jetlane_service::health::Health;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Floor and pipeline run this often for each of the floor's settings, in turns; the best of each counts.
const ROUNDS: usize = 3;
/// Publishes in flight of the floor.
const FLOOR_IN_FLIGHT: [usize; 2] = [200, 1_000];
/// Tasks one at a time, in all rounds together.
const LATENCY_TASKS: usize = 3_000;
/// Slots of the executor: as many tasks under way as the floor has publishes.
const SLOTS: usize = 1_000;
/// How long one round may take before what is missing counts as lost.
const ROUND_WITHIN: Duration = Duration::from_secs(120);
/// How long the last runs may straggle in.
const STRAGGLERS: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Report {
    tasks: usize,
    tasks_per_s: f64,
    floor_tasks_per_s: f64,
    ratio: f64,
    latency_ms: Latency,
    rss_mb: f64,
    lost: usize,
    duplicates: u64,
    turns: Vec<Turn>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    floor_p50: f64,
    floor_p99: f64,
}

#[derive(Debug, Serialize)]
struct Turn {
    tasks_per_s: f64,
    floor_tasks_per_s: f64,
    in_flight: usize,
}

/// Measures and reports. Fails where a task was lost or doubled, never on a time.
pub(super) async fn run(args: &Pipeline, output: &Output) -> Result<Exit, Failure> {
    let mut server = start_server(0, None).await?;
    let report = measure(&server.url(), args, output).await;
    server.stop().await;
    let report = report?;
    if args.json || output.is_json() {
        output.json(&report);
    } else {
        println!("{}", report.table());
    }
    Ok(if report.lost == 0 && report.duplicates == 0 { Exit::Ok } else { Exit::Error })
}

async fn measure(url: &str, args: &Pipeline, output: &Output) -> Result<Report, Failure> {
    let tasks = args.tasks.max(1);
    let runs = Runs::of(ROUNDS * FLOOR_IN_FLIGHT.len() * tasks + LATENCY_TASKS);
    let services = Services::start(url, &runs, args).await?;
    let client = connect(url, "bench-submitter").await?;
    // The witness costs the broker a delivery a task: it listens to the first turn.
    let mut seen = Some(Seen::listen(connect(url, "bench-witness").await?).await?);
    let mut numbers = 0..u32::MAX;
    let mut report = Report::empty(tasks);
    let (mut ours, mut floors) = (histogram()?, histogram()?);
    let turns = ROUNDS * FLOOR_IN_FLIGHT.len();
    for turn in 0..turns {
        output.say(format_args!("turn {} of {turns}: the bare broker, then the pipeline", turn + 1));
        let in_flight = FLOOR_IN_FLIGHT[turn % FLOOR_IN_FLIGHT.len()];
        let mut floor = Floor::start(url, in_flight).await.map_err(floor_failed)?;
        let floor_rate = floor.throughput(tasks, in_flight).await.map_err(floor_failed)?;
        for latency in floor.latencies(LATENCY_TASKS / turns).await.map_err(floor_failed)? {
            floors.saturating_record(micros(latency));
        }
        floor.end().await.map_err(floor_failed)?;
        let (rate, lost) = throughput(&client, tasks, &mut numbers).await?;
        report.lost += lost;
        for latency in latencies(&client, LATENCY_TASKS / turns, &mut numbers).await? {
            ours.saturating_record(micros(latency));
        }
        if let Some(seen) = seen.take() {
            tokio::time::sleep(STRAGGLERS).await;
            report.duplicates += seen.twice().await;
        }
        report.turns.push(Turn { tasks_per_s: rate.round(), floor_tasks_per_s: floor_rate.round(), in_flight });
    }
    tokio::time::sleep(STRAGGLERS).await;
    report.duplicates += runs.beyond_one();
    report.rss_mb = peak_rss_mb();
    services.stop().await;
    report.sum_up(&ours, &floors);
    Ok(report)
}

/// Submits, pipelined, and awaits every result; tasks a second, and how many never came.
async fn throughput(
    client: &Client,
    tasks: usize,
    numbers: &mut std::ops::Range<u32>,
) -> Result<(f64, usize), Failure> {
    let begun = Instant::now();
    let submits = numbers.by_ref().take(tasks).map(|number| client.submit(Noop::new(number)));
    let mut handles = Vec::with_capacity(tasks);
    for handle in client.submit_all(submits).await {
        handles.push(handle?);
    }
    let end = tokio::time::Instant::now() + ROUND_WITHIN;
    let mut done = 0;
    for handle in handles {
        if let Ok(Ok(_number)) = tokio::time::timeout_at(end, handle.into_future()).await {
            done += 1;
        }
    }
    Ok((done as f64 / begun.elapsed().as_secs_f64(), tasks - done))
}

async fn latencies(
    client: &Client,
    tasks: usize,
    numbers: &mut std::ops::Range<u32>,
) -> Result<Vec<Duration>, Failure> {
    let mut latencies = Vec::with_capacity(tasks);
    for number in numbers.by_ref().take(tasks) {
        let begun = Instant::now();
        let handle = client.submit(Noop::new(number)).await?;
        handle.within(ROUND_WITHIN).await?;
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}

/// Dispatcher, executor and callback service, each with a connection of its own.
struct Services {
    drain: CancellationToken,
    services: JoinSet<Result<(), String>>,
}

impl Services {
    async fn start(url: &str, runs: &Runs, args: &Pipeline) -> Result<Self, Failure> {
        let drain = CancellationToken::new();
        let mut services = JoinSet::new();
        let dispatcher = Bus::connect(&Connect::to(url, "bench-dispatcher"))
            .await
            .map_err(|error| Failure::of(Exit::Unreachable, &error))?;
        let until = drain.clone();
        services.spawn(async move {
            let config = jetlane_dispatcher::Config::default();
            jetlane_dispatcher::run(dispatcher, config, until).await.map_err(|error| error.to_string())
        });
        let executor = connect(url, "bench-executor").await?;
        let executor = Executor::new(&executor, "bench").state(runs.clone()).slots(SLOTS).task(noop);
        let until = drain.clone();
        services.spawn(async move { executor.run_until(until).await.map_err(|error| error.to_string()) });
        if args.callbacks {
            let callback = connect(url, "bench-callback").await?;
            let until = drain.clone();
            services.spawn(async move {
                let endpoints =
                    Endpoints::new(&jetlane_callback::Settings::default()).map_err(|error| error.to_string())?;
                let (counts, health) = (Arc::default(), Health::default());
                jetlane_callback::serve(callback, endpoints, counts, health, until)
                    .await
                    .map_err(|error| error.to_string())
            });
        }
        let started = Self { drain, services };
        started.ready(url).await?;
        Ok(started)
    }

    /// Ready once a first task has gone all the way, which also warms everything up.
    async fn ready(&self, url: &str) -> Result<(), Failure> {
        let client = connect(url, "bench-probe").await?;
        let probe = async {
            loop {
                match client.submit(Noop::new(u32::MAX)).await {
                    Ok(handle) => return handle.await.map(|_| ()).map_err(Failure::from),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        tokio::time::timeout(ROUND_WITHIN, probe)
            .await
            .map_err(|_| Failure::new(Exit::TimedOut, "the pipeline is not ready"))?
    }

    async fn stop(self) {
        super::stop(&self.drain, self.services).await;
    }
}

/// Listens to every completion, to see whether one is told twice.
struct Seen {
    asked: tokio::sync::oneshot::Sender<()>,
    told: tokio::task::JoinHandle<u64>,
}

impl Seen {
    async fn listen(client: Client) -> Result<Self, Failure> {
        let noop = TaskType::new(Noop::TYPE).map_err(|error| Failure::of(Exit::Error, &error))?;
        let subscribed = client.bus().subscribe(&subject::stored_of_type(&noop)).await;
        let mut completions = subscribed.map_err(|error| Failure::of(Exit::Error, &error))?;
        let (asked, mut end) = tokio::sync::oneshot::channel();
        let told = tokio::spawn(async move {
            // The connection lives as long as the witness.
            let _client = client;
            let (mut seen, mut twice) = (HashSet::new(), 0);
            loop {
                let next = next_id(&mut completions);
                tokio::select! {
                    id = next => match id {
                        Some(id) => twice += u64::from(!seen.insert(id)),
                        None => return twice,
                    },
                    _ = &mut end => return twice,
                }
            }
        });
        Ok(Self { asked, told })
    }

    async fn twice(self) -> u64 {
        let _ended = self.asked.send(());
        self.told.await.unwrap_or(u64::MAX)
    }
}

async fn next_id(completions: &mut Subscription) -> Option<String> {
    Some(completions.next().await?.subject)
}

async fn connect(url: &str, name: &str) -> Result<Client, Failure> {
    Ok(Client::connect_with(&Connect::to(url, name)).await?)
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err wants")]
fn floor_failed(error: Box<dyn std::error::Error + Send + Sync>) -> Failure {
    Failure::new(Exit::Error, format!("the bare broker's loop failed: {error}"))
}

fn histogram() -> Result<Histogram<u64>, Failure> {
    // Microseconds up to a minute, three digits.
    Histogram::new_with_max(60_000_000, 3).map_err(|error| Failure::new(Exit::Error, error))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The most memory that this process has had resident: client, dispatcher, executor and callback service.
fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    (peak.unwrap_or(0.0) / 102.4).round() / 10.0
}

impl Report {
    fn empty(tasks: usize) -> Self {
        let latency_ms = Latency { p50: 0.0, p99: 0.0, floor_p50: 0.0, floor_p99: 0.0 };
        let turns = Vec::new();
        Self {
            tasks,
            tasks_per_s: 0.0,
            floor_tasks_per_s: 0.0,
            ratio: 0.0,
            latency_ms,
            rss_mb: 0.0,
            lost: 0,
            duplicates: 0,
            turns,
        }
    }

    fn sum_up(&mut self, ours: &Histogram<u64>, floors: &Histogram<u64>) {
        let best = |rates: &mut dyn Iterator<Item = f64>| rates.fold(0.0, f64::max);
        self.tasks_per_s = best(&mut self.turns.iter().map(|turn| turn.tasks_per_s));
        self.floor_tasks_per_s = best(&mut self.turns.iter().map(|turn| turn.floor_tasks_per_s));
        self.ratio = (self.tasks_per_s / self.floor_tasks_per_s * 1_000.0).round() / 1_000.0;
        let ms = |histogram: &Histogram<u64>, percentile| histogram.value_at_percentile(percentile) as f64 / 1_000.0;
        self.latency_ms = Latency {
            p50: ms(ours, 50.0),
            p99: ms(ours, 99.0),
            floor_p50: ms(floors, 50.0),
            floor_p99: ms(floors, 99.0),
        };
    }

    fn table(&self) -> String {
        let row = |name: &str, rate: f64, p50: f64, p99: f64| {
            [name.to_owned(), format!("{rate:.0}"), format!("{p50:.3}"), format!("{p99:.3}")]
        };
        let latency = &self.latency_ms;
        let rows = [
            row("bare broker, three hops", self.floor_tasks_per_s, latency.floor_p50, latency.floor_p99),
            row("pipeline", self.tasks_per_s, latency.p50, latency.p99),
        ];
        format!(
            "{}\n\nratio {:.3}, {} tasks a run, {} lost, {} doubled, {} MB resident at most",
            table(["system", "tasks/s", "p50 ms", "p99 ms"], rows),
            self.ratio,
            self.tasks,
            self.lost,
            self.duplicates,
            self.rss_mb
        )
    }
}
