//! The scenarios. Faults that must not make a difference are not written into the journal: the checker then takes no
//! repeated run for explained.

use crate::spy::Spy;
use crate::theatre::{LANE, Theatre, pause};
use crate::until;
use jetlane_faults::checker::Findings;
use jetlane_faults::journal::{Event, Expect};
use jetlane_faults::plan::Fault;
use jetlane_faults::proxy::Link;
use jetlane_faults::roles::tasks::{Behaviour, HOOK, QUEUE};
use jetlane_mutants::Mutant;
use jetlane_schemas::subject::{BUCKET_LEASES, STREAM_DONE, STREAM_LANES};
use serde_json::json;
use std::time::Duration;

/// How long what has been provoked takes to happen.
const MOMENT: Duration = Duration::from_millis(700);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Lanes take nothing while tasks are dispatched, and the dispatcher is killed.
    LanesTakeNothing,
    /// The dispatcher dies between the storing of a task in its lane and the ack; its successor dispatches it again while
    /// it runs.
    DispatcherCrashesBeforeItsAck,
    /// An executor dies when the first task of a bundle has ended and the second runs.
    ExecutorDiesWithHalfABundle,
    /// An executor dies once a completion with a callback is stored.
    ExecutorDiesAtACompletion,
    /// A task is delivered to a second executor while the first, which nobody can reach, runs it.
    TwoRunsOfATask,
    /// An executor hears no answers while it stores completions, one of a task that is cancelled meanwhile.
    AnswersAreLost,
    /// A handler fails for good on an executor that is cut off for longer than its lease, while another runs the task.
    ExecutorIsCutOffPastItsLease,
    /// No stream takes completions for a while, and the task's message comes again.
    NobodyAnswersForCompletions,
    /// The stream of completions is full for a while, and the task's message comes again.
    CompletionsAreFull,
    /// A task is cancelled while it waits for a slot.
    CancelledWhileItWaits,
    /// Many more tasks wait than an executor has room for.
    MoreTasksThanRoom,
    /// A leader hangs with a pull that waits; its successor dispatches what came on that pull.
    LeaderHangs,
}

impl Scenario {
    /// Plays it with a planted bug, or without.
    pub(crate) async fn play(self, bug: Option<Mutant>) -> anyhow::Result<Findings> {
        match self {
            Self::LanesTakeNothing => lanes_take_nothing(bug).await,
            Self::DispatcherCrashesBeforeItsAck => dispatcher_crashes_before_its_ack(bug).await,
            Self::ExecutorDiesWithHalfABundle => executor_dies_with_half_a_bundle(bug).await,
            Self::ExecutorDiesAtACompletion => executor_dies_at_a_completion(bug).await,
            Self::TwoRunsOfATask => two_runs_of_a_task(bug).await,
            Self::AnswersAreLost => answers_are_lost(bug).await,
            Self::ExecutorIsCutOffPastItsLease => executor_is_cut_off_past_its_lease(bug).await,
            Self::NobodyAnswersForCompletions => {
                completions_are_refused(bug, json!({ "subjects": ["jetlane.nobody"] })).await
            }
            Self::CompletionsAreFull => completions_are_refused(bug, json!({ "max_bytes": 1 })).await,
            Self::CancelledWhileItWaits => cancelled_while_it_waits(bug).await,
            Self::MoreTasksThanRoom => more_tasks_than_room(bug).await,
            Self::LeaderHangs => leader_hangs(bug).await,
        }
    }
}

async fn lanes_take_nothing(bug: Option<Mutant>) -> anyhow::Result<Findings> {
    let mut theatre = Theatre::open(bug, &[]).await?;
    theatre.executor("executor-0", 4).await?;
    theatre.submit("first", 0).await?;
    theatre.completed(1).await?;
    let before = theatre.stage.admin.set(STREAM_LANES, &json!({ "max_bytes": 1 })).await?;
    for marker in ["a", "b", "c"] {
        theatre.submit(marker, 0).await?;
    }
    tokio::time::sleep(MOMENT).await;
    theatre.stage.process("dispatcher-0")?.kill(Duration::ZERO).await;
    theatre.stage.admin.set(STREAM_LANES, &before).await?;
    theatre.judge().await
}

async fn dispatcher_crashes_before_its_ack(bug: Option<Mutant>) -> anyhow::Result<Findings> {
    let crash = [("FAILPOINTS", "dispatcher::between-publish-and-ack=1*return")];
    let mut theatre = Theatre::open(bug, &crash).await?;
    theatre.executor("executor-0", 1).await?;
    let task = theatre.submit("a", 3_500).await?;
    let has_crashed = |event: &Event| matches!(event, Event::Ended { process, .. } if process == "dispatcher-0");
    until!("the dispatcher crashes", theatre.stage.lines()?.iter().find(|line| has_crashed(&line.event)).map(|_| ()));
    theatre.stage.process("dispatcher-0")?.hold_killed();
    theatre.begun(&task, 1).await?;
    theatre.executor_ready("executor-1", 1).await?;
    theatre.stage.dispatcher("dispatcher-1").await?;
    // It takes no more tasks, and ends the one that it runs: what is dispatched again goes to the other.
    theatre.stage.process("executor-0")?.terminate().await?;
    theatre.judge().await
}

async fn executor_dies_with_half_a_bundle(bug: Option<Mutant>) -> anyhow::Result<Findings> {
    /// Runs from which the dispatcher learns that the type is short: only such tasks share a message.
    const LEARNED: usize = 40;
    let mut theatre = Theatre::open(bug, &[]).await?;
    theatre.executor("executor-0", 16).await?;
    let markers: Vec<String> = (0..LEARNED).map(|number| format!("learned-{number}")).collect();
    let learned: Vec<(&str, u64)> = markers.iter().map(|marker| (marker.as_str(), 0)).collect();
    theatre.submit_together(&learned).await?;
    theatre.completed(LEARNED).await?;
    tokio::time::sleep(MOMENT).await;
    let tasks = theatre.submit_together(&[("short", 0), ("long", 4_000)]).await?;
    theatre.begun(&tasks[1], 1).await?;
    theatre.completed(LEARNED + 1).await?;
    // Later than an ack that goes with the next publish, and than a run that was looked up before may begin.
    tokio::time::sleep(MOMENT * 3).await;
    let lanes = theatre.stage.admin.bundles().await?;
    anyhow::ensure!(
        lanes.len() <= 1 && lanes.iter().all(|(_, tasks)| tasks.len() == 2),
        "no bundle: {:?}",
        lanes.iter().map(|(_, tasks)| tasks.len()).collect::<Vec<_>>()
    );
    let (pids, begin_us) = (theatre.pids("executor-0")?, jetlane_faults::journal::now_us());
    theatre.stage.process("executor-0")?.hold_killed();
    let (kind, target) = ("kill".to_owned(), "executor-0".to_owned());
    let end_us = jetlane_faults::journal::now_us();
    theatre.stage.journal.write(Event::Fault { kind, target, pids, begin_us, end_us });
    theatre.executor_ready("executor-1", 16).await?;
    theatre.stage.admin.deliver_again(LANE).await?;
    theatre.judge().await
}

async fn executor_dies_at_a_completion(bug: Option<Mutant>) -> anyhow::Result<Findings> {
    let mut theatre = Theatre::open(bug, &[]).await?;
    theatre.stage.callback().await?;
    theatre.executor("executor-0", 4).await?;
    theatre.submit_hooked(HOOK, 200, Expect::Success).await?;
    theatre.completed(1).await?;
    theatre.stage.process("executor-0")?.hold_killed();
    theatre.executor_ready("executor-1", 4).await?;
    theatre.stage.admin.deliver_again(LANE).await?;
    theatre.judge().await
}

async fn two_runs_of_a_task(bug: Option<Mutant>) -> anyhow::Result<Findings> {
    let mut theatre = Theatre::open(bug, &[]).await?;
    theatre.executor("executor-0", 1).await?;
    let task = theatre.submit("a", 3_000).await?;
    theatre.begun(&task, 1).await?;
    theatre.executor_ready("executor-1", 1).await?;
    let cut = Fault::Link("executor-0", Link::BlackHole, Duration::from_millis(4_500));
    let (_, again) = tokio::join!(theatre.stage.inject(cut), theatre.runs_twice(&task));
    again?;
    theatre.judge().await
}

async fn answers_are_lost(bug: Option<Mutant>) -> anyhow::Result<Findings> {
    let mut theatre = Theatre::open(bug, &[]).await?;
    theatre.stage.callback().await?;
    theatre.executor("executor-0", 4).await?;
    let kept = theatre.submit_hooked(&format!("{HOOK}-kept"), 1_500, Expect::Success).await?;
    let cancelled = theatre.submit_hooked(&format!("{HOOK}-cancelled"), 1_500, Expect::SuccessOrCancel).await?;
    theatre.begun(&kept, 1).await?;
    theatre.begun(&cancelled, 1).await?;
    theatre.link("executor-0", Link::OnlyUp)?;
    cancelled.cancel().await?;
    theatre.ended(&kept).await?;
    theatre.ended(&cancelled).await?;
    theatre.completed(2).await?;
    theatre.link("executor-0", Link::Cut)?;
    pause().await;
    theatre.link("executor-0", Link::Up)?;
    theatre.judge().await
}

async fn executor_is_cut_off_past_its_lease(bug: Option<Mutant>) -> anyhow::Result<Findings> {
    let mut theatre = Theatre::open(bug, &[]).await?;
    theatre.executor("executor-0", 1).await?;
    let task = theatre.submit_as("a", 10_500, Behaviour::FailFirst, Expect::Success, |submit| submit).await?;
    theatre.begun(&task, 1).await?;
    theatre.executor_ready("executor-1", 1).await?;
    let cut = Fault::Link("executor-0", Link::BlackHole, Duration::from_millis(11_000));
    let (_, again) = tokio::join!(theatre.stage.inject(cut), theatre.runs_twice(&task));
    again?;
    theatre.judge().await
}

async fn completions_are_refused(bug: Option<Mutant>, settings: serde_json::Value) -> anyhow::Result<Findings> {
    let mut theatre = Theatre::open(bug, &[]).await?;
    theatre.executor("executor-0", 4).await?;
    theatre.submit("first", 0).await?;
    theatre.completed(1).await?;
    let task = theatre.submit("a", 1_000).await?;
    theatre.begun(&task, 1).await?;
    let before = theatre.stage.admin.set(STREAM_DONE, &settings).await?;
    theatre.stage.admin.deliver_again(LANE).await?;
    theatre.ended(&task).await?;
    tokio::time::sleep(MOMENT * 2).await;
    theatre.stage.admin.deliver_again(LANE).await?;
    tokio::time::sleep(MOMENT).await;
    theatre.stage.admin.set(STREAM_DONE, &before).await?;
    theatre.judge().await
}

async fn cancelled_while_it_waits(bug: Option<Mutant>) -> anyhow::Result<Findings> {
    let mut theatre = Theatre::open(bug, &[]).await?;
    theatre.executor("executor-0", 1).await?;
    let long = theatre.submit("long", 4_000).await?;
    theatre.begun(&long, 1).await?;
    let expect = Expect::SuccessOrCancel;
    for marker in ["in-its-lane", "in-its-stream"] {
        let task = theatre.submit_as(marker, 0, Behaviour::Succeed, expect, |submit| submit).await?;
        tokio::time::sleep(MOMENT / 4).await;
        task.cancel().await?;
    }
    theatre.judge().await
}

async fn more_tasks_than_room(bug: Option<Mutant>) -> anyhow::Result<Findings> {
    const TASKS: usize = 120;
    const SLOTS: usize = 8;
    /// How often its room is told before there is a task: enough to be counted more than once.
    const CREDITS: usize = 3;
    /// Tasks that one executor may have in its lanes: its slots, as many that it fetches ahead, and half as many that go
    /// out at the same moment as a report of its room.
    const LANES_MAX: u64 = (SLOTS * 5 / 2) as u64;
    let mut theatre = Theatre::open(bug, &[]).await?;
    theatre.executor("executor-0", SLOTS).await?;
    until!("the executor has told its room several times", (theatre.spy.credits() >= CREDITS).then_some(()));
    let markers: Vec<String> = (0..TASKS).map(|number| format!("task-{number}")).collect();
    let tasks: Vec<(&str, u64)> = markers.iter().map(|marker| (marker.as_str(), 200)).collect();
    theatre.submit_together(&tasks).await?;
    let mut most = 0;
    until!("all are done", {
        let lies: usize = theatre.stage.admin.bundles().await?.iter().map(|(_, tasks)| tasks.len()).sum();
        most = most.max(lies as u64);
        (theatre.stage.admin.counts(STREAM_DONE).await?.len() >= TASKS).then_some(())
    });
    println!("at most {most} tasks lay in lanes of {LANES_MAX}");
    theatre.lanes = Some((most, LANES_MAX));
    theatre.judge().await
}

async fn leader_hangs(bug: Option<Mutant>) -> anyhow::Result<Findings> {
    let mut theatre = Theatre::open(bug, &[]).await?;
    theatre.executor("executor-0", 1).await?;
    theatre.submit("first", 0).await?;
    theatre.completed(1).await?;
    theatre.spy = Spy::on_leaders(&theatre.stage.admin).await?;
    theatre.stage.dispatcher("dispatcher-1").await?;
    let leases = theatre.stage.admin.jetstream.get_key_value(BUCKET_LEASES).await?;
    let hangs = theatre.stage.process("dispatcher-0")?.stop(Duration::from_secs(6));
    let (_, submitted) = tokio::join!(hangs, async {
        until!("the other one leads", {
            let holder = leases.get(format!("queue.{QUEUE}")).await?;
            holder.filter(|holder| holder.starts_with(b"dispatcher-1")).map(|_| ())
        });
        tokio::time::sleep(MOMENT).await;
        theatre.submit("a", 0).await?;
        theatre.completed(2).await
    });
    submitted?;
    theatre.judge().await
}
