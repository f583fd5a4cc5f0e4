//! Repeats seeds: `cargo run -p jetlane-simulation -- 1233` prints what a seed breaks, shrunk; a second number says
//! how many seeds from there on.

use jetlane_simulation::{Mutants, Plan, Site, shrink};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next().or(Some(Ok(1)))) else {
        eprintln!("usage: jetlane-simulation <first seed> [how many]");
        return ExitCode::from(64);
    };
    let mut code = ExitCode::SUCCESS;
    for seed in first..first.saturating_add(count) {
        let plan = Plan::draw(seed);
        match Site::run(&plan, Mutants::NONE) {
            Ok(_) if count > 1 => {}
            Ok(figures) => println!("seed {seed}: {figures:?}"),
            Err(violation) => {
                println!("{}", shrink(&plan, &violation, Mutants::NONE));
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
