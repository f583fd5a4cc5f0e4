//! Promise: the first signal asks a process to finish what it has; the second ends it at once.

use crate::processes::Process;
use crate::waits::{announced, until};
use jetlane::{Callback, Outcome, Priority};
use jetlane_callback::signature::Secret;
use jetlane_schemas::subject::{Lane, LaneKind};
use jetlane_schemas::{Completion, Fit, QueueName, RunToken, TaskEvent, TaskId, TaskType};
use jetlane_testkit::{Kit, soon};
use rustix::process::Signal;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, interval, timeout};

/// How long "at once" may take on a machine that is busy.
const AT_ONCE: Duration = Duration::from_secs(3);
/// What a service exits with that was told twice to end, as its documentation says.
const TOLD_TWICE: i32 = 130;

/// A server that takes connections and answers nothing: work that lasts, and telemetry that is not taken.
async fn silent() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    (url, held)
}

/// Tells a process with work in hand twice to end; returns its status.
async fn told_twice(mut process: Process, first: Signal, second: Signal) -> Option<i32> {
    process.signal(first);
    let told = Instant::now();
    // It is still at work: whether it has heard the first is not known from outside, and two of one kind may be
    // delivered as one.
    let mut every = interval(Duration::from_millis(50));
    every.tick().await;
    let status = timeout(AT_ONCE, async {
        loop {
            tokio::select! {
                status = process.ended() => return status,
                _ = every.tick() => process.signal_if_there(second),
            }
        }
    });
    let status = status.await.unwrap_or_else(|_| panic!("it is still there after {:?}", told.elapsed()));
    status.code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_signal_ends_an_executor_at_once_whatever_it_runs() {
    // Who takes no spans holds nobody up.
    let (url, _held) = silent().await;
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::INT), (Signal::TERM, Signal::INT)] {
        let kit = Kit::start().await;
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str())];
        let process = Process::service("executor", &kit.url(), &variables);
        announced(&kit, "jetlane.sleep").await;
        let sleep = kit.client().submit_json("jetlane.sleep", br#"{"ms":600000}"#.to_vec());
        sleep.await.expect("accepted");
        let bus = kit.client().bus();
        let lane = Lane {
            kind: LaneKind::Bundle,
            queue: QueueName::default_queue(),
            priority: Priority::Normal,
            fit: Fit::default(),
        };
        until("it runs", async || {
            let backlog = bus.backlog("JETLANE_LANES", &lane.consumer()).await.expect("read");
            backlog.is_some_and(|backlog| backlog.unanswered == 1)
        })
        .await;
        assert_eq!(told_twice(process, first, second).await, Some(TOLD_TWICE), "{first:?}, {second:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_signal_ends_a_callback_service_at_once_whose_receiver_is_silent() {
    let kit = Kit::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let endpoints = format!(
        "{{ hook = {{ url = {url:?}, secrets = [{:?}], allow_private_addresses = true }} }}",
        Secret::generate()
    );
    let variables = [("JETLANE_CALLBACK_ENDPOINTS", endpoints.as_str())];
    let process = Process::service("callback", &kit.url(), &variables);
    let (id, task_type) = (TaskId::generate(), TaskType::new("a.b").expect("valid"));
    let mut task = TaskEvent::new(id, task_type, QueueName::default_queue(), jetlane_bus::clock::now(), Vec::new());
    task.callbacks = vec![Callback::Webhook { endpoint: "hook".into() }];
    let done = Completion::of(&task, Outcome::Succeeded, jetlane_bus::clock::now());
    kit.client().bus().complete(&Completion { token: Some(RunToken::draw()), ..done }).await.expect("stored");
    let _silent = soon(listener.accept()).await.expect("it calls");
    assert_eq!(told_twice(process, Signal::TERM, Signal::TERM).await, Some(TOLD_TWICE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_signal_ends_an_executor_of_ones_own_at_once() {
    let kit = Kit::start().await;
    let mut process = Process::executor(&kit.url(), &[("SLOTS", "1")]);
    announced(&kit, "test.held").await;
    let submit = kit.client().submit_json("test.held", br#"{"text":"0"}"#.to_vec());
    submit.await.expect("accepted");
    process.says("began").await;
    assert_eq!(told_twice(process, Signal::INT, Signal::INT).await, Some(0), "run() returns, and its process ends");
}
