//! The words of the command line.

mod bench;
mod dead_letters;
pub(crate) mod needs;
mod queues;
mod simulate;
mod tasks;

pub use bench::{
    Backlog, Bench, BenchExecutor, BenchWhat, Clock, Durable, Idle, Loop, Pipeline, Scale, Schedule, Told,
};
pub use dead_letters::{DeadLetters, DeadLettersAction, DeadLettersChange, DeadLettersLs, DeadLettersShow, Which};
pub use queues::{MaxWait, Queues, QueuesAction, QueuesSet, QueuesShow};
pub use simulate::{Policies, Priorities, Simulate};
pub use tasks::{Cancel, Explain, Record, Tasks, TasksAction};

use clap::{Parser, Subcommand, ValueEnum};
use jetlane::Priority;
use jetlane_schemas::{Admit, Needs};
use std::path::PathBuf;
use std::time::Duration;

/// Turns a NATS cluster into a task scheduler.
#[derive(Debug, Parser)]
#[command(name = "jetlane", version, propagate_version = true, arg_required_else_help = true)]
pub struct Args {
    /// Where and how to connect.
    #[command(flatten)]
    pub nats: ServerFlags,
    /// How results are printed on stdout. Default: table.
    #[arg(short, long, global = true, value_enum)]
    pub output: Option<Format>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where and how to connect.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerFlags {
    /// Address of the NATS server, before JETLANE_NATS_URL, NATS_URL and `url` in section nats of jetlane.toml.
    ///
    /// Default: nats://127.0.0.1:4222. Services read the same.
    #[arg(long, global = true)]
    pub server: Option<String>,
    /// Credentials file, before JETLANE_NATS_CREDS, NATS_CREDS and `creds` in section nats of jetlane.toml.
    #[arg(long, global = true)]
    pub creds: Option<PathBuf>,
}

impl ServerFlags {
    /// Returns the first flag that is given.
    pub fn given(&self) -> Option<&'static str> {
        match (&self.server, &self.creds) {
            (Some(_), _) => Some("--server"),
            (None, Some(_)) => Some("--creds"),
            (None, None) => None,
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: a stable contract.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything on this machine: a NATS server and all services, until Ctrl-C.
    Dev(Dev),
    /// Thumbnail a folder of pictures, from submission to gallery, on a server of its own.
    Demo(Demo),
    /// Submit a task.
    Submit(Submit),
    /// Print the output of a task.
    Result(ResultArgs),
    /// Follow completions.
    Watch(Watch),
    /// Run one service as this process.
    Run(Run),
    /// Make a crate: an executor, or a subscriber of completions.
    New(New),
    /// List, show and set task types.
    Types(Types),
    /// List, show and set queues: order of dispatch, fits, pause.
    Queues(Queues),
    /// Ask where a task is and why it waits.
    Tasks(Tasks),
    /// List dead letters, send them again or remove them.
    DeadLetters(DeadLetters),
    /// Record what a queue is given into a trace that `jetlane simulate --trace` replays.
    ///
    /// One row a task that ran, once it has completed: when it arrived (or became due), how long its last
    /// run took, priority, tenant and type. Estimates are left to what a policy learns of the type.
    Record(Record),
    /// Run policies over the same tasks in virtual time, and compare them. Needs no server.
    ///
    /// The scheduler's own code decides; arrivals and sizes are drawn from a seed or read from a trace. Times
    /// are seconds. Slowdown is the response over the size, sizes under a tenth of the mean counting as that.
    Simulate(Simulate),
    /// Check the server, the streams, durability and telemetry.
    Doctor,
    /// Measure.
    Bench(Bench),
}

/// Start everything on this machine.
#[derive(Debug, clap::Args)]
pub struct Dev {
    /// Port of the NATS server; 0 for a free one.
    #[arg(long, default_value_t = 4222)]
    pub port: u16,
    /// Folder for the server's data. Default: a temporary one, gone at the end.
    #[arg(long)]
    pub data: Option<PathBuf>,
}

/// Thumbnail a folder of pictures.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Folder of pictures. Default: samples that the demo makes.
    #[arg(long)]
    pub input: Option<PathBuf>,
    /// Folder for thumbnails and gallery. Default: `jetlane-demo` in the temporary folder.
    #[arg(long)]
    pub gallery: Option<PathBuf>,
    /// Print the summary as one JSON object on stdout, and nothing else there.
    #[arg(long)]
    pub json: bool,
}

/// Submit a task.
#[derive(Debug, clap::Args)]
pub struct Submit {
    /// Its type, such as `image.thumbnail`.
    pub task_type: String,
    /// Its body: JSON, `-` for stdin, or `@file`.
    #[arg(default_value = "{}", allow_negative_numbers = true)]
    pub body: String,
    /// critical, high, normal or low.
    #[arg(long, default_value = "normal")]
    pub priority: Priority,
    /// Its fairness key.
    #[arg(long)]
    pub tenant: Option<String>,
    /// Its idempotency key: one task of a type, tenant and key waits or runs at a time.
    #[arg(long)]
    pub key: Option<String>,
    /// How long the key stays taken after the task has ended; default: as long as its completion is kept. `0s`
    /// lets the next submission run at once.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "key")]
    pub unique_for: Option<Duration>,
    /// Its queue; default: the one that its type is announced for.
    #[arg(long)]
    pub queue: Option<String>,
    /// How long it waits before it is due, such as `5s` or `10m`.
    #[arg(long, value_parser = duration)]
    pub delay: Option<Duration>,
    /// Until when it must have started, from now on, such as `30s`; past it, it completes as expired.
    #[arg(long, value_parser = duration)]
    pub deadline: Option<Duration>,
    /// `strict` refuses it at once when it cannot start by its deadline; default `always`.
    #[arg(long, requires = "deadline")]
    pub admit: Option<Admit>,
    /// How long it runs, as far as you know, such as `2s`: counts until enough runs are measured.
    #[arg(long, value_parser = duration)]
    pub estimate: Option<Duration>,
    /// Tasks of the same size key run about as long: their run times are learned together.
    #[arg(long)]
    pub size_key: Option<String>,
    /// What it needs of an executor, such as `cpu:2,memory:512,gpu:1,label:zone-a` (cpu in cores, memory in MiB).
    #[arg(long, value_parser = needs::needs)]
    pub needs: Option<Needs>,
    /// Print when it would start and finish, and submit nothing.
    #[arg(long, conflicts_with_all = ["wait", "delay"])]
    pub expect: bool,
    /// A webhook endpoint of the callback service; may be given more than once.
    #[arg(long)]
    pub webhook: Vec<String>,
    /// Wait for the outcome and print the output.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait at most.
    #[arg(long, value_parser = duration, default_value = "5m")]
    pub timeout: Duration,
}

/// Print the output of a task.
#[derive(Debug, clap::Args)]
pub struct ResultArgs {
    /// The task's id.
    pub id: String,
    /// Its type, which makes the look-up quicker.
    #[arg(long = "type")]
    pub task_type: Option<String>,
    /// Wait until it completes.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait at most.
    #[arg(long, value_parser = duration, default_value = "5m")]
    pub timeout: Duration,
}

/// Follow completions.
#[derive(Debug, clap::Args)]
pub struct Watch {
    /// Only of this type.
    pub task_type: Option<String>,
    /// Only with this outcome.
    #[arg(long)]
    pub outcome: Option<jetlane::Outcome>,
    /// Everything that is kept, not only what comes from now on.
    #[arg(long)]
    pub all: bool,
    /// End after this many.
    #[arg(long)]
    pub limit: Option<u64>,
}

/// Run one service as this process.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Which.
    #[arg(value_enum)]
    pub service: Service,
}

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// Decides what runs next and routes it to lanes.
    Dispatcher,
    /// Runs the reference types.
    Executor,
    /// Carries out what completions trigger.
    Callback,
}

/// Make a crate.
#[derive(Debug, clap::Args)]
pub struct New {
    /// What it is to be.
    #[arg(value_enum)]
    pub kind: NewKind,
    /// Its name: also that of its folder and its queue.
    pub name: String,
}

/// What a new crate is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NewKind {
    /// Serves a task type on a queue of its own name.
    Executor,
    /// Consumes the completions of a task type.
    Subscriber,
}

/// List, show and set task types.
#[derive(Debug, clap::Args)]
pub struct Types {
    /// What to do with them.
    #[command(subcommand)]
    pub action: TypesAction,
}

/// What to do with task types.
#[derive(Debug, Subcommand)]
pub enum TypesAction {
    /// List what is announced.
    Ls,
    /// Show one type: its announcement, and what is learned of its run times.
    Show(TypesShow),
    /// Set options of a type; with --queue also of one that nobody has announced.
    Set(TypesSet),
}

/// Show one type.
#[derive(Debug, clap::Args)]
pub struct TypesShow {
    /// The type.
    pub task_type: String,
}

/// Set options of a type.
///
/// They go before what executors announce, and no announcement undoes them.
#[derive(Debug, clap::Args)]
pub struct TypesSet {
    /// The type.
    pub task_type: String,
    /// The queue whose executors serve it.
    #[arg(long)]
    pub queue: Option<String>,
    /// Retries after the first attempt.
    #[arg(long)]
    pub retries: Option<u32>,
    /// How long one attempt may run, such as `30s`.
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
    /// The first back-off before a retry, such as `1s`.
    #[arg(long, value_parser = duration)]
    pub backoff: Option<Duration>,
    /// A file with the JSON Schema of its body.
    #[arg(long)]
    pub schema: Option<PathBuf>,
    /// Take back everything that was set before, then set what else is given.
    #[arg(long)]
    pub reset: bool,
}

/// Reads `250ms`, `5s`, `10m`, `2h` and their sums.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}
