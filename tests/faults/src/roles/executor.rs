//! Serves the soak's task types by the SDK.

use super::tasks::{Behaviour, Done, Hard, Once, QUEUE, SECOND_MS, Work};
use crate::journal::{Event, Journal, Returned};
use jetlane::{Ctx, State, TaskError};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Serves until it is told to end.
pub(super) async fn run(
    executor: &super::Executor,
    journal: Arc<Journal>,
    drain: CancellationToken,
) -> anyhow::Result<()> {
    let client = executor.place.client().await?;
    let within = Duration::from_millis(executor.drain_ms);
    let serving = jetlane::Executor::new(&client, QUEUE).state(journal).slots(executor.slots).drain_within(within);
    Ok(serving.task(work).task(once).task(hard).run_until(drain).await?)
}

/// One run of a handler, in the journal from its begin to its end.
struct Run {
    journal: Arc<Journal>,
    ctx: Ctx,
}

impl Run {
    fn begin(journal: Arc<Journal>, ctx: Ctx) -> Self {
        journal.write(Event::Begin {
            id: ctx.id().to_string(),
            task_type: ctx.task_type().to_string(),
            attempt: ctx.attempt(),
            pid: std::process::id(),
        });
        Self { journal, ctx }
    }

    fn end(&self, returned: Returned) {
        self.journal.write(Event::End {
            id: self.ctx.id().to_string(),
            task_type: self.ctx.task_type().to_string(),
            attempt: self.ctx.attempt(),
            pid: std::process::id(),
            returned,
        });
    }

    /// Works for a time, or until it is told to stop.
    async fn work(&self, ms: u64) -> Result<(), TaskError> {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(ms)) => Ok(()),
            () = self.ctx.cancelled() => {
                self.end(Returned::Stopped);
                Err(TaskError::cancelled())
            }
        }
    }
}

async fn work(task: Work, ctx: Ctx, State(journal): State<Arc<Journal>>) -> Result<Done, TaskError> {
    let run = Run::begin(journal, ctx);
    let first = run.ctx.attempt() == 1;
    let is_longer = task.behaviour == Behaviour::FailFirst && !first;
    run.work(task.ms + if is_longer { SECOND_MS } else { 0 }).await?;
    if task.behaviour == Behaviour::FailFirst && first {
        run.end(Returned::Error);
        return Err(TaskError::permanent("first", "at its first attempt"));
    }
    if task.behaviour == Behaviour::FailOnce && first {
        run.end(Returned::Retry);
        return Err(TaskError::retry("at its first attempt"));
    }
    run.end(Returned::Output);
    Ok(Done { marker: task.marker })
}

async fn once(task: Once, ctx: Ctx, State(journal): State<Arc<Journal>>) -> Result<Done, TaskError> {
    let run = Run::begin(journal, ctx);
    run.work(task.ms).await?;
    run.end(Returned::Output);
    Ok(Done { marker: task.marker })
}

async fn hard(task: Hard, ctx: Ctx, State(journal): State<Arc<Journal>>) -> Result<Done, TaskError> {
    let run = Run::begin(journal, ctx);
    match task.behaviour {
        Behaviour::Abort => std::process::abort(),
        Behaviour::Panic => {
            run.end(Returned::Retry);
            panic!("as it was told to")
        }
        Behaviour::FailOnce | Behaviour::FailFirst => {
            run.end(Returned::Retry);
            Err(TaskError::retry("at every attempt"))
        }
        Behaviour::Fail | Behaviour::Succeed => {
            run.end(Returned::Error);
            Err(TaskError::permanent("told", "as it was told to"))
        }
    }
}
