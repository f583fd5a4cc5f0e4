//! Promise: after a crash, work goes on within a bounded time.

use crate::fixture::{Fixture, PROGRAM, first_after, running, turn};
use jetlane_faults::checker;
use jetlane_faults::journal::{Event, Line, now_us};
use jetlane_faults::scenarios;
use jetlane_faults::soak::{drain, read};
use jetlane_schemas::subject::{BUCKET_LEASES, STREAM_LANES, STREAM_TASKS};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// How long a scenario may wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// The lease of a run.
const LEASE: Duration = Duration::from_micros(checker::LEASE_US);

fn seconds(from_us: u64, to_us: u64) -> Duration {
    Duration::from_micros(to_us.saturating_sub(from_us))
}

/// When the last of these tasks began in another process.
fn all_elsewhere(lines: &[Line], tasks: &[String], process: u32, from_us: u64) -> Option<u64> {
    let begun = |task: &String| {
        let is_elsewhere =
            |event: &Event| matches!(event, Event::Begin { id, pid, .. } if id == task && *pid != process);
        first_after(lines, from_us, is_elsewhere).map(|line| line.at_us)
    };
    tasks.iter().map(begun).collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// Waits until an executor runs this many tasks, and returns them.
async fn runs(fixture: &Fixture, process: u32, tasks: usize) -> Vec<String> {
    let enough = |lines: &[Line]| Some(running(lines, process)).filter(|running| running.len() >= tasks);
    fixture.stage.until("tasks run", PATIENCE, enough).await.expect("they run")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_an_executor_that_is_killed_run_elsewhere_within_its_lease_and_a_second() {
    let mut fixture = Fixture::start(1).await;
    fixture.executor("executor-0", &["--slots", "4"]).await;
    fixture.producer("long", 16, 8).await;
    let killed = fixture.pid("executor-0");
    runs(&fixture, killed, 4).await;
    fixture.executor("executor-1", &["--slots", "16"]).await;
    let at_us = now_us();
    fixture.stage.process("executor-0").expect("there is one").hold_killed();
    let tasks = running(&fixture.stage.lines().expect("reads"), killed);
    assert!(!tasks.is_empty(), "they ended before the kill");
    let found = |lines: &[Line]| all_elsewhere(lines, &tasks, killed, at_us);
    let elsewhere = fixture.stage.until("they run elsewhere", PATIENCE, found).await.expect("they do");
    let took = seconds(at_us, elsewhere);
    eprintln!("tasks of a killed executor began elsewhere after {took:?}");
    assert!(took <= LEASE + Duration::from_secs(1), "after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_an_executor_that_is_terminated_run_elsewhere_within_a_second() {
    let mut fixture = Fixture::start(1).await;
    fixture.executor("executor-0", &["--slots", "4", "--drain-ms", "100"]).await;
    fixture.producer("long", 16, 4).await;
    let leaving = fixture.pid("executor-0");
    let tasks = runs(&fixture, leaving, 4).await;
    fixture.executor("executor-1", &["--slots", "16"]).await;
    let at_us = now_us();
    fixture.stage.process("executor-0").expect("there is one").terminate().await.expect("it drains");
    let found = |lines: &[Line]| all_elsewhere(lines, &tasks, leaving, at_us);
    let elsewhere = fixture.stage.until("they run elsewhere", PATIENCE, found).await.expect("they do");
    let took = seconds(at_us, elsewhere);
    eprintln!("tasks of a terminated executor began elsewhere after {took:?}");
    assert!(took <= Duration::from_secs(1), "after {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standby_dispatches_within_two_seconds_of_the_death_of_the_leader() {
    // A busy machine may hold one measurement up, and not several in a row.
    let mut took = Vec::new();
    while took.len() < 3 && took.iter().all(|took| *took > Duration::from_secs(2)) {
        took.push(time_to_dispatch_by_the_standby().await);
    }
    assert!(took.iter().any(|took| *took <= Duration::from_secs(2)), "after {took:?}");
}

/// Kills the leading dispatcher; returns how long no task was dispatched.
async fn time_to_dispatch_by_the_standby() -> Duration {
    let mut fixture = Fixture::start(1).await;
    fixture.executor("executor-0", &[]).await;
    fixture.producer("all", 100, 0).await;
    let flows = |lines: &[Line]| {
        (lines.iter().filter(|line| matches!(line.event, Event::End { .. })).count() > 100).then_some(())
    };
    fixture.stage.until("tasks flow", PATIENCE, flows).await.expect("they do");
    let leases = fixture.stage.admin.jetstream.get_key_value(BUCKET_LEASES).await.expect("there are leases");
    let holder = leases.get("queue.faults").await.expect("reads").expect("somebody leads");
    let holder = String::from_utf8_lossy(&holder).into_owned();
    let leader =
        ["dispatcher-0", "dispatcher-1"].into_iter().find(|name| holder.starts_with(name)).expect("one of two");
    let at_us = now_us();
    fixture.stage.process(leader).expect("there is one").hold_killed();
    // A task that was submitted after the death was dispatched by the other.
    let found = |lines: &[Line]| {
        let accepted: BTreeSet<&str> = lines
            .iter()
            .filter(|line| line.at_us >= at_us)
            .filter_map(|line| match &line.event {
                Event::Accept { id, .. } => Some(id.as_str()),
                _ => None,
            })
            .collect();
        let is_new = |event: &Event| matches!(event, Event::Begin { id, .. } if accepted.contains(id.as_str()));
        first_after(lines, at_us, is_new).map(|line| line.at_us)
    };
    let begun = fixture.stage.until("the standby dispatches", PATIENCE, found).await.expect("it does");
    let took = seconds(at_us, begun);
    eprintln!("the standby dispatched after {took:?}");
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_accepts_within_ten_seconds_of_the_death_of_the_leader_of_the_intake() {
    let mut fixture = Fixture::start(3).await;
    fixture.executor("executor-0", &[]).await;
    fixture.producer("all", 100, 0).await;
    let accepts = |lines: &[Line]| {
        (lines.iter().filter(|line| matches!(line.event, Event::Accept { .. })).count() > 100).then_some(())
    };
    fixture.stage.until("tasks are accepted", PATIENCE, accepts).await.expect("they are");
    let leader = fixture.stage.admin.leader(STREAM_TASKS).await.expect("answers").expect("there is one");
    let at_us = now_us();
    fixture.stage.servers.kill_named(&leader, Duration::from_secs(15)).await.expect("starts again");
    // The longest time without an accepted task around the death.
    let lines = fixture.stage.lines().expect("reads");
    let accepted = lines.iter().filter(|line| matches!(line.event, Event::Accept { .. })).map(|line| line.at_us);
    let accepted: Vec<u64> = accepted.filter(|at| *at + 1_000_000 >= at_us).collect();
    let gap = accepted.windows(2).map(|pair| pair[1] - pair[0]).max().expect("there are some");
    assert!(accepted.last().is_some_and(|last| *last > at_us), "nothing is accepted any more");
    eprintln!("nothing was accepted for {:?} after the leader's death", Duration::from_micros(gap));
    assert!(gap <= 10_000_000, "nothing was accepted for {gap} us");
}

/// The long form: `cargo run --release -p jetlane-faults --bin soak -- --scenario backlog`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_flow_within_five_seconds_of_the_restart_of_a_killed_server_with_a_backlog() {
    let (_turn, folder) = (turn().await, tempfile::tempdir().expect("a folder"));
    let found = scenarios::backlog(Path::new(PROGRAM), folder.path(), 20_000).await.expect("it runs");
    eprintln!("tasks flowed {:.2} s after the restart, with {} waiting", found.flowing_s, found.tasks);
    assert!(found.flowing_s <= 5.0, "{found:#?}");
}

/// The long form: `cargo run --release -p jetlane-faults --bin soak -- --scenario leaders`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_with_retries_0_succeed_and_run_once_while_leaders_of_streams_are_killed() {
    let (_turn, folder) = (turn().await, tempfile::tempdir().expect("a folder"));
    let streams = [STREAM_LANES, STREAM_TASKS];
    let every = Duration::from_secs(12);
    let found = scenarios::leaders(Path::new(PROGRAM), folder.path(), 1_500, &streams, every).await.expect("it runs");
    eprintln!("{:?} in {} runs, {} explained", found.outcomes, found.runs, found.explained_runs);
    assert!(found.is_clean(), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outage_of_the_broker_costs_no_finished_run() {
    const TASKS: u64 = 200;
    /// Longer than a lease and the ack wait of a flow.
    const OUTAGE: Duration = Duration::from_secs(15);
    let mut fixture = Fixture::start(1).await;
    fixture.executor("executor-0", &[]).await;
    fixture.producer("once", 100, TASKS).await;
    let some = |lines: &[Line]| {
        (lines.iter().filter(|line| matches!(line.event, Event::End { .. })).count() > 50).then_some(())
    };
    fixture.stage.until("tasks run", PATIENCE, some).await.expect("they do");
    let begin_us = now_us();
    fixture.stage.servers.kill(0, OUTAGE).await.expect("starts again");
    let kind = "server-kill".to_owned();
    fixture.stage.journal.write(Event::Fault {
        kind,
        target: "0".into(),
        pids: Vec::new(),
        begin_us,
        end_us: now_us(),
    });
    let accepted = |lines: &[Line]| {
        (lines.iter().filter(|line| matches!(line.event, Event::Accept { .. })).count() as u64 >= TASKS).then_some(())
    };
    fixture.stage.until("all are accepted", PATIENCE, accepted).await.expect("they are");
    let left = drain(&fixture.stage.admin).await;
    assert!(left.is_empty(), "{left:?} {:#?}", fixture.stage.admin.describe_work().await);
    let history = read(&fixture.stage.admin, fixture.stage.folder(), 1).await.expect("reads");
    let runs = history.lines.iter().filter(|line| matches!(line.event, Event::Begin { .. })).count();
    let succeeded = history.completions.iter().filter(|stored| stored.outcome == "succeeded").count();
    eprintln!("{succeeded} of {TASKS} succeeded in {runs} runs over an outage of {OUTAGE:?}");
    assert_eq!((succeeded as u64, runs as u64), (TASKS, TASKS), "{:#?}", checker::check(&history).violations);
}
