//! Promise: a handler is a plain function; what it asks and tells of its run holds.

use crate::outsider::Outsider;
use crate::tasks::{Bench, Echo, echo};
use crate::waits::announced;
use async_nats::jetstream;
use futures::StreamExt;
use jetlane::{
    Client, Ctx, Error, Executor, Extracted, FromTask, Headers, Outcome, Seed, State, Task, TaskError, TaskOptions,
    TaskReply, TaskRequest, TaskService,
};
use jetlane_testkit::{Kit, soon};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Counts to its end, and remembers where it was.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Count {
    to: u32,
}

impl Task for Count {
    const TYPE: &'static str = "test.count";
    type Output = Vec<u32>;

    fn options() -> TaskOptions {
        TaskOptions { backoff: Duration::from_millis(10), ..TaskOptions::default() }
    }
}

/// Keeps its thread for so long.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Keep {
    ms: u64,
}

impl Task for Keep {
    const TYPE: &'static str = "test.keep";
    type Output = String;
}

/// Returns which task of the runtime it ran in.
async fn keep(task: Keep) -> Result<String, TaskError> {
    let end = Instant::now() + Duration::from_millis(task.ms);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    Ok(tokio::task::id().to_string())
}

/// Returns the numbers that its last attempt counted; every attempt but the last fails at 3.
async fn count(task: Count, ctx: Ctx) -> Result<Vec<u32>, TaskError> {
    let mut at = ctx.resume::<u32>().unwrap_or(0);
    let mut counted = Vec::new();
    while at < task.to {
        at += 1;
        counted.push(at);
        ctx.checkpoint(&at).await?;
        ctx.progress(u8::try_from(at * 100 / task.to)?, "counting").await?;
        if at == 3 && ctx.attempt() == 1 {
            return Err(TaskError::retry("lost count"));
        }
    }
    Ok(counted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_is_refused_at_its_start_announces_again() {
    let kit = Kit::start().await;
    let outsider = Outsider::connect(&kit.url()).await;
    let mut tries = outsider.listen("$KV.jetlane_registry.queues.tests").await;
    // As a registry that has no leader yet, but for as long as the test wants.
    let registry = outsider.jetstream.get_stream("KV_jetlane_registry").await.expect("there");
    let open = registry.cached_info().config.clone();
    let full = jetstream::stream::Config { max_bytes: 1, ..open.clone() };
    outsider.jetstream.update_stream(full).await.expect("closed");
    kit.serve(Executor::new(kit.client(), "tests").task(echo));
    for _ in 0..2 {
        soon(tries.next()).await.expect("it tries");
    }
    outsider.jetstream.update_stream(open).await.expect("open again");
    let said = Echo { text: "here".into() };
    assert_eq!(soon(kit.client().submit(said).await.expect("accepted").into_future()).await.expect("it runs"), "here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_have_become_longer_do_not_go_one_after_the_other() {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").slots(16).task(keep));
    announced(&kit, Keep::TYPE).await;
    let run = async |tasks: usize, ms: u64| {
        let submits = (0..tasks).map(|_| kit.client().submit(Keep { ms }));
        let mut places = BTreeSet::new();
        for handle in kit.client().submit_all(submits).await {
            places.insert(soon(handle.expect("accepted").into_future()).await.expect("it runs"));
        }
        places
    };
    // Until the executor knows them to end at once, and is sure of it.
    run(200, 0).await;
    assert_eq!(run(16, 3).await.len(), 16, "some waited for others of the same task of the runtime");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_attempt_resumes_where_an_earlier_one_left_off() {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").task(count));
    let handle = kit.client().submit(Count { to: 5 }).await.expect("accepted");
    let mut reports = handle.progress().await.expect("listens");
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), [4, 5]);
    let last = soon(async {
        loop {
            let report = reports.next().await.expect("the connection is open");
            if report.percent == 100 {
                return report;
            }
        }
    });
    let last = last.await;
    assert_eq!((last.message.as_str(), last.attempt), ("counting", 2));
}

/// Who submitted, by a header.
struct User(String);

impl<S> FromTask<S> for User {
    fn from_task(seed: &Seed<'_, S>) -> Extracted<Self> {
        let headers: Headers = seed.task.headers.clone().into();
        let user =
            headers.get("x-user").ok_or_else(|| TaskError::permanent("no_user", "the header x-user is missing"))?;
        Ok(Self(user.to_owned()))
    }
}

async fn greet(
    task: Echo,
    User(user): User,
    headers: Headers,
    State(word): State<&'static str>,
) -> Result<String, TaskError> {
    Ok(format!("{word} {user}: {} ({})", task.text, headers.len()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_are_extracted_and_a_missing_one_fails_the_task_with_its_reason() {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").state("hello").task(greet));
    let submit = || kit.client().submit(Echo { text: "x".into() });
    let handle = submit().header("x-user", "ada").await.expect("accepted");
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "hello ada: x (1)");
    let error = soon(submit().await.expect("accepted").into_future()).await.expect_err("fails");
    let Error::Task(done) = error else { panic!("{error}") };
    assert_eq!(done.failure().expect("failed").code, "no_user");
}

/// A tower layer that counts what passes.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicU32>);

#[derive(Clone)]
struct Counted {
    inner: TaskService,
    count: Arc<AtomicU32>,
}

impl tower::Layer<TaskService> for Counting {
    type Service = Counted;
    fn layer(&self, inner: TaskService) -> Counted {
        Counted { inner, count: Arc::clone(&self.0) }
    }
}

impl tower::Service<TaskRequest> for Counted {
    type Response = TaskReply;
    type Error = TaskError;
    type Future = <TaskService as tower::Service<TaskRequest>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TaskError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: TaskRequest) -> Self::Future {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.inner.call(request)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tower_layers_see_every_task() {
    let kit = Kit::start().await;
    let counting = Counting::default();
    kit.serve(Executor::new(kit.client(), "tests").task(echo).task(count).layer(counting.clone()));
    let echoed = kit.client().submit(Echo { text: "x".into() }).await.expect("accepted");
    let counted = kit.client().submit(Count { to: 1 }).await.expect("accepted");
    soon(echoed.into_future()).await.expect("succeeds");
    soon(counted.into_future()).await.expect("succeeds");
    assert_eq!(counting.0.load(Ordering::Relaxed), 2);
}

/// Blocks its thread, or panics on it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Block {
    panics: u32,
}

impl Task for Block {
    const TYPE: &'static str = "test.block";
    type Output = u32;

    fn options() -> TaskOptions {
        TaskOptions { backoff: Duration::from_millis(10), ..TaskOptions::default() }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form of a handler")]
fn block(task: Block, ctx: Ctx) -> Result<u32, TaskError> {
    assert!(ctx.attempt() > task.panics, "out of paper");
    Ok(ctx.attempt())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_handler_that_panics_fails_its_attempt_and_not_its_process() {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").task_blocking(block));
    let handle = kit.client().submit(Block { panics: 1 }).await.expect("accepted");
    assert_eq!(soon(handle.into_future()).await.expect("the second attempt succeeds"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_that_one_executor_does_not_serve_finds_the_one_that_does() {
    let kit = Kit::start().await;
    // A rolling deploy: the old executor shares the queue and knows only one of the types.
    kit.serve(Executor::new(kit.client(), "tests").slots(64).task(echo));
    kit.serve(Executor::new(kit.client(), "tests").slots(1).task(echo).task(count));
    let handle = kit.client().submit(Count { to: 2 }).await.expect("accepted");
    let mut done = handle;
    let done = soon(done.completion()).await.expect("completes");
    assert_eq!((done.outcome, done.attempt), (Outcome::Succeeded, 1), "a hand-back spends no attempt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_cannot_serve_says_why_at_start() {
    let kit = Kit::start().await;
    let client: &Client = kit.client();
    let nothing = Executor::new(client, "tests").run().await.expect_err("serves nothing");
    assert!(nothing.to_string().contains("serves no type"), "{nothing}");
    let slots = Executor::new(client, "tests").slots(0).task(echo).run().await.expect_err("no slots");
    assert!(slots.to_string().contains("slots"), "{slots}");
    let twice = Executor::new(client, "tests").task(echo).task(echo).run().await.expect_err("twice");
    assert!(twice.to_string().contains("twice"), "{twice}");
    let name = Executor::new(client, "a.b").task(echo).run().await.expect_err("bad name");
    assert!(name.to_string().contains("queue \"a.b\""), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_executor_ends_what_runs_and_hands_back_what_waits() {
    let bench = Bench::default();
    let kit = Kit::start().await;
    let drain = kit.serve(
        Executor::new(kit.client(), "tests").state(bench.clone()).slots(1).prefetch(3).task(crate::tasks::gated),
    );
    let mut handles = Vec::new();
    for number in 0..4 {
        let task = crate::tasks::Gated { text: number.to_string() };
        handles.push(kit.client().submit(task).await.expect("accepted"));
    }
    bench.begun(1).await;
    drain.cancel();
    // Handed back at once: another executor begins them while the first one still runs.
    kit.serve(Executor::new(kit.client(), "tests").state(bench.clone()).slots(3).task(crate::tasks::gated));
    let began = bench.begun(4).await;
    assert!(began.iter().all(|(_, attempt)| *attempt == 1), "a hand-back spends no attempt: {began:?}");
    bench.gate.0.add_permits(4);
    for handle in handles {
        soon(handle.into_future()).await.expect("succeeds");
    }
    assert_eq!(bench.began.lock().await.len(), 4, "each ran once");
}
