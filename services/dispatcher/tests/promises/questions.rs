//! Questions to the leader of a queue: why a task waits, when one would start, and whether it is taken.

use crate::flow::until_read;
use crate::stage::{PATIENCE, Stage, soon, task};
use jetlane_bus::clock;
use jetlane_schemas::question::{Answer, Prospect, Question, Reason};
use jetlane_schemas::subject::{self, STREAM_TASKS};
use jetlane_schemas::{Admit, Micros, Needs, Outcome, Priority, QueueName, TaskEvent, TaskId, Tenant};

fn pictures() -> QueueName {
    QueueName::new("pictures").unwrap()
}

fn timed(seconds: u64) -> TaskEvent {
    let mut task = task("pictures", "a.b", Priority::Normal);
    task.estimate_us = Some(seconds * 1_000_000);
    task
}

fn prospect(seconds: u64, deadline: Option<Micros>) -> Prospect {
    Prospect {
        task_type: "a.b".parse().unwrap(),
        priority: Priority::Normal,
        tenant: Tenant::default(),
        needs: Needs::default(),
        size_key: None,
        estimate_us: Some(seconds * 1_000_000),
        deadline,
    }
}

fn in_seconds(seconds: u64) -> Option<Micros> {
    Some(Micros(clock::now().0 + seconds * 1_000_000))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_learns_why_a_task_waits_and_when_it_would_start() {
    let stage = Stage::set().await;
    stage.declare("pictures", r#"{"policy":"fifo"}"#).await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let tasks = [60, 60, 60].map(timed);
    for task in &tasks {
        stage.submit(task).await;
    }
    let mut taker = stage.taker("pictures").await;
    let (running, _delivery) = taker.next(1, PATIENCE).await.expect("a task comes");
    assert_eq!(running.id, tasks[0].id);
    until_read(&stage, &pictures(), 2).await;
    let why = stage.until_told("pictures", &tasks[2].id, |_| true).await;
    assert_eq!(why.reasons, [Reason::NoRoom, Reason::Behind { tasks: 1, of_its_flow: 1 }]);
    assert_eq!((why.queue, why.priority), (pictures(), Priority::Normal));
    // One runs and one goes before it, each as long as is expected of it.
    let start = why.expected.start.expect("an executor takes it").ms_since(clock::now());
    let both = 2.0 * why.expected.estimate_us as f64 / 1_000.0;
    assert!(both >= 120_000.0 && (both - PATIENCE.as_secs_f64() * 1_000.0..=both).contains(&start), "in {start} ms");
    let Answer::Expectation(expected) = stage.ask("pictures", &Question::Expect(prospect(1, in_seconds(60)))).await
    else {
        panic!("no expectation")
    };
    assert_eq!((expected.ahead, expected.meets_deadline), (2, false));
    let dispatched = stage.ask("pictures", &Question::Explain { id: tasks[0].id.clone(), task_type: None }).await;
    assert_eq!(dispatched, Answer::Unheld { queue: pictures(), dispatched: true });
    let unknown = stage.ask("pictures", &Question::Explain { id: TaskId::generate(), task_type: None }).await;
    assert_eq!(unknown, Answer::Unheld { queue: pictures(), dispatched: false });
    stage.declare("pictures", r#"{"policy":"fifo","paused":true}"#).await;
    stage.until_told("pictures", &tasks[2].id, |told| told.reasons[0] == Reason::Paused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_that_are_no_good_or_too_many_are_refused_and_stop_nothing() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let waits = task("pictures", "a.b", Priority::Normal);
    stage.submit(&waits).await;
    until_read(&stage, &pictures(), 1).await;
    // Only now: the first lease of the bucket is that of the queue that is looked at.
    stage.announce("elsewhere", r#"{"queue":"another"}"#).await;
    let foreign = Question::Expect(Prospect { task_type: "elsewhere".parse().unwrap(), ..prospect(1, None) });
    // The leader takes the type for its own until its watch has delivered the change.
    let refused = soon(async {
        loop {
            if let Answer::Refused { reason } = stage.ask("pictures", &foreign).await {
                return reason;
            }
        }
    });
    assert!(refused.await.contains("belongs to queue another"));
    let answers = (0..60).map(|_| async {
        let question = r#"{"ask":"explain","id":"x"}"#.into();
        stage.bus.ask(&subject::ask(&pictures()), question, PATIENCE).await.unwrap().expect("an answer")
    });
    let answers = futures::future::join_all(answers).await;
    let refused = answers.iter().filter(|json| matches!(serde_json::from_slice(json), Ok(Answer::Refused { .. })));
    // They may straddle a second, and where the machine is slow they have had their part of the time.
    let refused = refused.count();
    assert!((20..60).contains(&refused), "{refused} of 60");
    let junk = stage.bus.ask(&subject::ask(&pictures()), "why?".into(), PATIENCE).await.unwrap().expect("an answer");
    assert!(matches!(serde_json::from_slice(&junk), Ok(Answer::Refused { .. })));
    assert_eq!(stage.taker("pictures").await.take(1, 1).await[0].id, waits.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_task_that_cannot_start_by_its_deadline_is_refused_when_it_is_read() {
    let stage = Stage::set().await;
    stage.declare("pictures", r#"{"policy":"fifo"}"#).await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let tasks: Vec<TaskEvent> = (0..10).map(|_| timed(60)).collect();
    for task in &tasks {
        stage.submit(task).await;
    }
    let mut taker = stage.taker("pictures").await;
    let (running, delivery) = taker.next(1, PATIENCE).await.expect("a task comes");
    assert_eq!(running.id, tasks[0].id);
    until_read(&stage, &pictures(), 9).await;
    let due = |admit, seconds| TaskEvent { admit, deadline: in_seconds(seconds), ..timed(1) };
    let (in_time, not_strict) = (due(Admit::Strict, 3_600), due(Admit::Always, 300));
    stage.submit(&in_time).await;
    stage.submit(&not_strict).await;
    until_read(&stage, &pictures(), 11).await;
    let late = due(Admit::Strict, 300);
    stage.submit(&late).await;
    let done = stage.completion("a.b", late.id.as_str()).await;
    let failure = done.failure().expect("a failure");
    assert_eq!((done.outcome, done.attempt, failure.code.as_str()), (Outcome::Rejected, 0, "deadline"));
    let deadline = clock::rfc3339(late.deadline.unwrap());
    assert!(failure.message.contains("behind 11 tasks") && failure.message.contains(&deadline), "{}", failure.message);
    taker.settle(delivery).await;
    let mut rest = taker.take(11, 1).await;
    assert_eq!(rest.pop().map(|task| task.id), Some(not_strict.id));
    assert_eq!(rest.pop().map(|task| task.id), Some(in_time.id));
    stage.until_holds(STREAM_TASKS, 0).await;
}
