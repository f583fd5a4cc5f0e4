//! A server of its own for each test, the command as a process beside it, and what others do by hand.

use jetlane_bus::local::{self, Options, Server};
use jetlane_bus::topology::Settings;
use jetlane_bus::{Bus, Connect, clock};
use jetlane_schemas::subject::{self, BUCKET_REGISTRY};
use jetlane_schemas::{
    Completion, Failure, Outcome, QueueEntry, QueueName, RunToken, TaskEvent, TaskId, TaskType, TypeEntry,
};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::LazyLock;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

pub(crate) struct Place {
    pub(crate) server: Server,
    pub(crate) bus: Bus,
}

impl Place {
    /// A server without streams.
    pub(crate) async fn bare() -> Self {
        let binary = local::find(|text| eprintln!("{text}")).await.expect("there is a nats-server");
        let options = Options { monitor: Some(0), ..Options::default() };
        let server = Server::start(&binary, options).await.expect("it starts");
        let bus = Bus::connect(&Connect::to(server.url(), "test")).await.expect("it answers");
        Self { server, bus }
    }

    /// A server with all streams.
    pub(crate) async fn new() -> Self {
        let place = Self::bare().await;
        place.bus.ensure(&Settings::default()).await.expect("made");
        place
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jetlane"));
        command.args(words).env("NATS_URL", self.server.url()).stdin(Stdio::null()).kill_on_drop(true);
        command.env("JETLANE_MONITOR_URL", self.server.monitor_url().expect("asked for"));
        for variable in ["NATS_CREDS", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
            command.env_remove(variable);
        }
        command
    }

    pub(crate) async fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().await.expect("the command runs")
    }

    /// The command on a machine whose calendar is so many seconds ahead of the broker's, or behind it.
    pub(crate) fn command_ahead_by(&self, seconds: i32, words: &[&str]) -> Command {
        let mut command = self.command(words);
        command.env("LD_PRELOAD", skewed_calendar()).env("AHEAD_BY_S", seconds.to_string());
        command
    }

    /// Runs it with `-o json`; the exit code and what it printed.
    pub(crate) async fn json(&self, words: &[&str]) -> (i32, Value) {
        let output = self.run(&[&["-o", "json"], words].concat()).await;
        let printed = serde_json::from_slice(&output.stdout);
        let printed = printed.unwrap_or_else(|error| panic!("{words:?}: {error}: {output:?}"));
        (output.status.code().unwrap_or(-1), printed)
    }

    pub(crate) async fn complete(&self, id: &str, outcome: Outcome, body: &[u8]) {
        let (id, task_type) = (TaskId::new(id).expect("valid"), TaskType::new("a.b").expect("valid"));
        let task = TaskEvent::new(id, task_type, QueueName::default_queue(), clock::now(), Vec::new());
        let completion = Completion { token: Some(RunToken::draw()), ..Completion::of(&task, outcome, clock::now()) };
        let completion = match outcome {
            Outcome::Succeeded => Completion { body: body.to_vec(), ..completion },
            _ => completion.with_failure(Failure::new("handler", String::from_utf8_lossy(body))),
        };
        self.bus.complete(&completion).await.expect("stored");
    }

    pub(crate) async fn announce(&self, task_type: &str, queue: &str) {
        let (task_type, queue) = (TaskType::new(task_type).expect("valid"), QueueName::new(queue).expect("valid"));
        let registry = self.bus.bucket(BUCKET_REGISTRY).await.expect("there");
        registry.put(&subject::registry_queue(&queue), &QueueEntry::default()).await.expect("put");
        registry.put(&subject::registry_type(&task_type), &TypeEntry::new(queue)).await.expect("put");
    }
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits for a line of stderr that has these words.
pub(crate) async fn until(child: &mut Child, words: &str) -> String {
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    while let Some(line) = lines.next_line().await.expect("readable") {
        if line.contains(words) {
            // What is said later must not meet a closed pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return line;
        }
    }
    panic!("it never says {words:?}");
}

/// A valid name.
pub(crate) fn queue(name: &str) -> QueueName {
    QueueName::new(name).expect("valid")
}

/// A valid name.
pub(crate) fn task_type(name: &str) -> TaskType {
    TaskType::new(name).expect("valid")
}

impl Place {
    /// Stores a completion of a task of the type `a.b` that waited and ran for so long.
    pub(crate) async fn complete_run(&self, of_queue: &str, tenant: &str, wait_ms: f64, run_ms: f64) -> TaskId {
        let mut task = TaskEvent::new(TaskId::generate(), task_type("a.b"), queue(of_queue), clock::now(), Vec::new());
        task.tenant = jetlane_schemas::Tenant::new(tenant).expect("valid");
        let ended = jetlane_schemas::Micros(task.submitted_at.0 + ((wait_ms + run_ms) * 1_000.0) as u64);
        let completion = Completion::of(&task, Outcome::Succeeded, ended);
        self.bus
            .complete(&Completion { token: Some(RunToken::draw()), wait_ms, run_ms, ..completion })
            .await
            .expect("stored");
        task.id
    }

    /// A dispatcher as a process of its own, which leads these queues once this returns.
    pub(crate) async fn dispatcher(&self, leads: &str) -> Child {
        let mut command = self.command(&["run", "dispatcher"]);
        let child = command.env("JETLANE_LOG", "error").stdout(Stdio::null()).spawn().expect("runs");
        let within = tokio::time::timeout(std::time::Duration::from_secs(30), async {
            loop {
                let (_, told) = self.json(&["queues", "show", leads]).await;
                if told["leader"].is_string() {
                    return;
                }
            }
        });
        within.await.expect("it leads");
        child
    }
}

/// A library that shifts the calendar of a process that loads it, compiled once.
fn skewed_calendar() -> &'static Path {
    static LIBRARY: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, library) = (folder.path().join("skew.c"), folder.path().join("skew.so"));
        std::fs::write(&source, include_str!("skew.c")).expect("written");
        let mut compile = std::process::Command::new("cc");
        compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        assert!(compile.status().expect("the linker of Rust is there").success());
        (folder, library)
    });
    &LIBRARY.1
}
