//! A private server, an executor, and the test in the place of the dispatcher.

use jetlane::{Client, Completion, Executor, Outcome, QueueEntry};
use jetlane_bus::local::{self, Options, Server};
use jetlane_bus::publish::Expect;
use jetlane_bus::topology::Settings as Streams;
use jetlane_bus::{Bus, Connect, Outgoing, Subscription, clock};
use jetlane_executor::{Settings, executor};
use jetlane_schemas::frame::{Credit, bundle_message_id, decode_bundle, encode_bundle};
use jetlane_schemas::subject::{Lane, LaneKind};
use jetlane_schemas::{FitEntry, Headers, Hop, QueueName, TaskEvent, TaskId, TaskType, subject};
use serde_json::Value;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Stage {
    pub(crate) bus: Bus,
    client: Client,
    stored: Subscription,
    drain: CancellationToken,
    running: JoinHandle<Result<(), jetlane::Error>>,
    /// The folder for pictures of the reference executor.
    pub(crate) pictures: tempfile::TempDir,
    // Ends with the stage.
    _server: Server,
}

impl Stage {
    /// With the reference executor.
    pub(crate) async fn open() -> Self {
        let pictures = tempfile::tempdir().expect("a folder");
        let settings = Settings { pictures_root: Some(pictures.path().to_owned()), ..Settings::default() };
        let stage = Self::with(|client| executor(client, &settings).expect("HTTP can be spoken")).await;
        Self { pictures, ..stage }
    }

    /// With an executor of the test's own.
    pub(crate) async fn with<S>(made: impl FnOnce(&Client) -> Executor<S>) -> Self
    where
        S: Clone + Send + Sync + 'static,
    {
        let binary = local::find(|line| eprintln!("{line}")).await.expect("a nats-server");
        let server = Server::start(&binary, Options::default()).await.expect("started");
        let bus = Bus::connect(&Connect::to(server.url(), "test")).await.expect("connected");
        let streams = Streams { done_republished: true, ..Streams::default() };
        bus.ensure(&streams).await.expect("the streams are made");
        let stored = bus.subscribe(&format!("{}>", subject::STORED_PREFIX)).await.expect("subscribed");
        let client = Client::connect(server.url()).await.expect("connected");
        let (drain, running) = start(made(&client));
        let pictures = tempfile::tempdir().expect("a folder");
        Self { bus, client, stored, drain, running, pictures, _server: server }
    }

    /// Ends the executor in the middle of whatever it does.
    pub(crate) async fn crash(&mut self) {
        self.running.abort();
        let _ended = (&mut self.running).await;
    }

    /// Starts another executor in the place of one that is gone.
    pub(crate) async fn serve<S>(&mut self, made: impl FnOnce(&Client) -> Executor<S>)
    where
        S: Clone + Send + Sync + 'static,
    {
        self.client = Client::over(self.bus.clone()).await;
        (self.drain, self.running) = start(made(&self.client));
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn dispatch(&self, task_type: &str, payload: &Value) -> TaskEvent {
        let task = task(task_type, payload);
        self.put(&task).await;
        task
    }

    /// Puts a task on the lane of its fit, as a dispatcher does.
    pub(crate) async fn put(&self, task: &TaskEvent) {
        self.put_all(std::slice::from_ref(task)).await;
    }

    /// Puts tasks on the lane of the first of them, in one message.
    pub(crate) async fn put_all(&self, tasks: &[TaskEvent]) {
        let lane = subject::bundle(&tasks[0].queue, tasks[0].priority, &tasks[0].fit);
        let out = Outgoing {
            subject: lane.clone(),
            headers: Headers::new(),
            body: encode_bundle(tasks).expect("small").into(),
            message_id: Some(bundle_message_id(Hop::Lane, tasks.iter())),
            expect: Expect::Anything,
        };
        self.bus.publish(out).await.expect("published").or_refused(&lane).expect("stored");
    }

    /// Hears the executor's announcements from now on.
    pub(crate) async fn credits(&self) -> Credits {
        let subject = subject::credit(&QueueName::default_queue());
        Credits(self.bus.subscribe(&subject).await.expect("subscribed"))
    }

    /// Hears what goes back to its queue from now on.
    pub(crate) async fn returns(&self) -> Returns {
        Returns(self.bus.subscribe(subject::DUE_ALL).await.expect("subscribed"))
    }

    /// Hears what is to go back to its queue later, from now on.
    pub(crate) async fn schedules(&self) -> Returns {
        Returns(self.bus.subscribe(subject::SCHEDULE_ALL).await.expect("subscribed"))
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

    /// Waits until the executor pulls the lane of this task.
    pub(crate) async fn pulled(&self, task: &TaskEvent) {
        let (queue, priority, fit) = (task.queue.clone(), task.priority, task.fit.clone());
        let consumer = Lane { kind: LaneKind::Bundle, queue, priority, fit }.consumer();
        let pulled = async {
            loop {
                let backlog = self.bus.backlog(subject::STREAM_LANES, &consumer).await.expect("told");
                if backlog.is_some_and(|backlog| backlog.waiting_pulls > 0) {
                    return;
                }
            }
        };
        soon(pulled).await;
    }

    /// Declares the fits of the executor's queue.
    pub(crate) async fn declare(&self, fits: &[FitEntry]) {
        let registry = self.bus.bucket(subject::BUCKET_REGISTRY).await.expect("there");
        let entry = QueueEntry { fits: fits.to_vec(), ..QueueEntry::default() };
        let key = subject::registry_queue(&QueueName::default_queue());
        registry.put(&key, &entry).await.expect("stored");
    }

    pub(crate) async fn completion(&mut self) -> Completion {
        let message = self.stored.next().await.expect("a completion");
        let (task_type, id) = subject::parse_stored(&message.subject).expect("a completion's subject");
        Completion::from_message(&subject::done(&task_type, &id), &message.headers, &message.body).expect("readable")
    }

    /// Sends a task and waits for what comes of it.
    pub(crate) async fn run(&mut self, task_type: &str, payload: Value) -> (Outcome, Value) {
        let task = self.dispatch(task_type, &payload).await;
        let completion = self.completion().await;
        assert_eq!(completion.id, task.id);
        (completion.outcome, serde_json::from_slice(&completion.body).expect("JSON"))
    }

    pub(crate) async fn close(self) {
        self.drain.cancel();
        self.running.await.expect("no panic").expect("no error");
    }
}

fn start<S>(executor: Executor<S>) -> (CancellationToken, JoinHandle<Result<(), jetlane::Error>>)
where
    S: Clone + Send + Sync + 'static,
{
    let drain = CancellationToken::new();
    let until = drain.clone();
    (drain, tokio::spawn(async move { executor.run_until(until).await }))
}

/// A task of the default queue.
pub(crate) fn task(task_type: &str, payload: &Value) -> TaskEvent {
    let task_type = TaskType::new(task_type).expect("valid");
    let payload = payload.to_string().into_bytes();
    TaskEvent::new(TaskId::generate(), task_type, QueueName::default_queue(), clock::now(), payload)
}

/// The executor's announcements.
pub(crate) struct Credits(Subscription);

impl Credits {
    pub(crate) async fn next(&mut self) -> Credit {
        let message = soon(self.0.next()).await.expect("the connection is open");
        Credit::decode(&message.body).expect("a credit")
    }

    /// The next announcement that is as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Credit) -> bool) -> Credit {
        soon(async {
            loop {
                let credit = self.next().await;
                if wanted(&credit) {
                    return credit;
                }
            }
        })
        .await
    }
}

/// What goes back to its queue.
pub(crate) struct Returns(Subscription);

impl Returns {
    pub(crate) async fn next(&mut self) -> TaskEvent {
        let message = soon(self.0.next()).await.expect("the connection is open");
        decode_bundle(&message.body).expect("a bundle").remove(0)
    }

    /// What has come already.
    pub(crate) async fn now(&mut self) -> Option<TaskEvent> {
        let message = tokio::time::timeout(Duration::ZERO, self.0.next()).await.ok()??;
        Some(decode_bundle(&message.body).expect("a bundle").remove(0))
    }
}

/// Waits for something for a time after which a test counts as stuck.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it happens in time")
}
