//! More executors, more queues, larger bodies, another codec: what each does to the rate. Every case has a
//! server of its own, with the bare broker beside it.

mod codec;
mod report;

use super::bundling::BundleMax;
use super::latency::{median, ratio};
use super::noop::{Elsewhere, Noop, Runs};
use super::once::{Faults, Stored};
use super::report::tell;
use super::ruler;
use super::services::{self, Services, Wanted};
use super::submitter::Submitter;
use crate::args::Scale;
use crate::output::{Exit, Failure, Output};
use crate::stack::start_server;
use jetlane_bus::floor::{BODY_BYTES, Shape};
use jetlane_schemas::PayloadCodec;
use report::{Case, Report};
use std::time::Duration;

/// The bare broker and the pipeline, in so many turns; in one where a run is short.
const TURNS: usize = 3;
const SHORT_TASKS: usize = 10_000;
/// How long late runs may straggle in after a case.
const STRAGGLERS: Duration = Duration::from_millis(500);
/// The most bytes of all bodies of a run: three streams of them are written.
const BYTES_MAX: usize = 128 << 20;
const KB: usize = 1_000;

/// What is varied.
#[derive(Debug, Clone, Copy)]
struct Varied {
    executors: usize,
    queues: usize,
    body_bytes: usize,
    way: Way,
}

/// How tasks are submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By the SDK, which writes JSON.
    Sdk,
    /// Framed by the bench itself, so that codecs are compared by the same way.
    Framed(PayloadCodec),
}

const PLAIN: Varied = Varied { executors: 1, queues: 1, body_bytes: BODY_BYTES, way: Way::Sdk };

fn cases() -> Vec<Varied> {
    let executors = [1, 2, 4].map(|executors| Varied { executors, ..PLAIN });
    let queues = [2, 4].map(|executors| Varied { queues: 2, executors, ..PLAIN });
    let bodies = [4 * KB, 64 * KB].map(|body_bytes| Varied { body_bytes, ..PLAIN });
    let codecs = [BODY_BYTES, 4 * KB, 64 * KB].into_iter().flat_map(|body_bytes| {
        [PayloadCodec::Json, PayloadCodec::Bincode].map(|codec| Varied { body_bytes, way: Way::Framed(codec), ..PLAIN })
    });
    executors.into_iter().chain(queues).chain(bodies).chain(codecs).collect()
}

/// Measures and reports.
pub(super) async fn run(args: &Scale, output: &Output) -> Result<Exit, Failure> {
    let bundle = BundleMax(args.bundle.into());
    let tasks = args.tasks.max(1);
    let turns = if tasks < SHORT_TASKS { 1 } else { TURNS };
    let mut report = Report { tasks, bundle: bundle.0, turns, cases: Vec::new(), faults: Faults::default() };
    let cases = cases();
    for (number, varied) in cases.iter().enumerate() {
        output.say(format_args!("{} of {}: {}", number + 1, cases.len(), varied.told()));
        let mut server = start_server(0, None).await?;
        let settings =
            Settings { varied: *varied, bundle, turns, tasks: tasks.min(BYTES_MAX / varied.body_bytes).max(1) };
        let measured = Box::pin(measure(&server.url(), settings)).await;
        server.stop().await;
        let (case, faults) = measured?;
        report.cases.push(case);
        report.faults += faults;
    }
    tell(&report, &args.told, output)
}

/// What is measured of a case.
#[derive(Debug, Clone, Copy)]
struct Settings {
    varied: Varied,
    bundle: BundleMax,
    turns: usize,
    tasks: usize,
}

async fn measure(url: &str, settings: Settings) -> Result<(Case, Faults), Failure> {
    let Settings { varied, bundle, turns, tasks } = settings;
    let runs = Runs::new();
    // A queue's executors are its own: with two queues each has half of them.
    let executors = varied.executors / varied.queues;
    let wanted = Wanted { executors, codec: varied.payload_codec(), ..Wanted::plain(bundle) };
    let mut services = Services::of_noop(url, &runs, &wanted).await?;
    let mut submitter = Submitter::connect(url, bundle, varied.body_bytes).await?;
    if varied.queues > 1 {
        for _ in 0..executors {
            services.serve_elsewhere(&runs).await?;
        }
        services::first(|| submitter.client().submit(Elsewhere(Noop::probe()))).await?;
        submitter.use_both_queues();
    }
    let before = Stored::read(submitter.client().bus()).await?;
    let bundled = bundle.of_floor(varied.body_bytes);
    let shape = Shape { body_bytes: varied.body_bytes, ..Shape::default() };
    let (mut ours, mut floors, mut bundled_floors) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..turns {
        floors.push(ruler::throughput(url, shape, tasks).await?);
        if bundled > 1 {
            bundled_floors.push(ruler::throughput(url, Shape { bundle: bundled, ..shape }, tasks).await?);
        }
        ours.push(match varied.way {
            Way::Sdk => submitter.throughput(tasks).await?,
            Way::Framed(codec) => codec::throughput(&mut submitter, codec, bundled, tasks).await?,
        });
    }
    tokio::time::sleep(STRAGGLERS).await;
    let faults = submitter.faults(before, &runs).await?;
    services.stop().await;
    let ratios = ours.iter().zip(&floors).map(|(ours, floor)| ratio(*ours, *floor));
    let case = Case {
        executors: varied.executors,
        queues: varied.queues,
        body_bytes: varied.body_bytes,
        codec: varied.codec(),
        submitted_by: varied.way.name(),
        tasks,
        ratio: median(ratios),
        tasks_per_s: median(ours).round(),
        floor_tasks_per_s: median(floors).round(),
        bundled_floor_tasks_per_s: (!bundled_floors.is_empty()).then(|| median(bundled_floors).round()),
    };
    Ok((case, faults))
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Sdk => "sdk",
            Self::Framed(_) => "frames",
        }
    }
}

impl Varied {
    fn payload_codec(self) -> PayloadCodec {
        match self.way {
            Way::Sdk => PayloadCodec::Json,
            Way::Framed(codec) => codec,
        }
    }

    fn codec(self) -> &'static str {
        match self.payload_codec() {
            PayloadCodec::Json => "json",
            PayloadCodec::Bincode => "bincode",
        }
    }

    fn told(self) -> String {
        let Self { executors, queues, body_bytes, way } = self;
        let (codec, way) = (self.codec(), way.name());
        format!("executors {executors}, queues {queues}, {body_bytes} bytes of {codec} by {way}")
    }
}
