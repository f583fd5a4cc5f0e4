//! Promise: a handler that says where it can stop yields when it is asked, and goes on from there.

use crate::stage::{Stage, soon, task};
use jetlane::{Attempt, Ctx, Executor, Outcome, State, Task, TaskError, TaskId};
use jetlane_schemas::frame::{RunEnd, Yield};
use jetlane_schemas::{Headers, Micros, QueueName, TaskEvent, TaskRef, subject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Goes on until it is asked to yield; a later run ends at once.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Long {}

impl Task for Long {
    const TYPE: &'static str = "test.long";
    type Output = Ended;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    resumed_at: u64,
    attempt: u32,
}

/// Places passed, by task.
type Passed = Arc<watch::Sender<BTreeMap<TaskId, u64>>>;

async fn long(
    _task: Long,
    ctx: Ctx,
    Attempt(attempt): Attempt,
    State(passed): State<Passed>,
) -> Result<Ended, TaskError> {
    if let Some(resumed_at) = ctx.resume::<u64>() {
        return Ok(Ended { resumed_at, attempt });
    }
    ctx.resume_costs(Duration::from_millis(30));
    for place in 1.. {
        ctx.yield_point(&place, Duration::from_secs(1_000 - place.min(999)))?;
        passed.send_modify(|passed| *passed.entry(ctx.id().clone()).or_default() = place);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    unreachable!("it does not stop by itself")
}

async fn open() -> (Stage, Passed) {
    let passed: Passed = Arc::default();
    let state = Arc::clone(&passed);
    let stage = Stage::with(|client| Executor::new(client, "default").state(state).slots(4).task(long)).await;
    (stage, passed)
}

async fn ask(stage: &Stage, task: &TaskEvent, run: u32) {
    let TaskRef { task_type, id } = task.identity();
    let wanted = Yield { task_type, id, run }.encode().expect("a frame");
    let subject = subject::yield_wanted(&QueueName::default_queue());
    stage.bus.send(subject, Headers::new(), wanted.into()).await.expect("sent");
}

fn waiting(run: u32) -> TaskEvent {
    let mut task = task("test.long", &json!({}));
    (task.run, task.attempts, task.due_at) = (run, 1, Some(Micros(77)));
    task
}

#[tokio::test]
async fn a_task_yields_when_it_is_asked_and_a_later_run_resumes_without_an_attempt_spent() {
    let (mut stage, _passed) = open().await;
    let (mut credits, mut returns) = (stage.credits().await, stage.returns().await);
    let task = waiting(3);
    stage.put(&task).await;
    let credit = credits.until(|credit| !credit.remaining.is_empty()).await;
    let told = &credit.remaining[0];
    assert_eq!((told.id.as_str(), told.run, told.resume_us), (task.id.as_str(), 3, 30_000));
    assert!(told.remaining_us <= 999_000_000 && told.remaining_us >= 1_000_000, "{told:?}");
    ask(&stage, &task, 3).await;

    let next = returns.next().await;
    assert_eq!((&next.id, next.run, next.attempts, next.yields), (&task.id, 4, 1, 1));
    assert_eq!((next.due_at, next.submitted_at), (task.due_at, task.submitted_at), "it keeps its place in line");
    let place: u64 = serde_json::from_slice(&next.checkpoint.clone().expect("a checkpoint")).expect("its place");
    assert_eq!(next.remaining_us, Some(1_000_000 * (1_000 - place.min(999))), "what is left from that very place");
    let credit = credits.until(|credit| !credit.runs.is_empty()).await;
    let ended = &credit.runs[0];
    assert_eq!((ended.id.as_str(), ended.run, ended.end), (task.id.as_str(), 3, RunEnd::Yielded));
    assert!(ended.run_us > 0);

    // The dispatcher's part, on the lane once more.
    stage.put(&next).await;
    let done = stage.completion().await;
    let ended: Ended = serde_json::from_slice(&done.body).expect("its output");
    assert_eq!((done.outcome, ended), (Outcome::Succeeded, Ended { resumed_at: place, attempt: 2 }));
    stage.close().await;
}

#[tokio::test]
async fn a_request_for_another_run_is_not_meant() {
    let (stage, passed) = open().await;
    let mut returns = stage.returns().await;
    let (meant, other) = (waiting(1), waiting(2));
    for task in [&meant, &other] {
        stage.put(task).await;
    }
    let mut places = passed.subscribe();
    soon(places.wait_for(|places| places.len() == 2)).await.expect("they run");
    for run in [1, 3] {
        ask(&stage, &other, run).await;
    }
    // Heard after those: once it yields, they have been heard.
    ask(&stage, &meant, 1).await;
    assert_eq!(returns.next().await.id, meant.id);
    let at = places.borrow_and_update()[&other.id];
    soon(places.wait_for(|places| places[&other.id] > at + 2)).await.expect("it goes on");
    assert!(returns.now().await.is_none());
    ask(&stage, &other, 2).await;
    assert_eq!(returns.next().await.id, other.id);
    stage.close().await;
}

#[tokio::test]
async fn a_task_that_yielded_has_started_and_its_deadline_is_met() {
    let (mut stage, _passed) = open().await;
    let mut resumed = waiting(2);
    (resumed.attempts, resumed.yields, resumed.deadline) = (0, 1, Some(Micros(1)));
    resumed.checkpoint = Some(b"9".to_vec());
    stage.put(&resumed).await;
    assert_eq!(stage.completion().await.outcome, Outcome::Succeeded);
    let mut late = waiting(2);
    (late.attempts, late.deadline) = (0, Some(Micros(1)));
    stage.put(&late).await;
    assert_eq!(stage.completion().await.outcome, Outcome::Expired);
    stage.close().await;
}

#[tokio::test]
async fn a_sleep_that_yields_sleeps_the_rest_elsewhere() {
    let mut stage = Stage::open().await;
    let (mut credits, mut returns) = (stage.credits().await, stage.returns().await);
    let task = stage.dispatch("jetlane.sleep", &json!({ "ms": 300_000, "checkpoint_ms": 5 })).await;
    let credit = credits.until(|credit| !credit.remaining.is_empty()).await;
    let told = &credit.remaining[0];
    assert!((1..300_000_000).contains(&told.remaining_us), "{told:?}");
    ask(&stage, &task, 1).await;
    let mut next = returns.next().await;
    let left = next.remaining_us.expect("what is left");
    assert!(left > 0 && left <= told.remaining_us, "{left} after {told:?}");
    // Nearly done, so that the test is.
    next.checkpoint = Some(br#"{"slept_us":299990000}"#.to_vec());
    stage.put(&next).await;
    let done = stage.completion().await;
    let slept: serde_json::Value = serde_json::from_slice(&done.body).expect("its output");
    assert_eq!(done.outcome, Outcome::Succeeded);
    assert!((300_000..310_000).contains(&slept["slept_ms"].as_u64().expect("a number")), "{slept}");
    stage.close().await;
}

#[tokio::test]
async fn what_became_of_each_run_is_told_once() {
    let mut stage = Stage::open().await;
    let mut credits = stage.credits().await;
    let done = stage.dispatch("jetlane.sleep", &json!({ "ms": 20 })).await;
    let broken = stage.dispatch("jetlane.fail", &json!({ "times": 1, "permanent": true })).await;
    let unserved = stage.dispatch("no.such", &json!({})).await;
    let mut late = task("jetlane.echo", &json!({}));
    late.deadline = Some(Micros(1));
    stage.put(&late).await;
    let mut ends = BTreeMap::new();
    while ends.len() < 4 {
        for run in credits.next().await.runs {
            assert_eq!(run.run, 1);
            assert!(ends.insert(run.id, (run.end, run.run_us)).is_none(), "told twice");
        }
    }
    for (task, end) in [(&broken, RunEnd::Broken), (&unserved, RunEnd::NotRun), (&late, RunEnd::NotRun)] {
        assert_eq!(ends[task.id.as_str()].0, end, "{}", task.task_type);
    }
    let (end, run_us) = ends[done.id.as_str()];
    assert_eq!(end, RunEnd::Done);
    assert!((20_000..2_000_000).contains(&run_us), "{run_us}");
    for _ in 0..3 {
        stage.completion().await;
    }
    assert!(credits.next().await.runs.is_empty());
    stage.close().await;
}
