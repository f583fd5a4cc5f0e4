//! `jetlane bench`: figures that hold beside the bare broker's, measured in the same run.

mod noop;
mod pipeline;
mod schedule;

use crate::args::{Bench, BenchWhat};
use crate::output::{Exit, Failure, Output};
use jetlane_service::config::Sources;
use jetlane_service::telemetry::{self, Telemetry};

/// Measures what is asked for.
pub(crate) async fn run(bench: &Bench, output: &Output) -> Result<Exit, Failure> {
    let guard = quiet()?;
    let exit = match &bench.what {
        BenchWhat::Pipeline(pipeline) => pipeline::run(pipeline, output).await,
        BenchWhat::Schedule(schedule) => schedule::run(schedule, output).await,
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
