//! `jetlane tasks`: where a task is, why it waits there, and its end by choice.
//!
//! # Layout
//! - `explain`: who is asked, in which order
//! - `search`: the streams, read in their order without taking anything
//! - `told`: what came of it, for people and programs

mod explain;
mod search;
mod told;

use crate::args::{Cancel, Tasks, TasksAction};
use crate::output::{Exit, Failure, Output};
use crate::reach::{self, Nats};
use jetlane::{Outcome, TaskId, TaskType};

/// Asks after tasks.
pub(crate) async fn run(nats: &Nats, args: &Tasks, output: &Output) -> Result<Exit, Failure> {
    match &args.action {
        TasksAction::Explain(explain) => explain::run(nats, explain, output).await,
        TasksAction::Cancel(cancel) => self::cancel(nats, cancel, output).await,
    }
}

/// Cancels a task, and tells how it has ended.
async fn cancel(nats: &Nats, args: &Cancel, output: &Output) -> Result<Exit, Failure> {
    let wrong = |error| Failure::of(Exit::Usage, &error);
    let id = TaskId::new(args.id.as_str()).map_err(wrong)?;
    let task_type = TaskType::new(args.task_type.as_str()).map_err(wrong)?;
    let client = reach::client(nats).await?;
    let outcome = client.handle_json(task_type.clone(), id.clone()).cancel().await?;
    let told = serde_json::json!({ "id": id, "type": task_type, "outcome": outcome });
    output.data(&told, || match outcome {
        Outcome::Cancelled => format!("the task {id} is cancelled"),
        other => format!("the task {id} had ended before: {other}"),
    });
    Ok(if outcome == Outcome::Cancelled { Exit::Ok } else { Exit::Refused })
}
