//! Submits to the public intake with a NATS client and nothing else: an id, a message id, a JSON body.

use super::Producer;
use super::tasks::{Behaviour, HOOK, Work};
use crate::chance::Chance;
use crate::journal::{Event, Expect, Journal};
use async_nats::HeaderMap;
use async_nats::jetstream::{self, Context};
use jetlane::Task;
use jetlane_schemas::{TaskId, header, subject};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often tasks are submitted.
const TURN: Duration = Duration::from_millis(250);
/// The pause before a submission whose outcome is unknown is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How long submissions under way may take once it is told to end.
const LAST_TIME_MAX: Duration = Duration::from_secs(10);
/// One of so many tasks asks for a webhook.
const HOOK_PERCENT: u64 = 5;

/// Submits until it is told to end.
pub(super) async fn run(producer: &Producer, journal: &Arc<Journal>, drain: CancellationToken) -> anyhow::Result<()> {
    let context = jetstream::new(producer.place.plain().await?);
    let pid = std::process::id();
    let mut chance = Chance::new(producer.seed ^ (u64::from(pid) << 20));
    let mut under_way = JoinSet::new();
    let mut turns = interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0_u64;
    let a_turn = (producer.rate * u64::try_from(TURN.as_millis()).unwrap_or(1) / 1_000).max(1);
    loop {
        tokio::select! {
            _ = turns.tick() => {}
            () = drain.cancelled() => break,
        }
        for _ in 0..a_turn {
            number += 1;
            let marker = format!("{}-{pid}-{number}", producer.place.name);
            let work = Work { marker, ms: chance.between(0, 60), behaviour: Behaviour::Succeed };
            let hook = chance.percent(HOOK_PERCENT).then_some(HOOK);
            let (context, journal) = (context.clone(), Arc::clone(journal));
            under_way.spawn(async move { submit(&context, &journal, &work, hook).await });
        }
        while under_way.try_join_next().is_some() {}
    }
    let last = async { while under_way.join_next().await.is_some() {} };
    let _given_up = tokio::time::timeout(LAST_TIME_MAX, last).await;
    Ok(())
}

/// Submits one task under one id until it is accepted.
async fn submit(context: &Context, journal: &Journal, work: &Work, hook: Option<&str>) {
    let (id, marker) = (TaskId::generate().to_string(), work.marker.clone());
    journal.write(Event::Submit {
        marker: marker.clone(),
        id: Some(id.clone()),
        task_type: Work::TYPE.into(),
        expect: Expect::Success,
        retries: 3,
        webhook: hook.is_some(),
        delay_us: 0,
    });
    let mut headers = HeaderMap::new();
    headers.insert(header::CE_ID, id.as_str());
    headers.insert("Nats-Msg-Id", id.as_str());
    if let Some(hook) = hook {
        let callbacks = format!("[{{\"kind\":\"webhook\",\"endpoint\":\"{hook}\"}}]");
        headers.insert(header::CALLBACKS, callbacks.as_str());
    }
    let body = serde_json::to_vec(work).expect("a task is JSON");
    let subject = subject::submit(&Work::TYPE.parse().expect("a valid name"));
    loop {
        let sent = async {
            let sent = context.publish_with_headers(subject.clone(), headers.clone(), body.clone().into()).await?;
            sent.await
        };
        match sent.await {
            Ok(ack) => {
                journal.write(Event::Accept { marker, id, duplicate: ack.duplicate });
                return;
            }
            Err(error) => {
                journal.write(Event::Unknown { marker: marker.clone(), error: error.to_string() });
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}
