//! The `jetlane` command: everything that a person does with the scheduler.
//!
//! # Layout
//! - [`args`]: the words of the command line
//! - `output`: tables and JSON on stdout, talk on stderr, exit codes
//! - `reach`: connecting as a command does: an answer or an error, at once
//! - one module a command; `stack` starts a server and the services for those that need their own

mod announce;
pub mod args;
mod bench;
mod demo;
mod dev;
mod doctor;
mod moment;
mod new;
mod output;
mod queues;
mod reach;
mod record;
mod result;
mod run;
mod simulate;
mod stack;
mod submit;
mod tasks;
mod traced;
mod watch;

use args::{Args, Command};
use clap::Parser;
use output::{Exit, Failure, Output};
use std::process::ExitCode;

/// A task is many small pieces of memory that one thread makes and another frees: the system's
/// allocator takes a fifth of the pipeline's time for that (`perf record jetlane bench pipeline`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Reads the command line, does what it says, and tells how it went by the exit code.
pub fn main() -> ExitCode {
    let args = Args::parse();
    // A service is a process of its own, with telemetry, configuration and signals of its own.
    if let Command::Run(run) = &args.command {
        return run::run(run);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("jetlane: the runtime cannot start: {error}");
            return Exit::Error.into();
        }
    };
    let output = Output::new(args.output);
    match runtime.block_on(command(&args, &output)) {
        Ok(exit) => exit.into(),
        Err(failure) => output.fail(&failure).into(),
    }
}

async fn command(args: &Args, output: &Output) -> Result<Exit, Failure> {
    match &args.command {
        Command::Dev(dev) => dev::run(dev).await,
        Command::Demo(demo) => demo::run(demo, output).await,
        Command::Bench(bench) => bench::run(bench, &args.nats, output).await,
        Command::Submit(submit) => submit::run(&args.nats, submit, output).await,
        Command::Result(result) => result::run(&args.nats, result, output).await,
        Command::Watch(watch) => watch::run(&args.nats, watch, output).await,
        Command::Queues(queues) => queues::run(&args.nats, queues, output).await,
        Command::Tasks(tasks) => tasks::run(&args.nats, tasks, output).await,
        Command::Record(record) => record::run(&args.nats, record, output).await,
        Command::Types(types) => announce::run(&args.nats, types, output).await,
        Command::New(new) => new::run(new, output),
        Command::Simulate(simulate) => simulate::run(simulate, output),
        Command::Doctor => doctor::run(&args.nats, output).await,
        Command::Run(_) => Ok(Exit::Ok),
    }
}
