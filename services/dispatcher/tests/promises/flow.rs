//! The way of a task from intake to a lane: order, credit, delay, deadline, cancellation.

use crate::stage::{PATIENCE, QUIET, Stage, soon, task};
use jetlane_bus::clock;
use jetlane_dispatcher::Config;
use jetlane_schemas::registry::{Order, PolicyName, QueueEntry};
use jetlane_schemas::subject::{self, BUCKET_REGISTRY, STREAM_LANES, STREAM_TASKS, STREAM_TIME};
use jetlane_schemas::{Micros, Outcome, Priority, QueueName, Shard, ShardEntry, TaskType, Tenant};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_anybody_publishes_reaches_a_lane_and_leaves_intake() {
    let stage = Stage::set().await;
    let sequence = stage.publish("image.thumbnail", &[("x-user", "ada")], r#"{"path":"a.png"}"#).await;
    stage.announce("image.thumbnail", r#"{"queue":"pictures","retries":7}"#).await;
    let mut taker = stage.taker("pictures").await;
    let (task, delivery) = taker.next(1, PATIENCE).await.expect("a task comes");
    assert_eq!(task.id.as_str(), format!("s{sequence}"));
    assert_eq!((task.retries, task.run, task.attempts, task.suspect), (Some(7), 1, 0, false));
    assert_eq!(task.headers, [("x-user".to_owned(), "ada".to_owned())]);
    assert_eq!(task.payload, br#"{"path":"a.png"}"#);
    taker.settle(delivery).await;
    stage.until_holds(STREAM_TASKS, 0).await;
    stage.until_holds(STREAM_LANES, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_urgent_go_first_and_the_older_first_inside_a_priority() {
    let stage = Stage::set().await;
    stage.declare("pictures", r#"{"policy":"strict"}"#).await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let priorities = [Priority::Low, Priority::Normal, Priority::Critical, Priority::High];
    let mut sent = Vec::new();
    for n in 0..40 {
        let task = task("pictures", "a.b", priorities[n % 4]);
        stage.submit(&task).await;
        sent.push((task.priority.rank(), n, task.id));
    }
    // All are in the window before anybody takes one: their consumers have nothing more to deliver.
    let taken = {
        let mut taker = stage.taker("pictures").await;
        until_read(&stage, &QueueName::new("pictures").unwrap(), 40).await;
        taker.take_all(1).await
    };
    sent.sort();
    let wanted: Vec<_> = sent.into_iter().map(|(_, _, id)| id).collect();
    assert_eq!(taken.into_iter().map(|task| task.id).collect::<Vec<_>>(), wanted);
}

/// Waits until a queue's flows of the sdk have been read and so many messages of them are held.
pub(crate) async fn until_read(stage: &Stage, queue: &QueueName, count: u64) {
    soon(async {
        loop {
            let mut held = 0;
            for priority in Priority::ALL {
                let flow = jetlane_schemas::Flow::Task(queue.clone(), priority, Shard::default());
                // The epoch of a lease is the revision of its key: the first of the bucket here.
                if let Some(backlog) = stage.bus.backlog(STREAM_TASKS, &flow.consumer(1)).await.unwrap() {
                    held += backlog.unanswered;
                }
            }
            if held == count {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_on_its_way_than_executors_have_told_room_for() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    for _ in 0..50 {
        stage.submit(&task("pictures", "a.b", Priority::Normal)).await;
    }
    let mut taker = stage.taker("pictures").await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(taker.next(5, PATIENCE).await.expect("a task comes"));
    }
    assert!(taker.next(5, QUIET).await.is_none(), "a sixth came although five are held");
    let (_, delivery) = held.pop().unwrap();
    taker.settle(delivery).await;
    assert!(taker.next(5, PATIENCE).await.is_some(), "one that ends makes room for one");
    assert!(taker.next(5, QUIET).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_task_is_kept_by_the_broker_and_runs_when_it_is_due() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut taker = stage.taker("pictures").await;
    let sent_at = clock::now();
    stage.publish("a.b", &[("ce-jetlanedelayms", "1500")], "{}").await;
    stage.until_holds(STREAM_TASKS, 0).await;
    let (task, delivery) = taker.next(1, PATIENCE).await.expect("a task comes");
    assert!(clock::now().ms_since(sent_at) >= 1_500.0, "it came before it was due");
    assert_eq!((task.run, task.attempts), (2, 0), "waiting spends no attempt");
    taker.settle(delivery).await;
    stage.until_holds(STREAM_TIME, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_shorter_than_the_brokers_timer_can_keep_is_never_cut_short() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut taker = stage.taker("pictures").await;
    for delay_ms in [1, 50, 150, 250] {
        let sent_at = clock::now();
        stage.publish("a.b", &[("ce-jetlanedelayms", &delay_ms.to_string())], "{}").await;
        let (_, delivery) = taker.next(1, PATIENCE).await.expect("a task comes");
        let waited = clock::now().ms_since(sent_at);
        assert!(waited >= f64::from(delay_ms), "{delay_ms} ms were asked for, it came after {waited} ms");
        taker.settle(delivery).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_past_its_deadline_expires_without_running() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut late = task("pictures", "a.b", Priority::Normal);
    late.deadline = Some(Micros(clock::now().0 + 300_000));
    stage.submit(&late).await;
    let done = stage.completion("a.b", late.id.as_str()).await;
    assert_eq!((done.outcome, done.attempt), (Outcome::Expired, 0));
    stage.until_holds(STREAM_TASKS, 0).await;
    let mut taker = stage.taker("pictures").await;
    assert!(taker.next(1, QUIET).await.is_none());
    assert_eq!(stage.dead_letters().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_is_dropped_before_dispatch() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let tasks = [0, 1, 2].map(|_| task("pictures", "a.b", Priority::Normal));
    stage.submit(&tasks[0]).await;
    stage.submit(&tasks[1]).await;
    until_read(&stage, &tasks[0].queue, 2).await;
    // One while it waits in the window, one before it comes.
    for cancelled in [&tasks[0], &tasks[2]] {
        stage.cancel(cancelled).await;
    }
    stage.until_holds(STREAM_TASKS, 1).await;
    stage.submit(&tasks[2]).await;
    let taken = stage.taker("pictures").await.take_all(3).await;
    assert_eq!(taken.into_iter().map(|task| task.id).collect::<Vec<_>>(), [tasks[1].id.clone()]);
    stage.until_holds(STREAM_TASKS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_run_stored_twice_is_dispatched_once() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    for _ in 0..3 {
        stage.publish("a.b", &[("ce-id", "0190b8f2-7c1e-7000-8000-000000000001")], "{}").await;
    }
    let mut taker = stage.taker("pictures").await;
    let taken = taker.take_all(5).await;
    assert_eq!(taken.len(), 1);
    assert!(taken[0].suspect, "an id of the submitter's own may have been submitted before");
    stage.publish("a.b", &[("ce-id", "0190b8f2-7c1e-7000-8000-000000000001")], "{}").await;
    stage.until_holds(STREAM_TASKS, 0).await;
    assert!(taker.next(5, QUIET).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_lanes_refuse_and_nothing_is_lost_or_repeated() {
    let mut config = Config::default();
    config.streams.lanes_messages_max = 3;
    let stage = Stage::with(config).await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut sent = Vec::new();
    for _ in 0..20 {
        let task = task("pictures", "a.b", Priority::Normal);
        stage.submit(&task).await;
        sent.push(task.id);
    }
    // It tells of far more room than the lanes have.
    let mut taken: Vec<_> = stage.taker("pictures").await.take(20, 100).await.into_iter().map(|task| task.id).collect();
    taken.sort();
    sent.sort();
    assert_eq!(taken, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_queue_rests_and_goes_on_and_its_policy_can_be_changed() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let queue = QueueName::new("pictures").unwrap();
    let registry = stage.bus.bucket(BUCKET_REGISTRY).await.unwrap();
    let paused = QueueEntry { paused: true, order: Order::of(PolicyName::Fifo), ..QueueEntry::default() };
    registry.put(&subject::registry_queue(&queue), &paused).await.unwrap();
    let (first, second) = (task("pictures", "a.b", Priority::Low), task("pictures", "a.b", Priority::Critical));
    stage.submit(&first).await;
    stage.submit(&second).await;
    until_read(&stage, &queue, 2).await;
    let mut taker = stage.taker("pictures").await;
    assert!(taker.next(1, QUIET).await.is_none(), "dispatched while paused");
    registry.put(&subject::registry_queue(&queue), &QueueEntry { paused: false, ..paused }).await.unwrap();
    let taken: Vec<_> = taker.take_all(1).await.into_iter().map(|task| task.id).collect();
    assert_eq!(taken, [first.id, second.id], "fifo passes over priorities");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_gets_a_shard_of_its_own_and_its_flow_is_found() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut first = task("pictures", "a.b", Priority::Normal);
    first.tenant = Tenant::new("Zoë & co").unwrap();
    first.shard = Shard::shared_by_hash(&first.tenant);
    stage.submit(&first).await;
    let mut taker = stage.taker("pictures").await;
    assert_eq!(taker.take(1, 1).await[0].id, first.id);
    let registry = stage.bus.bucket(BUCKET_REGISTRY).await.unwrap();
    let key = subject::registry_shard(&first.queue, &first.tenant);
    let entry = soon(async {
        loop {
            if let Some(entry) = registry.get::<ShardEntry>(&key).await.unwrap() {
                return entry;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(entry.tenant, first.tenant);
    assert!(Shard::ASSIGNED.contains(&entry.shard.number()));
    let mut second = task("pictures", "a.b", Priority::Normal);
    (second.tenant, second.shard) = (first.tenant, entry.shard);
    stage.submit(&second).await;
    assert_eq!(taker.take(1, 1).await[0].id, second.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_moves_to_another_queue_takes_what_waits_along() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"old"}"#).await;
    for n in 0..5 {
        stage.publish("a.b", &[], format!("{n}")).await;
    }
    let flow = jetlane_schemas::Flow::Raw(TaskType::new("a.b").unwrap());
    soon(async {
        while stage.bus.backlog(STREAM_TASKS, &flow.consumer(1)).await.unwrap().is_none_or(|b| b.unanswered != 5) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stage.announce("a.b", r#"{"queue":"new"}"#).await;
    let mut taker = stage.taker("new").await;
    let bodies: Vec<_> =
        taker.take(5, 2).await.into_iter().map(|task| String::from_utf8(task.payload).unwrap()).collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4"]);
    stage.until_holds(STREAM_TASKS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_the_window_is_kept_alive() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut signs = stage.bus.subscribe("$JS.ACK.JETLANE_TASKS.>").await.unwrap();
    stage.submit(&task("pictures", "a.b", Priority::Normal)).await;
    for _ in 0..2 {
        let sign = soon(signs.next()).await.expect("a sign of life");
        assert_eq!(&sign.body[..], b"+WPI");
        assert!(sign.subject.contains("task-pictures-normal-0-1.1."), "delivered once: {}", sign.subject);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_is_found_again() {
    let mut stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let before = task("pictures", "a.b", Priority::Normal);
    stage.submit(&before).await;
    until_read(&stage, &before.queue, 1).await;
    stage.server.kill().await;
    stage.server.restart().await.unwrap();
    let after = task("pictures", "a.b", Priority::Normal);
    stage.submit(&after).await;
    let mut taker = stage.taker("pictures").await;
    let mut taken: Vec<_> = taker.take(2, 1).await.into_iter().map(|task| task.id).collect();
    taken.sort();
    assert_eq!(taken, [before.id, after.id]);
    assert!(taker.next(1, Duration::from_millis(100)).await.is_none());
}
