//! Promise: a delivery is not an attempt. What has begun is not begun again while its executor lives, what must not run
//! twice never does, and what a handler returned is kept until it is stored.

use crate::outsider::Outsider;
use crate::processes::Process;
use crate::tasks::{Bench, Gated, gated};
use crate::waits::{announced, drained, until};
use jetlane::{Ctx, Executor, Outcome, State, Task, TaskError, TaskHandle, TaskId, TaskOptions};
use jetlane_bus::flows::LANE_ACK_WAIT;
use jetlane_bus::publish::Expect;
use jetlane_bus::topology::Settings;
use jetlane_bus::{Outgoing, Pulled};
use jetlane_core::run::RECONNECT_GRACE;
use jetlane_schemas::subject::{self, BUCKET_REGISTRY, Lane, LaneKind, STREAM_DONE, STREAM_LANES};
use jetlane_schemas::{Fit, Priority, TaskEvent, TypeOverride, frame};
use jetlane_testkit::{Kit, server, soon};
use rustix::process::Signal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

const QUEUE: &str = "tests";

fn lane() -> Lane {
    let (queue, fit) = (QUEUE.parse().expect("valid"), Fit::default());
    Lane { kind: LaneKind::Bundle, queue, priority: Priority::Normal, fit }
}

/// Puts bytes into the lane of bundles, as a dispatcher would.
async fn put(kit: &Kit, body: Vec<u8>) {
    let lane = lane().subject();
    let out = Outgoing {
        subject: lane.clone(),
        headers: jetlane::Headers::new(),
        body: body.into(),
        message_id: None,
        expect: Expect::Anything,
    };
    kit.client().bus().publish(out).await.expect("an answer").or_refused(&lane).expect("stored");
}

fn task(task_type: &str, body: &[u8]) -> TaskEvent {
    let (task_type, queue) = (task_type.parse().expect("a type"), QUEUE.parse().expect("a queue"));
    TaskEvent::new(TaskId::generate(), task_type, queue, jetlane_bus::clock::now(), body.to_vec())
}

async fn lane_messages(kit: &Kit) -> u64 {
    kit.client().bus().subject_counts(STREAM_LANES, ">").await.expect("counted").values().sum()
}

async fn gated_here(kit: &Kit, bench: &Bench, slots: usize) {
    kit.serve(Executor::new(kit.client(), QUEUE).state(bench.clone()).slots(slots).prefetch(0).task(gated));
    announced(kit, Gated::TYPE).await;
}

async fn submit(kit: &Kit, text: &str, retries: u32) -> TaskHandle<String> {
    kit.client().submit(Gated { text: text.into() }).retries(retries).await.expect("accepted")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_task_in_a_lane_never_starts() {
    let (kit, bench) = (Kit::start().await, Bench::default());
    kit.serve(Executor::new(kit.client(), QUEUE).state(bench.clone()).slots(1).prefetch(4).task(gated));
    announced(&kit, Gated::TYPE).await;
    let running = submit(&kit, "running", 3).await;
    bench.begun(1).await;
    let behind = submit(&kit, "behind", 3).await;
    until("both have left the dispatcher", async || lane_messages(&kit).await == 2).await;
    assert_eq!(behind.cancel().await.expect("cancels"), Outcome::Cancelled);
    bench.gate.0.add_permits(1);
    soon(running.into_future()).await.expect("succeeds");
    let after = submit(&kit, "after", 3).await;
    bench.gate.0.add_permits(1);
    soon(after.into_future()).await.expect("succeeds");
    let begun: Vec<String> = bench.begun(2).await.into_iter().map(|(text, _)| text).collect();
    assert_eq!(begun, ["running", "after"]);
    drained(kit.client().bus(), &[]).await;
}

/// Fails once the gate opens, and succeeds at its second attempt.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct FailsOnce {}

impl Task for FailsOnce {
    const TYPE: &'static str = "test.fails-once";
    type Output = u32;

    fn options() -> TaskOptions {
        TaskOptions { retries: 1, backoff: Duration::from_millis(400), ..TaskOptions::default() }
    }
}

async fn fails_once(_: FailsOnce, ctx: Ctx, State(bench): State<Bench>) -> Result<u32, TaskError> {
    bench.begin("fails-once", ctx.attempt()).await;
    if ctx.attempt() > 1 {
        return Ok(ctx.attempt());
    }
    bench.gate.0.acquire().await?.forget();
    Err(TaskError::retry("not yet"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outage_longer_than_a_lease_costs_no_work_and_no_attempt() {
    let mut kit = Kit::start().await;
    let (during, after, failing) = (Bench::default(), Bench::default(), Bench::default());
    let gates = [&during, &after];
    // One executor a gate.
    for (queue, bench) in ["during", "after"].into_iter().zip(gates) {
        kit.serve(Executor::new(kit.client(), queue).state(bench.clone()).task(gated));
        announced(&kit, Gated::TYPE).await;
        let entry = async || kit.client().task_type(&Gated::TYPE.parse().expect("valid")).map(|entry| entry.queue);
        until("the type has moved", async || entry().await.is_some_and(|of| of.as_str() == queue)).await;
        let handle = submit(&kit, queue, 0).await;
        bench.begun(1).await;
        kit.keep(tokio::spawn(async move {
            assert_eq!(
                timeout(Duration::from_secs(60), handle.into_future()).await.expect("in time").expect("succeeds"),
                queue
            );
        }));
    }
    // Its one slot is taken: it wins its lease back though it has no room to pull.
    kit.serve(Executor::new(kit.client(), QUEUE).state(failing.clone()).slots(1).prefetch(0).task(fails_once));
    announced(&kit, FailsOnce::TYPE).await;
    let retried = kit.client().submit(FailsOnce {}).await.expect("accepted");
    failing.begun(1).await;
    kit.server().kill().await;
    let killed = Instant::now();
    during.gate.0.add_permits(1);
    failing.gate.0.add_permits(1);
    // The time itself is what is tested here.
    sleep_until(killed + LANE_ACK_WAIT + Duration::from_secs(2)).await;
    kit.server().restart().await.expect("the server starts again");
    assert_eq!(timeout(Duration::from_secs(60), retried.into_future()).await.expect("in time").expect("succeeds"), 2);
    after.gate.0.add_permits(1);
    drained(kit.client().bus(), &[]).await;
    for (bench, begun) in [(&during, 1), (&after, 1), (&failing, 2)] {
        assert_eq!(bench.began.lock().await.len(), begun, "{:?}", bench.began.lock().await);
    }
}

/// What the executor of `src/executor.rs` holds until it is told to let go.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Held {
    text: String,
}

impl Task for Held {
    const TYPE: &'static str = "test.held";
    type Output = String;
}

async fn held(_: Held, State(runs): State<Arc<AtomicUsize>>) -> Result<String, TaskError> {
    runs.fetch_add(1, Ordering::Relaxed);
    Ok("elsewhere".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_without_retries_whose_executor_died_is_crashed_and_never_begins_again() {
    let kit = Kit::start().await;
    let mut process = Process::executor(&kit.url(), &[("SLOTS", "1")]);
    announced(&kit, Held::TYPE).await;
    let mut handle = kit.client().submit(Held { text: "0".into() }).retries(0).await.expect("accepted");
    process.says("began 0 1").await;
    let runs = Arc::new(AtomicUsize::new(0));
    kit.serve(Executor::new(kit.client(), QUEUE).state(Arc::clone(&runs)).task(held));
    process.kill().await;
    let limit = LANE_ACK_WAIT + RECONNECT_GRACE + Duration::from_secs(10);
    let done = timeout(limit, handle.completion()).await.expect("in time").expect("completes");
    assert_eq!((done.outcome, done.failure().expect("failed").code.as_str()), (Outcome::Failed, "crashed"));
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_that_began_nothing_spend_no_attempt() {
    let (kit, bench) = (Kit::start().await, Bench::default());
    let bus = kit.client().bus();
    bus.ensure_lane(&lane()).await.expect("made");
    let task = TaskEvent { retries: Some(0), ..task(Gated::TYPE, br#"{"text":"first"}"#) };
    put(&kit, frame::encode_bundle([&task]).expect("encodes")).await;
    let mut puller = bus.puller(STREAM_LANES, &lane().consumer()).await.expect("subscribed");
    for _ in 0..3 {
        puller.ask(1, None).await.expect("asked");
        loop {
            if let Pulled::Delivery(delivery) = soon(puller.next()).await {
                delivery.ack.give_back(Duration::ZERO).await.expect("sent");
                break;
            }
        }
    }
    bench.gate.0.add_permits(1);
    gated_here(&kit, &bench, 1).await;
    let mut handle = kit.client().handle_json(task.task_type.clone(), task.id.clone());
    let done = soon(handle.completion()).await.expect("completes");
    assert_eq!((done.outcome, done.attempt), (Outcome::Succeeded, 1));
    assert_eq!(bench.began.lock().await.len(), 1);
    drained(bus, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_delivered_again_go_on_where_they_began() {
    const TASKS: usize = 8;
    let (kit, bench) = (Kit::start().await, Bench::default());
    // With room to take each task once more.
    gated_here(&kit, &bench, 2 * TASKS).await;
    let mut handles = Vec::new();
    for number in 0..TASKS {
        handles.push(submit(&kit, &number.to_string(), 3).await);
    }
    bench.begun(TASKS).await;
    // Without its consumer the server forgets who has what, and gives everything again to whoever asks.
    let outsider = Outsider::connect(&kit.url()).await;
    let lanes = outsider.jetstream.get_stream(STREAM_LANES).await.expect("there");
    lanes.delete_consumer(&lane().consumer()).await.expect("deleted");
    let bus = kit.client().bus();
    until("all were delivered again", async || {
        let backlog = bus.backlog(STREAM_LANES, &lane().consumer()).await.expect("told");
        backlog.is_some_and(|backlog| backlog.pending == 0 && backlog.unanswered == TASKS as u64)
    })
    .await;
    bench.gate.0.add_permits(TASKS);
    for handle in handles {
        soon(handle.into_future()).await.expect("succeeds");
    }
    drained(bus, &[]).await;
    assert_eq!(bench.began.lock().await.len(), TASKS, "each began once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_executor_that_slept_begins_nothing_that_ran_elsewhere() {
    let kit = Kit::start().await;
    let mut process = Process::executor(&kit.url(), &[("SLOTS", "1")]);
    announced(&kit, Held::TYPE).await;
    let first = kit.client().submit(Held { text: "awake".into() }).await.expect("accepted");
    process.says("began awake").await;
    process.let_one_end().await;
    soon(first.into_future()).await.expect("succeeds");
    // It has asked for more, and stops.
    until("its pull waits", async || {
        let backlog = kit.client().bus().backlog(STREAM_LANES, &lane().consumer()).await.expect("told");
        backlog.is_some_and(|backlog| backlog.waiting_pulls > 0 && backlog.unanswered == 0)
    })
    .await;
    process.signal(Signal::STOP);
    let asleep = task(Held::TYPE, br#"{"text":"asleep"}"#);
    put(&kit, frame::encode_bundle([&asleep]).expect("encodes")).await;
    until("it was delivered to the sleeper", async || {
        let backlog = kit.client().bus().backlog(STREAM_LANES, &lane().consumer()).await.expect("told");
        backlog.is_some_and(|backlog| backlog.unanswered == 1)
    })
    .await;
    let runs = Arc::new(AtomicUsize::new(0));
    kit.serve(Executor::new(kit.client(), QUEUE).state(Arc::clone(&runs)).task(held));
    let mut handle = kit.client().handle_json(asleep.task_type.clone(), asleep.id.clone());
    assert_eq!(soon(handle.completion()).await.expect("completes").outcome, Outcome::Succeeded);
    process.signal(Signal::CONT);
    process.signal(Signal::TERM);
    loop {
        let line = process.says("").await;
        assert!(!line.starts_with("began"), "{line}");
        if line.starts_with("drained") {
            break;
        }
    }
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bundle_that_cannot_be_read_is_kept_and_one_of_a_later_version_is_left_to_who_reads_it() {
    let (kit, bench) = (Kit::start().await, Bench::default());
    gated_here(&kit, &bench, 4).await;
    put(&kit, b"JL\x01\x09\x00\x01of a later version".to_vec()).await;
    put(&kit, b"ten bytes!".to_vec()).await;
    let dead = subject::DEAD_ALL.replace('>', &format!("{QUEUE}.jetlane.unreadable.*"));
    let bus = kit.client().bus();
    until("the noise is a dead letter", async || {
        bus.subject_counts("JETLANE_DEAD", &dead).await.expect("counted").len() == 1
    })
    .await;
    until("only the later version is left", async || lane_messages(&kit).await == 1).await;
    let letter = bus.subject_counts("JETLANE_DEAD", &dead).await.expect("counted").into_keys().next().expect("one");
    assert_eq!(bus.read_dead(&letter).await.expect("reads").expect("kept").payload, b"ten bytes!");
    // Others are served beside it.
    bench.gate.0.add_permits(1);
    soon(submit(&kit, "other", 3).await.into_future()).await.expect("succeeds");
    until("nothing else is left", async || lane_messages(&kit).await == 1).await;
}

/// Returns this many bytes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Bulky {
    bytes: usize,
}

impl Task for Bulky {
    const TYPE: &'static str = "test.bulky";
    type Output = String;
}

async fn bulky(task: Bulky, State(bench): State<Bench>) -> Result<String, TaskError> {
    bench.begin("bulky", 1).await;
    Ok("b".repeat(task.bytes))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_wait_for_room_among_completions_and_no_handler_is_called_again() {
    const TASKS: usize = 6;
    let streams = Settings { done_bytes_max: 64 * 1_024, ..Settings::default() };
    let config = jetlane_dispatcher::Config { streams, ..jetlane_dispatcher::Config::default() };
    let (kit, bench) = (Kit::with(server().await, config).await, Bench::default());
    kit.serve(Executor::new(kit.client(), QUEUE).state(bench.clone()).slots(TASKS).task(bulky));
    announced(&kit, Bulky::TYPE).await;
    let mut handles = Vec::new();
    for _ in 0..TASKS {
        handles.push(kit.client().submit(Bulky { bytes: 20_000 }).await.expect("accepted"));
    }
    bench.begun(TASKS).await;
    let bus = kit.client().bus();
    let stored = async || bus.subject_counts(STREAM_DONE, ">").await.expect("counted").len();
    until("the stream is full", async || stored().await == 3).await;
    let outsider = Outsider::connect(&kit.url()).await;
    let done = outsider.jetstream.get_stream(STREAM_DONE).await.expect("there");
    done.purge().await.expect("purged");
    until("the others are stored", async || stored().await == 3).await;
    drained(bus, &[]).await;
    assert_eq!(bench.began.lock().await.len(), TASKS);
}

/// Blocks its thread.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Blocks {}

impl Task for Blocks {
    const TYPE: &'static str = "test.blocks";
    type Output = ();

    fn options() -> TaskOptions {
        TaskOptions { retries: 0, timeout: Duration::from_millis(1), ..TaskOptions::default() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_handler_whose_time_is_up_keeps_its_slot_until_its_thread_is_free() {
    const SLOTS: usize = 2;
    let kit = Kit::start().await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at_work, seen) = (Arc::clone(&now), Arc::clone(&most));
    let blocks = move |_: Blocks, _: Ctx| {
        seen.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let (_open, silent) = std::sync::mpsc::channel::<()>();
        let _timed_out = silent.recv_timeout(Duration::from_millis(200));
        at_work.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    };
    kit.serve(Executor::new(kit.client(), QUEUE).slots(SLOTS).task_blocking(blocks));
    announced(&kit, Blocks::TYPE).await;
    let submits: Vec<_> = (0..8).map(|_| kit.client().submit(Blocks {})).collect();
    for handle in kit.client().submit_all(submits).await {
        let done = soon(handle.expect("accepted").completion()).await.expect("completes");
        assert_eq!(done.failure().expect("failed").code, "timeout");
    }
    assert!(most.load(Ordering::SeqCst) <= SLOTS, "{} were at work at once", most.load(Ordering::SeqCst));
}

/// Asks to be run again after this long, twice.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Again {
    after_ms: u64,
}

impl Task for Again {
    const TYPE: &'static str = "test.again";
    type Output = ();
}

type Begun = Arc<Mutex<Vec<(u64, Instant)>>>;

async fn again(task: Again, ctx: Ctx, State(begun): State<Begun>) -> Result<(), TaskError> {
    begun.lock().await.push((task.after_ms, Instant::now()));
    if ctx.attempt() > 2 {
        return Ok(());
    }
    Err(TaskError::retry_after(Duration::from_millis(task.after_ms), "again"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_is_never_sooner_than_asked() {
    let (kit, begun) = (Kit::start().await, Begun::default());
    kit.serve(Executor::new(kit.client(), QUEUE).state(Arc::clone(&begun)).task(again));
    announced(&kit, Again::TYPE).await;
    let delays = [50, 150, 250, 290];
    let submits: Vec<_> = delays.iter().map(|after_ms| kit.client().submit(Again { after_ms: *after_ms })).collect();
    for handle in kit.client().submit_all(submits).await {
        soon(handle.expect("accepted").into_future()).await.expect("succeeds");
    }
    let begun = begun.lock().await;
    for delay in delays {
        let times: Vec<Instant> = begun.iter().filter(|(of, _)| *of == delay).map(|(_, at)| *at).collect();
        assert_eq!(times.len(), 3);
        for pair in times.windows(2) {
            assert!(pair[1] - pair[0] >= Duration::from_millis(delay), "{:?} of {delay} ms", pair[1] - pair[0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_waits_as_long_as_was_set_since_its_executor_started() {
    const SET_MS: u64 = 600_000;
    let (kit, bench) = (Kit::start().await, Bench::default());
    kit.serve(Executor::new(kit.client(), QUEUE).state(bench.clone()).task(fails_once));
    announced(&kit, FailsOnce::TYPE).await;
    let handle = kit.client().submit(FailsOnce {}).await.expect("accepted");
    bench.begun(1).await;
    let task_type = FailsOnce::TYPE.parse().expect("valid");
    let set = TypeOverride { backoff_ms: Some(SET_MS), backoff_ms_max: Some(SET_MS), ..TypeOverride::default() };
    let registry = kit.client().bus().bucket(BUCKET_REGISTRY).await.expect("there");
    registry.put(&subject::registry_override(&task_type), &set).await.expect("set");
    until("it is heard", async || kit.client().task_type(&task_type).is_some_and(|entry| entry.backoff_ms == SET_MS))
        .await;
    let before = jetlane_bus::clock::now();
    bench.gate.0.add_permits(1);
    let scheduled = async || kit.client().bus().scheduled(handle.id()).await.expect("read");
    until("the retry is stored", async || scheduled().await.is_some()).await;
    let (at, _) = scheduled().await.expect("stored");
    assert!(at.0 > before.0 + SET_MS * 1_000 / 4, "due {} us later", at.0 - before.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executor_announces_again_what_the_registry_has_lost() {
    let (kit, bench) = (Kit::start().await, Bench::default());
    gated_here(&kit, &bench, 4).await;
    let registry = kit.client().bus().bucket(BUCKET_REGISTRY).await.expect("there");
    let key = subject::registry_type(&Gated::TYPE.parse().expect("valid"));
    registry.delete(&key).await.expect("deleted");
    until("it is announced again", async || registry.get::<serde_json::Value>(&key).await.expect("reads").is_some())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executor_drains_in_its_time_while_the_broker_is_away() {
    let mut kit = Kit::start().await;
    let bench = Bench::default();
    let client = kit.another_client().await;
    let executor = Executor::new(&client, QUEUE).state(bench.clone()).slots(1).prefetch(4);
    let drain = tokio_util::sync::CancellationToken::new();
    let until = drain.clone();
    let executor = executor.drain_within(Duration::from_secs(1)).task(gated);
    let running = tokio::spawn(async move { executor.run_until(until).await });
    announced(&kit, Gated::TYPE).await;
    for number in 0..4 {
        submit(&kit, &number.to_string(), 3).await;
    }
    bench.begun(1).await;
    crate::waits::until("all have left the dispatcher", async || lane_messages(&kit).await == 4).await;
    kit.server().kill().await;
    drain.cancel();
    timeout(Duration::from_secs(15), running).await.expect("it ends").expect("no panic").expect("it has drained");
}
