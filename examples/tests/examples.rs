//! Every example is run, not only compiled.
#![allow(missing_docs, reason = "the names of tests are their documents")]

use jetlane_testkit::{Kit, soon};
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// Runs an example as a user does, against a private scheduler; returns what it printed.
async fn run(example: &str) -> String {
    let kit = Kit::start().await;
    // Cargo builds the examples of a package along with its tests, beside them.
    let tests = std::env::current_exe().expect("a test has a place");
    let program = tests.parent().and_then(Path::parent).expect("target/<profile>").join("examples").join(example);
    let child = Command::new(program)
        .env("NATS_URL", kit.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .expect("the example starts");
    let output = soon(child.wait_with_output()).await.expect("the example ends");
    assert!(output.status.success(), "{example} ended with {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_code_of_the_readme_runs() {
    let printed = run("thumbnail").await;
    assert!(printed.contains("made thumbnails/320-a.png"), "{printed}");
    assert!(printed.contains("succeeded"), "{printed}");
}
