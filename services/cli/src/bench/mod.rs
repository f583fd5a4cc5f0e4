//! `jetlane bench`: figures that hold beside the bare broker's, measured in the same run.

mod noop;
mod pipeline;
mod schedule;

use crate::args::{Bench, BenchWhat};
use crate::output::{Exit, Failure, Output};
use jetlane_service::config::Sources;
use jetlane_service::telemetry::{self, Telemetry};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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

/// Drains the services of a bench and waits for them.
async fn stop(drain: &CancellationToken, mut services: JoinSet<Result<(), String>>) {
    drain.cancel();
    while let Some(ended) = services.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("jetlane: a service ended badly: {error}"),
            Err(error) => eprintln!("jetlane: a service panicked: {error}"),
        }
    }
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
