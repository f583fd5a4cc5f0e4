//! Promise: what failed for good is sent again by choice, and begins anew.

use crate::tasks::{Bench, Flaky, How, flaky};
use crate::waits::{announced, drained, until, until_some};
use jetlane::{Client, Executor, Outcome, Submit, Task};
use jetlane_bus::letters::{Letter, Resent};
use jetlane_schemas::subject::{DEAD_ALL, STREAM_DEAD};
use jetlane_testkit::{Kit, soon};

async fn letters(client: &Client) -> Vec<Letter> {
    client.bus().dead_letters(DEAD_ALL, 1, 10).await.expect("read").0
}

async fn letter(client: &Client) -> Letter {
    until_some("it is kept", async || letters(client).await.pop()).await
}

/// Submits a task that fails at each of its three attempts, sends it again, and counts the attempts of both lives.
async fn two_lives(submit: impl Fn(Submit<u32>) -> Submit<u32>) {
    let (kit, bench) = (Kit::start().await, Bench::default());
    kit.serve(Executor::new(kit.client(), "tests").state(bench.clone()).task(flaky));
    announced(&kit, Flaky::TYPE).await;
    let task = Flaky { failures: 9, how: How::Error };
    let mut first = submit(kit.client().submit(task)).await.expect("accepted");
    assert_eq!(soon(first.completion()).await.expect("ends").outcome, Outcome::Failed);
    let kept = letter(kit.client()).await;
    assert!(kept.reason.contains("not yet"), "{}", kept.reason);
    drained(kit.client().bus(), &[]).await;
    for life in 1..=2 {
        let kept = letter(kit.client()).await;
        assert_eq!(kit.client().resend(&kept).await.expect("sent"), Resent::Stored);
        until("it has failed again", async || {
            letters(kit.client()).await.iter().any(|letter| letter.sequence > kept.sequence)
        })
        .await;
        let began = bench.begun(3 * (life + 1)).await;
        let attempts: Vec<u32> = began.iter().map(|(_, attempt)| *attempt).collect();
        assert_eq!(attempts, [1, 2, 3].repeat(life + 1), "each life has all its attempts");
        drained(kit.client().bus(), &[]).await;
    }
    let counts = kit.client().bus().subject_counts(STREAM_DEAD, DEAD_ALL).await.expect("counts");
    assert_eq!(counts.values().sum::<u64>(), 1, "of the last life alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_that_is_sent_again_has_all_its_attempts_and_is_kept_when_it_fails_again() {
    two_lives(|submit| submit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_of_a_key_that_is_sent_again_has_all_its_attempts_and_is_kept_when_it_fails_again() {
    two_lives(|submit| submit.key("order-7")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_without_retries_that_is_sent_again_begins_once_more() {
    let (kit, bench) = (Kit::start().await, Bench::default());
    kit.serve(Executor::new(kit.client(), "tests").state(bench.clone()).task(flaky));
    announced(&kit, Flaky::TYPE).await;
    let submit = kit.client().submit(Flaky { failures: 9, how: How::Permanent }).retries(0);
    let handle = submit.await.expect("accepted");
    let kept = letter(kit.client()).await;
    assert_eq!(kit.client().resend(&kept).await.expect("sent"), Resent::Stored);
    bench.begun(2).await;
    let again = until_some("it is kept again", async || {
        letters(kit.client()).await.into_iter().find(|letter| letter.sequence > kept.sequence)
    })
    .await;
    assert!(again.reason.contains("it will never do"), "it has not crashed: {}", again.reason);
    assert_eq!(handle.id(), &again.id);
}
