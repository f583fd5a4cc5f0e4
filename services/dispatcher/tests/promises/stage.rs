//! A real nats-server with a dispatcher on it, and the least that submits to it and takes from it.

use jetlane_bus::local::{self, Binary, Options, Server};
use jetlane_bus::publish::Expect;
use jetlane_bus::{Bus, Connect, Delivery, Outgoing, Pulled, Puller, clock};
use jetlane_dispatcher::Config;
use jetlane_schemas::frame::{self, Credit, Remaining, RunEnd, RunEnded};
use jetlane_schemas::question::{Answer, Explanation, Question};
use jetlane_schemas::subject::{self, BUCKET_NOTES, BUCKET_REGISTRY, Lane, LaneKind, STREAM_DEAD, STREAM_LANES};
use jetlane_schemas::{
    Completion, Fit, Headers, Hop, Outcome, Priority, QueueEntry, QueueName, Shard, ShardEntry, SharedEntry, TaskEvent,
    TaskId, TaskRef, TaskType, Tenant,
};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// How long anything may take before it counts as stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing may come for the stage to believe that nothing will.
pub(crate) const QUIET: Duration = Duration::from_millis(400);

static BINARY: OnceCell<Binary> = OnceCell::const_new();

/// A server, a dispatcher and a connection of the test's own.
pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) bus: Bus,
    pub(crate) drain: CancellationToken,
    dispatcher: Option<JoinHandle<()>>,
    others: JoinSet<()>,
}

pub(crate) async fn server() -> Server {
    let filter = tracing_subscriber::EnvFilter::from_env("JETLANE_LOG");
    let _set_before = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let binary = BINARY
        .get_or_init(|| async { local::find(|said| eprintln!("{said}")).await.expect("a nats-server is found") })
        .await;
    Server::start(binary, Options::default()).await.expect("the server starts")
}

pub(crate) async fn connect(url: &str) -> Bus {
    Bus::connect(&Connect::to(url, "stage")).await.expect("connects")
}

pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

impl Stage {
    pub(crate) async fn set() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let mut stage = Self::without_dispatcher(&config).await;
        stage.start(config).await;
        stage
    }

    /// Streams and nobody who reads them.
    pub(crate) async fn without_dispatcher(config: &Config) -> Self {
        let server = server().await;
        let bus = connect(&server.url()).await;
        bus.ensure(&config.streams).await.expect("streams are made");
        Self { server, bus, drain: CancellationToken::new(), dispatcher: None, others: JoinSet::new() }
    }

    pub(crate) async fn start(&mut self, config: Config) {
        let bus = connect(&self.server.url()).await;
        let drain = self.drain.clone();
        self.dispatcher =
            Some(tokio::spawn(async move { jetlane_dispatcher::run(bus, config, drain).await.expect("it runs") }));
    }

    /// Starts a dispatcher beside the one that runs.
    pub(crate) async fn start_another(&mut self, config: Config) {
        let (bus, drain) = (connect(&self.server.url()).await, self.drain.clone());
        self.others.spawn(async move { jetlane_dispatcher::run(bus, config, drain).await.expect("it runs") });
    }

    /// Ends the dispatcher in the middle of whatever it does.
    pub(crate) async fn crash(&mut self) {
        if let Some(dispatcher) = self.dispatcher.take() {
            dispatcher.abort();
            let _ended = dispatcher.await;
        }
    }

    /// Ends the dispatcher as a signal does.
    pub(crate) async fn drain(&mut self) {
        self.drain.cancel();
        if let Some(dispatcher) = self.dispatcher.take() {
            soon(dispatcher).await.expect("it ends well");
        }
        self.drain = CancellationToken::new();
    }

    pub(crate) async fn announce(&self, task_type: &str, json: &str) {
        let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let key = subject::registry_type(&task_type.parse().expect("a type"));
        self.bus.bucket(BUCKET_REGISTRY).await.expect("a registry").put(&key, &value).await.expect("announced");
    }

    /// Declares a queue.
    pub(crate) async fn declare(&self, queue: &str, json: &str) {
        let entry: QueueEntry = serde_json::from_str(json).expect("JSON");
        let key = subject::registry_queue(&queue.parse().expect("a queue"));
        self.bus.bucket(BUCKET_REGISTRY).await.expect("a registry").put(&key, &entry).await.expect("declared");
    }

    /// Asks the leader of a queue, again and again until there is one and it has the time.
    pub(crate) async fn ask(&self, queue: &str, question: &Question) -> Answer {
        let subject = subject::ask(&queue.parse().expect("a queue"));
        let question = serde_json::to_vec(question).expect("JSON");
        soon(async {
            loop {
                let answer = self.bus.ask(&subject, question.clone().into(), QUIET).await.expect("asked");
                let answer = answer.map(|answer| serde_json::from_slice(&answer).expect("an answer"));
                match answer {
                    Some(Answer::Refused { reason }) if reason.ends_with("ask again later") => {}
                    Some(answer) => return answer,
                    None => {}
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// Waits until the leader of a queue holds a task and says this of it.
    pub(crate) async fn until_told(
        &self,
        queue: &str,
        id: &TaskId,
        is_it: impl Fn(&Explanation) -> bool,
    ) -> Explanation {
        let question = Question::Explain { id: id.clone(), task_type: None };
        soon(async {
            loop {
                if let Answer::Explanation(told) = self.ask(queue, &question).await
                    && is_it(&told)
                {
                    return told;
                }
            }
        })
        .await
    }

    /// Waits until the leader of a queue holds a task, or has dispatched it already.
    pub(crate) async fn until_read(&self, queue: &str, id: &TaskId) {
        let question = Question::Explain { id: id.clone(), task_type: None };
        let is_read = |told: &Answer| matches!(told, Answer::Explanation(_) | Answer::Unheld { dispatched: true, .. });
        soon(async { while !is_read(&self.ask(queue, &question).await) {} }).await;
    }

    /// Where the SDK would submit a tenant's next task.
    pub(crate) async fn shard_of(&self, queue: &str, tenant: &Tenant) -> Shard {
        let queue: QueueName = queue.parse().expect("a queue");
        let registry = self.bus.bucket(BUCKET_REGISTRY).await.expect("a registry");
        let own = registry.get::<ShardEntry>(&subject::registry_shard(&queue, tenant)).await.expect("read");
        let shared = registry.get::<SharedEntry>(&subject::registry_shared(&queue)).await.expect("read");
        own.map_or_else(|| shared.unwrap_or_default().of(tenant), |own| own.shard)
    }

    /// Publishes many of one subject as the sdk does, in bundles.
    pub(crate) async fn submit_all(&self, tasks: &[TaskEvent]) {
        for tasks in tasks.chunks(100) {
            let body = frame::encode_bundle(tasks).expect("encodes");
            let subject = subject::task(&tasks[0].queue, tasks[0].priority, tasks[0].shard);
            self.store(subject, Headers::new(), body, Some(tasks[0].message_id(Hop::Intake))).await;
        }
    }

    /// Publishes as any client does; the sequence of its message.
    pub(crate) async fn publish(&self, task_type: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> u64 {
        let task_type: TaskType = task_type.parse().expect("a type");
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.store(subject::submit(&task_type), headers, body.into(), None).await
    }

    /// Publishes as the sdk does.
    pub(crate) async fn submit(&self, task: &TaskEvent) {
        let body = frame::encode_bundle(std::slice::from_ref(task)).expect("encodes");
        let subject = subject::task(&task.queue, task.priority, task.shard);
        self.store(subject, Headers::new(), body, Some(task.message_id(Hop::Intake))).await;
    }

    pub(crate) async fn store(
        &self,
        subject: String,
        headers: Headers,
        body: Vec<u8>,
        message_id: Option<String>,
    ) -> u64 {
        let out =
            Outgoing { subject: subject.clone(), headers, body: body.into(), message_id, expect: Expect::Anything };
        self.bus.publish(out).await.expect("an answer").or_refused(&subject).expect("stored")
    }

    /// Cancels a task as a client does: its completion, then the note.
    pub(crate) async fn cancel(&self, task: &TaskEvent) {
        let done = Completion::of(task, Outcome::Cancelled, task.submitted_at);
        self.bus.complete(&done).await.expect("completed");
        self.note_cancelled(task).await;
    }

    /// The note alone, as it is found once the completion is forgotten.
    pub(crate) async fn note_cancelled(&self, task: &TaskEvent) {
        let notes = self.bus.bucket(BUCKET_NOTES).await.expect("notes");
        notes.put(&subject::note_cancelled(&task.task_type, &task.id), &true).await.expect("noted");
    }

    /// The completion of a task, once there is one.
    pub(crate) async fn completion(&self, task_type: &str, id: &str) -> Completion {
        let (task_type, id): (TaskType, TaskId) = (task_type.parse().expect("a type"), id.parse().expect("an id"));
        soon(async {
            loop {
                if let Some(done) = self.bus.read_done(&task_type, &id).await.expect("DONE is read") {
                    return done;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// The dead letter of a task, once there is one.
    pub(crate) async fn dead_letter(&self, queue: &str, task_type: &str, id: &str) -> TaskEvent {
        let (queue, task_type) = (queue.parse().expect("a queue"), task_type.parse().expect("a type"));
        let subject = subject::dead(&queue, &task_type, &id.parse().expect("an id"));
        soon(async {
            loop {
                if let Some(task) = self.bus.read_dead(&subject).await.expect("DEAD is read") {
                    return task;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    pub(crate) async fn dead_letters(&self) -> u64 {
        self.bus.subject_counts(STREAM_DEAD, ">").await.expect("counted").values().sum()
    }

    /// Waits until a stream holds so many messages.
    pub(crate) async fn until_holds(&self, stream: &str, count: u64) {
        soon(async {
            while self.bus.subject_counts(stream, ">").await.expect("counted").values().sum::<u64>() != count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Somebody who takes bundles from a queue's lanes.
    pub(crate) async fn taker(&self, queue: &str) -> Taker {
        self.taker_of(queue, "any").await
    }

    /// Somebody who takes bundles of one fit.
    pub(crate) async fn taker_of(&self, queue: &str, fit: &str) -> Taker {
        let fit: Fit = fit.parse().expect("a fit");
        let queue: QueueName = queue.parse().expect("a queue");
        let mut pullers = Vec::new();
        for priority in Priority::ALL {
            let lane = Lane { kind: LaneKind::Bundle, queue: queue.clone(), priority, fit: fit.clone() };
            self.bus.ensure_lane(&lane).await.expect("a lane");
            pullers.push(self.bus.puller(STREAM_LANES, &lane.consumer()).await.expect("a puller"));
        }
        let name = TaskId::generate().to_string();
        let (bus, runs, remaining) = (self.bus.clone(), Vec::new(), Vec::new());
        Taker { bus, queue, fit, pullers, name, taken: 0, settled: 0, runs, remaining }
    }

    /// A puller of a plain lane.
    pub(crate) async fn plain(&self, queue: &str, priority: Priority) -> Puller {
        let queue = queue.parse().expect("a queue");
        let lane = Lane { kind: LaneKind::Plain, queue, priority, fit: Fit::default() };
        self.bus.ensure_lane(&lane).await.expect("a lane");
        self.bus.puller(STREAM_LANES, &lane.consumer()).await.expect("a puller")
    }
}

/// The least that an executor is to the dispatcher: it tells credit and takes bundles.
pub(crate) struct Taker {
    bus: Bus,
    queue: QueueName,
    pullers: Vec<Puller>,
    name: String,
    taken: u64,
    settled: u64,
    fit: Fit,
    runs: Vec<RunEnded>,
    remaining: Vec<Remaining>,
}

impl Taker {
    /// What it tells next of a run that ended.
    pub(crate) fn ended(&mut self, task: &TaskEvent, run_us: u64, end: RunEnd) {
        let TaskRef { task_type, id } = task.identity();
        self.runs.push(RunEnded { task_type: Some(task_type), id, run: task.run, run_us, end });
    }

    /// What it tells next of a run that goes on.
    pub(crate) fn remains(&mut self, task: &TaskEvent, remaining_us: u64, resume_us: u64) {
        let TaskRef { task_type, id } = task.identity();
        self.remaining.push(Remaining { task_type: Some(task_type), id, run: task.run, remaining_us, resume_us });
    }

    pub(crate) async fn tell(&mut self, capacity: u32) {
        let (taken, settled) = (self.taken, self.settled);
        let credit = Credit {
            executor: self.name.clone(),
            slots: capacity,
            capacity,
            taken,
            settled,
            fits: vec![self.fit.to_string()],
            of_fits: Vec::new(),
            runs: std::mem::take(&mut self.runs),
            remaining: std::mem::take(&mut self.remaining),
        };
        let frame = credit.encode().expect("encodes");
        self.bus.send(subject::credit(&self.queue), Headers::new(), frame.into()).await.expect("sent");
        self.bus.flush().await.expect("flushed");
    }

    /// The next message of any lane, while it tells its credit again and again as executors do; `None` once
    /// nothing has come for so long.
    pub(crate) async fn next(&mut self, capacity: u32, quiet: Duration) -> Option<(TaskEvent, Delivery)> {
        let (mut tasks, delivery) = self.next_bundle(capacity, quiet).await?;
        assert_eq!(tasks.len(), 1, "more than one task in a message");
        Some((tasks.remove(0), delivery))
    }

    /// The same with all tasks of the message.
    pub(crate) async fn next_bundle(&mut self, capacity: u32, quiet: Duration) -> Option<(Vec<TaskEvent>, Delivery)> {
        let end = tokio::time::Instant::now() + quiet;
        loop {
            self.tell(capacity).await;
            for puller in &mut self.pullers {
                if puller.outstanding() == 0 {
                    puller.ask(1, None).await.expect("asked");
                }
            }
            let turn = futures::future::select_all(self.pullers.iter_mut().map(|puller| Box::pin(puller.next())));
            let pause = (tokio::time::Instant::now() + Duration::from_millis(100)).min(end);
            if let Ok((Pulled::Delivery(delivery), ..)) = tokio::time::timeout_at(pause, turn).await {
                let tasks = frame::decode_bundle(&delivery.body).expect("a bundle");
                self.taken += tasks.len() as u64;
                return Some((tasks, delivery));
            }
            if tokio::time::Instant::now() >= end {
                return None;
            }
        }
    }

    /// The next message of any lane, without a word to the dispatcher.
    pub(crate) async fn take_silently(&mut self) -> (TaskEvent, Delivery) {
        soon(async {
            loop {
                for puller in &mut self.pullers {
                    if puller.outstanding() == 0 {
                        puller.ask(1, None).await.expect("asked");
                    }
                }
                let turn = futures::future::select_all(self.pullers.iter_mut().map(|puller| Box::pin(puller.next())));
                if let (Pulled::Delivery(delivery), ..) = turn.await {
                    return (frame::decode_bundle(&delivery.body).expect("a bundle").remove(0), delivery);
                }
            }
        })
        .await
    }

    pub(crate) async fn settle(&mut self, delivery: Delivery) {
        assert!(delivery.ack.settle_confirmed().await, "the ack is answered");
        self.settled += 1;
    }

    pub(crate) async fn settle_all(&mut self, delivery: Delivery, tasks: usize) {
        self.settle(delivery).await;
        self.settled += tasks as u64 - 1;
    }

    /// Takes and settles until nothing has come for a while; the tasks in the order in which they came.
    pub(crate) async fn take_all(&mut self, capacity: u32) -> Vec<TaskEvent> {
        let mut tasks = Vec::new();
        while let Some((some, delivery)) =
            self.next_bundle(capacity, if tasks.is_empty() { PATIENCE } else { QUIET }).await
        {
            self.settle_all(delivery, some.len()).await;
            tasks.extend(some);
        }
        tasks
    }

    /// Takes and settles so many, or a few more that came with the last.
    pub(crate) async fn take(&mut self, count: usize, capacity: u32) -> Vec<TaskEvent> {
        let mut tasks = Vec::new();
        while tasks.len() < count {
            let (some, delivery) = self.next_bundle(capacity, PATIENCE).await.expect("a task comes");
            self.settle_all(delivery, some.len()).await;
            tasks.extend(some);
        }
        tasks
    }
}

/// A task as the sdk makes it.
pub(crate) fn task(queue: &str, task_type: &str, priority: Priority) -> TaskEvent {
    let (queue, task_type) = (queue.parse().expect("a queue"), task_type.parse().expect("a type"));
    let mut task = TaskEvent::new(TaskId::generate(), task_type, queue, clock::now(), b"{}".to_vec());
    (task.priority, task.shard) = (priority, Shard::default());
    task
}
