//! Promise: a task goes only where it fits, and nobody takes more than it has room for.

use crate::tasks::{Bench, Gated, gated};
use crate::waits::{announced, drained};
use crate::workshop::{declare, executor, until_told};
use jetlane::{Outcome, QueueEntry, Reason, Submit, Task, TaskHandle};
use jetlane_schemas::{Fit, FitEntry, Needs};
use jetlane_testkit::{Kit, soon};
use std::collections::BTreeSet;

/// More permits than any of these tests has runs.
const OPEN: usize = 1_000;

fn fit(name: &str, covers: Needs) -> FitEntry {
    FitEntry { name: Fit::new(name).expect("valid"), covers }
}

/// A queue with a fit for one gpu and one for one core and a gibibyte.
async fn kit() -> Kit {
    let kit = Kit::start().await;
    let gpu = Needs { resources: [("gpu".to_owned(), 1)].into(), ..Needs::default() };
    let core = Needs { cpu_milli: 1_000, memory_mib: 1_024, ..Needs::default() };
    let fits = vec![fit("gpu", gpu), fit("core", core)];
    declare(&kit, &QueueEntry { fits, ..QueueEntry::default() }).await;
    kit
}

fn task(kit: &Kit, name: impl Into<String>) -> Submit<String> {
    kit.client().submit(Gated { text: name.into() })
}

async fn submit(kit: &Kit, prefix: &str, count: usize) -> Vec<TaskHandle<String>> {
    let submits: Vec<_> = (0..count).map(|n| task(kit, format!("{prefix} {n}"))).collect();
    kit.client().submit_all(submits).await.into_iter().map(|handle| handle.expect("accepted")).collect()
}

async fn all_succeed(handles: impl IntoIterator<Item = TaskHandle<String>>) {
    for mut handle in handles {
        let done = soon(handle.completion()).await.expect("completes");
        assert_eq!((done.outcome, done.attempt), (Outcome::Succeeded, 1));
    }
}

/// A bench whose runs end at once.
fn open() -> Bench {
    let bench = Bench::default();
    bench.gate.0.add_permits(OPEN);
    bench
}

async fn names(bench: &Bench) -> Vec<String> {
    bench.began.lock().await.iter().map(|(name, _)| name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_needs_a_gpu_runs_only_where_there_is_one() {
    let kit = kit().await;
    let (plain, with_gpu) = (open(), Bench::default());
    kit.serve(executor(kit.client(), &plain, 16).task(gated));
    kit.serve(executor(kit.client(), &with_gpu, 2).prefetch(0).resource("gpu", 1).task(gated));
    announced(&kit, Gated::TYPE).await;
    let mut handles = Vec::new();
    for n in 0..6 {
        handles.push(task(&kit, format!("gpu {n}")).resource("gpu", 1).await.expect("accepted"));
        handles.push(task(&kit, format!("plain {n}")).await.expect("accepted"));
    }
    // One has the gpu; nobody waits behind the others that want it.
    soon(async {
        while !names(&with_gpu).await.iter().any(|name| name.starts_with("gpu")) {
            with_gpu.beginning.notified().await;
        }
    })
    .await;
    with_gpu.gate.0.add_permits(OPEN);
    all_succeed(handles).await;
    assert!(names(&plain).await.iter().all(|name| name.starts_with("plain")), "{:?}", names(&plain).await);
    let on_gpu: BTreeSet<String> = names(&with_gpu).await.into_iter().filter(|name| name.starts_with("gpu")).collect();
    assert_eq!(on_gpu.len(), 6);
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_fits_nowhere_waits_says_why_blocks_nobody_and_runs_once_somebody_comes() {
    let kit = kit().await;
    let (plain, with_gpu) = (open(), open());
    kit.serve(executor(kit.client(), &plain, 4).task(gated));
    announced(&kit, Gated::TYPE).await;
    let needing = task(&kit, "gpu").resource("gpu", 1).await.expect("accepted");
    let gpu = Fit::new("gpu").expect("valid");
    let told = until_told(kit.client(), needing.id(), |_| true).await;
    assert_eq!(told.reasons, [Reason::NoExecutorFits { fit: gpu.clone() }]);
    assert_eq!((told.fit, told.expected.start), (gpu.clone(), None));
    all_succeed(submit(&kit, "plain", 40).await).await;
    let told = until_told(kit.client(), needing.id(), |_| true).await;
    assert_eq!(told.reasons, [Reason::NoExecutorFits { fit: gpu }], "it waits as before");
    kit.serve(executor(kit.client(), &with_gpu, 4).resource("gpu", 1).task(gated));
    all_succeed([needing]).await;
    assert_eq!((names(&with_gpu).await, names(&plain).await.len()), (vec!["gpu".to_owned()], 40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_fit_no_more_run_at_once_than_there_are_cores_and_memory_for() {
    for (cores, memory) in [(2.0, 65_536), (64.0, 2_048)] {
        let (kit, bench) = (kit().await, Bench::default());
        let executor = executor(kit.client(), &bench, 16).prefetch(4).cpu(cores).memory(memory);
        kit.serve(executor.task(gated));
        announced(&kit, Gated::TYPE).await;
        let mut handles = Vec::new();
        for n in 0..6 {
            handles.push(task(&kit, format!("core {n}")).cpu(1.0).memory(512).await.expect("accepted"));
        }
        bench.begun(2).await;
        let told = until_told(kit.client(), handles[5].id(), |told| told.expected.ahead == 3).await;
        assert_eq!(told.reasons, [Reason::NoRoom, Reason::Behind { tasks: 3, of_its_flow: 3 }]);
        // There are slots left for what needs nothing.
        handles.extend(submit(&kit, "plain", 8).await);
        let began = bench.begun(10).await;
        let cores: BTreeSet<&str> =
            began.iter().map(|(name, _)| name.as_str()).filter(|n| n.starts_with("core")).collect();
        assert_eq!(cores, BTreeSet::from(["core 0", "core 1"]));
        bench.gate.0.add_permits(OPEN);
        all_succeed(handles).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_never_holds_more_than_its_slots_and_prefetch_and_an_idle_one_gets_the_rest() {
    const TASKS: usize = 60;
    const SLOTS: usize = 3;
    const PREFETCH: usize = 2;
    const REST: usize = TASKS - SLOTS - PREFETCH;
    let (kit, full, idle) = (kit().await, Bench::default(), Bench::default());
    kit.serve(executor(kit.client(), &full, SLOTS).prefetch(PREFETCH).task(gated));
    announced(&kit, Gated::TYPE).await;
    let handles = submit(&kit, "task", TASKS).await;
    full.begun(SLOTS).await;
    let told = until_told(kit.client(), handles[TASKS - 1].id(), |_| true).await;
    assert!(told.reasons.contains(&Reason::NoRoom), "{told:?}");
    // What one does not hold runs at another, although the first one ends nothing.
    kit.serve(executor(kit.client(), &idle, 4).task(gated));
    idle.gate.0.add_permits(OPEN);
    idle.begun(REST).await;
    // What comes now goes to the idle one as well.
    let late = submit(&kit, "late", 20).await;
    idle.begun(REST + 20).await;
    all_succeed(late).await;
    assert_eq!(full.began.lock().await.len(), SLOTS);
    full.gate.0.add_permits(OPEN);
    all_succeed(handles).await;
    assert_eq!(full.began.lock().await.len(), SLOTS + PREFETCH, "each ran once");
    drained(kit.client().bus(), &[]).await;
}
