//! Repeats seeds: `cargo run -p jetlane-simulation -- 1233` prints what a seed breaks, shrunk; a second number says
//! how many seeds from there on, and a third word plants a bug.

use jetlane_simulation::{Mutant, Mutants, Plan, Site, shrink};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut numbers = arguments.iter().take(2).map(|text| text.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next().or(Some(Ok(1)))) else {
        eprintln!("usage: jetlane-simulation <first seed> [how many [bug]]");
        return ExitCode::from(64);
    };
    let planted = arguments.get(2).map(|name| Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == *name));
    let mutants = match planted {
        None => Mutants::NONE,
        Some(Some(mutant)) => Mutants::one(mutant),
        Some(None) => {
            eprintln!("no such bug; there are {:?}", Mutant::ALL);
            return ExitCode::from(64);
        }
    };
    let mut code = ExitCode::SUCCESS;
    for seed in first..first.saturating_add(count) {
        let plan = Plan::draw(seed);
        match Site::run(&plan, mutants) {
            Ok(_) if count > 1 => {}
            Ok(figures) => println!("seed {seed}: {figures:?}"),
            Err(violation) => {
                println!("{}", shrink(&plan, &violation, mutants));
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
