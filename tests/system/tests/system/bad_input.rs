//! Promise: what cannot be run is refused with a reason and kept; what comes early waits; nobody else
//! is touched, and nothing comes again for ever.

use crate::outsider::{Outsider, header, json};
use crate::tasks::{Bench, Echo, Gated, echo, gated};
use crate::waits::{announced, drained, until_some};
use jetlane::{Error, Executor, Outcome, Task};
use jetlane_schemas::subject::{STREAM_TASKS, SUBMIT_ALL, TASK_ALL};
use jetlane_testkit::{Kit, soon};

async fn serving() -> (Kit, Outsider) {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").state(Bench::default()).task(echo).task(gated));
    announced(&kit, Gated::TYPE).await;
    let outsider = Outsider::connect(&kit.url()).await;
    (kit, outsider)
}

/// Others are served as ever.
async fn others_are_served(kit: &Kit, outsider: &Outsider) {
    let handle = kit.client().submit(Echo { text: "other".into() }).await.expect("accepted");
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "other");
    let (sequence, _) = outsider.publish("jetlane.submit.test.echo", &[], r#"{"text":"another"}"#).await;
    let done = outsider.completion(Echo::TYPE, &format!("s{sequence}")).await;
    assert_eq!(header(&done, "ce-jetlaneoutcome"), "succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_fit_is_rejected_with_the_place_and_its_neighbours_run() {
    let (kit, outsider) = serving().await;
    let bodies = (0..40).map(|number| match number % 4 {
        1 => br#"{"text":7}"#.to_vec(),
        _ => format!(r#"{{"text":"{number}"}}"#).into_bytes(),
    });
    let submits: Vec<_> = bodies.map(|body| kit.client().submit_json(Echo::TYPE, body)).collect();
    let handles = kit.client().submit_all(submits).await;
    for (number, handle) in handles.into_iter().enumerate() {
        let mut handle = handle.expect("accepted");
        let done = soon(handle.completion()).await.expect("completes");
        if number % 4 == 1 {
            assert_eq!((done.outcome, done.attempt), (Outcome::Rejected, 0));
            let failure = done.failure().expect("rejected");
            assert_eq!((failure.code.as_str(), failure.path.as_deref()), ("schema", Some("/text")), "{failure}");
            let subject = format!("jetlane.dead.tests.{}.{}", Echo::TYPE, handle.id());
            let dead = until_some("there is a dead letter", async || {
                kit.client().bus().read_dead(&subject).await.expect("reads")
            })
            .await;
            assert_eq!(dead.payload, br#"{"text":7}"#);
        } else {
            assert_eq!(done.outcome, Outcome::Succeeded);
        }
    }
    let (sequence, _) = outsider.publish("jetlane.submit.test.echo", &[], r#"{"text":{"deep":[]}}"#).await;
    let done = outsider.completion(Echo::TYPE, &format!("s{sequence}")).await;
    assert_eq!((header(&done, "ce-jetlaneoutcome"), json(&done)["path"].as_str()), ("rejected", Some("/text")));
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_no_json_is_rejected_and_kept_by_both_doors() {
    let (kit, outsider) = serving().await;
    let deep = "[".repeat(100_000);
    for body in [&b""[..], b"{nope", b"\xff\xfe", b"{} {}", b"nil", deep.as_bytes()] {
        let (sequence, _) = outsider.publish("jetlane.submit.test.echo", &[], body.to_vec()).await;
        let id = format!("s{sequence}");
        let done = outsider.completion(Echo::TYPE, &id).await;
        assert_eq!(header(&done, "ce-jetlaneoutcome"), "rejected");
        assert_eq!(json(&done)["code"], "json");
        outsider.dead_letter("tests", Echo::TYPE, &id).await;
        let kept = kit.client().bus().read_dead(&format!("jetlane.dead.tests.{}.{id}", Echo::TYPE)).await;
        assert_eq!(kept.expect("reads").expect("is kept").payload, body);
        let mut handle = kit.client().submit_json(Echo::TYPE, body.to_vec()).await.expect("accepted");
        let done = soon(handle.completion()).await.expect("completes");
        assert_eq!((done.outcome, done.failure().expect("rejected").code.as_str()), (Outcome::Rejected, "json"));
    }
    others_are_served(&kit, &outsider).await;
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_an_unknown_type_waits_is_counted_and_runs_once_its_type_is_announced() {
    let kit = Kit::start().await;
    let outsider = Outsider::connect(&kit.url()).await;
    let handle = kit.client().submit(Echo { text: "by the sdk".into() }).await.expect("accepted");
    assert!(!handle.accepted().expect("just accepted").known, "nobody serves it, and the submitter is told");
    let (sequence, _) = outsider.publish("jetlane.submit.test.echo", &[], r#"{"text":"bare"}"#).await;
    let counts = kit.client().bus().subject_counts(STREAM_TASKS, SUBMIT_ALL).await.expect("counts");
    assert_eq!(counts.get("jetlane.submit.test.echo"), Some(&2), "{counts:?}");
    kit.serve(Executor::new(kit.client(), "tests").task(echo));
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "by the sdk");
    let done = outsider.completion(Echo::TYPE, &format!("s{sequence}")).await;
    assert_eq!(json(&done), "bare");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_for_an_unknown_queue_waits_is_counted_and_runs_once_the_queue_is_there() {
    let (kit, outsider) = serving().await;
    let handle = kit.client().submit(Echo { text: "early".into() }).queue("nowhere").await.expect("accepted");
    let counts = kit.client().bus().subject_counts(STREAM_TASKS, TASK_ALL).await.expect("counts");
    assert_eq!(counts.get("jetlane.task.nowhere.normal.0"), Some(&1), "{counts:?}");
    assert!(!kit.client().knows_queue(&"nowhere".parse().expect("valid")));
    others_are_served(&kit, &outsider).await;
    kit.serve(Executor::new(kit.client(), "nowhere").task(echo));
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "early");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_could_widen_a_subject_is_refused_before_anything_is_sent() {
    let (kit, _) = serving().await;
    for bad in ["", "*", ">", "a.*", "a.>", "a..b", ".a", "a.", "a b", "a\u{1}", "a\r\nb", "é", "a.b.c.d.e.f.g"] {
        let refused = kit.client().submit_json(bad, b"{}".to_vec()).await.expect_err(bad);
        assert!(matches!(&refused, Error::Name(name) if name.kind == "task type"), "{bad:?}: {refused}");
        let refused = kit.client().submit(Echo { text: String::new() }).queue(bad).await.expect_err(bad);
        assert!(matches!(&refused, Error::Name(name) if name.kind == "queue"), "{bad:?}: {refused}");
        let served = Executor::new(kit.client(), bad).task(echo).run_until(tokio_util::sync::CancellationToken::new());
        assert!(matches!(soon(served).await, Err(Error::Name(_))), "{bad:?}: an executor serves it");
        let durable = kit.client().completions().durable(bad).await;
        assert!(matches!(durable, Err(Error::Name(_))), "{bad:?}: a subscriber has the name");
    }
    drained(kit.client().bus(), &[]).await;
}

/// Subjects that no careful client publishes to, and that the streams take all the same.
const NASTY: [&str; 17] = [
    "jetlane.submit.*",
    "jetlane.submit.>",
    "jetlane.submit.test.*",
    "jetlane.submit.test.echo.>",
    "jetlane.submit.a.b.c.d.e.f.g.h",
    "jetlane.submit.test.\u{1}",
    "jetlane.submit.\u{e9}",
    "jetlane.submit.test.never-announced",
    "jetlane.task.*.normal.0",
    "jetlane.task.tests.urgent.0",
    "jetlane.task.tests.normal.64",
    "jetlane.task.tests.normal.*",
    "jetlane.task.tests",
    "jetlane.task.tests.normal.0.more",
    "jetlane.due.*.>",
    "jetlane.lane.*.normal.any",
    "jetlane.bundle.tests.>",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_to_a_nasty_subject_waits_there_and_harms_nobody() {
    let (kit, outsider) = serving().await;
    for subject in NASTY {
        outsider.publish(subject, &[], r#"{"text":"nasty"}"#).await;
        others_are_served(&kit, &outsider).await;
    }
    drained(kit.client().bus(), &NASTY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_no_frame_is_refused_where_frames_are_read_and_harms_nobody() {
    let (kit, outsider) = serving().await;
    for subject in ["jetlane.task.tests.normal.0", "jetlane.due.tests.high.3"] {
        for body in [&b""[..], b"{}", b"JL", b"JL\x01\x01\x00\x01\xff\xff\xff\xff\xff", b"JL\x09\x01\x00\x01"] {
            let (sequence, _) = outsider.publish(subject, &[], body.to_vec()).await;
            let done = outsider.completion("jetlane.unreadable", &format!("s{sequence}")).await;
            assert_eq!((header(&done, "ce-jetlaneoutcome"), &json(&done)["code"]), ("rejected", &"frame".into()));
            outsider.dead_letter("tests", "jetlane.unreadable", &format!("s{sequence}")).await;
        }
    }
    // Nobody but the dispatcher publishes here; what is no bundle is ended by the executor.
    outsider.publish("jetlane.bundle.tests.normal.any", &[], "no bundle").await;
    others_are_served(&kit, &outsider).await;
    drained(kit.client().bus(), &[]).await;
}
