//! Dispatches share messages once runs are known to be short, and nobody waits for it.

use crate::stage::{PATIENCE, QUIET, Stage, Taker, task};
use jetlane_bus::Delivery;
use jetlane_dispatcher::Config;
use jetlane_schemas::frame::RunEnd;
use jetlane_schemas::subject::{STREAM_LANES, STREAM_TASKS};
use jetlane_schemas::{Priority, TaskEvent, TaskId};
use std::collections::BTreeMap;

/// Runs after which a type's run times are known.
const ENOUGH: usize = 20;

fn tasks(count: usize, priority: Priority) -> Vec<TaskEvent> {
    (0..count).map(|_| task("pictures", "a.b", priority)).collect()
}

/// A queue whose runs are known to take so long.
async fn known(run_us: u64) -> (Stage, Taker) {
    known_with(Config::default(), run_us).await
}

async fn known_with(config: Config, run_us: u64) -> (Stage, Taker) {
    let stage = Stage::with(config).await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut taker = stage.taker("pictures").await;
    learn(&stage, &mut taker, run_us).await;
    (stage, taker)
}

async fn learn(stage: &Stage, taker: &mut Taker, run_us: u64) {
    stage.submit_all(&tasks(ENOUGH, Priority::Normal)).await;
    for _ in 0..ENOUGH {
        let (task, delivery) = taker.next(1, PATIENCE).await.expect("a task comes");
        taker.settle(delivery).await;
        taker.ended(&task, run_us, RunEnd::Done);
    }
    // Told with the credit: none yet.
    assert!(taker.next(0, QUIET).await.is_none());
}

/// How many tasks each message has, until nothing comes any more.
async fn sizes(taker: &mut Taker, capacity: u32) -> Vec<usize> {
    let mut sizes = Vec::new();
    while let Some((tasks, delivery)) =
        taker.next_bundle(capacity, if sizes.is_empty() { PATIENCE } else { QUIET }).await
    {
        sizes.push(tasks.len());
        taker.settle_all(delivery, tasks.len()).await;
    }
    sizes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_go_at_once_goes_in_few_messages_once_runs_are_known() {
    let (stage, mut taker) = known(100).await;
    stage.submit_all(&tasks(64, Priority::Normal)).await;
    stage.until_holds(STREAM_TASKS, 1).await;
    let sizes = sizes(&mut taker, 64).await;
    assert_eq!(sizes.iter().sum::<usize>(), 64);
    assert!(sizes.len() <= 8, "{sizes:?}");
    stage.until_holds(STREAM_TASKS, 0).await;
    stage.until_holds(STREAM_LANES, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_task_alone_goes_at_once_and_alone() {
    let (stage, mut taker) = known(100).await;
    taker.tell(64).await;
    stage.submit(&tasks(1, Priority::Normal)[0]).await;
    assert_eq!(sizes(&mut taker, 64).await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_known_or_runs_for_long_goes_one_by_one() {
    let (stage, mut taker) = known(6_000_000).await;
    stage.submit_all(&tasks(8, Priority::Normal)).await;
    assert_eq!(sizes(&mut taker, 64).await, [1; 8], "6 s each");
    stage.announce("new.one", r#"{"queue":"pictures"}"#).await;
    let unknown: Vec<TaskEvent> = (0..8).map(|_| task("pictures", "new.one", Priority::Normal)).collect();
    stage.submit_all(&unknown).await;
    assert_eq!(sizes(&mut taker, 64).await, [1; 8], "never run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bundles_can_be_turned_off() {
    let (stage, mut taker) = known_with(Config { bundle_max: 1, ..Config::default() }, 100).await;
    stage.submit_all(&tasks(32, Priority::Normal)).await;
    assert_eq!(sizes(&mut taker, 64).await, [1; 32]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_has_more_than_one_executors_part_of_the_room() {
    let (stage, mut first) = known(100).await;
    let mut second = stage.taker("pictures").await;
    stage.submit_all(&tasks(60, Priority::Normal)).await;
    first.tell(10).await;
    second.tell(10).await;
    let mut taken = 0;
    while taken < 60 {
        for taker in [&mut first, &mut second] {
            if let Some((tasks, delivery)) = taker.next_bundle(10, QUIET).await {
                assert!(tasks.len() <= 10, "{} tasks in one message, room of each for 10", tasks.len());
                taken += tasks.len();
                taker.settle_all(delivery, tasks.len()).await;
            }
        }
    }
    stage.until_holds(STREAM_LANES, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_delays_nothing_that_is_more_urgent() {
    let (stage, mut taker) = known(100).await;
    stage.declare("pictures", r#"{"policy":"strict"}"#).await;
    stage.submit_all(&tasks(100, Priority::Low)).await;
    stage.submit_all(&tasks(3, Priority::Critical)).await;
    stage.until_told("pictures", &submitted_last(&stage).await, |_| true).await;
    let mut order = Vec::new();
    while order.len() < 104 {
        let (tasks, delivery) = taker.next_bundle(4, PATIENCE).await.expect("a message comes");
        order.extend(tasks.iter().map(|task| task.priority));
        taker.settle_all(delivery, tasks.len()).await;
    }
    assert!(
        order[..4].contains(&Priority::Critical)
            && order[..8].iter().filter(|p| **p == Priority::Critical).count() == 4,
        "{order:?}"
    );
}

/// One more urgent task, which the leader holds once it holds those before it.
async fn submitted_last(stage: &Stage) -> TaskId {
    let last = tasks(1, Priority::Critical).remove(0);
    stage.submit(&last).await;
    last.id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_composition_after_a_crash_loses_nothing_and_what_may_have_run_says_so() {
    let (mut stage, mut taker) = known(100).await;
    let first = tasks(50, Priority::Normal);
    stage.submit_all(&first).await;
    // Some of the bundles are taken; the leader vanishes with others on their way.
    let mut seen: BTreeMap<TaskId, Vec<bool>> = BTreeMap::new();
    let note = |seen: &mut BTreeMap<TaskId, Vec<bool>>, tasks: &[TaskEvent]| {
        tasks.iter().for_each(|task| seen.entry(task.id.clone()).or_default().push(task.suspect));
    };
    let (tasks_taken, delivery): (Vec<TaskEvent>, Delivery) =
        taker.next_bundle(20, PATIENCE).await.expect("a message comes");
    note(&mut seen, &tasks_taken);
    stage.crash().await;
    taker.settle_all(delivery, tasks_taken.len()).await;
    // The next leader finds more, and composes otherwise.
    let second = tasks(30, Priority::Normal);
    stage.submit_all(&second).await;
    stage.start(Config::default()).await;
    while let Some((tasks, delivery)) = taker.next_bundle(7, if seen.len() < 80 { PATIENCE } else { QUIET }).await {
        note(&mut seen, &tasks);
        taker.settle_all(delivery, tasks.len()).await;
    }
    for task in first.iter().chain(&second) {
        let times = seen.get(&task.id).expect("a task was lost");
        assert!(times[1..].iter().all(|suspect| *suspect), "it came again and does not say so: {times:?}");
    }
    stage.until_holds(STREAM_TASKS, 0).await;
    stage.until_holds(STREAM_LANES, 0).await;
}
