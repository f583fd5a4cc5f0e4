//! A trace is read as it was written, and what is wrong with one is told by line and column.

use crate::{load, policy, run};
use jetlane_schemas::{Micros, Priority};
use jetlane_simulator::trace::{Noise, read, write};
use jetlane_simulator::{Arrivals, Error, Settings, Workload, simulate};

fn written(arrivals: &Arrivals) -> String {
    let mut csv = Vec::new();
    write(arrivals, &mut csv).expect("memory takes it");
    String::from_utf8(csv).expect("text")
}

fn parsed(csv: &str) -> Result<Arrivals, Error> {
    read(csv.as_bytes(), Noise { sigma: 0.0, seed: 1 })
}

#[test]
fn what_is_written_is_read_again_and_gives_the_same_figures() {
    let drawn = load(Workload::Azure, 3_000).arrivals().expect("in range");
    let csv = written(&drawn);
    let again = parsed(&csv).expect("readable");
    assert_eq!(written(&again), csv);
    for word in ["fifo", "edf", "srtf", "weighted"] {
        let of = |arrivals| simulate(arrivals, policy(word), &Settings::default()).expect("it ends").mean_response;
        assert_eq!(of(&drawn).to_bits(), of(&again).to_bits(), "{word}");
    }
}

#[test]
fn two_columns_are_enough_and_rows_may_stand_in_any_order() {
    let arrivals = parsed("size_s, arrival_s\n0.5, 3\n2, 1.25\n").expect("readable");
    let tasks = arrivals.tasks();
    assert_eq!((tasks[0].arrival, tasks[0].size), (Micros(1_250_000), Micros(2_000_000)));
    assert_eq!((tasks[0].estimate, tasks[0].due), (Some(Micros(2_000_000)), None));
    assert_eq!((tasks[1].priority, arrivals.tenants()[0].as_str()), (Priority::Normal, ""));
}

#[test]
fn every_column_is_read() {
    let csv = "arrival_s,size_s,estimate_s,priority,tenant,deadline_s,type\n1,2,3,high,\"acme\",9.5,a.b\n1,2,,,,,\n";
    let arrivals = parsed(csv).expect("readable");
    let task = arrivals.tasks()[0];
    assert_eq!((task.estimate, task.priority), (Some(Micros(3_000_000)), Priority::High));
    assert_eq!(task.due, Some(Micros(9_500_000)));
    assert_eq!(arrivals.tenants(), ["acme", ""]);
    assert_eq!(arrivals.types()[0], "a.b");
}

#[test]
fn a_mistake_is_told_by_line_and_column() {
    for (csv, line, column, reason) in [
        ("", 1, "\"arrival_s\"", "missing"),
        ("arrival_s\n1\n", 1, "\"size_s\"", "missing"),
        ("arrival_s,size_s,colour\n1,1,red\n", 1, "\"colour\"", "none of"),
        ("arrival_s,size_s,size_s\n1,1,1\n", 1, "\"size_s\"", "twice"),
        ("arrival_s,size_s\n", 2, "arrival_s", "no task"),
        ("arrival_s,size_s\n1,1\n2,fast\n", 3, "size_s", "\"fast\""),
        ("arrival_s,size_s\n-1,1\n", 2, "arrival_s", "\"-1\""),
        ("arrival_s,size_s\n1,inf\n", 2, "size_s", "\"inf\""),
        ("arrival_s,size_s\n1,NaN\n", 2, "size_s", "\"NaN\""),
        ("arrival_s,size_s\n1,1e300\n", 2, "size_s", "\"1e300\""),
        ("arrival_s,size_s\n1,\n", 2, "size_s", "empty"),
        ("arrival_s,size_s\n1,1\n1\n", 3, "2", "1 fields, wanted 2"),
        ("arrival_s,size_s\n1,1,1\n", 2, "3", "3 fields, wanted 2"),
        ("arrival_s,size_s,priority\n1,1,urgent\n", 2, "priority", "critical, high, normal or low"),
        ("arrival_s,size_s,type\n1,1,a..b\n", 2, "type", "a..b"),
        ("arrival_s,size_s,deadline_s\n1,1,soon\n", 2, "deadline_s", "\"soon\""),
    ] {
        match parsed(csv) {
            Err(Error::Trace { line: at, column: of, reason: told }) => {
                assert_eq!((at, of.as_str()), (line, column), "{csv:?}: {told}");
                assert!(told.contains(reason), "{csv:?}: {told}");
            }
            other => panic!("{csv:?}: {other:?}"),
        }
    }
    let bytes = b"arrival_s,size_s,tenant\n1,1,\xff\n";
    assert!(matches!(read(&bytes[..], Noise::default()), Err(Error::Trace { line: 2, column, .. }) if column == "3"));
}

#[test]
fn run_times_are_learned_of_the_type_where_nothing_is_estimated() {
    // Ten short ones and a long one at once, again and again: the long one learns to wait.
    let mut csv = String::from("arrival_s,size_s,type\n");
    for burst in 0..200 {
        let at = burst * 30;
        csv.push_str(&format!("{at},10,long\n{at},10,long\n"));
        (0..10).for_each(|_| csv.push_str(&format!("{at},1,short\n")));
    }
    let arrivals = parsed(&csv).expect("readable");
    assert!(arrivals.tasks().iter().all(|task| task.estimate.is_none()));
    let (learned, blind) = (run(&arrivals, "sjf", 1), run(&arrivals, "fifo", 1));
    // Shortest first: the shorts wait 0 to 9, the longs 10 and 20; first in first out: 20 to 29, 0 and 10.
    let (best, worst) = ((45.0 + 30.0) / 12.0, (245.0 + 10.0) / 12.0);
    assert!((blind.mean_wait - worst).abs() < 0.01, "{}", blind.mean_wait);
    assert!((learned.mean_wait - best).abs() < 0.01, "{}, at best {best}", learned.mean_wait);
}

#[test]
fn rows_with_neither_estimate_nor_type_have_the_noise_that_is_asked_for() {
    let csv: String = (0..2_000).map(|n| format!("{n},1\n")).collect();
    let csv = format!("arrival_s,size_s\n{csv}");
    let noisy = read(csv.as_bytes(), Noise { sigma: 1.0, seed: 3 }).expect("readable");
    let logs: Vec<f64> = noisy.tasks().iter().map(|task| (task.estimate.expect("noise").0 as f64 / 1e6).ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / logs.len() as f64;
    assert!(mean.abs() < 0.1 && (variance - 1.0).abs() < 0.15, "{mean} {variance}");
}
