//! Tasks to test with: `jetlane.echo`, `jetlane.sleep` and `jetlane.fail`.

use jetlane::{Attempt, Ctx, Task, TaskError, TaskOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::time::Instant;

/// Progress of a sleep is told no more often than this, in percent.
const PROGRESS_STEP: u64 = 5;
/// How often a sleep can stop, where it does not say, in milliseconds.
const CHECKPOINT_MS_DEFAULT: f64 = 50.0;
/// The longest sleep, in milliseconds.
const SLEEP_MS_MAX: f64 = 86_400_000.0;

/// Give back what came: any JSON, as it was written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Echo(#[schemars(with = "Value")] pub Box<RawValue>);

impl Echo {
    /// A value to be given back.
    ///
    /// # Panics
    /// Never for a value, which is always JSON.
    pub fn of(value: &Value) -> Self {
        Self(serde_json::value::to_raw_value(value).expect("a value is JSON"))
    }
}

impl Task for Echo {
    const TYPE: &'static str = "jetlane.echo";
    type Output = Box<RawValue>;
}

pub(crate) async fn echo(Echo(value): Echo) -> Result<Box<RawValue>, TaskError> {
    Ok(value)
}

/// Wait, and tell how far it is. It can stop at every checkpoint, and a later run sleeps the rest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sleep {
    /// How long, in milliseconds; at most a day.
    #[schemars(range(min = 0.0, max = SLEEP_MS_MAX))]
    pub ms: f64,
    /// How often it can stop, in milliseconds. Default 50; 0 for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = SLEEP_MS_MAX))]
    pub checkpoint_ms: Option<f64>,
}

impl Sleep {
    /// A sleep of this length that can stop every 50 ms.
    pub fn of(length: Duration) -> Self {
        Self { ms: length.as_secs_f64() * 1_000.0, checkpoint_ms: None }
    }

    /// Its length, and the length of a step.
    fn lengths(self) -> Result<(Duration, Duration), TaskError> {
        let length = |ms: f64, field: &str| {
            if (0.0..=SLEEP_MS_MAX).contains(&ms) {
                return Ok(Duration::from_secs_f64(ms / 1_000.0));
            }
            let text = format!("must be 0 to {SLEEP_MS_MAX} ms");
            Err(TaskError::permanent("payload", text).at(format!("/{field}")))
        };
        let whole = length(self.ms, "ms")?;
        let step = length(self.checkpoint_ms.unwrap_or(CHECKPOINT_MS_DEFAULT), "checkpoint_ms")?;
        Ok((whole, if step.is_zero() { whole } else { step }))
    }
}

/// How long was slept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Slept {
    /// Milliseconds by the executors' own clocks, all runs together.
    pub slept_ms: u64,
}

/// Where a sleep that yielded goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    slept_us: u64,
}

impl Task for Sleep {
    const TYPE: &'static str = "jetlane.sleep";
    type Output = Slept;

    fn options() -> TaskOptions {
        TaskOptions { timeout: Duration::from_secs(24 * 60 * 60), ..TaskOptions::default() }
    }
}

/// Sleeps until it is time or it is asked to stop, or to yield.
pub(crate) async fn sleep(task: Sleep, ctx: Ctx) -> Result<Slept, TaskError> {
    let (whole, step) = task.lengths()?;
    let before = Duration::from_micros(ctx.resume::<Place>().unwrap_or_default().slept_us).min(whole);
    let started = Instant::now();
    let mut told = 0;
    let mut slept = before;
    while slept < whole {
        // By what is to be slept in all, so that late wake-ups do not add up.
        slept = slept.saturating_add(step).min(whole);
        tokio::select! {
            () = tokio::time::sleep_until(started + (slept - before)) => {}
            () = ctx.cancelled() => return Err(TaskError::cancelled()),
        }
        let percent = percent(slept, whole);
        if percent >= told + PROGRESS_STEP {
            told = percent;
            ctx.progress(u8::try_from(percent).unwrap_or(100), "sleeping").await?;
        }
        if slept < whole {
            let slept_us = u64::try_from(slept.as_micros()).unwrap_or(u64::MAX);
            ctx.yield_point(&Place { slept_us }, whole - slept)?;
        }
    }
    let slept_ms = u64::try_from((before + started.elapsed()).as_millis()).unwrap_or(u64::MAX);
    Ok(Slept { slept_ms })
}

fn percent(part: Duration, whole: Duration) -> u64 {
    u64::try_from(part.as_micros() * 100 / whole.as_micros().max(1)).unwrap_or(100)
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
