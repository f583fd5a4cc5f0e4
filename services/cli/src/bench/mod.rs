//! `jetlane bench`: figures that hold beside the bare broker's, measured in the same run.
//!
//! # Layout
//! - one module a bench: `pipeline`, `backlog`, `schedule`, `idle`, `scale`, `durable`
//! - `noop`, `services`, `submitter`: the task that does nothing, who runs it, who awaits it
//! - `processes`, `executor`: the same as processes of their own; `bincoded`: bodies that are no JSON
//! - `ruler`: the bare broker's loop; `bundling`: what a message may carry
//! - `pace`: the clock of an open loop; `latency`: times; `usage`: memory and processor time
//! - `once`: whether every task completed exactly once
//! - `report`, `plot`: what is printed, written and drawn

mod backlog;
mod bincoded;
mod bundling;
mod durable;
mod executor;
mod idle;
mod latency;
mod noop;
mod once;
mod pace;
mod pipeline;
mod plot;
mod processes;
mod report;
mod ruler;
mod scale;
mod schedule;
mod services;
mod submitter;
mod usage;

use crate::args::{Bench, BenchWhat, ServerFlags};
use crate::output::{Exit, Failure, Output};
use crate::reach::Nats;
use jetlane_service::config::Sources;
use jetlane_service::telemetry::{self, Telemetry};

/// Measures what is asked for.
pub(crate) async fn run(bench: &Bench, nats: &ServerFlags, output: &Output) -> Result<Exit, Failure> {
    let guard = quiet()?;
    let exit = match &bench.what {
        BenchWhat::Pipeline(args) => Box::pin(pipeline::run(args, output)).await,
        BenchWhat::Backlog(args) => Box::pin(backlog::run(args, output)).await,
        BenchWhat::Schedule(args) => Box::pin(schedule::run(args, output)).await,
        BenchWhat::Idle(args) => Box::pin(idle::run(args, output)).await,
        BenchWhat::Scale(args) => Box::pin(scale::run(args, output)).await,
        BenchWhat::Durable(args) => Box::pin(durable::run(args, output)).await,
        BenchWhat::Executor(args) => Box::pin(executor::run(args, Nats::read(nats)?.url())).await,
    };
    guard.shutdown().await;
    exit
}

/// Tracing is compiled in and off; only what goes wrong is told.
fn quiet() -> Result<telemetry::Guard, Failure> {
    let sources = Sources::from_process().map_err(|error| Failure::of(Exit::Usage, &error))?;
    let mut telemetry = Telemetry::new("bench", env!("CARGO_PKG_VERSION"), sources.variables())
        .map_err(|error| Failure::of(Exit::Usage, &error))?
        .disabled();
    if !sources.variables().contains_key("JETLANE_LOG") {
        telemetry.log_filter = "error".into();
    }
    telemetry::init(&telemetry).map_err(|error| Failure::of(Exit::Error, &error))
}
