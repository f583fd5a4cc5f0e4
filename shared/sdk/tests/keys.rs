//! Answers to submissions whose key is taken, against a real nats-server.
#![allow(missing_docs, reason = "the names of tests are their documents")]

use jetlane::{Client, Outcome, Submit, TaskHandle, TaskType};
use jetlane_bus::clock;
use jetlane_bus::local::{self, Options, Server};
use jetlane_bus::look::Start;
use jetlane_bus::topology::Settings;
use jetlane_schemas::subject::{BUCKET_REGISTRY, SCHEDULE_ALL, STREAM_TASKS, STREAM_TIME, TASK_ALL};
use jetlane_schemas::{Completion, QueueName, RunToken, TaskEvent, TypeEntry, header, subject};
use serde_json::value::RawValue;
use std::time::Duration;

/// How long what is known already may take to be told.
const AT_ONCE: Duration = Duration::from_secs(5);

fn task_type() -> TaskType {
    TaskType::new("image.thumbnail").expect("valid")
}

fn queue() -> QueueName {
    QueueName::new("pictures").expect("valid")
}

/// A server on which `image.thumbnail` is announced and nobody dispatches.
async fn place() -> (Server, Client) {
    let binary = local::find(|line| eprintln!("{line}")).await.expect("a nats-server");
    let server = Server::start(&binary, Options::default()).await.expect("started");
    let bus = jetlane_bus::Bus::connect(&jetlane_bus::Connect::to(server.url(), "test")).await.expect("connected");
    bus.ensure(&Settings::default()).await.expect("the streams are made");
    let registry = bus.bucket(BUCKET_REGISTRY).await.expect("made");
    registry.put(&subject::registry_type(&task_type()), &TypeEntry::new(queue())).await.expect("announced");
    let client = Client::connect(server.url()).await.expect("connected");
    (server, client)
}

fn submit(client: &Client) -> Submit<Box<RawValue>> {
    client.submit_json("image.thumbnail", b"{}".to_vec()).key("order-7")
}

fn is_duplicate<O>(handle: &TaskHandle<O>) -> bool {
    handle.accepted().expect("it was submitted").duplicate
}

/// Ends the task as its executor does.
async fn complete<O>(client: &Client, handle: &TaskHandle<O>, outcome: Outcome) {
    let mut task = TaskEvent::new(handle.id().clone(), task_type(), queue(), clock::now(), Vec::new());
    task.key = Some("order-7".into());
    let completion = Completion { token: Some(RunToken::draw()), ..Completion::of(&task, outcome, clock::now()) };
    client.bus().complete(&completion).await.expect("stored");
}

#[tokio::test]
async fn a_key_of_a_delayed_task_does_not_start_its_delay_anew() {
    let (_server, client) = place().await;
    let due = async || {
        let stored = client.bus().look(STREAM_TIME, SCHEDULE_ALL, Start::Sequence(1), 10).await.expect("read");
        assert_eq!(stored.len(), 1);
        (stored[0].sequence, stored[0].headers.get(header::SCHEDULE).expect("it is a schedule").to_owned())
    };
    let first = submit(&client).delay(Duration::from_secs(3_600)).await.expect("accepted");
    let scheduled = due().await;
    let second = submit(&client).delay(Duration::from_secs(7_200)).await.expect("accepted");
    assert_eq!((is_duplicate(&first), is_duplicate(&second)), (false, true));
    assert_eq!((first.id(), due().await), (second.id(), scheduled));
}

#[tokio::test]
async fn a_key_that_waits_is_stored_once() {
    let (_server, client) = place().await;
    let first = submit(&client).await.expect("accepted");
    let second = submit(&client).await.expect("accepted");
    assert_eq!((is_duplicate(&first), is_duplicate(&second)), (false, true));
    let stored = client.bus().subject_counts(STREAM_TASKS, TASK_ALL).await.expect("read");
    assert_eq!(stored.values().sum::<u64>(), 1);
}

#[tokio::test]
async fn a_key_whose_task_has_ended_is_answered_at_once_with_its_completion() {
    let (_server, client) = place().await;
    let first = submit(&client).await.expect("accepted");
    complete(&client, &first, Outcome::Succeeded).await;
    let mut second = submit(&client).await.expect("accepted");
    assert!(is_duplicate(&second));
    let completion = tokio::time::timeout(AT_ONCE, second.completion()).await.expect("at once").expect("read");
    assert_eq!(completion.outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn a_key_that_is_free_after_a_failure_is_submitted_again_and_forgets_the_failure() {
    let (_server, client) = place().await;
    let first = submit(&client).unique_for(Duration::ZERO).await.expect("accepted");
    complete(&client, &first, Outcome::Failed).await;
    let second = submit(&client).unique_for(Duration::ZERO).await.expect("accepted");
    assert!(!is_duplicate(&second));
    assert!(second.look().await.expect("read").is_none(), "the failure is the earlier task's");
    let stored = client.bus().subject_counts(STREAM_TASKS, TASK_ALL).await.expect("read");
    assert_eq!(stored.values().sum::<u64>(), 2, "the window for duplicates does not take it for the first");
}

#[tokio::test]
async fn a_cancelled_key_is_free_when_its_submitter_said_so() {
    let (_server, client) = place().await;
    let delayed = || submit(&client).unique_for(Duration::ZERO).delay(Duration::from_secs(3_600));
    let first = delayed().await.expect("accepted");
    assert_eq!(first.cancel().await.expect("cancelled"), Outcome::Cancelled);
    let second = delayed().await.expect("accepted");
    assert!(!is_duplicate(&second));
}
