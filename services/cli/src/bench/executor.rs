//! The executor of no-op tasks as a process of its own: it ends with its standard input, and then says
//! how often tasks were run.

use super::noop::{Runs, noop};
use super::services::{QUEUE, connect};
use crate::args::BenchExecutor;
use crate::output::{Exit, Failure};
use jetlane::Executor;
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;

/// Runs tasks until standard input ends.
pub(super) async fn run(args: &BenchExecutor, url: &str) -> Result<Exit, Failure> {
    let runs = Runs::new();
    let client = connect(url, "bench-executor").await?;
    let executor = Executor::new(&client, QUEUE).state(runs.clone()).slots(args.slots).task(noop);
    let drain = CancellationToken::new();
    let until = drain.clone();
    let lifeline = tokio::spawn(async move {
        let mut ignored = [0; 64];
        let mut stdin = tokio::io::stdin();
        while stdin.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
        until.cancel();
    });
    let ended = executor.run_until(drain).await;
    lifeline.abort();
    let counts = serde_json::to_vec(&runs.counts()).map_err(|error| Failure::of(Exit::Error, &error))?;
    std::fs::write(&args.counts, counts)
        .map_err(|error| Failure::new(Exit::Error, format!("{} cannot be written: {error}", args.counts.display())))?;
    ended.map(|()| Exit::Ok).map_err(Failure::from)
}
