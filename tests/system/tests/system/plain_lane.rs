//! Promise: a service in any language needs a NATS client and nothing else: it announces a type with
//! one put, pulls its lane, gives signs of life, publishes the completion, and acks.

use crate::outsider::{Outsider, header, json};
use crate::waits::{announced, drained, until};
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{AckKind, Message};
use futures::StreamExt;
use jetlane::{Executor, Outcome, Task, TaskError};
use jetlane_bus::flows::{LANE_ACK_WAIT, LANE_HOLD_EVERY, PLAIN_DELIVERIES_MAX};
use jetlane_testkit::{Kit, soon};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::{Instant, interval};

/// Doubles a number.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Double {
    n: u32,
}

impl Task for Double {
    const TYPE: &'static str = "test.double";
    type Output = u32;
}

async fn double(task: Double) -> Result<u32, TaskError> {
    Ok(task.n * 2)
}

/// One put announces the type; nothing else is asked of a plain client.
async fn announced_by_an_outsider() -> (Kit, Outsider, PullConsumer) {
    let kit = Kit::start().await;
    let outsider = Outsider::connect(&kit.url()).await;
    outsider.announce(Double::TYPE, r#"{"queue":"plain"}"#).await;
    announced(&kit, Double::TYPE).await;
    let lane = outsider.lane("plain").await;
    (kit, outsider, lane)
}

/// Pulls one task, again and again for as long as a test may take.
async fn pull(lane: &PullConsumer) -> Message {
    soon(async {
        loop {
            // A short pull: for as long as one waits, the lane counts as served.
            let batch = lane.batch().max_messages(1).expires(Duration::from_secs(1)).messages().await;
            if let Some(task) = batch.expect("pulls").next().await {
                return task.expect("a task");
            }
        }
    })
    .await
}

/// The completion as a plain client publishes it: one header of ours, and one that the server arbitrates by.
async fn complete(outsider: &Outsider, task: &Message, outcome: &str, body: &str) {
    let subject = format!("jetlane.done.{}.{}", header(task, "ce-jetlanetype"), header(task, "ce-jetlaneid"));
    let headers = [("ce-jetlaneoutcome", outcome), ("Nats-Expected-Last-Subject-Sequence", "0")];
    outsider.publish(&subject, &headers, body.to_owned()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_client_serves_what_it_announced_and_the_submitter_hears_of_it() {
    let (kit, outsider, lane) = announced_by_an_outsider().await;
    let submit = |n| kit.client().submit(Double { n }).tenant("acme");
    for n in 0..10 {
        let (handle, task) = tokio::join!(async { submit(n).await.expect("accepted") }, pull(&lane));
        let told = ["ce-jetlaneid", "ce-jetlanetype", "ce-jetlanequeue", "ce-jetlaneattempt", "ce-jetlanetenant"];
        let expected = [handle.id().as_str(), Double::TYPE, "plain", "1", "acme"];
        assert_eq!(told.map(|name| header(&task, name)), expected);
        let n = json(&task)["n"].as_u64().expect("a number");
        complete(&outsider, &task, "succeeded", &(n * 2).to_string()).await;
        task.ack().await.expect("acks");
        assert_eq!(u64::from(soon(handle.into_future()).await.expect("succeeds")), n * 2);
    }
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_plain_clients_share_a_lane() {
    const TASKS: usize = 100;
    let (kit, outsider, _) = announced_by_an_outsider().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (outsider, lane) = (Outsider::connect(&kit.url()).await, outsider.lane("plain").await);
        let serving = tokio::spawn(async move {
            loop {
                let mut batch =
                    lane.batch().max_messages(2).expires(Duration::from_secs(2)).messages().await.expect("pulls");
                while let Some(Ok(task)) = batch.next().await {
                    let n = json(&task)["n"].as_u64().expect("a number");
                    complete(&outsider, &task, "succeeded", &(n * 2).to_string()).await;
                    task.ack().await.expect("acks");
                }
            }
        });
        clients.push(serving.abort_handle());
    }
    let submits = (0..TASKS).map(|n| kit.client().submit(Double { n: u32::try_from(n).expect("small") }));
    for (n, handle) in kit.client().submit_all(submits.collect::<Vec<_>>()).await.into_iter().enumerate() {
        let output = soon(handle.expect("accepted").into_future()).await.expect("succeeds");
        assert_eq!(output as usize, 2 * n);
    }
    drained(kit.client().bus(), &[]).await;
    clients.into_iter().for_each(|client| client.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signs_of_life_keep_a_task_beyond_its_lease_and_a_failure_is_told() {
    let (kit, outsider, mut lane) = announced_by_an_outsider().await;
    let (handle, task) =
        tokio::join!(async { kit.client().submit(Double { n: 1 }).await.expect("accepted") }, pull(&lane));
    let until = Instant::now() + LANE_ACK_WAIT + Duration::from_secs(1);
    let mut signs = interval(LANE_HOLD_EVERY);
    while Instant::now() < until {
        signs.tick().await;
        task.ack_with(AckKind::Progress).await.expect("a sign of life");
    }
    let info = lane.info().await.expect("can be read");
    assert_eq!((info.num_redelivered, info.num_ack_pending), (0, 1));
    complete(&outsider, &task, "failed", r#"{"code":"odd","message":"will not double"}"#).await;
    task.ack().await.expect("acks");
    let error = soon(handle.into_future()).await.expect_err("failed");
    assert_eq!(error.outcome(), Some(Outcome::Failed));
    assert!(error.to_string().contains("will not double"), "{error}");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_refused_at_every_delivery_fails_and_is_kept() {
    let (kit, outsider, lane) = announced_by_an_outsider().await;
    let mut handle = kit.client().submit(Double { n: 7 }).await.expect("accepted");
    for delivery in 1..=PLAIN_DELIVERIES_MAX {
        let task = pull(&lane).await;
        assert_eq!(task.info().expect("of a stream").delivered, delivery);
        task.ack_with(AckKind::Nak(None)).await.expect("refuses");
    }
    let done = soon(handle.completion()).await.expect("completes");
    assert_eq!(done.outcome, Outcome::Failed);
    assert_eq!(done.failure().expect("failed").code, "deliveries");
    outsider.dead_letter("plain", Double::TYPE, handle.id().as_str()).await;
    let kept = kit.client().bus().read_dead(&format!("jetlane.dead.plain.{}.{}", Double::TYPE, handle.id())).await;
    assert_eq!(kept.expect("reads").expect("is kept").payload, br#"{"n":7}"#);
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_ended_by_its_client_for_good_fails_with_the_reason() {
    let (kit, outsider, lane) = announced_by_an_outsider().await;
    let (mut handle, task) =
        tokio::join!(async { kit.client().submit(Double { n: 7 }).await.expect("accepted") }, pull(&lane));
    let reply = task.reply.clone().expect("a delivery");
    outsider.client.publish(reply, "+TERM out of ink".into()).await.expect("sent");
    let done = soon(handle.completion()).await.expect("completes");
    assert_eq!(done.outcome, Outcome::Failed);
    let failure = done.failure().expect("failed");
    assert_eq!((failure.code.as_str(), failure.message.as_str()), ("terminated", "out of ink"));
    outsider.dead_letter("plain", Double::TYPE, handle.id().as_str()).await;
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_faster_than_the_dispatcher_hears_of_the_broker_ends_its_tasks_all_the_same() {
    const TASKS: u32 = 300;
    let (kit, outsider, lane) = announced_by_an_outsider().await;
    let serving = tokio::spawn(async move {
        loop {
            let batch = lane.batch().max_messages(8).expires(Duration::from_secs(1)).messages().await;
            let mut batch = batch.expect("pulls");
            while let Some(Ok(task)) = batch.next().await {
                let reply = task.reply.clone().expect("a delivery");
                outsider.client.publish(reply, "+TERM".into()).await.expect("sent");
            }
        }
    });
    let submits = (0..TASKS).map(|n| kit.client().submit(Double { n }));
    for handle in kit.client().submit_all(submits.collect::<Vec<_>>()).await {
        let done = soon(handle.expect("accepted").completion()).await.expect("completes");
        assert_eq!(done.failure().expect("failed").code, "terminated");
    }
    drained(kit.client().bus(), &[]).await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_plain_client_comes_back_for_is_served_by_an_executor_that_starts_later() {
    let (kit, outsider, lane) = announced_by_an_outsider().await;
    // A client that shows up once: its lane is given a few tasks on credit.
    let (first, task) =
        tokio::join!(async { kit.client().submit(Double { n: 1 }).await.expect("accepted") }, pull(&lane));
    complete(&outsider, &task, "succeeded", "2").await;
    task.ack().await.expect("acks");
    assert_eq!(soon(first.into_future()).await.expect("succeeds"), 2);
    let submits = (2..8).map(|n| kit.client().submit(Double { n }));
    let handles = kit.client().submit_all(submits.collect::<Vec<_>>()).await;
    let bus = kit.client().bus();
    let in_lane = "jetlane.lane.plain.normal.any";
    until("tasks lie in the lane", async || {
        !bus.subject_counts("JETLANE_LANES", in_lane).await.expect("counts").is_empty()
    })
    .await;
    until("they are taken back", async || {
        bus.subject_counts("JETLANE_LANES", in_lane).await.expect("counts").is_empty()
    })
    .await;
    kit.serve(Executor::new(kit.client(), "plain").task(double));
    for (n, handle) in (2..8).zip(handles) {
        let mut handle = handle.expect("accepted");
        let done = soon(handle.completion()).await.expect("completes");
        assert_eq!((done.outcome, done.attempt, done.body), (Outcome::Succeeded, 1, (2 * n).to_string().into_bytes()));
    }
    drained(bus, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_task_of_a_plain_client_that_died_is_delivered_to_another() {
    let (kit, outsider, lane) = announced_by_an_outsider().await;
    let (handle, task) =
        tokio::join!(async { kit.client().submit(Double { n: 4 }).await.expect("accepted") }, pull(&lane));
    drop(task);
    let task = pull(&lane).await;
    assert_eq!(task.info().expect("of a stream").delivered, 2);
    complete(&outsider, &task, "succeeded", "8").await;
    task.ack().await.expect("acks");
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), 8);
    drained(kit.client().bus(), &[]).await;
}
