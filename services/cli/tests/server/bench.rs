//! The benches whose counting nothing else checks, in short: every task is found again, once.

use crate::place::said;
use serde_json::Value;
use std::process::Stdio;
use tokio::process::Command;

/// Runs a bench, which starts its own server, in a folder that is removed; what it printed.
async fn bench(words: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetlane"));
    command.arg("bench").args(words).arg("--json").current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    for variable in ["NATS_URL", "NATS_CREDS", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
        command.env_remove(variable);
    }
    let output = command.output().await.expect("the command runs");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("prints JSON")
}

#[tokio::test]
async fn every_task_of_a_backlog_is_counted_once() {
    let told = bench(&["backlog", "--tasks", "2000"]).await;
    assert_eq!([&told["tasks"], &told["lost"], &told["duplicates"]], [2000, 0, 0], "{told}");
    assert!(told["drained_per_s"].as_f64() > Some(0.0), "{told}");
}

#[tokio::test]
async fn every_task_of_a_pipeline_without_bundles_is_counted_once() {
    let words = ["pipeline", "--tasks", "500", "--callbacks", "--bundle", "1", "--open-loop-seconds", "0"];
    let told = bench(&words).await;
    assert_eq!([&told["tasks"], &told["lost"], &told["duplicates"]], [500, 0, 0], "{told}");
}
