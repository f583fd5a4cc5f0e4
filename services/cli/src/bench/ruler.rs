//! The bare broker's loop as a bench uses it: with an end to waiting, and errors as a command tells them.

use super::pace::Pace;
use super::submitter::{Paced, ROUND_WITHIN};
use crate::output::{Exit, Failure};
use jetlane_bus::floor::{Floor, Shape};
use std::time::Duration;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Waits for the loop no longer than for a round.
pub(super) async fn within<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failure> {
    let failed =
        |why: &dyn std::fmt::Display| Failure::new(Exit::Error, format!("the bare broker's loop failed: {why}"));
    match tokio::time::timeout(ROUND_WITHIN, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&format_args!("nothing came within {} s", ROUND_WITHIN.as_secs()))),
    }
}

/// Tasks a second of a loop of this shape.
pub(super) async fn throughput(url: &str, shape: Shape, tasks: usize) -> Result<f64, Failure> {
    let mut floor = within(Floor::start(url, shape)).await?;
    let rate = within(floor.throughput(tasks)).await?;
    within(floor.end()).await?;
    Ok(rate)
}

/// What a loop of this shape does under an open loop.
pub(super) async fn follow(url: &str, shape: Shape, schedule: &[Duration]) -> Result<Paced, Failure> {
    let mut floor = within(Floor::start(url, shape)).await?;
    let Pace { begun, due } = Pace::start(schedule);
    let heard = within(floor.follow(due, schedule.len())).await?;
    within(floor.end()).await?;
    let took = heard.iter().max().map_or(Duration::ZERO, |last| last.saturating_duration_since(begun));
    let latencies = heard.iter().zip(schedule).map(|(at, due)| at.saturating_duration_since(begun + *due)).collect();
    Ok(Paced { latencies, took })
}
