//! The whole pipeline beside the bare broker: no-op tasks whose results are all awaited by the client
//! that submitted them, in the same run and in turns.

mod pairs;
mod report;

use super::bundling::BundleMax;
use super::latency::Latencies;
use super::noop::Runs;
use super::once::{STRAGGLERS, Stored, Witness};
use super::report::tell;
use super::services::{Services, Wanted, connect};
use super::submitter::{Paced, Submitter};
use super::usage::{Meter, Usage, megabytes};
use super::{pace, ruler};
use crate::args::Pipeline;
use crate::output::{Exit, Failure, Output};
use crate::stack::start_server;
use jetlane_bus::floor::{Floor, Shape};
use report::{OpenLoop, Rate, Report, Settings, Turn, Under};
use std::time::Duration;

/// Floor and pipeline run this often for each of the floor's settings, in turns.
const ROUNDS: usize = 3;
/// Tasks in flight of the floor.
const FLOOR_IN_FLIGHT: [usize; 2] = [200, 1_000];
/// All turns.
const TURNS: usize = ROUNDS * FLOOR_IN_FLIGHT.len();
/// Tasks one at a time, in all turns together.
const LATENCY_TASKS: usize = 3_000;
/// The loads of the open loop, as parts of the measured rate.
const LOADS: [f64; 3] = [0.25, 0.5, 0.8];
/// How long the open loop lasts at each load, unless stated: so many seconds with enough tasks, less with fewer.
const OPEN_LOOP_SECONDS: f64 = 5.0;
const OPEN_LOOP_SECONDS_LEAST: f64 = 1.0;
/// With so many tasks a run, the open loop lasts a second.
const TASKS_A_SECOND: f64 = 20_000.0;
/// How long a warm-up lasts, where everything is new.
const WARM_UP: Duration = Duration::from_millis(500);
/// What all chance follows from.
const SEED: u64 = 1;

/// Measures and reports.
pub(super) async fn run(args: &Pipeline, output: &Output) -> Result<Exit, Failure> {
    let settings = Settings::of(args);
    let mut server = start_server(0, None).await?;
    let report = Box::pin(measure(&server.url(), server.pid(), settings, output)).await;
    server.stop().await;
    let mut report = report?;
    if args.pairs > 0 {
        let (pairs, faults) = Box::pin(pairs::measure(settings, args.pairs, output)).await?;
        report.pairs = Some(pairs);
        report.faults += faults;
    }
    tell(&report, &args.told, output)
}

async fn measure(url: &str, server: Option<u32>, settings: Settings, output: &Output) -> Result<Report, Failure> {
    let runs = Runs::new();
    let wanted = Wanted { callbacks: settings.callbacks, ..Wanted::plain(settings.bundle) };
    let services = Services::of_noop(url, &runs, &wanted).await?;
    let mut submitter = Submitter::connect(url, settings.bundle, settings.body_bytes).await?;
    let before = Stored::read(submitter.client().bus()).await?;
    // The witness costs the broker a delivery a task: it listens to the first turn.
    let mut witness = Some(Witness::listen(connect(url, "bench-witness").await?).await?);
    let mut report = Report::new(settings)?;
    for turn in 0..TURNS {
        output.say(format_args!("turn {} of {TURNS}: the bare broker, then the pipeline", turn + 1));
        let in_flight = FLOOR_IN_FLIGHT[turn % FLOOR_IN_FLIGHT.len()];
        let turn = take_turn(url, server, &mut submitter, in_flight, &mut report).await?;
        report.turns.push(turn);
        if let Some(witness) = witness.take() {
            tokio::time::sleep(STRAGGLERS).await;
            report.faults.duplicates += witness.twice().await;
        }
    }
    let capacity = report.sum_up();
    if settings.open_loop_seconds > 0.0 {
        for load in LOADS {
            let rate = (capacity * load).max(1.0);
            output.say(format_args!("open loop at {:.0} % of {capacity:.0} tasks/s", load * 100.0));
            let under = under_load(url, &mut submitter, rate, settings).await?;
            report.open_loop.push(OpenLoop::of(load, rate, under));
        }
    }
    tokio::time::sleep(STRAGGLERS).await;
    report.faults += submitter.faults(before, &runs).await?;
    report.rss_mb = megabytes(Usage::of_this().peak_kb);
    services.stop().await;
    Ok(report)
}

/// The bare broker, with a task a message and with the pipeline's bundles, then the pipeline.
async fn take_turn(
    url: &str,
    server: Option<u32>,
    submitter: &mut Submitter,
    in_flight: usize,
    report: &mut Report,
) -> Result<Turn, Failure> {
    let Settings { tasks, body_bytes, .. } = report.settings;
    let shape = Shape { in_flight, body_bytes, ..Shape::default() };
    let mut floor = ruler::within(Floor::start(url, shape)).await?;
    let meter = Meter::start(server);
    let rate = ruler::within(floor.throughput(tasks)).await?;
    let bare = Rate::of(rate, meter.per_task(tasks));
    report.floors.extend(ruler::within(floor.latencies(LATENCY_TASKS / TURNS)).await?);
    ruler::within(floor.end()).await?;
    let bundled = match report.settings.floor_bundle() {
        1 => None,
        bundle => {
            let mut floor = ruler::within(Floor::start(url, Shape { bundle, ..shape })).await?;
            let meter = Meter::start(server);
            let rate = ruler::within(floor.throughput(tasks)).await?;
            let rate = Rate::of(rate, meter.per_task(tasks));
            ruler::within(floor.end()).await?;
            Some(rate)
        }
    };
    let meter = Meter::start(server);
    let rate = submitter.throughput(tasks).await?;
    let ours = Rate::of(rate, meter.per_task(tasks));
    let alone = submitter.latencies(LATENCY_TASKS / TURNS).await?;
    report.ours.extend(alone.iter().map(|latency| latency.result));
    report.handlers.extend(alone.iter().map(|latency| latency.handler));
    Ok(Turn { ours, bare, bundled, in_flight })
}

/// The pipeline, then the bare broker, both sent to at this rate.
async fn under_load(
    url: &str,
    submitter: &mut Submitter,
    rate: f64,
    settings: Settings,
) -> Result<(Under, Under), Failure> {
    let schedule = pace::schedule(settings.clock, rate, settings.open_loop_seconds, SEED)?;
    let ours = submitter.follow(&schedule).await?;
    let shape = Shape { bundle: settings.floor_bundle(), body_bytes: settings.body_bytes, ..Shape::default() };
    let floors = ruler::follow(url, shape, &schedule).await?;
    Ok((under(&ours)?, under(&floors)?))
}

fn under(paced: &Paced) -> Result<Under, Failure> {
    let latencies = Latencies::of(paced.latencies.iter().copied())?;
    let heard_per_s = paced.latencies.len() as f64 / paced.took.as_secs_f64().max(f64::MIN_POSITIVE);
    Ok(Under { heard_per_s: heard_per_s.round(), latency_ms: latencies.percentiles(), curve: latencies.curve() })
}

impl Settings {
    fn of(args: &Pipeline) -> Self {
        let scaled = (args.tasks as f64 / TASKS_A_SECOND).clamp(OPEN_LOOP_SECONDS_LEAST, OPEN_LOOP_SECONDS);
        Self {
            tasks: args.tasks.max(1),
            bundle: BundleMax(args.travel.bundle.into()),
            body_bytes: args.travel.body as usize,
            callbacks: args.callbacks,
            open_loop_seconds: args.open_loop_seconds.unwrap_or(scaled).clamp(0.0, 3_600.0),
            clock: args.clock,
        }
    }

    /// The bundle of the bare loop that the pipeline's bundles are compared with.
    fn floor_bundle(self) -> usize {
        self.bundle.of_floor(self.body_bytes)
    }
}
