//! Subjects and types that a submitter names are checked against the service's allow-lists.

use crate::may_follow;
use crate::stage::{Stage, completion, reasons};
use jetlane_callback::Settings;
use jetlane_schemas::subject::{DEAD_CALLBACK_ALL, SCHEDULE_ALL, registry_type};
use jetlane_schemas::{Callback, Outcome, QueueName, TaskType, TypeEntry, subject};

fn then(name: &str) -> Callback {
    Callback::Task { task_type: TaskType::new(name).expect("valid"), priority: None, callbacks: Vec::new() }
}

async fn announce(stage: &Stage, task_type: &str, queue: &str) {
    let registry = stage.bus.bucket(subject::BUCKET_REGISTRY).await.expect("opened");
    let entry = TypeEntry::new(QueueName::new(queue).expect("valid"));
    registry.put(&registry_type(&TaskType::new(task_type).expect("valid")), &entry).await.expect("announced");
}

#[tokio::test]
async fn subject_that_is_not_listed_is_never_published_to() {
    let stage = Stage::open().await;
    let mut dead = stage.bus.subscribe(DEAD_CALLBACK_ALL).await.expect("subscribed");
    let mut all = stage.bus.subscribe("payments.>").await.expect("subscribed");
    let to = |subject: &str| Callback::Subject { subject: subject.into() };
    for typed in [Settings::default(), Settings { subjects: vec!["billing.>".into()], ..Settings::default() }] {
        let id = format!("s{}", typed.subjects.len());
        let service = stage.start(&typed);
        stage.complete(&completion(&id, Outcome::Succeeded, b"1", vec![to("payments.refund")])).await;
        assert!(reasons(&mut dead, 1).await.values().all(|reason| reason.contains("payments.refund is not allowed")));
        service.stop().await;
    }
    stage.bus.flush().await.expect("flushed");
    let heard = tokio::time::timeout(std::time::Duration::ZERO, all.next()).await;
    assert!(heard.is_err(), "the service published {heard:?}");
}

#[tokio::test]
async fn follow_up_of_another_queue_is_submitted_only_where_it_is_listed() {
    let stage = Stage::open().await;
    announce(&stage, "image.thumbnail", "default").await;
    announce(&stage, "image.sharpen", "default").await;
    announce(&stage, "money.pay", "bank").await;
    let mut dead = stage.bus.subscribe(DEAD_CALLBACK_ALL).await.expect("subscribed");
    let mut submitted = stage.bus.subscribe("jetlane.task.>").await.expect("subscribed");

    let service = stage.start(&Settings::default());
    let both = vec![then("money.pay"), then("image.sharpen")];
    stage.complete(&completion("s1", Outcome::Succeeded, b"1", both)).await;
    let kept = reasons(&mut dead, 1).await;
    assert!(kept["jetlane.dead_callback.image.thumbnail.s1.0"].contains("queue bank"), "{kept:?}");
    assert!(submitted.next().await.expect("a follow-up").subject.starts_with("jetlane.task.default."));
    assert_eq!(service.stop().await.delivered(), 1);

    let service = stage.start(&may_follow(&["money.*"]));
    stage.complete(&completion("s2", Outcome::Succeeded, b"1", vec![then("money.pay")])).await;
    assert!(submitted.next().await.expect("a follow-up").subject.starts_with("jetlane.task.bank."));
    service.stop().await;
}

#[tokio::test]
async fn follow_up_that_nobody_has_announced_is_asked_again_later() {
    let stage = Stage::open().await;
    announce(&stage, "image.thumbnail", "default").await;
    let mut schedules = stage.bus.subscribe(SCHEDULE_ALL).await.expect("subscribed");
    let service = stage.start(&Settings::default());
    stage.complete(&completion("s1", Outcome::Succeeded, b"1", vec![then("image.later")])).await;
    assert_eq!(schedules.next().await.expect("a schedule").subject, "jetlane.schedule.callback.s1.0.image.thumbnail");
    announce(&stage, "image.later", "default").await;
    let mut submitted = stage.bus.subscribe("jetlane.task.>").await.expect("subscribed");
    submitted.next().await.expect("submitted once it is announced");
    assert_eq!(service.stop().await.dead(), 0);
}
