//! Streams, buckets and consumers that are deleted under a running dispatcher: made anew, and work goes on.

use crate::stage::{PATIENCE, Stage, soon, task};
use jetlane_schemas::subject::{STREAM_ADVISORIES, STREAM_DEAD, STREAM_DONE, STREAM_LANES, STREAM_TASKS, STREAM_TIME};
use jetlane_schemas::{Priority, TaskId};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const REGISTRY: &str = "KV_jetlane_registry";
const BUCKETS: [&str; 4] = [REGISTRY, "KV_jetlane_leases", "KV_jetlane_notes", "KV_jetlane_claims"];
const STREAMS: [&str; 6] = [STREAM_TASKS, STREAM_TIME, STREAM_LANES, STREAM_DONE, STREAM_DEAD, STREAM_ADVISORIES];

/// What JetStream answers; nothing while it is away.
async fn api(stage: &Stage, subject: &str) -> Value {
    let answer = stage.bus.ask(subject, "".into(), Duration::from_secs(1)).await.ok().flatten();
    answer.map_or(Value::Null, |answer| serde_json::from_slice(&answer).expect("JSON"))
}

async fn delete(stage: &Stage, stream: &str) {
    let answer = api(stage, &format!("$JS.API.STREAM.DELETE.{stream}")).await;
    assert_eq!(answer["success"], Value::Bool(true), "{stream}: {answer}");
}

async fn until_made_anew(stage: &Stage, streams: &[&str]) {
    soon(async {
        for stream in streams {
            while api(stage, &format!("$JS.API.STREAM.INFO.{stream}")).await["config"].is_null() {
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

/// A task through each door is dispatched. Executors announce their types again, and make their lanes.
async fn work_goes_on(stage: &Stage) {
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    let submitted = task("pictures", "a.b", Priority::default());
    stage.submit(&submitted).await;
    stage.publish("a.b", &[("ce-id", TaskId::generate().as_str())], "{}").await;
    let mut taker = stage.taker("pictures").await;
    let mut ids = BTreeSet::new();
    while ids.len() < 2 {
        let (task, delivery) = taker.next(4, PATIENCE).await.expect("a task comes");
        taker.settle(delivery).await;
        ids.insert(task.id);
    }
    assert!(ids.contains(&submitted.id), "{ids:?}");
    stage.until_holds(STREAM_TASKS, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_streams_and_buckets_are_made_anew_and_work_goes_on() {
    let stage = Stage::set().await;
    work_goes_on(&stage).await;
    let others =
        [STREAM_TASKS, STREAM_TIME, STREAM_LANES, STREAM_DEAD, STREAM_ADVISORIES, BUCKETS[1], BUCKETS[2], BUCKETS[3]];
    for lost in [&[STREAM_DONE][..], &[REGISTRY], &others] {
        for stream in lost {
            delete(&stage, stream).await;
        }
        until_made_anew(&stage, lost).await;
        work_goes_on(&stage).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_comes_back_without_its_data_is_worked_with_at_once() {
    let mut stage = Stage::set().await;
    work_goes_on(&stage).await;
    stage.server.kill().await;
    std::fs::remove_dir_all(stage.server.data_dir().join("jetstream")).expect("wiped");
    stage.server.restart().await.expect("it starts");
    until_made_anew(&stage, &STREAMS).await;
    until_made_anew(&stage, &BUCKETS).await;
    work_goes_on(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_consumers_are_made_anew_and_work_goes_on() {
    let stage = Stage::set().await;
    work_goes_on(&stage).await;
    for stream in STREAMS {
        let names = api(&stage, &format!("$JS.API.CONSUMER.NAMES.{stream}")).await;
        for consumer in names["consumers"].as_array().expect("names") {
            let consumer = consumer.as_str().expect("a name");
            let answer = api(&stage, &format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}")).await;
            assert_eq!(answer["success"], Value::Bool(true), "{consumer}: {answer}");
        }
    }
    work_goes_on(&stage).await;
}
