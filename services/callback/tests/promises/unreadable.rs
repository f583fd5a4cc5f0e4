//! A message that should bring callbacks and cannot be read is kept, never dropped.

use crate::stage::{Stage, completion, reasons};
use crate::webhook;
use jetlane_bus::Outgoing;
use jetlane_bus::publish::Expect;
use jetlane_callback::Settings;
use jetlane_schemas::header::{CALLBACKS, DELIVERY, SCHEDULE};
use jetlane_schemas::subject::{DEAD_CALLBACK_ALL, STREAM_DEAD};
use jetlane_schemas::{Headers, Outcome, TaskType, subject};

async fn publish(stage: &Stage, subject: &str, headers: Headers, body: &[u8]) {
    let body = body.to_vec().into();
    let out = Outgoing { subject: subject.into(), headers, body, message_id: None, expect: Expect::Anything };
    stage.bus.publish(out).await.expect("an answer").or_refused(subject).expect("stored");
}

#[tokio::test]
async fn callback_that_cannot_be_read_is_a_dead_letter_and_its_neighbours_are_delivered() {
    let stage = Stage::open().await;
    let mut dead = stage.bus.subscribe(DEAD_CALLBACK_ALL).await.expect("subscribed");
    let whole = completion("s9", Outcome::Succeeded, b"7", vec![webhook("nobody")]).headers("");
    let with = |name: &str, value: &str| {
        let mut headers: Headers = whole.clone().into_pairs().into_iter().filter(|(known, _)| known != name).collect();
        headers.push(name.to_owned(), value.to_owned());
        headers
    };
    let no_count = whole.clone();
    let bad = [
        ("jetlane.callback.image.thumbnail.s1.0", Headers::new()),
        ("jetlane.callback.image.thumbnail.s2.x", with(DELIVERY, "0")),
        ("jetlane.callback.image.thumbnail.s3.7", with(DELIVERY, "0")),
        ("jetlane.callback.image.thumbnail.s4.0", with(DELIVERY, "many")),
        ("jetlane.callback.image.thumbnail.s5.0", no_count),
        ("jetlane.callback.image.thumbnail.s6.0", with(CALLBACKS, "[")),
        ("jetlane.callback.nothing", with(DELIVERY, "0")),
    ];
    for (subject, headers) in &bad {
        publish(&stage, subject, headers.clone(), b"the body").await;
    }
    let service = stage.start(&Settings::default());
    let kept = reasons(&mut dead, bad.len()).await;
    for (subject, _) in &bad {
        let its: Vec<_> = kept.iter().filter(|(_, reason)| reason.contains(&format!("({subject})"))).collect();
        assert_eq!(its.len(), 1, "{subject} in {kept:?}");
        assert!(its[0].0.starts_with("jetlane.dead_callback.jetlane.unreadable.callback."), "{its:?}");
    }
    let counts = service.stop().await;
    assert_eq!((counts.delivered(), counts.dead()), (0, bad.len() as u64));
    assert_eq!(stage.unanswered().await, 0, "an unreadable message is not acked");
    let (_, _, body) = stage.bus.read_sequence(STREAM_DEAD, 1).await.expect("read").expect("there");
    assert_eq!(body.as_ref(), b"the body");
}

#[tokio::test]
async fn dead_letter_of_an_unreadable_callback_is_no_schedule() {
    let stage = Stage::open().await;
    let mut dead = stage.bus.subscribe(DEAD_CALLBACK_ALL).await.expect("subscribed");
    let service = stage.start(&Settings::default());
    let mut headers = Headers::new();
    headers.push(SCHEDULE, "@at 2000-01-01T00:00:00Z");
    headers.push(jetlane_schemas::header::SCHEDULE_TARGET, "jetlane.callback.a.s1.0");
    publish(&stage, "jetlane.schedule.callback.s1.0.image.thumbnail", headers, b"").await;
    assert_eq!(reasons(&mut dead, 1).await.len(), 1);
    assert_eq!(service.stop().await.dead(), 1);
}

#[tokio::test]
async fn completion_of_a_plain_client_whose_callbacks_cannot_be_read_is_a_dead_letter() {
    let stage = Stage::open().await;
    let task_type = TaskType::new("test.plain").expect("valid");
    let registry = stage.bus.bucket(subject::BUCKET_REGISTRY).await.expect("opened");
    registry.put(&subject::registry_plain(&task_type), &serde_json::json!({})).await.expect("noted");
    let mut dead = stage.bus.subscribe(DEAD_CALLBACK_ALL).await.expect("subscribed");
    let service = stage.start(&Settings::default());
    let mut headers = Headers::new();
    headers.push(CALLBACKS, "[{");
    publish(&stage, "jetlane.done.test.plain.s1", headers, b"{}").await;
    let kept = reasons(&mut dead, 1).await;
    assert!(kept.keys().all(|subject| subject.contains("jetlane.unreadable.completion")), "{kept:?}");
    service.stop().await;
}
