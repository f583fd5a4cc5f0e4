//! Promise: whoever speaks NATS submits by publishing JSON, and hears of the end by its id.

use crate::outsider::{Outsider, header, json};
use crate::tasks::{Bench, Echo, Gated, echo, gated};
use crate::waits::{announced, drained};
use jetlane::{Executor, Headers, Outcome, Task, TaskError};
use jetlane_testkit::{Kit, soon};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

const DOOR: &str = "jetlane.submit.test.echo";

/// Returns what it can see of its submission.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Seen {}

impl Task for Seen {
    const TYPE: &'static str = "test.seen";
    type Output = serde_json::Value;
}

async fn seen(_: Seen, ctx: jetlane::Ctx, headers: Headers) -> Result<serde_json::Value, TaskError> {
    let headers: Vec<(&str, &str)> = headers.iter().collect();
    let deadline = ctx.deadline().is_some();
    Ok(serde_json::json!({ "id": ctx.id(), "tenant": ctx.tenant(), "headers": headers, "deadline": deadline }))
}

async fn serving(bench: &Bench) -> (Kit, Outsider) {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").state(bench.clone()).task(echo).task(gated).task(seen));
    announced(&kit, Seen::TYPE).await;
    let outsider = Outsider::connect(&kit.url()).await;
    (kit, outsider)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_json_is_a_task_and_its_completion_is_named_by_its_sequence() {
    let (kit, outsider) = serving(&Bench::default()).await;
    // Plain core NATS: nobody who is told of an ack.
    let (sequence, _) = outsider.publish(DOOR, &[], r#"{"text":"bare"}"#).await;
    let done = outsider.completion(Echo::TYPE, &format!("s{sequence}")).await;
    assert_eq!(json(&done), "bare");
    let attributes = ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-jetlaneoutcome", "ce-jetlaneattempt"];
    let id = format!("s{sequence}");
    let values = attributes.map(|name| header(&done, name));
    assert_eq!(values, ["1.0", &id, "/jetlane/tests", "jetlane.completion", "succeeded", "1"]);
    outsider.client.publish(DOOR, r#"{"text":"unacknowledged"}"#.into()).await.expect("sent");
    let done = outsider.completion(Echo::TYPE, &format!("s{}", sequence + 1)).await;
    assert_eq!(json(&done), "unacknowledged");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_event_in_either_mode_is_a_task_named_by_its_id() {
    let (kit, outsider) = serving(&Bench::default()).await;
    let id = "0190b8f2-7c1e-7000-8000-000000000001";
    let binary = [
        ("CE-Id", id),
        ("ce-source", "/shop"),
        ("ce-specversion", "1.0"),
        ("ce-type", "order"),
        ("ce-jetlanetenant", "Zo%C3%AB%20%26%20co"),
        ("ce-jetlanedeadline", "2999-01-01T00:00:00Z"),
        ("X-User", "ada"),
    ];
    outsider.publish("jetlane.submit.test.seen", &binary, "{}").await;
    let seen = json(&outsider.completion(Seen::TYPE, id).await);
    let expected =
        serde_json::json!({ "id": id, "tenant": "Zoë & co", "headers": [["X-User", "ada"]], "deadline": true });
    assert_eq!(seen, expected);
    let id = "0190b8f2-7c1e-7000-8000-000000000002";
    let event = serde_json::json!({
        "id": id, "source": "/shop", "specversion": "1.0", "type": "order", "jetlanetenant": "Zoë & co",
        "jetlanepriority": "high", "jetlaneretries": 2, "data": {},
    });
    let structured = [("content-type", "application/cloudevents+json")];
    outsider.publish("jetlane.submit.test.seen", &structured, event.to_string()).await;
    let done = outsider.completion(Seen::TYPE, id).await;
    assert_eq!((json(&done)["tenant"].as_str(), header(&done, "ce-jetlanepriority")), (Some("Zoë & co"), "high"));
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_unique_for_its_source_only_is_hashed_with_it() {
    let (kit, outsider) = serving(&Bench::default()).await;
    let mut ids = Vec::new();
    for (source, id) in [("/a", "1"), ("/b", "1"), ("/a", "1.2.3.4.5.6.7.8.9.10.11.12"), ("/a", "äöü%20*>")] {
        outsider.publish(DOOR, &[("ce-id", id), ("ce-source", source)], r#"{"text":"x"}"#).await;
        // The rule of the contract, spelled out in its documents for any language.
        let task_id = jetlane::TaskId::from_cloud_event(source, &id.replace("%20", " "));
        assert!(task_id.as_str().len() == 41 && task_id.as_str().starts_with('e'), "{task_id}");
        outsider.completion(Echo::TYPE, task_id.as_str()).await;
        ids.push(task_id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "no two of them are the same task");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_event_twice_is_one_task() {
    let bench = Bench::default();
    let (kit, outsider) = serving(&bench).await;
    let door = "jetlane.submit.test.gated";
    let message_id = [("Nats-Msg-Id", "order-7")];
    let (sequence, duplicate) = outsider.publish(door, &message_id, r#"{"text":"deduplicated"}"#).await;
    assert!(!duplicate);
    assert_eq!(outsider.publish(door, &message_id, r#"{"text":"deduplicated"}"#).await, (sequence, true));
    bench.gate.0.add_permits(9);
    outsider.completion(Gated::TYPE, &format!("s{sequence}")).await;
    // Without a message id it is stored twice: as one task all the same.
    let event = [("ce-id", "0190b8f2-7c1e-7000-8000-000000000003"), ("ce-source", "/shop")];
    outsider.publish(door, &event, r#"{"text":"the same id"}"#).await;
    outsider.publish(door, &event, r#"{"text":"the same id"}"#).await;
    outsider.completion(Gated::TYPE, event[0].1).await;
    outsider.publish(door, &event, r#"{"text":"the same id"}"#).await;
    drained(kit.client().bus(), &[]).await;
    let began = bench.began.lock().await.clone();
    assert_eq!(began.len(), 2, "{began:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_in_a_header_is_kept_by_the_broker() {
    let (kit, outsider) = serving(&Bench::default()).await;
    let began = Instant::now();
    // Long against the way to the dispatcher: what is due within 0.3 s when it is read runs at once.
    let (sequence, _) = outsider.publish(DOOR, &[("ce-jetlanedelayms", "2500")], r#"{"text":"later"}"#).await;
    let done = outsider.completion(Echo::TYPE, &format!("s{sequence}")).await;
    assert_eq!(json(&done), "later");
    assert!(began.elapsed() >= Duration::from_millis(2_500), "it ran after {:?}", began.elapsed());
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_in_headers_hold() {
    let bench = Bench::default();
    let (kit, outsider) = serving(&bench).await;
    let options = [("ce-jetlanetimeoutms", "50"), ("ce-jetlaneretries", "0"), ("ce-jetlanepriority", "critical")];
    let (sequence, _) = outsider.publish("jetlane.submit.test.gated", &options, r#"{"text":"slow"}"#).await;
    let id = format!("s{sequence}");
    let done = outsider.completion(Gated::TYPE, &id).await;
    let told = ["ce-jetlaneoutcome", "ce-jetlaneattempt", "ce-jetlanepriority"].map(|name| header(&done, name));
    assert_eq!((told, json(&done)["code"].as_str()), (["failed", "1", "critical"], Some("timeout")));
    let past = [("ce-jetlanedeadline", "2001-01-01T00:00:00Z")];
    let (sequence, _) = outsider.publish(DOOR, &past, r#"{"text":"late"}"#).await;
    let done = outsider.completion(Echo::TYPE, &format!("s{sequence}")).await;
    assert_eq!(header(&done, "ce-jetlaneoutcome"), "expired");
    // The SDK waits for it by its id like for any other.
    let id = jetlane::TaskId::new(id).expect("valid");
    let mut handle = kit.client().handle::<Gated>(id).expect("valid");
    assert_eq!(soon(handle.completion()).await.expect("reads").outcome, Outcome::Failed);
    drained(kit.client().bus(), &[]).await;
}
