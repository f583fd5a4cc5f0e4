//! Promise: an executor under pressure takes less by itself, in the open, and recovers.

use crate::gated::{Gate, executor};
use crate::stage::Stage;
use jetlane::{Concurrency, Pressure};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[tokio::test]
async fn an_executor_short_of_memory_lowers_its_capacity_for_all_to_see_and_recovers() {
    let (gate, is_short) = (Gate::closed(), Arc::new(AtomicBool::new(false)));
    let read = Arc::clone(&is_short);
    let gauge =
        move || Pressure { memory_used: if read.load(Ordering::Relaxed) { 0.99 } else { 0.3 }, ..Pressure::default() };
    let stage = Stage::with(|client| executor(client, &gate).slots(8).prefetch(4).pressure(gauge)).await;
    let mut credits = stage.credits().await;
    let credit = credits.next().await;
    assert_eq!((credit.slots, credit.capacity), (8, 12));
    is_short.store(true, Ordering::Relaxed);
    let credit = credits.until(|credit| credit.capacity != 12).await;
    assert_eq!((credit.slots, credit.capacity), (8, 6), "half of slots and prefetch; it still says what it has");
    is_short.store(false, Ordering::Relaxed);
    credits.until(|credit| credit.capacity == 12).await;
    stage.close().await;
}

#[tokio::test]
async fn a_lowered_executor_runs_no_more_at_once_and_gives_back_what_waits() {
    let (gate, is_short) = (Gate::closed(), Arc::new(AtomicBool::new(false)));
    let read = Arc::clone(&is_short);
    let gauge =
        move || Pressure { memory_used: if read.load(Ordering::Relaxed) { 0.99 } else { 0.3 }, ..Pressure::default() };
    let stage = Stage::with(|client| executor(client, &gate).slots(2).prefetch(2).pressure(gauge)).await;
    let (mut credits, mut returns) = (stage.credits().await, stage.returns().await);
    for _ in 0..4 {
        stage.dispatch("test.gated", &json!({ "kind": "any" })).await;
    }
    credits.until(|credit| credit.taken == 4).await;
    is_short.store(true, Ordering::Relaxed);
    // Two run on, and capacity is one slot and one that waits for it.
    let back = [returns.next().await, returns.next().await];
    assert!(back.iter().all(|task| (task.run, task.attempts) == (2, 0)));
    let credit = credits.until(|credit| credit.settled == 2).await;
    assert_eq!((credit.capacity, gate.most_at_once("any")), (2, 2));
    gate.open(2);
    stage.close().await;
}

#[tokio::test]
async fn an_executor_of_fixed_concurrency_never_looks() {
    let (gate, has_looked) = (Gate::closed(), Arc::new(AtomicBool::new(false)));
    let looked = Arc::clone(&has_looked);
    let gauge = move || {
        looked.store(true, Ordering::Relaxed);
        Pressure { memory_used: 1.0, ..Pressure::default() }
    };
    let made = |client: &jetlane::Client| executor(client, &gate).slots(8).prefetch(4).pressure(gauge);
    let fixed = |client: &jetlane::Client| made(client).concurrency(Concurrency::Fixed);
    let mut stage = Stage::with(fixed).await;
    let mut credits = stage.credits().await;
    gate.open(1);
    stage.dispatch("test.gated", &json!({ "kind": "any" })).await;
    stage.completion().await;
    // It tells once a second: longer than another would have taken to look and to lower.
    for _ in 0..3 {
        assert_eq!(credits.next().await.capacity, 12);
    }
    assert!(!has_looked.load(Ordering::Relaxed));
    stage.close().await;
}
