//! What `jetlane submit` says of a task beyond its body, what it is told of its start, and its trace.

use crate::place::{Place, said};
use jetlane_bus::clock;
use jetlane_bus::look::Start;
use jetlane_schemas::subject::{SCHEDULE_ALL, STREAM_TASKS, STREAM_TIME, TASK_ALL};
use jetlane_schemas::{Admit, Micros, frame, header};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

#[tokio::test]
async fn what_is_said_of_a_task_rides_along() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    let words = ["submit", "a.b", "--estimate", "2s", "--size-key", "large", "--needs", "cpu:0.5,gpu:1,label:x"];
    let output = place.run(&[&words[..], &["--deadline", "30s", "--admit", "always"]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let stored = place.bus.look(STREAM_TASKS, TASK_ALL, Start::Sequence(1), 1).await.expect("read");
    let task = frame::decode_bundle(&stored[0].body).expect("a frame").remove(0);
    assert_eq!((task.estimate_us, task.size_key.as_deref()), (Some(2_000_000), Some("large")));
    assert_eq!((task.needs.cpu_milli, task.needs.resources.get("gpu"), task.admit), (500, Some(&1), Admit::Always));
    assert!(task.needs.labels.contains("x"));
    let deadline = task.deadline.expect("one was said").0;
    assert!(deadline.abs_diff(clock::now().0 + 30_000_000) < 20_000_000, "{deadline}");
}

/// When a schedule fires, as its header says.
async fn fires_at(place: &Place, number: u64) -> Micros {
    let stored = place.bus.look(STREAM_TIME, SCHEDULE_ALL, Start::Sequence(number), 1).await.expect("read");
    let at = stored[0].headers.get(header::SCHEDULE).expect("it is a schedule").strip_prefix("@at ");
    at.and_then(clock::parse_rfc3339).expect("a time")
}

#[tokio::test]
async fn a_delay_and_a_deadline_are_kept_whatever_the_submitters_clock_says() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    for (number, ahead_by) in [-120, 120].into_iter().enumerate() {
        let before = clock::calendar();
        let words = ["submit", "a.b", "{}", "--delay", "60s", "--deadline", "90s"];
        let output = place.command_ahead_by(ahead_by, &words).output().await.expect("the command runs");
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let after = clock::calendar();
        let due_at = fires_at(&place, number as u64 + 1).await;
        assert!(due_at.0 >= before.0 + 60_000_000, "ahead by {ahead_by} s: never sooner");
        assert!(due_at.0 <= after.0 + 60_500_000, "ahead by {ahead_by} s: {} us late", due_at.0 - after.0);
        let subject = place.bus.look(STREAM_TIME, SCHEDULE_ALL, Start::Sequence(number as u64 + 1), 1).await;
        let task = frame::decode_bundle(&subject.expect("read")[0].body).expect("a frame").remove(0);
        let deadline = task.deadline.expect("one was said").0;
        assert!((before.0 + 90_000_000..after.0 + 90_500_000).contains(&deadline), "ahead by {ahead_by} s: {deadline}");
    }
}

#[tokio::test]
async fn what_is_expected_is_told_and_nothing_is_submitted() {
    let place = Place::new().await;
    let unknown = place.run(&["submit", "a.b", "--expect"]).await;
    assert_eq!(unknown.status.code(), Some(3), "{}", said(&unknown));
    place.announce("a.b", "q").await;
    let nobody = place.run(&["submit", "a.b", "--expect"]).await;
    assert_eq!((nobody.status.code(), nobody.stdout.len()), (Some(7), 0), "{}", said(&nobody));
    let _dispatcher = place.dispatcher("q").await;
    let (exit, told) = place.json(&["submit", "a.b", "--expect", "--estimate", "2s", "--deadline", "1m"]).await;
    assert_eq!((exit, &told["start"]), (0, &().into()), "{told}");
    assert!(told["estimate_ms"].as_f64().is_some_and(|ms| (1_000.0..10_000.0).contains(&ms)), "{told}");
    assert_eq!(told["meets_deadline"], false, "no executor runs: {told}");
    let strict = place.run(&["submit", "a.b", "--deadline", "1m", "--admit", "strict"]).await;
    assert_eq!((strict.status.code(), strict.stdout.len()), (Some(8), 0), "{}", said(&strict));
    assert!(said(&strict).contains("was not submitted"), "{}", said(&strict));
    assert!(place.bus.subject_counts(STREAM_TASKS, TASK_ALL).await.expect("read").is_empty());
}

#[tokio::test]
async fn the_trace_of_a_submission_begins_with_the_command() {
    let place = Place::new().await;
    let collector = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", collector.local_addr().expect("an address"));
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        // The export is over once it is answered.
        let (mut socket, _) = collector.accept().await.expect("somebody exports");
        let end = loop {
            if let Some(at) = heard.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(socket.read_buf(&mut heard).await.expect("readable") > 0, "it ends within its head");
        };
        let head = String::from_utf8_lossy(&heard[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        while heard.len() < end + length.expect("a length") {
            assert!(socket.read_buf(&mut heard).await.expect("readable") > 0, "it ends within its body");
        }
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.expect("sent");
        String::from_utf8_lossy(&heard).into_owned()
    });
    let mut command = place.command(&["submit", "no.one"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    for variable in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_SDK_DISABLED"] {
        command.env_remove(variable);
    }
    let output = command.env_remove("OTEL_SERVICE_NAME").output().await.expect("the command runs");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let heard = tokio::time::timeout(Duration::from_secs(30), heard).await.expect("spans are exported");
    let heard = heard.expect("a collector that ends");
    for words in ["POST /v1/traces", "submit no.one", "service.name"] {
        assert!(heard.contains(words), "{words}: {heard}");
    }
}
