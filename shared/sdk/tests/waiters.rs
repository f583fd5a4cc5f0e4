//! Many handles that wait for completions of which nobody tells, against a real nats-server.
#![allow(missing_docs, reason = "the names of tests are their documents")]

use futures::FutureExt;
use jetlane::{Client, TaskHandle, TaskId, TaskType};
use jetlane_bus::local::{self, Options, Server};
use jetlane_bus::publish::Expect;
use jetlane_bus::topology::Settings;
use jetlane_bus::{Bus, Connect, Outgoing};
use jetlane_schemas::subject::{BUCKET_REGISTRY, STREAM_DONE, done, registry_type};
use jetlane_schemas::{Headers, QueueName, TypeEntry, header};
use serde_json::value::RawValue;
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// The handles of one type that wait in one process.
const HANDLES: usize = 3_000;
/// Every so many-th of them completes.
const EVERY: usize = 10;
/// How long a completion of which nobody told may take to be found.
const FOUND_WITHIN: Duration = Duration::from_secs(25);
/// The rounds of look-ups in that time, one each 15 s.
const ROUNDS: usize = 2;

async fn place() -> (Server, Bus) {
    let binary = local::find(|line| eprintln!("{line}")).await.expect("a nats-server");
    let server = Server::start(&binary, Options::default()).await.expect("started");
    let bus = Bus::connect(&Connect::to(server.url(), "test")).await.expect("connected");
    bus.ensure(&Settings::default()).await.expect("the streams are made");
    (server, bus)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_thousands_of_waiting_handles_finds_what_nobody_told_by_a_bounded_number_of_requests() {
    let (server, bus) = place().await;
    let task_type = TaskType::new("image.thumbnail").expect("valid");
    let registry = bus.bucket(BUCKET_REGISTRY).await.expect("made");
    let entry = TypeEntry::new(QueueName::new("pictures").expect("valid"));
    registry.put(&registry_type(&task_type), &entry).await.expect("announced");
    let client = Client::connect(server.url()).await.expect("connected");
    let submits = (0..HANDLES).map(|_| client.submit_json("image.thumbnail", b"{}".to_vec()));
    let handles = client.submit_all(submits.collect::<Vec<_>>()).await;
    let mut handles: Vec<TaskHandle<Box<RawValue>>> = handles.into_iter().map(|one| one.expect("accepted")).collect();
    let prefix = format!("$JS.API.DIRECT.GET.{STREAM_DONE}.");
    let mut requests = bus.subscribe(&format!("{prefix}>")).await.expect("subscribed");
    let begun = Instant::now();
    // As a client in any language completes a task: one publish, and nobody is told.
    let ended: Vec<TaskId> = handles.iter().step_by(EVERY).map(|handle| handle.id().clone()).collect();
    let out = |id: &TaskId| Outgoing {
        subject: done(&task_type, id),
        headers: Headers::from(vec![(header::OUTCOME.to_owned(), "succeeded".to_owned())]),
        body: "1".into(),
        message_id: None,
        expect: Expect::Absent,
    };
    for stored in bus.publish_all(ended.iter().map(out).collect()).await {
        stored.expect("an answer").or_refused("a completion").expect("stored");
    }
    let ended: HashSet<TaskId> = ended.into_iter().collect();
    let (of_ended, open): (Vec<_>, Vec<_>) = handles.iter_mut().partition(|handle| ended.contains(handle.id()));
    let found = futures::future::join_all(of_ended.into_iter().map(TaskHandle::completion));
    let found = tokio::time::timeout(FOUND_WITHIN, found).await.expect("each is found in time");
    assert_eq!(found.into_iter().filter(Result::is_ok).count(), HANDLES / EVERY);
    let found_after = begun.elapsed();
    let mut looked_up = HashMap::<String, usize>::new();
    // The last that this subscription is to hear.
    bus.send(format!("{prefix}end"), Headers::new(), Vec::new().into()).await.expect("sent");
    while let Some(request) = requests.next().await.filter(|request| !request.subject.ends_with(".end")) {
        *looked_up.entry(request.subject).or_default() += 1;
    }
    let all: usize = looked_up.values().sum();
    eprintln!("{} handles, {} found after {found_after:?} by {all} requests", HANDLES, ended.len());
    assert!(all <= ROUNDS * HANDLES, "{all} requests");
    assert!(looked_up.values().all(|requests| *requests <= ROUNDS), "nobody is looked up more than once a round");
    assert!(open.into_iter().all(|handle| handle.completion().now_or_never().is_none()), "the others wait on");
}
