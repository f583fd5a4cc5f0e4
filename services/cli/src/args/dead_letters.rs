//! The words of `jetlane dead-letters`.

use clap::{ArgGroup, Subcommand};

/// The most dead letters of one command.
const LETTERS_MAX: u64 = 10_000;

/// List dead letters, send them again or remove them.
#[derive(Debug, clap::Args)]
pub struct DeadLetters {
    /// What to do with them.
    #[command(subcommand)]
    pub action: DeadLettersAction,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLettersAction {
    /// List tasks that failed for good or were rejected, the oldest first, and why.
    #[command(alias = "list")]
    Ls(DeadLettersLs),
    /// Show dead letters of one id whole, with the body that was submitted.
    Show(DeadLettersShow),
    /// Send dead letters again: each task begins anew under its own id, with all its attempts.
    ///
    /// A letter is removed once its task is stored, so the command may be repeated whatever became of it. The tasks go
    /// to the queue that serves their type now. A deadline that has passed is dropped. A key is taken again, also
    /// within its `--unique-for`; where another task of the key waits or runs, the letter stays. Receivers of a
    /// webhook hear of the second end under the same `webhook-id`.
    Resend(DeadLettersChange),
    /// Remove dead letters for ever.
    Purge(DeadLettersChange),
}

/// List dead letters.
#[derive(Debug, clap::Args)]
pub struct DeadLettersLs {
    /// Which.
    #[command(flatten)]
    pub which: Which,
}

/// Show dead letters of one id.
#[derive(Debug, clap::Args)]
pub struct DeadLettersShow {
    /// The task's id.
    pub id: String,
    /// Its type; default: all types with a dead letter of this id.
    #[arg(long = "type", value_name = "TYPE")]
    pub task_type: Option<String>,
    /// Callbacks that nobody took instead of tasks.
    #[arg(long)]
    pub callbacks: bool,
}

/// Send dead letters again, or remove them.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("some").required(true).multiple(true).args(["ids", "task_type", "queue", "all"]))]
pub struct DeadLettersChange {
    /// Ids of tasks. Default: all that the options name.
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// Which.
    #[command(flatten)]
    pub which: Which,
    /// All of them, up to --limit.
    #[arg(long, conflicts_with_all = ["ids", "task_type", "queue"])]
    pub all: bool,
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// Only of this type.
    #[arg(long = "type", value_name = "TYPE")]
    pub task_type: Option<String>,
    /// Only of this queue.
    #[arg(long, conflicts_with = "callbacks")]
    pub queue: Option<String>,
    /// Callbacks that nobody took instead of tasks.
    #[arg(long)]
    pub callbacks: bool,
    /// So many at most, the oldest first.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=LETTERS_MAX), default_value_t = 100)]
    pub limit: u64,
}
