//! The task that is traced, and the processes that it goes through: each its own, as when deployed.

use futures::StreamExt;
use jetlane::{Callback, Client, TaskType};
use jetlane_schemas::header;
use jetlane_service::telemetry::{self, Telemetry};
use jetlane_testkit::soon;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Fails as often as it is told, then succeeds.
pub(super) const TASK: &str = "jetlane.fail";
/// Runs after it, with its output.
pub(super) const FOLLOW_UP: &str = "jetlane.echo";
/// Hears of the completion of the task, and of its follow-up's.
const HEARS_FIRST: &str = "trace.heard.first";
const HEARS_LAST: &str = "trace.heard.last";

/// Makes a process of this test the one that submits; its value is where the broker is.
const SUBMITTER: &str = "JETLANE_TEST_SUBMITTER";

/// Whether this process was started to submit.
pub(super) fn is_submitter() -> bool {
    std::env::var_os(SUBMITTER).is_some()
}

/// What the process does that submits: a user's own, which traces as the services do.
pub(super) async fn submit() {
    let variables = std::env::vars().collect();
    let telemetry = Telemetry::new("submitter", "1.0.0", &variables).expect("the variables are right");
    let telemetry = telemetry::init(&telemetry).expect("traces are exported");
    let client = Client::connect(std::env::var(SUBMITTER).expect("set by the test")).await.expect("connects");
    let last = Callback::Subject { subject: HEARS_LAST.into() };
    let follow_up = Callback::Task { task_type: task_type(FOLLOW_UP), priority: None, callbacks: vec![last] };
    let first = Callback::Subject { subject: HEARS_FIRST.into() };
    let task = client.submit_json(TASK, br#"{"times":1}"#.to_vec()).callback(first).callback(follow_up);
    soon(async { task.await.expect("accepted").await }).await.expect("the second attempt succeeds");
    telemetry.shutdown().await;
}

fn task_type(name: &str) -> TaskType {
    TaskType::new(name).expect("a valid name")
}

/// Runs the task on a server of its own, every process exporting to `otlp`, and returns its trace's id
/// once all of them have ended.
pub(super) async fn trace_one(otlp: &str) -> String {
    let server = jetlane_testkit::server().await;
    let url = server.url();
    let client = async_nats::connect(&url).await.expect("connects");
    let mut first = client.subscribe(HEARS_FIRST).await.expect("subscribes");
    let mut last = client.subscribe(HEARS_LAST).await.expect("subscribes");
    client.flush().await.expect("the server knows the subscriptions");
    let service = |service| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jetlane-under-test"));
        command.args(["run", service]).env("NATS_URL", &url).env("JETLANE_DIE_WITH_PARENT", "1");
        command.env("JETLANE_CALLBACK_SUBJECTS", "[\"trace.>\"]");
        start(command, otlp)
    };
    let (dispatcher, executor) = (service("dispatcher"), service("executor"));
    until_announced(&url).await;
    // Those that submit come after the announcements, so that they know them from the beginning.
    let callback = service("callback");
    let mut command = Command::new(std::env::current_exe().expect("a test is a program"));
    let test = std::thread::current().name().expect("a test's thread has its name").to_owned();
    command.args(["--exact", &test, "--nocapture"]).env(SUBMITTER, &url);
    let submitter = start(command, otlp);

    let first = soon(first.next()).await.expect("the completion is heard of");
    let last = soon(last.next()).await.expect("the follow-up's completion is heard of");
    let traces = [trace_of(&first), trace_of(&last)];
    assert_eq!(traces[0], traces[1], "the follow-up goes on in the same trace");
    for process in [submitter, dispatcher, executor, callback] {
        end(process).await;
    }
    let [trace_id, _] = traces;
    trace_id
}

/// Waits until both types are known to whoever asks: only then are they submitted by the SDK's door.
async fn until_announced(url: &str) {
    let client = Client::connect(url).await.expect("connects");
    soon(async {
        while [TASK, FOLLOW_UP].iter().any(|name| client.task_type(&task_type(name)).is_none()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Only what the test says decides on traces; what the process says goes to the test's own output.
fn start(mut command: Command, otlp: &str) -> Child {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", otlp)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("JETLANE_LOG", "warn")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the process starts")
}

/// Lets a process drain, its last spans included: the closed pipe is the sign.
async fn end(mut process: Child) {
    drop(process.stdin.take());
    let status = soon(process.wait()).await.expect("the process is ours");
    assert!(status.success(), "a process ended badly: {status}");
}

/// What a subscriber learns of the trace.
fn trace_of(message: &async_nats::Message) -> String {
    let headers = message.headers.as_ref().expect("a completion has headers");
    let traceparent = headers.get(header::TRACEPARENT).expect("a traced completion says so").as_str();
    traceparent.split('-').nth(1).expect("the trace's id is its second part").to_owned()
}
