//! A dispatcher that ends in the middle of its work: nothing is lost, and the next one leads.

use crate::stage::{PATIENCE, QUIET, Stage, soon, task};
use jetlane_bus::clock;
use jetlane_dispatcher::Config;
use jetlane_schemas::inquiry::{Inquiry, InquiryReply};
use jetlane_schemas::subject::{STREAM_LANES, STREAM_TASKS};
use jetlane_schemas::{Completion, Flow, Headers, Micros, Outcome, Priority, RunToken, TaskEvent, TaskId, subject};
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const TASKS: usize = 300;

async fn submit(stage: &Stage, count: usize) -> Vec<TaskId> {
    let mut ids = Vec::new();
    for n in 0..count {
        let task = task("pictures", "a.b", Priority::ALL[n % 4]);
        stage.submit(&task).await;
        ids.push(task.id);
    }
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_vanishes_loses_nothing_and_what_it_had_read_is_suspect() {
    let mut stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let sent = submit(&stage, TASKS).await;
    let mut taker = stage.taker("pictures").await;
    let mut taken = taker.take(TASKS / 3, 8).await;
    stage.crash().await;
    let crashed_at = tokio::time::Instant::now();
    stage.start(Config::default()).await;
    // What lies in the lanes comes from the leader that is gone; then the next one's.
    let (first, delivery) = loop {
        let (task, delivery) = taker.next(8, PATIENCE).await.expect("a task comes");
        if task.suspect {
            break (task, delivery);
        }
        taker.settle(delivery).await;
        taken.push(task);
    };
    let gap = crashed_at.elapsed();
    taker.settle(delivery).await;
    assert!(gap < Duration::from_secs(4), "the queue stood still for {gap:?}");
    taken.push(first);
    taken.extend(taker.take_all(8).await);
    let mut ids: Vec<_> = taken.into_iter().map(|task| task.id).collect();
    ids.sort();
    assert_eq!(ids, sent, "each task came once");
    stage.until_holds(STREAM_TASKS, 0).await;
    stage.until_holds(STREAM_LANES, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_drains_gives_back_what_it_holds() {
    let mut stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let sent = submit(&stage, 40).await;
    let mut taker = stage.taker("pictures").await;
    let mut taken = taker.take(10, 4).await;
    stage.drain().await;
    stage.start(Config::default()).await;
    // However long the next one takes to lead.
    taken.extend(taker.take(30, 4).await);
    assert!(taker.next(4, QUIET).await.is_none());
    let mut ids: Vec<_> = taken.into_iter().map(|task| task.id).collect();
    ids.sort();
    assert_eq!(ids, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_dispatcher_takes_over_and_two_at_once_dispatch_nothing_twice() {
    let mut stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    stage.start_another(Config::default()).await;
    let sent = submit(&stage, 60).await;
    let mut taker = stage.taker("pictures").await;
    let mut taken = taker.take(20, 4).await;
    stage.crash().await;
    taken.extend(taker.take(40, 4).await);
    assert!(taker.next(4, QUIET).await.is_none());
    let mut ids: Vec<_> = taken.into_iter().map(|task| task.id).collect();
    ids.sort();
    assert_eq!(ids, sent);
}

/// A dispatcher as a process of its own, that crashes at a named point.
struct Process(Child);

impl Process {
    fn start(url: &str, failpoints: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jetlane-dispatcher"));
        command.env("NATS_URL", url).env("FAILPOINTS", failpoints).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        Self(command.stdout(Stdio::inherit()).stderr(Stdio::inherit()).spawn().expect("the dispatcher starts"))
    }

    /// Waits for its end; whether it was a crash.
    fn crashes(mut self) -> tokio::task::JoinHandle<bool> {
        tokio::task::spawn_blocking(move || !self.0.wait().expect("it ends").success())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_publish_and_ack_loses_nothing_and_runs_nothing_twice() {
    let stage = Stage::without_dispatcher(&Config::default()).await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let sent = submit(&stage, 60).await;
    let mut taker = stage.taker("pictures").await;
    let mut counts: BTreeMap<TaskId, usize> = BTreeMap::new();
    for _ in 0..3 {
        // Some pass; then the process crashes with a task stored in its lane and its source not acknowledged.
        let process = Process::start(&stage.server.url(), "dispatcher::between-publish-and-ack=7*off->return");
        let crashed = process.crashes();
        while !crashed.is_finished() {
            if let Some((task, delivery)) = taker.next(4, Duration::from_millis(200)).await {
                taker.settle(delivery).await;
                *counts.entry(task.id).or_default() += 1;
            }
        }
        assert!(crashed.await.unwrap(), "it ended well: the crash was not reached");
    }
    assert!(counts.len() < sent.len(), "the crashes came too late to matter");
    let _process = Process::start(&stage.server.url(), "");
    while let Some((task, delivery)) = taker.next(4, if counts.len() < sent.len() { PATIENCE } else { QUIET }).await {
        taker.settle(delivery).await;
        *counts.entry(task.id).or_default() += 1;
    }
    assert_eq!(counts.keys().cloned().collect::<Vec<_>>(), sent, "a task was lost");
    // Inside the window of deduplication the message id keeps the second dispatch out.
    assert!(counts.values().all(|times| *times == 1), "dispatched twice: {counts:?}");
    stage.until_holds(STREAM_TASKS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_that_one_leader_read_is_suspect_though_the_next_leader_dies_before_it_reads_it() {
    const TASKS: usize = 3;
    let mut stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let sent: Vec<_> = (0..TASKS).map(|_| task("pictures", "a.b", Priority::Normal)).collect();
    stage.submit_all(&sent).await;
    for task in &sent {
        stage.until_read("pictures", &task.id).await;
    }
    stage.crash().await;
    // A leader takes over, opens its flow and dies.
    let flow = Flow::Task(sent[0].queue.clone(), sent[0].priority, sent[0].shard);
    let epoch = u64::MAX;
    let old = stage.bus.pause_old(STREAM_TASKS, epoch, |other| *other == flow).await.expect("read");
    assert_eq!(old.len(), 1);
    stage.bus.delete_old(&old).await.expect("deleted");
    stage.bus.open_flow(&flow, epoch, old[0].delivered).await.expect("opened");
    stage.start(Config::default()).await;
    let taken = stage.taker("pictures").await.take(TASKS, 5).await;
    assert!(taken.iter().all(|task| task.suspect), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_that_one_leader_read_is_suspect_though_the_next_leader_dies_while_it_takes_over() {
    const TASKS: usize = 3;
    let mut stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let sent: Vec<_> = (0..TASKS).map(|_| task("pictures", "a.b", Priority::Normal)).collect();
    stage.submit_all(&sent).await;
    for task in &sent {
        stage.until_read("pictures", &task.id).await;
    }
    stage.crash().await;
    // The consumers of the first leader are deleted, and the second has made none of its own.
    let process = Process::start(&stage.server.url(), "dispatcher::between-delete-and-create=return");
    assert!(soon(process.crashes()).await.expect("it is waited for"), "it ended well: the crash was not reached");
    stage.start(Config::default()).await;
    let taken = stage.taker("pictures").await.take(TASKS, 5).await;
    assert!(taken.iter().all(|task| task.suspect), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumer_of_an_earlier_leader_that_appears_late_stops_no_flow() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let first = task("pictures", "a.b", Priority::Normal);
    stage.submit(&first).await;
    stage.until_read("pictures", &first.id).await;
    // The flow of another priority is opened with its first task.
    let late = task("pictures", "a.b", Priority::ALL[0]);
    let flow = Flow::Task(late.queue.clone(), late.priority, late.shard);
    stage.bus.open_flow(&flow, u64::MAX, 0).await.expect("the flow has no consumer yet");
    stage.submit(&late).await;
    let taken = stage.taker("pictures").await.take(2, 5).await;
    assert!(taken.iter().any(|task| task.id == late.id), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspect_task_past_its_deadline_waits_while_an_executor_says_that_it_runs() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut task = task("pictures", "a.b", Priority::Normal);
    (task.deadline, task.suspect) = (Some(clock::now()), true);
    let mut questions = stage.bus.subscribe(&subject::owner(&task.queue)).await.expect("subscribed");
    stage.submit(&task).await;
    let running = serde_json::to_vec(&InquiryReply::Running).expect("JSON");
    for _ in 0..2 {
        let question = soon(questions.next()).await.expect("a question comes");
        let inquiry: Inquiry = serde_json::from_slice(&question.body).expect("JSON");
        assert_eq!((inquiry.ack.as_str(), &inquiry.runs[0].id), ("", &task.id));
        let reply = question.reply.expect("an answer is wanted");
        stage.bus.send(reply, Headers::new(), running.clone().into()).await.expect("sent");
    }
    let done = Completion::of(&task, Outcome::Succeeded, clock::now());
    stage.bus.complete(&Completion { token: Some(RunToken::draw()), ..done }).await.expect("stored");
    drop(questions);
    stage.until_holds(STREAM_TASKS, 0).await;
    assert_eq!(stage.completion("a.b", task.id.as_str()).await.outcome, Outcome::Succeeded);
    // Nobody runs the next one, and nobody says so.
    task.id = TaskId::generate();
    stage.submit(&task).await;
    assert_eq!(stage.completion("a.b", task.id.as_str()).await.outcome, Outcome::Expired);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_of_a_task_past_its_deadline_is_not_expired_while_a_later_run_is_scheduled() {
    let stage = Stage::set().await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let mut copy = task("pictures", "a.b", Priority::Normal);
    (copy.deadline, copy.suspect) = (Some(clock::now()), true);
    let in_an_hour = Micros(clock::now().0 + 3_600_000_000);
    stage.bus.store_due(&TaskEvent { run: 2, attempts: 1, ..copy.clone() }, in_an_hour).await.expect("stored");
    let mut questions = stage.bus.subscribe(&subject::owner(&copy.queue)).await.expect("subscribed");
    stage.submit(&copy).await;
    // Nobody runs it, and yet it is asked about again.
    for _ in 0..2 {
        soon(questions.next()).await.expect("a question comes");
    }
    assert!(stage.bus.read_done(&copy.task_type, &copy.id).await.expect("read").is_none(), "it has begun in time");
    let done = Completion { token: Some(RunToken::draw()), ..Completion::of(&copy, Outcome::Succeeded, clock::now()) };
    stage.bus.complete(&done).await.expect("stored");
    stage.bus.end_schedule(&done).await.expect("removed");
    stage.until_holds(STREAM_TASKS, 0).await;
    assert_eq!(stage.completion("a.b", copy.id.as_str()).await.outcome, Outcome::Succeeded);
}
