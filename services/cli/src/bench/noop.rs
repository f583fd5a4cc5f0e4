//! The task that does nothing, and counts how often it was run.

use jetlane::{State, Task, TaskError, TaskOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// What the body has around number and padding.
const FRAME_BYTES: usize = r#"{"number":,"padding":""}"#.len();
/// Numbers from here on are not counted: probes.
const COUNTED: usize = CHUNKS * CHUNK;
/// Counters come into being in chunks, since nobody knows before how many tasks there will be.
const CHUNK: usize = 1 << 16;
const CHUNKS: usize = 1 << 12;

/// A task that does nothing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, bincode::Encode, bincode::Decode)]
pub(super) struct Noop {
    /// Which one it is.
    number: u32,
    /// Fills the body.
    padding: String,
}

impl Task for Noop {
    const TYPE: &'static str = "bench.noop";
    type Output = u32;
}

impl Noop {
    /// The task of this number with a body of so many bytes.
    pub(super) fn new(number: u32, body_bytes: usize) -> Self {
        let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
        Self { number, padding: "x".repeat(body_bytes.saturating_sub(FRAME_BYTES + digits)) }
    }

    /// A task that is counted nowhere.
    pub(super) fn probe() -> Self {
        Self::new(u32::MAX, FRAME_BYTES)
    }
}

/// The same, served by the executors of a second queue.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct Elsewhere(pub(super) Noop);

impl Task for Elsewhere {
    const TYPE: &'static str = "bench.noop.elsewhere";
    type Output = u32;

    fn options() -> TaskOptions {
        Noop::options()
    }
}

/// How often each task was run. Clones share it.
#[derive(Clone)]
pub(super) struct Runs(Arc<[OnceLock<Box<[AtomicU32]>>]>);

impl Runs {
    pub(super) fn new() -> Self {
        Self((0..CHUNKS).map(|_| OnceLock::new()).collect())
    }

    fn count(&self, number: u32) {
        let number = number as usize;
        if number < COUNTED {
            let chunk = self.0[number / CHUNK].get_or_init(|| (0..CHUNK).map(|_| AtomicU32::new(0)).collect());
            chunk[number % CHUNK].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What has been counted so far.
    pub(super) fn counts(&self) -> Counts {
        let each = self.0.iter().filter_map(OnceLock::get).flat_map(|chunk| chunk.iter());
        each.fold(Counts::default(), |counts, runs| match runs.load(Ordering::Relaxed) {
            0 => counts,
            runs => Counts { tasks: counts.tasks + 1, beyond_one: counts.beyond_one + u64::from(runs - 1) },
        })
    }
}

/// How often tasks were run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Tasks that were run at all.
    pub(super) tasks: u64,
    /// Runs beyond one a task.
    pub(super) beyond_one: u64,
}

/// Counts the run, and returns the number.
pub(super) async fn noop(task: Noop, State(runs): State<Runs>) -> Result<u32, TaskError> {
    runs.count(task.number);
    Ok(task.number)
}

/// The same on the second queue.
pub(super) async fn elsewhere(Elsewhere(task): Elsewhere, runs: State<Runs>) -> Result<u32, TaskError> {
    noop(task, runs).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_has_the_bytes_of_the_floors() {
        for body_bytes in [jetlane_bus::floor::BODY_BYTES, 48, 4_096] {
            for number in [0, 9, 10, 99_999, 1_000_000, u32::MAX] {
                let body = serde_json::to_vec(&Noop::new(number, body_bytes)).expect("JSON");
                assert_eq!(body.len(), body_bytes, "{number}");
            }
        }
    }

    #[test]
    fn a_second_run_is_seen_and_a_probe_is_not_counted() {
        let runs = Runs::new();
        assert_eq!(runs.counts(), Counts::default());
        for number in [0, 1, 1, CHUNK as u32, 1, u32::MAX] {
            runs.count(number);
        }
        assert_eq!(runs.counts(), Counts { tasks: 3, beyond_one: 2 });
    }
}
