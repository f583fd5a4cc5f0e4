//! Promise: a subscriber hears of the completions that it asked for, and a durable one of all of them.

use crate::tasks::{Bench, Echo, Flaky, How, echo, flaky};
use crate::waits::announced;
use futures::FutureExt;
use jetlane::{Client, Executor, Outcome, Received, Subscribed, Task};
use jetlane_testkit::{Kit, soon};
use std::collections::BTreeSet;
use std::time::Duration;

async fn serving() -> Kit {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").state(Bench::default()).task(echo).task(flaky));
    announced(&kit, Flaky::TYPE).await;
    kit
}

async fn run(client: &Client, text: &str) {
    let handle = client.submit(Echo { text: text.into() }).await.expect("accepted");
    soon(handle.into_future()).await.expect("succeeds");
}

async fn fail(client: &Client) {
    let mut handle = client.submit(Flaky { failures: 9, how: How::Permanent }).await.expect("accepted");
    assert_eq!(soon(handle.completion()).await.expect("completes").outcome, Outcome::Failed);
}

async fn next(subscribed: &mut Subscribed) -> Received {
    soon(subscribed.next()).await.expect("the connection is open").expect("a completion")
}

fn text(received: &Received) -> String {
    serde_json::from_slice(&received.completion.body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_subscriber_hears_of_what_completes_from_now_on() {
    let kit = serving().await;
    run(kit.client(), "before").await;
    let mut all = kit.client().completions().await.expect("subscribes");
    let mut kept = kit.client().completions().of::<Echo>().from_the_beginning().await.expect("subscribes");
    fail(kit.client()).await;
    run(kit.client(), "after").await;
    let failed = next(&mut all).await;
    assert_eq!((failed.completion.outcome, failed.completion.task_type.as_str()), (Outcome::Failed, Flaky::TYPE));
    failed.ack().await.expect("acks");
    assert_eq!(text(&next(&mut all).await), "after");
    assert_eq!([text(&next(&mut kept).await), text(&next(&mut kept).await)], ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_hears_of_the_types_and_outcomes_that_it_asked_for() {
    let kit = serving().await;
    let failures = kit.client().completions().outcome(Outcome::Failed).outcome(Outcome::Rejected);
    let mut failures = failures.await.expect("subscribes");
    let mut echoes = kit.client().completions().of::<Echo>().outcome(Outcome::Succeeded).await.expect("subscribes");
    run(kit.client(), "one").await;
    fail(kit.client()).await;
    let mut bad = kit.client().submit_json(Echo::TYPE, b"{}".to_vec()).await.expect("accepted");
    soon(bad.completion()).await.expect("completes");
    run(kit.client(), "two").await;
    assert_eq!([text(&next(&mut echoes).await), text(&next(&mut echoes).await)], ["one", "two"]);
    let outcomes = [next(&mut failures).await, next(&mut failures).await].map(|received| received.completion.outcome);
    assert_eq!(outcomes, [Outcome::Failed, Outcome::Rejected]);
    assert!(failures.next().now_or_never().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_subscriber_goes_on_where_it_left_off() {
    let kit = serving().await;
    let subscribe = async || kit.another_client().await.completions().of::<Echo>().durable("billing").await;
    let mut first = subscribe().await.expect("subscribes");
    run(kit.client(), "one").await;
    let received = next(&mut first).await;
    assert_eq!(text(&received), "one");
    received.ack().await.expect("acks");
    drop(first);
    // Nobody listens now, and nothing is lost.
    run(kit.client(), "two").await;
    run(kit.client(), "three").await;
    let mut second = subscribe().await.expect("subscribes");
    assert_eq!([text(&next(&mut second).await), text(&next(&mut second).await)], ["two", "three"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_subscriber_survives_the_server() {
    let mut kit = serving().await;
    let mut subscribed = kit.client().completions().of::<Echo>().durable("billing").await.expect("subscribes");
    run(kit.client(), "before").await;
    let received = next(&mut subscribed).await;
    assert_eq!(text(&received), "before");
    received.ack().await.expect("acks");
    kit.client().bus().flush().await.expect("sent");
    kit.server().kill().await;
    kit.server().restart().await.expect("the server starts again");
    run(kit.client(), "after").await;
    loop {
        // Delivered at least once: an ack may have died with the server.
        let received = next(&mut subscribed).await;
        if text(&received) == "after" {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_one_name_share_the_completions() {
    let kit = serving().await;
    let (one, other) = (kit.another_client().await, kit.another_client().await);
    let mut one = one.completions().of::<Echo>().durable("billing").await.expect("subscribes");
    let mut other = other.completions().of::<Echo>().durable("billing").await.expect("subscribes");
    let mut heard = BTreeSet::new();
    for number in 0..20 {
        run(kit.client(), &number.to_string()).await;
        let received = tokio::select! {
            received = next(&mut one) => received,
            received = next(&mut other) => received,
        };
        assert!(heard.insert(text(&received)), "heard twice: {received:?}");
        received.ack().await.expect("acks");
    }
    assert_eq!(heard.len(), 20);
    assert!(one.next().now_or_never().is_none() && other.next().now_or_never().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_that_is_put_off_comes_again() {
    let kit = serving().await;
    let mut subscribed = kit.client().completions().of::<Echo>().durable("billing").await.expect("subscribes");
    run(kit.client(), "again").await;
    let received = next(&mut subscribed).await;
    received.still_at_it().await.expect("is held");
    received.again_after(Duration::from_millis(50)).await.expect("is put off");
    let received = next(&mut subscribed).await;
    assert_eq!(text(&received), "again");
    received.ack().await.expect("acks");
}
