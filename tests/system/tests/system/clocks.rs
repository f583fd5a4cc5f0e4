//! Promise: the broker's clock decides, whoever's calendar is off.

use crate::processes::Process;
use jetlane::{Client, Outcome, Task, TaskType};
use jetlane_testkit::{server, soon};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

/// What the executor of `src/executor.rs` fails at twice, with back-offs of 1 s and 2 s.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct FailsTwice {}

impl Task for FailsTwice {
    const TYPE: &'static str = "test.fails-twice";
    type Output = u32;
}

/// A library that shifts the calendar of a process that loads it, compiled once.
fn skewed_calendar() -> &'static Path {
    static LIBRARY: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, library) = (folder.path().join("skew.c"), folder.path().join("skew.so"));
        std::fs::write(&source, include_str!("../../../../services/cli/tests/server/skew.c")).expect("written");
        let mut compile = std::process::Command::new("cc");
        compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        assert!(compile.status().expect("the linker of Rust is there").success());
        (folder, library)
    });
    &LIBRARY.1
}

/// Runs a task that fails twice, with the calendars of dispatcher and executor off by so many seconds.
async fn retried(dispatcher_ahead: i32, executor_ahead: i32) {
    let server = server().await;
    let library = skewed_calendar().display().to_string();
    let (dispatcher_ahead, executor_ahead) = (dispatcher_ahead.to_string(), executor_ahead.to_string());
    let variables = |ahead| [("LD_PRELOAD", library.as_str()), ("AHEAD_BY_S", ahead), ("SLOTS", "1")];
    let _dispatcher = Process::service("dispatcher", &server.url(), &variables(&dispatcher_ahead));
    let client = Client::connect(server.url()).await.expect("connected");
    let mut executor = Process::executor(&server.url(), &variables(&executor_ahead));
    let task_type = TaskType::new(FailsTwice::TYPE).expect("valid");
    crate::waits::until("it is announced", async || client.task_type(&task_type).is_some()).await;
    let mut handle = client.submit(FailsTwice {}).await.expect("accepted");
    let mut began = Vec::new();
    for attempt in 1..=3 {
        assert_eq!(executor.says("began").await, format!("began fails-twice {attempt}"));
        began.push(Instant::now());
    }
    let done = soon(handle.completion()).await.expect("completes");
    assert_eq!((done.outcome, done.attempt), (Outcome::Succeeded, 3));
    // Back-offs of 1 s and 2 s, each a fifth more or less; the rest is the way there.
    for (pair, back_off_ms) in began.windows(2).zip([1_000, 2_000]) {
        let (waited, least) = (pair[1] - pair[0], Duration::from_millis(back_off_ms * 4 / 5));
        let most = Duration::from_millis(back_off_ms * 6 / 5 + 2_000);
        let off = format!("dispatcher ahead by {dispatcher_ahead} s, executor by {executor_ahead} s");
        assert!((least..most).contains(&waited), "{off}: {waited:?} instead of {back_off_ms} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_offs_are_kept_whatever_the_clocks_of_dispatcher_and_executor_say() {
    tokio::join!(retried(-120, 0), retried(120, 0), retried(0, 120), retried(0, -120));
}
