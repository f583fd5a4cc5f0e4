//! Task types that the promises are tested with.

use jetlane::{Attempt, Ctx, State, Task, TaskError, TaskOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, Semaphore};

/// Returns its text.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Echo {
    pub(crate) text: String,
}

impl Task for Echo {
    const TYPE: &'static str = "test.echo";
    type Output = String;
}

pub(crate) async fn echo(task: Echo) -> Result<String, TaskError> {
    Ok(task.text)
}

/// What handlers and tests tell each other.
#[derive(Clone, Default)]
pub(crate) struct Bench {
    /// Every run that began: text and attempt.
    pub(crate) began: Arc<Mutex<Vec<(String, u32)>>>,
    /// Told at every beginning.
    pub(crate) beginning: Arc<Notify>,
    /// A gated run ends with a permit.
    pub(crate) gate: Arc<Gate>,
}

/// Opens for one run a permit.
pub(crate) struct Gate(pub(crate) Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Bench {
    /// Tells that a run begins.
    pub(crate) async fn begin(&self, text: &str, attempt: u32) {
        self.began.lock().await.push((text.to_owned(), attempt));
        self.beginning.notify_one();
    }

    /// Waits until so many runs have begun.
    pub(crate) async fn begun(&self, runs: usize) -> Vec<(String, u32)> {
        jetlane_testkit::soon(async {
            loop {
                let began = self.began.lock().await.clone();
                if began.len() >= runs {
                    return began;
                }
                self.beginning.notified().await;
            }
        })
        .await
    }
}

/// Runs until the gate opens, or until it is cancelled.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Gated {
    pub(crate) text: String,
}

impl Task for Gated {
    const TYPE: &'static str = "test.gated";
    type Output = String;
}

pub(crate) async fn gated(task: Gated, ctx: Ctx, State(bench): State<Bench>) -> Result<String, TaskError> {
    bench.begin(&task.text, ctx.attempt()).await;
    tokio::select! {
        permit = bench.gate.0.acquire() => permit?.forget(),
        () = ctx.cancelled() => return Err(TaskError::cancelled()),
    }
    Ok(task.text)
}

/// Fails as often as it is told, then succeeds.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Flaky {
    pub(crate) failures: u32,
    pub(crate) how: How,
}

/// How an attempt fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum How {
    Error,
    Panic,
    Timeout,
    Permanent,
}

impl Task for Flaky {
    const TYPE: &'static str = "test.flaky";
    type Output = u32;

    fn options() -> TaskOptions {
        TaskOptions {
            retries: 2,
            timeout: Duration::from_millis(500),
            backoff: Duration::from_millis(10),
            backoff_max: Duration::from_millis(50),
        }
    }
}

pub(crate) async fn flaky(
    task: Flaky,
    Attempt(attempt): Attempt,
    State(bench): State<Bench>,
) -> Result<u32, TaskError> {
    bench.begin("flaky", attempt).await;
    if attempt <= task.failures {
        match task.how {
            How::Error => return Err(TaskError::retry("not yet")),
            How::Panic => panic!("out of paper"),
            How::Timeout => std::future::pending().await,
            How::Permanent => return Err(TaskError::permanent("no_use", "it will never do")),
        }
    }
    Ok(attempt)
}

/// Comes back as it is: its output has as many bytes as its body. Fails as often as it is told, and
/// saves the largest checkpoint first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Mirror {
    pub(crate) failures: u32,
    pub(crate) filler: String,
}

impl Task for Mirror {
    const TYPE: &'static str = "test.mirror";
    type Output = Self;

    fn options() -> TaskOptions {
        // Longer than what is due at once, so that the body goes through a schedule, too.
        TaskOptions { retries: 1, backoff: Duration::from_millis(500), ..TaskOptions::default() }
    }
}

pub(crate) async fn mirror(task: Mirror, ctx: Ctx) -> Result<Mirror, TaskError> {
    if ctx.attempt() <= task.failures {
        // With its quotes as JSON.
        ctx.checkpoint(&"c".repeat(jetlane_schemas::limits::CHECKPOINT_BYTES_MAX - 2)).await?;
        return Err(TaskError::retry("e".repeat(jetlane_schemas::limits::ERROR_BYTES_MAX)));
    }
    if task.failures > 0 && ctx.resume::<String>().is_none() {
        return Err(TaskError::permanent("lost", "the checkpoint is gone"));
    }
    Ok(task)
}

/// Returns so many bytes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Big {
    pub(crate) bytes: usize,
}

impl Task for Big {
    const TYPE: &'static str = "test.big";
    type Output = String;
}

pub(crate) async fn big(task: Big) -> Result<String, TaskError> {
    // With its quotes as JSON.
    Ok("b".repeat(task.bytes.saturating_sub(2)))
}
