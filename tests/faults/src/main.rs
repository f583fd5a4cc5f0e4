//! `soak`: runs the scheduler under faults and says which promises were broken. Exit code 1 where one was.
//!
//! The same program takes every role: `soak role ...` is a producer, an executor or a receiver; `soak run ...` is the
//! command as it is shipped.

use clap::{Parser, Subcommand};
use jetlane_faults::plan::Class;
use jetlane_faults::roles::{self, Role};
use jetlane_faults::scenarios::Scenario;
use jetlane_faults::soak::Soak;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Run the scheduler under faults, and check what became of every task.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
    #[command(subcommand)]
    role: Option<Command>,
    /// Minutes of faults.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Seed of the faults and of the tasks. Default: the time.
    #[arg(long)]
    seed: Option<u64>,
    /// Servers: 1 or 3.
    #[arg(long, default_value_t = 1, value_parser = servers)]
    servers: usize,
    /// Classes of faults.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Class::All])]
    faults: Vec<Class>,
    /// Tasks a second.
    #[arg(long, default_value_t = 340)]
    rate: u64,
    /// Folder for journals and logs. Default: a temporary one, kept where a promise was broken.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Run this scenario in its long form, in place of a soak: its figures are printed as JSON.
    #[arg(long, value_enum)]
    scenario: Option<Scenario>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take one role: for the soak itself.
    #[command(subcommand)]
    Role(Role),
}

fn servers(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("must be 1 or 3".into()),
    }
}

fn main() -> ExitCode {
    // The points at which a scenario lets a process crash.
    #[cfg(feature = "mutants")]
    let _points = fail::FailScenario::setup();
    // A service as it is shipped, with its own command line.
    if std::env::args().nth(1).is_some_and(|word| word == "run") {
        return jetlane_cli::main();
    }
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("soak: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async move {
        match args.role {
            Some(Command::Role(role)) => roles::run(role).await.map(|()| ExitCode::SUCCESS),
            None => soak(args).await,
        }
    });
    runtime.shutdown_background();
    done.unwrap_or_else(|error| {
        eprintln!("soak: {error:#}");
        ExitCode::from(2)
    })
}

async fn soak(args: Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(jetlane_faults::journal::now_us);
    let temporary = tempfile::Builder::new().prefix("jetlane-soak-").tempdir()?;
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    if let Some(scenario) = args.scenario {
        let found = scenario.run(&std::env::current_exe()?, &folder).await?;
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(if found.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let soak = Soak {
        program: std::env::current_exe()?,
        seed,
        length: Duration::from_secs_f64(args.minutes * 60.0),
        servers: args.servers,
        classes: args.faults,
        rate: args.rate,
        folder,
    };
    eprintln!("seed {seed}");
    let report = soak.run().await;
    // Journals and logs say why.
    if !report.as_ref().is_ok_and(jetlane_faults::report::Report::is_clean) {
        let _kept = temporary.keep();
    }
    let report = report?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
