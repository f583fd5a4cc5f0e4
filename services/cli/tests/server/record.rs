//! `jetlane record`: what completes becomes a trace.

use crate::place::{Place, said, until};
use jetlane_schemas::Outcome;
use jetlane_schemas::subject::STREAM_DONE;
use jetlane_simulator::trace::{self, Noise};
use std::process::Stdio;

#[tokio::test]
async fn what_is_kept_of_a_queue_becomes_a_trace_that_is_read_back() {
    let place = Place::new().await;
    place.complete_run("q", "acme", 10.0, 250.0).await;
    place.complete_run("q", "", 0.0, 1_500.0).await;
    place.complete_run("other", "acme", 0.0, 1.0).await;
    // Of the default queue, and never ran.
    place.complete("one", Outcome::Expired, b"late").await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("trace.csv").display().to_string();
    let (exit, told) = place.json(&["record", "q", "--since", "1h", "--to", &file]).await;
    assert_eq!((exit, &told["tasks"], &told["without_run"]), (0, &2.into(), &0.into()), "{told}");
    let csv = std::fs::read(&file).expect("written");
    let csv_of_both = csv.len();
    let read = trace::read(&*csv, Noise::default()).expect("read back");
    // In the order of their arrival, however long they waited and ran.
    let sizes: Vec<u64> = read.tasks().iter().map(|task| task.size.0).collect();
    assert_eq!(sizes, [250_000, 1_500_000]);
    assert_eq!((read.tasks()[0].arrival.0, read.types()), (0, &["a.b".to_owned()][..]));
    let printed = place.run(&["record", "q", "--since", "1h", "--anonymous"]).await;
    let csv = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(csv.starts_with("arrival_s,size_s") && csv.contains(",t1,") && !csv.contains("acme"), "{csv}");
    assert!(said(&printed).contains("2 tasks"), "{}", said(&printed));
    let nothing = place.run(&["record", "default", "--since", "1h", "--to", &file]).await;
    assert_eq!(std::fs::read(&file).expect("as it was").len(), csv_of_both, "nothing overwrites no trace");
    assert_eq!((nothing.status.code(), nothing.stdout.len()), (Some(3), 0), "{}", said(&nothing));
}

#[tokio::test]
async fn a_live_recording_ends_with_the_number_of_tasks_and_leaves_no_consumer() {
    let place = Place::new().await;
    place.complete_run("q", "before", 0.0, 1.0).await;
    let mut command = place.command(&["record", "q", "--for", "1h", "--tasks", "2"]);
    let mut recording = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    until(&mut recording, "Recording").await;
    for tenant in ["first", "second"] {
        place.complete_run("q", tenant, 0.0, 5.0).await;
    }
    let output = recording.wait_with_output().await.expect("it ends");
    let csv = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((output.status.code(), csv.lines().count()), (Some(0), 3), "{csv}");
    assert!(csv.contains("first") && csv.contains("second") && !csv.contains("before"), "{csv}");
    assert_eq!(consumers(&place).await, 0);
}

#[tokio::test]
async fn a_recording_of_so_long_ends_by_itself() {
    let place = Place::new().await;
    let output = place.run(&["record", "q", "--for", "50ms"]).await;
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("no task of the queue q completed"), "{}", said(&output));
}

/// How many consumers DONE has.
async fn consumers(place: &Place) -> u64 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let url = format!("{}/jsz?streams=true&consumers=true", place.server.monitor_url().expect("asked for"));
    let address = url.trim_start_matches("http://");
    let (host, path) = address.split_once('/').expect("a path");
    let mut socket = tokio::net::TcpStream::connect(host).await.expect("it listens");
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("answered");
    let (_, json) = answer.split_once("\r\n\r\n").expect("a body");
    let told: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let streams = told["account_details"][0]["stream_detail"].as_array().expect("streams");
    let done = streams.iter().find(|stream| stream["name"] == STREAM_DONE).expect("there");
    done["state"]["consumer_count"].as_u64().expect("a number")
}
