//! Promise: a body of exactly the limit goes through every hop; one byte more is refused with the
//! limit in the error.

use crate::outsider::{Outsider, header, json};
use crate::tasks::{Big, Mirror, big, mirror};
use crate::waits::{announced, drained, until_some};
use jetlane::{Callback, Error, Executor, Outcome, Task};
use jetlane_bus::local::Options;
use jetlane_schemas::limits::{CALLBACKS_MAX, HEADER_BYTES_MAX};
use jetlane_testkit::{Kit, server, server_with, soon};

async fn serving(kit: &Kit) {
    kit.serve(Executor::new(kit.client(), "tests").task(mirror).task(big));
    announced(kit, Big::TYPE).await;
}

/// A task whose body has so many bytes.
fn mirror_of(bytes: usize, failures: u32) -> Mirror {
    let empty = serde_json::to_vec(&Mirror { failures, filler: String::new() }).expect("JSON");
    Mirror { failures, filler: "x".repeat(bytes - empty.len()) }
}

/// The largest body with the largest of everything else that rides along.
async fn goes_through_every_hop(kit: &Kit) {
    serving(kit).await;
    let bus = kit.client().bus();
    let limit = bus.body_bytes_max();
    let webhook = |number| Callback::Webhook { endpoint: format!("{number}{}", "w".repeat(1_000)) };
    for (failures, outcome) in [(0, Outcome::Succeeded), (1, Outcome::Succeeded), (2, Outcome::Failed)] {
        let task = mirror_of(limit, failures);
        let mut submit = kit.client().submit(task.clone()).header("x-fill", "h".repeat(HEADER_BYTES_MAX - 6));
        submit = submit.tenant("t".repeat(256));
        for number in 0..CALLBACKS_MAX {
            submit = submit.callback(webhook(number));
        }
        let mut handle = submit.await.expect("accepted");
        let done = soon(handle.completion()).await.expect("completes");
        assert_eq!(done.outcome, outcome, "{:?}", done.failure());
        if outcome == Outcome::Succeeded {
            assert_eq!(done.body.len(), limit);
            assert_eq!(serde_json::from_slice::<Mirror>(&done.body).expect("JSON"), task);
        } else {
            let subject = format!("jetlane.dead.tests.{}.{}", Mirror::TYPE, handle.id());
            let dead =
                until_some("there is a dead letter", async || bus.read_dead(&subject).await.expect("reads")).await;
            assert_eq!(dead.payload, serde_json::to_vec(&task).expect("JSON"), "a dead letter is whole");
        }
    }
    drained(bus, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_exactly_the_limit_goes_through_every_hop() {
    goes_through_every_hop(&Kit::on(server().await).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_server_takes_less_the_limit_is_lower_and_holds_as_well() {
    let options = Options { max_payload: Some(192 * 1024), ..Options::default() };
    let kit = Kit::on(server_with(options).await).await;
    assert_eq!(kit.client().bus().body_bytes_max(), 128 * 1024);
    goes_through_every_hop(&kit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_exactly_the_limit_comes_in_by_the_open_door() {
    let kit = Kit::start().await;
    serving(&kit).await;
    let outsider = Outsider::connect(&kit.url()).await;
    let body = serde_json::to_vec(&mirror_of(kit.client().bus().body_bytes_max(), 1)).expect("JSON");
    let (sequence, _) = outsider.publish("jetlane.submit.test.mirror", &[], body.clone()).await;
    let done = outsider.completion(Mirror::TYPE, &format!("s{sequence}")).await;
    assert_eq!((header(&done, "ce-jetlaneoutcome"), header(&done, "ce-jetlaneattempt")), ("succeeded", "2"));
    assert_eq!(done.payload, body);
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_one_byte_more_is_refused_by_both_doors_and_the_error_tells_the_limit() {
    let kit = Kit::start().await;
    serving(&kit).await;
    let limit = kit.client().bus().body_bytes_max();
    let task = mirror_of(limit + 1, 0);
    let refused = kit.client().submit(task.clone()).await.expect_err("one byte over");
    assert!(matches!(&refused, Error::Option(option) if option.option == "payload"), "{refused}");
    assert!(refused.to_string().contains(&limit.to_string()), "{refused}");
    let outsider = Outsider::connect(&kit.url()).await;
    let body = serde_json::to_vec(&task).expect("JSON");
    let (sequence, _) = outsider.publish("jetlane.submit.test.mirror", &[], body.clone()).await;
    let id = format!("s{sequence}");
    let done = outsider.completion(Mirror::TYPE, &id).await;
    assert_eq!(header(&done, "ce-jetlaneoutcome"), "rejected");
    let message = json(&done)["message"].as_str().expect("text").to_owned();
    assert!(message.contains(&limit.to_string()), "{message}");
    outsider.dead_letter("tests", Mirror::TYPE, &id).await;
    let kept = kit.client().bus().read_dead(&format!("jetlane.dead.tests.{}.{id}", Mirror::TYPE)).await;
    assert_eq!(kept.expect("reads").expect("is kept").payload, body, "a dead letter is whole");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_fills_a_message_alone_is_refused_and_stops_nobody() {
    let kit = Kit::start().await;
    serving(&kit).await;
    let outsider = Outsider::connect(&kit.url()).await;
    let max_payload = kit.client().bus().server().max_payload;
    for bytes in [max_payload - 10, max_payload - 10_000] {
        let body = serde_json::to_vec(&mirror_of(bytes, 0)).expect("JSON");
        let (sequence, _) = outsider.publish("jetlane.submit.test.mirror", &[], body).await;
        let done = outsider.completion(Mirror::TYPE, &format!("s{sequence}")).await;
        assert_eq!(header(&done, "ce-jetlaneoutcome"), "rejected");
        outsider.dead_letter("tests", Mirror::TYPE, &format!("s{sequence}")).await;
    }
    let handle = kit.client().submit(Big { bytes: 3 }).await.expect("accepted");
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "b");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_over_the_limit_fails_its_task_with_the_limit_in_the_error() {
    let kit = Kit::start().await;
    serving(&kit).await;
    let limit = kit.client().bus().body_bytes_max();
    let mut handle = kit.client().submit(Big { bytes: limit }).await.expect("accepted");
    assert_eq!(soon(handle.completion()).await.expect("completes").body.len(), limit);
    let mut handle = kit.client().submit(Big { bytes: limit + 1 }).await.expect("accepted");
    let done = soon(handle.completion()).await.expect("completes");
    assert_eq!((done.outcome, done.attempt), (Outcome::Failed, 1), "another attempt would not shorten it");
    let failure = done.failure().expect("failed");
    assert_eq!(failure.code, "output");
    assert!(failure.message.contains(&limit.to_string()), "{failure}");
    drained(kit.client().bus(), &[]).await;
}
