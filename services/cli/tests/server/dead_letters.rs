//! Dead letters by hand: listed, shown, sent again and removed.

use crate::place::{Place, queue, said, task_type};
use jetlane_bus::clock;
use jetlane_schemas::subject::{STREAM_DEAD, STREAM_TASKS, STREAM_TIME};
use jetlane_schemas::{
    Callback, Completion, Failure, Micros, Outcome, RunToken, TaskEvent, TaskId, frame, header, subject,
};
use serde_json::Value;

/// A task that has failed for good, as its executor leaves it; its key is made of its id where it has one.
async fn dead(place: &Place, of_type: &str, of_queue: &str, id: &str, key: Option<&str>) -> TaskEvent {
    let named = TaskId::new(id).expect("valid");
    let mut task = TaskEvent::new(named, task_type(of_type), queue(of_queue), Micros(1), br#"{"n":1}"#.to_vec());
    if let Some(key) = key {
        task.key = Some(key.into());
        task.id = task.claim().expect("it has a key");
        place.bus.claim(&task).await.expect("claimed");
    }
    (task.attempts, task.run, task.deadline) = (3, 4, Some(Micros(2)));
    let failed = Completion::of(&task, Outcome::Failed, clock::now());
    let failed = Completion { token: Some(RunToken::draw()), attempt: 4, ..failed };
    let failed = failed.with_failure(Failure::new("handler", "disk full"));
    place.bus.complete(&failed).await.expect("stored");
    place.bus.bury(&task, &failed).await.expect("buried");
    task
}

async fn kept(place: &Place) -> u64 {
    place.bus.subject_counts(STREAM_DEAD, ">").await.expect("counts").values().sum()
}

/// The tasks in a stream under a filter.
async fn tasks(place: &Place, stream: &str, filter: &str) -> Vec<TaskEvent> {
    let start = jetlane_bus::look::Start::Sequence(1);
    let found = place.bus.look(stream, filter, start, 256).await.expect("read");
    found.iter().flat_map(|one| frame::decode_bundle(&one.body).expect("a bundle")).collect()
}

fn ids(letters: &Value) -> Vec<&str> {
    letters.as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect()
}

#[tokio::test]
async fn dead_letters_are_listed_with_their_reasons_by_type_and_by_queue() {
    let place = Place::new().await;
    let (_, none) = place.json(&["dead-letters", "ls"]).await;
    assert_eq!(ids(&none["dead_letters"]), [""; 0]);
    for (of_type, of_queue, id) in [("a.b", "q", "one"), ("a.b", "r", "two"), ("a", "r", "one")] {
        dead(&place, of_type, of_queue, id, None).await;
    }
    for (words, expected) in [
        (&[][..], &["one", "two", "one"][..]),
        (&["--type", "a.b"], &["one", "two"]),
        (&["--queue", "r"], &["two", "one"]),
        (&["--queue", "r", "--type", "a"], &["one"]),
        (&["--limit", "1"], &["one"]),
    ] {
        let (exit, told) = place.json(&[&["dead-letters", "ls"], words].concat()).await;
        assert_eq!((exit, ids(&told["dead_letters"])), (0, expected.to_vec()), "{words:?}");
        assert_eq!(told["more"], Value::from(words.contains(&"--limit")));
        let first = &told["dead_letters"][0];
        assert_eq!((&first["outcome"], &first["attempt"]), (&"failed".into(), &4.into()), "{first}");
        assert_eq!(first["reason"], "handler: disk full");
    }
    let (_, shown) = place.json(&["dead-letters", "show", "one"]).await;
    assert_eq!(shown["dead_letters"].as_array().map(Vec::len), Some(2), "two types have one id: {shown}");
    assert_eq!(shown["dead_letters"][0]["body"], serde_json::json!({"n": 1}));
    let page = place.run(&["dead-letters", "show", "two"]).await;
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("disk full") && page.contains(r#"{"n":1}"#) && page.contains("a.b"), "{page}");
    assert_eq!(place.run(&["dead-letters", "show", "three"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn dead_letter_that_is_sent_again_is_a_new_life_of_its_task_and_is_removed() {
    let place = Place::new().await;
    // The type has moved to another queue since.
    place.announce("a.b", "new").await;
    let before = dead(&place, "a.b", "old", "order-7", None).await;
    let (exit, told) = place.json(&["dead-letters", "resend", "order-7"]).await;
    assert_eq!((exit, ids(&told["resent"])), (0, vec!["order-7"]), "{told}");
    assert_eq!(kept(&place).await, 0);
    let again = tasks(&place, STREAM_TIME, "jetlane.due.new.>").await.pop().expect("it is due");
    assert_eq!((&again.id, &again.payload, again.attempts), (&before.id, &before.payload, 0));
    assert!(again.run > before.run && again.suspect, "no copy of what ran before: {}", again.run);
    assert_eq!(again.deadline, None, "it would expire at once");
    assert!(again.submitted_at > before.submitted_at);
    let done = place.bus.read_done(&before.task_type, &before.id).await.expect("read");
    assert!(done.is_none(), "its next completion has room");
    let output = place.run(&["dead-letters", "resend", "order-7"]).await;
    assert_eq!(output.status.code(), Some(3), "said again, it finds nothing to send: {output:?}");
}

#[tokio::test]
async fn dead_letter_of_a_command_that_died_before_it_was_removed_is_sent_once() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    let task = dead(&place, "a.b", "q", "one", None).await;
    let (letters, _) = place.bus.dead_letters("jetlane.dead.>", 1, 1).await.expect("read");
    place.json(&["dead-letters", "resend", "one"]).await;
    // As the letter was when the first command had it.
    let to = jetlane_bus::letters::Destination { queue: queue("q"), shard: task.shard };
    place.bus.resend(&letters[0], &to).await.expect("sent");
    assert_eq!(tasks(&place, STREAM_TIME, "jetlane.due.>").await.len(), 1);
    // One whose task has succeeded since is not sent at all.
    place.complete("two", Outcome::Succeeded, b"1").await;
    dead(&place, "a.b", "q", "two", None).await;
    let (exit, told) = place.json(&["dead-letters", "resend", "two"]).await;
    assert_eq!((exit, ids(&told["succeeded_since"]), ids(&told["resent"])), (0, vec!["two"], vec![]), "{told}");
    assert_eq!((kept(&place).await, tasks(&place, STREAM_TIME, "jetlane.due.>").await.len()), (0, 1));
}

#[tokio::test]
async fn key_of_a_dead_letter_is_taken_again_unless_another_task_has_it() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    let task = dead(&place, "a.b", "q", "unused", Some("order-7")).await;
    let (_, again) = place.json(&["submit", "a.b", "--key", "order-7"]).await;
    assert_eq!(again["duplicate"], true, "the key is taken for an hour after the failure");
    let (exit, told) = place.json(&["dead-letters", "resend", "--type", "a.b"]).await;
    assert_eq!((exit, ids(&told["resent"])), (0, vec![task.id.as_str()]), "{told}");
    let sent = tasks(&place, STREAM_TASKS, "jetlane.task.q.>").await;
    assert_eq!(sent.iter().map(|task| (task.run, task.attempts)).collect::<Vec<_>>(), [(1, 0)]);
    let (_, again) = place.json(&["submit", "a.b", "--key", "order-7"]).await;
    assert_eq!(again["duplicate"], true);
    // The letter of an earlier life while a later one waits.
    let failed = Completion::of(&task, Outcome::Failed, clock::now()).with_failure(Failure::new("handler", "no"));
    place.bus.bury(&task, &failed).await.expect("buried");
    let held = place.bus.hold_claim(&task, (STREAM_TASKS, 99), clock::now()).await.expect("asked");
    assert_eq!(held, jetlane_bus::claims::Hold::Held);
    let (exit, told) = place.json(&["dead-letters", "resend", task.id.as_str()]).await;
    assert_eq!((exit, ids(&told["kept"])), (8, vec![task.id.as_str()]), "{told}");
    assert!(told["kept"][0]["reason"].as_str().is_some_and(|reason| reason.contains("key")), "{told}");
    assert_eq!((kept(&place).await, tasks(&place, STREAM_TASKS, "jetlane.task.q.>").await.len()), (1, 1));
}

#[tokio::test]
async fn batch_of_dead_letters_is_bounded_and_said_again_goes_on() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    for number in 0..5 {
        dead(&place, "a.b", "q", &format!("t{number}"), None).await;
    }
    let (exit, told) = place.json(&["dead-letters", "resend", "--all", "--limit", "3"]).await;
    assert_eq!((exit, ids(&told["resent"]), &told["more"]), (0, vec!["t0", "t1", "t2"], &true.into()), "{told}");
    let output = place.run(&["dead-letters", "resend", "--queue", "q"]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "sent 2 dead letters again\n", "{}", said(&output));
    assert_eq!((kept(&place).await, tasks(&place, STREAM_TIME, "jetlane.due.>").await.len()), (0, 5));
}

#[tokio::test]
async fn dead_letter_that_cannot_be_sent_again_stays_and_the_others_go() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    let out = jetlane_bus::Outgoing {
        subject: subject::dead(&queue("q"), &task_type("a.b"), &TaskId::new("noise").expect("valid")),
        headers: jetlane_schemas::Headers::new(),
        body: "noise".into(),
        message_id: None,
        expect: jetlane_bus::publish::Expect::Anything,
    };
    place.bus.publish(out).await.expect("stored");
    dead(&place, "a.b", "q", "good", None).await;
    let (exit, told) = place.json(&["dead-letters", "resend", "--all"]).await;
    assert_eq!((exit, ids(&told["resent"]), ids(&told["kept"])), (8, vec!["good"], vec!["noise"]), "{told}");
    let (exit, told) = place.json(&["dead-letters", "purge", "noise"]).await;
    assert_eq!((exit, &told["removed"], kept(&place).await), (0, &1.into(), 0), "{told}");
}

#[tokio::test]
async fn callback_that_nobody_took_is_sent_again() {
    let place = Place::new().await;
    let id = TaskId::new("one").expect("valid");
    let mut task = TaskEvent::new(id.clone(), task_type("a.b"), queue("q"), clock::now(), Vec::new());
    task.callbacks = vec![Callback::Webhook { endpoint: "hook".into() }];
    let done = Completion::of(&task, Outcome::Succeeded, clock::now());
    let mut headers = done.headers("");
    headers.push(header::DELIVERY, "9");
    headers.push(header::REASON, "gone");
    let out = jetlane_bus::Outgoing {
        subject: subject::dead_callback(&task.task_type, &id, 0),
        headers,
        body: "7".into(),
        message_id: None,
        expect: jetlane_bus::publish::Expect::Absent,
    };
    place.bus.publish(out).await.expect("stored");
    let (_, told) = place.json(&["dead-letters", "ls", "--callbacks"]).await;
    assert_eq!((ids(&told["dead_letters"]), &told["dead_letters"][0]["reason"]), (vec!["one"], &"gone".into()));
    let (exit, told) = place.json(&["dead-letters", "resend", "--callbacks", "one"]).await;
    assert_eq!((exit, ids(&told["resent"]), kept(&place).await), (0, vec!["one"], 0), "{told}");
    let due = subject::callback(&task.task_type, &id, 0);
    let found = place.bus.look(STREAM_TIME, &due, jetlane_bus::look::Start::Sequence(1), 2).await.expect("read");
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].headers.get(header::DELIVERY), &found[0].body[..]), (Some("0"), &b"7"[..]));
    let read = Completion::from_message(&subject::done(&task.task_type, &id), &found[0].headers, &found[0].body);
    assert_eq!(read.expect("a completion").callbacks, task.callbacks);
}

#[tokio::test]
async fn task_is_cancelled_by_its_id_and_one_that_has_ended_stays_as_it_is() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    let (_, told) = place.json(&["submit", "a.b", "--delay", "1h"]).await;
    let id = told["id"].as_str().expect("an id").to_owned();
    let (exit, told) = place.json(&["tasks", "cancel", &id, "--type", "a.b"]).await;
    assert_eq!((exit, &told["outcome"]), (0, &"cancelled".into()), "{told}");
    let schedules = place.bus.subject_counts(STREAM_TIME, subject::SCHEDULE_ALL).await.expect("counts");
    assert!(schedules.is_empty(), "{schedules:?}");
    place.complete("good", Outcome::Succeeded, b"1").await;
    let (exit, told) = place.json(&["tasks", "cancel", "good", "--type", "a.b"]).await;
    assert_eq!((exit, &told["outcome"]), (8, &"succeeded".into()), "{told}");
}
