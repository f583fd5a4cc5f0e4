//! Publishes against real servers: what an election answers is waited out, what no stream takes is final.

use super::*;
use crate::connection::Connect;
use crate::local::stage::place;
use crate::local::{self, Cluster, Options};
use crate::topology::Settings;
use jetlane_schemas::subject::{self, DONE_ALL, STREAM_DONE, STREAM_TASKS};
use jetlane_schemas::{Completion, Outcome, QueueName, RunToken, TaskEvent, TaskId, TaskType};

fn outgoing(subject: String, id: &str) -> Outgoing {
    Outgoing {
        subject,
        headers: Headers::new(),
        body: Bytes::from_static(b"{}"),
        message_id: Some(id.into()),
        expect: Expect::Anything,
    }
}

fn completion(number: usize) -> Completion {
    let (id, task_type) = (TaskId::new(format!("t{number}")).expect("valid"), TaskType::new("a.b").expect("valid"));
    let task = TaskEvent::new(id, task_type, QueueName::default_queue(), crate::clock::now(), b"{}".to_vec());
    Completion { token: Some(RunToken::draw()), ..Completion::of(&task, Outcome::Succeeded, crate::clock::now()) }
}

#[tokio::test]
async fn publishes_and_completions_wait_out_every_election() {
    let binary = local::find(|line| eprintln!("{line}")).await.expect("a server");
    let cluster = Cluster::start(&binary, 3, &Options::default()).await.expect("a cluster");
    let bus = Bus::connect(&Connect::to(cluster.url(), "test")).await.expect("connected");
    bus.ensure(&Settings { replicas: 3, ..Settings::default() }).await.expect("made");
    let submit = subject::submit(&TaskType::new("a.b").expect("valid"));
    const ROUNDS: usize = 8;
    const EACH: usize = 50;
    for round in 0..ROUNDS {
        for stream in [STREAM_DONE, STREAM_TASKS] {
            let step_down = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
            // Refused while there is no leader to step down: then the election is on already.
            let _answer = bus.client.request(step_down, Bytes::new()).await.expect("answered");
        }
        let numbers = round * EACH..(round + 1) * EACH;
        let submissions = numbers.clone().map(|number| outgoing(submit.clone(), &format!("m{number}"))).collect();
        let completions: Vec<Completion> = numbers.map(completion).collect();
        let (published, completed) = tokio::join!(bus.publish_all(submissions), bus.complete_all(&completions));
        for published in published {
            assert!(published.expect("an answer").is_stored());
        }
        for completed in completed {
            assert!(matches!(completed.expect("an answer"), crate::done::Completed::Won));
        }
    }
    let stored = bus.subject_counts(STREAM_DONE, DONE_ALL).await.expect("read");
    assert_eq!(stored.values().sum::<u64>(), (ROUNDS * EACH) as u64);
}

#[tokio::test]
async fn publish_to_a_subject_that_no_stream_takes_is_final_within_seconds() {
    let (_server, bus) = place().await;
    let begun = Instant::now();
    let published = bus.publish(outgoing("nobody.takes.this".into(), "m")).await.expect("an answer");
    assert_eq!(published, Published::NoStream);
    assert!(begun.elapsed() < ABSENT_WITHIN * 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn publish_made_while_the_server_is_away_is_stored_once_it_is_back() {
    let (mut server, bus) = place().await;
    server.kill().await;
    bus.connected().wait_for(|connected| !connected).await.expect("the client lives");
    let submit = subject::submit(&TaskType::new("a.b").expect("valid"));
    let publishing = {
        let bus = bus.clone();
        tokio::spawn(async move { bus.publish(outgoing(submit, "m")).await })
    };
    server.restart().await.expect("it starts again");
    assert_eq!(publishing.await.expect("no panic").expect("an answer"), Published::Stored(1));
}

#[test]
fn pauses_grow_to_their_longest_and_never_vanish() {
    for sends in 1..100 {
        let pause = pause_after(sends);
        assert!(pause >= SEND_AGAIN_PAUSE / 2 && pause <= SEND_AGAIN_PAUSE_MAX, "{sends}: {pause:?}");
    }
    assert!(pause_after(30) >= SEND_AGAIN_PAUSE_MAX / 2);
}
