//! A task is identified by its type and its id, for as long as anybody remembers it.

use crate::stage::{PATIENCE, QUIET, Stage, task};
use jetlane_schemas::frame::RunEnd;
use jetlane_schemas::subject::{STREAM_LANES, STREAM_TASKS, STREAM_TIME};
use jetlane_schemas::{Priority, TaskEvent};

const ORDER: [(&str, &str); 1] = [("ce-id", "order-0190b8f2-7c1e-7000")];

fn types(tasks: &[TaskEvent]) -> Vec<&str> {
    let mut types: Vec<&str> = tasks.iter().map(|task| task.task_type.as_str()).collect();
    types.sort_unstable();
    types
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_published_to_two_types_of_a_queue_is_two_tasks() {
    let stage = Stage::set().await;
    for task_type in ["shop.bill", "shop.ship"] {
        stage.announce(task_type, r#"{"queue":"pictures"}"#).await;
        stage.publish(task_type, &ORDER, "{}").await;
    }
    let mut taker = stage.taker("pictures").await;
    let tasks = taker.take(2, 1).await;
    assert_eq!(types(&tasks), ["shop.bill", "shop.ship"]);
    assert_eq!(tasks[0].id, tasks[1].id);
    stage.until_holds(STREAM_TASKS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_delayed_for_two_types_of_two_queues_is_due_twice() {
    let stage = Stage::set().await;
    let delayed = [ORDER[0], ("ce-jetlanedelayms", "700")];
    for (task_type, queue) in [("shop.bill", "pictures"), ("shop.ship", "pictures"), ("shop.mail", "letters")] {
        stage.announce(task_type, &format!(r#"{{"queue":"{queue}"}}"#)).await;
        stage.publish(task_type, &delayed, "{}").await;
    }
    let (mut pictures, mut letters) = (stage.taker("pictures").await, stage.taker("letters").await);
    assert_eq!(types(&pictures.take(2, 1).await), ["shop.bill", "shop.ship"]);
    assert_eq!(types(&letters.take(1, 1).await), ["shop.mail"]);
    stage.until_holds(STREAM_TIME, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_task_leaves_one_of_another_type_with_its_id_alone() {
    let stage = Stage::set().await;
    let mut bill = task("pictures", "shop.bill", Priority::Normal);
    let mut ship = task("pictures", "shop.ship", Priority::Normal);
    ship.id = bill.id.clone();
    for task in [&mut bill, &mut ship] {
        stage.announce(task.task_type.as_str(), r#"{"queue":"pictures"}"#).await;
        stage.submit(task).await;
    }
    stage.until_holds(STREAM_TASKS, 2).await;
    stage.cancel(&bill).await;
    stage.until_holds(STREAM_TASKS, 1).await;
    assert_eq!(types(&stage.taker("pictures").await.take(1, 1).await), ["shop.ship"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_submitted_again_once_its_completion_is_forgotten_runs_again() {
    let stage = Stage::set().await;
    stage.announce("shop.bill", r#"{"queue":"pictures"}"#).await;
    let mut taker = stage.taker("pictures").await;
    for _ in 0..2 {
        // Nobody stores a completion: that is how it is once DONE has dropped it.
        stage.publish("shop.bill", &ORDER, "{}").await;
        let (task, delivery) = taker.next(1, PATIENCE).await.expect("a task comes");
        assert!(task.suspect, "whoever runs it looks for a completion first");
        taker.ended(&task, 1_000, RunEnd::Done);
        taker.settle(delivery).await;
        taker.tell(1).await;
    }
    stage.until_holds(STREAM_TASKS, 0).await;
    stage.until_holds(STREAM_LANES, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_submitted_again_while_it_runs_or_waits_for_its_retry_is_a_copy() {
    let stage = Stage::set().await;
    stage.announce("shop.bill", r#"{"queue":"pictures"}"#).await;
    let mut taker = stage.taker("pictures").await;
    stage.publish("shop.bill", &ORDER, "{}").await;
    let (task, delivery) = taker.next(2, PATIENCE).await.expect("a task comes");
    stage.publish("shop.bill", &ORDER, "{}").await;
    assert!(taker.next(2, QUIET).await.is_none(), "it runs");
    taker.ended(&task, 1_000, RunEnd::Broken);
    taker.settle(delivery).await;
    taker.tell(2).await;
    stage.publish("shop.bill", &ORDER, "{}").await;
    assert!(taker.next(2, QUIET).await.is_none(), "its retry is to come");
    stage.until_holds(STREAM_TASKS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn note_of_a_cancelled_task_drops_nothing_once_its_completion_is_forgotten() {
    let stage = Stage::set().await;
    stage.announce("shop.bill", r#"{"queue":"pictures"}"#).await;
    let tasks = [0, 1].map(|_| task("pictures", "shop.bill", Priority::Normal));
    stage.note_cancelled(&tasks[0]).await;
    stage.submit(&tasks[0]).await;
    // One that is noted while it waits.
    stage.submit(&tasks[1]).await;
    stage.note_cancelled(&tasks[1]).await;
    let mut taken = stage.taker("pictures").await.take(2, 2).await;
    taken.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(taken.iter().map(|task| &task.id).collect::<Vec<_>>(), [&tasks[0].id, &tasks[1].id]);
    assert!(taken[0].suspect, "whoever runs it looks for a completion first");
}
