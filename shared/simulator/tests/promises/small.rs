//! A handful of tasks, of which every time can be worked out by hand.

use crate::{arrivals, run};
use jetlane_schemas::{Micros, Priority};
use jetlane_simulator::{Arrivals, Settings, Task, simulate};

fn near(measured: f64, wanted: f64) {
    assert!((measured - wanted).abs() < 1e-5, "{measured}, wanted {wanted}");
}

#[test]
fn responses_slowdowns_and_waits_are_what_they_are_said_to_be() {
    // On one server, by arrival: ends at 1, 4 and 4.1. The mean size is 41/30; a tenth of it is more than 0.1.
    let figures = run(&arrivals(&[(0.0, 1.0), (0.0, 3.0), (2.0, 0.1)]), "fifo", 1);
    near(figures.mean_response, (1.0 + 4.0 + 2.1) / 3.0);
    near(figures.mean_wait, (0.0 + 1.0 + 2.0) / 3.0);
    near(figures.max_wait, 2.0);
    near(figures.p50_slowdown, 4.0 / 3.0);
    near(figures.p99_slowdown, 2.1 / (4.1 / 30.0));
    near(figures.utilisation, 1.0);
    assert_eq!((figures.tasks, figures.preemptions), (3, 0));
}

#[test]
fn the_shortest_goes_first_once_the_server_is_free() {
    let figures = run(&arrivals(&[(0.0, 1.0), (0.1, 3.0), (0.2, 0.5)]), "sjf", 1);
    near(figures.mean_response, (1.0 + (4.5 - 0.1) + (1.5 - 0.2)) / 3.0);
}

#[test]
fn a_long_task_yields_at_its_checkpoint_and_pays_for_it() {
    // The mean is 5.05: a checkpoint each 1.2625, and a yield costs 0.101.
    let figures = run(&arrivals(&[(0.0, 10.0), (1.0, 0.1)]), "srtf", 1);
    near(figures.mean_response, ((10.0 + 0.1 + 0.101) + (1.2625 + 0.1 - 1.0)) / 2.0);
    assert_eq!((figures.preemptions, figures.max_preemptions), (1, 1));
    near(figures.mean_wait, 0.2625 / 2.0);
}

#[test]
fn the_ideal_stops_a_long_task_at_once_and_at_no_cost() {
    let figures = run(&arrivals(&[(0.0, 10.0), (1.0, 0.1)]), "srpt", 1);
    near(figures.mean_response, (10.1 + 0.1) / 2.0);
    assert_eq!(figures.preemptions, 1);
    let two = run(&arrivals(&[(0.0, 10.0), (0.0, 5.0), (1.0, 1.0), (1.0, 20.0)]), "srpt", 2);
    // The 10 makes way for the 1, goes on at 2 with 9 left, and the 20 starts when the 5 ends.
    near(two.mean_response, (11.0 + 5.0 + 1.0 + 24.0) / 4.0);
}

#[test]
fn a_server_that_has_nothing_to_tell_for_long_is_not_taken_for_gone() {
    let sparse: Vec<(f64, f64)> = (0..50).map(|n| (f64::from(n) * 10.0, 0.5)).collect();
    let figures = run(&arrivals(&sparse), "fifo", 1);
    near(figures.max_wait, 0.0);
    // Runs of an hour, through which the executor tells nothing new.
    near(run(&arrivals(&[(0.0, 3_600.0), (1.0, 3_600.0), (7_300.0, 1.0)]), "fifo", 2).max_wait, 0.0);
}

#[test]
fn a_deadline_is_missed_by_ending_after_it_and_nothing_is_dropped() {
    let task = |arrival, due: Option<u64>| Task {
        arrival: Micros(arrival),
        size: Micros(1_000_000),
        estimate: Some(Micros(1_000_000)),
        priority: Priority::Normal,
        tenant: 0,
        task_type: 0,
        due: due.map(Micros),
    };
    let tasks = vec![task(0, Some(1_000_000)), task(0, Some(1_999_999)), task(0, Some(1)), task(5_000_000, None)];
    let arrivals = Arrivals::new(tasks, vec!["t".into()], vec!["a".into()]).expect("some tasks");
    let figures = run(&arrivals, "fifo", 1);
    near(figures.deadline_miss, 2.0 / 3.0);
    assert_eq!(figures.tasks, 4);
}

#[test]
fn with_a_window_of_one_the_shortest_first_is_first_in_first_out() {
    let tasks: Vec<(f64, f64)> = (0..200).map(|n| (f64::from(n) * 0.1, f64::from(n * 7_919 % 31 + 1) * 0.01)).collect();
    let arrivals = arrivals(&tasks);
    let of = |word: &str, window| {
        let settings = Settings { servers: 1, window, ..Settings::default() };
        simulate(&arrivals, word.parse().expect("a policy"), &settings).expect("it ends").mean_response
    };
    near(of("sjf", 1), of("fifo", 1));
    let (wide, narrow, none) = (of("sjf", 1024), of("sjf", 32), of("fifo", 1));
    assert!(wide < narrow && narrow < none, "{wide} {narrow} {none}");
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let arrivals = arrivals(&[(0.0, 1.0)]);
    let refused = |settings: Settings| {
        let error = simulate(&arrivals, "fifo".parse().expect("a policy"), &settings).expect_err("refused");
        error.to_string()
    };
    let fine = Settings::default();
    assert!(refused(Settings { servers: 0, ..fine }).starts_with("servers"));
    assert!(refused(Settings { window: 0, ..fine }).starts_with("window"));
    assert!(refused(Settings { window: 1025, ..fine }).starts_with("window"));
    assert!(refused(Settings { quantum: 0.0, ..fine }).starts_with("quantum"));
    assert!(refused(Settings { resume: Some(-1.0), ..fine }).starts_with("resume-cost"));
    assert!(Arrivals::new(Vec::new(), Vec::new(), Vec::new()).is_err());
}
