//! Promise: an executor takes what fits it, and never more than it has room for.

use crate::gated::{Gate, executor};
use crate::stage::{Stage, task};
use jetlane::{Needs, Outcome, Priority};
use jetlane_schemas::{Fit, FitEntry, TaskEvent};
use serde_json::json;

fn gpu() -> FitEntry {
    let covers = Needs { resources: [("gpu".to_owned(), 1)].into(), ..Needs::default() };
    FitEntry { name: Fit::new("gpu").expect("valid"), covers }
}

fn gated(fit: &str, priority: Priority) -> TaskEvent {
    let mut task = task("test.gated", &json!({ "kind": fit }));
    (task.fit, task.priority) = (Fit::new(fit).expect("valid"), priority);
    task
}

#[tokio::test]
async fn a_fit_declared_later_is_served_without_a_restart_and_one_beyond_the_means_is_not() {
    let gate = Gate::closed();
    let mut stage = Stage::with(|client| executor(client, &gate).resource("gpu", 1).label("zone-a")).await;
    let mut credits = stage.credits().await;
    assert_eq!(credits.next().await.fits, ["any"]);
    let covers = Needs { memory_mib: u32::MAX, ..Needs::default() };
    let huge = FitEntry { name: Fit::new("huge").expect("valid"), covers };
    stage.declare(&[FitEntry::default(), gpu(), huge]).await;
    let credit = credits.until(|credit| credit.fits.len() > 1).await;
    assert_eq!(credit.fits, ["any", "gpu"]);
    assert_eq!(credit.of_fits.iter().map(|of| of.room).collect::<Vec<_>>(), [u32::MAX, 1]);
    gate.open(1);
    stage.put(&gated("gpu", Priority::Normal)).await;
    assert_eq!(stage.completion().await.outcome, Outcome::Succeeded);
    stage.close().await;
}

#[tokio::test]
async fn of_a_scarce_fit_no_more_is_held_than_there_is_and_the_slots_are_left_to_the_others() {
    let gate = Gate::closed();
    let made = |client: &jetlane::Client| executor(client, &gate).slots(4).prefetch(2).resource("gpu", 1);
    let mut stage = Stage::with(made).await;
    let mut credits = stage.credits().await;
    stage.declare(&[FitEntry::default(), gpu()]).await;
    for _ in 0..3 {
        stage.put(&gated("gpu", Priority::Normal)).await;
    }
    for _ in 0..3 {
        stage.put(&gated("any", Priority::Normal)).await;
    }
    gate.begun(4).await;
    let credit = credits.until(|credit| credit.taken - credit.settled == 4).await;
    let of_fit = |name: &str| credit.of_fits[credit.fits.iter().position(|fit| fit == name).expect("served")];
    let (any, gpu) = (of_fit("any"), of_fit("gpu"));
    assert_eq!((any.taken - any.settled, any.room), (3, u32::MAX));
    assert_eq!((gpu.taken - gpu.settled, gpu.room, credit.capacity), (1, 0, 6));
    gate.open(6);
    for _ in 0..6 {
        assert_eq!(stage.completion().await.outcome, Outcome::Succeeded);
    }
    assert_eq!((gate.most_at_once("gpu"), gate.begun_so_far()), (1, 6));
    stage.close().await;
}

#[tokio::test]
async fn what_arrives_beyond_the_means_goes_back_and_keeps_its_place_in_line() {
    let gate = Gate::closed();
    let mut stage = Stage::with(|client| executor(client, &gate).slots(4).resource("gpu", 1)).await;
    let mut returns = stage.returns().await;
    stage.declare(&[FitEntry::default(), gpu()]).await;
    // Both lanes are pulled for the one that is left.
    let tasks = [Priority::Normal, Priority::High].map(|priority| gated("gpu", priority));
    for task in &tasks {
        stage.pulled(task).await;
    }
    for task in &tasks {
        stage.put(task).await;
    }
    let back = returns.next().await;
    let sent = tasks.iter().find(|task| task.id == back.id).expect("one of them");
    assert_eq!((back.run, back.attempts, back.yields, back.due_at), (2, 0, 0, None), "no attempt, no new place");
    assert_eq!(back.submitted_at, sent.submitted_at);
    gate.open(1);
    let done = stage.completion().await;
    assert!(done.id != back.id && done.outcome == Outcome::Succeeded);
    assert_eq!(gate.begun_so_far(), 1);
    stage.close().await;
}

#[tokio::test]
async fn no_more_is_held_than_slots_and_prefetch_over_all_lanes() {
    let gate = Gate::closed();
    let mut stage = Stage::with(|client| executor(client, &gate).slots(1).prefetch(1)).await;
    let (mut credits, mut returns) = (stage.credits().await, stage.returns().await);
    let tasks = Priority::ALL.map(|priority| gated("any", priority));
    for task in &tasks {
        stage.pulled(task).await;
    }
    for task in &tasks {
        stage.put(task).await;
    }
    let back = [returns.next().await, returns.next().await];
    assert!(back.iter().all(|task| (task.run, task.due_at) == (2, None)));
    let credit = credits.until(|credit| credit.settled == 2).await;
    assert_eq!((credit.capacity, credit.taken), (2, 4));
    gate.open(2);
    for _ in 0..2 {
        let done = stage.completion().await;
        assert!(back.iter().all(|task| task.id != done.id), "each ran here or went back");
    }
    stage.close().await;
}

#[tokio::test]
async fn a_narrower_task_takes_the_place_of_one_that_waits_and_that_more_executors_can_run() {
    let gate = Gate::closed();
    let mut stage = Stage::with(|client| executor(client, &gate).slots(1).prefetch(1).resource("gpu", 2)).await;
    let mut returns = stage.returns().await;
    stage.declare(&[FitEntry::default(), gpu()]).await;
    let (runs, waits, narrow) =
        (gated("any", Priority::Normal), gated("any", Priority::Low), gated("gpu", Priority::Low));
    for task in [&runs, &waits, &narrow] {
        stage.pulled(task).await;
    }
    let mut credits = stage.credits().await;
    stage.put(&runs).await;
    gate.begun(1).await;
    stage.put(&waits).await;
    credits.until(|credit| credit.taken == 2).await;
    stage.put(&narrow).await;
    assert_eq!(returns.next().await.id, waits.id);
    gate.open(2);
    let done = [stage.completion().await.id, stage.completion().await.id];
    assert_eq!(done, [runs.id, narrow.id]);
    stage.close().await;
}
