//! The words of `jetlane tasks` and `jetlane record`.

use clap::Subcommand;
use std::path::PathBuf;
use std::time::Duration;

/// Ask after tasks.
#[derive(Debug, clap::Args)]
pub struct Tasks {
    /// What to ask.
    #[command(subcommand)]
    pub action: TasksAction,
}

/// What to ask after tasks.
#[derive(Debug, Subcommand)]
pub enum TasksAction {
    /// Say where a task is, why it waits, and when it is expected to start.
    ///
    /// Looks for its completion, its schedule and its dead letter, asks the leaders of all queues, and
    /// then reads the streams: at most 10,000 messages or 2 seconds. Nothing is taken or changed.
    Explain(Explain),
    /// Cancel a task, wherever it is: it does not begin any more, and a running one is asked to stop.
    ///
    /// Its callbacks are told of it. Tells how it ended: one that has completed stays as it is.
    Cancel(Cancel),
}

/// Cancel a task.
#[derive(Debug, clap::Args)]
pub struct Cancel {
    /// The task's id.
    pub id: String,
    /// Its type: two types may have tasks of one id.
    #[arg(long = "type", value_name = "TYPE")]
    pub task_type: String,
}

/// Say why a task waits.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The task's id.
    pub id: String,
    /// Its type, which makes the look-up quicker.
    #[arg(long = "type")]
    pub task_type: Option<String>,
    /// Its queue: only this one's leader and lanes are asked.
    #[arg(long)]
    pub queue: Option<String>,
}

/// Record what a queue is given into a trace.
#[derive(Debug, clap::Args)]
pub struct Record {
    /// The queue.
    pub queue: String,
    /// How long to follow completions, such as `60s`. Default: until --tasks are there, or Ctrl-C; with
    /// --since alone, not at all.
    #[arg(long = "for", value_parser = super::duration, value_name = "TIME")]
    pub follow: Option<Duration>,
    /// Begin this long ago, as far back as completions are kept (an hour unless configured).
    #[arg(long, value_parser = super::duration, value_name = "TIME")]
    pub since: Option<Duration>,
    /// End after this many tasks.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000), default_value_t = 1_000_000)]
    pub tasks: u64,
    /// The file to write; `-` for stdout.
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub to: PathBuf,
    /// Call the tenants t1, t2, ... in the order of their first task.
    #[arg(long)]
    pub anonymous: bool,
}
