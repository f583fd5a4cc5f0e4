//! Submissions, results, completions, types and doctor. No dispatcher runs here: tasks wait, and
//! completions are stored by hand, as any client could.

use crate::place::{Place, said, until};
use jetlane_bus::lease::RENEW_EVERY;
use jetlane_schemas::{Outcome, QueueName, TaskId, subject};
use serde_json::Value;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

#[tokio::test]
async fn a_task_of_a_type_that_nobody_serves_is_accepted_and_said_to_wait() {
    let place = Place::new().await;
    let output = place.run(&["-o", "json", "submit", "no.one", r#"{"a":1}"#]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(said(&output).contains("Nobody serves no.one yet"), "{}", said(&output));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["served"], &told["duplicate"], &told["sequence"]), (&false.into(), &false.into(), &1.into()));
    assert!(told["id"].as_str().is_some_and(|id| TaskId::new(id).is_ok()));
    place.announce("a.b", "q").await;
    let output = place.run(&["submit", "a.b", "--queue", "other"]).await;
    assert!(said(&output).contains("Nobody serves the queue other yet"), "{}", said(&output));
}

#[tokio::test]
async fn the_same_key_is_the_same_task() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    let words = ["submit", "a.b", "1", "--key", "order-7"];
    let (first, again) = (place.json(&words).await.1, place.json(&words).await.1);
    assert_eq!((&first["id"], &first["served"]), (&again["id"], &true.into()));
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&false.into(), &true.into()));
}

#[tokio::test]
async fn the_outcome_is_told_by_the_exit_code_and_only_an_output_stands_on_stdout() {
    let place = Place::new().await;
    place.complete("good", Outcome::Succeeded, b"{\"n\": 123456789012345678901}").await;
    for (id, outcome) in [
        ("failed", Outcome::Failed),
        ("rejected", Outcome::Rejected),
        ("expired", Outcome::Expired),
        ("cancelled", Outcome::Cancelled),
    ] {
        place.complete(id, outcome, b"because").await;
    }
    for words in [&["result", "good"][..], &["result", "good", "--type", "a.b"], &["result", "good", "--wait"]] {
        let output = place.run(words).await;
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"{\"n\": 123456789012345678901}\n"[..]));
        assert!(output.stderr.is_empty(), "{}", said(&output));
    }
    for (id, exit) in [("failed", 4), ("rejected", 4), ("expired", 4), ("cancelled", 6), ("absent", 3)] {
        let output = place.run(&["result", id]).await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(exit), 0), "{id}");
        assert!(id == "absent" || said(&output).contains("handler: because"), "{}", said(&output));
    }
}

#[tokio::test]
async fn a_wait_hears_the_completion_with_and_without_the_type() {
    let place = Place::new().await;
    let submitted = place.json(&["submit", "a.b", "1"]).await.1;
    let id = submitted["id"].as_str().expect("an id");
    let pipe = |mut command: Command| command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut typed = pipe(place.command(&["result", id, "--type", "a.b", "--wait"]));
    until(&mut typed, "waiting").await;
    let mut untyped = pipe(place.command(&["result", id, "--wait"]));
    until(&mut untyped, "waiting").await;
    let mut submitting = pipe(place.command(&["submit", "a.b", "2", "--wait"]));
    let line = until(&mut submitting, "Submitted").await;
    let other = line.trim_end_matches('.').rsplit(' ').next().expect("an id").to_owned();
    place.complete(id, Outcome::Succeeded, b"[1]").await;
    place.complete(&other, Outcome::Succeeded, b"[2]").await;
    for (child, printed) in [(typed, "[1]\n"), (untyped, "[1]\n"), (submitting, "[2]\n")] {
        let output = child.wait_with_output().await.expect("it ends");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout)), (Some(0), printed.into()));
    }
}

#[tokio::test]
async fn a_wait_that_is_over_says_how_to_wait_again() {
    let place = Place::new().await;
    for words in [
        &["submit", "a.b", "--wait", "--timeout", "50ms"][..],
        &["result", "s7", "--wait", "--timeout", "50ms"],
        &["result", "s7", "--type", "a.b", "--wait", "--timeout", "50ms"],
    ] {
        let output = place.run(words).await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(5), 0), "{words:?}: {}", said(&output));
        assert!(said(&output).contains("jetlane result ") && said(&output).contains("--wait"), "{}", said(&output));
    }
}

#[tokio::test]
async fn watch_tells_what_is_kept_and_what_comes_a_line_each() {
    let place = Place::new().await;
    place.complete("one", Outcome::Succeeded, b"1").await;
    place.complete("two", Outcome::Failed, b"because").await;
    let output = place.run(&["-o", "json", "watch", "--all", "--limit", "2"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let lines: Vec<Value> =
        output.stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!((&lines[0]["id"], &lines[0]["output"]), (&"one".into(), &1.into()));
    assert_eq!((&lines[1]["outcome"], &lines[1]["failure"]["message"]), (&"failed".into(), &"because".into()));
    let failed = place.run(&["watch", "a.b", "--all", "--outcome", "failed", "--limit", "1"]).await;
    let table = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert!(table.lines().count() == 2 && table.contains("two") && !table.contains("one"), "{table}");
    let none = place.run(&["watch", "--limit", "0"]).await;
    assert_eq!(none.status.code(), Some(0));
}

#[tokio::test]
async fn watch_ends_with_its_reader_and_by_a_signal_with_130() {
    let place = Place::new().await;
    let mut command = place.command(&["watch"]);
    let mut watching = command.stdout(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(watching.stdout.take().expect("a pipe")).lines();
    // The head comes once it is subscribed.
    assert!(lines.next_line().await.expect("readable").is_some_and(|line| line.starts_with("TIME")));
    drop(lines);
    place.complete("one", Outcome::Succeeded, b"1").await;
    assert_eq!(watching.wait().await.expect("it ends").code(), Some(0));

    let mut command = place.command(&["watch"]);
    let mut watching = command.stdout(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(watching.stdout.take().expect("a pipe")).lines();
    assert!(lines.next_line().await.expect("readable").is_some());
    place.complete("two", Outcome::Succeeded, b"2").await;
    // By now it waits for more, and hears signals.
    assert!(lines.next_line().await.expect("readable").is_some_and(|line| line.contains("two")));
    let pid = i32::try_from(watching.id().expect("it runs")).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("sent");
    assert_eq!(watching.wait().await.expect("it ends").code(), Some(130));
}

#[tokio::test]
async fn a_type_is_set_listed_and_changed_option_by_option() {
    let place = Place::new().await;
    let nobody = place.run(&["types", "set", "a.b"]).await;
    assert_eq!(nobody.status.code(), Some(2), "{}", said(&nobody));
    let (exit, told) = place.json(&["types", "set", "a.b", "--queue", "q", "--retries", "5"]).await;
    assert_eq!((exit, &told["created"], &told["queue_created"]), (0, &true.into(), &true.into()));
    let (_, told) = place.json(&["types", "set", "a.b", "--timeout", "30s"]).await;
    assert_eq!((&told["created"], &told["entry"]["retries"]), (&false.into(), &5.into()));
    // An executor that starts announces what its code says: what people have set stays.
    place.announce("a.b", "q").await;
    let (_, told) = place.json(&["types", "show", "a.b"]).await;
    assert_eq!((&told["entry"]["retries"], &told["entry"]["timeout_ms"]), (&5.into(), &30_000.into()));
    assert_eq!(told["set"], serde_json::json!(["queue", "retries", "timeout"]));
    let (_, told) = place.json(&["types", "set", "a.b", "--reset", "--timeout", "30s"]).await;
    assert_eq!((&told["entry"]["retries"], &told["set"]), (&3.into(), &serde_json::json!({ "timeout_ms": 30_000 })));
    assert_eq!(place.run(&["submit", "x.y"]).await.status.code(), Some(0));
    let (_, listed) = place.json(&["types", "ls"]).await;
    let types = listed["types"].as_array().expect("types");
    assert_eq!(
        (&types[0]["type"], &types[0]["queue"], &types[0]["timeout_ms"]),
        (&"a.b".into(), &"q".into(), &30_000.into())
    );
    assert_eq!(
        (&types[1]["type"], &types[1]["announced"], &types[1]["waiting"]),
        (&"x.y".into(), &false.into(), &1.into())
    );
    let table = place.run(&["types", "ls"]).await;
    assert!(String::from_utf8_lossy(&table.stdout).contains("nobody serves it"));
}

#[tokio::test]
async fn without_streams_every_command_says_what_makes_them() {
    let place = Place::bare().await;
    for words in [
        &["submit", "a.b"][..],
        &["result", "s7"],
        &["watch"],
        &["types", "ls"],
        &["types", "show", "a.b"],
        &["queues", "ls"],
        &["queues", "set", "q", "--pause"],
        &["tasks", "explain", "s7"],
        &["record", "q"],
    ] {
        let output = place.run(words).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{words:?}: {output:?}");
        assert!(said(&output).contains("jetlane dev"), "{words:?}: {}", said(&output));
    }
    let (exit, told) = place.json(&["doctor"]).await;
    assert_eq!(exit, 9);
    let checks = told["checks"].as_array().expect("checks");
    let missing = checks.iter().filter_map(|check| check["detail"].as_str()?.strip_prefix("missing: "));
    let missing: Vec<&str> = missing.flat_map(|names| names.split(", ")).collect();
    assert_eq!((missing.len(), missing[0]), (10, subject::STREAM_TASKS), "{told}");
}

#[tokio::test]
async fn doctor_tells_durability_from_the_server_and_who_waits_for_nobody() {
    let place = Place::new().await;
    let find = |told: &Value, check: &str| {
        let checks = told["checks"].as_array().expect("checks").clone();
        checks.into_iter().find(|one| one["check"] == check).unwrap_or_else(|| panic!("no {check}: {told}"))
    };
    let (exit, told) = place.json(&["doctor"]).await;
    assert_eq!(exit, 0, "{told}");
    assert_eq!(find(&told, "durability")["state"], "warn");
    assert!(find(&told, "durability")["detail"].as_str().is_some_and(|detail| detail.contains("every 2m")), "{told}");
    for check in ["server", "jetstream", "payload", "clock", "streams", "completions", "types", "queues", "otlp"] {
        assert_eq!(find(&told, check)["state"], "ok", "{check}: {told}");
    }
    assert_eq!(place.run(&["submit", "no.one"]).await.status.code(), Some(0));
    let (exit, told) = place.json(&["doctor"]).await;
    assert_eq!((exit, &find(&told, "types")["state"]), (0, &"warn".into()));
    place.announce("a.b", "q").await;
    let (exit, told) = place.json(&["doctor"]).await;
    assert_eq!((exit, &find(&told, "queues")["state"]), (9, &"fail".into()));
    let detail = find(&told, "queues")["detail"].as_str().expect("text").to_owned();
    assert!(detail.contains("queue q has no leader"), "{detail}");
    // With a leader it is only that nobody pulls; and that is told only while something waits.
    let queue = QueueName::new("q").expect("valid");
    assert_eq!(place.run(&["submit", "a.b"]).await.status.code(), Some(0));
    let mut lease = place.bus.lead(&queue, "test").await.expect("asked").expect("nobody else leads");
    let mut renewals = tokio::time::interval(RENEW_EVERY);
    let doctor = place.json(&["doctor"]);
    let mut doctor = std::pin::pin!(doctor);
    let (exit, told) = loop {
        tokio::select! {
            told = &mut doctor => break told,
            _ = renewals.tick() => assert!(lease.renew().await),
        }
    };
    assert_eq!((exit, &find(&told, "queues")["state"]), (0, &"warn".into()), "{told}");
}
