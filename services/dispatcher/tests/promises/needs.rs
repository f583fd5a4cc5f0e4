//! Needs: a task goes only where it fits, and waits where nobody does.

use crate::stage::{PATIENCE, QUIET, Stage, task};
use jetlane_bus::clock;
use jetlane_schemas::question::Reason;
use jetlane_schemas::subject::{STREAM_LANES, STREAM_TASKS, STREAM_TIME};
use jetlane_schemas::{Fit, Micros, Outcome, Priority, TaskEvent};

const FITS: &str = r#"{"fits":[{"name":"gpu","covers":{"resources":{"gpu":1}}},
    {"name":"many-gpus","covers":{"resources":{"gpu":8}}}]}"#;

fn needing(gpu: u32) -> TaskEvent {
    let mut task = task("pictures", "a.b", Priority::Normal);
    task.needs.resources.insert("gpu".into(), gpu);
    task
}

async fn stage() -> Stage {
    let stage = Stage::set().await;
    stage.declare("pictures", FITS).await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_goes_to_the_smallest_fit_that_covers_it_and_nowhere_else() {
    let stage = stage().await;
    let (one, four, none) = (needing(1), needing(4), task("pictures", "a.b", Priority::Normal));
    for task in [&one, &four, &none] {
        stage.submit(task).await;
    }
    for (fit, wanted) in [("any", &none), ("gpu", &one), ("many-gpus", &four)] {
        let mut taker = stage.taker_of("pictures", fit).await;
        let taken = taker.take_all(5).await;
        assert_eq!(taken.iter().map(|task| (&task.id, task.fit.as_str())).collect::<Vec<_>>(), [(&wanted.id, fit)]);
    }
    stage.until_holds(STREAM_TASKS, 0).await;
    stage.until_holds(STREAM_LANES, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_no_executor_fits_waits_says_why_and_goes_when_one_comes() {
    let stage = stage().await;
    let task = needing(1);
    stage.submit(&task).await;
    let mut any = stage.taker("pictures").await;
    assert!(any.next(5, QUIET).await.is_none());
    let explained = stage.until_told("pictures", &task.id, |_| true).await;
    assert_eq!(explained.fit.as_str(), "gpu");
    assert_eq!(explained.reasons, [Reason::NoExecutorFits { fit: Fit::new("gpu").unwrap() }]);
    assert_eq!(explained.expected.start, None);
    let taken = stage.taker_of("pictures", "gpu").await.take(1, 1).await;
    assert_eq!(taken[0].id, task.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_needs_no_declared_fit_covers_waits_in_the_broker_until_one_does() {
    let stage = stage().await;
    let early = needing(9);
    stage.submit(&early).await;
    stage.until_holds(STREAM_TASKS, 0).await;
    stage.until_holds(STREAM_TIME, 1).await;
    // Its neighbours are not in its way, nor it in theirs.
    let good = task("pictures", "a.b", Priority::Normal);
    stage.submit(&good).await;
    assert_eq!(stage.taker("pictures").await.take(1, 1).await[0].id, good.id);
    stage.declare("pictures", r#"{"fits":[{"name":"rack","covers":{"resources":{"gpu":64}}}]}"#).await;
    let mut taker = stage.taker_of("pictures", "rack").await;
    // It is looked at again half a minute after it was first seen.
    let (task, delivery) = taker.next(1, PATIENCE + PATIENCE).await.expect("it comes");
    assert_eq!((task.id, task.attempts), (early.id, 0));
    taker.settle(delivery).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_under_a_fit_that_is_declared_no_more_stays() {
    let stage = stage().await;
    let task = needing(1);
    stage.submit(&task).await;
    stage.until_told("pictures", &task.id, |told| told.fit.as_str() == "gpu").await;
    stage.declare("pictures", "{}").await;
    assert_eq!(stage.taker_of("pictures", "gpu").await.take(1, 1).await[0].id, task.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_that_an_executor_took_and_never_gave_back_is_found_again_in_each_fit() {
    let stage = stage().await;
    for (fit, gpu) in [("any", 0), ("gpu", 1)] {
        let ten: Vec<TaskEvent> =
            (0..10).map(|_| if gpu == 0 { task("pictures", "a.b", Priority::Normal) } else { needing(gpu) }).collect();
        for task in &ten {
            stage.submit(task).await;
        }
        // It told of room for five, took them, and is never heard of again.
        stage.until_told("pictures", &ten[9].id, |_| true).await;
        let mut gone = stage.taker_of("pictures", fit).await;
        gone.tell(5).await;
        for _ in 0..5 {
            let (_, delivery) = gone.take_silently().await;
            assert!(delivery.ack.settle_confirmed().await);
        }
        drop(gone);
        let mut taken: Vec<_> =
            stage.taker_of("pictures", fit).await.take(5, 5).await.into_iter().map(|task| task.id).collect();
        taken.sort();
        let mut last: Vec<_> = ten[5..].iter().map(|task| task.id.clone()).collect();
        last.sort();
        assert_eq!(taken, last);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_waits_for_a_fit_or_for_its_type_expires_at_its_deadline() {
    let stage = stage().await;
    let (mut unfit, mut unknown) = (needing(9), task("pictures", "never.announced", Priority::Normal));
    let deadline = Micros(clock::now().0 + 2_000_000);
    (unfit.deadline, unknown.deadline) = (Some(deadline), Some(deadline));
    stage.submit(&unfit).await;
    stage.submit(&unknown).await;
    for (task_type, task) in [("a.b", &unfit), ("never.announced", &unknown)] {
        let done = stage.completion(task_type, task.id.as_str()).await;
        assert_eq!((done.outcome, done.attempt), (Outcome::Expired, 0));
        // Long before the next look at what no fit covers.
        assert!(done.finished_at.ms_since(deadline) < 15_000.0, "{done:?}");
    }
    assert!(clock::now() >= deadline, "not before");
    stage.until_holds(STREAM_TIME, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_a_fit_that_its_leader_has_no_number_for_waits_and_is_not_buried() {
    let stage = stage().await;
    let fits = |policy: &str, kind: &str| {
        let fits: Vec<_> = (1..=15)
            .map(|n| serde_json::json!({"name": format!("{kind}{n}"), "covers": {"resources": {kind: n}}}))
            .collect();
        serde_json::json!({"policy": policy, "fits": fits}).to_string()
    };
    let waits = needing(1);
    stage.submit(&waits).await;
    stage.until_told("pictures", &waits.id, |_| true).await;
    for (policy, kind) in [("fifo", "old"), ("sjf", "new")] {
        stage.declare("pictures", &fits(policy, kind)).await;
        stage.until_told("pictures", &waits.id, |told| told.policy.to_string() == policy).await;
    }
    let mut unnumbered = task("pictures", "a.b", Priority::Normal);
    unnumbered.needs.resources.insert("new".into(), 15);
    stage.submit(&unnumbered).await;
    stage.until_holds(STREAM_TIME, 1).await;
    assert_eq!(stage.dead_letters().await, 0);
}
