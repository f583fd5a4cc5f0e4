//! A slow receiver keeps no other waiting, and no drain.

use crate::receiver::Receiver;
use crate::stage::{Stage, completion};
use crate::{endpoint, settings, webhook};
use jetlane_callback::Settings;
use jetlane_callback::signature::Secret;
use jetlane_schemas::header::SCHEDULE;
use jetlane_schemas::subject::{SCHEDULE_ALL, STREAM_TIME};
use jetlane_schemas::{Completion, Outcome};
use jetlane_service::egress::TIMEOUT;
use std::time::{Duration, Instant};

/// Callbacks of slow endpoints, far more than the service has in hand.
const BURST: usize = 10_000;
const SLOW_ENDPOINTS: usize = 20;

fn to(endpoint: &str, id: usize) -> Completion {
    completion(&format!("s{id}"), Outcome::Succeeded, b"1", vec![webhook(endpoint)])
}

#[tokio::test]
async fn burst_to_slow_endpoints_keeps_a_healthy_one_not_waiting() {
    let mut healthy = Receiver::start(&[]).await;
    let (slow, mut came, _release) = Receiver::hang().await;
    let secrets = [Secret::generate()];
    let mut typed = settings(&healthy.url("/"), &secrets);
    for number in 0..SLOW_ENDPOINTS {
        typed.endpoints.insert(format!("slow{number}"), endpoint(&format!("http://{slow}/"), &secrets));
    }
    let stage = Stage::open().await;
    stage.due((0..BURST).map(|id| to(&format!("slow{}", id % SLOW_ENDPOINTS), id))).await;
    stage.due(std::iter::once(to("hook", BURST))).await;

    let service = stage.start(&typed);
    came.wait_for(|count| *count > 0).await.expect("the receiver runs");
    let first = Instant::now();
    assert_eq!(healthy.next().await.header("webhook-id"), format!("image/thumbnail:s{BURST}:0"));
    assert!(first.elapsed() < TIMEOUT, "the healthy endpoint waited for slow ones: {:?}", first.elapsed());
    assert!(*came.borrow() <= 20 * 32, "a slow endpoint was flooded: {}", *came.borrow());
    service.abort();
}

#[tokio::test]
async fn callbacks_that_wait_for_a_slow_endpoint_are_handed_on_at_a_drain() {
    let (slow, mut came, release) = Receiver::hang().await;
    let stage = Stage::open().await;
    let service = stage.start(&settings(&format!("http://{slow}/"), &[Secret::generate()]));
    // Before anything is due: what has no place may be stored again before the drain.
    let mut schedules = stage.bus.subscribe(SCHEDULE_ALL).await.expect("subscribed");
    stage.due((0..64).map(|id| to("hook", id))).await;
    came.wait_for(|count| *count == 32).await.expect("the receiver runs");
    service.drain();
    for _ in 0..32 {
        schedules.next().await.expect("a callback that waited is stored");
    }
    release.cancel();
    let counts = service.stop().await;
    assert_eq!((counts.delivered(), counts.again(), counts.dead()), (32, 0, 0));
}

#[tokio::test]
async fn receiver_that_asks_for_time_by_a_date_is_given_it() {
    // A minute by the receiver's own clock, which is an hour off.
    let busy = "503 Busy\r\ndate: Sun, 06 Nov 1994 08:48:37 GMT\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT";
    let mut receiver = Receiver::start(&[busy]).await;
    let stage = Stage::open().await;
    let mut schedules = stage.bus.subscribe(SCHEDULE_ALL).await.expect("subscribed");
    let typed: Settings = settings(&receiver.url("/"), &[Secret::generate()]);
    let service = stage.start(&typed);
    stage.complete(&to("hook", 1)).await;
    receiver.next().await;
    let scheduled = schedules.next().await.expect("a schedule");
    let at = scheduled.headers.get(SCHEDULE).and_then(|text| text.strip_prefix("@at ")).expect("a time");
    let at = jetlane_bus::clock::parse_rfc3339(at).expect("RFC 3339");
    let pause = Duration::from_micros(at.0.saturating_sub(jetlane_bus::clock::now().0));
    assert!((Duration::from_secs(50)..=Duration::from_secs(60)).contains(&pause), "{pause:?}");
    assert_eq!(service.stop().await.again(), 1);
    assert!(!stage.bus.subject_counts(STREAM_TIME, ">").await.expect("counted").is_empty());
}
