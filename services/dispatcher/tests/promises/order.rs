//! The order of dispatch: changed while tasks wait, learned run times, yields.

use crate::flow::until_read;
use crate::stage::{PATIENCE, Stage, soon, task};
use jetlane_bus::publish::Expect;
use jetlane_bus::{Outgoing, clock};
use jetlane_dispatcher::Config;
use jetlane_schemas::frame::{self, RunEnd, Yield};
use jetlane_schemas::question::{Answer, Prospect, Question};
use jetlane_schemas::subject::{self, BUCKET_REGISTRY, STREAM_TASKS};
use jetlane_schemas::{
    EstimateEntry, Headers, Hop, PolicyName, Priority, QueueName, TaskEvent, TaskId, TaskType, Tenant,
};

const TYPE: &str = r#"{"queue":"pictures"}"#;

fn pictures() -> QueueName {
    QueueName::new("pictures").unwrap()
}

/// Sets a policy, and waits until the leader goes by it: `waiting` is a task that waits.
async fn set_policy(stage: &Stage, policy: PolicyName, waiting: &TaskId) {
    stage.declare("pictures", &format!(r#"{{"policy":"{policy}"}}"#)).await;
    stage.until_told("pictures", waiting, |told| told.policy == policy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_changed_while_tasks_wait_loses_and_repeats_none() {
    let stage = Stage::set().await;
    stage.announce("a.b", TYPE).await;
    stage.declare("pictures", r#"{"policy":"fifo"}"#).await;
    let mut sent: Vec<TaskEvent> = (0..60)
        .map(|n| {
            let mut task = task("pictures", "a.b", Priority::ALL[n % 4]);
            task.estimate_us = Some(1_000_000 + (n as u64 * 7_919) % 100_000);
            task
        })
        .collect();
    // The last by age, by priority and by size: it waits until the end whatever the order.
    let last = sent.last_mut().unwrap();
    (last.priority, last.estimate_us) = (Priority::Low, Some(9_000_000));
    let last = last.id.clone();
    for task in &sent {
        stage.submit(task).await;
    }
    until_read(&stage, &pictures(), 60).await;
    let mut taker = stage.taker("pictures").await;
    let mut taken = taker.take(15, 1).await;
    for policy in [PolicyName::Strict, PolicyName::Rr, PolicyName::Sjf] {
        set_policy(&stage, policy, &last).await;
        taken.extend(taker.take(12, 1).await);
    }
    set_policy(&stage, PolicyName::Strict, &last).await;
    // What is no good changes nothing.
    let registry = stage.bus.bucket(BUCKET_REGISTRY).await.unwrap();
    let bad = serde_json::json!({"policy": "fifo", "weights": [0, 0, 0, 0]});
    registry.put(&subject::registry_queue(&pictures()), &bad).await.unwrap();
    let rest = taker.take_all(1).await;
    // What was in the lane already when the policy changed came by the old one.
    let ranks: Vec<usize> = rest.iter().skip(1).map(|task| task.priority.rank()).collect();
    assert!(ranks.is_sorted(), "{ranks:?}");
    let is_by_age = |tasks: &[TaskEvent]| tasks.windows(2).all(|two| two[0].submitted_at <= two[1].submitted_at);
    assert!(is_by_age(&taken[..14]) && !is_by_age(&taken[14..]), "the first ones came by another order");
    taken.extend(rest);
    let mut ids: Vec<TaskId> = taken.into_iter().map(|task| task.id).collect();
    ids.sort();
    sent.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(ids, sent.into_iter().map(|task| task.id).collect::<Vec<_>>());
    stage.until_holds(STREAM_TASKS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_leader_goes_on_in_the_order_that_was_set() {
    let mut stage = Stage::set().await;
    stage.announce("a.b", TYPE).await;
    let low = task("pictures", "a.b", Priority::Low);
    let tasks: Vec<TaskEvent> =
        [Priority::High, Priority::Normal, Priority::Critical].map(|p| task("pictures", "a.b", p)).into();
    stage.submit(&low).await;
    for task in &tasks {
        stage.submit(task).await;
    }
    until_read(&stage, &pictures(), 4).await;
    stage.start_another(Config::default()).await;
    set_policy(&stage, PolicyName::Strict, &low.id).await;
    stage.crash().await;
    stage.until_told("pictures", &low.id, |told| told.policy == PolicyName::Strict).await;
    let taken: Vec<usize> =
        stage.taker("pictures").await.take_all(1).await.iter().map(|task| task.priority.rank()).collect();
    assert_eq!(taken, [0, 1, 2, 3]);
}

async fn expected_us(stage: &Stage, task_type: &str) -> u64 {
    let prospect = Prospect {
        task_type: task_type.parse().unwrap(),
        priority: Priority::Normal,
        tenant: Tenant::default(),
        needs: jetlane_schemas::Needs::default(),
        size_key: None,
        estimate_us: None,
        deadline: None,
    };
    match stage.ask("pictures", &Question::Expect(prospect)).await {
        Answer::Expectation(expected) => expected.estimate_us,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_times_are_learned_from_executors_and_kept_for_the_next_leader() {
    let mut stage = Stage::without_dispatcher(&Config::default()).await;
    let registry = stage.bus.bucket(BUCKET_REGISTRY).await.unwrap();
    let task_type = TaskType::new("a.b").unwrap();
    // One that somebody wrote by hand and that is no good is passed over.
    registry.put(&subject::registry_estimate(&task_type), &"about a minute").await.unwrap();
    stage.announce("a.b", TYPE).await;
    stage.start(Config::default()).await;
    for _ in 0..30 {
        stage.submit(&task("pictures", "a.b", Priority::Normal)).await;
    }
    let mut taker = stage.taker("pictures").await;
    for n in 0..30 {
        let (task, delivery) = taker.next(4, PATIENCE).await.expect("a task comes");
        taker.settle(delivery).await;
        // What is no run of this leader's, and what was told before, changes nothing.
        taker.ended(&TaskEvent { run: 7 + n, ..task.clone() }, 9_000_000_000, RunEnd::Done);
        taker.ended(&task, 2_000_000, RunEnd::Done);
        taker.ended(&task, 9_000_000_000, RunEnd::Done);
    }
    taker.tell(4).await;
    let is_two_seconds = |us: u64| (1_900_000..2_100_000).contains(&us);
    soon(async { while !is_two_seconds(expected_us(&stage, "a.b").await) {} }).await;
    stage.drain().await;
    let kept: EstimateEntry = registry.get(&subject::registry_estimate(&task_type)).await.unwrap().expect("kept");
    assert_eq!(kept.all.runs, 30);
    stage.start(Config::default()).await;
    assert!(is_two_seconds(expected_us(&stage, "a.b").await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_task_is_asked_to_yield_to_a_short_one_and_comes_back_with_what_is_left() {
    let stage = Stage::set().await;
    stage.announce("a.b", TYPE).await;
    stage.declare("pictures", r#"{"policy":"srtf"}"#).await;
    let mut wanted = stage.bus.subscribe(&subject::yield_wanted(&pictures())).await.unwrap();
    let timed = |seconds: u64| {
        let mut task = task("pictures", "a.b", Priority::Normal);
        task.estimate_us = Some(seconds * 1_000_000);
        task
    };
    let (long, short) = (timed(100), timed(1));
    stage.submit(&long).await;
    let mut taker = stage.taker("pictures").await;
    let (mut running, delivery) = taker.next(1, PATIENCE).await.expect("a task comes");
    assert_eq!(running.id, long.id);
    stage.submit(&short).await;
    let asked = soon(async {
        loop {
            taker.remains(&running, 90_000_000, 1_000);
            taker.tell(1).await;
            if let Ok(asked) = tokio::time::timeout(std::time::Duration::from_millis(100), wanted.next()).await {
                return Yield::decode(&asked.expect("connected").body).unwrap();
            }
        }
    })
    .await;
    assert_eq!(asked, Yield { task_type: long.task_type.clone(), id: long.id.clone(), run: 1 });
    // It does: its next run is stored to be due at once, before this one is acknowledged.
    (running.run, running.yields, running.remaining_us) = (2, 1, Some(90_000_000));
    let subject = running.due_subject();
    let body = frame::encode_bundle(std::slice::from_ref(&running)).unwrap().into();
    let message_id = Some(running.message_id(Hop::Due));
    let out = Outgoing { subject, headers: Headers::new(), body, message_id, expect: Expect::Anything };
    stage.bus.publish(out).await.unwrap();
    taker.settle(delivery).await;
    taker.ended(&long, 10_000_000, RunEnd::Yielded);
    let taken = taker.take(2, 1).await;
    assert_eq!(taken.iter().map(|task| &task.id).collect::<Vec<_>>(), [&short.id, &long.id]);
    assert_eq!((taken[1].run, taken[1].yields, taken[1].attempts), (2, 1, 0));
    assert_eq!(taken[1].remaining_us, Some(90_000_000));
    assert!(clock::now() > taken[1].submitted_at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_has_begun_in_time_does_not_expire_when_it_resumes() {
    let stage = Stage::set().await;
    stage.announce("a.b", TYPE).await;
    let mut resumed = task("pictures", "a.b", Priority::Normal);
    resumed.deadline = Some(jetlane_schemas::Micros(clock::now().0 - 1_000_000));
    (resumed.run, resumed.yields, resumed.remaining_us) = (2, 1, Some(5_000_000));
    let body = frame::encode_bundle(std::slice::from_ref(&resumed)).unwrap();
    stage.store(resumed.due_subject(), Headers::new(), body, Some(resumed.message_id(Hop::Due))).await;
    let taken = stage.taker("pictures").await.take(1, 1).await;
    assert_eq!(taken[0].id, resumed.id);
}
