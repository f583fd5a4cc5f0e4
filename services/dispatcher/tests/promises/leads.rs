//! Leads: a queue whose announcement is removed has no leader, and loses no task.

use crate::stage::{PATIENCE, Stage, soon, task};
use jetlane_bus::Bus;
use jetlane_bus::lease::LEASE_TTL;
use jetlane_dispatcher::Config;
use jetlane_schemas::question::Question;
use jetlane_schemas::subject::{self, BUCKET_REGISTRY, STREAM_TASKS};
use jetlane_schemas::{Priority, QueueName, TaskEvent, TaskId};
use std::time::Duration;
use tokio::time::Instant;

/// How long nobody may lead until it is believed that nobody asks for the lead: each dispatcher asks every 250 ms.
const NOBODY_FOR: Duration = Duration::from_secs(2);

/// Forgets an announcement of the registry.
async fn forget(bus: &Bus, key: &str) {
    bus.bucket(BUCKET_REGISTRY).await.unwrap().delete(key).await.unwrap();
}

/// Takes the lead of a queue once nobody has it, and gives it up again; how long that took.
async fn until_free(stage: &Stage, queue: &QueueName) -> Duration {
    let since = Instant::now();
    soon(async {
        loop {
            if let Some(lease) = stage.bus.lead(queue, "test").await.unwrap() {
                return lease.release().await;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    since.elapsed()
}

/// Whether anybody answers for a queue within this time.
async fn is_led(stage: &Stage, queue: &QueueName, within: Duration) -> bool {
    let question = serde_json::to_vec(&Question::Explain { id: TaskId::generate(), task_type: None }).unwrap();
    let until = Instant::now() + within;
    while Instant::now() < until {
        let answer = stage.bus.ask(&subject::ask(queue), question.clone().into(), PATIENCE).await.unwrap();
        if answer.is_some() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_that_is_announced_no_more_is_given_back_whole_and_led_by_nobody() {
    let mut stage = Stage::set().await;
    stage.start_another(Config::default()).await;
    let queue: QueueName = "pictures".parse().unwrap();
    stage.declare("pictures", r#"{"policy":"fifo"}"#).await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let tasks: Vec<TaskEvent> = (0..3).map(|_| task("pictures", "a.b", Priority::Normal)).collect();
    for task in &tasks {
        stage.submit(task).await;
    }
    for task in &tasks {
        stage.until_read("pictures", &task.id).await;
    }
    let mut answers = stage.bus.subscribe(&format!("$JS.ACK.{STREAM_TASKS}.>")).await.unwrap();
    forget(&stage.bus, &subject::registry_type(&"a.b".parse().unwrap())).await;
    assert!(is_led(&stage, &queue, Duration::from_millis(1)).await, "it still has an announcement of its own");
    forget(&stage.bus, &subject::registry_queue(&queue)).await;
    // Its leader gives back what it holds, and then the lease.
    let all_given_back = async {
        let mut given_back = 0;
        while given_back < tasks.len() {
            let answer = answers.next().await.expect("an answer comes");
            given_back += usize::from(answer.body.starts_with(b"-NAK"));
        }
    };
    soon(all_given_back).await;
    let took = until_free(&stage, &queue).await;
    assert!(took < LEASE_TTL, "the lease was left to end by itself: {took:?}");
    assert!(!is_led(&stage, &queue, NOBODY_FOR).await, "somebody took the lead");
    // Once it is announced again it is led again, and all its tasks are there.
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut taken = stage.taker("pictures").await.take(tasks.len(), 4).await;
    taken.sort_by_key(|taken| tasks.iter().position(|task| task.id == taken.id));
    assert_eq!(taken.iter().map(|task| &task.id).collect::<Vec<_>>(), tasks.iter().map(|t| &t.id).collect::<Vec<_>>());
    stage.until_holds(STREAM_TASKS, 0).await;
}
