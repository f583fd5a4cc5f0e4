//! Promise: a dispatcher that dies at the worst moment loses nothing, and another takes over.

use crate::outsider::Outsider;
use crate::processes::{Process, Restarted};
use crate::tasks::{Bench, Gated, gated};
use crate::waits::{announced, drained, until, until_some};
use futures::StreamExt;
use jetlane::{Client, Connect, Executor, Outcome, Task, TaskId};
use jetlane_bus::local::Server;
use jetlane_bus::publish::Expect;
use jetlane_bus::{Outgoing, clock};
use jetlane_schemas::{Micros, TaskEvent, frame, subject};
use jetlane_testkit::{Kit, server, soon};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Where a dispatcher has stored a task in its lane and its source knows nothing of that yet.
const BETWEEN: &str = "dispatcher::between-publish-and-ack";

/// A server, a client and an executor; the dispatchers are processes.
struct Rig {
    server: Server,
    client: Client,
    bench: Bench,
    executor: Option<AbortHandle>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(executor) = self.executor.take() {
            executor.abort();
        }
    }
}

impl Rig {
    async fn start() -> Self {
        let server = server().await;
        let client = Client::connect_with(&Connect::to(server.url(), "rig")).await.expect("connects");
        Self { server, client, bench: Bench::default(), executor: None }
    }

    /// Serves once a dispatcher has made the streams.
    async fn serve(&mut self, slots: usize) {
        let executor = Executor::new(&self.client, "tests").state(self.bench.clone()).slots(slots).task(gated);
        let serving = tokio::spawn(async move {
            executor.run_until(tokio_util::sync::CancellationToken::new()).await.expect("the executor runs");
        });
        self.executor = Some(serving.abort_handle());
        let task_type = Client::type_of::<Gated>().expect("valid");
        until("the type is announced", async || self.client.task_type(&task_type).is_some()).await;
    }

    /// Runs so many tasks while dispatchers die at the failure point; how often they died.
    async fn run_while_dispatchers_die(&mut self, tasks: usize, action: &'static str) -> usize {
        let url = self.server.url();
        let failpoints = format!("{BETWEEN}={action}");
        let dispatchers = Restarted::keep(move || {
            let republished = ("JETLANE_DISPATCHER_STREAMS__DONE_REPUBLISHED", "true");
            Process::service("dispatcher", &url, &[("FAILPOINTS", &failpoints), republished])
        });
        self.serve(16).await;
        let outsider = Outsider::connect(&self.server.url()).await;
        let mut stored = outsider.listen("jetlane.stored.>").await;
        self.bench.gate.0.add_permits(2 * tasks);
        let submits = (0..tasks).map(|number| self.client.submit(Gated { text: number.to_string() }));
        let handles = self.client.submit_all(submits.collect::<Vec<_>>()).await;
        for (number, handle) in handles.into_iter().enumerate() {
            let output = soon(handle.expect("accepted").into_future()).await.expect("succeeds");
            assert_eq!(output, number.to_string());
        }
        drained(self.client.bus(), &[]).await;
        let mut completions = BTreeMap::new();
        for _ in 0..tasks {
            let message = soon(stored.next()).await.expect("stored");
            *completions.entry(message.subject.to_string()).or_insert(0) += 1;
        }
        assert_eq!(completions.len(), tasks, "one completion a task");
        assert!(futures::FutureExt::now_or_never(stored.next()).is_none(), "no task completed twice");
        let runs = self.bench.began.lock().await.len();
        let deaths = dispatchers.deaths();
        eprintln!("{deaths} dispatchers died over {tasks} tasks; {} runs beyond one a task", runs - tasks);
        assert!(runs <= tasks + deaths, "{runs} runs of {tasks} tasks, {deaths} deaths");
        deaths
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_that_always_dies_between_publish_and_ack_loses_nothing() {
    let deaths = Rig::start().await.run_while_dispatchers_die(6, "return").await;
    assert!(deaths >= 1, "the failure point was never reached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dispatchers_that_die_now_and_then_lose_none_of_many_tasks() {
    let mut deaths = 0;
    // By chance none may die over 500 tasks: once in 150 times.
    while deaths == 0 {
        deaths = Rig::start().await.run_while_dispatchers_die(500, "1%return").await;
    }
}

/// Who leads the queue: the dispatcher's name.
async fn leader(outsider: &Outsider) -> String {
    let leases =
        until_some("there are leases", async || outsider.jetstream.get_key_value("jetlane_leases").await.ok()).await;
    let holder = until_some("somebody leads", async || leases.get("queue.tests").await.ok().flatten()).await;
    let holder = String::from_utf8_lossy(&holder).into_owned();
    holder.split('-').next().expect("a name").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leading_dispatcher_is_killed_the_other_takes_over_within_three_seconds() {
    let mut rig = Rig::start().await;
    let url = rig.server.url();
    let named = |name| Process::service("dispatcher", &url, &[("JETLANE_DISPATCHER_NAME", name)]);
    let mut dispatchers = BTreeMap::from([("a", named("a")), ("b", named("b"))]);
    rig.serve(8).await;
    let outsider = Outsider::connect(&url).await;
    let submits = (0..200).map(|number| rig.client.submit(Gated { text: number.to_string() }));
    let handles = rig.client.submit_all(submits.collect::<Vec<_>>()).await;
    rig.bench.begun(8).await;
    let first = leader(&outsider).await;
    dispatchers.get_mut(first.as_str()).expect("one of the two").kill().await;
    let killed = Instant::now();
    rig.bench.gate.0.add_permits(400);
    // Eight ran and one waited at the executor: what runs beyond them was dispatched by the other.
    let mut ran = rig.bench.begun(10).await.len();
    let took_over = killed.elapsed();
    assert!(took_over <= Duration::from_secs(3), "after {took_over:?}, {ran} runs had begun");
    assert_ne!(leader(&outsider).await, first);
    for (number, handle) in handles.into_iter().enumerate() {
        let output = soon(handle.expect("accepted").into_future()).await.expect("succeeds");
        assert_eq!(output, number.to_string());
    }
    drained(rig.client.bus(), &[]).await;
    ran = rig.bench.began.lock().await.len();
    eprintln!("taken over after {took_over:?}; {} runs beyond one a task", ran - 200);
    assert_eq!(Gated::TYPE, "test.gated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_that_is_told_to_end_gives_its_queues_up_at_once() {
    let mut rig = Rig::start().await;
    let url = rig.server.url();
    let named = |name| Process::service("dispatcher", &url, &[("JETLANE_DISPATCHER_NAME", name)]);
    let mut dispatchers = BTreeMap::from([("a", named("a")), ("b", named("b"))]);
    rig.serve(2).await;
    let outsider = Outsider::connect(&url).await;
    let submits = (0..100).map(|number| rig.client.submit(Gated { text: number.to_string() }));
    let handles = rig.client.submit_all(submits.collect::<Vec<_>>()).await;
    rig.bench.begun(2).await;
    let first = leader(&outsider).await;
    let leaving = dispatchers.get_mut(first.as_str()).expect("one of the two");
    leaving.signal(rustix::process::Signal::TERM);
    assert!(soon(leaving.ended()).await.success());
    rig.bench.gate.0.add_permits(200);
    for handle in handles {
        soon(handle.expect("accepted").into_future()).await.expect("succeeds");
    }
    assert_eq!(rig.bench.began.lock().await.len(), 100, "each ran once");
    drained(rig.client.bus(), &[]).await;
}

/// How long the task of the next test may wait until it begins: longer than its executor takes to begin it.
const BEGINS_WITHIN: Micros = Micros(3_000_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspect_task_that_an_executor_runs_is_not_expired_by_the_next_leader() {
    let (kit, bench) = (Kit::start().await, Bench::default());
    kit.serve(Executor::new(kit.client(), "tests").state(bench.clone()).slots(1).prefetch(0).task(gated));
    announced(&kit, Gated::TYPE).await;
    let queue = "tests".parse().expect("a queue");
    let body = serde_json::to_vec(&Gated { text: "once".into() }).expect("JSON");
    let task_type = Gated::TYPE.parse().expect("a type");
    let mut task = TaskEvent::new(TaskId::generate(), task_type, queue, clock::now(), body);
    task.deadline = Some(Micros(clock::now().0 + BEGINS_WITHIN.0));
    let bus = kit.client().bus();
    let submit = async |task: &TaskEvent| {
        let subject = subject::task(&task.queue, task.priority, task.shard);
        let body = frame::encode_bundle(std::slice::from_ref(task)).expect("encodes").into();
        let (headers, expect) = (jetlane::Headers::new(), Expect::Anything);
        let out = Outgoing { subject: subject.clone(), headers, body, message_id: None, expect };
        bus.publish(out).await.expect("an answer").or_refused(&subject).expect("stored");
    };
    submit(&task).await;
    bench.begun(1).await;
    kit.crash_dispatcher();
    let mut questions = bus.subscribe(&subject::owner(&task.queue)).await.expect("subscribes");
    kit.another_dispatcher().await;
    // The next leader reads the task's message as one that may have been dispatched, and its deadline passes.
    task.suspect = true;
    submit(&task).await;
    let read = async || bus.read_done(&task.task_type, &task.id).await.expect("DONE is read");
    let asked = async {
        // The second question shows that the first has been answered.
        (questions.next().await, questions.next().await)
    };
    tokio::select! {
        _ = soon(asked) => {}
        done = until_some("it is ended although it runs", read) => panic!("{done:?}"),
    }
    bench.gate.0.add_permits(1);
    let done = until_some("it completes", read).await;
    assert_eq!(done.outcome, Outcome::Succeeded, "{:?}", done.failure());
    drained(bus, &[]).await;
    assert_eq!(bench.begun(1).await.len(), 1, "it ran once");
}
