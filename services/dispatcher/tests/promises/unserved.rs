//! Tasks at the public intake whose type nobody has announced.

use crate::stage::{PATIENCE, Stage};
use jetlane_bus::clock;
use jetlane_dispatcher::Config;
use jetlane_schemas::Outcome;
use jetlane_schemas::header;
use jetlane_schemas::subject::STREAM_TASKS;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadline_of_a_task_that_nobody_serves_is_kept() {
    let stage = Stage::set().await;
    let at = |seconds| clock::rfc3339(clock::after(Duration::from_secs(seconds)));
    let (soon, late) = (at(1), at(3_600));
    let waits = format!("s{}", stage.publish("a.patient", &[(header::DEADLINE, &late)], "{}").await);
    let ends = format!("s{}", stage.publish("a.hasty", &[(header::DEADLINE, &soon)], "{}").await);
    // A type of many messages, of which one is late.
    for _ in 0..3 {
        stage.publish("a.mixed", &[], "{}").await;
    }
    let mixed = format!("s{}", stage.publish("a.mixed", &[(header::DEADLINE, &soon)], "{}").await);
    for (task_type, id) in [("a.hasty", &ends), ("a.mixed", &mixed)] {
        let done = stage.completion(task_type, id).await;
        assert_eq!((done.outcome, done.attempt), (Outcome::Expired, 0));
    }
    stage.until_holds(STREAM_TASKS, 4).await;
    // What is announced later runs.
    stage.announce("a.patient", r#"{"queue":"pictures"}"#).await;
    let mut taker = stage.taker("pictures").await;
    let (task, delivery) = taker.next(1, PATIENCE).await.expect("it comes");
    assert_eq!(task.id.as_str(), waits);
    taker.settle(delivery).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_that_nobody_serves_is_a_dead_letter_once_it_was_kept_for_long_enough() {
    let stage = Stage::with(Config { unserved_kept_s: 1, ..Config::default() }).await;
    let id = format!("s{}", stage.publish("nobody.knows", &[], br#"{"n":1}"#.to_vec()).await);
    let done = stage.completion("nobody.knows", &id).await;
    assert_eq!((done.outcome, done.failure().expect("a failure").code.as_str()), (Outcome::Rejected, "unknown_type"));
    assert_eq!(stage.dead_letter("default", "nobody.knows", &id).await.payload, br#"{"n":1}"#);
    stage.until_holds(STREAM_TASKS, 0).await;
}
