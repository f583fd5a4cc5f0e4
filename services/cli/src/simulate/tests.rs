//! What `jetlane simulate` reads, prints and refuses.

use super::*;
use crate::args::{Args, Command};
use clap::Parser as _;

fn args(words: &str) -> Simulate {
    let line = format!("jetlane simulate {words}");
    match Args::try_parse_from(line.split_whitespace()).expect("the words make sense").command {
        Command::Simulate(simulate) => simulate,
        _ => panic!("another command"),
    }
}

fn report(words: &str) -> Report {
    let args = args(words);
    let arrivals = arrivals(&args).expect("in range");
    let settings =
        Settings { servers: args.servers, window: args.window, quantum: args.quantum, resume: args.resume_cost };
    let policies = simulate_all(&arrivals, &args.policy.0, &settings).expect("they end");
    Report { settings: Told::of(&args, &arrivals, &settings), policies }
}

fn trace(csv: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), csv).expect("written");
    file
}

#[test]
fn what_is_not_said_is_as_the_bars_have_it() {
    let Simulate { servers, rho, seed, tasks, sigma, tenants, window, .. } = args("");
    assert_eq!((servers, rho, seed, tasks, sigma, tenants, window), (8, 0.9, 1, 300_000, 1.0, 16, 1024));
    assert_eq!(args("").priorities.0, [0.05, 0.10, 0.55, 0.30]);
    assert_eq!(args("").policy.0.len(), 9, "eight policies and the ideal");
    assert_eq!(args("--policy sjf,fifo").policy.0.len(), 2);
    assert_eq!(args("--noisy 0.18:2000").noisy.map(|noisy| (noisy.load, noisy.burst)), Some((0.18, 2000)));
}

#[test]
fn words_that_make_no_sense_are_refused() {
    for words in [
        "--policy fastest",
        "--workload bp2",
        "--priorities 1,2",
        "--noisy 0.18",
        "--noisy x:2000",
        "--trace t.csv --rho 0.5",
        "--trace t.csv --noisy 0.1:5",
    ] {
        let line = format!("jetlane simulate {words}");
        assert!(Args::try_parse_from(line.split_whitespace()).is_err(), "{words}");
    }
    for words in ["--rho 0", "--tasks 0", "--sigma -1", "--priorities 1,1,1,1", "--noisy 0.95:10", "--trace /nowhere"] {
        let words = words.replace("--sigma -1", "--sigma=-1");
        assert_eq!(arrivals(&args(&words)).expect_err("out of range").exit, Exit::Usage, "{words}");
    }
}

#[test]
fn json_has_the_settings_and_the_figures_of_each_policy_by_these_names() {
    let told = serde_json::to_value(report("--tasks 2000 --policy fifo,srpt --noisy 0.2:200")).expect("JSON");
    for name in ["workload", "rho", "servers", "seed", "tasks", "sigma", "tenants", "priorities", "window", "noisy"] {
        assert!(!told["settings"][name].is_null(), "{name}");
    }
    for policy in told["policies"].as_array().expect("an array") {
        for name in [
            "mean_response",
            "mean_slowdown",
            "p50_slowdown",
            "p99_slowdown",
            "p999_slowdown",
            "mean_wait",
            "p99_wait",
            "max_wait",
            "deadline_miss",
            "preemptions",
            "utilisation",
        ] {
            assert!(policy[name].is_number(), "{name}");
        }
        for group in [policy, &policy["victims"], &policy["noisy"]] {
            let low = &group["by_priority"]["low"];
            assert!(low["mean_wait"].is_number() && low["p99_wait"].is_number());
        }
        assert!(policy["victims"]["p99_wait"].is_number());
    }
    assert_eq!(told["policies"][0]["policy"], "fifo");
}

#[test]
fn the_table_has_a_row_a_policy_and_the_waits_of_the_flooded_and_the_noisy() {
    let text = report("--tasks 2000 --policy fifo,strict --noisy 0.2:200").text();
    assert!(text.starts_with("2,000 tasks"), "{text}");
    for (word, times) in [("fifo", 4), ("strict", 4), ("victims", 2), (" noisy ", 2)] {
        assert!(text.lines().filter(|line| format!("{line} ").contains(word)).count() >= times, "{word}: {text}");
    }
}

#[test]
fn a_trace_is_replayed_as_it_is_and_a_mistake_in_it_is_told_by_its_place() {
    let good = trace("arrival_s,size_s,priority\n0,1,high\n5,3,low\n");
    let report = report(&format!("--trace {} --servers 1 --policy fifo", good.path().display()));
    assert_eq!((report.settings.tasks, report.settings.rho), (2, None));
    assert!((report.policies[0].mean_response - 2.0).abs() < 1e-6);
    let bad = trace("arrival_s,size_s\n0,1\n1,x\n");
    let failure = arrivals(&args(&format!("--trace {}", bad.path().display()))).expect_err("refused");
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.message.contains("line 3") && failure.message.contains("size_s"), "{}", failure.message);
}
