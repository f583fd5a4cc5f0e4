//! Measures every bar of the simulator and prints them; ends with 1 where one does not hold.
//!
//! `cargo run --release -p jetlane-simulator --example bars -- --seeds 9 --tasks 1000000`, with `forms`, `sizes`
//! or `adaptive` for some of them.

use jetlane_simulator::Error;
use jetlane_simulator::bars::{Bar, Effort, adaptive, closed_forms, sizes};
use std::process::ExitCode;

/// What is measured.
type Group = fn(Effort) -> Result<Vec<Bar>, Error>;

/// Tasks of a run. Of 300,000, with the heaviest tails, the median over nine seeds still moves by a quarter
/// from one nine to the next.
const TASKS: u64 = 1_000_000;

const GROUPS: [(&str, Group); 3] = [("forms", closed_forms), ("sizes", sizes), ("adaptive", adaptive)];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1)?.replace('_', "").parse::<u64>().ok()
    };
    let effort = Effort { seeds: number("--seeds").unwrap_or(9), tasks: number("--tasks").unwrap_or(TASKS) as usize };
    let only: Vec<&str> = words.iter().map(String::as_str).filter(|word| GROUPS.iter().any(|g| g.0 == *word)).collect();
    println!("{:<58}{:>16}{:>10}   least .. most of {} seeds", "bar", "wanted", "median", effort.seeds);
    let mut all_hold = true;
    for (name, group) in GROUPS {
        if !only.is_empty() && !only.contains(&name) {
            continue;
        }
        match group(effort) {
            Ok(bars) => {
                for bar in bars {
                    print(&bar);
                    all_hold &= bar.holds();
                }
            }
            Err(error) => {
                eprintln!("{name}: {error}");
                all_hold = false;
            }
        }
    }
    if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(bar: &Bar) {
    let (least, most) = bar.range;
    let verdict = if bar.holds() { "" } else { "  FAILS" };
    println!("{:<58}{:>16}{:>10.3}   {least:.3} .. {most:.3}{verdict}", bar.name, bar.wanted.to_string(), bar.measured);
}
