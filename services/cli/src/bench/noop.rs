//! The task that does nothing, and counts how often it was run.

use jetlane::{State, Task, TaskError, TaskOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of the body, with the number and the braces: the floor's.
const BODY_BYTES: usize = jetlane_bus::floor::BODY_BYTES;
/// What the body has around number and padding.
const FRAME_BYTES: usize = r#"{"number":,"padding":""}"#.len();

/// A task that does nothing.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(super) struct Noop {
    /// Which one it is.
    number: u32,
    /// Fills the body.
    padding: String,
}

impl Task for Noop {
    const TYPE: &'static str = "bench.noop";
    type Output = u32;

    fn options() -> TaskOptions {
        TaskOptions { retries: 0, ..TaskOptions::default() }
    }
}

impl Noop {
    pub(super) fn new(number: u32) -> Self {
        let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
        Self { number, padding: "x".repeat(BODY_BYTES.saturating_sub(FRAME_BYTES + digits)) }
    }
}

/// How often each task was run.
#[derive(Clone)]
pub(super) struct Runs(Arc<Vec<AtomicU32>>);

impl Runs {
    pub(super) fn of(tasks: usize) -> Self {
        Self(Arc::new((0..tasks).map(|_| AtomicU32::new(0)).collect()))
    }

    /// Runs beyond one a task.
    pub(super) fn beyond_one(&self) -> u64 {
        self.0.iter().map(|runs| u64::from(runs.load(Ordering::Relaxed).saturating_sub(1))).sum()
    }
}

/// Counts the run, and returns the number.
pub(super) async fn noop(task: Noop, State(runs): State<Runs>) -> Result<u32, TaskError> {
    if let Some(count) = runs.0.get(task.number as usize) {
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(task.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_has_the_bytes_of_the_floors() {
        for number in [0, 9, 10, 99_999, 1_000_000] {
            assert_eq!(serde_json::to_vec(&Noop::new(number)).expect("JSON").len(), BODY_BYTES, "{number}");
        }
    }
}
