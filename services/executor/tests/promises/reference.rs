//! Promise: the reference types do what they say.

use crate::stage::Stage;
use jetlane::{Completion, Failure, Outcome};
use jetlane_bus::clock;
use jetlane_executor::{Settings, executor};
use jetlane_schemas::frame::Progress;
use jetlane_schemas::{Headers, TaskType, subject};
use serde_json::{Value, json};

#[tokio::test]
async fn every_reference_type_is_served_and_announced() {
    let mut stage = Stage::open().await;
    for value in [json!(null), json!(7), json!("text"), json!({"a": [1, {"b": true}]})] {
        assert_eq!(stage.run("jetlane.echo", value.clone()).await, (Outcome::Succeeded, value));
    }
    let (outcome, slept) = stage.run("jetlane.sleep", json!({ "ms": 30 })).await;
    assert_eq!(outcome, Outcome::Succeeded);
    assert!(slept["slept_ms"].as_u64().expect("a number") >= 30);
    assert_eq!(stage.run("jetlane.fail", json!({ "times": 0 })).await, (Outcome::Succeeded, json!({ "attempt": 1 })));

    let registry = stage.bus.bucket(subject::BUCKET_REGISTRY).await.expect("there");
    for name in ["image.thumbnail", "http.request", "jetlane.echo", "jetlane.sleep", "jetlane.fail"] {
        let key = subject::registry_type(&TaskType::new(name).expect("valid"));
        let entry: Value = registry.get(&key).await.expect("readable").expect("announced");
        assert_eq!(entry["queue"], "default", "{name}");
        assert!(entry["schema"].is_object() || entry["schema"] == json!(true), "{name} has no schema");
    }
    stage.close().await;
}

#[tokio::test]
async fn without_a_pictures_root_thumbnails_are_not_served() {
    let mut stage = Stage::with(|client| executor(client, &Settings::default()).expect("HTTP can be spoken")).await;
    assert_eq!(stage.run("jetlane.echo", json!(1)).await.0, Outcome::Succeeded);
    let registry = stage.bus.bucket(subject::BUCKET_REGISTRY).await.expect("there");
    let key = |name| subject::registry_type(&TaskType::new(name).expect("valid"));
    assert!(registry.get::<Value>(&key("jetlane.echo")).await.expect("readable").is_some());
    assert!(registry.get::<Value>(&key("image.thumbnail")).await.expect("readable").is_none());
    stage.close().await;
}

#[tokio::test]
async fn an_echo_gives_back_the_very_text() {
    let mut stage = Stage::open().await;
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let texts = [r#"{"b":12345678901234567890123,"z":1.10,"a":1}"#, "18446744073709551616", "1e400", &nested];
    for text in texts {
        let mut task = crate::stage::task("jetlane.echo", &Value::Null);
        task.payload = text.as_bytes().to_vec();
        stage.put(&task).await;
        let completion = stage.completion().await;
        assert_eq!(
            (completion.outcome, String::from_utf8_lossy(&completion.body).as_ref()),
            (Outcome::Succeeded, text)
        );
    }
    stage.close().await;
}

#[tokio::test]
async fn what_cannot_succeed_fails_at_once_with_its_reason_and_no_retry() {
    let mut stage = Stage::open().await;
    let text = stage.pictures.path().join("text.png");
    std::fs::write(&text, "no picture").expect("written");
    for (task_type, payload, code, reason) in [
        (
            "image.thumbnail",
            json!({ "path": text, "width": 64 }),
            "unsupported",
            "is no PNG, JPEG, WebP or GIF picture",
        ),
        ("image.thumbnail", json!({ "path": "no/such.png", "width": 64 }), "unreadable", "No such file"),
        ("image.thumbnail", json!({ "path": "/etc/passwd", "width": 64 }), "outside", "outside of the folder"),
        (
            "http.request",
            json!({ "url": "http://169.254.169.254/latest/" }),
            "refused",
            "169.254.169.254 is link-local",
        ),
        ("http.request", json!({ "url": "file:///etc/passwd" }), "refused", "no scheme"),
        ("jetlane.fail", json!({ "times": 9, "permanent": true, "code": "disk" }), "disk", "as it was asked to"),
    ] {
        let (outcome, body) = stage.run(task_type, payload).await;
        let failure: Failure = serde_json::from_value(body).expect("a failure");
        assert_eq!((outcome, failure.code.as_str()), (Outcome::Failed, code), "{failure}");
        assert!(failure.message.contains(reason), "{failure}");
    }
    stage.close().await;
}

#[tokio::test]
async fn a_sleep_tells_its_progress_and_ends_when_it_is_cancelled() {
    let mut stage = Stage::open().await;
    let mut told = stage.bus.subscribe("jetlane.progress.>").await.expect("subscribed");
    let task = stage.dispatch("jetlane.sleep", &json!({ "ms": 2_000 })).await;
    let progress = told.next().await.expect("progress");
    assert_eq!(progress.subject, subject::progress(&task.task_type, &task.id));
    assert_eq!(Progress::decode(&progress.body).expect("a frame").percent, 5);

    // As a client cancels: the completion first, then the word to whoever runs it.
    let cancelled =
        Completion::of(&task, Outcome::Cancelled, clock::now()).with_failure(Failure::new("cancelled", "asked"));
    stage.bus.complete(&cancelled).await.expect("stored");
    stage.bus.send(subject::cancel(&task.task_type, &task.id), Headers::new(), Vec::new().into()).await.expect("sent");
    assert_eq!(stage.completion().await.outcome, Outcome::Cancelled);
    // One slot's task is over when the executor can drain: a sleep that went on would tell more.
    stage.close().await;
    let mut last = 5;
    while let Ok(Some(progress)) = tokio::time::timeout(std::time::Duration::ZERO, told.next()).await {
        last = Progress::decode(&progress.body).expect("a frame").percent;
    }
    assert!(last < 100, "the sleep went on to its end");
}
