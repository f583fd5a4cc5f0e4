//! Of one type, tenant and key a single task waits or runs at a time.

use crate::stage::{PATIENCE, QUIET, Stage, task};
use jetlane_bus::Delivery;
use jetlane_bus::clock;
use jetlane_dispatcher::Config;
use jetlane_schemas::subject::{self, BUCKET_CLAIMS, STREAM_TASKS};
use jetlane_schemas::{Completion, Headers, Outcome, Priority, RunToken, Shard, TaskEvent, Tenant, frame};

const KEY: (&str, &str) = ("ce-jetlanekey", "order-7");

async fn stage() -> Stage {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    stage
}

/// Ends a task as an executor does.
async fn complete(stage: &Stage, taker: &mut crate::stage::Taker, (task, delivery): (TaskEvent, Delivery)) -> RunToken {
    let token = RunToken::draw();
    let completion = Completion::of(&task, Outcome::Succeeded, clock::now());
    stage.bus.complete(&Completion { token: Some(token), ..completion }).await.expect("stored");
    taker.settle(delivery).await;
    token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_of_one_key_are_one_task_whatever_their_ids() {
    let stage = stage().await;
    let mut taker = stage.taker("pictures").await;
    stage.publish("a.b", &[KEY], "{}").await;
    stage.publish("a.b", &[KEY], "{}").await;
    let event = [("ce-id", "0190b8f2-7c1e-7000-8000-000000000001"), ("ce-source", "/shop"), KEY];
    stage.publish("a.b", &event, "{}").await;
    let (task, _held) = taker.next(5, PATIENCE).await.expect("a task comes");
    assert_eq!(task.key.as_deref(), Some("order-7"));
    stage.until_holds(STREAM_TASKS, 0).await;
    assert!(taker.next(5, QUIET).await.is_none(), "its copies are acknowledged");
    stage.publish("a.b", &[KEY, ("ce-jetlanetenant", "ada")], "{}").await;
    assert!(taker.next(5, PATIENCE).await.is_some(), "another tenant's key is another key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_taken_while_its_task_runs_though_its_leader_died() {
    let mut stage = stage().await;
    let mut taker = stage.taker("pictures").await;
    stage.publish("a.b", &[KEY], "{}").await;
    let running = taker.next(5, PATIENCE).await.expect("a task comes");
    stage.until_holds(STREAM_TASKS, 0).await;
    stage.crash().await;
    stage.start(Config::default()).await;
    stage.publish("a.b", &[KEY], "{}").await;
    stage.until_holds(STREAM_TASKS, 0).await;
    assert!(taker.next(5, QUIET).await.is_none(), "the new leader knows of it");
    complete(&stage, &mut taker, running).await;
    stage.publish("a.b", &[KEY], "{}").await;
    stage.until_holds(STREAM_TASKS, 0).await;
    assert!(taker.next(5, QUIET).await.is_none(), "its completion is kept, and so is its key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_one_across_the_shards_of_its_tenant_and_both_doors() {
    let stage = stage().await;
    let mut taker = stage.taker("pictures").await;
    for shard in [3, 40] {
        let mut task = task("pictures", "a.b", Priority::Normal);
        (task.tenant, task.shard) = (Tenant::new("ada").expect("valid"), Shard::new(shard).expect("valid"));
        task.key = Some("order-7".into());
        task.id = task.claim().expect("it has a key");
        let body = frame::encode_bundle(std::slice::from_ref(&task)).expect("encodes");
        let subject = subject::task(&task.queue, task.priority, task.shard);
        stage.store(subject, Headers::new(), body, None).await;
    }
    stage.publish("a.b", &[KEY, ("ce-jetlanetenant", "ada")], "{}").await;
    assert!(taker.next(5, PATIENCE).await.is_some());
    stage.until_holds(STREAM_TASKS, 0).await;
    assert!(taker.next(5, QUIET).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_free_at_once_gives_each_task_a_completion_of_its_own() {
    let stage = stage().await;
    let mut taker = stage.taker("pictures").await;
    let headers = [KEY, ("ce-jetlaneuniquefor", "0")];
    let mut tokens = Vec::new();
    for _ in 0..2 {
        stage.publish("a.b", &headers, "{}").await;
        let taken = taker.next(5, PATIENCE).await.expect("it runs");
        let id = taken.0.id.clone();
        tokens.push(complete(&stage, &mut taker, taken).await);
        stage.until_holds(STREAM_TASKS, 0).await;
        let done = stage.completion("a.b", id.as_str()).await;
        assert_eq!(done.token, tokens.last().copied(), "its own completion, not the earlier task's");
    }
    assert_ne!(tokens[0], tokens[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_without_a_key_makes_no_claim() {
    let stage = stage().await;
    let mut taker = stage.taker("pictures").await;
    stage.publish("a.b", &[], "{}").await;
    let taken = taker.next(5, PATIENCE).await.expect("a task comes");
    complete(&stage, &mut taker, taken).await;
    stage.until_holds(STREAM_TASKS, 0).await;
    stage.until_holds(&format!("KV_{BUCKET_CLAIMS}"), 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_that_holds_its_key_is_never_acknowledged_as_a_copy_of_the_keys_last_task() {
    let stage = stage().await;
    // Nobody has room: the first task stays in the window, where its end is not noticed.
    let headers = [KEY, ("ce-jetlaneuniquefor", "0")];
    stage.publish("a.b", &headers, r#"{"n":1}"#).await;
    let mut ended = task("pictures", "a.b", Priority::Normal);
    ended.key = Some("order-7".into());
    ended.id = ended.claim().expect("it has a key");
    stage.until_read("pictures", &ended.id).await;
    let done = Completion::of(&ended, Outcome::Cancelled, clock::now());
    stage.bus.complete(&Completion { token: Some(RunToken::draw()), ..done }).await.expect("stored");
    stage.publish("a.b", &headers, r#"{"n":2}"#).await;
    // One of the two messages is acknowledged, and it is the first.
    stage.until_holds(STREAM_TASKS, 1).await;
    let mut taker = stage.taker("pictures").await;
    let (task, delivery) = taker.next(5, PATIENCE).await.expect("a task comes");
    assert_eq!(String::from_utf8_lossy(&task.payload), r#"{"n":2}"#);
    complete(&stage, &mut taker, (task, delivery)).await;
    stage.until_holds(STREAM_TASKS, 0).await;
    assert!(taker.next(5, QUIET).await.is_none(), "the first has ended and does not run");
}
