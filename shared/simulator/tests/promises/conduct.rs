//! Whatever is simulated: the same seed gives the same figures, and every task is done once.

use crate::{load, policy};
use jetlane_schemas::{Micros, Priority};
use jetlane_simulator::{Arrivals, Load, Noisy, Policy, Settings, Task, Workload, simulate, simulate_all};
use proptest::prelude::*;

#[test]
fn the_same_seed_gives_the_same_bits_alone_or_beside_others() {
    let arrivals = || load(Workload::Azure, 10_000).arrivals().expect("in range");
    let all = simulate_all(&arrivals(), &Policy::all(), &Settings::default()).expect("they end");
    for (figures, policy) in all.iter().zip(Policy::all()) {
        let alone = simulate(&arrivals(), policy, &Settings::default()).expect("it ends");
        assert_eq!(*figures, alone);
        assert_eq!(figures.mean_response.to_bits(), alone.mean_response.to_bits());
    }
    let other = Load { seed: 2, ..load(Workload::Azure, 10_000) }.arrivals().expect("in range");
    assert_ne!(other, arrivals());
}

#[test]
fn noise_of_the_estimates_changes_neither_arrivals_nor_sizes() {
    let of = |sigma| Load { sigma, ..load(Workload::Bp11, 5_000) }.arrivals().expect("in range");
    let (exact, noisy) = (of(0.0), of(1.0));
    let bare =
        |arrivals: &Arrivals| arrivals.tasks().iter().map(|task| Task { estimate: None, ..*task }).collect::<Vec<_>>();
    assert_eq!(bare(&exact), bare(&noisy));
    assert!(exact.tasks().iter().all(|task| task.estimate == Some(task.size)));
    assert!(noisy.tasks().iter().any(|task| task.estimate != Some(task.size)));
}

#[test]
fn all_policies_do_the_same_work() {
    let arrivals = load(Workload::Bp13, 20_000).arrivals().expect("in range");
    let all = simulate_all(&arrivals, &Policy::all(), &Settings::default()).expect("they end");
    for figures in &all {
        assert_eq!(figures.tasks, 18_000);
        assert_eq!(figures.by_priority.values().map(|waits| waits.tasks).sum::<usize>(), figures.tasks);
        if figures.policy != "srtf" {
            assert!((figures.utilisation - all[0].utilisation).abs() < 0.03, "{}", figures.policy);
        }
    }
}

#[test]
fn yields_are_bounded_and_cost_little() {
    for workload in Workload::ALL {
        let exact = Load { sigma: 0.0, ..load(workload, 20_000) }.arrivals().expect("in range");
        let of = |word| simulate(&exact, policy(word), &Settings::default()).expect("it ends");
        let (srtf, ideal) = (of("srtf"), of("srpt"));
        assert!(srtf.preemptions > 0, "{workload}");
        assert!(srtf.max_preemptions <= 1_024, "{workload}: {}", srtf.max_preemptions);
        assert!(srtf.utilisation < ideal.utilisation + 0.03, "{workload}: {}", srtf.utilisation);
        let never = simulate(&exact, policy("srtf"), &Settings { quantum: 1e6, ..Settings::default() });
        assert_eq!(never.expect("it ends").preemptions, 0, "{workload}: without checkpoints nothing yields");
    }
}

#[test]
fn a_noisy_tenant_has_its_bursts_and_the_others_have_the_rest() {
    let noisy = Noisy { load: 0.18, burst: 500 };
    let arrivals = Load { noisy: Some(noisy), ..load(Workload::Exp, 20_000) }.arrivals().expect("in range");
    let of_noisy = arrivals.tasks().iter().filter(|task| Some(task.tenant) == arrivals.noisy());
    assert_eq!(of_noisy.count(), 4_000);
    assert!((arrivals.offered_load(8) - 0.9).abs() < 0.03, "{}", arrivals.offered_load(8));
    let figures = simulate(&arrivals, policy("fifo"), &Settings::default()).expect("it ends");
    let (victims, noisy) = (figures.victims.expect("told"), figures.noisy.expect("told"));
    assert_eq!(victims.waits.tasks + noisy.waits.tasks, figures.tasks);
    assert!(victims.waits.p99_wait > 10.0, "a flood is felt in a line: {}", victims.waits.p99_wait);
    let quiet = load(Workload::Exp, 20_000).arrivals().expect("in range");
    assert!(simulate(&quiet, policy("fifo"), &Settings::default()).expect("it ends").victims.is_none());
}

#[test]
fn loads_that_make_no_sense_are_refused() {
    let fine = load(Workload::Exp, 1_000);
    for (option, load) in [
        ("tasks", Load { tasks: 0, ..fine.clone() }),
        ("servers", Load { servers: 0, ..fine.clone() }),
        ("rho", Load { rho: f64::NAN, ..fine.clone() }),
        ("sigma", Load { sigma: -1.0, ..fine.clone() }),
        ("tenants", Load { tenants: 0, ..fine.clone() }),
        ("priorities", Load { priorities: [0.5, 0.5, 0.5, 0.0], ..fine.clone() }),
        ("noisy", Load { noisy: Some(Noisy { load: 0.95, burst: 10 }), ..fine.clone() }),
        ("noisy", Load { noisy: Some(Noisy { load: 0.1, burst: 0 }), ..fine.clone() }),
        ("noisy", Load { noisy: Some(Noisy { load: 0.1, burst: 5_000 }), ..fine.clone() }),
        ("noisy", Load { noisy: Some(Noisy { load: 0.1, burst: 10 }), tenants: 1, ..fine.clone() }),
    ] {
        let error = load.arrivals().expect_err(option).to_string();
        assert!(error.starts_with(option), "{option}: {error}");
    }
}

/// Any tasks at all: bursts, idle hours, giants, wrong estimates, deadlines long past.
fn tasks() -> impl Strategy<Value = Vec<Task>> {
    let task = (0..4_u64, 1..8_u32, 1..8_u32, 0..4_usize, 0..3_u32, proptest::option::of(0..10_000_000_u64)).prop_map(
        |(arrival, size, estimate, priority, tenant, due)| Task {
            arrival: Micros(arrival * arrival * 1_500_000),
            size: Micros(10_u64.pow(size)),
            estimate: Some(Micros(10_u64.pow(estimate))),
            priority: Priority::ALL[priority],
            tenant,
            task_type: 0,
            due: due.map(Micros),
        },
    );
    proptest::collection::vec(task, 1..120)
}

proptest! {
    #[test]
    fn every_task_is_done_once_under_every_policy(tasks in tasks(), servers in 1..4_u32, window in 1..40_u32) {
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let count = tasks.len();
        let arrivals = Arrivals::new(tasks, names, vec!["x".into()]).expect("some tasks");
        let settings = Settings { servers, window, ..Settings::default() };
        for policy in Policy::all() {
            // A task that never ends is an error, and one that ends twice a panic.
            let figures = simulate(&arrivals, policy, &settings).expect("all end");
            prop_assert_eq!(figures.tasks, count - count / 10);
            prop_assert!(figures.mean_response >= figures.mean_wait);
        }
    }
}
