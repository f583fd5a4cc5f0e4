//! Promise: what a task asked to be told of its end is told, whoever restarts in between.

use crate::outsider::{Outsider, header, json};
use crate::processes::Process;
use crate::receiver::{Receiver, Request};
use crate::tasks::{Bench, Echo, Flaky, Gated, How, echo, flaky, gated};
use crate::waits::{announced, drained, until};
use futures::StreamExt;
use jetlane::{Attempt, Callback, Ctx, Executor, Outcome, Priority, State, Task, TaskError, TaskId, TaskType};
use jetlane_callback::endpoint::{EndpointSettings, SecretText};
use jetlane_callback::signature::Secret;
use jetlane_callback::{Counts, Endpoints, Settings};
use jetlane_schemas::subject::callback_consumer;
use jetlane_service::health::Health;
use jetlane_testkit::{Kit, soon};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A follow-up of [`Echo`]: its body is the echo's output, a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Followed(String);

impl Task for Followed {
    const TYPE: &'static str = "test.followed";
    type Output = String;
}

async fn followed(task: Followed, Attempt(attempt): Attempt, State(bench): State<Bench>) -> Result<String, TaskError> {
    bench.began.lock().await.push((task.0.clone(), attempt));
    bench.beginning.notify_one();
    Ok(format!("after {}", task.0))
}

struct Rig {
    kit: Kit,
    outsider: Outsider,
    bench: Bench,
    counts: Arc<Counts>,
    secret: String,
}

impl Rig {
    async fn without_callbacks() -> Self {
        let (kit, bench) = (Kit::start().await, Bench::default());
        let executor = Executor::new(kit.client(), "tests").state(bench.clone());
        kit.serve(executor.task(echo).task(flaky).task(followed));
        announced(&kit, Followed::TYPE).await;
        let outsider = Outsider::connect(&kit.url()).await;
        Self { kit, outsider, bench, counts: Arc::default(), secret: Secret::generate() }
    }

    /// With a callback service that knows the endpoint `hook`.
    async fn start(url: Option<&str>) -> Self {
        let rig = Self::without_callbacks().await;
        let endpoint = |url: &str| EndpointSettings {
            url: url.into(),
            secrets: vec![SecretText::from(rig.secret.clone())],
            allow_private_addresses: true,
        };
        let endpoints = url.map(|url| ("hook".to_owned(), endpoint(url))).into_iter().collect();
        let endpoints =
            Endpoints::new(&Settings { endpoints, subjects: vec![">".into()], ..Settings::default() }).expect("valid");
        let (client, counts) = (rig.kit.another_client().await, Arc::clone(&rig.counts));
        rig.kit.keep(tokio::spawn(async move {
            let served =
                jetlane_callback::serve(client, endpoints, counts, Health::default(), CancellationToken::new());
            served.await.expect("the callback service runs");
        }));
        rig
    }

    /// The variables of a callback service that is a process.
    fn variables(&self, url: &str) -> String {
        format!("{{ hook = {{ url = {url:?}, secrets = [{:?}], allow_private_addresses = true }} }}", self.secret)
    }

    /// Checks the signature and returns the body.
    fn verified(&self, request: &Request) -> serde_json::Value {
        let webhook = standardwebhooks::Webhook::new(&self.secret).expect("valid");
        let at = request.headers["webhook-timestamp"].parse().expect("seconds");
        let signature = webhook.sign(&request.headers["webhook-id"], at, request.body.as_bytes()).expect("signs");
        assert!(request.headers["webhook-signature"].split(' ').any(|given| given == signature), "{request:?}");
        assert_eq!(request.line, "POST /hook?a=1 HTTP/1.1");
        serde_json::from_str(&request.body).expect("JSON")
    }
}

fn echoing(text: &str) -> Echo {
    Echo { text: text.into() }
}

fn failing() -> Flaky {
    Flaky { failures: 9, how: How::Permanent }
}

fn to(subject: &str) -> Callback {
    Callback::Subject { subject: subject.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_receives_the_completion_with_all_that_tells_what_it_is_of() {
    let rig = Rig::start(None).await;
    let mut billing = rig.outsider.listen("billing.done").await;
    let submit = rig.kit.client().submit(echoing("hello")).callback(to("billing.done")).tenant("acme");
    let handle = submit.await.expect("accepted");
    let message = soon(billing.next()).await.expect("a callback");
    assert_eq!(message.payload.as_ref(), br#""hello""#);
    let headers = message.headers.expect("headers");
    let value = |name: &str| headers.get(name).map_or("", |value| value.as_str()).to_owned();
    assert_eq!(value("ce-jetlaneid"), handle.id().as_str());
    assert_eq!(value("ce-jetlanetype"), Echo::TYPE);
    assert_eq!((value("ce-jetlaneoutcome"), value("ce-jetlanetenant")), ("succeeded".into(), "acme".into()));
    assert_eq!((value("ce-id"), value("ce-type")), (handle.id().to_string(), "jetlane.completion".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follow_up_receives_the_output_the_priority_and_the_id_of_its_parent() {
    let rig = Rig::start(None).await;
    let mut chained = rig.outsider.listen("chain.done").await;
    let next = Callback::Task {
        task_type: Followed::TYPE.parse().expect("valid"),
        priority: None,
        callbacks: vec![to("chain.done")],
    };
    let submit = rig.kit.client().submit(echoing("first")).priority(Priority::High).callback(next);
    let parent = submit.await.expect("accepted").id().clone();
    assert_eq!(rig.bench.begun(1).await, [("first".to_owned(), 1)]);
    let id = TaskId::of_follow_up(&Echo::TYPE.parse().expect("valid"), &parent, 0);
    let mut handle = rig.kit.client().handle::<Followed>(id.clone()).expect("valid");
    let done = soon(handle.completion()).await.expect("completes");
    assert_eq!((done.outcome, done.priority, done.parent), (Outcome::Succeeded, Priority::High, Some(parent)));
    // The follow-up's own callback.
    let message = soon(chained.next()).await.expect("a callback");
    assert_eq!(message.payload.as_ref(), br#""after first""#);
    drained(rig.kit.client().bus(), &[]).await;
}

/// Its output is the baggage that its handler sees.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Carries(String);

impl Task for Carries {
    const TYPE: &'static str = "test.carries";
    type Output = String;
}

async fn carries(_: Carries, ctx: Ctx) -> Result<String, TaskError> {
    Ok(ctx.headers().get("baggage").unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn baggage_of_a_submission_reaches_its_handler_and_its_follow_ups_cut_by_whole_members() {
    let rig = Rig::start(None).await;
    rig.kit.serve(Executor::new(rig.kit.client(), "carriers").task(carries));
    announced(&rig.kit, Carries::TYPE).await;
    let task_type: TaskType = Carries::TYPE.parse().expect("valid");
    let next = |callbacks| Callback::Task { task_type: task_type.clone(), priority: None, callbacks };
    // More than 8 KiB, and more than all headers of a task may have together.
    let members: Vec<String> = (0..40).map(|number| format!("k{number}={};p=1", "v".repeat(600))).collect();
    let kept = members[..13].join(",");
    let client = rig.kit.client();
    let by_sdk =
        client.submit(Carries(String::new())).header("Baggage", members.join(", ")).callback(next(vec![next(vec![])]));
    let by_sdk = by_sdk.await.expect("accepted").id().clone();
    let chain = serde_json::to_string(&[next(vec![])]).expect("JSON");
    let headers =
        [("ce-id", "a-name-of-twenty-letters"), ("baggage", "a=1, b=2;p"), ("ce-jetlanecallbacks", chain.as_str())];
    rig.outsider.publish("jetlane.submit.test.carries", &headers, r#""""#).await;
    for (first, follow_ups, expected) in
        [(by_sdk, 2, kept.as_str()), (TaskId::new("a-name-of-twenty-letters").expect("valid"), 1, "a=1,b=2;p")]
    {
        let mut id = first;
        for depth in 0..=follow_ups {
            let mut handle = client.handle::<Carries>(id.clone()).expect("valid");
            let done = soon(handle.completion()).await.expect("completes");
            let seen: String = serde_json::from_slice(&done.body).expect("a text");
            assert_eq!((done.outcome, seen.as_str()), (Outcome::Succeeded, expected), "{id} at depth {depth}");
            id = TaskId::of_follow_up(&task_type, &id, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_signed_and_comes_again_under_the_same_id_when_the_receiver_failed() {
    let mut receiver = Receiver::start(&[500]).await;
    let rig = Rig::start(Some(&receiver.url)).await;
    let handle = rig.kit.client().submit(echoing("hook me")).webhook("hook").await.expect("accepted");
    let (first, second) = (receiver.next().await, receiver.next().await);
    for request in [&first, &second] {
        let body = rig.verified(request);
        assert_eq!((body["id"].as_str(), body["type"].as_str()), (Some(handle.id().as_str()), Some(Echo::TYPE)));
        assert_eq!((body["outcome"].as_str(), body["output"].as_str()), (Some("succeeded"), Some("hook me")));
    }
    assert_eq!(first.headers["webhook-id"], second.headers["webhook-id"]);
    until("the callbacks are delivered", async || rig.counts.delivered() == 1).await;
    assert!(!receiver.has_more(), "what was taken is not sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_task_is_told_of_and_has_no_follow_up() {
    let mut receiver = Receiver::start(&[]).await;
    let rig = Rig::start(Some(&receiver.url)).await;
    let mut told = rig.outsider.listen("told").await;
    let submit = rig.kit.client().submit(failing()).then::<Followed>().webhook("hook").callback(to("told"));
    let parent = submit.await.expect("accepted").id().clone();
    let body = rig.verified(&receiver.next().await);
    assert_eq!((body["outcome"].as_str(), body["error"]["code"].as_str()), (Some("failed"), Some("no_use")));
    let message = soon(told.next()).await.expect("a callback");
    let headers = message.headers.expect("headers");
    assert_eq!(headers.get("ce-jetlaneoutcome").map(|value| value.as_str()), Some("failed"));
    // All three are dealt with, and no follow-up came of it.
    until("the callbacks are delivered", async || rig.counts.delivered() == 3).await;
    drained(rig.kit.client().bus(), &[]).await;
    let id = TaskId::of_follow_up(&Flaky::TYPE.parse().expect("valid"), &parent, 0);
    let follow_up = rig.kit.client().handle::<Followed>(id).expect("valid");
    assert!(follow_up.look().await.expect("reads").is_none());
    assert!(!rig.bench.began.lock().await.iter().any(|(text, _)| text != "flaky"), "a follow-up ran");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_a_cancelled_and_an_expired_task_are_told_of() {
    let rig = Rig::start(None).await;
    let mut told = rig.outsider.listen("told.*").await;
    let bad = rig.kit.client().submit_json(Echo::TYPE, b"{}".to_vec()).callback(to("told.rejected"));
    bad.await.expect("accepted");
    let past = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    rig.kit.client().submit(echoing("x")).deadline(past).callback(to("told.expired")).await.expect("accepted");
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let message = soon(told.next()).await.expect("a callback");
        let headers = message.headers.expect("headers");
        outcomes.push((message.subject.to_string(), headers.get("ce-jetlaneoutcome").expect("told").to_string()));
    }
    outcomes.sort();
    let expected = [("told.expired", "expired"), ("told.rejected", "rejected")];
    assert_eq!(outcomes, expected.map(|(subject, outcome)| (subject.to_owned(), outcome.to_owned())));
}

/// The names of the callbacks of this many cancelled tasks, and the tenants that they tell.
async fn cancelled(told: &mut async_nats::Subscriber, count: usize) -> Vec<(String, String)> {
    let mut cancelled = Vec::new();
    for _ in 0..count {
        let message = soon(told.next()).await.expect("a callback");
        let headers = message.headers.expect("headers");
        assert_eq!(headers.get("ce-jetlaneoutcome").map(|value| value.as_str()), Some("cancelled"));
        let tenant = headers.get("ce-jetlanetenant").map_or("", |value| value.as_str()).to_owned();
        cancelled.push((message.subject.trim_start_matches("told.").to_owned(), tenant));
    }
    cancelled.sort();
    cancelled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_of_a_cancelled_task_follow_wherever_it_was_and_whoever_cancelled_it() {
    let (rig, bench) = (Rig::start(None).await, Bench::default());
    let executor = Executor::new(rig.kit.client(), "gated").state(bench.clone()).slots(1).prefetch(1).task(gated);
    rig.kit.serve(executor);
    announced(&rig.kit, Gated::TYPE).await;
    let mut told = rig.outsider.listen("told.*").await;
    let submit = |name: &str| {
        let submit = rig.kit.client().submit(Gated { text: name.into() }).tenant("acme");
        submit.callback(to(&format!("told.{name}")))
    };
    let running = submit("running").await.expect("accepted");
    bench.begun(1).await;
    let behind = submit("behind").await.expect("accepted");
    let bus = rig.kit.client().bus();
    until("both have left the dispatcher", async || {
        bus.subject_counts("JETLANE_LANES", ">").await.expect("counts").values().sum::<u64>() == 2
    })
    .await;
    let waiting = submit("waiting").await.expect("accepted");
    let delayed = submit("delayed").delay(std::time::Duration::from_secs(3_600)).await.expect("accepted");
    let elsewhere = rig.kit.another_client().await;
    for handle in [&delayed, &waiting, &behind, &running] {
        // Another process knows no more than the id.
        let handle = elsewhere.handle::<Gated>(handle.id().clone()).expect("valid");
        assert_eq!(handle.cancel().await.expect("cancels"), Outcome::Cancelled);
    }
    let names = ["behind", "delayed", "running", "waiting"];
    assert_eq!(cancelled(&mut told, 4).await, names.map(|name| (name.to_owned(), "acme".to_owned())));
    drained(bus, &[]).await;
    until("the callbacks are delivered", async || rig.counts.delivered() == 4).await;
    // Repeated, it tells nobody twice.
    assert_eq!(delayed.cancel().await.expect("cancels"), Outcome::Cancelled);
    rig.kit.client().submit(echoing("last")).callback(to("told.last")).await.expect("accepted");
    until("the last one is delivered", async || rig.counts.delivered() == 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_of_a_task_that_is_cancelled_while_a_client_without_an_sdk_has_it_follow() {
    let rig = Rig::start(None).await;
    rig.outsider.announce("test.plain", r#"{"queue":"plain"}"#).await;
    announced(&rig.kit, "test.plain").await;
    let lane = rig.outsider.lane("plain").await;
    let mut told = rig.outsider.listen("told.*").await;
    let submit = rig.kit.client().submit_json("test.plain", b"1".to_vec()).callback(to("told.plain"));
    let handle = submit.await.expect("accepted");
    let task = soon(async {
        loop {
            let batch = lane.batch().max_messages(1).expires(std::time::Duration::from_secs(1)).messages().await;
            if let Some(task) = batch.expect("pulls").next().await {
                return task.expect("a task");
            }
        }
    })
    .await;
    assert_eq!(handle.cancel().await.expect("cancels"), Outcome::Cancelled);
    // It finds that the task has its completion, and is done with it.
    task.ack().await.expect("acked");
    assert_eq!(cancelled(&mut told, 1).await, [("plain".to_owned(), String::new())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_without_callbacks_triggers_nothing() {
    let mut receiver = Receiver::start(&[]).await;
    let rig = Rig::start(Some(&receiver.url)).await;
    for number in 0..20 {
        let handle = rig.kit.client().submit(echoing(&number.to_string())).await.expect("accepted");
        soon(handle.into_future()).await.expect("succeeds");
    }
    // Read in order: once this one is delivered, those before it have been dealt with.
    rig.kit.client().submit(echoing("last")).webhook("hook").await.expect("accepted");
    assert_eq!(rig.verified(&receiver.next().await)["output"].as_str(), Some("last"));
    until("the callbacks are delivered", async || rig.counts.delivered() == 1).await;
    assert!(!receiver.has_more());
    assert_eq!((rig.counts.again(), rig.counts.dead()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_that_can_never_be_delivered_is_kept_with_the_reason() {
    let rig = Rig::start(None).await;
    let handle = rig.kit.client().submit(echoing("x")).webhook("nobody").await.expect("accepted");
    let subject = format!("jetlane.dead_callback.{}.{}.0", Echo::TYPE, handle.id());
    let dead = rig.outsider.first("JETLANE_DEAD", &subject).await;
    assert!(header(&dead, "ce-jetlanereason").contains("nobody"), "{:?}", dead.headers);
    assert_eq!(json(&dead), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_of_anybodys_with_a_hostile_target_reaches_nobody() {
    let rig = Rig::start(None).await;
    let mut tasks = rig.outsider.listen("jetlane.submit.>").await;
    let hostile = r#"[{"kind":"subject","subject":"jetlane.submit.test.echo"}]"#;
    // As if such a client had been given tasks of the type.
    let registry = rig.kit.client().bus().bucket("jetlane_registry").await.expect("there");
    registry.put("plain.test.echo", &true).await.expect("put");
    let headers = [("ce-jetlaneoutcome", "succeeded"), ("ce-jetlanecallbacks", hostile)];
    rig.outsider.publish("jetlane.done.test.echo.s99", &headers, r#"{"text":"x"}"#).await;
    rig.outsider.first("JETLANE_DEAD", "jetlane.dead_callback.test.echo.s99.0").await;
    assert!(futures::FutureExt::now_or_never(tasks.next()).is_none(), "a callback is a back door");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_service_that_is_killed_delivers_once_it_is_back() {
    let mut receiver = Receiver::start(&[500]).await;
    let rig = Rig::without_callbacks().await;
    let endpoints = rig.variables(&receiver.url);
    let variables = [("JETLANE_CALLBACK_ENDPOINTS", endpoints.as_str())];
    let start = || Process::service("callback", &rig.kit.url(), &variables);
    let mut service = start();
    rig.kit.client().submit(echoing("retried")).webhook("hook").await.expect("accepted");
    let first = receiver.next().await;
    // What follows from the failure is stored: as a schedule of the broker's.
    let bus = rig.kit.client().bus();
    let schedules = "jetlane.schedule.callback.>";
    until("it is scheduled", async || bus.subject_counts("JETLANE_TIME", schedules).await.expect("counts").len() == 1)
        .await;
    service.kill().await;
    let missed = rig.kit.client().submit(echoing("missed")).webhook("hook").await.expect("accepted");
    soon(missed.into_future()).await.expect("succeeds");
    let _service = start();
    let mut told = Vec::new();
    for _ in 0..2 {
        let request = receiver.next().await;
        let output = rig.verified(&request)["output"].as_str().expect("text").to_owned();
        told.push((
            output.clone(),
            output != "retried" || request.headers["webhook-id"] == first.headers["webhook-id"],
        ));
    }
    told.sort();
    assert_eq!(told, [("missed".to_owned(), true), ("retried".to_owned(), true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_a_client_without_an_sdk_ran_is_called_back_and_its_submitter_hears_of_it() {
    let rig = Rig::start(None).await;
    rig.outsider.announce("test.plain", r#"{"queue":"plain"}"#).await;
    announced(&rig.kit, "test.plain").await;
    let lane = rig.outsider.lane("plain").await;
    let mut told = rig.outsider.listen("told.plain").await;
    let submit = rig.kit.client().submit_json("test.plain", b"1".to_vec()).callback(to("told.plain"));
    let handle = submit.await.expect("accepted");
    let task = soon(async {
        loop {
            let batch = lane.batch().max_messages(1).expires(std::time::Duration::from_secs(1)).messages().await;
            if let Some(task) = batch.expect("pulls").next().await {
                return task.expect("a task");
            }
        }
    })
    .await;
    let callbacks = header(&task, "ce-jetlanecallbacks").to_owned();
    let subject = format!("jetlane.done.test.plain.{}", handle.id());
    let headers = [("ce-jetlaneoutcome", "succeeded"), ("ce-jetlanecallbacks", callbacks.as_str())];
    rig.outsider.publish(&subject, &headers, "2").await;
    task.ack().await.expect("acked");
    assert_eq!(soon(handle.into_future()).await.expect("succeeds").get(), "2");
    let message = soon(told.next()).await.expect("a callback");
    assert_eq!(&message.payload[..], b"2");
    until("the callback is delivered", async || rig.counts.delivered() == 1).await;

    // One that such a client never saw is stored and called back by the dispatcher; its completion is read, too.
    let past = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    let expiring = rig.kit.client().submit_json("test.plain", b"3".to_vec()).deadline(past);
    expiring.callback(to("told.plain")).await.expect("accepted");
    let message = soon(told.next()).await.expect("a callback");
    assert_eq!(message.headers.expect("headers").get("ce-jetlaneoutcome").map(|v| v.as_str()), Some("expired"));
    let bus = rig.kit.client().bus();
    let plain = callback_consumer(&"test.plain".parse().expect("valid"));
    until("both streams are read", async || {
        let mut open = 0;
        for (stream, consumer) in [("JETLANE_DONE", plain.as_str()), ("JETLANE_TIME", "callback")] {
            let backlog = bus.backlog(stream, consumer).await.expect("reads").expect("a consumer");
            open += backlog.pending + backlog.unanswered;
        }
        open == 0
    })
    .await;
    assert_eq!(rig.counts.delivered(), 2, "each once");
}
