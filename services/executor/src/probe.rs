//! Tasks to test with: `jetlane.echo`, `jetlane.sleep` and `jetlane.fail`.

use jetlane::{Attempt, Ctx, Task, TaskError, TaskOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// Progress of a sleep is told this often, in percent.
const PROGRESS_STEP: u8 = 5;

/// Give back what came: any JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Echo(pub Value);

impl Task for Echo {
    const TYPE: &'static str = "jetlane.echo";
    type Output = Value;
}

pub(crate) async fn echo(Echo(value): Echo) -> Result<Value, TaskError> {
    Ok(value)
}

/// Wait, and tell how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sleep {
    /// How long, in milliseconds; at most a day.
    #[schemars(range(max = 86_400_000))]
    pub ms: u64,
}

/// How long was slept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Slept {
    /// Milliseconds by the executor's own clock.
    pub slept_ms: u64,
}

impl Task for Sleep {
    const TYPE: &'static str = "jetlane.sleep";
    type Output = Slept;

    fn options() -> TaskOptions {
        TaskOptions { timeout: Duration::from_secs(24 * 60 * 60), ..TaskOptions::default() }
    }
}

/// Sleeps until it is time or it is asked to stop.
pub(crate) async fn sleep(task: Sleep, ctx: Ctx) -> Result<Slept, TaskError> {
    let started = Instant::now();
    for percent in (0..100).step_by(usize::from(PROGRESS_STEP)) {
        let next = started + Duration::from_millis(task.ms) * u32::from(percent + PROGRESS_STEP) / 100;
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = ctx.cancelled() => return Err(TaskError::cancelled()),
        }
        ctx.progress(percent + PROGRESS_STEP, "sleeping").await?;
    }
    let slept_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Slept { slept_ms })
}

/// Fail some attempts, then succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fail {
    /// How many attempts fail.
    pub times: u32,
    /// The code of a permanent failure. Default `asked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Whether the first failure is for good. Default false.
    #[serde(default)]
    pub permanent: bool,
}

/// That it succeeded in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Recovered {
    /// The attempt that succeeded, from 1.
    pub attempt: u32,
}

impl Task for Fail {
    const TYPE: &'static str = "jetlane.fail";
    type Output = Recovered;

    /// Quick to come back: nothing out there needs a rest.
    fn options() -> TaskOptions {
        TaskOptions {
            retries: 20,
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            ..TaskOptions::default()
        }
    }
}

pub(crate) async fn fail(task: Fail, Attempt(attempt): Attempt) -> Result<Recovered, TaskError> {
    if attempt > task.times {
        return Ok(Recovered { attempt });
    }
    let message = format!("attempt {attempt} fails, as it was asked to");
    if task.permanent {
        return Err(TaskError::permanent(task.code.unwrap_or_else(|| "asked".into()), message));
    }
    Err(TaskError::retry(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_fails_as_often_as_it_is_asked_to() {
        let task = Fail { times: 2, code: None, permanent: false };
        for attempt in [1, 2] {
            assert!(fail(task.clone(), Attempt(attempt)).await.is_err());
        }
        assert_eq!(fail(task, Attempt(3)).await, Ok(Recovered { attempt: 3 }));
    }

    #[tokio::test]
    async fn a_permanent_failure_carries_the_code_that_was_asked_for() {
        let task: Fail = serde_json::from_str(r#"{"times":1,"code":"disk","permanent":true}"#).expect("valid");
        let error = fail(task, Attempt(1)).await.expect_err("fails");
        assert_eq!(error, TaskError::permanent("disk", "attempt 1 fails, as it was asked to"));
    }
}
