//! What a submitter asks and what it tells, against a real nats-server. The test answers as the leader.
#![allow(missing_docs, reason = "the names of tests are their documents")]

use jetlane::{Admit, Answer, Client, Error, Expectation, Needs, Priority, QueueName, TaskId, TaskType, TypeEntry};
use jetlane_bus::local::{self, Options, Server};
use jetlane_bus::topology::Settings;
use jetlane_bus::{Bus, Connect, Subscription, clock};
use jetlane_schemas::intake::{self, Message};
use jetlane_schemas::question::Question;
use jetlane_schemas::subject::{self, BUCKET_REGISTRY, STREAM_TASKS};
use jetlane_schemas::{Headers, Micros};
use std::time::{Duration, SystemTime};

struct Stage {
    client: Client,
    bus: Bus,
    // Ends with the stage.
    _server: Server,
}

fn queue() -> QueueName {
    QueueName::new("pictures").expect("valid")
}

impl Stage {
    /// A server on which `image.thumbnail` is announced.
    async fn open() -> Self {
        let binary = local::find(|line| eprintln!("{line}")).await.expect("a nats-server");
        let server = Server::start(&binary, Options::default()).await.expect("started");
        let bus = Bus::connect(&Connect::to(server.url(), "test")).await.expect("connected");
        bus.ensure(&Settings::default()).await.expect("the streams are made");
        let registry = bus.bucket(BUCKET_REGISTRY).await.expect("made");
        let key = subject::registry_type(&TaskType::new("image.thumbnail").expect("valid"));
        registry.put(&key, &TypeEntry::new(queue())).await.expect("announced");
        let client = Client::connect(server.url()).await.expect("connected");
        Self { client, bus, _server: server }
    }

    async fn leader(&self) -> Subscription {
        self.bus.subscribe(&subject::ask(&queue())).await.expect("subscribed")
    }

    /// Answers one question.
    async fn answer(&self, leader: &mut Subscription, answer: &Answer) -> Question {
        let message = soon(leader.next()).await.expect("a question");
        let body = serde_json::to_vec(answer).expect("JSON");
        let reply = message.reply.expect("an answer is wanted");
        self.bus.send(reply, Headers::new(), body.into()).await.expect("answered");
        serde_json::from_slice(&message.body).expect("a question")
    }

    fn strict(&self) -> jetlane::Submit<Box<serde_json::value::RawValue>> {
        self.client
            .submit_json("image.thumbnail", b"{}".to_vec())
            .deadline(SystemTime::now() + Duration::from_secs(60))
            .admit(Admit::Strict)
    }

    async fn stored(&self) -> u64 {
        self.bus.subject_counts(STREAM_TASKS, ">").await.expect("counted").values().sum()
    }
}

/// Waits for something for a time after which a test counts as stuck.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it happens in time")
}

fn expectation(meets_deadline: bool) -> Answer {
    let start = Some(Micros(1_900_000_000_000_000));
    Answer::Expectation(Expectation { start, finish: start, estimate_us: 5, ahead: 7, meets_deadline })
}

#[tokio::test]
async fn a_strict_task_that_would_be_late_is_not_stored_and_the_error_says_when_it_would_start() {
    let stage = Stage::open().await;
    let mut leader = stage.leader().await;
    let submit = stage.strict().tenant("ada").priority(Priority::High).size_key("large").cpu(1.5).resource("gpu", 1);
    let submit = submit.estimate(Duration::from_millis(40));
    let answer = expectation(false);
    let (refused, asked) = tokio::join!(submit.into_future(), stage.answer(&mut leader, &answer));
    let Question::Expect(asked) = asked else { panic!("{asked:?}") };
    assert_eq!(
        (asked.tenant.as_str(), asked.priority, asked.size_key.as_deref()),
        ("ada", Priority::High, Some("large"))
    );
    assert_eq!((asked.needs.cpu_milli, asked.needs.resources["gpu"], asked.estimate_us), (1_500, 1, Some(40_000)));
    assert!(asked.deadline.is_some());
    let refused = refused.expect_err("too late");
    assert!(matches!(&refused, Error::TooLate { expected, .. } if expected.ahead == 7), "{refused}");
    assert!(refused.to_string().contains("2030-03-17T17:46:40Z"), "{refused}");
    assert_eq!(stage.stored().await, 0);
}

#[tokio::test]
async fn a_strict_task_that_can_meet_its_deadline_is_submitted_and_so_is_one_without_a_deadline() {
    let stage = Stage::open().await;
    let mut leader = stage.leader().await;
    let answer = expectation(true);
    let (accepted, _) = tokio::join!(stage.strict().forget(), stage.answer(&mut leader, &answer));
    accepted.expect("accepted");
    let unasked = stage.client.submit_json("image.thumbnail", b"{}".to_vec()).admit(Admit::Strict);
    unasked.forget().await.expect("nothing to ask");
    assert_eq!(stage.stored().await, 2);
}

#[tokio::test]
async fn a_leader_that_is_asked_too_much_to_answer_judges_a_strict_task_when_it_reads_it() {
    let stage = Stage::open().await;
    let mut leader = stage.leader().await;
    let refusal = Answer::Refused { reason: "too many questions".into() };
    let (accepted, _) = tokio::join!(stage.strict().forget(), stage.answer(&mut leader, &refusal));
    accepted.expect("accepted");
    assert_eq!(stage.stored().await, 1);
}

#[tokio::test]
async fn without_a_leader_a_strict_task_is_not_stored_and_the_error_says_that_nobody_answered() {
    let stage = Stage::open().await;
    let nobody = stage.strict().forget().await.expect_err("nobody listens");
    assert!(nobody.to_string().contains("nobody answered for the queue pictures within 1000 ms"), "{nobody}");
    let _silent = stage.leader().await;
    let silent = stage.strict().forget().await.expect_err("it listens and does not answer");
    assert!(matches!(silent, Error::Unanswered { .. }), "{silent}");
    assert_eq!(stage.stored().await, 0);
}

#[tokio::test]
async fn the_expected_start_is_told_without_submitting() {
    let stage = Stage::open().await;
    let mut leader = stage.leader().await;
    let submit = stage.client.submit_json("image.thumbnail", b"{}".to_vec());
    let answer = expectation(true);
    let (expected, _) = tokio::join!(submit.expected(), stage.answer(&mut leader, &answer));
    assert_eq!(Answer::Expectation(expected.expect("answered")), answer);
    assert_eq!(stage.stored().await, 0);
}

#[tokio::test]
async fn an_explanation_is_the_leaders_and_a_refusal_is_an_error() {
    let stage = Stage::open().await;
    let mut leader = stage.leader().await;
    let id = TaskId::generate();
    let (queue, answer) = (queue(), Answer::Unheld { queue: queue(), dispatched: true });
    let (told, asked) = tokio::join!(stage.client.explain(&queue, &id), stage.answer(&mut leader, &answer));
    assert_eq!((told.expect("answered"), asked), (answer, Question::Explain { id: id.clone(), task_type: None }));
    let refusal = Answer::Refused { reason: "not like this".into() };
    let (told, _) = tokio::join!(stage.client.explain(&queue, &id), stage.answer(&mut leader, &refusal));
    let error = told.expect_err("refused");
    assert!(error.to_string().contains("not like this"), "{error}");
}

#[tokio::test]
async fn what_is_out_of_range_is_refused_before_anything_is_sent() {
    let stage = Stage::open().await;
    let submit = || stage.client.submit_json("image.thumbnail", b"{}".to_vec());
    for (option, refused) in [
        ("cpu", submit().cpu(f64::NAN)),
        ("needs", submit().label("a,b")),
        ("estimate", submit().estimate(Duration::ZERO)),
        ("size_key", submit().size_key("")),
    ] {
        let error = refused.forget().await.expect_err(option);
        assert!(matches!(&error, Error::Option(invalid) if invalid.option == option), "{error}");
    }
}

#[tokio::test]
async fn the_open_door_carries_every_option() {
    let stage = Stage::open().await;
    let mut door = stage.bus.subscribe("jetlane.submit.>").await.expect("subscribed");
    // The submission goes by another connection: an answer to this one proves that it has been subscribed.
    stage.stored().await;
    let submit = stage.client.submit_json("no.one", b"{}".to_vec()).estimate(Duration::from_micros(1_500));
    let submit = submit.size_key("large, very").memory(64).label("zone-a").resource("gpu", 2).admit(Admit::Strict);
    soon(submit.forget()).await.expect("it waits for somebody to announce its type");
    let message = soon(door.next()).await.expect("a submission");
    let (stored_at, headers, body) = (clock::now(), &message.headers, message.body.as_ref());
    let message = Message { stream_sequence: 1, stored_at, headers, body };
    let (task_type, entry) = (TaskType::new("no.one").expect("valid"), TypeEntry::new(queue()));
    let read = intake::read(&task_type, &entry, message, clock::parse_rfc3339).expect("well formed");
    let needs = Needs {
        memory_mib: 64,
        resources: [("gpu".to_owned(), 2)].into(),
        labels: ["zone-a".to_owned()].into(),
        ..Needs::default()
    };
    assert_eq!((read.size_key.as_deref(), read.needs, read.admit), (Some("large, very"), needs, Admit::Strict));
    assert_eq!(read.estimate_us, Some(2_000), "whole milliseconds, never none");
}
