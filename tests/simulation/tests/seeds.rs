//! The short form: ten thousand seeds, on every core.

use jetlane_simulation::{Mutants, OPEN_SEEDS, Plan, Site, shrink};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Seeds of the short form.
const SEEDS: u64 = 10_000;
/// Failing seeds that are shrunk and printed.
const FAILURES_MAX: usize = 5;

#[test]
fn no_seed_loses_repeats_or_hangs_a_task() {
    let begun = Instant::now();
    let (next, tasks) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let plan = Plan::draw(seed);
                    match Site::run(&plan, Mutants::NONE) {
                        Ok(figures) => drop(tasks.fetch_add(figures.accepted as u64, Ordering::Relaxed)),
                        Err(violation) => {
                            failed.lock().expect("no thread panics here").push((plan, violation));
                        }
                    }
                }
            });
        }
    });
    let failed: Vec<_> = failed.into_inner().expect("no thread panics here");
    let (open, mut failed): (Vec<_>, Vec<_>) =
        failed.into_iter().partition(|(plan, _)| OPEN_SEEDS.contains(&plan.seed));
    println!("{} of {} open faults still fail", open.len(), OPEN_SEEDS.len());
    println!("{SEEDS} seeds, {} tasks accepted, {} failed, {:?}", tasks.into_inner(), failed.len(), begun.elapsed());
    failed.sort_by_key(|(plan, _)| plan.seed);
    let mut rules = std::collections::BTreeMap::<_, Vec<u64>>::new();
    failed.iter().for_each(|(plan, violation)| rules.entry(violation.rule).or_default().push(plan.seed));
    for (rule, seeds) in &rules {
        println!("{}: {} seeds, the first {:?}", rule, seeds.len(), &seeds[..seeds.len().min(8)]);
    }
    let mut shown = std::collections::BTreeSet::new();
    for (plan, violation) in failed.iter().filter(|(_, violation)| shown.insert(violation.rule)).take(FAILURES_MAX) {
        println!("{}", shrink(plan, violation, Mutants::NONE));
    }
    assert!(
        failed.is_empty(),
        "{} of {SEEDS} seeds failed; repeat one: cargo run -p jetlane-simulation -- <seed>",
        failed.len()
    );
}
