//! What theory says of queues that theory can say something of, holds.

use crate::{load, policy};
use jetlane_simulator::{Load, Settings, Workload, formulas, simulate};

/// The mean over seeds: the closed forms are means.
fn mean_response(of: &str, servers: u32, rho: f64) -> f64 {
    const SEEDS: u64 = 5;
    let seeds = 1..=SEEDS;
    let sum: f64 = seeds
        .map(|seed| {
            let load = Load { servers, rho, seed, sigma: 0.0, ..load(Workload::Exp, 60_000) };
            let settings = Settings { servers, ..Settings::default() };
            let arrivals = load.arrivals().expect("in range");
            simulate(&arrivals, policy(of), &settings).expect("it ends").mean_response
        })
        .sum();
    sum / SEEDS as f64
}

#[test]
fn mean_responses_are_within_3_percent_of_the_closed_forms() {
    // Under load 0.7 a run that a test can wait for comes near enough; the bars have 0.9.
    const RHO: f64 = 0.7;
    for (of, servers, wanted) in [
        ("fifo", 1, formulas::fifo(RHO)),
        ("sjf", 1, formulas::sjf(RHO)),
        ("srpt", 1, formulas::srpt(RHO)),
        ("fifo", 8, formulas::erlang_c(8, RHO)),
    ] {
        let measured = mean_response(of, servers, RHO);
        assert!((measured / wanted - 1.0).abs() < 0.03, "{of} on {servers}: {measured}, wanted {wanted}");
    }
}

#[test]
fn policies_that_know_no_sizes_have_the_same_mean_response() {
    let arrivals = load(Workload::Exp, 40_000).arrivals().expect("in range");
    let of = |word| simulate(&arrivals, policy(word), &Settings::default()).expect("it ends").mean_response;
    let fifo = of("fifo");
    for word in ["rr", "strict", "weighted"] {
        assert!((of(word) / fifo - 1.0).abs() < 0.02, "{word}: {} beside {fifo}", of(word));
    }
}
