//! The words of `jetlane bench`.

use clap::{Subcommand, ValueEnum};
use jetlane_bus::floor::BODY_BYTES;
use jetlane_schemas::PolicyName;
use jetlane_simulator::Workload;
use std::path::PathBuf;

/// The bodies of no-op tasks: room for a number and its frame, and less than a task may carry.
const BODY_BYTES_RANGE: std::ops::RangeInclusive<i64> = 48..=700_000;

/// Measure.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// What.
    #[command(subcommand)]
    pub what: BenchWhat,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// The whole pipeline beside the bare broker, in one run, on a server of its own.
    ///
    /// No-op tasks whose results are all awaited by the client that submitted them: throughput, latency
    /// one at a time, and latency under an open loop, counted from the moment at which a task was meant
    /// to be sent. Fails where a task was lost or run twice, never on a time.
    Pipeline(Pipeline),
    /// A backlog that is submitted while executors are off, then drained: rate and memory over time.
    ///
    /// Dispatcher, executor, callback service and server are processes of their own, so that the memory
    /// of each is known. Fails where a task was lost or run twice, never on a time.
    Backlog(Backlog),
    /// The policies on the wire: the simulator's arrivals as real tasks, beside its figures.
    Schedule(Schedule),
    /// What the whole system costs while nothing is to be done: messages and processor time.
    Idle(Idle),
    /// More executors, more queues, larger bodies, another codec: what each does to the rate.
    Scale(Scale),
    /// One server and three, flushed at leisure and before each acknowledgement.
    Durable(Durable),
    /// The executor of a backlog, as a process of its own.
    #[command(hide = true)]
    Executor(BenchExecutor),
}

/// Where the figures go.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Told {
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Draw the figures into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Write `<bench>.json` and `<bench>.svg` into this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What a no-op task is, and how it travels.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Loop {
    /// The most tasks of one message on the way to the dispatcher and to executors; 1 for no bundles.
    #[arg(long, default_value_t = 128, value_name = "TASKS", value_parser = clap::value_parser!(u16).range(1..=128))]
    pub bundle: u16,
    /// Bytes of a task's body.
    #[arg(
        long,
        default_value_t = BODY_BYTES as u32,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u32).range(BODY_BYTES_RANGE)
    )]
    pub body: u32,
}

/// When tasks of an open loop are meant to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Clock {
    /// At random, as from many submitters that know nothing of each other.
    #[default]
    Poisson,
    /// Evenly.
    Fixed,
}

/// The whole pipeline beside the bare broker.
#[derive(Debug, Clone, clap::Args)]
pub struct Pipeline {
    /// No-op tasks of one throughput run.
    #[arg(long, default_value_t = 100_000)]
    pub tasks: usize,
    /// Run the callback service too.
    #[arg(long)]
    pub callbacks: bool,
    /// How tasks travel.
    #[command(flatten)]
    pub travel: Loop,
    /// How long the open loop lasts at each of 25, 50 and 80 % of the measured rate; 0 for none. Default: 5,
    /// and less with fewer tasks.
    #[arg(long, value_name = "SECONDS")]
    pub open_loop_seconds: Option<f64>,
    /// When tasks of the open loop are meant to be sent.
    #[arg(long, value_enum, default_value_t)]
    pub clock: Clock,
    /// Compare the open loop with bundles and without, at a quarter of the rate without, so many times in turns.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub pairs: usize,
    /// Where the figures go.
    #[command(flatten)]
    pub told: Told,
}

/// A backlog, drained.
#[derive(Debug, Clone, clap::Args)]
pub struct Backlog {
    /// Tasks that wait before the first is run.
    #[arg(long, default_value_t = 1_000_000)]
    pub tasks: usize,
    /// How tasks travel.
    #[command(flatten)]
    pub travel: Loop,
    /// Where the figures go.
    #[command(flatten)]
    pub told: Told,
}

/// What nothing costs.
#[derive(Debug, Clone, clap::Args)]
pub struct Idle {
    /// How long is watched.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Queues that are announced beside those of the services.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    pub queues: u16,
    /// Types that are announced, spread over these queues; none without queues.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=4_000), requires = "queues")]
    pub types: u16,
    /// Where the figures go.
    #[command(flatten)]
    pub told: Told,
}

/// What more of something does.
#[derive(Debug, Clone, clap::Args)]
pub struct Scale {
    /// No-op tasks of one run; fewer of large bodies.
    #[arg(long, default_value_t = 50_000)]
    pub tasks: usize,
    /// The most tasks of one message; 1 for no bundles.
    #[arg(long, default_value_t = 128, value_name = "TASKS", value_parser = clap::value_parser!(u16).range(1..=128))]
    pub bundle: u16,
    /// Where the figures go.
    #[command(flatten)]
    pub told: Told,
}

/// What durability costs.
#[derive(Debug, Clone, clap::Args)]
pub struct Durable {
    /// No-op tasks of one run.
    #[arg(long, default_value_t = 10_000)]
    pub tasks: usize,
    /// How tasks travel.
    #[command(flatten)]
    pub travel: Loop,
    /// Where the figures go.
    #[command(flatten)]
    pub told: Told,
}

/// The executor of a backlog.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchExecutor {
    /// Slots.
    #[arg(long)]
    pub slots: usize,
    /// Where it writes how often tasks were run, when it ends.
    #[arg(long, value_name = "FILE")]
    pub counts: PathBuf,
}

/// The policies on the wire.
#[derive(Debug, Clone, clap::Args)]
pub struct Schedule {
    /// One policy. Default: all of them, one after the other.
    #[arg(long)]
    pub policy: Option<PolicyName>,
    /// Distribution of sizes: exp, bp1.5, bp1.3, bp1.1 or azure.
    #[arg(long, default_value = "exp")]
    pub workload: Workload,
    /// Load: work offered, as a part of what the slots can do.
    #[arg(long, default_value_t = 0.8)]
    pub rho: f64,
    /// Noise of the estimates: they are size x e^(sigma x N).
    #[arg(long, default_value_t = 0.0)]
    pub sigma: f64,
    /// Slots of the executor.
    #[arg(long, default_value_t = 8)]
    pub slots: u32,
    /// Tasks of each policy.
    #[arg(long, default_value_t = 2_000)]
    pub tasks: usize,
    /// Tenants.
    #[arg(long, default_value_t = 16)]
    pub tenants: u32,
    /// Mean size, in milliseconds: long against the way from hop to hop.
    #[arg(long, default_value_t = 100.0)]
    pub mean_ms: f64,
    /// What all chance follows from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}
