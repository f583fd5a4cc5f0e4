//! Dispatchers and executors over a lossy model of the broker, in virtual time. A seed makes a plan (tasks and
//! faults); the plan is carried out by processes that decide with the product's own code (`jetlane_core`: the
//! queue, duplicates, bundles, credit, what becomes of a delivered run, retries); a checker holds the promises
//! against what happened; a plan that breaks one is made smaller until nothing can be left out.
//!
//! Not to be confused with `shared/simulator`, which compares policies.
//!
//! # Layout
//! - [`plan`]: what happens in a run, drawn from a seed
//! - [`world`]: virtual time, processes that can be killed and frozen
//! - [`broker`]: JetStream as Jetlane uses it; [`network`]: the lossy way to it
//! - [`site`]: a whole run, its faults, and what all processes do alike (publish, complete)
//! - [`submitter`], [`dispatcher`], [`executor`]: the processes
//! - [`checker`]: the rules; [`mutant`]: bugs planted to prove that the rules bite; [`mod@shrink`]: the smallest plan

pub mod broker;
pub mod checker;
pub mod dispatcher;
pub mod executor;
pub mod mutant;
pub mod network;
pub mod plan;
pub mod shrink;
pub mod site;
pub mod submitter;
pub mod world;

pub use checker::Violation;
pub use mutant::{Mutant, Mutants};
pub use plan::Plan;
pub use shrink::{Shrunk, shrink};
pub use site::{Figures, Site};

/// Carries out the plan of a seed.
///
/// # Errors
/// The rule that was broken.
pub fn simulate(seed: u64, mutants: Mutants) -> Result<Figures, Violation> {
    Site::run(&Plan::draw(seed), mutants)
}

/// Seeds whose failure is an open fault of the product, each with what is wrong. The list only shrinks.
pub const OPEN_SEEDS: &[u64] = &[];
