//! `jetlane tasks explain`: wherever a task is, it is found, and why it waits is told.

use crate::place::{Place, queue, said, task_type};
use jetlane_bus::publish::Expect;
use jetlane_bus::{Outgoing, Pulled, clock};
use jetlane_schemas::subject::{self, Lane, LaneKind, STREAM_LANES};
use jetlane_schemas::{Completion, Failure, Fit, Headers, Outcome, Priority, TaskEvent, TaskId, frame};
use serde_json::Value;

async fn submitted(place: &Place, words: &[&str]) -> String {
    let (exit, told) = place.json(&[&["submit"], words].concat()).await;
    assert_eq!(exit, 0, "{told}");
    told["id"].as_str().expect("an id").to_owned()
}

fn reasons(told: &Value) -> Vec<&str> {
    let reasons = told["reasons"].as_array().expect("reasons");
    reasons.iter().filter_map(|reason| reason["reason"].as_str()).collect()
}

#[tokio::test]
async fn a_task_that_has_ended_is_told_with_its_outcome_for_as_long_as_a_dead_letter_is_kept() {
    let place = Place::new().await;
    place.complete("good", Outcome::Succeeded, b"1").await;
    place.complete("bad", Outcome::Failed, b"disk full").await;
    for words in [&["tasks", "explain", "good"][..], &["tasks", "explain", "good", "--type", "a.b"]] {
        let (exit, told) = place.json(words).await;
        assert_eq!((exit, &told["state"], &told["outcome"]), (0, &"ended".into(), &"succeeded".into()), "{told}");
    }
    let page = place.run(&["tasks", "explain", "bad"]).await;
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("has ended: failed") && page.contains("disk full"), "{page}");
    let task = TaskEvent::new(TaskId::generate(), task_type("a.b.c"), queue("q"), clock::now(), Vec::new());
    let why = Completion::of(&task, Outcome::Failed, clock::now()).with_failure(Failure::new("handler", "no"));
    place.bus.bury(&task, &why).await.expect("buried");
    let (_, told) = place.json(&["tasks", "explain", task.id.as_str()]).await;
    assert_eq!((&told["state"], &told["type"]), (&"ended".into(), &"a.b.c".into()), "{told}");
}

#[tokio::test]
async fn a_delayed_task_is_told_with_the_moment_at_which_it_is_due() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    let id = submitted(&place, &["a.b", "--delay", "1h"]).await;
    let (_, told) = place.json(&["tasks", "explain", &id]).await;
    assert_eq!((&told["state"], reasons(&told)), (&"delayed".into(), vec!["delayed"]), "{told}");
    let until = told["reasons"][0]["until"].as_u64().expect("a time");
    let hour = 3_600_000_000;
    assert!(until.abs_diff(clock::now().0 + hour) < 60_000_000, "{until}");
}

#[tokio::test]
async fn a_task_behind_others_of_its_flow_is_found_in_the_stream_where_nobody_leads() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    let mut last = String::new();
    for _ in 0..3 {
        last = submitted(&place, &["a.b", "--tenant", "acme"]).await;
    }
    submitted(&place, &["a.b", "--tenant", "acme", "--priority", "low"]).await;
    for words in [&["tasks", "explain", &last][..], &["tasks", "explain", &last, "--queue", "q"]] {
        let (exit, told) = place.json(words).await;
        assert_eq!((exit, &told["state"], &told["queue"]), (0, &"waiting".into(), &"q".into()), "{told}");
        assert_eq!(reasons(&told), ["no_leader", "in_stream"]);
        assert_eq!((&told["reasons"][1]["ahead"], &told["sequence"]), (&2.into(), &3.into()));
    }
    // A key's id says nothing of its time: the stream is read from its start.
    let keyed = submitted(&place, &["a.b", "--key", "order-7"]).await;
    let page = place.run(&["tasks", "explain", &keyed]).await;
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("waits in the queue q") && page.contains("next of its flow"), "{page}");
}

#[tokio::test]
async fn a_task_of_the_open_door_is_found_by_any_of_its_names() {
    let place = Place::new().await;
    let by_sdk = submitted(&place, &["no.one"]).await;
    let subject = subject::submit(&task_type("no.one"));
    let out = |headers: Headers| Outgoing {
        subject: subject.clone(),
        headers,
        body: "{}".into(),
        message_id: None,
        expect: Expect::Anything,
    };
    place.bus.publish(out(Headers::new())).await.expect("sent");
    let named = ("ce-id".to_owned(), "a-name-of-twenty-letters".to_owned());
    place.bus.publish(out([named].into_iter().collect())).await.expect("sent");
    for (id, ahead) in [(by_sdk.as_str(), 0), ("s2", 1), ("a-name-of-twenty-letters", 2)] {
        let (exit, told) = place.json(&["tasks", "explain", id]).await;
        assert_eq!((exit, &told["state"], reasons(&told)), (0, &"waiting".into(), vec!["unannounced"]), "{told}");
        assert_eq!((&told["type"], &told["sequence"]), (&"no.one".into(), &(ahead + 1).into()));
    }
    // The sequence of another's message is nobody's name.
    assert_eq!(place.run(&["tasks", "explain", "s1"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn a_dispatched_task_is_found_in_its_lane_and_runs_once_an_executor_has_it() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    let fit = Fit::default();
    let lane = Lane { kind: LaneKind::Bundle, queue: queue("q"), priority: Priority::High, fit };
    place.bus.ensure_lane(&lane).await.expect("made");
    let tasks: Vec<TaskEvent> = (0..2)
        .map(|_| TaskEvent::new(TaskId::generate(), task_type("a.b"), queue("q"), clock::now(), Vec::new()))
        .collect();
    let out = Outgoing {
        subject: lane.subject(),
        headers: Headers::new(),
        body: frame::encode_bundle(&tasks).expect("a bundle").into(),
        message_id: None,
        expect: Expect::Anything,
    };
    place.bus.publish(out).await.expect("sent");
    let words = ["tasks", "explain", tasks[1].id.as_str()];
    let (exit, told) = place.json(&words).await;
    assert_eq!((exit, &told["state"], &told["priority"]), (0, &"dispatched".into(), &"high".into()), "{told}");
    let mut puller = place.bus.puller(STREAM_LANES, &lane.consumer()).await.expect("there");
    puller.ask(1, None).await.expect("asked");
    assert!(matches!(puller.next().await, Pulled::Delivery(_)));
    let (_, told) = place.json(&words).await;
    assert_eq!((&told["state"], &told["type"]), (&"running".into(), &"a.b".into()), "{told}");
}

#[tokio::test]
async fn the_leader_says_why_a_task_waits_and_when_the_queue_goes_on() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    assert_eq!(place.run(&["queues", "set", "q", "--policy", "sjf", "--pause"]).await.status.code(), Some(0));
    let _dispatcher = place.dispatcher("q").await;
    let id = submitted(&place, &["a.b", "--estimate", "2s", "--tenant", "acme"]).await;
    let within = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        loop {
            let (_, told) = place.json(&["tasks", "explain", &id]).await;
            // Until its leader has read it, it is found in the stream.
            if told["expected"].is_object() {
                return told;
            }
        }
    });
    let told = within.await.expect("the leader reads it");
    assert_eq!((&told["state"], &told["policy"]), (&"waiting".into(), &"sjf".into()), "{told}");
    assert_eq!(reasons(&told)[0], "paused", "{told}");
    // The hint is a prior, not the last word.
    let estimate = told["expected"]["estimate_ms"].as_f64().expect("a number");
    assert!((1_000.0..10_000.0).contains(&estimate), "{told}");
    let page = place.run(&["tasks", "explain", &id]).await;
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("jetlane queues set q --resume") && page.contains("no start in sight"), "{page}");
}

#[tokio::test]
async fn an_id_that_nobody_knows_is_told_with_what_was_looked_at() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    let id = TaskId::generate();
    let (exit, told) = place.json(&["tasks", "explain", id.as_str()]).await;
    assert_eq!((exit, &told["state"]), (3, &"unknown".into()), "{told}");
    let looked_at = told["looked_at"].to_string();
    for place in ["completion", "dead letter", "schedule", "no leader answers for q", "jetlane.task", "jetlane.bundle"]
    {
        assert!(looked_at.contains(place), "{place}: {looked_at}");
    }
    let output = place.run(&["tasks", "explain", id.as_str()]).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0));
    assert!(said(&output).contains("nothing is known") && said(&output).contains("Looked at"), "{}", said(&output));
}
