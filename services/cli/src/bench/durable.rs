//! What durability costs: one server and three, flushed at leisure and before each acknowledgement. All
//! servers share one disk.

use super::bundling::BundleMax;
use super::latency::{Latencies, Percentiles, median, ratio};
use super::noop::Runs;
use super::once::{Faults, STRAGGLERS, Stored};
use super::plot::{Panel, Picture};
use super::report::{self, tell};
use super::ruler;
use super::services::{Services, Wanted};
use super::submitter::Submitter;
use crate::args::Durable;
use crate::output::{Exit, Failure, Output, grouped, table};
use crate::stack::find_server;
use jetlane_bus::floor::{Floor, Shape};
use jetlane_bus::local::{Cluster, Options, SyncInterval};
use serde::Serialize;

/// Servers, which is also the copies of every stream, and when they flush.
const CASES: [(usize, SyncInterval); 4] = [
    (1, SyncInterval::ServerDefault),
    (1, SyncInterval::Always),
    (3, SyncInterval::ServerDefault),
    (3, SyncInterval::Always),
];
/// The bare broker and the pipeline, in so many turns; in one where a run is short.
const TURNS: usize = 3;
const SHORT_TASKS: usize = 5_000;
/// Of so many tasks of a run one goes singly, for its latency.
const TASKS_A_LATENCY: usize = 50;
const LATENCY_TASKS_LEAST: usize = 40;

/// All figures. The names are a contract.
#[derive(Debug, Serialize)]
struct Report {
    tasks: usize,
    bundle: usize,
    body_bytes: usize,
    turns: usize,
    cases: Vec<Case>,
    #[serde(flatten)]
    faults: Faults,
}

/// The medians of all turns.
#[derive(Debug, Serialize)]
struct Case {
    servers: usize,
    sync: &'static str,
    tasks_per_s: f64,
    floor_tasks_per_s: f64,
    ratio: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundled_floor_tasks_per_s: Option<f64>,
    latency_ms: Percentiles,
    floor_latency_ms: Percentiles,
}

/// Measures and reports.
pub(super) async fn run(args: &Durable, output: &Output) -> Result<Exit, Failure> {
    let tasks = args.tasks.max(1);
    let (bundle, body_bytes) = (BundleMax(args.travel.bundle.into()), args.travel.body as usize);
    let turns = if tasks < SHORT_TASKS { 1 } else { TURNS };
    let (cases, faults) = (Vec::new(), Faults::default());
    let mut report = Report { tasks, bundle: bundle.0, body_bytes, turns, cases, faults };
    let binary = find_server().await?;
    for (servers, sync) in CASES {
        output.say(format_args!("{}, {}", plural(servers), name(sync)));
        let options = Options { name: "jetlane".into(), sync, ..Options::default() };
        let cluster = Cluster::start(&binary, servers, &options).await;
        let mut cluster = cluster.map_err(|error| Failure::of(Exit::Error, &error))?;
        let measured = Box::pin(measure(&cluster.url(), &report, servers, sync)).await;
        cluster.stop().await;
        match measured {
            Ok((case, faults)) => {
                report.cases.push(case);
                report.faults += faults;
            }
            // What was measured before is not lost with it.
            Err(failure) if report.cases.is_empty() => return Err(failure),
            Err(failure) => {
                tell(&report, &args.told, output)?;
                return Err(failure);
            }
        }
    }
    tell(&report, &args.told, output)
}

async fn measure(url: &str, settings: &Report, servers: usize, sync: SyncInterval) -> Result<(Case, Faults), Failure> {
    let Report { tasks, body_bytes, .. } = *settings;
    let bundle = BundleMax(settings.bundle);
    let runs = Runs::new();
    let wanted = Wanted { replicas: servers, ..Wanted::plain(bundle) };
    let services = Services::of_noop(url, &runs, &wanted).await?;
    let mut submitter = Submitter::connect(url, bundle, body_bytes).await?;
    let before = Stored::read(submitter.client().bus()).await?;
    let shape = Shape { body_bytes, replicas: servers, ..Shape::default() };
    let (mut ours, mut floors, mut bundled) = (Vec::new(), Vec::new(), Vec::new());
    let (mut our_latencies, mut floor_latencies) = (Latencies::new()?, Latencies::new()?);
    let singly = (tasks / TASKS_A_LATENCY).max(LATENCY_TASKS_LEAST);
    for _ in 0..settings.turns {
        let mut floor = ruler::within(Floor::start(url, shape)).await?;
        floors.push(ruler::within(floor.throughput(tasks)).await?);
        floor_latencies.extend(ruler::within(floor.latencies(singly)).await?);
        ruler::within(floor.end()).await?;
        if bundle.of_floor(body_bytes) > 1 {
            let shape = Shape { bundle: bundle.of_floor(body_bytes), ..shape };
            bundled.push(ruler::throughput(url, shape, tasks).await?);
        }
        ours.push(submitter.throughput(tasks).await?);
        our_latencies.extend(submitter.latencies(singly).await?.iter().map(|latency| latency.result));
    }
    tokio::time::sleep(STRAGGLERS).await;
    let faults = submitter.faults(before, &runs).await?;
    services.stop().await;
    let ratios = ours.iter().zip(&floors).map(|(ours, floor)| ratio(*ours, *floor));
    let case = Case {
        servers,
        sync: name(sync),
        ratio: median(ratios),
        tasks_per_s: median(ours).round(),
        floor_tasks_per_s: median(floors).round(),
        bundled_floor_tasks_per_s: (!bundled.is_empty()).then(|| median(bundled).round()),
        latency_ms: our_latencies.percentiles(),
        floor_latency_ms: floor_latencies.percentiles(),
    };
    Ok((case, faults))
}

fn plural(servers: usize) -> String {
    if servers == 1 { "1 server".into() } else { format!("{servers} servers") }
}

fn name(sync: SyncInterval) -> &'static str {
    match sync {
        SyncInterval::ServerDefault => "default",
        SyncInterval::Always => "always",
        SyncInterval::Every(_) => "every so often",
    }
}

impl Report {
    fn settings(&self) -> String {
        let bundles = if self.bundle > 1 { format!("bundles of up to {}", self.bundle) } else { "no bundles".into() };
        let tasks = grouped(self.tasks as u64);
        format!("{tasks} tasks a run, bodies of {} bytes, {bundles}, all servers on one disk", self.body_bytes)
    }

    fn bars(&self, of: fn(&Case) -> [(&'static str, f64); 2]) -> Vec<(String, f64)> {
        let bars = self.cases.iter().flat_map(|case| {
            of(case).map(|(system, value)| (format!("{}, {}: {system}", case.servers, case.sync), value))
        });
        bars.collect()
    }
}

impl report::Report for Report {
    const NAME: &'static str = "durable";

    fn table(&self) -> String {
        let rows = self.cases.iter().map(|case| {
            let bundled = case.bundled_floor_tasks_per_s.map_or_else(|| "-".into(), |rate| format!("{rate:.0}"));
            let ms = |value: f64| format!("{value:.2}");
            [
                case.servers.to_string(),
                case.sync.to_owned(),
                format!("{:.0}", case.floor_tasks_per_s),
                bundled,
                format!("{:.0}", case.tasks_per_s),
                format!("{:.3}", case.ratio),
                ms(case.floor_latency_ms.p50),
                ms(case.floor_latency_ms.p99),
                ms(case.latency_ms.p50),
                ms(case.latency_ms.p99),
            ]
        });
        let heads = [
            "servers",
            "sync",
            "bare tasks/s",
            "bare, bundled",
            "pipeline",
            "ratio",
            "bare p50 ms",
            "bare p99 ms",
            "p50 ms",
            "p99 ms",
        ];
        let Faults { lost, duplicates } = self.faults;
        format!(
            "{}\n\n{}; medians of {} turns; {lost} lost, {duplicates} doubled",
            table(heads, rows),
            self.settings(),
            self.turns
        )
    }

    fn picture(&self) -> Picture {
        let rates = self.bars(|case| [("bare", case.floor_tasks_per_s), ("pipeline", case.tasks_per_s)]);
        let times = self.bars(|case| [("bare", case.floor_latency_ms.p50), ("pipeline", case.latency_ms.p50)]);
        let panels = vec![
            Panel::Bars { title: "Tasks a second, by servers and sync".into(), bars: rates },
            Panel::Bars { title: "p50 one at a time, ms".into(), bars: times },
        ];
        Picture { title: "What durability costs".into(), settings: self.settings(), panels }
    }

    fn exit(&self) -> Exit {
        self.faults.exit()
    }
}
