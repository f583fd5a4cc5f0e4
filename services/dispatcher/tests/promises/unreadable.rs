//! Messages of lanes that nobody can read: kept whole as dead letters, never removed in silence.

use crate::clients::next;
use crate::stage::{PATIENCE, Stage, soon, task};
use jetlane_bus::flows::{BUNDLE_DELIVERIES_MAX, PLAIN_DELIVERIES_MAX};
use jetlane_schemas::subject::{Lane, LaneKind, STREAM_ADVISORIES, STREAM_LANES};
use jetlane_schemas::{Fit, Headers, Priority};
use std::time::Duration;

const JUNK: &[u8] = b"\0\xffno task";

fn lane(kind: LaneKind) -> Lane {
    Lane { kind, queue: "pictures".parse().unwrap(), priority: Priority::Normal, fit: Fit::default() }
}

async fn until_kept(stage: &Stage, sequence: u64) {
    let kept = stage.dead_letter("pictures", "jetlane.unreadable", &format!("lane-{sequence}")).await;
    assert_eq!(kept.payload, JUNK);
    soon(stage.until_holds(STREAM_LANES, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_that_cannot_be_read_and_that_the_server_gave_up_is_kept_whole_whatever_its_lane() {
    let stage = Stage::set().await;
    for (kind, deliveries) in [(LaneKind::Bundle, BUNDLE_DELIVERIES_MAX), (LaneKind::Plain, PLAIN_DELIVERIES_MAX)] {
        let lane = lane(kind);
        stage.bus.ensure_lane(&lane).await.unwrap();
        let mut puller = stage.bus.puller(STREAM_LANES, &lane.consumer()).await.unwrap();
        let sequence = stage.store(lane.subject(), Headers::new(), JUNK.to_vec(), None).await;
        for _ in 0..deliveries {
            let delivery = next(&mut puller, PATIENCE).await.expect("it comes again");
            delivery.ack.give_back(Duration::ZERO).await.unwrap();
        }
        // The server says that it gives the message up when it is asked for one more.
        puller.ask(1, None).await.unwrap();
        until_kept(&stage, sequence).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_that_cannot_be_read_and_that_nobody_pulls_any_more_is_kept_whole() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut puller = stage.plain("pictures", Priority::Normal).await;
    for _ in 0..3 {
        stage.submit(&task("pictures", "a.b", Priority::Normal)).await;
    }
    // Its client takes one and disappears: two stay in its lane.
    next(&mut puller, PATIENCE).await.expect("a task comes").ack.settle().await.unwrap();
    drop(puller);
    let sequence = stage.store(lane(LaneKind::Plain).subject(), Headers::new(), JUNK.to_vec(), None).await;
    until_kept(&stage, sequence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn advisory_that_cannot_be_read_or_is_of_no_message_stops_no_sweep() {
    let stage = Stage::set().await;
    let advisory = |name: &str| format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{STREAM_LANES}.{name}");
    stage.store(advisory("junk"), Headers::new(), JUNK.to_vec(), None).await;
    let of_none = br#"{"stream_seq":4711,"deliveries":5}"#;
    stage.store(advisory("none"), Headers::new(), of_none.to_vec(), None).await;
    let lane = lane(LaneKind::Bundle);
    let sequence = stage.store(lane.subject(), Headers::new(), JUNK.to_vec(), None).await;
    let of_it = format!(r#"{{"stream_seq":{sequence},"deliveries":110}}"#);
    stage.store(advisory("one"), Headers::new(), of_it.into_bytes(), None).await;
    until_kept(&stage, sequence).await;
    // Nothing but the sweeper's place in them goes on.
    stage.until_holds(STREAM_ADVISORIES, 3).await;
}
