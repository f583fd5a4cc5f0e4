//! Cancelling, against a real nats-server.
#![allow(missing_docs, reason = "the names of tests are their documents")]

use jetlane::{Client, Outcome, TaskType};
use jetlane_bus::clock;
use jetlane_bus::local::{self, Options, Server};
use jetlane_bus::topology::Settings;
use jetlane_schemas::subject::{BUCKET_REGISTRY, SCHEDULE_ALL, STREAM_TASKS, STREAM_TIME, TASK_ALL};
use jetlane_schemas::{Completion, QueueName, RunToken, TaskEvent, TypeEntry, subject};
use std::time::Duration;

async fn place() -> (Server, Client) {
    let binary = local::find(|line| eprintln!("{line}")).await.expect("a nats-server");
    let server = Server::start(&binary, Options::default()).await.expect("started");
    let client = Client::connect(server.url()).await.expect("connected");
    client.bus().ensure(&Settings::default()).await.expect("the streams are made");
    (server, client)
}

fn task_type() -> TaskType {
    TaskType::new("image.thumbnail").expect("valid")
}

#[tokio::test]
async fn a_cancel_that_was_cut_short_is_finished_by_the_next() {
    let (server, client) = place().await;
    let registry = client.bus().bucket(BUCKET_REGISTRY).await.expect("made");
    let queue = QueueName::new("pictures").expect("valid");
    registry.put(&subject::registry_type(&task_type()), &TypeEntry::new(queue.clone())).await.expect("announced");
    let client = Client::connect(server.url()).await.expect("connected");
    let submit = client.submit_json("image.thumbnail", b"{}".to_vec()).delay(Duration::from_secs(3_600));
    let handle = submit.await.expect("accepted");
    // What a cancel stores first, and nothing of the rest.
    let task = TaskEvent::new(handle.id().clone(), task_type(), queue, clock::now(), Vec::new());
    let cancelled = Completion::of(&task, Outcome::Cancelled, clock::now());
    let cancelled = Completion { token: Some(RunToken::draw()), ..cancelled };
    client.bus().complete(&cancelled).await.expect("stored");
    let schedules = async || client.bus().subject_counts(STREAM_TIME, SCHEDULE_ALL).await.expect("read").len();
    assert_eq!(schedules().await, 1);
    assert_eq!(handle.cancel().await.expect("cancelled"), Outcome::Cancelled);
    assert_eq!(schedules().await, 0, "the pending schedule is gone");
    assert_eq!(handle.cancel().await.expect("may be repeated"), Outcome::Cancelled);
}

#[tokio::test]
async fn a_task_of_a_type_that_nobody_announced_waits_in_the_queue_that_it_names() {
    let (_server, client) = place().await;
    let submit = client.submit_json("image.thumbnail", b"{}".to_vec()).queue("pictures");
    let (_, accepted) = submit.forget().await.expect("accepted");
    assert!(!accepted.known);
    let waiting = client.bus().subject_counts(STREAM_TASKS, TASK_ALL).await.expect("read");
    assert!(waiting.keys().all(|subject| subject.starts_with("jetlane.task.pictures.")), "{waiting:?}");
    assert_eq!(waiting.len(), 1);
}
