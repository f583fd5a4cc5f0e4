//! What bad input gets: a `rejected` completion and a dead letter, with every other task untouched.

use crate::stage::{PATIENCE, Stage, task};
use jetlane_bus::clock;
use jetlane_schemas::subject::{self, STREAM_TASKS};
use jetlane_schemas::{Completion, Failure, Headers, Outcome, Priority, RunToken, TaskEvent};

const SCHEMA: &str = r#"{"queue":"pictures","schema":{"type":"object","required":["path"],
    "properties":{"path":{"type":"string"},"sizes":{"type":"array","items":{"type":"integer"}}}}}"#;

/// Publishes a bad message and then a good one; what became of the bad one.
async fn refused(headers: &[(&str, &str)], body: &[u8]) -> jetlane_schemas::Failure {
    let stage = Stage::set().await;
    stage.announce("image.thumbnail", SCHEMA).await;
    let bad = format!("s{}", stage.publish("image.thumbnail", headers, body).await);
    let good = format!("s{}", stage.publish("image.thumbnail", &[], r#"{"path":"a.png"}"#).await);
    let done = stage.completion("image.thumbnail", &bad).await;
    assert_eq!((done.outcome, done.attempt), (Outcome::Rejected, 0));
    let dead = stage.dead_letter("pictures", "image.thumbnail", &bad).await;
    assert_eq!(dead.payload, body, "the dead letter has the body as it came");
    let mut taker = stage.taker("pictures").await;
    let (task, delivery) = taker.next(1, PATIENCE).await.expect("the good one comes");
    assert_eq!(task.id.as_str(), good);
    taker.settle(delivery).await;
    stage.until_holds(STREAM_TASKS, 0).await;
    done.failure().expect("a failure")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_fit_its_schema_is_told_where() {
    let failure = refused(&[], br#"{"path":"a.png","sizes":[1,"x"]}"#).await;
    assert_eq!((failure.code.as_str(), failure.path.as_deref()), ("schema", Some("/sizes/1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_no_json_is_refused() {
    assert_eq!(refused(&[], b"{\"path\": \xff}").await.code, "json");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_option_out_of_range_is_refused_by_name() {
    let failure = refused(&[("ce-jetlanepriority", "urgent")], br#"{"path":"a.png"}"#).await;
    assert_eq!(failure.code, "option");
    assert!(failure.message.starts_with("priority"), "{}", failure.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused_and_one_of_exactly_the_limit_passes() {
    let stage = Stage::set().await;
    stage.announce("image.thumbnail", r#"{"queue":"pictures"}"#).await;
    let limit = stage.bus.body_bytes_max();
    let body = |len: usize| format!("\"{}\"", "x".repeat(len - 2));
    let exact = format!("s{}", stage.publish("image.thumbnail", &[], body(limit)).await);
    let over = format!("s{}", stage.publish("image.thumbnail", &[], body(limit + 1)).await);
    let largest = stage.bus.server().max_payload;
    let full = format!("s{}", stage.publish("image.thumbnail", &[], body(largest - 200)).await);
    for id in [&over, &full] {
        let done = stage.completion("image.thumbnail", id).await;
        assert_eq!(done.outcome, Outcome::Rejected);
        let failure = done.failure().expect("a failure");
        assert!(failure.message.contains(&limit.to_string()), "{}", failure.message);
    }
    assert_eq!(stage.dead_letter("pictures", "image.thumbnail", &over).await.payload.len(), limit + 1);
    stage.dead_letter("pictures", "image.thumbnail", &full).await;
    let mut taker = stage.taker("pictures").await;
    let (task, delivery) = taker.next(1, PATIENCE).await.expect("it comes");
    assert_eq!((task.id.as_str(), task.payload.len()), (exact.as_str(), limit));
    taker.settle(delivery).await;
    stage.until_holds(STREAM_TASKS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_cannot_be_read_is_refused_under_its_sequence() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let good = task("pictures", "a.b", Priority::Normal);
    let subject = subject::task(&good.queue, good.priority, good.shard);
    let bad = format!("s{}", stage.store(subject, Headers::new(), b"no frame".to_vec(), None).await);
    stage.submit(&good).await;
    assert_eq!(stage.completion("jetlane.unreadable", &bad).await.outcome, Outcome::Rejected);
    assert_eq!(stage.dead_letter("pictures", "jetlane.unreadable", &bad).await.payload, b"no frame");
    assert_eq!(stage.taker("pictures").await.take(1, 1).await[0].id, good.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_nobody_announced_stands_in_nobodys_way_and_runs_once_it_is() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let (early, good) = (task("pictures", "later.type", Priority::Normal), task("pictures", "a.b", Priority::Normal));
    stage.submit(&early).await;
    stage.submit(&good).await;
    let mut taker = stage.taker("pictures").await;
    assert_eq!(taker.take(1, 1).await[0].id, good.id);
    stage.announce("later.type", r#"{"queue":"pictures"}"#).await;
    let task = taker.take(1, 1).await.remove(0);
    assert_eq!((task.id, task.attempts), (early.id, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_nobody_serves_waits_in_the_stream() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    stage.publish("nobody.serves", &[], "{}").await;
    let sequence = stage.publish("a.b", &[], "{}").await;
    assert_eq!(stage.taker("pictures").await.take(1, 1).await[0].id.as_str(), format!("s{sequence}"));
    stage.until_holds(STREAM_TASKS, 1).await;
}

/// Stores the `failed` completion of a task as an executor does that dies before its dead letter.
async fn fail_without_a_dead_letter(stage: &Stage, task: &TaskEvent) {
    let failed = Completion::of(task, Outcome::Failed, clock::now()).with_failure(Failure::new("error", "no picture"));
    stage.bus.complete(&Completion { token: Some(RunToken::draw()), ..failed }).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_task_whose_deadline_passes_too_has_its_dead_letter_once() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut task = task("pictures", "a.b", Priority::Normal);
    task.deadline = Some(clock::now());
    fail_without_a_dead_letter(&stage, &task).await;
    stage.submit(&task).await;
    stage.until_holds(STREAM_TASKS, 0).await;
    assert_eq!(stage.dead_letters().await, 1);
    let dead = stage.dead_letter("pictures", "a.b", task.id.as_str()).await;
    assert_eq!((dead.id, dead.payload), (task.id.clone(), task.payload.clone()));
    assert_eq!(stage.completion("a.b", task.id.as_str()).await.outcome, Outcome::Failed);
    // The same message once more, as after a lost ack: the letter is there already.
    stage.publish("a.b", &[("ce-id", task.id.as_str()), ("ce-jetlanedeadline", "2026-01-01T00:00:00Z")], "{}").await;
    stage.until_holds(STREAM_TASKS, 0).await;
    assert_eq!(stage.dead_letters().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_task_that_is_cancelled_while_it_waits_has_its_dead_letter() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let task = task("pictures", "a.b", Priority::Normal);
    stage.submit(&task).await;
    stage.until_read("pictures", &task.id).await;
    fail_without_a_dead_letter(&stage, &task).await;
    stage.note_cancelled(&task).await;
    stage.until_holds(STREAM_TASKS, 0).await;
    assert_eq!(stage.dead_letters().await, 1);
}
