//! Whether bundles cost latency: the same open loop with them and without, in turns, each half on a
//! server of its own.

use super::super::bundling::BundleMax;
use super::super::latency::{Latencies, Percentiles, median, ratio};
use super::super::noop::Runs;
use super::super::once::{Faults, STRAGGLERS, Stored};
use super::super::pace;
use super::super::services::{Services, Wanted};
use super::super::submitter::Submitter;
use super::report::Settings;
use super::{OPEN_LOOP_SECONDS_LEAST, SEED, WARM_UP};
use crate::output::{Failure, Output};
use crate::stack::start_server;
use serde::Serialize;

/// The load, as a part of the rate without bundles.
const LOAD: f64 = 0.25;
/// Runs of which the rate without bundles is the middle one.
const CAPACITY_RUNS: usize = 3;

/// What came of the pairs. Milliseconds; medians of all pairs.
#[derive(Debug, Serialize)]
pub(super) struct Pairs {
    pub(super) rate_per_s: f64,
    pub(super) unbundled_tasks_per_s: f64,
    pub(super) p99_bundled_ms: f64,
    pub(super) p99_unbundled_ms: f64,
    pub(super) p99_ratio: f64,
    pub(super) pairs: Vec<Pair>,
}

/// One after the other at the same rate.
#[derive(Debug, Serialize)]
pub(super) struct Pair {
    pub(super) bundled: Percentiles,
    pub(super) unbundled: Percentiles,
    pub(super) p99_ratio: f64,
}

/// Measures so many pairs.
pub(super) async fn measure(settings: Settings, count: usize, output: &Output) -> Result<(Pairs, Faults), Failure> {
    output.say("pairs: the rate without bundles");
    let mut all = Faults::default();
    let (rates, faults) = half(settings, BundleMax::OFF, What::Capacity).await?;
    all += faults;
    let unbundled_tasks_per_s = median(rates.rates);
    let rate_per_s = (unbundled_tasks_per_s * LOAD).max(1.0);
    let mut pairs = Vec::with_capacity(count);
    for number in 0..count {
        output.say(format_args!("pair {} of {count}: an open loop at {rate_per_s:.0} tasks/s", number + 1));
        let mut percentiles = [Percentiles::default(); 2];
        // Who is first alternates.
        let order = if number % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            let bundle = [settings.bundle, BundleMax::OFF][which];
            let (told, faults) = half(settings, bundle, What::OpenLoop(rate_per_s)).await?;
            percentiles[which] = told.percentiles;
            all += faults;
        }
        let [bundled, unbundled] = percentiles;
        pairs.push(Pair { bundled, unbundled, p99_ratio: ratio(bundled.p99, unbundled.p99) });
    }
    let pairs = Pairs {
        rate_per_s: rate_per_s.round(),
        unbundled_tasks_per_s: unbundled_tasks_per_s.round(),
        p99_bundled_ms: median(pairs.iter().map(|pair| pair.bundled.p99)),
        p99_unbundled_ms: median(pairs.iter().map(|pair| pair.unbundled.p99)),
        p99_ratio: median(pairs.iter().map(|pair| pair.p99_ratio)),
        pairs,
    };
    Ok((pairs, all))
}

#[derive(Debug, Clone, Copy)]
enum What {
    Capacity,
    OpenLoop(f64),
}

#[derive(Debug, Default)]
struct Half {
    rates: Vec<f64>,
    percentiles: Percentiles,
}

/// Everything anew, with this bundle.
async fn half(settings: Settings, bundle: BundleMax, what: What) -> Result<(Half, Faults), Failure> {
    let mut server = start_server(0, None).await?;
    let told = Box::pin(half_on(&server.url(), settings, bundle, what)).await;
    server.stop().await;
    told
}

async fn half_on(url: &str, settings: Settings, bundle: BundleMax, what: What) -> Result<(Half, Faults), Failure> {
    let runs = Runs::new();
    let wanted = Wanted { callbacks: settings.callbacks, ..Wanted::plain(bundle) };
    let services = Services::of_noop(url, &runs, &wanted).await?;
    let mut submitter = Submitter::connect(url, bundle, settings.body_bytes).await?;
    let before = Stored::read(submitter.client().bus()).await?;
    let mut half = Half::default();
    match what {
        What::Capacity => {
            for _ in 0..CAPACITY_RUNS {
                half.rates.push(submitter.throughput(settings.tasks).await?);
            }
        }
        What::OpenLoop(rate) => {
            let warm_up = pace::schedule(settings.clock, rate, WARM_UP.as_secs_f64(), SEED)?;
            submitter.follow(&warm_up).await?;
            let seconds = settings.open_loop_seconds.max(OPEN_LOOP_SECONDS_LEAST);
            let paced = submitter.follow(&pace::schedule(settings.clock, rate, seconds, SEED)?).await?;
            half.percentiles = Latencies::of(paced.latencies)?.percentiles();
        }
    }
    tokio::time::sleep(STRAGGLERS).await;
    let faults = submitter.faults(before, &runs).await?;
    services.stop().await;
    Ok((half, faults))
}
