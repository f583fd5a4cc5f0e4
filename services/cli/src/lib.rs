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
mod dead_letters;
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

use args::{Args, BenchWhat, Command};
use clap::Parser;
use output::{Exit, Failure, Output};
use reach::Nats;
use std::process::ExitCode;

/// A task is many small pieces of memory that one thread makes and another frees: the system's
/// allocator takes a fifth of the pipeline's time for that (`perf record jetlane bench pipeline`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Reads the command line, does what it says, and tells how it went by the exit code.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output::new(args.output.unwrap_or_default());
    if let Err(failure) = refuse_ignored(&args) {
        return output.fail(&failure).into();
    }
    // A service is a process of its own, with telemetry, configuration and signals of its own.
    if let Command::Run(run) = &args.command {
        return run::run(run, &args.nats);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("jetlane: the runtime cannot start: {error}");
            return Exit::Error.into();
        }
    };
    match runtime.block_on(command(&args, &output)) {
        Ok(exit) => exit.into(),
        Err(failure) => output.fail(&failure).into(),
    }
}

/// Refuses flags that the command would ignore: whoever gives one expects an effect.
fn refuse_ignored(args: &Args) -> Result<(), Failure> {
    let own_server = "it starts a server of its own";
    let (name, why) = match &args.command {
        Command::Dev(_) => ("dev", own_server),
        Command::Demo(_) => ("demo", own_server),
        Command::Bench(bench) => match &bench.what {
            // It is told where to connect, and takes no credentials.
            BenchWhat::Executor(_) if args.nats.creds.is_none() => return Ok(()),
            BenchWhat::Executor(_) => ("bench executor", "it connects without credentials"),
            _ => ("bench", own_server),
        },
        Command::New(_) => ("new", "it connects to no server"),
        Command::Simulate(_) => ("simulate", "it connects to no server"),
        Command::Run(_) if args.output.is_some() => {
            return Err(no_effect("--output", "run", "a service prints no results"));
        }
        _ => return Ok(()),
    };
    if let Command::Dev(_) = args.command
        && args.output.is_some()
    {
        return Err(no_effect("--output", name, "it prints JSON where stdout is no terminal"));
    }
    args.nats.given().map_or(Ok(()), |flag| Err(no_effect(flag, name, why)))
}

fn no_effect(flag: &str, command: &str, why: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{flag} has no effect on `jetlane {command}`: {why}")).help("Leave it out.")
}

async fn command(args: &Args, output: &Output) -> Result<Exit, Failure> {
    let nats = || Nats::read(&args.nats);
    match &args.command {
        Command::Dev(dev) => dev::run(dev).await,
        Command::Demo(demo) => demo::run(demo, output).await,
        Command::Bench(bench) => bench::run(bench, &args.nats, output).await,
        Command::Submit(submit) => submit::run(&nats()?, submit, output).await,
        Command::Result(result) => result::run(&nats()?, result, output).await,
        Command::Watch(watch) => watch::run(&nats()?, watch, output).await,
        Command::Queues(queues) => queues::run(&nats()?, queues, output).await,
        Command::Tasks(tasks) => tasks::run(&nats()?, tasks, output).await,
        Command::DeadLetters(letters) => dead_letters::run(&nats()?, letters, output).await,
        Command::Record(record) => record::run(&nats()?, record, output).await,
        Command::Types(types) => announce::run(&nats()?, types, output).await,
        Command::New(new) => new::run(new, output),
        Command::Simulate(simulate) => simulate::run(simulate, output),
        Command::Doctor => doctor::run(&nats()?, output).await,
        Command::Run(_) => Ok(Exit::Ok),
    }
}
