//! Bundles: each task keeps its own completion, retry and end, whatever becomes of its neighbours.

use crate::stage::{Stage, soon, task};
use jetlane::{Client, Ctx, Executor, Outcome, Priority, State, Task, TaskError};
use jetlane_schemas::subject::STREAM_LANES;
use jetlane_schemas::{TaskEvent, TaskId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, Semaphore};

/// Ends at once, or when the gate lets it, or fails its first attempt.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Step {
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum How {
    AtOnce,
    AtTheGate,
    SecondTime,
}

impl Task for Step {
    const TYPE: &'static str = "test.step";
    type Output = u32;
}

/// What handlers and tests tell each other.
#[derive(Clone, Default)]
struct Desk {
    began: Arc<Mutex<Vec<TaskId>>>,
    beginning: Arc<Notify>,
    gate: Arc<Gate>,
}

struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Desk {
    fn executor(&self, client: &Client, slots: usize, prefetch: usize) -> Executor<Self> {
        Executor::new(client, "default").state(self.clone()).slots(slots).prefetch(prefetch).task(step)
    }

    async fn begun(&self, runs: usize) -> Vec<TaskId> {
        soon(async {
            loop {
                let began = self.began.lock().expect("no panic").clone();
                if began.len() >= runs {
                    return began;
                }
                self.beginning.notified().await;
            }
        })
        .await
    }
}

async fn step(task: Step, ctx: Ctx, State(desk): State<Desk>) -> Result<u32, TaskError> {
    desk.began.lock().expect("no panic").push(ctx.id().clone());
    desk.beginning.notify_one();
    match task.how {
        How::AtTheGate => tokio::select! {
            permit = desk.gate.0.acquire() => permit?.forget(),
            () = ctx.cancelled() => return Err(TaskError::cancelled()),
        },
        How::SecondTime if ctx.attempt() == 1 => return Err(TaskError::retry("not yet")),
        How::SecondTime | How::AtOnce => {}
    }
    Ok(ctx.attempt())
}

fn steps(how: &[How]) -> Vec<TaskEvent> {
    how.iter().map(|how| task(Step::TYPE, &json!({ "how": how }))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_task_of_a_bundle_has_its_own_completion_and_then_it_is_acked() {
    let desk = Desk::default();
    let mut stage = Stage::with(|client| desk.executor(client, 4, 100)).await;
    let tasks = steps(&[How::AtOnce; 100]);
    stage.put_all(&tasks).await;
    let mut done = BTreeMap::new();
    for _ in &tasks {
        let completion = soon(stage.completion()).await;
        assert_eq!((completion.outcome, completion.attempt, completion.run), (Outcome::Succeeded, 1, 1));
        assert!(done.insert(completion.id, completion.token).is_none(), "two completions of one task");
    }
    assert!(tasks.iter().all(|task| done.contains_key(&task.id)));
    stage.until_holds(STREAM_LANES, 0).await;
    assert_eq!(desk.began.lock().expect("no panic").len(), tasks.len(), "each ran once");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_task_holds_its_message_and_none_of_its_neighbours() {
    let desk = Desk::default();
    let mut stage = Stage::with(|client| desk.executor(client, 4, 4)).await;
    let tasks = steps(&[How::AtTheGate, How::AtOnce, How::AtOnce, How::AtOnce]);
    stage.put_all(&tasks).await;
    for _ in 0..3 {
        assert_ne!(soon(stage.completion()).await.id, tasks[0].id);
    }
    stage.until_holds(STREAM_LANES, 1).await;
    desk.gate.0.add_permits(1);
    assert_eq!(soon(stage.completion()).await.id, tasks[0].id);
    stage.until_holds(STREAM_LANES, 0).await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_bundle_whose_executor_died_only_what_has_not_completed_runs_again_and_no_attempt_is_spent() {
    let (dying, next) = (Desk::default(), Desk::default());
    let mut stage = Stage::with(|client| dying.executor(client, 8, 8)).await;
    let tasks = steps(&[How::AtOnce, How::AtTheGate, How::AtOnce, How::AtTheGate]);
    stage.put_all(&tasks).await;
    let mut done = vec![soon(stage.completion()).await.id, soon(stage.completion()).await.id];
    dying.begun(4).await;
    stage.crash().await;
    stage.serve(|client| next.executor(client, 8, 8)).await;
    next.gate.0.add_permits(2);
    for _ in 0..2 {
        let completion = soon(stage.completion()).await;
        assert_eq!((completion.outcome, completion.attempt, completion.run), (Outcome::Succeeded, 1, 1));
        done.push(completion.id);
    }
    done.sort();
    let mut ids: Vec<TaskId> = tasks.iter().map(|task| task.id.clone()).collect();
    ids.sort();
    assert_eq!(done, ids);
    let ran_again = next.begun(2).await;
    assert!(ran_again.iter().all(|id| *id == tasks[1].id || *id == tasks[3].id), "a completed one ran again");
    assert_eq!(ran_again.len(), 2);
    stage.until_holds(STREAM_LANES, 0).await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_and_a_cancelled_task_are_settled_for_themselves_before_their_bundle_is_acked() {
    let desk = Desk::default();
    let mut stage = Stage::with(|client| desk.executor(client, 4, 4)).await;
    let mut returns = stage.schedules().await;
    let tasks = steps(&[How::SecondTime, How::AtTheGate, How::AtTheGate]);
    stage.put_all(&tasks).await;
    desk.begun(3).await;
    let next = returns.next().await;
    assert_eq!((&next.id, next.run, next.attempts), (&tasks[0].id, 2, 1));
    let cancelled = stage.client().handle::<Step>(tasks[1].id.clone()).expect("a type").cancel().await;
    assert_eq!(cancelled.expect("cancelled"), Outcome::Cancelled);
    assert_eq!(soon(stage.completion()).await.outcome, Outcome::Cancelled);
    stage.until_holds(STREAM_LANES, 1).await;
    desk.gate.0.add_permits(1);
    let last = soon(stage.completion()).await;
    assert_eq!((last.id, last.outcome), (tasks[2].id.clone(), Outcome::Succeeded));
    stage.until_holds(STREAM_LANES, 0).await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_executor_has_no_room_for_goes_back_from_a_bundle_without_spending_an_attempt() {
    let desk = Desk::default();
    let mut stage = Stage::with(|client| desk.executor(client, 2, 1)).await;
    let mut returns = stage.returns().await;
    let tasks = steps(&[How::AtTheGate; 5]);
    stage.put_all(&tasks).await;
    for _ in 0..2 {
        let back = returns.next().await;
        assert_eq!((back.run, back.attempts), (2, 0));
    }
    desk.gate.0.add_permits(3);
    for _ in 0..3 {
        assert_eq!(soon(stage.completion()).await.outcome, Outcome::Succeeded);
    }
    assert!(returns.now().await.is_none(), "no more than the surplus");
    stage.until_holds(STREAM_LANES, 0).await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_urgent_starts_before_the_rest_of_a_bundle_that_came_earlier() {
    let desk = Desk::default();
    let mut stage = Stage::with(|client| desk.executor(client, 1, 8)).await;
    let mut low = steps(&[How::AtTheGate; 6]);
    low.iter_mut().for_each(|task| task.priority = Priority::Low);
    stage.put_all(&low).await;
    desk.begun(1).await;
    let mut urgent = steps(&[How::AtTheGate]).remove(0);
    urgent.priority = Priority::Critical;
    let mut credits = stage.credits().await;
    stage.put(&urgent).await;
    credits.until(|credit| credit.taken == 7).await;
    desk.gate.0.add_permits(1);
    assert_eq!(desk.begun(2).await[1], urgent.id);
    desk.gate.0.add_permits(6);
    for _ in 0..7 {
        assert_eq!(soon(stage.completion()).await.outcome, Outcome::Succeeded);
    }
    stage.close().await;
}
