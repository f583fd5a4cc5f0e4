//! Promise: whatever dies, stops or leaves, no task is lost and each has one completion.

use crate::outsider::{Outsider, header, json};
use crate::processes::Process;
use crate::tasks::{Bench, Gated, gated};
use crate::waits::{announced, drained};
use futures::StreamExt;
use jetlane::{Attempt, Executor, Outcome, State, Task, TaskError, TaskHandle, TaskId};
use jetlane_bus::flows::LANE_ACK_WAIT;
use jetlane_schemas::{Hop, TaskEvent, frame, subject};
use jetlane_testkit::{Kit, soon};
use rustix::process::Signal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// What the executor of `src/executor.rs` holds until it is told to let go.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Held {
    text: String,
}

impl Task for Held {
    const TYPE: &'static str = "test.held";
    type Output = String;
}

/// The same type where it is served in this process: over at once.
async fn held(_: Held, Attempt(attempt): Attempt) -> Result<String, TaskError> {
    Ok(format!("elsewhere {attempt}"))
}

/// The same, but it waits for a permit.
async fn held_here(task: Held, Attempt(attempt): Attempt, State(bench): State<Bench>) -> Result<String, TaskError> {
    bench.began.lock().await.push((task.text, attempt));
    bench.beginning.notify_one();
    bench.gate.0.acquire().await?.forget();
    Ok(format!("elsewhere {attempt}"))
}

/// What kills the executor of `src/executor.rs`, where it is served in this process.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Deadly {}

impl Task for Deadly {
    const TYPE: &'static str = "test.deadly";
    type Output = ();
}

async fn deadly_no_more(_: Deadly) -> Result<(), TaskError> {
    Ok(())
}

async fn submit_held(kit: &Kit, tasks: usize) -> Vec<TaskHandle<String>> {
    announced(kit, Held::TYPE).await;
    let submits = (0..tasks).map(|number| kit.client().submit(Held { text: number.to_string() }));
    kit.client().submit_all(submits).await.into_iter().map(|handle| handle.expect("accepted")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_loses_no_task_and_nobody_else_need_start_again() {
    const TASKS: usize = 500;
    let bench = Bench::default();
    let mut kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").state(bench.clone()).slots(32).task(gated));
    announced(&kit, Gated::TYPE).await;
    let submits = (0..TASKS).map(|number| kit.client().submit(Gated { text: number.to_string() }));
    let handles = kit.client().submit_all(submits.collect::<Vec<_>>()).await;
    bench.begun(32).await;
    kit.server().kill().await;
    // Those that run end while there is nobody to tell.
    bench.gate.0.add_permits(2 * TASKS);
    kit.server().restart().await.expect("the server starts again");
    for (number, handle) in handles.into_iter().enumerate() {
        let output = soon(handle.expect("accepted").into_future()).await.expect("succeeds");
        assert_eq!(output, number.to_string());
    }
    let runs = bench.began.lock().await.len();
    eprintln!("{} runs beyond one a task after the server was killed", runs - TASKS);
    assert!(runs < TASKS + 64, "what ran once is not run again without need: {runs} runs");
    let after = kit.client().submit(Gated { text: "after".into() }).await.expect("accepted");
    assert_eq!(soon(after.into_future()).await.expect("succeeds"), "after");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tasks_of_a_killed_executor_run_again_elsewhere_as_the_second_attempt() {
    let kit = Kit::start().await;
    let mut process = Process::executor(&kit.url(), &[("SLOTS", "4")]);
    let handles = submit_held(&kit, 4).await;
    for _ in 0..4 {
        assert!(process.says("began").await.ends_with(" 1"));
    }
    kit.serve(Executor::new(kit.client(), "tests").task(held));
    process.kill().await;
    let killed = Instant::now();
    for handle in handles {
        assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "elsewhere 2");
    }
    let waited = killed.elapsed();
    assert!(waited <= LANE_ACK_WAIT + Duration::from_secs(2), "they ran again after {waited:?}");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_slept_past_its_lease_changes_nothing() {
    let kit = Kit::start().await;
    let outsider = Outsider::connect(&kit.url()).await;
    let mut process = Process::executor(&kit.url(), &[("SLOTS", "1")]);
    let mut handles = submit_held(&kit, 1).await;
    process.says("began 0 1").await;
    let handle = handles.pop().expect("one was submitted");
    // Hears what is published, whether it is stored or not.
    let mut published = outsider.listen(format!("jetlane.done.{}.*", Held::TYPE)).await;
    process.signal(Signal::STOP);
    kit.serve(Executor::new(kit.client(), "tests").task(held));
    let id = handle.id().clone();
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "elsewhere 2");
    process.signal(Signal::CONT);
    process.let_one_end().await;
    process.signal(Signal::TERM);
    // It has settled its late run, whatever that was worth.
    process.says("drained").await;
    let done = outsider.completion(Held::TYPE, id.as_str()).await;
    assert_eq!((header(&done, "ce-jetlaneattempt"), json(&done).as_str()), ("2", Some("elsewhere 2")));
    let mut tries = Vec::new();
    while let Ok(Some(message)) = timeout(Duration::from_millis(200), published.next()).await {
        tries.push(String::from_utf8_lossy(&message.payload).into_owned());
    }
    eprintln!("completions tried, of which one is stored: {tries:?}");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_kills_its_executor_each_time_fails_as_crashed_and_is_kept() {
    let kit = Kit::start().await;
    let url = kit.url();
    let executors = crate::processes::Restarted::keep(move || Process::executor(&url, &[("SLOTS", "1")]));
    announced(&kit, "test.deadly").await;
    let mut handle = kit.client().submit_json("test.deadly", b"{}".to_vec()).await.expect("accepted");
    // One retry: two attempts of which each takes an executor and the rest of its lease with it.
    let done = timeout(4 * LANE_ACK_WAIT, handle.completion()).await.expect("in time").expect("completes");
    assert_eq!(done.outcome, Outcome::Failed);
    assert_eq!(done.failure().expect("failed").code, "crashed");
    assert_eq!(executors.deaths(), 2);
    let outsider = Outsider::connect(&kit.url()).await;
    outsider.dead_letter("tests", "test.deadly", handle.id().as_str()).await;
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_kills_its_executors_takes_no_neighbour_of_its_bundle_with_it() {
    let kit = Kit::start().await;
    let url = kit.url();
    let executors = crate::processes::Restarted::keep(move || Process::executor(&url, &[("SLOTS", "8")]));
    announced(&kit, "test.deadly").await;
    let task = |task_type: &str| {
        let (task_type, queue) = (task_type.parse().expect("a type"), "tests".parse().expect("a queue"));
        let body = br#"{"text":"neighbour"}"#.to_vec();
        TaskEvent::new(TaskId::generate(), task_type, queue, jetlane_bus::clock::now(), body)
    };
    let mut tasks = vec![task(Held::TYPE); 3];
    tasks.iter_mut().for_each(|task| task.id = TaskId::generate());
    tasks.insert(1, TaskEvent { retries: Some(0), payload: b"{}".to_vec(), ..task("test.deadly") });
    // As a dispatcher would that takes all of them for short.
    let lane = subject::bundle(&tasks[0].queue, tasks[0].priority, &tasks[0].fit);
    let out = jetlane_bus::Outgoing {
        subject: lane.clone(),
        headers: jetlane::Headers::new(),
        body: frame::encode_bundle(&tasks).expect("a bundle").into(),
        message_id: Some(frame::bundle_message_id(Hop::Lane, tasks.iter())),
        expect: jetlane_bus::publish::Expect::Anything,
    };
    kit.client().bus().publish(out).await.expect("an answer").or_refused(&lane).expect("stored");
    // The bundle dies with its executor; its tasks come again one by one, and the deadly one has begun.
    crate::waits::until("an executor died of it", async || executors.deaths() >= 1).await;
    drop(executors);
    kit.serve(Executor::new(kit.client(), "tests").task(held).task(deadly_no_more));
    for task in &tasks {
        let mut handle = kit.client().handle_json(task.task_type.clone(), task.id.clone());
        let done = timeout(4 * LANE_ACK_WAIT, handle.completion()).await.expect("in time").expect("completes");
        if task.task_type.as_str() == Held::TYPE {
            assert_eq!(done.outcome, Outcome::Succeeded, "a neighbour: {done:?}");
        } else {
            assert_eq!((done.outcome, done.failure().expect("failed").code.as_str()), (Outcome::Failed, "crashed"));
        }
    }
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_drains_ends_what_runs_and_hands_the_rest_back_without_spending_an_attempt() {
    let kit = Kit::start().await;
    let (leaving, staying) = (Bench::default(), Bench::default());
    let executor = |bench: &Bench| Executor::new(kit.client(), "tests").state(bench.clone()).slots(2).prefetch(4);
    let drain = kit.serve(executor(&leaving).task(held_here));
    let mut handles = submit_held(&kit, 6).await;
    leaving.begun(2).await;
    drain.cancel();
    kit.serve(executor(&staying).task(held_here));
    staying.gate.0.add_permits(4);
    let begun = staying.begun(4).await;
    assert!(begun.iter().all(|(_, attempt)| *attempt == 1), "{begun:?}");
    leaving.gate.0.add_permits(2);
    for handle in &mut handles {
        let done = soon(handle.completion()).await.expect("completes");
        assert_eq!((done.outcome, done.attempt), (Outcome::Succeeded, 1));
    }
    assert_eq!(leaving.began.lock().await.len(), 2, "nothing began once it was told to drain");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_outlasts_the_drain_is_handed_back_without_spending_an_attempt() {
    let kit = Kit::start().await;
    let (leaving, staying) = (Bench::default(), Bench::default());
    let executor = |bench: &Bench| Executor::new(kit.client(), "tests").state(bench.clone()).slots(1);
    let drain = kit.serve(executor(&leaving).drain_within(Duration::from_millis(100)).task(held_here));
    let mut handles = submit_held(&kit, 1).await;
    leaving.begun(1).await;
    let told = Instant::now();
    drain.cancel();
    kit.serve(executor(&staying).task(held_here));
    staying.gate.0.add_permits(1);
    assert_eq!(staying.begun(1).await, [("0".to_owned(), 1)]);
    assert!(told.elapsed() < LANE_ACK_WAIT / 2, "it had to wait for the end of its lease");
    let done = soon(handles[0].completion()).await.expect("completes");
    assert_eq!((done.outcome, done.attempt), (Outcome::Succeeded, 1));
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_is_terminated_ends_what_runs_and_then_itself() {
    let kit = Kit::start().await;
    let mut process = Process::executor(&kit.url(), &[("SLOTS", "2")]);
    let mut handles = submit_held(&kit, 4).await;
    for _ in 0..2 {
        process.says("began").await;
    }
    process.signal(Signal::TERM);
    kit.serve(Executor::new(kit.client(), "tests").task(held));
    for _ in 0..2 {
        process.let_one_end().await;
    }
    process.says("drained").await;
    assert!(soon(process.ended()).await.success());
    let mut outputs = Vec::new();
    for handle in &mut handles {
        let done = soon(handle.completion()).await.expect("completes");
        assert_eq!((done.outcome, done.attempt), (Outcome::Succeeded, 1));
        outputs.push(serde_json::from_slice::<String>(&done.body).expect("JSON"));
    }
    outputs.sort();
    assert_eq!(outputs, ["by the process", "by the process", "elsewhere 1", "elsewhere 1"]);
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_outlasts_its_lease_keeps_it_by_signs_of_life() {
    let bench = Bench::default();
    let kit = Kit::start().await;
    let executor = Executor::new(kit.client(), "tests").state(bench.clone()).slots(1);
    kit.serve(executor.task(held_here));
    let mut handles = submit_held(&kit, 1).await;
    bench.begun(1).await;
    // The time itself is what is tested here.
    sleep_until(Instant::now() + LANE_ACK_WAIT + Duration::from_secs(1)).await;
    bench.gate.0.add_permits(1);
    let handle = handles.pop().expect("one was submitted");
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "elsewhere 1");
    assert_eq!(bench.began.lock().await.len(), 1, "it ran once");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lone_executor_that_is_stopped_for_longer_than_its_leases_runs_nothing_twice() {
    const TASKS: usize = 60;
    let kit = Kit::start().await;
    let mut process = Process::executor(&kit.url(), &[("SLOTS", "8"), ("PREFETCH", "8")]);
    let handles = submit_held(&kit, TASKS).await;
    let mut began = BTreeMap::<String, usize>::new();
    let mut begins = async |process: &mut Process| {
        let line = process.says("began").await;
        *began.entry(line.split(' ').nth(1).expect("a name").to_owned()).or_default() += 1;
    };
    for _ in 0..8 {
        begins(&mut process).await;
    }
    process.signal(Signal::STOP);
    // Twice over, so that what was delivered has come again and waits in its socket; the time is what is tested.
    sleep_until(Instant::now() + 2 * LANE_ACK_WAIT + Duration::from_secs(2)).await;
    process.signal(Signal::CONT);
    for _ in 0..2 * TASKS {
        process.let_one_end().await;
    }
    for _ in 8..TASKS {
        begins(&mut process).await;
    }
    for handle in handles {
        assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "by the process");
    }
    drained(kit.client().bus(), &[]).await;
    process.signal(Signal::TERM);
    // All that it said until its end.
    for line in process.rest().await {
        if let Some(text) = line.strip_prefix("began ") {
            *began.entry(text.split(' ').next().expect("a name").to_owned()).or_default() += 1;
        }
    }
    assert_eq!(began.len(), TASKS);
    let twice: Vec<_> = began.iter().filter(|(_, begins)| **begins > 1).collect();
    assert!(twice.is_empty(), "nobody else could have run them: {twice:?}");
}
