//! What the callback service promises, against a real nats-server and a receiver that verifies
//! signatures with the reference library.

mod busy;
mod lists;
mod receiver;
mod stage;
mod unreadable;

use jetlane_callback::endpoint::{EndpointSettings, UrlsInTasks};
use jetlane_callback::{Settings, signature::Secret};
use jetlane_schemas::header::{CE_ID, DELIVERY, MSG_ID, REASON, SCHEDULE_TARGET, TASK_ID, TASK_TYPE};
use jetlane_schemas::subject::{self, DEAD_CALLBACK_ALL, SCHEDULE_ALL, STREAM_DEAD, STREAM_TASKS, STREAM_TIME};
use jetlane_schemas::{Callback, Outcome, Priority, TaskId, TaskType, intake};
use receiver::Receiver;
use serde_json::json;
use stage::{Stage, completion, reasons};

fn webhook(endpoint: &str) -> Callback {
    Callback::Webhook { endpoint: endpoint.into() }
}

fn endpoint(url: &str, secrets: &[String]) -> EndpointSettings {
    let secrets = secrets.iter().cloned().map(Into::into).collect();
    EndpointSettings { url: url.into(), secrets, allow_private_addresses: true }
}

fn settings(url: &str, secrets: &[String]) -> Settings {
    Settings { endpoints: [("hook".to_owned(), endpoint(url, secrets))].into(), ..Settings::default() }
}

fn may_follow(types: &[&str]) -> Settings {
    Settings { follow_ups: types.iter().map(ToString::to_string).collect(), ..Settings::default() }
}

#[tokio::test]
async fn a_webhook_arrives_signed_with_every_secret_and_within_the_trace() {
    let mut receiver = Receiver::start(&[]).await;
    let secrets = [Secret::generate(), Secret::generate()];
    let stage = Stage::open().await;
    let service = stage.start(&settings(&receiver.url("/done?x=1"), &secrets));
    let mut done = completion("s1", Outcome::Succeeded, br#"{"width":320}"#, vec![webhook("hook")]);
    done.trace.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    stage.complete(&done).await;

    let received = receiver.next().await;
    assert_eq!(received.line, "POST /done?x=1 HTTP/1.1");
    assert_eq!(received.header("webhook-id"), "image/thumbnail:s1:0");
    assert_eq!(received.header("content-type"), "application/json");
    assert!(received.header("traceparent").contains("0af7651916cd43dd8448eb211c80319c"));
    for secret in &secrets {
        received.verify(secret);
    }
    let body = received.json();
    assert_eq!((&body["id"], &body["type"]), (&json!("s1"), &json!("image.thumbnail")));
    assert_eq!((&body["outcome"], &body["output"]["width"]), (&json!("succeeded"), &json!(320)));
    let counts = service.stop().await;
    assert_eq!((counts.delivered(), counts.again(), counts.dead()), (1, 0, 0));
    assert_eq!(stage.unanswered().await, 0, "the completion is not acked");
}

#[tokio::test]
async fn what_fails_waits_in_the_broker_and_is_delivered_by_whoever_runs_then_under_the_same_id() {
    let mut receiver = Receiver::start(&["503 Busy\r\nretry-after: 1"]).await;
    let secrets = [Secret::generate()];
    let stage = Stage::open().await;
    let mut schedules = stage.bus.subscribe(SCHEDULE_ALL).await.expect("subscribed");
    let first = stage.start(&settings(&receiver.url("/"), &secrets));
    stage.complete(&completion("s1", Outcome::Failed, b"disk full", vec![webhook("hook")])).await;

    let refused = receiver.next().await;
    let scheduled = schedules.next().await.expect("a schedule");
    assert_eq!(scheduled.subject, "jetlane.schedule.callback.s1.0.image.thumbnail");
    assert_eq!(scheduled.headers.get(SCHEDULE_TARGET), Some("jetlane.callback.image.thumbnail.s1.0"));
    assert_eq!(scheduled.headers.get(DELIVERY), Some("1"));
    let counts = first.stop().await;
    assert_eq!((counts.delivered(), counts.again(), counts.dead()), (0, 1, 0));
    assert_eq!(stage.unanswered().await, 0, "the completion is not acked");

    let second = stage.start(&settings(&receiver.url("/"), &secrets));
    let taken = receiver.next().await;
    assert!(taken.at >= refused.at + jetlane_callback::rules::PAUSES[0], "the receiver was hurried");
    assert_eq!(
        (refused.header("webhook-id"), taken.header("webhook-id")),
        ("image/thumbnail:s1:0", "image/thumbnail:s1:0")
    );
    assert_eq!(refused.body, taken.body);
    taken.verify(&secrets[0]);
    assert_eq!(taken.json()["error"]["message"], "disk full");
    assert_eq!(second.stop().await.delivered(), 1);
    let left = stage.bus.subject_counts(STREAM_TIME, ">").await.expect("counted");
    assert!(left.is_empty(), "left in the broker: {left:?}");
}

#[tokio::test]
async fn a_receiver_that_is_gone_gets_nothing_more_and_its_callbacks_are_kept() {
    let mut receiver = Receiver::start(&["410 Gone"]).await;
    let stage = Stage::open().await;
    let mut dead = stage.bus.subscribe(DEAD_CALLBACK_ALL).await.expect("subscribed");
    let service = stage.start(&settings(&receiver.url("/"), &[Secret::generate()]));
    for id in ["s1", "s2"] {
        stage.complete(&completion(id, Outcome::Succeeded, b"7", vec![webhook("hook")])).await;
        let letter = dead.next().await.expect("a dead letter");
        assert_eq!(letter.subject, format!("jetlane.dead_callback.image.thumbnail.{id}.0"));
        assert_eq!(letter.body.as_ref(), b"7");
        assert!(intake::percent_decode(letter.headers.get(REASON).expect("a reason")).contains("410"));
    }
    let counts = service.stop().await;
    assert_eq!((counts.delivered(), counts.dead()), (0, 2));
    assert_eq!(receiver.next().await.header("webhook-id"), "image/thumbnail:s1:0");
    assert!(receiver.is_quiet(), "the second was sent to a receiver that is gone");
    let kept = stage.bus.subject_counts(STREAM_DEAD, DEAD_CALLBACK_ALL).await.expect("counted");
    assert_eq!(kept.len(), 2);
}

#[tokio::test]
async fn what_may_not_be_sent_is_kept_with_the_reason_and_its_neighbours_are_delivered() {
    let mut receiver = Receiver::start(&[]).await;
    let stage = Stage::open().await;
    let mut dead = stage.bus.subscribe(DEAD_CALLBACK_ALL).await.expect("subscribed");
    let url = receiver.url("/");
    let mut typed = settings(&url, &[Secret::generate()]);
    let bad = [webhook("nobody"), webhook(&url), webhook("hook")];

    let service = stage.start(&typed);
    stage.complete(&completion("s1", Outcome::Succeeded, b"1", bad.to_vec())).await;
    assert_eq!(receiver.next().await.header("webhook-id"), "image/thumbnail:s1:2");
    let mut kept = reasons(&mut dead, 2).await;
    assert!(kept.remove("jetlane.dead_callback.image.thumbnail.s1.0").expect("kept").contains("no endpoint"));
    assert!(kept.remove("jetlane.dead_callback.image.thumbnail.s1.1").expect("kept").contains("URL in a task"));
    assert_eq!(service.stop().await.delivered(), 1);

    // Allowed, a URL still never leads into this network.
    typed.urls_in_tasks = UrlsInTasks::Public;
    let service = stage.start(&typed);
    let named = url.replace("127.0.0.1", "localhost");
    stage.complete(&completion("s2", Outcome::Succeeded, b"1", vec![webhook(&url), webhook(&named)])).await;
    assert!(reasons(&mut dead, 2).await.values().all(|reason| reason.contains("is loopback")));
    service.stop().await;
    assert!(receiver.is_quiet(), "a URL of a task reached a loopback address");
}

#[tokio::test]
async fn a_completion_that_any_client_wrote_cannot_make_the_service_publish_into_the_pipeline() {
    let stage = Stage::open().await;
    let mut dead = stage.bus.subscribe(DEAD_CALLBACK_ALL).await.expect("subscribed");
    let mut lanes = stage.bus.subscribe("jetlane.lane.>").await.expect("subscribed");
    let service = stage.start(&Settings::default());
    let callback = Callback::Subject { subject: "jetlane.lane.default.high.any".into() };
    stage.complete(&completion("s1", Outcome::Succeeded, b"1", vec![callback])).await;
    assert!(reasons(&mut dead, 1).await.values().all(|reason| reason.contains("not yours to publish to")));
    service.stop().await;
    stage.bus.flush().await.expect("flushed");
    let heard = tokio::time::timeout(std::time::Duration::ZERO, lanes.next()).await;
    assert!(heard.is_err(), "the service published {heard:?}");
}

#[tokio::test]
async fn a_subject_receives_headers_and_body_of_the_completion() {
    let stage = Stage::open().await;
    let mut heard = stage.bus.subscribe("billing.done").await.expect("subscribed");
    let service = stage.start(&Settings { subjects: vec!["billing.*".into()], ..Settings::default() });
    let callback = Callback::Subject { subject: "billing.done".into() };
    stage.complete(&completion("s1", Outcome::Succeeded, b"{\"n\":1}", vec![callback])).await;
    let message = heard.next().await.expect("a message");
    assert_eq!(message.body.as_ref(), b"{\"n\":1}");
    for (name, value) in [
        (CE_ID, "s1"),
        (TASK_ID, "s1"),
        (TASK_TYPE, "image.thumbnail"),
        (MSG_ID, "image/thumbnail:s1:0"),
        ("ce-jetlaneoutcome", "succeeded"),
    ] {
        assert_eq!(message.headers.get(name), Some(value), "{name}");
    }
    assert_eq!(service.stop().await.delivered(), 1);
}

#[tokio::test]
async fn a_follow_up_inherits_its_parents_priority_unless_it_states_one() {
    let stage = Stage::open().await;
    let mut submitted = stage.bus.subscribe("jetlane.submit.>").await.expect("subscribed");
    let then = |name: &str, priority| Callback::Task {
        task_type: TaskType::new(name).expect("valid"),
        priority,
        callbacks: Vec::new(),
    };
    let service = stage.start(&may_follow(&["mail.*"]));
    let follow_ups = vec![then("mail.send", None), then("mail.log", Some(Priority::Low))];
    let mut parent = completion("s3", Outcome::Succeeded, b"{}", follow_ups);
    parent.priority = Priority::Critical;
    stage.complete(&parent).await;
    let mut priorities = std::collections::BTreeMap::new();
    for _ in 0..2 {
        let task = submitted.next().await.expect("a follow-up");
        priorities.insert(task.subject.clone(), task.headers.get("ce-jetlanepriority").map(str::to_owned));
    }
    assert_eq!(priorities["jetlane.submit.mail.send"].as_deref(), Some("critical"));
    assert_eq!(priorities["jetlane.submit.mail.log"].as_deref(), Some("low"));
    service.stop().await;
}

#[tokio::test]
async fn a_follow_up_is_submitted_once_after_success_alone_with_the_output_as_its_body() {
    let stage = Stage::open().await;
    let mut submitted = stage.bus.subscribe("jetlane.submit.>").await.expect("subscribed");
    let then = || Callback::Task {
        task_type: TaskType::new("mail.send").expect("valid"),
        priority: None,
        callbacks: vec![webhook("hook")],
    };
    let service = stage.start(&may_follow(&["mail.send"]));
    stage.complete(&completion("s1", Outcome::Failed, b"", vec![then()])).await;
    let mut parent = completion("s2", Outcome::Succeeded, b"{\"to\":\"ada\"}", vec![then()]);
    parent.priority = Priority::High;
    stage.complete(&parent).await;

    let task = submitted.next().await.expect("a follow-up");
    let id = TaskId::of_follow_up(&parent.task_type, &parent.id, 0);
    assert_eq!(
        (task.subject.as_str(), task.body.as_ref()),
        ("jetlane.submit.mail.send", b"{\"to\":\"ada\"}".as_slice())
    );
    for (name, value) in [("ce-id", id.as_str()), ("ce-jetlaneparent", "s2"), ("ce-jetlanepriority", "high")] {
        assert_eq!(task.headers.get(name), Some(value), "{name}");
    }
    assert!(task.headers.get("ce-jetlanecallbacks").expect("its own callbacks").contains("hook"));
    assert_eq!(service.stop().await.delivered(), 2);

    // The same callback once more, as past the stream's window: the same task is submitted.
    let mut headers = parent.headers("");
    headers.push(DELIVERY, "0");
    let due = subject::callback(&parent.task_type, &parent.id, 0);
    let (body, expect) = (parent.body.clone().into(), jetlane_bus::publish::Expect::Anything);
    let out = jetlane_bus::Outgoing { subject: due.clone(), headers, body, message_id: None, expect };
    stage.bus.publish(out).await.expect("an answer").or_refused(&due).expect("stored");
    let again = stage.start(&may_follow(&["mail.send"]));
    assert_eq!(submitted.next().await.expect("sent again").headers.get("ce-id"), Some(id.as_str()));
    again.stop().await;
    let stored = stage.bus.subject_counts(STREAM_TASKS, ">").await.expect("counted");
    assert_eq!(stored.into_iter().collect::<Vec<_>>(), [("jetlane.submit.mail.send".to_owned(), 1)]);
}
