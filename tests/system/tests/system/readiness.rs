//! Promise: `/readyz` says whether a service can do its work, and otherwise why not.

use crate::outsider::Outsider;
use crate::waits::{until, until_some};
use async_nats::jetstream::stream::Config as Stream;
use jetlane::{Client, Executor, Task, TaskError};
use jetlane_bus::local::Server;
use jetlane_bus::topology::Settings as Streams;
use jetlane_bus::{Bus, Connect};
use jetlane_schemas::QueueEntry;
use jetlane_schemas::subject::{BUCKET_REGISTRY, STREAM_DONE, STREAM_LANES, STREAM_TIME};
use jetlane_service::config::{Nats, Sources};
use jetlane_service::frame::{Frame, Service};
use jetlane_service::health::{Health, Readiness};
use jetlane_testkit::{PATIENCE, server, soon};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The services of a deployment in this process, each with the health that its probes would tell.
struct Deployment {
    server: Server,
    /// Dropped, they end.
    _services: JoinSet<()>,
    healths: Vec<(&'static str, Health)>,
}

const ALL: [&str; 3] = ["dispatcher", "executor", "callback"];

impl Deployment {
    async fn start(services: &[&'static str]) -> Self {
        let server = server().await;
        let (mut running, mut healths) = (JoinSet::new(), Vec::new());
        for name in services {
            let (health, frame) = frame(&server.url(), name);
            healths.push((*name, health));
            match *name {
                "dispatcher" => {
                    running.spawn(async { jetlane_dispatcher::serve(frame, <_>::default()).await.expect("runs") })
                }
                "executor" => {
                    running.spawn(async { jetlane_executor::serve(frame, <_>::default()).await.expect("runs") })
                }
                _ => running.spawn(async { jetlane_callback::run(frame, <_>::default()).await.expect("runs") }),
            };
        }
        Self { server, _services: running, healths }
    }

    async fn bus(&self) -> Bus {
        Bus::connect(&Connect::to(self.server.url(), "test")).await.expect("connected")
    }

    async fn outsider(&self) -> Outsider {
        Outsider::connect(&self.server.url()).await
    }

    /// Waits until every service is ready.
    async fn ready(&self) {
        for (name, health) in &self.healths {
            let ready = tokio::time::timeout(PATIENCE, health.wait_for(|now| *now == Readiness::Ready));
            assert!(ready.await.is_ok(), "{name} is not ready: {:?}", health.readiness());
        }
    }

    /// Waits until every service says that it is not ready, and why.
    async fn not_ready(&self, condition: &str, reason: &str) {
        for (name, health) in &self.healths {
            let says = |now: &Readiness| has(now, condition, reason);
            let told = tokio::time::timeout(PATIENCE, health.wait_for(says)).await;
            assert!(told.is_ok(), "{name} does not say {condition}: {reason}, but {:?}", health.readiness());
        }
    }
}

fn has(readiness: &Readiness, condition: &str, reason: &str) -> bool {
    let Readiness::NotReady(unmet) = readiness else { return false };
    unmet.iter().any(|unmet| unmet.condition == condition && unmet.reason.contains(reason))
}

fn frame(url: &str, name: &'static str) -> (Health, Frame) {
    let health = Health::default();
    let nats = Nats { url: url.to_owned(), ..Nats::default() };
    let service = Service { name, version: "0" };
    let (sources, drain) = (Sources::default(), CancellationToken::new());
    (health.clone(), Frame { service, sources, nats, health, drain, drain_time: std::time::Duration::from_secs(5) })
}

/// A stream that takes the subjects of another, so that nobody can make that one again.
async fn replace(outsider: &Outsider, name: &str, subjects: &str) {
    // Where a service makes a lost stream anew, it may be quicker.
    until("the subjects are taken", async || {
        let _absent = outsider.jetstream.delete_stream(name).await;
        let stream = Stream { name: "SQUATTER".into(), subjects: vec![subjects.into()], ..Stream::default() };
        outsider.jetstream.create_stream(stream).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn services_are_not_ready_while_the_broker_is_killed_and_ready_once_it_is_back() {
    let mut deployment = Deployment::start(&ALL).await;
    deployment.ready().await;
    deployment.server.kill().await;
    deployment.not_ready("broker", "lost").await;
    for (_, health) in &deployment.healths {
        assert_eq!(health.stalled(), Vec::<String>::new(), "a loop that waits for the broker is alive");
    }
    deployment.server.restart().await.expect("started again");
    deployment.ready().await;
    let client = Client::connect(deployment.server.url()).await.expect("connected");
    let echo = until_some("submitted", async || client.submit_json("jetlane.echo", b"1".to_vec()).await.ok()).await;
    soon(echo.into_future()).await.expect("a task that was submitted after the outage runs");
}

#[tokio::test]
async fn services_are_not_ready_while_a_stream_is_gone() {
    let deployment = Deployment::start(&ALL).await;
    deployment.ready().await;
    let outsider = deployment.outsider().await;
    replace(&outsider, STREAM_DONE, "jetlane.done.>").await;
    deployment.not_ready("streams", "JETLANE_DONE does not exist").await;
    outsider.jetstream.delete_stream("SQUATTER").await.expect("deleted");
    deployment.bus().await.ensure(&Streams::default()).await.expect("made again");
    deployment.ready().await;
}

#[tokio::test]
async fn dispatcher_is_not_ready_while_it_can_obtain_no_lease() {
    let deployment = Deployment::start(&["dispatcher"]).await;
    let bus = deployment.bus().await;
    deployment.ready().await;
    let registry = bus.bucket(BUCKET_REGISTRY).await.expect("opened");
    registry.put("queues.default", &QueueEntry::default()).await.expect("announced");
    until("it leads", async || bus.subject_counts("KV_jetlane_leases", ">").await.is_ok_and(|keys| !keys.is_empty()))
        .await;
    replace(&deployment.outsider().await, "KV_jetlane_leases", "$KV.jetlane_leases.>").await;
    deployment.not_ready("leases", "queue default").await;
}

#[tokio::test]
async fn executor_is_not_ready_until_it_is_announced_and_pulls_its_lanes() {
    let deployment = Deployment::start(&["executor"]).await;
    deployment.not_ready("announced", "registry does not exist").await;
    deployment.not_ready("lanes", "no lane is pulled yet").await;
    deployment.bus().await.ensure(&Streams::default()).await.expect("made");
    deployment.ready().await;
}

#[tokio::test]
async fn executor_is_not_ready_while_it_cannot_pull_though_it_has_room() {
    let deployment = Deployment::start(&["executor"]).await;
    let bus = deployment.bus().await;
    bus.ensure(&Streams::default()).await.expect("made");
    deployment.ready().await;
    let outsider = deployment.outsider().await;
    replace(&outsider, STREAM_LANES, "jetlane.bundle.>").await;
    deployment.not_ready("lanes", "cannot be made again").await;
    outsider.jetstream.delete_stream("SQUATTER").await.expect("deleted");
    bus.ensure(&Streams::default()).await.expect("made again");
    deployment.ready().await;
}

#[tokio::test]
async fn callback_service_is_not_ready_while_its_callbacks_cannot_be_read() {
    let deployment = Deployment::start(&["callback"]).await;
    let bus = deployment.bus().await;
    bus.ensure(&Streams::default()).await.expect("made");
    deployment.ready().await;
    let outsider = deployment.outsider().await;
    replace(&outsider, STREAM_TIME, "jetlane.callback.>").await;
    deployment.not_ready("callbacks", "the consumer callback cannot be made").await;
    outsider.jetstream.delete_stream("SQUATTER").await.expect("deleted");
    bus.ensure(&Streams::default()).await.expect("made again");
    deployment.ready().await;
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Nothing {}

impl Task for Nothing {
    const TYPE: &'static str = "test.nothing";
    type Output = ();
}

async fn nothing(_task: Nothing) -> Result<(), TaskError> {
    Ok(())
}

#[tokio::test]
async fn executor_without_work_gives_signs_of_life() {
    let server = server().await;
    let client = Client::connect(server.url()).await.expect("connected");
    client.bus().ensure(&Streams::default()).await.expect("made");
    let executor = Executor::new(&client, "tests").task(nothing);
    let status = executor.status();
    let served = tokio::spawn(executor.run_until(CancellationToken::new()));
    until("it pulls", async || status.report().pulling.is_ok()).await;
    let before = status.turns();
    until("its loop turns", async || status.turns() > before + 1).await;
    served.abort();
}
