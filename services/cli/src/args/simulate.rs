//! The words of `jetlane simulate`.

use jetlane_simulator::{Noisy, Policy, Workload};
use std::path::PathBuf;

/// Run policies over the same tasks in virtual time.
#[derive(Debug, clap::Args)]
pub struct Simulate {
    /// fifo, rr, strict, weighted, sjf, srtf, edf, adaptive, several of them between commas, or `all`; `srpt`
    /// is the ideal that no queue can reach, for comparison.
    #[arg(long, value_parser = policies, default_value = "all")]
    pub policy: Policies,
    /// Tasks that run at once.
    #[arg(long, default_value_t = 8)]
    pub servers: u32,
    /// Work offered, as a part of what the servers can do.
    #[arg(long, default_value_t = 0.9, conflicts_with = "trace")]
    pub rho: f64,
    /// What all chance follows from: the same seed gives the same tasks to every policy.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Tasks; the first tenth does not count.
    #[arg(long, default_value_t = 300_000, conflicts_with = "trace")]
    pub tasks: usize,
    /// Sizes, of mean 1 s: exp, bp1.5, bp1.3, bp1.1 (bounded Pareto) or azure (200 types, log-normal).
    #[arg(long, default_value_t = Workload::Exp, conflicts_with = "trace")]
    pub workload: Workload,
    /// Noise of the estimates, which are size x e^(sigma x N), N standard normal; 0 for exact ones. In a trace,
    /// of the rows that have neither estimate nor type.
    #[arg(long, default_value_t = 1.0)]
    pub sigma: f64,
    /// Tenants, each as busy as the others.
    #[arg(long, default_value_t = 16, conflicts_with = "trace")]
    pub tenants: u32,
    /// How many of all tasks are critical, high, normal and low.
    #[arg(
        long,
        value_parser = priorities,
        default_value = "0.05,0.10,0.55,0.30",
        value_name = "C,H,N,L",
        conflicts_with = "trace"
    )]
    pub priorities: Priorities,
    /// The most tasks of a flow (a tenant's tasks of one priority) that the policy can choose from.
    #[arg(long, default_value_t = 1024)]
    pub window: u32,
    /// A tenant that offers LOAD of rho in bursts of BURST tasks, such as `0.18:2000`.
    #[arg(long, value_parser = noisy, value_name = "LOAD:BURST", conflicts_with = "trace")]
    pub noisy: Option<Noisy>,
    /// Under srtf, how much of a task is done between two checkpoints, in mean sizes.
    #[arg(long, default_value_t = 0.25)]
    pub quantum: f64,
    /// Under srtf, work that a yield adds, in mean sizes; default 0.01 + 0.04 x the quantum.
    #[arg(long)]
    pub resume_cost: Option<f64>,
    /// Replay a CSV file instead, `-` for stdin: `arrival_s,size_s` and optionally
    /// `estimate_s,priority,tenant,deadline_s,type`. Without an estimate, it is learned of the type.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Draw the comparison into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// Which policies, in the order in which they are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies(pub Vec<Policy>);

/// What parts of all tasks have the four priorities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Priorities(pub [f64; 4]);

fn policies(text: &str) -> Result<Policies, String> {
    if text == "all" {
        return Ok(Policies(Policy::all()));
    }
    text.split(',').map(|word| word.trim().parse()).collect::<Result<_, _>>().map(Policies)
}

fn priorities(text: &str) -> Result<Priorities, String> {
    let shares: Result<Vec<f64>, _> = text.split(',').map(|share| share.trim().parse::<f64>()).collect();
    let shares = shares.ok().and_then(|shares| <[f64; 4]>::try_from(shares).ok());
    shares.map(Priorities).ok_or_else(|| "must be four shares, such as 0.05,0.10,0.55,0.30".into())
}

fn noisy(text: &str) -> Result<Noisy, String> {
    let parts = text.split_once(':').and_then(|(load, burst)| Some((load.parse().ok()?, burst.parse().ok()?)));
    let (load, burst) = parts.ok_or("must be a load and a number of tasks, such as 0.18:2000")?;
    Ok(Noisy { load, burst })
}
