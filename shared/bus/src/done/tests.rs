//! Completions against a real server: one a task, however many go together and whatever becomes of the server.

use super::*;
use crate::local::Server;
use crate::local::stage::place;
use crate::topology::Settings;
use async_nats::jetstream::stream::Config;
use futures::{FutureExt, StreamExt};
use jetlane_schemas::subject::DONE_ALL;
use jetlane_schemas::{Outcome, QueueName, RunToken};

/// As many as go together, and some more.
const COUNT: usize = 64;

fn completions(outcome: Outcome) -> Vec<Completion> {
    let of = |number| {
        let (id, task_type) = (TaskId::new(format!("s{number}")), TaskType::new("a.b").expect("valid"));
        let queue = QueueName::default_queue();
        let task = TaskEvent::new(id.expect("valid"), task_type, queue, clock::now(), b"{}".to_vec());
        Completion { token: Some(RunToken::draw()), ..Completion::of(&task, outcome, clock::now()) }
    };
    (0..COUNT).map(of).collect()
}

async fn each_once(bus: &Bus) {
    let counts = bus.subject_counts(STREAM_DONE, DONE_ALL).await.expect("read");
    assert_eq!((counts.len(), counts.values().sum::<u64>()), (COUNT, COUNT as u64));
}

/// Changes a setting of DONE behind everybody's back.
async fn edit_done(bus: &Bus, edit: impl FnOnce(&mut Config)) {
    let mut config = bus.find_stream(STREAM_DONE).await.expect("read").expect("there");
    edit(&mut config);
    bus.jetstream.update_stream(config).await.expect("taken");
}

/// What the server says to publishes from now on.
async fn answers(server: &Server) -> (async_nats::Client, async_nats::Subscriber) {
    let client = async_nats::connect(server.url()).await.expect("connected");
    let answers = client.subscribe("_INBOX.>").await.expect("subscribed");
    client.flush().await.expect("flushed");
    // The server has read the subscription once it answers what came after it.
    client.request("$JS.API.INFO", "".into()).await.expect("answered");
    (client, answers)
}

/// How many of them were about single publishes and about batches, as heard by now.
async fn told(client: &async_nats::Client, answers: &mut async_nats::Subscriber) -> (usize, usize) {
    client.request("$JS.API.INFO", "".into()).await.expect("answered");
    let heard: Vec<_> = std::iter::from_fn(|| answers.next().now_or_never().flatten()).collect();
    let acks = heard.iter().filter(|message| message.payload.starts_with(br#"{"stream""#));
    let (batches, singles): (Vec<_>, Vec<_>) = acks.partition(|message| message.subject.ends_with(".$FI"));
    (singles.len(), batches.len())
}

#[tokio::test]
async fn many_completions_have_one_ack() {
    let (server, bus) = place().await;
    let (client, mut heard) = answers(&server).await;
    let completed = bus.complete_all(&completions(Outcome::Succeeded)).await;
    assert!(completed.iter().all(|completed| matches!(completed, Ok(Completed::Won))));
    assert_eq!(told(&client, &mut heard).await, (0, 1));
    each_once(&bus).await;
}

#[tokio::test]
async fn those_that_had_completed_are_lost_and_take_no_other_with_them() {
    let (_server, bus) = place().await;
    let earlier = [0, 20, 21, COUNT - 1];
    for place in earlier {
        bus.complete(&completions(Outcome::Cancelled)[place]).await.expect("stored");
    }
    let completed = bus.complete_all(&completions(Outcome::Succeeded)).await;
    for (place, completed) in completed.into_iter().enumerate() {
        match completed.expect("known") {
            Completed::Lost(other) => assert!(earlier.contains(&place) && other.outcome == Outcome::Cancelled),
            Completed::Won => assert!(!earlier.contains(&place)),
            Completed::Full => panic!("there is room"),
        }
    }
    each_once(&bus).await;
}

#[tokio::test]
async fn a_stream_that_takes_no_batches_acks_each_by_itself() {
    let (server, bus) = place().await;
    // As an earlier version made it.
    edit_done(&bus, |config| config.allow_batch_publish = false).await;
    let (client, mut heard) = answers(&server).await;
    let mut all = completions(Outcome::Succeeded);
    let later = all.split_off(COUNT / 2);
    for some in [all, later] {
        let completed = bus.complete_all(&some).await;
        assert!(completed.iter().all(|completed| matches!(completed, Ok(Completed::Won))));
    }
    assert_eq!(told(&client, &mut heard).await.0, COUNT);
    each_once(&bus).await;
}

#[tokio::test]
async fn a_stream_that_would_take_a_second_completion_is_told_to_expect_none() {
    let (_server, bus) = place().await;
    edit_done(&bus, |config| config.discard_new_per_subject = false).await;
    let drifts = bus.drift(&Settings::default()).await.expect("read");
    assert_eq!(drifts.iter().map(|drift| drift.setting).collect::<Vec<_>>(), ["discard_new_per_subject"]);
    let earlier = bus.complete_all(&completions(Outcome::Cancelled)).await;
    assert!(earlier.iter().all(|completed| matches!(completed, Ok(Completed::Won))));
    let alone = completions(Outcome::Failed).swap_remove(0);
    assert!(matches!(bus.complete_alone(&alone).await, Ok(Completed::Lost(_))));
    for completed in bus.complete_all(&completions(Outcome::Succeeded)).await {
        assert!(matches!(completed, Ok(Completed::Lost(other)) if other.outcome == Outcome::Cancelled));
    }
    each_once(&bus).await;
}

#[tokio::test]
async fn completions_of_a_server_that_dies_meanwhile_are_stored_once() {
    let (mut server, bus) = place().await;
    let dies = async {
        server.kill().await;
        server.restart().await.expect("it starts again");
    };
    let all = completions(Outcome::Succeeded);
    let (completed, ()) = tokio::join!(bus.complete_all(&all), dies);
    assert!(completed.iter().all(|completed| matches!(completed, Ok(Completed::Won))), "{completed:?}");
    each_once(&bus).await;
}

#[tokio::test]
async fn each_completion_that_goes_with_others_keeps_its_body_whatever_their_lengths() {
    let (_server, bus) = place().await;
    let mut completions = completions(Outcome::Succeeded);
    let lengths = [0, 1, SMALL_MAX, SMALL_MAX + 1, 7, 3 * SMALL_MAX, 0, 2];
    for (place, completion) in completions.iter_mut().enumerate() {
        completion.body = vec![place as u8; lengths[place % lengths.len()]];
    }
    assert!(bus.complete_all(&completions).await.iter().all(|completed| matches!(completed, Ok(Completed::Won))));
    for completion in &completions {
        let stored = bus.read_done(&completion.task_type, &completion.id).await.expect("read").expect("there");
        assert_eq!((&stored.body, &stored.token), (&completion.body, &completion.token), "{}", completion.id);
    }
}
