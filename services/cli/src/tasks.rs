//! `jetlane tasks`: where a task is, and why it waits there.
//!
//! # Layout
//! - `explain`: who is asked, in which order
//! - `search`: the streams, read in their order without taking anything
//! - `told`: what came of it, for people and programs

mod explain;
mod search;
mod told;

use crate::args::{Tasks, TasksAction};
use crate::output::{Exit, Failure, Output};
use crate::reach::Nats;

/// Asks after tasks.
pub(crate) async fn run(nats: &Nats, args: &Tasks, output: &Output) -> Result<Exit, Failure> {
    match &args.action {
        TasksAction::Explain(explain) => explain::run(nats, explain, output).await,
    }
}
