//! Promise: what is submitted is run, and whoever waits hears of it.

use crate::outsider::Outsider;
use crate::tasks::{Bench, Echo, Flaky, Gated, How, echo, flaky, gated};
use crate::waits::{announced, drained};
use futures::StreamExt;
use jetlane::{Error, Executor, Outcome, Priority, Task, TaskId};
use jetlane_schemas::frame::encode_told;
use jetlane_schemas::subject::{acked, told_ahead};
use jetlane_schemas::{Completion, Micros, QueueName, TaskEvent};
use jetlane_testkit::{Kit, soon};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

async fn kit_with(bench: &Bench, slots: usize) -> Kit {
    let kit = Kit::start().await;
    kit.serve(
        Executor::new(kit.client(), "tests").state(bench.clone()).slots(slots).task(echo).task(gated).task(flaky),
    );
    // Announced: what is submitted from here on goes by the SDK's door.
    soon(async {
        while kit.client().task_type(&jetlane::Client::type_of::<Flaky>().expect("valid")).is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    kit
}

fn text(text: &str) -> Echo {
    Echo { text: text.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submitted_task_is_run_and_its_output_comes_back() {
    let kit = kit_with(&Bench::default(), 4).await;
    let handle = kit.client().submit(text("hello")).await.expect("accepted");
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_submitted_before_its_type_is_known_waits_and_then_runs() {
    let kit = Kit::start().await;
    let handle = kit.client().submit(text("early")).await.expect("accepted");
    assert!(!handle.accepted().expect("just accepted").known);
    kit.serve(Executor::new(kit.client(), "tests").task(echo));
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "early");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_hears_the_outcome_by_the_id_before_and_after_it_ends() {
    let bench = Bench::default();
    let kit = kit_with(&bench, 4).await;
    let handle = kit.client().submit(Gated { text: "x".into() }).await.expect("accepted");
    let (another, id) = (kit.another_client().await, handle.id().clone());
    let waiting = tokio::spawn(another.handle::<Gated>(id.clone()).expect("valid").into_future());
    bench.begun(1).await;
    bench.gate.0.add_permits(1);
    assert_eq!(soon(waiting).await.expect("no panic").expect("succeeds"), "x");
    let after = another.handle::<Gated>(id).expect("valid");
    assert_eq!(soon(after.into_future()).await.expect("succeeds"), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_at_once_all_come_back_in_order() {
    let kit = kit_with(&Bench::default(), 32).await;
    let submits = (0..2_000).map(|number| kit.client().submit(text(&number.to_string())));
    let handles = kit.client().submit_all(submits).await;
    for (number, handle) in handles.into_iter().enumerate() {
        let output = soon(handle.expect("accepted").into_future()).await.expect("succeeds");
        assert_eq!(output, number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_tasks_overtake_those_that_wait() {
    let bench = Bench::default();
    let kit = kit_with(&bench, 1).await;
    let submit = |name: &str, priority| kit.client().submit(Gated { text: name.into() }).priority(priority);
    submit("first", Priority::Low).await.expect("accepted");
    bench.begun(1).await;
    // One waits at the executor already; of the others the urgent ones come first.
    for number in 0..8 {
        submit(&format!("low-{number}"), Priority::Low).await.expect("accepted");
    }
    for number in 0..3 {
        submit(&format!("critical-{number}"), Priority::Critical).await.expect("accepted");
    }
    bench.gate.0.add_permits(12);
    let order: Vec<String> = bench.begun(12).await.into_iter().map(|(text, _)| text).collect();
    let last_critical = order.iter().rposition(|text| text.starts_with("critical")).expect("ran");
    assert!(last_critical <= 6, "critical tasks ran late: {order:?}");
    let lows: Vec<&String> = order.iter().filter(|text| text.starts_with("low")).collect();
    assert!(lows.is_sorted(), "first in, first out within a priority: {order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_task_does_not_run_before_its_time() {
    let kit = kit_with(&Bench::default(), 4).await;
    let submitted = SystemTime::now();
    let handle = kit.client().submit(text("later")).delay(Duration::from_millis(700)).await.expect("accepted");
    soon(handle.into_future()).await.expect("succeeds");
    assert!(submitted.elapsed().expect("the clock goes on") >= Duration::from_millis(700));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_has_not_started_by_its_deadline_expires() {
    let bench = Bench::default();
    let kit = kit_with(&bench, 1).await;
    kit.client().submit(Gated { text: "long".into() }).await.expect("accepted");
    bench.begun(1).await;
    let handle = kit.client().submit(text("x")).deadline(SystemTime::now() + Duration::from_millis(100));
    let handle = handle.await.expect("accepted");
    let late = tokio::time::Instant::now() + Duration::from_millis(150);
    tokio::time::sleep_until(late).await;
    bench.gate.0.add_permits(1);
    let error = soon(handle.into_future()).await.expect_err("expires");
    assert_eq!(error.outcome(), Some(Outcome::Expired), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_is_the_same_task() {
    let bench = Bench::default();
    let kit = kit_with(&bench, 4).await;
    let submit = || kit.client().submit(Gated { text: "once".into() }).key("order-7");
    let (first, second) = (submit().await.expect("accepted"), submit().await.expect("accepted"));
    assert_eq!(first.id(), second.id());
    assert!(second.accepted().expect("just accepted").duplicate);
    bench.gate.0.add_permits(2);
    soon(first.into_future()).await.expect("succeeds");
    soon(second.into_future()).await.expect("succeeds");
    assert_eq!(bench.began.lock().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_attempt_is_retried_and_the_last_failure_is_kept_as_a_dead_letter() {
    let kit = kit_with(&Bench::default(), 4).await;
    for how in [How::Error, How::Panic, How::Timeout] {
        let handle = kit.client().submit(Flaky { failures: 1, how }).await.expect("accepted");
        assert_eq!(soon(handle.into_future()).await.expect("the second attempt succeeds"), 2, "{how:?}");
        let mut handle = kit.client().submit(Flaky { failures: 9, how }).await.expect("accepted");
        let done = soon(handle.completion()).await.expect("completes");
        assert_eq!((done.outcome, done.attempt), (Outcome::Failed, 3), "{how:?}");
        assert!(dead(&kit, handle.id(), Flaky::TYPE).await, "{how:?}: no dead letter");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_for_good_is_not_retried() {
    let bench = Bench::default();
    let kit = kit_with(&bench, 4).await;
    let mut handle = kit.client().submit(Flaky { failures: 9, how: How::Permanent }).await.expect("accepted");
    let done = soon(handle.completion()).await.expect("completes");
    assert_eq!((done.outcome, done.attempt), (Outcome::Failed, 1));
    assert_eq!(done.failure().expect("failed").code, "no_use");
    assert_eq!(bench.began.lock().await.len(), 1);
}

/// Whether a dead letter is kept; it is stored right after the completion.
async fn dead(kit: &Kit, id: &TaskId, task_type: &str) -> bool {
    let queue = jetlane::QueueName::new("tests").expect("valid");
    let subject = jetlane_schemas::subject::dead(&queue, &task_type.parse().expect("valid"), id);
    soon(async {
        loop {
            if kit.client().bus().read_dead(&subject).await.expect("reads").is_some() {
                return true;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_task_does_not_run_and_a_running_one_stops() {
    let bench = Bench::default();
    let kit = kit_with(&bench, 1).await;
    let running = kit.client().submit(Gated { text: "running".into() }).await.expect("accepted");
    bench.begun(1).await;
    let mut waiting = Vec::new();
    for number in 0..4 {
        waiting.push(kit.client().submit(Gated { text: format!("waiting-{number}") }).await.expect("accepted"));
    }
    let last = waiting.pop().expect("four were submitted");
    assert_eq!(last.cancel().await.expect("cancels"), Outcome::Cancelled);
    assert_eq!(running.cancel().await.expect("cancels"), Outcome::Cancelled);
    for handle in [last, running] {
        let error = soon(handle.into_future()).await.expect_err("cancelled");
        assert_eq!(error.outcome(), Some(Outcome::Cancelled));
    }
    // The cancelled one has stopped, or it could take a permit that is meant for another.
    bench.begun(2).await;
    bench.gate.0.add_permits(3);
    for handle in waiting {
        soon(handle.into_future()).await.expect("the others are untouched");
    }
    assert!(!bench.began.lock().await.iter().any(|(text, _)| text == "waiting-3"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_completed_cannot_be_cancelled() {
    let kit = kit_with(&Bench::default(), 4).await;
    let mut handle = kit.client().submit(text("x")).await.expect("accepted");
    soon(handle.completion()).await.expect("completes");
    assert_eq!(handle.cancel().await.expect("asks"), Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_ends_when_the_caller_says_so_and_the_task_goes_on() {
    let bench = Bench::default();
    let kit = kit_with(&bench, 4).await;
    let handle = kit.client().submit(Gated { text: "x".into() }).await.expect("accepted");
    let id = handle.id().clone();
    let error = handle.within(Duration::from_millis(50)).await.expect_err("has not ended");
    assert!(matches!(error, Error::Waited { .. }), "{error}");
    bench.gate.0.add_permits(1);
    soon(kit.client().handle::<Gated>(id).expect("valid").into_future()).await.expect("succeeds");
}

/// How many messages the server has sent to a subscription of this connection.
async fn heard_so_far(outsider: &Outsider, heard: &mut async_nats::Subscriber) -> usize {
    outsider.round_trip().await;
    let mut messages = 0;
    while futures::FutureExt::now_or_never(heard.next()).flatten().is_some() {
        messages += 1;
    }
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_submissions_go_in_few_messages_and_each_is_a_task_of_its_own() {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").slots(64).task(echo));
    announced(&kit, Echo::TYPE).await;
    let outsider = Outsider::connect(&kit.url()).await;
    let mut published = outsider.listen("jetlane.task.>").await;
    let text = |number: usize| Echo { text: number.to_string() };
    let mut submits: Vec<_> = (0..600).map(|number| kit.client().submit(text(number))).collect();
    // One that is no good is told by itself; a key's message id is made of the key, so it goes alone.
    submits[7] = kit.client().submit(text(7)).retries(1_000_000);
    submits[8] = kit.client().submit(text(8)).key("eight");
    let handles = kit.client().submit_all(submits).await;
    assert_eq!(handles.len(), 600);
    for (number, handle) in handles.into_iter().enumerate() {
        match handle {
            Ok(handle) => {
                let output = soon(handle.into_future()).await.expect("succeeds");
                assert_eq!(output, number.to_string(), "answers have the order of the submissions");
            }
            Err(error) => assert_eq!(number, 7, "{error}"),
        }
    }
    let messages = heard_so_far(&outsider, &mut published).await;
    assert!((2..=12).contains(&messages), "{messages} messages");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bundles_of_submissions_can_be_turned_off() {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").task(echo));
    announced(&kit, Echo::TYPE).await;
    let outsider = Outsider::connect(&kit.url()).await;
    let mut published = outsider.listen("jetlane.task.>").await;
    let client = kit.client().clone().bundle_at_most(1);
    // More than are waited for together.
    let handles = client.submit_all((0..100).map(|n: u32| client.submit(Echo { text: n.to_string() }))).await;
    let mut sequences = BTreeSet::new();
    for (number, handle) in handles.into_iter().enumerate() {
        let handle = handle.expect("accepted");
        sequences.extend(handle.accepted().map(|accepted| accepted.sequence));
        let output = soon(handle.into_future()).await.expect("succeeds");
        assert_eq!(output, number.to_string(), "answers have the order of the submissions");
    }
    assert_eq!(sequences.len(), 100, "each is told its own message's");
    assert_eq!(heard_so_far(&outsider, &mut published).await, 100, "a message a task");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submissions_of_many_callers_share_messages_while_others_are_under_way() {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").slots(64).task(echo));
    announced(&kit, Echo::TYPE).await;
    let outsider = Outsider::connect(&kit.url()).await;
    let mut published = outsider.listen("jetlane.task.>").await;
    let text = |number: usize| Echo { text: number.to_string() };
    let callers = (0..400).map(|number| kit.client().submit(text(number)).into_future());
    for (number, handle) in futures::future::join_all(callers).await.into_iter().enumerate() {
        let output = soon(handle.expect("accepted").into_future()).await.expect("succeeds");
        assert_eq!(output, number.to_string());
    }
    let messages = heard_so_far(&outsider, &mut published).await;
    assert!((4..=200).contains(&messages), "{messages} messages");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_stop_waiting_take_nobody_with_them() {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").task(echo));
    announced(&kit, Echo::TYPE).await;
    let text = |number: usize| Echo { text: number.to_string() };
    // The type is listened to: the first poll of a submission sends it.
    soon(kit.client().submit(text(0)).await.expect("accepted").into_future()).await.expect("succeeds");
    let mut callers: Vec<_> = (0..20).map(|number| kit.client().submit(text(number)).into_future()).collect();
    for caller in &mut callers {
        assert!(futures::poll!(caller).is_pending());
    }
    // Those that are under way, and some that wait behind them.
    callers.drain(..6);
    for (number, caller) in (6..).zip(callers) {
        let handle = soon(caller).await.expect("accepted");
        assert_eq!(soon(handle.into_future()).await.expect("succeeds"), number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_ahead_counts_once_the_server_says_that_it_is_stored() {
    let bench = Bench::default();
    let kit = kit_with(&bench, 4).await;
    let outsider = Outsider::connect(&kit.url()).await;
    let task_type = Gated::TYPE.parse().expect("valid");
    let mut heard = outsider.listen(format!("jetlane.told.{}.>", Gated::TYPE)).await;
    let handle = kit.client().submit(Gated { text: "stored".into() }).await.expect("accepted");
    bench.begun(1).await;
    // One that the server refuses, and one of which nothing more is heard.
    let task = TaskEvent::new(handle.id().clone(), task_type, QueueName::default_queue(), Micros(0), Vec::new());
    let mut refused = Completion::of(&task, Outcome::Succeeded, Micros(1));
    refused.body = br#""refused""#.to_vec();
    let told = encode_told(&task.task_type, &[&refused]).expect("small");
    let refusal = r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"},"seq":0}"#;
    for (number, ack) in [(7, refusal), (8, "")] {
        let (ahead, acked) = (told_ahead(&task.task_type, "x", number), acked(&task.task_type, "x", number));
        outsider.client.publish(ahead, told.clone().into()).await.expect("sent");
        outsider.client.publish(acked, ack.into()).await.expect("sent");
    }
    outsider.round_trip().await;
    bench.gate.0.add_permits(1);
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "stored");
    // Alone, it was told ahead and by the server's ack, in this order.
    let mut subjects = Vec::new();
    for _ in 0..6 {
        subjects.push(soon(heard.next()).await.expect("told").subject.to_string());
    }
    assert_eq!(subjects[4], format!("{}.told", subjects[5]));
}
