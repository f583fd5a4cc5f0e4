//! A private nats-server with the project's streams, and the service on it.

use jetlane::Client;
use jetlane_bus::done::Completed;
use jetlane_bus::local::{self, Options, Server};
use jetlane_bus::topology::Settings as Streams;
use jetlane_bus::{Bus, Connect, Subscription};
use jetlane_callback::{Counts, Endpoints, Settings, serve};
use jetlane_schemas::header::{DELIVERY, REASON};
use jetlane_schemas::{
    Callback, Completion, Failure, Micros, Outcome, QueueName, RunToken, TaskEvent, TaskId, TaskType, intake, subject,
};
use jetlane_service::health::Health;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Stage {
    pub(crate) bus: Bus,
    // Ends with the stage.
    server: Server,
}

impl Stage {
    pub(crate) async fn open() -> Self {
        let binary = local::find(|line| eprintln!("{line}")).await.expect("a nats-server");
        let server = Server::start(&binary, Options::default()).await.expect("started");
        let bus = Bus::connect(&Connect::to(server.url(), "test")).await.expect("connected");
        bus.ensure(&Streams::default()).await.expect("the streams are made");
        Self { bus, server }
    }

    /// The service with a connection of its own, as a process would have it.
    pub(crate) fn start(&self, settings: &Settings) -> Running {
        let endpoints = Endpoints::new(settings).expect("valid endpoints");
        let (counts, drain, url) = (Arc::new(Counts::default()), CancellationToken::new(), self.server.url());
        let work = {
            let (counts, drain) = (counts.clone(), drain.clone());
            async move {
                let client = Client::connect(url).await.expect("connected");
                serve(client, endpoints, counts, Health::default(), drain).await
            }
        };
        Running { counts, drain, work: tokio::spawn(work) }
    }

    pub(crate) async fn complete(&self, completion: &Completion) {
        let completed = self.bus.complete(completion).await.expect("stored");
        assert!(matches!(completed, Completed::Won), "{completed:?}");
    }

    /// Stores callbacks that are due now, of one webhook each, many at once.
    pub(crate) async fn due(&self, parents: impl Iterator<Item = Completion>) {
        let out = |parent: Completion| {
            let mut headers = parent.headers("");
            headers.push(DELIVERY, "0");
            let subject = subject::callback(&parent.task_type, &parent.id, 0);
            let expect = jetlane_bus::publish::Expect::Anything;
            jetlane_bus::Outgoing { subject, headers, body: parent.body.into(), message_id: None, expect }
        };
        for stored in self.bus.publish_all(parents.map(out).collect()).await {
            stored.expect("an answer").or_refused("callbacks").expect("stored");
        }
    }

    /// Callbacks that the service has been given and has not acked.
    pub(crate) async fn unanswered(&self) -> u64 {
        let backlog = self.bus.backlog(subject::STREAM_TIME, "callback").await.expect("read").expect("a consumer");
        backlog.unanswered + backlog.pending
    }
}

pub(crate) struct Running {
    counts: Arc<Counts>,
    drain: CancellationToken,
    work: JoinHandle<Result<(), jetlane_callback::Error>>,
}

impl Running {
    /// Tells the service to drain, without waiting.
    pub(crate) fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends the service at once, as a crash would.
    pub(crate) fn abort(self) {
        self.work.abort();
    }

    /// Drains the service: what it has in hand is finished.
    pub(crate) async fn stop(self) -> Arc<Counts> {
        self.drain.cancel();
        self.work.await.expect("no panic").expect("no error");
        self.counts
    }
}

/// Waits for this many dead letters; their reasons by subject.
pub(crate) async fn reasons(dead: &mut Subscription, count: usize) -> BTreeMap<String, String> {
    let mut reasons = BTreeMap::new();
    while reasons.len() < count {
        let letter = dead.next().await.expect("a dead letter");
        let reason = letter.headers.get(REASON).expect("a reason");
        reasons.insert(letter.subject, intake::percent_decode(reason));
    }
    reasons
}

pub(crate) fn completion(id: &str, outcome: Outcome, body: &[u8], callbacks: Vec<Callback>) -> Completion {
    let mut task = TaskEvent::new(
        TaskId::new(id).expect("valid"),
        TaskType::new("image.thumbnail").expect("valid"),
        QueueName::default_queue(),
        Micros(1_700_000_000_000_000),
        Vec::new(),
    );
    task.callbacks = callbacks;
    let mut completion = Completion::of(&task, outcome, Micros(1_700_000_000_250_000));
    completion.attempt = 1;
    completion.token = Some(RunToken::draw());
    if outcome == Outcome::Succeeded {
        completion.body = body.to_vec();
        return completion;
    }
    completion.with_failure(Failure::new("handler", String::from_utf8_lossy(body)))
}
