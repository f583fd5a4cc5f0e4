//! Promise: what goes next is what the queue's policy says, and whoever asks learns why a task waits. Told
//! by the order in which handlers begin.

use crate::tasks::{Bench, Echo, Gated, echo, gated};
use crate::waits::{announced, drained, until};
use crate::workshop::{QUEUE, Workshop, asked, declare, in_turn, one_by_one, ordered, queue, until_ahead};
use jetlane::{
    Admit, Attempt, Callback, Error, Executor, Outcome, Priority, QueueEntry, Reason, State, Submit, Task, TaskError,
    TaskId,
};
use jetlane_callback::{Counts, Endpoints, Settings};
use jetlane_schemas::registry::PolicyName;
use jetlane_schemas::subject::{self, STREAM_TASKS};
use jetlane_schemas::{EstimateEntry, Shard, SharedEntry, Tenant};
use jetlane_service::health::Health;
use jetlane_testkit::{Kit, soon};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

mod yields;

/// In so many minutes.
fn in_minutes(minutes: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(60 * minutes)
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_robin_gives_each_tenant_a_turn() {
    let workshop = Workshop::busy(PolicyName::Rr).await;
    let tenants = ["ada", "bob", "cy"];
    // One tenant after the other, so that first in, first out would serve them so.
    for tenant in tenants {
        in_turn((0..4).map(|n| workshop.task(format!("{tenant} {n}")).tenant(tenant))).await;
    }
    until_ahead(|| workshop.task("another").tenant("ada"), 12).await;
    let order = workshop.let_end(12).await;
    for (round, turns) in order.chunks(tenants.len()).enumerate() {
        let mut turns = turns.to_vec();
        turns.sort();
        assert_eq!(turns, tenants.map(|tenant| format!("{tenant} {round}")), "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_critical_task_behind_a_backlog_of_low_ones_goes_next() {
    for policy in [PolicyName::Strict, PolicyName::Adaptive] {
        let workshop = Workshop::busy(policy).await;
        let low = |name: String| workshop.task(name).priority(Priority::Low);
        in_turn((0..24).map(|n| low(format!("low {n}")))).await;
        until_ahead(|| low("another".into()), 24).await;
        let critical = workshop.task("critical").priority(Priority::Critical).await.expect("accepted");
        workshop.until_told(critical.id(), |_| true).await;
        assert_eq!(workshop.let_end(1).await, ["critical"], "{policy}");
        assert_eq!(workshop.let_end(2).await, ["critical", "low 0", "low 1"], "{policy}");
    }
}

/// What follows a [`Gated`] task: its body is that one's output.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Sequel(String);

impl Task for Sequel {
    const TYPE: &'static str = "test.sequel";
    type Output = String;
}

async fn sequel(task: Sequel, Attempt(attempt): Attempt, State(bench): State<Bench>) -> Result<String, TaskError> {
    bench.begin(&format!("after {}", task.0), attempt).await;
    bench.gate.0.acquire().await?.forget();
    Ok(task.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_critical_task_inherits_its_priority_unless_another_is_stated() {
    let (kit, bench) = (Kit::start().await, Bench::default());
    declare(&kit, &ordered(PolicyName::Strict)).await;
    kit.serve(one_by_one(kit.client(), &bench).task(gated).task(sequel));
    announced(&kit, Sequel::TYPE).await;
    let client = kit.another_client().await;
    kit.keep(tokio::spawn(async move {
        let endpoints = Endpoints::new(&Settings::default()).expect("valid");
        let (counts, health) = (Arc::<Counts>::default(), Health::default());
        let served = jetlane_callback::serve(client, endpoints, counts, health, CancellationToken::new());
        served.await.expect("the callback service runs");
    }));
    let workshop = Workshop { kit, bench };
    workshop.occupy().await;
    let low = |name: String| workshop.task(name).priority(Priority::Low);
    in_turn((0..4).map(|n| low(format!("low {n}")))).await;
    let task_type = Sequel::TYPE.parse().expect("valid");
    let stated = Callback::Task { task_type, priority: Some(Priority::Low), callbacks: Vec::new() };
    let parent = workshop.task("critical").priority(Priority::Critical).then::<Sequel>().callback(stated);
    parent.await.expect("accepted");
    until_ahead(|| low("another".into()), 5).await;
    assert_eq!(workshop.let_end(1).await, ["critical"]);
    // When it ends, one goes next: a low one, unless what follows is there at once. Five are left.
    workshop.let_end(1).await;
    until_ahead(|| low("another".into()), 5).await;
    let order = workshop.let_end(5).await;
    let inherits = order.iter().position(|name| name == "after critical").expect("it began");
    assert!(inherits <= 2, "{order:?}");
    let rest: Vec<&String> =
        order.iter().skip(1).enumerate().filter(|(n, _)| n + 1 != inherits).map(|(_, name)| name).collect();
    assert_eq!(rest, ["low 0", "low 1", "low 2", "low 3", "after critical"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_earliest_deadline_goes_first_and_what_has_none_goes_last() {
    let workshop = Workshop::busy(PolicyName::Edf).await;
    let mut submits: Vec<Submit<String>> = (0..2).map(|n| workshop.task(format!("none {n}"))).collect();
    for due in [40, 10, 30, 20] {
        submits.push(workshop.task(format!("in {due}")).deadline(in_minutes(due)));
    }
    in_turn(submits).await;
    until_ahead(|| workshop.task("another"), 6).await;
    assert_eq!(workshop.let_end(6).await, ["in 10", "in 20", "in 30", "in 40", "none 0", "none 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_task_that_would_start_too_late_is_refused_at_submission_with_its_expected_start() {
    let workshop = Workshop::busy(PolicyName::Edf).await;
    let due = |name: &str, due: u64| workshop.task(name).estimate(minutes(10)).deadline(in_minutes(due));
    in_turn([due("before 0", 5), due("before 1", 12)]).await;
    until_ahead(|| due("another", 30), 2).await;
    let submitted = SystemTime::now();
    let refused = due("late", 15).admit(Admit::Strict).await.expect_err("refused");
    let Error::TooLate { expected, .. } = &refused else { panic!("{refused}") };
    // What runs takes a minute still, those before it ten each.
    let start = SystemTime::UNIX_EPOCH + Duration::from_micros(expected.start.expect("an executor takes it").0);
    let waits = start.duration_since(submitted).expect("in the future");
    assert!(waits > minutes(19) && waits < minutes(23), "in {waits:?}");
    assert_eq!((expected.ahead, expected.meets_deadline), (2, false));
    let told = jetlane_bus::clock::rfc3339(expected.start.expect("an executor takes it"));
    assert!(refused.to_string().contains(&told), "{refused}");
    // The same is taken where it is in time, or does not mind.
    in_turn([due("in time", 30).admit(Admit::Strict), due("late all the same", 15)]).await;
    until_ahead(|| workshop.task("another"), 4).await;
    let stored = workshop.kit.client().bus().subject_counts(STREAM_TASKS, ">").await.expect("counted");
    assert_eq!(stored.values().sum::<u64>(), 4, "what was refused is not stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_changed_while_tasks_wait_changes_their_order_and_loses_and_repeats_none() {
    let workshop = Workshop::busy(PolicyName::Fifo).await;
    let timed = |n: u64| workshop.task(n.to_string()).estimate(minutes(20 - n));
    let handles = in_turn((0..12).map(timed)).await;
    until_ahead(|| workshop.task("another"), 12).await;
    assert_eq!(workshop.let_end(4).await, ["0", "1", "2", "3"]);
    declare(&workshop.kit, &ordered(PolicyName::Sjf)).await;
    workshop.until_told(handles[4].id(), |told| told.policy == PolicyName::Sjf).await;
    let order = workshop.let_end(8).await;
    assert_eq!(order[4..], ["11", "10", "9", "8", "7", "6", "5", "4"]);
    workshop.bench.gate.0.add_permits(1);
    for (n, handle) in handles.into_iter().enumerate() {
        assert_eq!(soon(handle.into_future()).await.expect("succeeds"), n.to_string());
    }
    drained(workshop.kit.client().bus(), &[]).await;
    assert_eq!(workshop.bench.began.lock().await.len(), 13, "each ran once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shortest_goes_first_by_what_its_submitter_says() {
    let workshop = Workshop::busy(PolicyName::Sjf).await;
    let timed = |n: u64| workshop.task(n.to_string()).estimate(minutes(n));
    in_turn([50, 3, 20, 1, 10].map(timed)).await;
    until_ahead(|| timed(600), 5).await;
    assert_eq!(workshop.let_end(5).await, ["1", "3", "10", "20", "50"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_learned_of_run_times_outlives_the_dispatcher() {
    const RUNS: u64 = 20;
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), QUEUE).task(echo));
    announced(&kit, Echo::TYPE).await;
    let task = || kit.client().submit(Echo { text: String::new() });
    let expected =
        async || asked(async || task().expected().await.map(|told| told.estimate_us).map_err(Err::<(), _>)).await;
    let at_first = expected().await;
    for handle in kit.client().submit_all((0..RUNS).map(|_| task())).await {
        soon(handle.expect("accepted").into_future()).await.expect("succeeds");
    }
    let registry = kit.client().bus().bucket(subject::BUCKET_REGISTRY).await.expect("there is a registry");
    let key = subject::registry_estimate(&Echo::TYPE.parse().expect("valid"));
    until("all runs are kept", async || {
        let kept = registry.get::<EstimateEntry>(&key).await.expect("can be read");
        kept.is_some_and(|kept| kept.all.runs == RUNS)
    })
    .await;
    let learned = expected().await;
    assert!(learned < at_first / 4, "{learned} µs, at first {at_first} µs");
    kit.crash_dispatcher();
    kit.another_dispatcher().await;
    let restored = expected().await;
    assert!(restored.abs_diff(learned) <= learned / 10, "{restored} µs, before {learned} µs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_learns_that_a_task_is_behind_others_or_its_queue_is_paused() {
    let workshop = Workshop::busy(PolicyName::Fifo).await;
    let handles = in_turn((0..3).map(|n| workshop.task(n.to_string()))).await;
    let last = handles[2].id();
    let behind = workshop.until_told(last, |told| told.expected.ahead == 2).await;
    assert_eq!(behind.reasons, [Reason::NoRoom, Reason::Behind { tasks: 2, of_its_flow: 2 }]);
    assert!(behind.expected.start.is_some());
    declare(&workshop.kit, &QueueEntry { paused: true, ..ordered(PolicyName::Fifo) }).await;
    workshop.until_told(last, |told| told.reasons.first() == Some(&Reason::Paused)).await;
    // What runs may end. Then there is room, and nobody takes it.
    workshop.bench.gate.0.add_permits(1);
    let paused = workshop.until_told(last, |told| !told.reasons.contains(&Reason::NoRoom)).await;
    assert_eq!(paused.reasons, [Reason::Paused, Reason::Behind { tasks: 2, of_its_flow: 2 }]);
    assert_eq!((paused.expected.start, workshop.bench.began.lock().await.len()), (None, 1));
    declare(&workshop.kit, &ordered(PolicyName::Fifo)).await;
    workshop.bench.gate.0.add_permits(3);
    for mut handle in handles {
        assert_eq!(soon(handle.completion()).await.expect("completes").outcome, Outcome::Succeeded);
    }
}

/// A tenant that stands in the same shard as another as long as neither has one of its own.
fn beside(other: &Tenant) -> Tenant {
    let shard = Shard::shared_by_hash(other);
    let mut names = (0..).map(|n| Tenant::new(format!("quiet {n}")).expect("valid"));
    names.find(|tenant| Shard::shared_by_hash(tenant) == shard).expect("one in eight does")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_dumps_two_thousand_tasks_stays_behind_what_another_submits_later() {
    const DUMPED: usize = 2_000;
    // So many before it in a shared shard are no flood: the window holds them, and the policy chooses.
    const FLOOD_TASKS: u64 = 256;
    let workshop = Workshop::busy(PolicyName::Adaptive).await;
    let noisy = Tenant::new("noisy").expect("valid");
    let quiet = beside(&noisy);
    let client = workshop.kit.client();
    // A message a task, so that the messages of the stream can be counted as tasks.
    let dump = (0..DUMPED).map(|n| workshop.task(format!("noisy {n}")).tenant(noisy.as_str()).id(TaskId::generate()));
    assert!(client.submit_all(dump.collect::<Vec<_>>()).await.iter().all(Result::is_ok));
    // Their shards are the same, until the leader has seen what comes: then the noisy one stands elsewhere, or
    // the quiet one does.
    let bus = client.bus();
    let registry = bus.bucket(subject::BUCKET_REGISTRY).await.expect("there is a registry");
    until("the others are led round the flood", async || {
        let shared = registry.get::<SharedEntry>(&subject::registry_shared(&queue())).await.expect("can be read");
        let place = subject::task(&queue(), Priority::Normal, shared.unwrap_or_default().of(&quiet));
        let before = bus.subject_counts(STREAM_TASKS, &place).await.expect("counted");
        before.values().sum::<u64>() <= FLOOD_TASKS
    })
    .await;
    workshop.let_end(5).await;
    // Whoever connects now has heard of it.
    let another = workshop.kit.another_client().await;
    let task = |n: usize| another.submit(Gated { text: format!("quiet {n}") }).tenant(quiet.as_str());
    for handle in in_turn((0..5).map(task)).await {
        workshop.until_told(handle.id(), |_| true).await;
    }
    // While the mean run time is still being learned, the flood may have every other turn, and no more.
    let order = workshop.let_end(12).await.split_off(5);
    let last = order.iter().rposition(|name| name == "quiet 4");
    assert!(last.is_some_and(|last| last <= 10), "{order:?}");
    let waiting = workshop.kit.client().bus().subject_counts(STREAM_TASKS, ">").await.expect("counted");
    assert!(waiting.values().sum::<u64>() >= DUMPED as u64 - 20, "there was no flood any more: {waiting:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_urgent_task_of_the_tenant_that_floods_overtakes_its_flood() {
    let workshop = Workshop::busy(PolicyName::Adaptive).await;
    let noisy = |name: String| workshop.task(name).tenant("noisy");
    let dump = (0..500).map(|n| noisy(format!("noisy {n}"))).collect::<Vec<_>>();
    assert!(workshop.kit.client().submit_all(dump).await.iter().all(Result::is_ok));
    let urgent = noisy("urgent".into()).priority(Priority::High).await.expect("accepted");
    workshop.until_told(urgent.id(), |_| true).await;
    let order = workshop.let_end(3).await;
    assert!(order.iter().any(|name| name == "urgent"), "{order:?}");
}
