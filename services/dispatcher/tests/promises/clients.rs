//! Clients in any language: a plain lane, served by pulls alone.

use crate::stage::{PATIENCE, QUIET, Stage, soon, task};
use jetlane_bus::done::Completed;
use jetlane_bus::topology::Settings;
use jetlane_bus::{Ack, Delivery, Pulled, Puller, clock};
use jetlane_dispatcher::Config;
use jetlane_schemas::question::{Answer, Question};
use jetlane_schemas::subject::{self, BUCKET_REGISTRY, STREAM_DONE, STREAM_LANES, STREAM_TASKS};
use jetlane_schemas::{Completion, EstimateEntry, Headers, Outcome, Priority, RunToken, header};
use std::time::Duration;

/// The next delivery of a lane; `None` once nothing has come for so long.
pub(crate) async fn next(puller: &mut Puller, patience: Duration) -> Option<Delivery> {
    if puller.outstanding() == 0 {
        puller.ask(1, None).await.unwrap();
    }
    loop {
        match tokio::time::timeout(patience, puller.next()).await.ok()? {
            Pulled::Delivery(delivery) => return Some(delivery),
            Pulled::Room => puller.ask(1, None).await.unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_only_pulls_gets_its_task_as_json_with_headers() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let sequence = stage.publish("a.b", &[("x-user", "ada")], r#"{"n":1}"#).await;
    let mut puller = stage.plain("pictures", Priority::Normal).await;
    let delivery = next(&mut puller, PATIENCE).await.expect("a task comes");
    assert_eq!(&delivery.body[..], br#"{"n":1}"#);
    let headers = delivery.headers();
    for (name, value) in [
        (header::TASK_ID, format!("s{sequence}")),
        (header::TASK_TYPE, "a.b".into()),
        (header::QUEUE, "pictures".into()),
        (header::RUN, "1".into()),
        (header::ATTEMPT, "1".into()),
        ("x-user", "ada".into()),
    ] {
        assert_eq!(headers.get(name), Some(value.as_str()), "{name}");
    }
    delivery.ack.settle().await.unwrap();
    stage.until_holds(STREAM_TASKS, 0).await;
    stage.until_holds(STREAM_LANES, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_lane_has_four_tasks_and_one_more_with_each_that_ends() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    for _ in 0..12 {
        stage.submit(&task("pictures", "a.b", Priority::Normal)).await;
    }
    let mut puller = stage.plain("pictures", Priority::Normal).await;
    let mut held: Vec<Ack> = Vec::new();
    while let Some(delivery) = next(&mut puller, if held.is_empty() { PATIENCE } else { QUIET }).await {
        held.push(delivery.ack);
    }
    assert_eq!(held.len(), 4);
    let mut ended = 0;
    while let Some(ack) = held.pop() {
        ack.settle().await.unwrap();
        ended += 1;
        if ended <= 8 {
            let delivery = next(&mut puller, PATIENCE).await;
            held.push(delivery.unwrap_or_else(|| panic!("no task after {ended} had ended")).ack);
        }
    }
    assert_eq!(ended, 12);
    stage.until_holds(STREAM_TASKS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_pulls_any_more_is_taken_back_and_runs_elsewhere() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut puller = stage.plain("pictures", Priority::Normal).await;
    let tasks = [0, 1, 2].map(|_| task("pictures", "a.b", Priority::Normal));
    for task in &tasks {
        stage.submit(task).await;
    }
    // It takes one, and is never heard of again: two lie in its lane.
    let delivery = next(&mut puller, PATIENCE).await.expect("a task comes");
    delivery.ack.settle().await.unwrap();
    drop(puller);
    let mut taker = stage.taker("pictures").await;
    let mut taken = taker.take(2, 2).await;
    taken.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(taken.iter().map(|task| &task.id).collect::<Vec<_>>(), [&tasks[1].id, &tasks[2].id]);
    assert!(taken.iter().all(|task| task.run == 2 && task.suspect), "{taken:?}");
    stage.until_holds(STREAM_LANES, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_given_up_by_the_server_fails_and_is_kept() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut puller = stage.plain("pictures", Priority::Normal).await;
    let task = task("pictures", "a.b", Priority::Normal);
    stage.submit(&task).await;
    for _ in 0..jetlane_bus::flows::PLAIN_DELIVERIES_MAX {
        let delivery = next(&mut puller, PATIENCE).await.expect("it comes again");
        delivery.ack.give_back(Duration::ZERO).await.unwrap();
    }
    let done = stage.completion("a.b", task.id.as_str()).await;
    assert_eq!(done.outcome, Outcome::Failed);
    assert_eq!(done.failure().unwrap().code, "deliveries");
    assert_eq!(stage.dead_letter("pictures", "a.b", task.id.as_str()).await.payload, task.payload);
    soon(stage.until_holds(STREAM_LANES, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_a_client_terminates_fails_and_is_kept() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut puller = stage.plain("pictures", Priority::Normal).await;
    let mut answers = stage.bus.subscribe("$JS.ACK.JETLANE_LANES.lane-pictures-normal-any.>").await.unwrap();
    let task = task("pictures", "a.b", Priority::Normal);
    stage.submit(&task).await;
    let delivery = next(&mut puller, PATIENCE).await.expect("a task comes");
    // Its first answer tells the subject of all its answers.
    delivery.ack.hold().await.unwrap();
    let subject = soon(answers.next()).await.expect("an answer comes").subject;
    stage.bus.send(subject, Headers::new(), "+TERM no such picture".into()).await.unwrap();
    let done = stage.completion("a.b", task.id.as_str()).await;
    assert_eq!(done.outcome, Outcome::Failed);
    assert!(done.failure().unwrap().message.contains("no such picture"));
    assert_eq!(stage.dead_letter("pictures", "a.b", task.id.as_str()).await.payload, task.payload);
    soon(stage.until_holds(STREAM_LANES, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_run_of_a_plain_client_ends_with_its_answer_and_its_time_is_learned() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut puller = stage.plain("pictures", Priority::Normal).await;
    let task = task("pictures", "a.b", Priority::Normal);
    stage.submit(&task).await;
    let delivery = next(&mut puller, PATIENCE).await.expect("a task comes");
    let question = Question::Explain { id: task.id.clone(), task_type: None };
    let until = async |wanted: bool| {
        soon(async {
            let is_it = |answer| matches!(answer, Answer::Unheld { dispatched, .. } if dispatched == wanted);
            while !is_it(stage.ask("pictures", &question).await) {}
        })
        .await;
    };
    until(true).await;
    delivery.ack.settle().await.unwrap();
    until(false).await;
    let key = subject::registry_estimate(&task.task_type);
    let registry = stage.bus.bucket(BUCKET_REGISTRY).await.unwrap();
    soon(async { while registry.get::<EstimateEntry>(&key).await.unwrap().is_none_or(|kept| kept.all.runs != 1) {} })
        .await;
}

/// A dispatcher whose DONE takes so few bytes that a test can fill it.
async fn stage_with_a_full_done() -> (Stage, u64) {
    let streams = Settings { done_bytes_max: 16 * 1_024, ..Settings::default() };
    let stage = Stage::with(Config { streams, ..Config::default() }).await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut filled = 0;
    loop {
        let mut done = Completion::of(&task("pictures", "a.c", Priority::Normal), Outcome::Succeeded, clock::now());
        done.token = Some(RunToken::draw());
        match stage.bus.complete(&done).await.expect("an answer") {
            Completed::Full => return (stage, filled),
            Completed::Won | Completed::Lost(_) => filled += 1,
        }
    }
}

/// Refuses the next task of a plain lane for good.
async fn terminate(stage: &Stage, puller: &mut Puller) {
    let delivery = next(puller, PATIENCE).await.expect("a task comes");
    let subject = delivery.ack.subject().to_owned();
    stage.bus.send(subject, Headers::new(), "+TERM no such picture".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_drains_ends_the_tasks_that_a_client_terminated_first() {
    let (mut stage, filled) = stage_with_a_full_done().await;
    let mut puller = stage.plain("pictures", Priority::Normal).await;
    let task = task("pictures", "a.b", Priority::Normal);
    stage.submit(&task).await;
    terminate(&stage, &mut puller).await;
    let question = Question::Explain { id: task.id.clone(), task_type: None };
    let is_answered = |answer: &Answer| matches!(answer, Answer::Unheld { dispatched: false, .. });
    soon(async { while !is_answered(&stage.ask("pictures", &question).await) {} }).await;
    // Room comes while it drains.
    stage.drain.cancel();
    for sequence in 1..=filled {
        stage.bus.delete_sequence(STREAM_DONE, sequence).await.expect("deleted");
    }
    stage.drain().await;
    let done = stage.bus.read_done(&task.task_type, &task.id).await.expect("read").expect("it has its completion");
    assert_eq!((done.outcome, done.failure().unwrap().code.as_str()), (Outcome::Failed, "terminated"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_tasks_that_find_no_room_among_completions_stop_no_dispatch() {
    // As many as a leader carries out at once.
    const TERMINATED: usize = 1_000;
    let (stage, _) = stage_with_a_full_done().await;
    let mut puller = stage.plain("pictures", Priority::Normal).await;
    let tasks: Vec<_> = (0..TERMINATED).map(|_| task("pictures", "a.b", Priority::Normal)).collect();
    stage.submit_all(&tasks).await;
    for _ in 0..TERMINATED {
        terminate(&stage, &mut puller).await;
    }
    stage.submit(&task("pictures", "a.b", Priority::Normal)).await;
    assert!(next(&mut puller, PATIENCE).await.is_some(), "the next task is dispatched");
}
