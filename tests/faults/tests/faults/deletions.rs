//! Promise: a stream that held work and is deleted costs what lay in it, and nothing else.

use crate::fixture::{Fixture, first_after};
use jetlane_faults::checker;
use jetlane_faults::journal::{Event, Line, now_us};
use jetlane_faults::plan::Fault;
use jetlane_faults::roles::tasks::PLAIN_TYPE;
use jetlane_faults::soak::{drain, read};
use jetlane_schemas::subject::{STREAM_LANES, STREAM_TASKS, STREAM_TIME};
use std::collections::BTreeSet;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// How soon after a deletion new tasks run.
const FLOWS_WITHIN: Duration = Duration::from_secs(20);
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// When so many tasks that were accepted after this time have begun.
fn new_ones_begin(lines: &[Line], at_us: u64, tasks: usize) -> Option<u64> {
    let accepted: BTreeSet<&str> = lines
        .iter()
        .filter(|line| line.at_us > at_us)
        .filter_map(|line| match &line.event {
            Event::Accept { id, .. } => Some(id.as_str()),
            _ => None,
        })
        .collect();
    let is_new = |event: &Event| matches!(event, Event::Begin { id, .. } if accepted.contains(id.as_str()));
    let begun = lines.iter().filter(|line| line.at_us > at_us && is_new(&line.event)).count();
    first_after(lines, at_us, is_new).filter(|_| begun >= tasks).map(|line| line.at_us)
}

async fn until_it_holds_work(fixture: &Fixture, stream: &str) -> u64 {
    let holds = async {
        loop {
            let held: u64 = fixture.stage.admin.counts(stream).await.expect("counted").values().sum();
            if held > 0 {
                return held;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.expect("it holds work")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_that_holds_work_and_is_deleted_costs_what_lay_in_it_and_new_tasks_flow() {
    let mut fixture = Fixture::start(1).await;
    fixture.stage.callback().await.expect("starts");
    fixture.executor("executor-0", &["--slots", "4"]).await;
    fixture.stage.role("worker", "worker", &[]).await.expect("starts");
    fixture.stage.announced(&[PLAIN_TYPE]).await.expect("announced");
    fixture.producer("all", 80, 0).await;
    let flows = |lines: &[Line]| new_ones_begin(lines, 0, 50);
    fixture.stage.until("tasks flow", PATIENCE, flows).await.expect("they do");
    for stream in [STREAM_TIME, STREAM_TASKS, STREAM_LANES] {
        let held = until_it_holds_work(&fixture, stream).await;
        fixture.stage.inject(Fault::WorkDelete(stream)).await;
        let at_us = now_us();
        let flows = |lines: &[Line]| new_ones_begin(lines, at_us, 100);
        let begun = fixture.stage.until("new tasks flow", PATIENCE, flows).await.expect("they do");
        let took = Duration::from_micros(begun.saturating_sub(at_us));
        eprintln!("{stream} was deleted with about {held} messages; a new task began after {took:?}");
        assert!(took <= FLOWS_WITHIN, "after {took:?}");
    }
    fixture.stage.process("producer").expect("there is one").terminate().await.expect("it ends");
    let left = drain(&fixture.stage.admin).await;
    assert!(left.is_empty(), "{left:?} {:#?}", fixture.stage.admin.describe_work().await);
    let mut history = read(&fixture.stage.admin, fixture.stage.folder(), 1).await.expect("reads");
    history.trouble.extend(fixture.stage.trouble.lock().await.clone());
    let findings = checker::check(&history);
    eprintln!("{} accepted, {} lost with the streams", findings.accepted, findings.lost_by_deletion);
    assert!(findings.violations.is_empty(), "{:#?}", findings.violations);
}
